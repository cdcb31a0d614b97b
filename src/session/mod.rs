//! The rules of sessions: issue, resolve, touch, update, regenerate, revoke, purge.
//!
//! Knows no HTTP, no Redis and no SQL. `now` is read once per verb, here, and handed down.

mod adopt;
mod answers;
mod by_user;
mod change;
mod data;
mod enlist;
mod error;
mod id;
mod issue;
mod limit;
mod policy;
mod queue;
mod record;
mod regenerate;
mod repair;
mod resolve;
mod revoke;
mod survey;
mod update;
mod user;

pub use adopt::{Adopted, Unreadable};
pub use answers::{Answer, Answers};
pub use by_user::Listing;
pub use change::{Change, MAX_OPERATIONS};
pub use data::{Data, MAX_DEPTH, is_reserved, reserved_names};
pub use error::Error;
pub use id::Id;
pub use issue::NewSession;
pub use policy::{MAX_SPAN, MIN_SPAN, OnLimit, Policy, Standing};
pub use record::{Ours, Record};
pub use regenerate::Regenerate;
pub use resolve::{MAX_ANSWER_BYTES, Touch};
pub use survey::{Lists, Stats, Step, Stored, Survey, Walk};
pub use user::{MAX_USER_ID_BYTES, UserPointer, check_user_id};

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use tokio::time::{Duration, Instant};
use tokio_util::task::TaskTracker;

use crate::clock::{BootInstant, Clock, Ms};
use crate::cookie::Attributes;
use crate::store::{Calls, Metered, Store};
use crate::telemetry::Metrics;

/// How often a write is tried again when another one came first. Each lost race is another writer's win, so this
/// many writers of one session at once all get through.
const MAX_RACES: usize = 256;

/// How long the calls to the store of one request may take, all together. One call ends within 500 ms
/// ([`crate::store::DEADLINE`]); of a login that makes several on a slow link, the last ones get what is left.
const REQUEST: Duration = Duration::from_millis(700);

/// The same for requests about many sessions, which take as many steps as there are sessions: listing and revoking a user, and
/// a batch. If the store does not answer, the step in progress ends the request within 500 ms.
const MANY: Duration = Duration::from_secs(4);

/// How many rows one step of a purge takes.
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

/// The sessions of one store under one policy. Cheap to clone.
#[derive(Clone)]
pub struct Sessions {
    inner: Arc<Inner>,
}

struct Inner {
    store: Metered,
    policy: Policy,
    attributes: Attributes,
    clock: Clock,
    metrics: Arc<Metrics>,
    met: enlist::Met,
    repairs: repair::Repairs,
    updates: queue::UpdateQueues,
    tasks: TaskTracker,
}

/// When a verb started, and when its calls to the store have to have ended.
#[derive(Debug, Clone, Copy)]
struct Call {
    now: Ms,
    deadline: Instant,
}

/// A live session as it was read.
struct Loaded {
    bytes: Vec<u8>,
    record: Record,
    standing: Standing,
}

impl Sessions {
    /// `attributes` are those of the cookie: express-session keeps them in each record. What becomes of sessions, and of
    /// calls to the store, is counted in `metrics`.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        policy: Policy,
        attributes: Attributes,
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> Self {
        let store = Metered::new(store, &metrics);
        let inner = Inner {
            store,
            policy,
            attributes,
            clock,
            metrics,
            met: enlist::Met::default(),
            updates: queue::UpdateQueues::default(),
            repairs: repair::Repairs::default(),
            tasks: TaskTracker::new(),
        };
        Self { inner: Arc::new(inner) }
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
        Ok(self.store(self.begin()).ping().await?)
    }

    /// Frees what expired sessions take up in the store, in small steps; says how many.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn purge(&self) -> Result<usize, Error> {
        let mut purged = 0;
        loop {
            let call = self.begin();
            let step = self.store(call).purge_expired(call.now, STEP).await?;
            purged += step;
            self.metrics().expired.inc_by(step as u64);
            if step < STEP {
                return Ok(purged);
            }
        }
    }

    /// Where this counts what it does.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    /// Waits until what was begun has come to its end, also for callers who hung up. Nothing is to be begun any more.
    pub async fn settle(&self) {
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }

    /// Runs `work` to its end, even when whoever waits for it goes away.
    async fn finish<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        match self.inner.tasks.spawn(work).await {
            Ok(outcome) => outcome,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    /// Starts a verb: reads the clock, once.
    fn begin(&self) -> Call {
        Call { now: self.inner.clock.now(), deadline: Instant::now() + REQUEST }
    }

    /// Starts a verb about many sessions.
    fn begin_many(&self) -> Call {
        Call { deadline: Instant::now() + MANY, ..self.begin() }
    }

    fn store(&self, call: Call) -> Calls<'_> {
        self.inner.store.until(call.deadline)
    }

    /// The instant, to age what is kept.
    fn instant(&self) -> BootInstant {
        self.inner.clock.instant()
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

    fn session(&self, id: Id, record: Record, standing: Standing, extended: bool) -> Session {
        let user_id = self.user_of(&record);
        let persistent = record.original_max_age().is_some();
        let Record { ours, data, .. } = record;
        let (created_at, client) = ours.map_or((None, None), |ours| (Some(ours.created_at), ours.client));
        Session { id, user_id, data, created_at, client, standing, persistent, extended }
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
