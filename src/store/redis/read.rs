//! Entries as Redis gives them.

use redis::{Cmd, FromRedisValue, Pipeline};
use tokio::time::Instant;

use super::{Redis, tombstone};
use crate::clock::Ms;
use crate::store::{Error, Found, Result};

impl Redis {
    /// Asks for a session's record and its remaining time, and for its tombstone where there may be one.
    fn read(&self, pipeline: &mut Pipeline, id: &str) {
        let key = self.key(id);
        for name in ["GET", "PTTL"] {
            // Sized at once: this is most of what a resolve asks of Redis.
            let mut command = Cmd::with_capacity(2, name.len() + key.len());
            command.arg(name).arg(&key);
            pipeline.add_command(command);
        }
        if self.tombstone.is_some() {
            pipeline.cmd("EXISTS").arg(tombstone(&key));
        }
    }

    fn typed<T: FromRedisValue>(&self, reply: redis::Value) -> Result<T> {
        match reply {
            redis::Value::ServerError(error) => Err(self.link.failed(&error.into())),
            reply => T::from_redis_value(reply).map_err(|_| Error::Unexpected("a reply has another type".into())),
        }
    }

    /// What is stored under a key. What another program put there, and is no string, is no record either.
    fn record(&self, reply: redis::Value) -> Result<Option<Vec<u8>>> {
        match reply {
            redis::Value::ServerError(error) if error.code() == "WRONGTYPE" => Ok(Some(b"(no string)".to_vec())),
            reply => self.typed(reply),
        }
    }

    /// The entries of `ids`, in their order.
    pub(super) async fn read_all<'a>(
        &self,
        ids: impl ExactSizeIterator<Item = &'a str> + Clone + Send,
        now: Ms,
        deadline: Instant,
    ) -> Result<Vec<Option<Found>>> {
        let mut pipeline = Pipeline::with_capacity(3 * ids.len());
        for id in ids.clone() {
            self.read(&mut pipeline, id);
        }
        if pipeline.is_empty() {
            return Ok(Vec::new());
        }
        pipeline.ignore_errors();
        let values: Vec<redis::Value> = self.run(&pipeline, deadline).await?;
        let mut values = values.into_iter();
        let mut next = || values.next().unwrap_or(redis::Value::Nil);
        let (mut entries, mut revived) = (Vec::with_capacity(ids.len()), redis::pipe());
        for id in ids {
            let entry = found(self.record(next())?, self.typed(next())?, now);
            let buried = self.tombstone.is_some() && self.typed(next())?;
            if buried && entry.is_some() {
                revived.cmd("DEL").arg(self.key(id)).ignore();
            }
            entries.push(entry.filter(|_| !buried));
        }
        // So that the Express that saved it does not go on with it.
        if !revived.is_empty()
            && let Err(error) = self.run::<()>(&revived, deadline).await
        {
            tracing::debug!(%error, "revived sessions were not removed");
        }
        Ok(entries)
    }
}

/// -1 says that the key never expires, -2 that it has, since its value was read.
fn found(record: Option<Vec<u8>>, pttl: Ms, now: Ms) -> Option<Found> {
    let record = record?;
    match pttl {
        -1 => Some(Found { record, expires_at: None }),
        0.. => Some(Found { record, expires_at: Some(now + pttl.max(1)) }),
        _ => None,
    }
}
