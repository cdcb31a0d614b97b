//! How many sessions a user may have at once, and what becomes of one too many.
//!
//! A session is stored first and counted then, so that of many that come at once each sees all that were stored before
//! it was counted: the last of them sees to it that there are no more than the limit.

use std::time::Duration;

use super::record::Ours;
use super::{Data, Error, MAX_RACES, OnLimit, Session, Sessions};
use crate::clock::Ms;
use crate::store::Store;

/// How often an issue that is refused among others looks again whether it was one too many. They withdraw at once, and
/// there may be room for some of them.
const TRIES: u32 = 6;

/// How long a session has been there when it is no longer about to be withdrawn, in ms.
const SETTLED: Ms = 2000;

impl Sessions {
    /// Where the policy is to refuse what is one too many: a session like this one, stored, that takes a place for its
    /// user. None where it is another policy.
    pub(super) async fn reserve(
        &self,
        ours: &Ours,
        data: &Data,
        persistent: bool,
        now: Ms,
    ) -> Result<Option<Session>, Error> {
        let policy = self.policy();
        let (Some(limit), OnLimit::Reject) = (policy.max_sessions_per_user, policy.on_limit) else { return Ok(None) };
        for trial in 1..=TRIES {
            let new = self.insert(ours.clone(), data.clone(), persistent, now).await?;
            let Some(user_id) = new.user_id.as_deref() else { return Ok(Some(new)) };
            let theirs = match self.rows(user_id, now).await {
                Ok(theirs) if theirs.len() <= limit => return Ok(Some(new)),
                theirs => theirs,
            };
            self.withdraw(&new.id, Some(user_id), now).await?;
            let settled = theirs?.iter().filter(|row| row.created_at.is_none_or(|at| at <= now - SETTLED)).count();
            if settled >= limit {
                break;
            }
            tokio::time::sleep(pause(trial)).await;
        }
        Err(Error::TooManySessions { limit })
    }

    /// Ends what a user has too many of, as the policy has it. What fails is tried again at their next login.
    pub(super) async fn evict(&self, user_id: Option<&str>) {
        let policy = self.policy();
        let (Some(limit), Some(user_id)) = (policy.max_sessions_per_user, user_id) else { return };
        if let Err(error) = self.evict_down_to(user_id, limit).await {
            tracing::warn!(%error, "a user may have more sessions than --max-sessions-per-user, until their next login");
        }
    }

    async fn evict_down_to(&self, user_id: &str, limit: usize) -> Result<(), Error> {
        for _ in 0..MAX_RACES {
            let now = self.now();
            let mut theirs = self.rows(user_id, now).await?;
            let over = theirs.len().saturating_sub(limit);
            // Everybody who evicts begins with the same ones.
            match self.policy().on_limit {
                OnLimit::EvictOldest => theirs.sort_unstable_by_key(|row| (row.created_at, row.id.clone())),
                OnLimit::EvictIdle => theirs.sort_unstable_by_key(|row| (row.touched_at, row.id.clone())),
                OnLimit::Reject => return Ok(()),
            }
            if over == 0 {
                return Ok(());
            }
            let ids: Vec<&str> = theirs[..over].iter().map(|row| row.id.as_str()).collect();
            let removed = self.store().remove(&ids, Some(user_id), now).await?;
            self.metrics().revoked.by_limit.inc_by(removed as u64);
        }
        Err(Error::Contention)
    }
}

/// Longer each time, and by chance, so that those who wait do not meet again.
fn pause(trial: u32) -> Duration {
    let most = 10 << trial;
    Duration::from_millis(u64::from(getrandom::u32().unwrap_or_default() % most))
}
