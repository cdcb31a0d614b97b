//! Touch: extending a session, when that is due or when a caller asks for it.

use super::{Call, Error, Loaded, Precondition, Session, Sessions};
use crate::id::Id;
use crate::store::{Entry, Outcome};

/// Whether a resolve writes a touch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Touch {
    /// When the last one is old enough.
    #[default]
    WhenDue,
    /// Only looks.
    Never,
    /// In any case.
    Force,
}

impl Sessions {
    /// The session as it is after a resolve that touches as `touch` says. A touch that was only due, and fails, is no error.
    pub(super) async fn touched(
        &self,
        id: &Id,
        loaded: Loaded,
        touch: Touch,
        call: Call,
    ) -> Result<Option<Session>, Error> {
        let touches = &self.metrics().touches;
        if touch == Touch::Never || touch == Touch::WhenDue && !loaded.standing.touch_due(call.now) {
            touches.skipped.inc();
            return Ok(Some(self.session(id.clone(), loaded.record, loaded.standing, false)));
        }
        let untouched = self.session(id.clone(), loaded.record.clone(), loaded.standing, false);
        match self.extend(id, loaded, call).await {
            Err(error) if touch != Touch::Force => {
                tracing::debug!(%error, "a touch was not written");
                Ok(Some(untouched))
            }
            extended => extended,
        }
    }

    /// Touches the session now, if it meets `precondition`.
    ///
    /// # Errors
    /// [`Error::PreconditionFailed`]; [`Error::Store`], [`Error::Unreadable`].
    pub async fn touch(&self, id: &Id, precondition: &Precondition) -> Result<Option<Session>, Error> {
        let call = self.begin();
        let Some(loaded) = self.load(id, call).await? else { return Ok(None) };
        precondition.check(|| self.etag_of(&loaded.record))?;
        let extended = self.extend(id, loaded, call).await?;
        if let Some(session) = &extended {
            // If another write came first, this one wrote nothing, and the other's outcome is checked.
            precondition.check(|| session.etag())?;
        }
        Ok(extended)
    }

    /// Writes a touch. Another write that comes first has extended the session too, and then nothing is left to do.
    pub(super) async fn extend(&self, id: &Id, loaded: Loaded, call: Call) -> Result<Option<Session>, Error> {
        let now = call.now;
        let Loaded { bytes, mut record, standing } = loaded;
        let standing = self.policy().touched(standing.idle_timeout, standing.lifetime_ends_at, now);
        // A record that Express made stays as it is, to the byte; only its key's expiry moves.
        if record.ours.is_some() {
            record.stamp(now, standing.expires_at);
        }
        let user_id = self.user_of(&record);
        let stamped = if record.ours.is_some() { record.encode() } else { bytes.clone() };
        let entry = Entry { record: &stamped, user_id: user_id.as_deref(), expires_at: standing.expires_at };
        let outcome = self.store(call).touch(id.as_str(), &bytes, entry, now).await;
        let touches = &self.metrics().touches;
        match outcome {
            Ok(Outcome::Applied) => touches.written.inc(),
            Ok(Outcome::Changed | Outcome::Missing) => touches.skipped.inc(),
            Err(_) => touches.failed.inc(),
        };
        match outcome? {
            Outcome::Applied => Ok(Some(self.session(id.clone(), record, standing, true))),
            Outcome::Changed => Ok(self
                .load(id, call)
                .await?
                .map(|loaded| self.session(id.clone(), loaded.record, loaded.standing, true))),
            Outcome::Missing => Ok(None),
        }
    }
}
