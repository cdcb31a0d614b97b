//! The rules of sessions: issue, resolve, touch, update, regenerate, revoke, purge.
//!
//! Knows no HTTP, no Redis and no SQL. `now` is read once per verb, here, and handed down.

mod by_user;
mod change;
mod data;
mod error;
mod id;
mod policy;
mod record;
mod regenerate;
mod survey;
mod update;
mod user;

pub use by_user::Listing;
pub use change::{Change, MAX_OPERATIONS};
pub use data::{Data, MAX_DEPTH, is_reserved, reserved_names};
pub use error::Error;
pub use id::Id;
pub use policy::{MAX_SPAN, MIN_SPAN, Policy, Standing};
pub use record::{Ours, Record};
pub use regenerate::Regenerate;
pub use survey::{Lists, Stats, Step, Stored, Survey, Walk};
pub use user::{MAX_USER_ID_BYTES, UserPointer, check_user_id};

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::clock::{Clock, Ms};
use crate::cookie::Attributes;
use crate::store::{Entry, Outcome, Store};

/// How often a write is tried again when another one came first. Each lost race is another writer's win, so this
/// many writers of one session at once all get through.
const MAX_RACES: usize = 256;

/// How many rows one step of a user-wide revoke or of a purge takes.
const STEP: usize = 1000;

/// What an answer is given about; the order is that of the answer.
#[derive(Debug, Clone)]
pub struct Session {
    /// Its name.
    pub id: Id,
    /// Its user, if it has one.
    pub user_id: Option<String>,
    /// Its data.
    pub data: Data,
    /// When it was issued (epoch ms). None: Express made it and did not say.
    pub created_at: Option<Ms>,
    /// Where it was issued to.
    pub client: Option<Client>,
    /// Its times.
    pub standing: Standing,
    /// Whether its cookie ends at a time; if not, with the browser.
    pub persistent: bool,
    /// Whether this call moved its expiry in the store.
    pub extended: bool,
}

/// Where a session was issued to, as the caller tells it; shown in a user's list of sessions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    /// The browser's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
    /// The browser's `User-Agent`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<String>,
    /// A name for people to read, such as "Ada's phone".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
}

/// What an issuer asks for. Spans are in ms.
#[derive(Debug, Clone, Default)]
pub struct NewSession {
    /// The user, when they are known already.
    pub user_id: Option<String>,
    /// The data to begin with.
    pub data: Map<String, Value>,
    /// In place of the policy's.
    pub idle_timeout_ms: Option<Ms>,
    /// In place of the policy's.
    pub lifetime_ms: Option<Ms>,
    /// Where it is issued to.
    pub client: Option<Client>,
}

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

/// The sessions of one store under one policy. Cheap to clone.
#[derive(Clone)]
pub struct Sessions {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<dyn Store>,
    policy: Policy,
    attributes: Attributes,
    clock: Clock,
}

/// A live session as it was read.
struct Loaded {
    bytes: Vec<u8>,
    record: Record,
    standing: Standing,
}

impl Sessions {
    /// `attributes` are those of the cookie: express-session keeps them in each record.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, policy: Policy, attributes: Attributes, clock: Clock) -> Self {
        Self { inner: Arc::new(Inner { store, policy, attributes, clock }) }
    }

    /// The policy.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.inner.policy
    }

    /// Whether the store could serve a call now.
    ///
    /// # Errors
    /// When it could not.
    pub async fn ping(&self) -> Result<(), Error> {
        Ok(self.store().ping().await?)
    }

    /// Makes a new session. None when it has no user and no data and the policy does not store such (Express's
    /// `saveUninitialized`).
    ///
    /// # Errors
    /// [`Error::Invalid`] when the issuer asks for what the policy does not allow.
    pub async fn issue(&self, new: NewSession) -> Result<Option<Session>, Error> {
        let policy = self.policy();
        if new.user_id.is_none() && new.data.is_empty() && !policy.save_uninitialized {
            return Ok(None);
        }
        let now = self.now();
        let idle_timeout_ms =
            span(new.idle_timeout_ms, policy.idle_timeout, policy.max_idle_timeout, "/idle_timeout_ms")?;
        let lifetime = span(new.lifetime_ms, policy.lifetime, policy.max_lifetime, "/lifetime_ms")?;
        let mut ours = Ours {
            created_at: now,
            touched_at: now,
            lifetime_ends_at: now + lifetime,
            idle_timeout_ms,
            user_id: None,
            client: new.client,
        };
        let mut map = new.data;
        if let Some(user_id) = new.user_id {
            self.bind(&mut ours, &mut map, Some(user_id))?;
        }
        let data = Data::new(&map, "/data", policy.max_data_bytes)?;
        for _ in 0..MAX_RACES {
            if let Some(session) = self.insert(ours.clone(), data.clone(), !policy.browser_session, now).await? {
                return Ok(Some(session));
            }
        }
        Err(Error::Contention)
    }

    /// The live session called `id`, touched as `touch` says.
    ///
    /// # Errors
    /// [`Error::Store`] when the store cannot say. A touch that was only due and fails is logged, and is no error.
    pub async fn resolve(&self, id: &Id, touch: Touch) -> Result<Option<Session>, Error> {
        let now = self.now();
        let Some(loaded) = self.load(id, now).await? else { return Ok(None) };
        match touch {
            Touch::Force => self.extend(id, loaded, now).await,
            Touch::WhenDue if loaded.standing.touch_due => {
                let untouched = self.session(id, &loaded.record, loaded.standing, false);
                self.extend(id, loaded, now).await.or_else(|error| {
                    tracing::debug!(%error, "a touch was not written");
                    Ok(Some(untouched))
                })
            }
            _ => Ok(Some(self.session(id, &loaded.record, loaded.standing, false))),
        }
    }

    /// Ends the session. Says whether there was one.
    ///
    /// # Errors
    /// [`Error::Store`]: it may or may not have ended.
    pub async fn revoke(&self, id: &Id) -> Result<bool, Error> {
        let now = self.now();
        let Some(found) = self.store().find(id.as_str(), now).await? else { return Ok(false) };
        // Whose it is, so that it leaves their list at once. What cannot be read goes all the same.
        let user_id = Record::decode(&found.record).ok().and_then(|record| self.user_of(&record));
        let outcome = self.store().remove(id.as_str(), None, user_id.as_deref(), now).await?;
        Ok(outcome == Outcome::Applied)
    }

    /// Frees what expired sessions take up in the store, in small steps; says how many.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn purge(&self) -> Result<usize, Error> {
        let mut purged = 0;
        loop {
            let step = self.store().purge_expired(self.now(), STEP).await?;
            purged += step;
            if step < STEP {
                return Ok(purged);
            }
        }
    }

    fn store(&self) -> &dyn Store {
        self.inner.store.as_ref()
    }

    fn now(&self) -> Ms {
        self.inner.clock.now()
    }

    async fn load(&self, id: &Id, now: Ms) -> Result<Option<Loaded>, Error> {
        let Some(found) = self.store().find(id.as_str(), now).await? else { return Ok(None) };
        let record = Record::decode(&found.record)?;
        let standing = self.policy().standing(&record, found.expires_at, now);
        Ok(standing.map(|standing| Loaded { bytes: found.record, record, standing }))
    }

    /// Stores a new session under a random id. None: that did not work out, and another try would.
    async fn insert(&self, ours: Ours, data: Data, persistent: bool, now: Ms) -> Result<Option<Session>, Error> {
        let id = Id::random();
        let (idle_timeout, lifetime_ends_at) = (ours.idle_timeout_ms, Some(ours.lifetime_ends_at));
        let expires_at = policy::expiry(idle_timeout, lifetime_ends_at, now);
        let record = Record::new(&self.inner.attributes, persistent, ours, data, expires_at);
        let user_id = self.user_of(&record);
        let entry = Entry { record: &record.encode(), user_id: user_id.as_deref(), expires_at };
        if !self.store().insert(id.as_str(), entry, now).await? {
            return Ok(None);
        }
        let standing = Standing { idle_timeout, touched_at: now, expires_at, lifetime_ends_at, touch_due: false };
        Ok(Some(self.session(&id, &record, standing, true)))
    }

    /// Writes a touch. Another write that comes first has extended the session too, and then nothing is left to do.
    async fn extend(&self, id: &Id, loaded: Loaded, now: Ms) -> Result<Option<Session>, Error> {
        let Loaded { bytes, mut record, standing } = loaded;
        let expires_at = policy::expiry(standing.idle_timeout, standing.lifetime_ends_at, now);
        // A record that Express made stays as it is, to the byte; only its key's expiry moves.
        if record.ours.is_some() {
            record.stamp(now, expires_at);
        }
        let user_id = self.user_of(&record);
        let stamped = if record.ours.is_some() { record.encode() } else { bytes.clone() };
        let entry = Entry { record: &stamped, user_id: user_id.as_deref(), expires_at };
        match self.store().touch(id.as_str(), &bytes, entry, now).await? {
            Outcome::Applied => {
                let standing = Standing { touched_at: now, expires_at, touch_due: false, ..standing };
                Ok(Some(self.session(id, &record, standing, true)))
            }
            Outcome::Changed => {
                Ok(self.load(id, now).await?.map(|loaded| self.session(id, &loaded.record, loaded.standing, true)))
            }
            Outcome::Missing => Ok(None),
        }
    }

    /// Names the user where the policy wants them named.
    fn bind(&self, ours: &mut Ours, data: &mut Map<String, Value>, user_id: Option<String>) -> Result<(), Error> {
        if let Some(user_id) = &user_id {
            check_user_id(user_id, "/user_id")?;
        }
        match &self.policy().user_pointer {
            Some(pointer) => pointer.set(data, user_id.as_deref()),
            None => {
                ours.user_id = user_id;
                Ok(())
            }
        }
    }

    fn user_of(&self, record: &Record) -> Option<String> {
        self.policy().user_of(record)
    }

    fn session(&self, id: &Id, record: &Record, standing: Standing, extended: bool) -> Session {
        Session {
            id: id.clone(),
            user_id: self.user_of(record),
            data: record.data.clone(),
            created_at: record.ours.as_ref().map(|ours| ours.created_at),
            client: record.ours.as_ref().and_then(|ours| ours.client.clone()),
            standing,
            persistent: record.original_max_age().is_some(),
            extended,
        }
    }
}

impl Session {
    /// A strong entity tag (RFC 9110, section 8.8.3) over user and data, quotes included: times do not change it.
    #[must_use]
    pub fn etag(&self) -> String {
        let mut hash = Sha256::new();
        if let Some(user_id) = &self.user_id {
            hash.update([1]);
            hash.update(user_id);
        }
        // A byte that no user id has, as it is not in UTF-8.
        hash.update([0xFF]);
        hash.update(self.data.as_str());
        format!("\"{}\"", URL_SAFE_NO_PAD.encode(&hash.finalize()[..16]))
    }
}

/// What was asked for, within bounds, or else the policy's.
fn span(asked: Option<Ms>, default: Ms, max: Ms, pointer: &str) -> Result<Ms, Error> {
    match asked {
        None => Ok(default),
        Some(ms) if (MIN_SPAN..=max).contains(&ms) => Ok(ms),
        Some(ms) => {
            let detail =
                format!("{ms} ms is not within {MIN_SPAN} to {max} ms, which this service is configured to allow");
            Err(Error::invalid("out-of-bounds", pointer, detail))
        }
    }
}

/// Runs `work` to its end, even when whoever waits for it goes away.
async fn finish<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    match tokio::spawn(work).await {
        Ok(outcome) => outcome,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
