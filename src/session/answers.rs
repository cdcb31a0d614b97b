//! Resolves that are answered with what an earlier one was answered: the rules of sessions for the near-cache.
//!
//! An answer is given again while the session is live and, by the rule of touches, as long as none is due. When one is, a
//! single caller writes it; the others are given the answer meanwhile, which to them is as if that one came first.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use super::policy::TOLERANCE;
use super::{Error, Id, Session, Sessions, Touch};
use crate::clock::Ms;
use crate::store::{Cache, Limits, Watcher};

/// How long a caller who writes a touch is given for it, before the next one does, in ms.
const LEASE: Ms = 1000;

/// Resolves over `sessions`, with what was made of them kept as `V`.
pub struct Answers<V> {
    sessions: Sessions,
    cache: Option<Arc<Cache<Arc<Kept<V>>>>>,
}

/// What was made of a live session.
struct Kept<V> {
    value: V,
    asked_at: Ms,
    expires_at: Ms,
    touch_due_at: Ms,
    /// Until when somebody is writing the touch that is due.
    touching_until: AtomicI64,
}

/// A live session, resolved.
pub enum Answer<V> {
    /// As it was known so many ms ago, and is known to be still.
    Kept(V, Ms),
    /// As the store has it.
    Asked(V),
    /// As it is now that this call has moved its expiry in the store.
    Extended(Session),
}

/// What a kept answer is to a resolve now.
#[derive(PartialEq, Eq)]
enum Look {
    /// The answer.
    Holds,
    /// Not the answer to this one caller, who is to write the touch that is due.
    Touch,
    /// Over.
    Ended,
}

impl<V> Kept<V> {
    fn look(&self, touch: Touch, now: Ms) -> Look {
        if now >= self.expires_at {
            return Look::Ended;
        }
        if touch == Touch::Never || now < self.touch_due_at {
            return Look::Holds;
        }
        let until = self.touching_until.load(Ordering::Relaxed);
        let claim = || self.touching_until.compare_exchange(until, now + LEASE, Ordering::Relaxed, Ordering::Relaxed);
        if now >= until && claim().is_ok() { Look::Touch } else { Look::Holds }
    }
}

impl<V: Clone + Send + Sync + 'static> Answers<V> {
    /// With a near-cache where there are `limits` for one.
    #[must_use]
    pub fn new(sessions: Sessions, limits: Option<Limits>) -> Self {
        let cache = limits.map(|limits| Arc::new(Cache::new(limits)));
        if let Some(cache) = &cache {
            sessions.inner.store.watch(Arc::clone(cache) as _);
        }
        Self { sessions, cache }
    }

    /// Whether answers are kept.
    #[must_use]
    pub fn are_kept(&self) -> bool {
        self.cache.is_some()
    }

    /// As [`Sessions::resolve`], but for callers to whom an answer will do that another process's revoke has overtaken
    /// within max-staleness; `exact` is for those to whom it will not. `make` makes an answer, and tells its size in
    /// bytes.
    ///
    /// # Errors
    /// As [`Sessions::resolve`].
    pub async fn resolve(
        &self,
        id: &Id,
        touch: Touch,
        exact: bool,
        make: impl Fn(&Session) -> (V, usize),
    ) -> Result<Option<Answer<V>>, Error> {
        let call = self.sessions.begin();
        let now = call.now;
        let lookups = &self.sessions.metrics().lookups;
        let mut ticket = None;
        match &self.cache {
            None => {}
            Some(_) if exact || touch == Touch::Force => drop(lookups.bypassed.inc()),
            Some(cache) => {
                let look = || cache.get(id.as_str()).map(|kept| (kept.look(touch, now), kept));
                let mut looked = look();
                if !matches!(looked, Some((Look::Holds | Look::Touch, _))) {
                    ticket = Some(cache.ask(id.as_str()).await);
                    looked = look();
                }
                match looked {
                    Some((Look::Holds, kept)) => return Ok(Some(self.again(&kept, now))),
                    _ => drop(lookups.missed.inc()),
                }
            }
        }
        let Some(session) = self.sessions.resolve_at(id, touch, call).await? else {
            // The store tells of it too; this is sooner.
            if let Some(cache) = &self.cache {
                cache.changed(id.as_str());
            }
            return Ok(None);
        };
        if session.extended {
            return Ok(Some(Answer::Extended(session)));
        }
        let (value, bytes) = make(&session);
        if let Some(ticket) = ticket {
            let kept = Kept {
                value: value.clone(),
                asked_at: now,
                // The store's own expiry may be this much sooner.
                expires_at: session.standing.expires_at - TOLERANCE,
                touch_due_at: session.standing.touch_due_at,
                touching_until: AtomicI64::new(0),
            };
            ticket.fill(Arc::new(kept), bytes);
        }
        Ok(Some(Answer::Asked(value)))
    }

    fn again(&self, kept: &Kept<V>, now: Ms) -> Answer<V> {
        let metrics = self.sessions.metrics();
        metrics.lookups.hit.inc();
        metrics.touches.skipped.inc();
        Answer::Kept(kept.value.clone(), (now - kept.asked_at).max(0))
    }
}
