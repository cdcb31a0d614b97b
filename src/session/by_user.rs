//! Everything of one user: listing it, and logging out everywhere.

use super::{Call, Data, Error, Id, Record, Session, Sessions};
use crate::clock::Ms;
use crate::store::{Listed, Page, Position};

/// One page of a user's sessions.
#[derive(Debug)]
pub struct Listing {
    /// Those that are live.
    pub sessions: Vec<Session>,
    /// Where the next page begins; None: this was the last.
    pub next: Option<Position>,
}

/// A session of a user. Times are unknown for a record that cannot be read, or that Express made.
pub(super) struct Row {
    pub id: String,
    pub created_at: Option<Ms>,
    pub touched_at: Option<Ms>,
    /// Whether it holds a place for a login that is not complete.
    pub pending: bool,
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

    /// Always from the start, until a single page has had every session and none of them had gone: one that is
    /// regenerated meanwhile may be anywhere in the list.
    async fn revoke_listed(&self, user_id: &str, except: Option<&Id>) -> Result<usize, Error> {
        let (mut revoked, mut standing) = (0, 0);
        let deadline = self.begin_many().deadline;
        loop {
            let call = Call { deadline, ..self.begin() };
            let page = self.store(call).sweep_user(user_id, self.policy().step() + standing, call.now).await?;
            let (spared, ended): (Vec<_>, Vec<_>) = page
                .rows
                .into_iter()
                .partition(|row| except.is_some_and(|id| id.as_str() == row.id) || !self.is_of(row, user_id));
            standing = spared.len() + page.in_progress;
            let ids: Vec<&str> = ended.iter().map(|row| row.id.as_str()).collect();
            let mut removed = 0;
            if !ids.is_empty() {
                removed = self.store(call).remove(&ids, Some(user_id), call.now).await?;
                // A place that was held for a login is no session.
                let sessions = removed.saturating_sub(ended.iter().filter(|row| is_pending(row)).count());
                self.metrics().revoked.by_user.inc_by(sessions as u64);
                revoked += sessions;
            }
            if page.next.is_none() && page.vanished == 0 && removed == ids.len() {
                return Ok(revoked);
            }
        }
    }

    /// The live sessions of a user, without their data, the latest expiry first; `after` is the `next` of the page before. A
    /// page is of `limit` rows of the store: it may show fewer, and is not the last for that.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn list(&self, user_id: &str, after: Option<Position>, limit: usize) -> Result<Listing, Error> {
        let call = self.begin_many();
        let mut listing = Listing { sessions: Vec::new(), next: after };
        let mut left = limit;
        loop {
            let page = self.page(user_id, listing.next.as_ref(), left, call).await?;
            left = left.saturating_sub(page.rows.len());
            listing.next = page.next;
            listing.sessions.extend(page.rows.into_iter().filter(|row| self.is_of(row, user_id)).filter_map(|row| {
                let id = Id::parse(row.id)?;
                let record = Record::decode(&row.found.record).ok()?;
                let standing = self.policy().standing(&record, row.found.expires_at, call.now)?;
                // A list shows no data, and a page of it could be large.
                Some(Session { data: Data::empty(), ..self.session(id, record, standing, false) })
            }));
            if left == 0 || listing.next.is_none() {
                return Ok(listing);
            }
        }
    }

    /// Every session of a user, without the data.
    pub(super) async fn rows(&self, user_id: &str, call: Call) -> Result<Vec<Row>, Error> {
        let (mut theirs, mut after) = (Vec::new(), None);
        loop {
            let page = self.page(user_id, after.as_ref(), usize::MAX, call).await?;
            after = page.next;
            theirs.extend(page.rows.into_iter().filter(|row| self.is_of(row, user_id)).map(|row| {
                let ours = Record::decode(&row.found.record).ok().and_then(|record| record.ours);
                let times = ours.as_ref().map(|ours| (ours.created_at, ours.touched_at));
                Row {
                    id: row.id,
                    created_at: times.map(|times| times.0),
                    touched_at: times.map(|times| times.1),
                    pending: ours.is_some_and(|ours| ours.pending),
                }
            }));
            if after.is_none() {
                return Ok(theirs);
            }
        }
    }

    /// One page of the store, of `limit` rows at most: read again until everything in it was there.
    async fn page(&self, user_id: &str, after: Option<&Position>, limit: usize, call: Call) -> Result<Page, Error> {
        let limit = self.policy().step().min(limit);
        loop {
            let page = self.store(call).list_by_user(user_id, after, limit, call.now).await?;
            if page.vanished == 0 {
                return Ok(page);
            }
        }
    }

    /// Whether a listed entry is still the user's: an Express that logs somebody else in under the same id changes the
    /// record, and knows of no index. What cannot be read counts as theirs.
    fn is_of(&self, row: &Listed, user_id: &str) -> bool {
        Record::decode(&row.found.record).map_or(true, |record| self.user_of(&record).as_deref() == Some(user_id))
    }
}

fn is_pending(row: &Listed) -> bool {
    Record::decode(&row.found.record).is_ok_and(|record| record.ours.is_some_and(|ours| ours.pending))
}
