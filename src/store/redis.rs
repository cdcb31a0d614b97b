//! The Redis store: one key a session, in the form that connect-redis reads and writes, and one index a user.
//!
//! - `sess:<id>`: the record, a string with `PX` expiry. The key decides whether the session exists.
//! - `sess-user:<user_id>`: a sorted set of ids, which lives as long as its longest member. [`index`] states its protocol.
//!
//! No command needs a session's key and an index, so nothing here depends on both living on the same node.
//!
//! # Beside an Express that writes
//! An Express saves at the end of a request, blindly, what it read at the beginning: `SET` brings a removed key back. So
//! where the [`Keyspace`] says that one writes here, two things change:
//! - Whatever removes a session leaves `{sess:<id>}:revoked` behind, for as long as such a request may take. An entry
//!   beside one is as missing, and is removed when it is next seen. The braces put both keys on one node.
//! - An Express also extends sessions without telling the index. So there the index outlives its members by 30 days.

mod gather;
mod index;
mod link;
mod read;
mod scripts;
mod survey;
mod tracker;

use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use futures_util::future::{join, try_join_all};
use redis::{FromRedisValue, Pipeline, Script, ToRedisArgs};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use self::gather::Gather;
use self::index::{Announced, UNCONFIRMED, confirm};
use self::link::Link;
use super::url::RedisTarget;
use super::{
    Enlisted, Entry, Error, Found, Insertion, Keyspace, Outcome, Page, Position, Result, Store, Watcher, deadline,
    within,
};
use crate::clock::Ms;
use crate::telemetry::Metrics;

/// How many index entries are repaired at the same time, at most.
const REPAIRS: usize = 1000;

/// The Redis store. Cheap to clone.
#[derive(Clone)]
pub struct Redis(Arc<Shared>);

/// The inside of [`Redis`].
pub struct Shared {
    link: Link,
    key_prefix: String,
    index_prefix: String,
    /// What version 0.1 put before a user's id, where that was something else.
    legacy_index_prefix: Option<String>,
    /// How long the mark of a removed entry stays, in ms. None: nobody else writes here.
    tombstone: Option<Ms>,
    watched: OnceLock<Watched>,
    finds: Gather<String, Result<Option<Found>>>,
    /// How many more index entries may be repaired at the same time.
    repairs: Arc<Semaphore>,
}

impl Deref for Redis {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

struct Watched {
    watcher: Arc<dyn Watcher>,
    _tracker: AbortOnDropHandle<()>,
}

impl Redis {
    /// Starts to connect to `target`, and goes on trying until dropped. Waits for the first try. Restarts of background
    /// tasks are counted in `metrics`.
    ///
    /// # Errors
    /// [`Error::Unexpected`] when the target can never be a connection.
    pub async fn open(target: &RedisTarget, keyspace: &Keyspace, metrics: &Arc<Metrics>) -> Result<Self> {
        let link = Link::open(target, metrics).await?;
        let Keyspace { prefix, tombstone } = keyspace.clone();
        let index_prefix = index_prefix(&prefix);
        let legacy_index_prefix =
            Some(format!("{}-user:", prefix.trim_end_matches(':'))).filter(|legacy| *legacy != index_prefix);
        Ok(Self(Arc::new(Shared {
            link,
            key_prefix: prefix,
            index_prefix,
            legacy_index_prefix,
            tombstone,
            watched: OnceLock::new(),
            finds: Gather::default(),
            repairs: Arc::new(Semaphore::new(REPAIRS)),
        })))
    }

    fn key(&self, id: &str) -> String {
        [&self.key_prefix, id].concat()
    }

    fn index(&self, user_id: &str) -> String {
        [&self.index_prefix, user_id].concat()
    }

    /// A session's key, and that of its tombstone where there may be one.
    fn keys(&self, id: &str) -> Vec<String> {
        let key = self.key(id);
        let tombstone = self.tombstone.map(|_| tombstone(&key));
        [key].into_iter().chain(tombstone).collect()
    }

    async fn run<T: FromRedisValue>(&self, pipeline: &Pipeline, deadline: Instant) -> Result<T> {
        within(deadline, async {
            let mut connection = self.link.connection()?;
            pipeline.query_async(&mut connection).await.map_err(|error| self.link.failed(&error))
        })
        .await
        .inspect_err(|_| self.link.suspect())
    }

    async fn invoke(
        &self,
        script: &Script,
        keys: &[impl ToRedisArgs + Sync],
        args: &[&[u8]],
        deadline: Instant,
    ) -> Result<Outcome> {
        match self.eval(script, keys, args, deadline).await? {
            0 => Ok(Outcome::Missing),
            1 => Ok(Outcome::Changed),
            2 => Ok(Outcome::Applied),
            other => Err(Error::Unexpected(format!("a script answered {other}"))),
        }
    }

    async fn eval<T: FromRedisValue + Send>(
        &self,
        script: &Script,
        keys: &[impl ToRedisArgs + Sync],
        args: &[&[u8]],
        deadline: Instant,
    ) -> Result<T> {
        within(deadline, async {
            let mut connection = self.link.connection()?;
            let mut invocation = script.prepare_invoke();
            for key in keys {
                invocation.key(key);
            }
            for arg in args {
                invocation.arg(*arg);
            }
            invocation.invoke_async(&mut connection).await.map_err(|error| self.link.failed(&error))
        })
        .await
        .inspect_err(|_| self.link.suspect())
    }

    /// Tells the watcher of a write when it is dropped, after the write was made or may have been made. Redis tells it too,
    /// later.
    fn changing<'a>(&'a self, ids: &'a [&str]) -> impl Drop + 'a {
        let watcher = self.watched.get().map(|watched| watched.watcher.as_ref());
        Changing { watcher, ids }
    }

    async fn put(&self, script: &Script, id: &str, expected: &[u8], entry: Entry<'_>, now: Ms) -> Result<Outcome> {
        let ids = [id];
        let _changing = self.changing(&ids);
        let deadline = deadline();
        let (keys, ttl) = (self.keys(id), ttl(entry.expires_at, now).to_string());
        let args = [expected, entry.record, ttl.as_bytes()];
        let write = self.invoke(script, &keys, &args, deadline);
        let Some(user_id) = entry.user_id else { return write.await };
        // The index first: it must not expire before the session.
        let (listed, outcome) = join(self.refresh(id, user_id, entry.expires_at, now, deadline), write).await;
        if matches!(outcome, Ok(Outcome::Missing)) {
            self.forget(&[id], Some(user_id), deadline).await;
        } else if listed.is_err() && !matches!(outcome, Ok(Outcome::Changed)) {
            self.refresh_later(id, user_id, entry.expires_at, now);
        }
        outcome
    }
}

#[async_trait]
impl Store for Redis {
    async fn insert(&self, id: &str, entry: Entry<'_>, now: Ms) -> Result<Insertion> {
        let deadline = deadline();
        let (key, ttl) = (self.key(id), ttl(entry.expires_at, now));
        let mut pipeline = redis::pipe();
        if self.tombstone.is_some() {
            pipeline.cmd("DEL").arg(tombstone(&key)).ignore();
        }
        let Some(user_id) = entry.user_id else {
            pipeline.cmd("SET").arg(&key).arg(entry.record).arg("NX").arg("PX").arg(ttl);
            let (set,): (Option<String>,) = self.run(&pipeline, deadline).await?;
            return Ok(if set.is_some() { Insertion::Done } else { Insertion::Refused });
        };
        let index = self.index(user_id);
        self.announce(&mut pipeline, &index, id, entry.expires_at, now);
        pipeline.cmd("SET").arg(&key).arg(entry.record).arg("NX").arg("PX").arg(ttl);
        confirm(&mut pipeline, &index, id, entry.expires_at);
        let (added, overdue, set, confirmed): (bool, Vec<(String, f64)>, Option<String>, bool) =
            self.run(&pipeline, deadline).await?;
        if set.is_some() && confirmed {
            self.tidy_later(index, overdue, now);
            return Ok(Insertion::Done);
        }
        let mut undo = redis::pipe();
        if set.is_some() {
            undo.cmd("DEL").arg(&key).ignore();
        }
        if added {
            undo.cmd("ZREM").arg(&index).arg(id).ignore();
        }
        // Nothing to undo when another entry was there already.
        if !undo.is_empty() {
            self.run::<()>(&undo, deadline).await?;
        }
        Ok(Insertion::Refused)
    }

    async fn find(&self, id: &str, now: Ms) -> Result<Option<Found>> {
        let deadline = deadline();
        let ask = async |ids: Vec<String>| {
            // Boxed, so that those who do not ask are not as large.
            let found = Box::pin(self.read_all(ids.iter().map(String::as_str), now, deadline));
            match found.await {
                Ok(found) => found.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error); ids.len()],
            }
        };
        match self.finds.ask(id.to_owned(), ask).await {
            Some(found) => found,
            // Who asked for this one too has hung up.
            None => {
                let found = Box::pin(self.read_all(std::iter::once(id), now, deadline));
                Ok(found.await?.pop().flatten())
            }
        }
    }

    async fn find_many(&self, ids: &[&str], now: Ms) -> Result<Vec<Option<Found>>> {
        self.read_all(ids.iter().copied(), now, deadline()).await
    }

    async fn replace(&self, id: &str, expected: &[u8], entry: Entry<'_>, now: Ms) -> Result<Outcome> {
        self.put(&scripts::REPLACE, id, expected, entry, now).await
    }

    async fn touch(&self, id: &str, expected: &[u8], entry: Entry<'_>, now: Ms) -> Result<Outcome> {
        self.put(&scripts::TOUCH, id, expected, entry, now).await
    }

    async fn remove(&self, ids: &[&str], user_id: Option<&str>, _now: Ms) -> Result<usize> {
        if ids.is_empty() {
            return Ok(0);
        }
        let _changing = self.changing(ids);
        let deadline = deadline();
        let removed = match self.tombstone {
            None => {
                let mut pipeline = redis::pipe();
                for id in ids {
                    // Each by itself: in a cluster they are on different nodes.
                    pipeline.cmd("DEL").arg(self.key(id));
                }
                self.run::<Vec<usize>>(&pipeline, deadline).await?.iter().sum()
            }
            Some(tombstone) => {
                let stays = &tombstone.to_string();
                let bury =
                    async |id: &str| self.invoke(&scripts::BURY, &self.keys(id), &[stays.as_bytes()], deadline).await;
                let outcomes = try_join_all(ids.iter().map(|id| bury(id))).await?;
                outcomes.iter().filter(|outcome| **outcome == Outcome::Applied).count()
            }
        };
        self.forget(ids, user_id, deadline).await;
        Ok(removed)
    }

    async fn remove_if(&self, id: &str, expected: &[u8], user_id: Option<&str>, _now: Ms) -> Result<Outcome> {
        let ids = [id];
        let _changing = self.changing(&ids);
        let deadline = deadline();
        let stays = self.tombstone.unwrap_or_default().to_string();
        let outcome = self.invoke(&scripts::REMOVE, &self.keys(id), &[expected, stays.as_bytes()], deadline).await?;
        if outcome != Outcome::Changed {
            self.forget(&[id], user_id, deadline).await;
        }
        Ok(outcome)
    }

    async fn supersede(
        &self,
        id: &str,
        expected: &[u8],
        user_id: Option<&str>,
        new_id: &str,
        entry: Entry<'_>,
        now: Ms,
    ) -> Result<Outcome> {
        let ids = [id];
        let _changing = self.changing(&ids);
        let deadline = deadline();
        let (key, index) = (self.key(new_id), entry.user_id.map(|user_id| self.index(user_id)));
        let ttl = ttl(entry.expires_at, now);
        let mut pipeline = redis::pipe();
        if let Some(index) = &index {
            self.announce(&mut pipeline, index, new_id, entry.expires_at, now);
        }
        pipeline.cmd("SET").arg(&key).arg(entry.record).arg("NX").arg("PX").arg(ttl.min(UNCONFIRMED)).ignore();
        let overdue = match &index {
            Some(_) => self.run::<Announced>(&pipeline, deadline).await?.1,
            None => self.run::<()>(&pipeline, deadline).await.map(|()| Vec::new())?,
        };
        let stays = self.tombstone.unwrap_or_default().to_string();
        let outcome = self.invoke(&scripts::REMOVE, &self.keys(id), &[expected, stays.as_bytes()], deadline).await?;
        pipeline.clear();
        if outcome == Outcome::Applied {
            pipeline.cmd("PEXPIRE").arg(&key).arg(ttl);
            if let Some(index) = &index {
                confirm(&mut pipeline, index, new_id, entry.expires_at);
            }
            if let Some(user_id) = user_id {
                pipeline.cmd("ZREM").arg(self.index(user_id)).arg(id).ignore();
            }
            let stands: Vec<bool> = self.run(&pipeline, deadline).await?;
            if !stands.contains(&false) {
                // Nothing that may fail comes after this: the successor is stored.
                if let Some(index) = index {
                    self.tidy_later(index, overdue, now);
                }
                return Ok(Outcome::Applied);
            }
            // All of the user's were removed meanwhile, this one with them.
            pipeline.clear();
        }
        pipeline.cmd("DEL").arg(&key).ignore();
        if let Some(index) = &index {
            pipeline.cmd("ZREM").arg(index).arg(new_id).ignore();
        }
        self.run::<()>(&pipeline, deadline).await?;
        Ok(if outcome == Outcome::Applied { Outcome::Missing } else { outcome })
    }

    async fn enlist(&self, entries: &[Enlisted<'_>], now: Ms) -> Result<()> {
        let deadline = deadline();
        let listed = entries.iter().map(|one| self.refresh(one.id, one.user_id, one.expires_at, now, deadline));
        try_join_all(listed).await.map(|_| ())
    }

    async fn list_by_user(&self, user_id: &str, after: Option<&Position>, limit: usize, now: Ms) -> Result<Page> {
        self.latest(user_id, after, limit, now).await
    }

    async fn sweep_user(&self, user_id: &str, limit: usize, now: Ms) -> Result<Page> {
        self.sweep(user_id, limit, now).await
    }

    async fn purge_expired(&self, _now: Ms, _limit: usize) -> Result<usize> {
        // Redis does it.
        Ok(0)
    }

    async fn ping(&self) -> Result<()> {
        self.run(redis::pipe().cmd("PING").ignore(), deadline()).await
    }

    fn watch(&self, watcher: Arc<dyn Watcher>) {
        self.watched.get_or_init(|| Watched {
            _tracker: AbortOnDropHandle::new(tracker::track(
                self.link.clone(),
                self.key_prefix.clone(),
                Arc::clone(&watcher),
            )),
            watcher,
        });
    }
}

struct Changing<'a> {
    watcher: Option<&'a dyn Watcher>,
    ids: &'a [&'a str],
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        if let Some(watcher) = self.watcher {
            self.ids.iter().for_each(|id| watcher.changed(id));
        }
    }
}

/// Never zero, which would mean none to some commands and an error to others.
fn ttl(expires_at: Ms, now: Ms) -> Ms {
    (expires_at - now).max(1)
}

/// What stands before a user's id in the key of their index. Each key prefix has one of its own, which no session's key
/// starts with: so no id can name an index.
fn index_prefix(key_prefix: &str) -> String {
    match key_prefix.strip_suffix(':') {
        Some(stem) => format!("{stem}-user:"),
        None if format!("user:{key_prefix}").starts_with(key_prefix) => format!("by-user:{key_prefix}:"),
        None => format!("user:{key_prefix}:"),
    }
}

/// The key of the mark that a removed session leaves.
fn tombstone(key: &str) -> String {
    ["{", key, "}:revoked"].concat()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_index_has_the_name_that_its_prefix_gives_it() {
        for (prefix, index) in [
            ("sess:", "sess-user:"),
            ("sess", "user:sess:"),
            ("app:", "app-user:"),
            ("app::", "app:-user:"),
            ("us", "by-user:us:"),
            ("user:u", "by-user:user:u:"),
        ] {
            assert_eq!(index_prefix(prefix), index);
        }
    }

    proptest! {
        #[test]
        fn no_id_names_an_index(prefix in "[usebyr:a-]{1,8}", other in "[usebyr:a-]{1,8}") {
            prop_assert!(!index_prefix(&prefix).starts_with(&prefix));
            let names: HashSet<String> = [&prefix, &other].into_iter().map(|prefix| index_prefix(prefix)).collect();
            prop_assert_eq!(names.len(), if prefix == other { 1 } else { 2 });
        }
    }
}
