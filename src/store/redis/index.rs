//! The index: which sessions a user has.
//!
//! `sess-user:<user_id>` is a sorted set of ids. A session's key decides whether it exists; its index entry is a hint that
//! heals, with one exception: *a session that was acknowledged has an entry as long as it lives*, because an entry is the
//! only way to revoke it by user.
//!
//! # States of an entry
//! ```text
//!                 announce                    confirm                refresh, correct
//!   (no entry) ─────────────▶ pending(until) ─────────▶ listed(expiry) ◀──────┐
//!        ▲                        │                         │    └────────────┘
//!        │        correct, or the session's removal         │
//!        └────────────────────────┴─────────────────────────┘
//! ```
//! - *pending*: an insert is in progress. The score is minus the time until which it may be.
//! - *listed*: the session was stored. The score is about when it expires; it orders a listing and decides nothing.
//!
//! # Steps (each one is one Redis command or script; any others may come between two of them)
//! - **Insert**: announce; `SET` the key; confirm, which changes an entry that stands and never adds one. It is acknowledged
//!   only if the key was set and the entry was still there. Otherwise it deletes the key again and is refused.
//! - **Supersede** (regenerate): announce the new id; `SET` its key for [`UNCONFIRMED`]; compare-and-delete the old key;
//!   confirm, and give the key its full time; remove the old entry. Only one of many gets past the third step. If the entry
//!   or the key has gone by the fourth, the new key is deleted and there is no successor.
//! - **Revoke** removes the key, then the entry. No other session ever has this id.
//! - **Sweep** (revoke a user): reads entries in one command, then their keys, and removes each session that has a key.
//!   - A listed entry without a key is *corrected*: it is removed if its score is still the one that was read.
//!   - A pending entry without a key is read again. If it is still pending, it stays. Its insert was not acknowledged, and its
//!     regenerate has not removed the old key yet.
//!   - The sweep is repeated if an entry was corrected or had changed, or if a key had gone when it was to be removed: the
//!     session may have been superseded. It is also repeated if there are more entries than one command reads.
//! - **Correct** compares and writes in one script. A plain `ZREM` here could arrive after the confirmation of an insert
//!   whose `SET` had not arrived when the key was read: a live session that is in no list.
//!
//! `tests/protocol` explores every interleaving of these steps, including the crash of a process after each of them.
//!
//! # Clocks
//! A score is written by one machine's clock and read by another's. So no entry is dropped because of its score: an entry
//! whose score is in the past is only a reason to look at its key ([`Redis::tidy`]). The key's expiry is Redis's business.

use std::sync::Arc;
use std::time::Duration;

use redis::Pipeline;
use tokio::time::{Instant, sleep};

use super::{Redis, scripts, ttl};
use crate::clock::Ms;
use crate::store::{Listed, Page, Position, Result};

/// How long an insert may be in progress before its entry is corrected, in ms; far more than the deadline of a call.
const IN_PROGRESS: Ms = 60_000;

/// How long the key of a successor lives that is not confirmed, in ms: a process that dies halfway leaves nothing longer.
pub(super) const UNCONFIRMED: Ms = 10_000;

/// How long an Express may extend a session before the service meets it again and still finds it listed, in ms.
const INDEX_GRACE: Ms = 30 * 24 * 60 * 60 * 1000;

/// How much longer than its members an index lives, in ms: a member's key may get its time this much later.
const SLACK: Ms = 1000;

/// How many overdue entries one insert looks at: more than it adds, so that lists that nobody reads stay short.
const TIDIED: usize = 16;

/// How many entries one step reads from an index of an earlier version.
const LEGACY: usize = 1000;

/// How long an index lives at least, in ms: longer than a failed refresh is repeated.
const INDEX_MINIMUM: Ms = 600_000;

/// How long a refresh that failed is repeated.
const REFRESHING: Duration = Duration::from_secs(120);

/// How long to wait after a refresh that failed.
const PAUSE: Duration = Duration::from_millis(200);

/// An entry as it was read: its score and its id.
type Scored = Position;

/// The outcome of [`Redis::announce`]: whether the entry is new, and the overdue entries to be tidied.
pub(super) type Announced = (bool, Vec<(String, f64)>);

impl Redis {
    /// The time that an index has to live for a member that expires at `expires_at`, in ms.
    fn index_ttl(&self, expires_at: Ms, now: Ms) -> Ms {
        ttl(expires_at, now).max(INDEX_MINIMUM) + self.tombstone.map_or(SLACK, |_| INDEX_GRACE)
    }

    /// Makes the index say that a session expires at `expires_at`, or later.
    pub(super) async fn refresh(
        &self,
        id: &str,
        user_id: &str,
        expires_at: Ms,
        now: Ms,
        deadline: Instant,
    ) -> Result<()> {
        self.list(&self.index(user_id), id, expires_at, self.index_ttl(expires_at, now), deadline).await
    }

    async fn list(&self, index: &str, id: &str, score: Ms, index_ttl: Ms, deadline: Instant) -> Result<()> {
        let numbers = [score, index_ttl].map(|number| number.to_string());
        let [score, index_ttl] = numbers.each_ref().map(String::as_bytes);
        self.invoke(&scripts::LIST, &[index], &[id.as_bytes(), score, index_ttl], deadline).await.map(|_| ())
    }

    /// Refreshes an entry in the background, until it works: the session may outlive its index otherwise.
    pub(super) fn refresh_later(&self, id: &str, user_id: &str, expires_at: Ms, now: Ms) {
        let Ok(permit) = Arc::clone(&self.repairs).try_acquire_owned() else { return };
        let (redis, id, user_id, began) = (self.clone(), id.to_owned(), user_id.to_owned(), Instant::now());
        tokio::spawn(async move {
            while let Err(error) = redis.refresh(&id, &user_id, expires_at, now, super::deadline()).await {
                if began.elapsed() > REFRESHING {
                    tracing::warn!(%error, "an index entry was not refreshed: its session may be in no list until it is touched");
                    break;
                }
                sleep(PAUSE).await;
            }
            drop(permit);
        });
    }

    /// Adds a pending entry, unless the index has one for this id, reads overdue entries, and lets the index live as long
    /// as this entry will. The reply is [`Announced`].
    pub(super) fn announce(&self, pipeline: &mut Pipeline, index: &str, id: &str, expires_at: Ms, now: Ms) {
        pipeline.cmd("ZADD").arg(index).arg("NX").arg(-(now + IN_PROGRESS)).arg(id);
        // Inserts that never came to an end, and sessions that have expired by this clock.
        pipeline.cmd("ZRANGE").arg(index).arg(-now).arg(now).arg("BYSCORE");
        pipeline.arg("LIMIT").arg(0).arg(TIDIED).arg("WITHSCORES");
        for condition in ["NX", "GT"] {
            pipeline.cmd("PEXPIRE").arg(index).arg(self.index_ttl(expires_at, now)).arg(condition).ignore();
        }
    }

    /// Looks at the keys of overdue entries in the background, and corrects what has none. A failure is left to the next
    /// insert.
    pub(super) fn tidy_later(&self, index: String, overdue: Vec<(String, f64)>, now: Ms) {
        if overdue.is_empty() {
            return;
        }
        let redis = self.clone();
        tokio::spawn(async move {
            if let Err(error) = redis.tidy(&index, overdue, now, super::deadline()).await {
                tracing::debug!(%error, "overdue index entries were not corrected");
            }
        });
    }

    async fn tidy(&self, index: &str, overdue: Vec<(String, f64)>, now: Ms, deadline: Instant) -> Result<()> {
        let overdue: Vec<Scored> = overdue.into_iter().map(scored).collect();
        let mut pipeline = redis::pipe();
        for (_, id) in &overdue {
            pipeline.cmd("PTTL").arg(self.key(id));
        }
        let pttls: Vec<Ms> = self.run(&pipeline, deadline).await?;
        let mut corrections = Vec::with_capacity(overdue.len());
        for (entry, pttl) in overdue.into_iter().zip(pttls) {
            match pttl {
                -2 => corrections.push((entry, None)),
                // An insert that was never confirmed, and so never acknowledged.
                _ if entry.0 < 0 => self.abandon(index, entry, deadline).await?,
                -1 => corrections.push((entry, Some(now + INDEX_GRACE))),
                pttl => corrections.push((entry, Some(now + pttl))),
            }
        }
        self.correct(index, &corrections, deadline).await.map(|_| ())
    }

    /// Removes an entry that is still pending, and then its key. The order is what makes it safe: an insert whose entry is
    /// gone cannot be confirmed any more.
    async fn abandon(&self, index: &str, entry: Scored, deadline: Instant) -> Result<()> {
        let key = self.key(&entry.1);
        if self.correct(index, &[(entry, None)], deadline).await? == 1 {
            self.run::<()>(redis::pipe().cmd("DEL").arg(key).ignore(), deadline).await?;
        }
        Ok(())
    }

    /// Gives entries a new score, or removes them, where the score is still the one that was read. Returns how many were
    /// removed.
    pub(super) async fn correct(
        &self,
        index: &str,
        corrections: &[(Scored, Option<Ms>)],
        deadline: Instant,
    ) -> Result<usize> {
        if corrections.is_empty() {
            return Ok(0);
        }
        let args: Vec<String> = corrections
            .iter()
            .flat_map(|((score, id), new)| {
                [id.clone(), score.to_string(), new.map_or(String::new(), |new| new.to_string())]
            })
            .collect();
        let args: Vec<&[u8]> = args.iter().map(String::as_bytes).collect();
        self.eval(&scripts::CORRECT, &[index], &args, deadline).await
    }

    /// Removes the entries of sessions that are gone. Called after their keys were removed: an entry without a session
    /// heals, a session without an entry could not be revoked by user.
    pub(super) async fn forget(&self, ids: &[&str], user_id: Option<&str>, deadline: Instant) {
        let Some(user_id) = user_id.filter(|_| !ids.is_empty()) else { return };
        let mut pipeline = redis::pipe();
        pipeline.cmd("ZREM").arg(self.index(user_id)).arg(ids).ignore();
        if let Err(error) = self.run::<()>(&pipeline, deadline).await {
            tracing::debug!(%error, "index entries were not removed");
        }
    }

    /// The listed entries after `after`, from the latest expiry down.
    pub(super) async fn latest(&self, user_id: &str, after: Option<&Position>, limit: usize, now: Ms) -> Result<Page> {
        let (index, deadline) = (self.index(user_id), super::deadline());
        self.copy_legacy_index(user_id, &index, deadline).await?;
        let from = after.map_or("+inf".to_owned(), |(rank, _)| rank.to_string());
        let mut offset = 0;
        loop {
            let mut pipeline = redis::pipe();
            pipeline.cmd("ZRANGE").arg(&index).arg(&from).arg("(0").arg("BYSCORE").arg("REV");
            pipeline.arg("LIMIT").arg(offset).arg(limit).arg("WITHSCORES");
            let (read,): (Vec<(String, f64)>,) = self.run(&pipeline, deadline).await?;
            let next = read.last().filter(|_| read.len() == limit).cloned().map(scored);
            offset += read.len();
            let entries: Vec<Scored> =
                read.into_iter().map(scored).filter(|entry| after.is_none_or(|after| entry < after)).collect();
            // Of many entries with the rank of `after`, all that were read may stand before it.
            if !entries.is_empty() || next.is_none() {
                return Ok(Page { next, ..self.look_up(&index, entries, now, deadline).await? });
            }
        }
    }

    /// Every entry from the lowest score up, the pending ones first.
    pub(super) async fn sweep(&self, user_id: &str, limit: usize, now: Ms) -> Result<Page> {
        let (index, deadline) = (self.index(user_id), super::deadline());
        self.copy_legacy_index(user_id, &index, deadline).await?;
        let mut pipeline = redis::pipe();
        pipeline.cmd("ZRANGE").arg(&index).arg(0).arg(limit.saturating_sub(1)).arg("WITHSCORES");
        let (read,): (Vec<(String, f64)>,) = self.run(&pipeline, deadline).await?;
        let next = read.last().filter(|_| read.len() == limit).cloned().map(scored);
        let entries = read.into_iter().map(scored).collect();
        Ok(Page { next, ..self.look_up(&index, entries, now, deadline).await? })
    }

    /// Reads the keys of entries, and removes the entries of sessions that are gone.
    async fn look_up(&self, index: &str, entries: Vec<Scored>, now: Ms, deadline: Instant) -> Result<Page> {
        let found = self.read_all(entries.iter().map(|(_, id)| id.as_str()), now, deadline).await?;
        let (mut page, mut pending, mut gone) = (Page::default(), Vec::new(), Vec::new());
        for ((score, id), found) in entries.into_iter().zip(found) {
            match found {
                Some(found) => page.rows.push(Listed { id, found }),
                None if score < -now => pending.push((score, id)),
                None => gone.push(((score, id), None)),
            }
        }
        self.correct(index, &gone, deadline).await?;
        page.in_progress = self.still_pending(index, &pending, deadline).await?;
        page.vanished = gone.len() + pending.len() - page.in_progress;
        Ok(page)
    }

    /// How many of these entries are as they were read. One that was pending, and is still, had no key because its `SET` is
    /// to come; another may have been confirmed and superseded before its key was read.
    async fn still_pending(&self, index: &str, pending: &[Scored], deadline: Instant) -> Result<usize> {
        if pending.is_empty() {
            return Ok(0);
        }
        let mut pipeline = redis::pipe();
        pipeline.cmd("ZMSCORE").arg(index);
        for (_, id) in pending {
            pipeline.arg(id);
        }
        let (scores,): (Vec<Option<f64>>,) = self.run(&pipeline, deadline).await?;
        Ok(pending.iter().zip(scores).filter(|((score, _), now)| now.map(ms) == Some(*score)).count())
    }

    /// Copies a user's entries from where version 0.1 kept them, if that was elsewhere. The old index stays, because a
    /// process of that version may still read it, and expires by itself. It may also be the index of another key prefix: only
    /// entries with a key under ours are copied.
    async fn copy_legacy_index(&self, user_id: &str, index: &str, deadline: Instant) -> Result<()> {
        let Some(prefix) = &self.legacy_index_prefix else { return Ok(()) };
        let legacy = [prefix, user_id].concat();
        for start in (0..).step_by(LEGACY) {
            let mut pipeline = redis::pipe();
            pipeline.cmd("PTTL").arg(&legacy);
            pipeline.cmd("ZRANGE").arg(&legacy).arg(start).arg(start + LEGACY - 1).arg("WITHSCORES");
            let (pttl, entries): (Ms, Vec<(String, f64)>) = self.run(&pipeline, deadline).await?;
            if entries.is_empty() {
                break;
            }
            let mut pipeline = redis::pipe();
            for (id, _) in &entries {
                pipeline.cmd("EXISTS").arg(self.key(id));
            }
            let exist: Vec<bool> = self.run(&pipeline, deadline).await?;
            let mut pipeline = redis::pipe();
            for ((id, score), _) in entries.iter().zip(exist).filter(|(_, exists)| *exists) {
                pipeline.cmd("ZADD").arg(index).arg("GT").arg(ms(*score)).arg(id).ignore();
            }
            if pipeline.is_empty() {
                continue;
            }
            for condition in ["NX", "GT"] {
                pipeline.cmd("PEXPIRE").arg(index).arg(pttl.max(INDEX_MINIMUM)).arg(condition).ignore();
            }
            self.run::<()>(&pipeline, deadline).await?;
        }
        Ok(())
    }
}

fn scored((id, score): (String, f64)) -> Scored {
    (ms(score), id)
}

/// A score of the index: whole milliseconds.
#[expect(clippy::cast_possible_truncation, reason = "the cast saturates")]
pub(super) fn ms(score: f64) -> Ms {
    score as Ms
}

/// Says that an insert has come to its end. Replies whether its entry stood.
pub(super) fn confirm(pipeline: &mut Pipeline, index: &str, id: &str, expires_at: Ms) {
    pipeline.cmd("ZADD").arg(index).arg("XX").arg("CH").arg(expires_at).arg(id);
}
