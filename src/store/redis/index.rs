//! The index: which sessions a user has. What its entries and scores mean is said in the module above.

use redis::Pipeline;
use tokio::time::Instant;

use super::{Redis, scripts, ttl};
use crate::clock::Ms;
use crate::store::{Listed, Result};

/// How long an insert may be under way before others may forget it, in ms; far more than the deadline of a call.
const UNDER_WAY: Ms = 60_000;

/// How long an Express may extend a session before the service meets it again and still finds it listed, in ms.
const UNTOLD: Ms = 30 * 24 * 60 * 60 * 1000;

impl Redis {
    /// The score up to which a session is over for certain.
    pub(super) fn stale(&self, now: Ms) -> Ms {
        if self.tombstone.is_some() { 0 } else { now }
    }

    /// How long the index of a member that expires at `expires_at` has to live, in ms.
    pub(super) fn kept(&self, expires_at: Ms, now: Ms) -> Ms {
        ttl(expires_at, now) + self.tombstone.map_or(0, |_| UNTOLD)
    }

    /// Has the index say that a session expires at `expires_at`, or later.
    pub(super) async fn refresh(
        &self,
        id: &str,
        user_id: &str,
        expires_at: Ms,
        now: Ms,
        deadline: Instant,
    ) -> Result<()> {
        let numbers = [expires_at, -now, self.stale(now), self.kept(expires_at, now)].map(|number| number.to_string());
        let [score, from, to, kept] = numbers.each_ref().map(String::as_bytes);
        self.invoke(&scripts::LIST, &[self.index(user_id)], &[id.as_bytes(), score, from, to, kept], deadline)
            .await
            .map(|_| ())
    }

    /// Puts an entry into the index whose insert is under way; answers whether it is new. Forgets sessions that have
    /// expired, and inserts that never came to an end, and makes the index live as long as this entry.
    pub(super) fn announce(&self, pipeline: &mut Pipeline, index: &str, id: &str, expires_at: Ms, now: Ms) {
        pipeline.cmd("ZADD").arg(index).arg("NX").arg(-(now + UNDER_WAY)).arg(id);
        pipeline.cmd("ZREMRANGEBYSCORE").arg(index).arg(-now).arg(self.stale(now)).ignore();
        for condition in ["NX", "GT"] {
            pipeline.cmd("PEXPIRE").arg(index).arg(self.kept(expires_at, now)).arg(condition).ignore();
        }
    }

    /// Takes sessions that are gone out of their user's index. After their keys: an entry without a session heals, a
    /// session without an entry could not be revoked by user.
    pub(super) async fn forget(&self, ids: &[&str], user_id: Option<&str>, deadline: Instant) {
        let Some(user_id) = user_id.filter(|_| !ids.is_empty()) else { return };
        let mut pipeline = redis::pipe();
        pipeline.cmd("ZREM").arg(self.index(user_id)).arg(ids).ignore();
        if let Err(error) = self.run::<()>(&pipeline, deadline).await {
            tracing::debug!(%error, "index entries were not removed");
        }
    }

    /// One reading of the index: the rows whose session is there, and the ids of those whose session is not.
    pub(super) async fn page(
        &self,
        index: &str,
        after: Option<(Ms, &str)>,
        limit: usize,
        pending: bool,
        now: Ms,
        deadline: Instant,
    ) -> Result<(Vec<Listed>, Vec<String>)> {
        let highest = after.map_or("+inf".to_owned(), |(rank, _)| rank.to_string());
        let (mut rows, mut dead, mut offset) = (Vec::new(), Vec::new(), 0);
        while rows.len() < limit {
            let mut pipeline = redis::pipe();
            let lowest = if pending { "-inf".to_owned() } else { format!("({}", self.stale(now)) };
            pipeline.cmd("ZRANGE").arg(index).arg(&highest).arg(lowest).arg("BYSCORE").arg("REV");
            pipeline.arg("LIMIT").arg(offset).arg(limit).arg("WITHSCORES");
            let (entries,): (Vec<(String, f64)>,) = self.run(&pipeline, deadline).await?;
            offset += entries.len();
            let last = entries.len() < limit;
            let wanted: Vec<(String, Ms)> = entries
                .into_iter()
                .map(|(id, score)| (id, ms(score)))
                .filter(|(_, rank)| *rank > self.stale(now) || *rank < -now)
                .filter(|(id, rank)| after.is_none_or(|after| (*rank, id.as_str()) < after))
                .collect();
            let entries = self.read_all(wanted.iter().map(|(id, _)| id.as_str()), now, deadline).await?;
            for ((id, rank), entry) in wanted.into_iter().zip(entries) {
                match entry {
                    Some(found) => rows.push(Listed { id, rank, found }),
                    None => dead.push(id),
                }
            }
            if last {
                break;
            }
        }
        rows.truncate(limit);
        Ok((rows, dead))
    }
}

/// A score of the index: whole milliseconds.
#[expect(clippy::cast_possible_truncation, reason = "the cast saturates")]
pub(super) fn ms(score: f64) -> Ms {
    score as Ms
}

/// Says that an insert has come to its end; answers whether its entry still was in the index.
pub(super) fn confirm(pipeline: &mut Pipeline, index: &str, id: &str, expires_at: Ms) {
    pipeline.cmd("ZADD").arg(index).arg("XX").arg("CH").arg(expires_at).arg(id);
}
