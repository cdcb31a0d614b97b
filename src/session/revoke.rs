//! Revoke: the end of a session.

use super::{Call, Error, MAX_RACES, Precondition, Record, Sessions};
use crate::id::Id;
use crate::store::Outcome;

impl Sessions {
    /// Ends the session if it meets `precondition`. Returns whether there was one.
    ///
    /// # Errors
    /// [`Error::PreconditionFailed`]; [`Error::Store`]: it may or may not have ended.
    pub async fn revoke(&self, id: &Id, precondition: &Precondition) -> Result<bool, Error> {
        let call = self.begin();
        if *precondition == Precondition::Any {
            return self.revoke_in_any_state(id, call).await;
        }
        for _ in 0..MAX_RACES {
            let Some(loaded) = self.load(id, call).await? else { return self.revoke_in_any_state(id, call).await };
            precondition.check(|| self.etag_of(&loaded.record))?;
            let user_id = self.user_of(&loaded.record);
            match self.store(call).remove_if(id.as_str(), &loaded.bytes, user_id.as_deref(), call.now).await? {
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

    async fn revoke_in_any_state(&self, id: &Id, call: Call) -> Result<bool, Error> {
        let found = self.store(call).find(id.as_str(), call.now).await?;
        // The user's list forgets the session at once, if the record can be read. What is not there is removed too: an
        // Express may be about to save it.
        let record = found.and_then(|found| Record::decode(&found.record).ok());
        let user_id = record.and_then(|record| self.user_of(&record));
        let removed = self.store(call).remove(&[id.as_str()], user_id.as_deref(), call.now).await?;
        self.metrics().revoked.by_session.inc_by(removed as u64);
        Ok(removed > 0)
    }
}
