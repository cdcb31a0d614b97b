//! Resolve: from ids to live sessions, and the touch that goes with it.

use futures_util::{StreamExt, stream};

use super::{Call, Error, Id, Loaded, Record, Session, Sessions};
use crate::clock::Ms;
use crate::store::{Entry, Found, Outcome};

/// How many touches of one batch are under way at once.
const TOUCHES: usize = 64;

/// How many bytes of data one call answers with at the most.
pub const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;

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
    /// The live session called `id`, touched as `touch` says.
    ///
    /// # Errors
    /// [`Error::Store`] when the store cannot say; [`Error::Unreadable`]. A touch that was only due and fails is logged,
    /// and is no error.
    pub async fn resolve(&self, id: &Id, touch: Touch) -> Result<Option<Session>, Error> {
        self.resolve_at(id, touch, self.begin()).await
    }

    pub(super) async fn resolve_at(&self, id: &Id, touch: Touch, call: Call) -> Result<Option<Session>, Error> {
        let Some(loaded) = self.load(id, call).await? else { return Ok(None) };
        self.enlist(std::iter::once((id, &loaded)), call).await;
        self.touched(id, loaded, touch, call).await
    }

    /// Several at once, in their order, in as few round trips to the store as their size allows, and another for the
    /// touches that are due. An unreadable record is an error of its own.
    ///
    /// # Errors
    /// [`Error::Store`] when the store cannot say; [`Error::TooMuch`] when their data takes more than
    /// [`MAX_ANSWER_BYTES`].
    pub async fn resolve_many(&self, ids: Vec<Id>) -> Result<Vec<Result<Option<Session>, Error>>, Error> {
        let mut answers = Vec::with_capacity(ids.len());
        let (mut ids, mut bytes, call) = (ids.into_iter(), 0, self.begin_many());
        while ids.len() > 0 {
            let step = self.resolve_step(ids.by_ref().take(self.policy().step()).collect(), call).await?;
            bytes += step.iter().flatten().flatten().map(|session| session.data.as_str().len()).sum::<usize>();
            if bytes > MAX_ANSWER_BYTES {
                return Err(Error::TooMuch { limit: MAX_ANSWER_BYTES });
            }
            answers.extend(step);
        }
        Ok(answers)
    }

    async fn resolve_step(&self, ids: Vec<Id>, call: Call) -> Result<Vec<Result<Option<Session>, Error>>, Error> {
        let now = call.now;
        let names: Vec<&str> = ids.iter().map(Id::as_str).collect();
        let found = self.store(call).find_many(&names, now).await?;
        let judged: Vec<_> =
            found.into_iter().map(|found| found.map_or(Ok(None), |found| self.judge(found, now))).collect();
        let live = ids.iter().zip(&judged).filter_map(|(id, judged)| Some((id, judged.as_ref().ok()?.as_ref()?)));
        self.enlist(live, call).await;
        let mut answers = Vec::with_capacity(ids.len());
        let (mut due, mut skipped) = (Vec::new(), 0);
        for (id, judged) in ids.into_iter().zip(judged) {
            answers.push(match judged {
                Ok(Some(loaded)) if loaded.standing.touch_due(now) => {
                    due.push((answers.len(), id, loaded));
                    Ok(None)
                }
                Ok(Some(loaded)) => {
                    skipped += 1;
                    Ok(Some(self.session(id, loaded.record, loaded.standing, false)))
                }
                Ok(None) => Ok(None),
                Err(unreadable) => Err(unreadable),
            });
        }
        self.metrics().touches.skipped.inc_by(skipped);
        let touch = |(at, id, loaded)| async move { (at, self.touched(&id, loaded, Touch::WhenDue, call).await) };
        let mut touched = stream::iter(due).map(touch).buffer_unordered(TOUCHES);
        while let Some((at, answer)) = touched.next().await {
            answers[at] = answer;
        }
        Ok(answers)
    }

    pub(super) async fn load(&self, id: &Id, call: Call) -> Result<Option<Loaded>, Error> {
        match self.store(call).find(id.as_str(), call.now).await? {
            Some(found) => self.judge(found, call.now),
            None => Ok(None),
        }
    }

    /// What was found, if it is a live session.
    fn judge(&self, found: Found, now: Ms) -> Result<Option<Loaded>, Error> {
        let record = Record::decode(&found.record)?;
        let standing = self.policy().standing(&record, found.expires_at, now);
        Ok(standing.map(|standing| Loaded { bytes: found.record, record, standing }))
    }

    async fn touched(&self, id: &Id, loaded: Loaded, touch: Touch, call: Call) -> Result<Option<Session>, Error> {
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

    /// Touches the session now, if it is as `if_match` wants it.
    ///
    /// # Errors
    /// [`Error::PreconditionFailed`]; [`Error::Store`], [`Error::Unreadable`].
    pub async fn touch_if(
        &self,
        id: &Id,
        if_match: impl Fn(&Session) -> bool + Send + Sync,
    ) -> Result<Option<Session>, Error> {
        let call = self.begin();
        let Some(loaded) = self.load(id, call).await? else { return Ok(None) };
        if !if_match(&self.session(id.clone(), loaded.record.clone(), loaded.standing, false)) {
            return Err(Error::PreconditionFailed);
        }
        // Where another write came first this one wrote nothing, and that one's outcome is judged.
        match self.extend(id, loaded, call).await? {
            Some(session) if !if_match(&session) => Err(Error::PreconditionFailed),
            extended => Ok(extended),
        }
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
