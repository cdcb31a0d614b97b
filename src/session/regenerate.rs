//! Regenerate: a new id for the same session. With a user, this is login; it is what ends session fixation.

use serde_json::{Map, Value};

use super::issue::Unstored;
use super::record::Ours;
use super::{Call, Change, Client, Data, Error, Id, Loaded, MAX_RACES, Session, Sessions, span};
use crate::clock::Ms;
use crate::store::{Entry, Outcome};

/// What changes with the id. `None` leaves a field as it is. Spans are in ms.
#[derive(Debug, Clone, Default)]
pub struct Regenerate {
    /// Binds a user, or `Some(None)` unbinds them. Binding one is a login: the lifetime begins anew.
    ///
    /// If the session belonged to another user, it starts anew: its data, client, timeouts and creation time are those
    /// of a newly issued session, except for the fields that are given here.
    pub user_id: Option<Option<String>>,
    /// Keeps the data of a session that belonged to another user. It keeps only the data.
    pub keep_data: bool,
    /// An RFC 7396 merge patch. It applies to the data that is kept, or to an empty object.
    pub data: Option<Value>,
    /// A new idle timeout.
    pub idle_timeout_ms: Option<Ms>,
    /// A new lifetime, from now.
    pub lifetime_ms: Option<Ms>,
    /// Where the session is now.
    pub client: Option<Client>,
}

/// What the session is under its new id.
struct Successor {
    ours: Ours,
    data: Data,
    /// Whether its cookie ends at a time, and not with the browser.
    persistent: bool,
}

impl Sessions {
    /// Gives the session a new id and ends the old one, in one step: of many at once exactly one wins, and the
    /// others get None, as for a session that is not there.
    ///
    /// `if_match` is asked for the session as it is before; a no ends the call.
    ///
    /// # Errors
    /// [`Error::PreconditionFailed`]; [`Error::Invalid`] and [`Error::TooManySessions`] as for issue;
    /// [`Error::Store`]: the old id may or may not have ended.
    pub async fn regenerate(
        &self,
        id: &Id,
        wanted: Regenerate,
        if_match: impl Fn(&Session) -> bool + Send + Sync + 'static,
    ) -> Result<Option<Session>, Error> {
        let (sessions, id) = (self.clone(), id.clone());
        // A caller that hangs up does not leave both ids alive.
        self.finish(async move { sessions.regenerate_to_the_end(&id, &wanted, if_match).await }).await
    }

    async fn regenerate_to_the_end(
        &self,
        id: &Id,
        wanted: &Regenerate,
        if_match: impl Fn(&Session) -> bool + Send + Sync,
    ) -> Result<Option<Session>, Error> {
        let call = self.begin();
        let now = call.now;
        for _ in 0..MAX_RACES {
            let Some(old) = self.load(id, call).await? else { return Ok(None) };
            if !if_match(&self.session(id.clone(), old.record.clone(), old.standing, false)) {
                return Err(Error::PreconditionFailed);
            }
            let old_user = self.user_of(&old.record);
            let Successor { ours, data, persistent } = self.successor(&old, old_user.as_deref(), wanted, now)?;
            // A user who logs in gets one session more; one who is logged in already does not.
            let user = wanted.user_id.as_ref().and_then(Option::as_deref);
            let place = match user.filter(|user| old_user.as_deref() != Some(user)) {
                Some(_) => self.reserve(&ours, &data, persistent, call).await?,
                None => None,
            };
            let new = self.unstored(Id::random(), ours, data, persistent, now);
            let outcome = self.supersede(id, &old, old_user.as_deref(), &new, call).await;
            if let Some(place) = place {
                self.release(place, call).await;
            }
            match outcome? {
                Outcome::Applied => {
                    self.evict(new.user_id.as_deref(), call).await;
                    self.metrics().regenerated.inc();
                    return Ok(Some(self.session(new.id, new.record, new.standing, true)));
                }
                Outcome::Missing => return Ok(None),
                Outcome::Changed => {}
            }
        }
        Err(Error::Contention)
    }

    async fn supersede(
        &self,
        id: &Id,
        old: &Loaded,
        old_user: Option<&str>,
        new: &Unstored,
        call: Call,
    ) -> Result<Outcome, Error> {
        let entry = Entry {
            record: &new.record.encode(),
            user_id: new.user_id.as_deref(),
            expires_at: new.standing.expires_at,
        };
        let superseded =
            self.store(call).supersede(id.as_str(), &old.bytes, old_user, new.id.as_str(), entry, call.now).await;
        if superseded.is_err() {
            // Nobody will learn the new id.
            self.withdraw_later(new.id.clone(), new.user_id.clone());
        }
        Ok(superseded?)
    }

    /// Returns what the session is under its new id.
    fn successor(
        &self,
        old: &Loaded,
        old_user: Option<&str>,
        wanted: &Regenerate,
        now: Ms,
    ) -> Result<Successor, Error> {
        let policy = self.policy();
        let login = matches!(wanted.user_id, Some(Some(_)));
        // Nothing of one user's session is passed on to another, or to whoever uses the browser after a logout. What
        // nobody's session holds, such as a cart, is the user's who logs in.
        let anew = old_user.is_some() && wanted.user_id.as_ref().is_some_and(|user| user.as_deref() != old_user);
        let before = old.record.ours.as_ref().filter(|_| !anew);
        let idle_timeout = if anew { policy.idle_timeout } else { old.standing.idle_timeout };
        let idle_timeout_ms = span(wanted.idle_timeout_ms, idle_timeout, policy.max_idle_timeout, "/idle_timeout_ms")?;
        let lifetime = span(wanted.lifetime_ms, policy.lifetime, policy.max_lifetime, "/lifetime_ms")?;
        let kept = old.standing.lifetime_ends_at.filter(|_| !login && !anew && wanted.lifetime_ms.is_none());
        let persistent = if anew { !policy.browser_session } else { old.record.original_max_age().is_some() };
        let mut ours = Ours {
            created_at: before.map(|ours| ours.created_at).filter(|_| !login).unwrap_or(now),
            touched_at: now,
            lifetime_ends_at: kept.unwrap_or(now + lifetime),
            idle_timeout_ms,
            user_id: before.filter(|_| wanted.user_id.is_none()).and_then(|ours| ours.user_id.clone()),
            client: wanted.client.clone().or_else(|| before.and_then(|ours| ours.client.clone())),
            pending: false,
        };
        let keep_data = !anew || wanted.keep_data;
        if keep_data && wanted.data.is_none() && (wanted.user_id.is_none() || policy.user_pointer.is_none()) {
            if let Some(user_id) = &wanted.user_id {
                self.bind(&mut ours, &mut Map::new(), user_id.clone())?;
            }
            return Ok(Successor { ours, data: old.record.data.clone(), persistent });
        }
        // Data that is dropped need not be readable.
        let mut map = if keep_data { old.record.data.to_map()? } else { Map::new() };
        if let Some(patch) = &wanted.data {
            map = Change::Merge(patch.clone()).apply(map, policy.max_data_bytes)?;
        }
        if let Some(user_id) = &wanted.user_id {
            self.bind(&mut ours, &mut map, user_id.clone())?;
        } else if let Some(pointer) = &policy.user_pointer {
            let data = Data::new(&map, "/data", policy.max_data_bytes)?;
            if pointer.get(&data) != pointer.get(&old.record.data) {
                return Err(Error::invalid("user-is-bound", "/data", "name the user in user_id, not in the data"));
            }
        }
        let data = Data::new(&map, "/data", policy.max_data_bytes)?;
        Ok(Successor { ours, data, persistent })
    }
}
