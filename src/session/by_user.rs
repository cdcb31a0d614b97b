//! Everything of one user: listing it, and logging out everywhere.

use std::collections::HashSet;

use super::{Error, Id, Record, STEP, Session, Sessions, finish};
use crate::clock::Ms;
use crate::store::{Listed, Outcome};

/// One page of a user's sessions.
#[derive(Debug)]
pub struct Listing {
    /// Those that are live.
    pub sessions: Vec<Session>,
    /// Where the next page begins; None: this was the last.
    pub next: Option<(Ms, String)>,
}

impl Sessions {
    /// Ends every session of a user but `except`; says how many. Every session that was acknowledged before this
    /// began is dead when it answers, under whatever id a concurrent regenerate has given it.
    ///
    /// # Errors
    /// [`Error::Store`]: some may have ended; ask again.
    pub async fn revoke_user(&self, user_id: &str, except: Option<&Id>) -> Result<u64, Error> {
        let (sessions, user_id, except) = (self.clone(), user_id.to_owned(), except.cloned());
        // A caller that hangs up does not stop it halfway.
        finish(async move { sessions.revoke_listed(&user_id, except.as_ref()).await }).await
    }

    /// Always from the top: a session that is touched or regenerated meanwhile moves there.
    async fn revoke_listed(&self, user_id: &str, except: Option<&Id>) -> Result<u64, Error> {
        let mut revoked = 0;
        let mut spared = HashSet::new();
        loop {
            let now = self.now();
            let limit = STEP + spared.len();
            let rows = self.store().list_by_user(user_id, None, limit, now).await?;
            let mut again = rows.len() == limit;
            for row in rows {
                if except.is_some_and(|id| id.as_str() == row.id) || !self.is_of(&row, user_id) {
                    spared.insert(row.id);
                    continue;
                }
                match self.store().remove(&row.id, None, Some(user_id), now).await? {
                    Outcome::Applied => revoked += 1,
                    // Gone since it was listed: perhaps regenerated, and then its successor is listed now.
                    _ => again = true,
                }
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
    pub async fn list(&self, user_id: &str, after: Option<(Ms, &str)>, limit: usize) -> Result<Listing, Error> {
        let now = self.now();
        let rows = self.store().list_by_user(user_id, after, limit, now).await?;
        let last = rows.last().filter(|_| rows.len() == limit);
        let next = last.map(|row| (row.rank, row.id.clone()));
        let sessions = rows.into_iter().filter(|row| self.is_of(row, user_id)).filter_map(|row| {
            let id = Id::parse(&row.id)?;
            let record = Record::decode(&row.found.record).ok()?;
            let standing = self.policy().standing(&record, row.found.expires_at, now)?;
            Some(self.session(&id, &record, standing, false))
        });
        Ok(Listing { sessions: sessions.collect(), next })
    }

    /// Whether a listed entry is still the user's: an Express that logs somebody else in under the same id changes the
    /// record, and knows of no index. What cannot be read counts as theirs.
    fn is_of(&self, row: &Listed, user_id: &str) -> bool {
        Record::decode(&row.found.record).map_or(true, |record| self.user_of(&record).as_deref() == Some(user_id))
    }
}
