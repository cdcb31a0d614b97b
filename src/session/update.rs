//! Update: changing the data without losing another caller's change.

use super::{Change, Data, Error, Id, MAX_RACES, Session, Sessions};
use crate::store::{self, Entry, Outcome};

impl Sessions {
    /// Changes the session's data by compare-and-set, and touches it. None when there is no such session. Updates of one
    /// session in this process run one after another, in the order of their calls.
    ///
    /// `if_match` is asked for the session as it is before the change; a no ends the call.
    ///
    /// # Errors
    /// [`Error::PreconditionFailed`], [`Error::PatchConflict`], and [`Error::Invalid`] when the outcome breaks a rule
    /// or would change the user, who is bound only by issue and regenerate. [`Error::Contention`]: nothing was changed,
    /// because too many others update this session.
    pub async fn update(
        &self,
        id: &Id,
        change: &Change,
        if_match: impl Fn(&Session) -> bool + Send + Sync,
    ) -> Result<Option<Session>, Error> {
        self.inner.updates.run(id, self.update_in_turn(id, change, if_match)).await
    }

    async fn update_in_turn(
        &self,
        id: &Id,
        change: &Change,
        if_match: impl Fn(&Session) -> bool + Send + Sync,
    ) -> Result<Option<Session>, Error> {
        let call = self.begin();
        let now = call.now;
        let policy = self.policy();
        for races in 0..MAX_RACES {
            let loaded = match self.load(id, call).await {
                // Other processes' updates came first each time.
                Err(Error::Store(store::Error::OutOfTime)) if races > 0 => return Err(Error::Contention),
                loaded => loaded?,
            };
            let Some(loaded) = loaded else { return Ok(None) };
            let before = self.session(id.clone(), loaded.record.clone(), loaded.standing, false);
            if !if_match(&before) {
                return Err(Error::PreconditionFailed);
            }
            let map = match change {
                // What is replaced need not be read.
                Change::Replace(_) => loaded.record.data.to_map().ok(),
                _ => Some(loaded.record.data.to_map()?),
            };
            let changed = change.apply(map.clone().unwrap_or_default(), policy.max_data_bytes)?;
            if map.is_some_and(|map| map == changed) && !policy.resave {
                return if loaded.standing.touch_due(now) {
                    self.extend(id, loaded, call).await
                } else {
                    Ok(Some(before))
                };
            }
            let mut record = loaded.record;
            record.data = Data::new(&changed, "", policy.max_data_bytes)?;
            if self.user_of(&record) != before.user_id {
                let detail = "an update may not change the user: use POST /v1/session/regenerate with user_id, which also gives the session a new id";
                return Err(Error::invalid("user-is-bound", "", detail));
            }
            let standing = policy.touched(loaded.standing.idle_timeout, loaded.standing.lifetime_ends_at, now);
            let expires_at = standing.expires_at;
            record.stamp(now, expires_at);
            let entry = Entry { record: &record.encode(), user_id: before.user_id.as_deref(), expires_at };
            match self.store(call).replace(id.as_str(), &loaded.bytes, entry, now).await? {
                Outcome::Applied => return Ok(Some(self.session(id.clone(), record, standing, true))),
                Outcome::Missing => return Ok(None),
                Outcome::Changed => {}
            }
        }
        Err(Error::Contention)
    }
}
