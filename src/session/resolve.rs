//! Resolve: from ids to live sessions.

use futures_util::{StreamExt, stream};

use super::{Call, Error, Loaded, Record, Session, Sessions, Touch};
use crate::clock::Ms;
use crate::id::Id;
use crate::store::Found;

/// How many touches of one batch are under way at once.
const TOUCHES: usize = 64;

/// How many bytes of data one call answers with at the most.
pub const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;

impl Sessions {
    /// The live session called `id`, touched as `touch` says.
    ///
    /// # Errors
    /// [`Error::Store`] when the store cannot say; [`Error::Unreadable`]. A touch that was only due and fails is logged,
    /// and is no error.
    pub async fn resolve(&self, id: &Id, touch: Touch) -> Result<Option<Session>, Error> {
        self.resolve_at(id, touch, self.begin()).await
    }

    pub(crate) async fn resolve_at(&self, id: &Id, touch: Touch, call: Call) -> Result<Option<Session>, Error> {
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
}
