//! The rules of expiry: pure functions of a record, the policy and `now`.

use super::record::Record;
use super::user::UserPointer;
use crate::clock::Ms;

/// The shortest idle timeout and lifetime, in ms.
pub const MIN_SPAN: Ms = 1000;

/// The longest idle timeout and lifetime, in ms: the 400 days after which browsers drop any cookie (RFC 6265bis).
pub const MAX_SPAN: Ms = 400 * 24 * 60 * 60 * 1000;

/// How far apart the store's expiry and the record's may be and still be the same, in ms: round trips and
/// Express's whole seconds.
pub(crate) const TOLERANCE: Ms = 1000;

/// How many bytes of data one step reads at the most, and how many records.
const STEP_BYTES: usize = 16 * 1024 * 1024;
const MAX_STEP: usize = 250;

/// What an operator decides about every session. Spans are in ms.
#[derive(Debug, Clone)]
pub struct Policy {
    /// The idle timeout of a session whose issuer names none.
    pub idle_timeout: Ms,
    /// The longest idle timeout that an issuer may ask for.
    pub max_idle_timeout: Ms,
    /// The lifetime of a session whose issuer names none.
    pub lifetime: Ms,
    /// The longest lifetime that an issuer may ask for.
    pub max_lifetime: Ms,
    /// How old a touch may be before a resolve writes the next; never more than a tenth of the idle timeout counts.
    pub touch_after: Ms,
    /// Whether a written touch moves the cookie's expiry too.
    pub rolling: bool,
    /// Whether an update that changes nothing is written all the same.
    pub resave: bool,
    /// Whether a session without user and data is stored.
    pub save_uninitialized: bool,
    /// Whether cookies end with the browser instead of at a time.
    pub browser_session: bool,
    /// Whether an Express writes to the store too: it may name a session's user without telling the index.
    pub express_writes: bool,
    /// Where in the data the user's id is; None: in the record's own `sessiond.user_id`.
    pub user_pointer: Option<UserPointer>,
    /// The most that a session's data may take, as JSON, in bytes.
    pub max_data_bytes: usize,
    /// How many sessions a user may have at once. None: as many as they like.
    pub max_sessions_per_user: Option<usize>,
    /// What happens when a user would get one more than that.
    pub on_limit: OnLimit,
}

/// What happens when a user would get one session more than they may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum OnLimit {
    /// The one that was issued first ends.
    EvictOldest,
    /// The one that was touched longest ago ends.
    EvictIdle,
    /// There is no new one.
    Reject,
}

/// Where a live session stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// ms without a touch until it expires.
    pub idle_timeout: Ms,
    /// When it was last touched, as far as can be told.
    pub touched_at: Ms,
    /// When it expires unless it is touched.
    pub expires_at: Ms,
    /// When it ends whatever happens. None: Express made it, and knows no lifetime.
    pub lifetime_ends_at: Option<Ms>,
    /// From when on a resolve should write a touch.
    pub touch_due_at: Ms,
}

impl Standing {
    /// Whether a resolve should write a touch.
    #[must_use]
    pub fn touch_due(&self, now: Ms) -> bool {
        now >= self.touch_due_at
    }
}

/// When a session expires that is touched at `now`: after its idle timeout, never after its lifetime.
#[must_use]
fn expiry(idle_timeout: Ms, lifetime_ends_at: Option<Ms>, now: Ms) -> Ms {
    now.saturating_add(idle_timeout).min(lifetime_ends_at.unwrap_or(Ms::MAX))
}

impl Policy {
    /// The record's idle timeout. express-session's `originalMaxAge` is the authority, because Express re-applies it;
    /// but it drifts down by a millisecond now and then, which is not a change.
    #[must_use]
    pub fn idle_timeout_of(&self, record: &Record) -> Ms {
        let ours = record.ours.as_ref().map(|ours| ours.idle_timeout_ms);
        match (record.original_max_age(), ours) {
            (Some(max_age), Some(ours)) if max_age <= ours && ours.abs_diff(max_age) < TOLERANCE.unsigned_abs() => ours,
            (Some(max_age), _) => max_age,
            (None, Some(ours)) => ours,
            (None, None) => self.idle_timeout,
        }
        .clamp(MIN_SPAN, crate::clock::MAX_MS)
    }

    /// How many records are read in one step where many are wanted: together at most about 16 MiB, so that a step ends
    /// before the store's deadline, and holds up nobody else who shares the connection for long.
    #[must_use]
    pub fn step(&self) -> usize {
        (STEP_BYTES / self.max_data_bytes.max(1)).clamp(1, MAX_STEP)
    }

    /// The user whom a record names.
    #[must_use]
    pub fn user_of(&self, record: &Record) -> Option<String> {
        match &self.user_pointer {
            Some(pointer) => pointer.get(&record.data),
            None => record.ours.as_ref()?.user_id.clone(),
        }
    }

    /// Where a stored session stands at `now`; None when it is not live.
    ///
    /// `stored_expiry` is what the store will do. Within a second of what the record says, the record is more
    /// exact; further off, another writer has touched the session and the store is right. The `expires` inside a
    /// record is never judged by: Express leaves it stale. A store without an expiry (an Express with `disableTTL`)
    /// counts as touched now, and due to be touched. A pending record is not live.
    #[must_use]
    pub fn standing(&self, record: &Record, stored_expiry: Option<Ms>, now: Ms) -> Option<Standing> {
        let idle_timeout = self.idle_timeout_of(record);
        let lifetime_ends_at = record.ours.as_ref().map(|ours| ours.lifetime_ends_at);
        let noted =
            record.ours.as_ref().map(|ours| (ours.touched_at, expiry(idle_timeout, lifetime_ends_at, ours.touched_at)));
        // `sooner`: by how much the store expires the session before the time that the record says.
        let (touched_at, expires_at, sooner) = match (stored_expiry, noted) {
            (Some(stored), Some((touched_at, noted))) if stored.abs_diff(noted) <= TOLERANCE.unsigned_abs() => {
                (touched_at, noted, (noted - stored).max(0))
            }
            (Some(stored), _) => {
                (stored.saturating_sub(idle_timeout).min(now), stored.min(lifetime_ends_at.unwrap_or(Ms::MAX)), 0)
            }
            (None, _) => (now, expiry(idle_timeout, lifetime_ends_at, now), 0),
        };
        // A clock that has stepped back since the touch makes it look younger than it is; Redis counts down the time
        // that is left, whatever the clocks say. In SQLite the expiry is an instant of the same clock: it steps back too.
        let touch_due_at =
            stored_expiry.map_or(now, |_| self.touch_due_at(idle_timeout, touched_at.saturating_sub(sooner)));
        let live = expires_at > now && !record.ours.as_ref().is_some_and(|ours| ours.pending);
        live.then_some(Standing { idle_timeout, touched_at, expires_at, lifetime_ends_at, touch_due_at })
    }

    /// Where a session stands that is touched at `now`.
    #[must_use]
    pub(super) fn touched(&self, idle_timeout: Ms, lifetime_ends_at: Option<Ms>, now: Ms) -> Standing {
        Standing {
            idle_timeout,
            touched_at: now,
            expires_at: expiry(idle_timeout, lifetime_ends_at, now),
            lifetime_ends_at,
            touch_due_at: self.touch_due_at(idle_timeout, now),
        }
    }

    /// When the touch after the one at `touched_at` is due.
    fn touch_due_at(&self, idle_timeout: Ms, touched_at: Ms) -> Ms {
        touched_at.saturating_add(self.touch_after.min(idle_timeout / 10))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn policy() -> Policy {
        Policy {
            idle_timeout: 86_400_000,
            max_idle_timeout: MAX_SPAN,
            lifetime: MAX_SPAN,
            max_lifetime: MAX_SPAN,
            touch_after: 60_000,
            rolling: true,
            resave: false,
            save_uninitialized: false,
            browser_session: false,
            express_writes: false,
            user_pointer: None,
            max_data_bytes: 65_536,
            max_sessions_per_user: None,
            on_limit: OnLimit::EvictOldest,
        }
    }

    fn record(max_age: Option<Ms>, ours: Option<(Ms, Ms, Ms)>) -> Record {
        let max_age = max_age.map_or("null".into(), |ms| ms.to_string());
        let ours = ours.map_or(String::new(), |(touched_at, lifetime_ends_at, idle_timeout_ms)| {
            format!(
                r#","sessiond":{{"created_at":0,"touched_at":{touched_at},"lifetime_ends_at":{lifetime_ends_at},"idle_timeout_ms":{idle_timeout_ms}}}"#
            )
        });
        Record::decode(format!(r#"{{"cookie":{{"originalMaxAge":{max_age}}}{ours}}}"#).as_bytes()).unwrap()
    }

    #[test]
    fn express_max_age_rules_and_its_drift_does_not() {
        let idle =
            |max_age, ours: Option<Ms>| policy().idle_timeout_of(&record(max_age, ours.map(|idle| (0, 0, idle))));
        assert_eq!(idle(Some(60_000), None), 60_000);
        assert_eq!(idle(Some(59_984), Some(60_000)), 60_000, "drift");
        assert_eq!(idle(Some(30_000), Some(60_000)), 30_000, "Express set another");
        assert_eq!(idle(Some(90_000), Some(60_000)), 90_000, "Express set another");
        assert_eq!(idle(None, Some(60_000)), 60_000, "a browser session");
        assert_eq!(idle(None, None), 86_400_000);
        assert_eq!(idle(Some(-5), None), MIN_SPAN);
        assert_eq!(idle(Some(Ms::MAX), None), crate::clock::MAX_MS);
    }

    #[test]
    fn a_lifetime_ends_a_session_that_is_touched() {
        let policy = policy();
        let session = record(Some(60_000), Some((50_000, 100_000, 60_000)));
        let at = |now| policy.standing(&session, Some(100_000), now);
        assert_eq!(at(99_999).map(|standing| standing.expires_at), Some(100_000));
        assert_eq!(at(100_000), None);
        assert_eq!(
            policy.standing(&session, Some(500_000), 100_000),
            None,
            "an Express touch moves the key, not the lifetime"
        );
    }

    #[test]
    fn another_writers_touch_is_seen_in_the_store() {
        let policy = policy();
        let express = record(Some(600_000), None);
        let standing = policy.standing(&express, Some(1_600_000), 1_050_000).unwrap();
        assert_eq!(
            (standing.touched_at, standing.expires_at, standing.touch_due(1_050_000)),
            (1_000_000, 1_600_000, false)
        );
        let ours = record(Some(600_000), Some((1_000_000, MAX_SPAN, 600_000)));
        let noted = policy.standing(&ours, Some(1_600_003), 1_050_000).unwrap();
        assert_eq!((noted.touched_at, noted.expires_at), (1_000_000, 1_600_000), "the record is more exact");
        let moved = policy.standing(&ours, Some(1_640_000), 1_050_000).unwrap();
        assert_eq!((moved.touched_at, moved.expires_at), (1_040_000, 1_640_000));
        let no_ttl = policy.standing(&express, None, 1_050_000).unwrap();
        assert!(no_ttl.touch_due(1_050_000) && no_ttl.expires_at == 1_650_000);
    }

    /// The store counts down what is left; the record has the time of a clock that has stepped back since.
    #[test]
    fn a_clock_that_steps_back_a_little_delays_no_touch() {
        let session = record(Some(1000), Some((10_000, MAX_SPAN, 1000)));
        // Touched 500 ms ago, then back by 950 ms: the store keeps it for 500 ms more.
        let (now, left) = (10_000 + 500 - 950, 500);
        let standing = policy().standing(&session, Some(now + left), now).unwrap();
        assert!(standing.touch_due(now), "{standing:?}");
        let standing = policy().standing(&session, Some(now + 950), now).unwrap();
        assert!(!standing.touch_due(now), "touched 50 ms ago: {standing:?}");
    }

    /// An application may write what it likes into `sessiond`.
    #[test]
    fn wild_numbers_do_not_overflow() {
        for wild in [Ms::MIN, -1, 0, Ms::MAX] {
            let session = record(Some(wild), Some((wild, wild, wild)));
            for stored in [None, Some(Ms::MIN), Some(5), Some(Ms::MAX)] {
                let _ = policy().standing(&session, stored, 1_000);
            }
        }
    }

    proptest! {
        #[test]
        fn a_touch_is_due_by_what_the_store_has_left(
            idle in prop_oneof![MIN_SPAN..5 * MIN_SPAN, MIN_SPAN..MAX_SPAN],
            age in 0.0..1.0,
            step in prop_oneof![-2000..2000_i64, -MAX_SPAN..MAX_SPAN],
        ) {
            #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "a part of a span")]
            let age = (idle as f64 * age) as Ms;
            let (policy, touched_at) = (policy(), 2 * MAX_SPAN);
            let session = record(Some(idle), Some((touched_at, 10 * MAX_SPAN, idle)));
            let now = touched_at + age + step;
            let standing = policy.standing(&session, Some(now + idle - age), now);
            // A clock that steps forward by less than the tolerance ends a session by that much sooner.
            prop_assume!(standing.is_some() || !(0..=TOLERANCE).contains(&step));
            let (due, touch_after) = (standing.unwrap().touch_due(now), 60_000.min(idle / 10));
            prop_assert!(due || age < touch_after, "a touch is due {} ms after the last", touch_after);
            prop_assert!(!due || age + TOLERANCE >= touch_after, "a touch {} ms after the last is early", age);
        }

        #[test]
        fn a_touch_never_shortens_nor_outlives(idle in MIN_SPAN..MAX_SPAN, lifetime in MIN_SPAN..MAX_SPAN, steps in prop::collection::vec(0..MAX_SPAN / 4, 1..20)) {
            let policy = policy();
            let (mut now, mut touched) = (0, 0);
            for step in steps {
                now += step;
                let session = record(Some(idle), Some((touched, lifetime, idle)));
                let stored = expiry(idle, Some(lifetime), touched);
                let standing = policy.standing(&session, Some(stored), now);
                prop_assert_eq!(standing.is_some(), now < touched + idle && now < lifetime);
                let Some(standing) = standing else { break };
                prop_assert_eq!(standing.expires_at, stored);
                prop_assert_eq!(standing.touch_due(now), now - touched >= 60_000.min(idle / 10));
                let moved = expiry(idle, Some(lifetime), now);
                prop_assert!(moved >= stored && moved <= lifetime && moved > now);
                if standing.touch_due(now) { touched = now }
            }
        }
    }
}
