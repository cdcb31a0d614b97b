//! Everything of one user: listing it, and logging out everywhere.

use std::collections::HashSet;

use super::{Error, Id, Record, Session, Sessions};
use crate::clock::Ms;
use crate::store::{Listed, Store};

/// One page of a user's sessions.
#[derive(Debug)]
pub struct Listing {
    /// Those that are live.
    pub sessions: Vec<Session>,
    /// Where the next page begins; None: this was the last.
    pub next: Option<(Ms, String)>,
}

/// A session of a user. Times are unknown for a record that cannot be read, or that Express made.
pub(super) struct Row {
    pub id: String,
    pub created_at: Option<Ms>,
    pub touched_at: Option<Ms>,
}

impl Sessions {
    /// Ends every session of a user but `except`; says how many. Every session that was acknowledged before this
    /// began is dead when it answers, under whatever id a concurrent regenerate has given it.
    ///
    /// # Errors
    /// [`Error::Store`]: some may have ended; ask again.
    pub async fn revoke_user(&self, user_id: &str, except: Option<&Id>) -> Result<usize, Error> {
        let (sessions, user_id, except) = (self.clone(), user_id.to_owned(), except.cloned());
        // A caller that hangs up does not stop it halfway.
        self.finish(async move { sessions.revoke_listed(&user_id, except.as_ref()).await }).await
    }

    /// Always from the top: a session that is touched or regenerated meanwhile moves there.
    async fn revoke_listed(&self, user_id: &str, except: Option<&Id>) -> Result<usize, Error> {
        let mut revoked = 0;
        let mut spared = HashSet::new();
        loop {
            let now = self.now();
            let limit = self.policy().step() + spared.len();
            let rows = self.store().list_by_user(user_id, None, limit, true, now).await?;
            let mut again = rows.len() == limit;
            let (kept, ended): (Vec<_>, Vec<_>) = rows
                .into_iter()
                .partition(|row| except.is_some_and(|id| id.as_str() == row.id) || !self.is_of(row, user_id));
            spared.extend(kept.into_iter().map(|row| row.id));
            if !ended.is_empty() {
                let ids: Vec<&str> = ended.iter().map(|row| row.id.as_str()).collect();
                let removed = self.store().remove(&ids, Some(user_id), now).await?;
                self.metrics().revoked.by_user.inc_by(removed as u64);
                revoked += removed;
                // Some were gone since they were listed: perhaps regenerated, and then their successors are listed now.
                again |= removed < ids.len();
            }
            if !again {
                return Ok(revoked);
            }
        }
    }

    /// The live sessions of a user, the latest expiry first; `after` is the `next` of the page before. A page is of
    /// `limit` rows of the store: it may show fewer, and is not the last for that.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn list(&self, user_id: &str, after: Option<(Ms, String)>, limit: usize) -> Result<Listing, Error> {
        let now = self.now();
        let mut listing = Listing { sessions: Vec::new(), next: after };
        let mut left = limit;
        loop {
            let step = self.policy().step().min(left);
            let after = listing.next.as_ref().map(|(rank, id)| (*rank, id.as_str()));
            let rows = self.store().list_by_user(user_id, after, step, false, now).await?;
            listing.next = next(&rows, step);
            left -= rows.len();
            listing.sessions.extend(rows.into_iter().filter(|row| self.is_of(row, user_id)).filter_map(|row| {
                let id = Id::parse(row.id)?;
                let record = Record::decode(&row.found.record).ok()?;
                let standing = self.policy().standing(&record, row.found.expires_at, now)?;
                Some(self.session(id, record, standing, false))
            }));
            if left == 0 || listing.next.is_none() {
                return Ok(listing);
            }
        }
    }

    /// Every session of a user, without the data.
    pub(super) async fn rows(&self, user_id: &str, now: Ms) -> Result<Vec<Row>, Error> {
        let (step, mut theirs, mut after) = (self.policy().step(), Vec::new(), None::<(Ms, String)>);
        loop {
            let from = after.as_ref().map(|(rank, id)| (*rank, id.as_str()));
            let rows = self.store().list_by_user(user_id, from, step, false, now).await?;
            after = next(&rows, step);
            theirs.extend(rows.into_iter().filter(|row| self.is_of(row, user_id)).map(|row| {
                let ours = Record::decode(&row.found.record).ok().and_then(|record| record.ours);
                let times = ours.map(|ours| (ours.created_at, ours.touched_at));
                Row { id: row.id, created_at: times.map(|times| times.0), touched_at: times.map(|times| times.1) }
            }));
            if after.is_none() {
                return Ok(theirs);
            }
        }
    }

    /// Whether a listed entry is still the user's: an Express that logs somebody else in under the same id changes the
    /// record, and knows of no index. What cannot be read counts as theirs.
    fn is_of(&self, row: &Listed, user_id: &str) -> bool {
        Record::decode(&row.found.record).map_or(true, |record| self.user_of(&record).as_deref() == Some(user_id))
    }
}

/// Where the page after these rows begins.
fn next(rows: &[Listed], limit: usize) -> Option<(Ms, String)> {
    rows.last().filter(|_| rows.len() == limit).map(|row| (row.rank, row.id.clone()))
}
