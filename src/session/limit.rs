//! How many sessions a user may have at once, and what happens to one too many.
//!
//! With a limit, a new session takes a *place* first: it is stored as pending, which no caller can see, for [`PLACE`] only.
//! Then it is confirmed: its record is replaced by one that is not pending and expires as it should. So a login that ends in
//! an error, or whose process dies, occupies a place for seconds. (A single script cannot do it: the places of a user are
//! keys on different nodes of a cluster.) Without a limit no place can be occupied, and a session is stored in one step.
//!
//! A login counts the sessions after it has stored its own. So of many logins at once, the last one sees all of them.

use tokio::time::{Duration, Instant, sleep};

use super::record::Ours;
use super::{Call, Data, Error, Id, MAX_RACES, OnLimit, Session, Sessions};
use crate::clock::Ms;
use crate::store::{Entry, Insertion, Outcome};

/// How long a place is held for a login that is not complete, in ms: far more than the deadline of a request.
pub(super) const PLACE: Ms = 10_000;

/// How often a login that is refused among others counts again. The others withdraw at once, and there may be room for
/// some of them.
const TRIES: u32 = 6;

/// How much of the request's time one more try needs: a few calls to the store.
const CALLS: Duration = Duration::from_millis(300);

/// How old a session is that is no longer about to be withdrawn, in ms.
const SETTLED: Ms = 2000;

/// A place that is held, and the session that it is held for.
pub(super) struct Place {
    pub id: Id,
    pub user_id: Option<String>,
    record: Vec<u8>,
}

impl Sessions {
    /// Stores a session as one of those that its user may have: others give way, or it is refused.
    pub(super) async fn insert_limited(
        &self,
        ours: Ours,
        data: Data,
        persistent: bool,
        call: Call,
    ) -> Result<Session, Error> {
        if self.unstored(Id::random(), ours.clone(), data.clone(), persistent, call.now).user_id.is_none() {
            return self.insert(ours, data, persistent, call).await;
        }
        for _ in 0..MAX_RACES {
            let place = match self.reserve(&ours, &data, persistent, call).await? {
                Some(place) => place,
                None => self.hold(&ours, &data, persistent, call).await?,
            };
            let new = self.unstored(place.id.clone(), ours.clone(), data.clone(), persistent, call.now);
            let entry = Entry {
                record: &new.record.encode(),
                user_id: new.user_id.as_deref(),
                expires_at: new.standing.expires_at,
            };
            match self.store(call).replace(new.id.as_str(), &place.record, entry, call.now).await {
                Ok(Outcome::Applied) => {
                    self.evict(new.user_id.as_deref(), call).await;
                    return Ok(self.session(new.id, new.record, new.standing, true));
                }
                // All of the user's sessions were revoked meanwhile.
                Ok(Outcome::Changed | Outcome::Missing) => {}
                Err(error) => {
                    self.withdraw_later(place.id, place.user_id);
                    return Err(error.into());
                }
            }
        }
        Err(Error::Contention)
    }

    /// Where the policy is to refuse what is one too many: takes a place for a session like this one. `None` where it is
    /// another policy, or the session has no user.
    pub(super) async fn reserve(
        &self,
        ours: &Ours,
        data: &Data,
        persistent: bool,
        call: Call,
    ) -> Result<Option<Place>, Error> {
        let policy = self.policy();
        let (Some(limit), OnLimit::Reject) = (policy.max_sessions_per_user, policy.on_limit) else { return Ok(None) };
        for trial in 1..=TRIES {
            let place = self.hold(ours, data, persistent, call).await?;
            let Some(user_id) = place.user_id.as_deref() else { return Ok(Some(place)) };
            let theirs = match self.rows(user_id, call).await {
                Ok(theirs) if theirs.len() <= limit => return Ok(Some(place)),
                theirs => theirs,
            };
            self.release(place, call).await;
            let is_settled = |at: Option<Ms>| at.is_none_or(|at| at <= call.now - SETTLED);
            if theirs?.iter().filter(|row| !row.pending && is_settled(row.created_at)).count() >= limit {
                break;
            }
            let pause = pause(trial);
            if Instant::now() + pause + CALLS > call.deadline {
                break;
            }
            sleep(pause).await;
        }
        Err(Error::TooManySessions { limit })
    }

    /// Stores a session like this one as pending.
    async fn hold(&self, ours: &Ours, data: &Data, persistent: bool, call: Call) -> Result<Place, Error> {
        let ours = Ours { pending: true, ..ours.clone() };
        for _ in 0..MAX_RACES {
            let new = self.unstored(Id::random(), ours.clone(), data.clone(), persistent, call.now);
            let record = new.record.encode();
            let expires_at = new.standing.expires_at.min(call.now + PLACE);
            let entry = Entry { record: &record, user_id: new.user_id.as_deref(), expires_at };
            match self.store(call).insert(new.id.as_str(), entry, call.now).await {
                Ok(Insertion::Done) => return Ok(Place { id: new.id, user_id: new.user_id, record }),
                Ok(Insertion::Refused) => {}
                Err(error) => {
                    self.withdraw_later(new.id, new.user_id);
                    return Err(error.into());
                }
            }
        }
        Err(Error::Contention)
    }

    /// Gives a place back.
    pub(super) async fn release(&self, place: Place, call: Call) {
        let removed = self.store(call).remove(&[place.id.as_str()], place.user_id.as_deref(), call.now).await;
        if removed.is_err() {
            self.withdraw_later(place.id, place.user_id);
        }
    }

    /// Ends the sessions that a user has too many. If the store fails, this is done when it answers again.
    pub(super) async fn evict(&self, user_id: Option<&str>, call: Call) {
        let Some(user_id) = user_id else { return };
        if let Err(error) = self.evict_down_to_limit(user_id, call).await {
            tracing::debug!(%error, "a user has more sessions than --max-sessions-per-user until the store answers");
            self.evict_later(user_id.to_owned());
        }
    }

    pub(super) async fn evict_down_to_limit(&self, user_id: &str, call: Call) -> Result<(), Error> {
        let policy = self.policy();
        let Some(limit) = policy.max_sessions_per_user.filter(|_| policy.on_limit != OnLimit::Reject) else {
            return Ok(());
        };
        for _ in 0..MAX_RACES {
            let mut theirs = self.rows(user_id, call).await?;
            // Nobody gives way to a login that may yet fail.
            theirs.retain(|row| !row.pending);
            let over = theirs.len().saturating_sub(limit);
            // Everybody who evicts begins with the same ones.
            match policy.on_limit {
                OnLimit::EvictOldest | OnLimit::Reject => {
                    theirs.sort_unstable_by_key(|row| (row.created_at, row.id.clone()));
                }
                OnLimit::EvictIdle => theirs.sort_unstable_by_key(|row| (row.touched_at, row.id.clone())),
            }
            if over == 0 {
                return Ok(());
            }
            let ids: Vec<&str> = theirs[..over].iter().map(|row| row.id.as_str()).collect();
            let removed = self.store(call).remove(&ids, Some(user_id), call.now).await?;
            self.metrics().revoked.by_limit.inc_by(removed as u64);
        }
        Err(Error::Contention)
    }
}

/// Longer each time, and by chance, so that those who wait do not meet again.
fn pause(trial: u32) -> Duration {
    let most = 10 << trial;
    Duration::from_millis(u64::from(getrandom::u32().unwrap_or_default() % most))
}
