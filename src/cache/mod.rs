//! The near-cache: resolves that are answered with what an earlier one was answered.
//!
//! [`Answers`] has the rules of sessions, [`Cache`] the promise about staleness.
//!
//! An answer is given again while the session is live and, by the rule of touches, as long as none is due. When one is, a
//! single caller writes it; the others are given the answer meanwhile, which to them is as if that one came first.
//!
//! How old an answer is, and so whether a touch is due, is measured with a clock that never goes back: Redis counts down the
//! time that a session has left, and does not wait for a wall clock that has stepped back. A session also ends when the
//! wall clock says so, whichever is sooner.

mod entries;
mod generations;

pub use self::entries::{Cache, Limits, Ticket};

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use crate::clock::{BootInstant, Ms};
use crate::id::Id;
use crate::session::{Error, Session, Sessions, Standing, TOLERANCE, Touch};
use crate::store::Watcher;

/// The lock of the generations; their test by loom has its own.
mod sync {
    pub(super) use std::sync::Mutex;
}

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
    /// When the store was asked. Ages count from here, in ms.
    asked_at: BootInstant,
    /// By the wall clock (epoch ms).
    expires_at: Ms,
    /// At which age the session expires.
    expires_after: Ms,
    /// From which age on a touch is due.
    touch_due_after: Ms,
    /// Until which age somebody is writing the touch that is due.
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
    /// What was made of a session in this standing when the store was asked, at `now` and `asked_at`.
    fn new(value: V, standing: &Standing, now: Ms, asked_at: BootInstant) -> Self {
        // The store's own expiry may be this much sooner.
        let expires_at = standing.expires_at - TOLERANCE;
        Self {
            value,
            asked_at,
            expires_at,
            expires_after: expires_at - now,
            touch_due_after: standing.touch_due_at - now,
            touching_until: AtomicI64::new(0),
        }
    }

    /// What this is to a resolve at `now`, by the wall clock, when it is `age` ms old.
    fn look(&self, touch: Touch, now: Ms, age: Ms) -> Look {
        if age >= self.expires_after || now >= self.expires_at {
            return Look::Ended;
        }
        if touch == Touch::Never || age < self.touch_due_after {
            return Look::Holds;
        }
        let until = self.touching_until.load(Ordering::Relaxed);
        let claim = || self.touching_until.compare_exchange(until, age + LEASE, Ordering::Relaxed, Ordering::Relaxed);
        if age >= until && claim().is_ok() { Look::Touch } else { Look::Holds }
    }
}

impl<V: Clone + Send + Sync + 'static> Answers<V> {
    /// With a near-cache where there are `limits` for one.
    #[must_use]
    pub fn new(sessions: Sessions, limits: Option<Limits>) -> Self {
        let cache = limits.map(|limits| Arc::new(Cache::new(limits)));
        if let Some(cache) = &cache {
            sessions.watch(Arc::clone(cache) as _);
        }
        Self { sessions, cache }
    }

    /// Whether answers are kept.
    #[must_use]
    pub fn are_kept(&self) -> bool {
        self.cache.is_some()
    }

    /// Like [`Sessions::resolve`], but may return a cached answer up to `max_staleness` old, unless `exact`. `make` returns an
    /// answer and its size in bytes.
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
                let at = self.sessions.instant();
                let look = || {
                    let kept = cache.get(id.as_str())?;
                    let age = at.ms_since(kept.asked_at);
                    Some((kept.look(touch, now, age), age, kept))
                };
                let mut looked = look();
                if !matches!(looked, Some((Look::Holds | Look::Touch, ..))) {
                    ticket = Some((cache.ask(id.as_str()).await, at));
                    looked = look();
                }
                match looked {
                    Some((Look::Holds, age, kept)) => return Ok(Some(self.again(&kept, age))),
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
        if let Some((ticket, asked_at)) = ticket {
            ticket.fill(Arc::new(Kept::new(value.clone(), &session.standing, now, asked_at)), bytes);
        }
        Ok(Some(Answer::Asked(value)))
    }

    fn again(&self, kept: &Kept<V>, age: Ms) -> Answer<V> {
        let metrics = self.sessions.metrics();
        metrics.lookups.hit.inc();
        metrics.touches.skipped.inc();
        Answer::Kept(kept.value.clone(), age)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Ms = 1_000_000_000_000;
    const HOUR: Ms = 3_600_000;

    /// A session that expires in an hour, with a touch due in a minute.
    fn kept() -> Kept<()> {
        let standing = Standing {
            idle_timeout: HOUR,
            touched_at: NOW,
            expires_at: NOW + HOUR,
            lifetime_ends_at: None,
            touch_due_at: NOW + 60_000,
        };
        Kept::new((), &standing, NOW, BootInstant::now())
    }

    #[test]
    fn an_answer_ends_by_either_clock() {
        let ends = |now, age| kept().look(Touch::Never, now, age) == Look::Ended;
        let last = HOUR - TOLERANCE - 1;
        assert!(!ends(NOW + last, last));
        assert!(ends(NOW + last + 1, last), "the wall clock");
        assert!(ends(NOW + last, last + 1), "its age");
        assert!(ends(NOW - 10 * HOUR, last + 1), "a wall clock that steps back gives it no more time");
        assert!(ends(NOW + 2 * HOUR, 0), "one that steps forward takes it");
    }

    #[test]
    fn a_touch_and_its_lease_go_by_the_answers_age() {
        for step in [-10 * HOUR, 0, HOUR / 2] {
            let kept = kept();
            let look = |age| kept.look(Touch::WhenDue, NOW + step + age, age);
            assert!(look(59_999) == Look::Holds, "{step}");
            assert!(look(60_000) == Look::Touch && look(60_000) == Look::Holds, "one caller writes it: {step}");
            // That one has failed; and the wall clock has stepped back.
            assert!(kept.look(Touch::WhenDue, NOW - HOUR, 60_000 + LEASE - 1) == Look::Holds);
            assert!(kept.look(Touch::WhenDue, NOW - HOUR, 60_000 + LEASE) == Look::Touch, "the next one does: {step}");
        }
    }
}
