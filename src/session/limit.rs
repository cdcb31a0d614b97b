//! How many sessions a user may have at once, and which of them gives way to a new one.

use std::time::Duration;

use super::{Error, OnLimit, Sessions};
use crate::clock::Ms;
use crate::store::Store;

/// How long to wait when every place is held by a session that is being issued.
const PAUSE: Duration = Duration::from_millis(10);

/// The places that a user has for sessions.
pub(super) struct Room<'a> {
    sessions: &'a Sessions,
    user_id: &'a str,
    limit: usize,
    looked: bool,
}

impl Sessions {
    pub(super) fn room<'a>(&'a self, user_id: &'a str, limit: usize) -> Room<'a> {
        Room { sessions: self, user_id, limit, looked: false }
    }
}

impl Room<'_> {
    /// The store says that there is no place left: makes one, as the policy has it. Gives back how many entries the
    /// store may allow the user.
    pub(super) async fn make(&mut self, now: Ms) -> Result<usize, Error> {
        let (mut theirs, mut others) = (Vec::new(), 0);
        let mut after = None;
        loop {
            let page = self.sessions.page(self.user_id, after.as_ref(), now).await?;
            theirs.extend(page.theirs);
            others += page.others;
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        // Entries of sessions that have passed to another user, under the same id, do not count.
        let allowed = self.limit + others;
        // The listing has told the store which entries are gone, so there may be a place now.
        if theirs.len() < self.limit && !std::mem::replace(&mut self.looked, true) {
            return Ok(allowed);
        }
        self.looked = false;
        match self.sessions.policy().on_limit {
            OnLimit::Reject => return Err(Error::TooManySessions { limit: self.limit }),
            OnLimit::EvictOldest => theirs.sort_unstable_by_key(|session| session.created_at),
            OnLimit::EvictIdle => theirs.sort_unstable_by_key(|session| session.touched_at),
        }
        // At least one: places that the listing does not show are held by sessions that are being issued.
        let evicted = (theirs.len() + 1).saturating_sub(self.limit).max(1).min(theirs.len());
        if evicted == 0 {
            tokio::time::sleep(PAUSE).await;
            return Ok(allowed);
        }
        let ids: Vec<&str> = theirs[..evicted].iter().map(|session| session.id.as_str()).collect();
        let removed = self.sessions.store().remove(&ids, Some(self.user_id), now).await?;
        self.sessions.metrics().revoked.by_limit.inc_by(removed as u64);
        Ok(allowed)
    }
}
