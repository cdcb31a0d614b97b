//! Revoke: the end of a session.

use super::{Error, MAX_RACES, Record, Session, Sessions};
use crate::id::Id;
use crate::store::Outcome;

impl Sessions {
    /// Ends the session. Says whether there was one.
    ///
    /// # Errors
    /// [`Error::Store`]: it may or may not have ended.
    pub async fn revoke(&self, id: &Id) -> Result<bool, Error> {
        let call = self.begin();
        let found = self.store(call).find(id.as_str(), call.now).await?;
        // Whose it is, so that it leaves their list at once. What cannot be read goes all the same; and what is not there
        // is removed too, for an Express may be about to save it.
        let record = found.and_then(|found| Record::decode(&found.record).ok());
        let user_id = record.and_then(|record| self.user_of(&record));
        let removed = self.store(call).remove(&[id.as_str()], user_id.as_deref(), call.now).await?;
        self.metrics().revoked.by_session.inc_by(removed as u64);
        Ok(removed > 0)
    }

    /// The same, if the session is as `if_match` wants it.
    ///
    /// # Errors
    /// [`Error::PreconditionFailed`]; [`Error::Store`]: it may or may not have ended.
    pub async fn revoke_if(&self, id: &Id, if_match: impl Fn(&Session) -> bool + Send + Sync) -> Result<bool, Error> {
        let call = self.begin();
        for _ in 0..MAX_RACES {
            let Some(loaded) = self.load(id, call).await? else { return self.revoke(id).await };
            let session = self.session(id.clone(), loaded.record, loaded.standing, false);
            if !if_match(&session) {
                return Err(Error::PreconditionFailed);
            }
            let user_id = session.user_id.as_deref();
            match self.store(call).remove_if(id.as_str(), &loaded.bytes, user_id, call.now).await? {
                Outcome::Applied => {
                    self.metrics().revoked.by_session.inc();
                    return Ok(true);
                }
                Outcome::Missing => return Ok(false),
                Outcome::Changed => {}
            }
        }
        Err(Error::Contention)
    }
}
