//! Where records are kept. A store is dumb: it knows ids, bytes, users and expiry times, and no rule of sessions,
//! no HTTP and no clock (`now` is handed to it).
//!
//! # The contract
//! - An entry is found until its expiry, and never after, whether or not it was purged. An expired entry behaves as
//!   a missing one in every call.
//! - Only [`Store::insert`] creates, and it never overwrites. Every other write applies to an entry that is there, and
//!   says whether it did ([`Outcome`]). So no write revives what was removed.
//! - A write that was answered is seen by every later call, in every process on the same store.
//! - Each entry may name a user. Whether a user's entry is listed depends on the entry alone, never on the clock that
//!   wrote it. `list_by_user` and `sweep_user` find every entry whose insert was answered before they began.
//! - An insert that races a sweep is found by it, or is listed afterwards, or is refused.
//! - Who watches is told of each change before it is answered, also when it is answered with `Err`; and of each that comes
//!   from elsewhere, soon ([`Watcher`]).
//! - `Err` means that the store failed. The call may or may not have applied. It never means "not there".
//! - Every call ends within the store's deadline.

mod metered;
mod redis;
mod sqlite;
mod survey;
mod url;

pub use self::metered::{Calls, Metered};
pub use self::redis::Redis;
pub use self::sqlite::Sqlite;
pub use self::survey::{Batch, Check, Cursor, IndexBatch, Survey, survey};
pub use self::url::StoreUrl;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use crate::clock::{BootInstant, Ms};
use crate::telemetry::Metrics;

/// How long a call to a store may take before it answers [`Error::Unavailable`].
pub const DEADLINE: Duration = Duration::from_millis(500);

/// Why a store could not say.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// It is away, refuses, or took too long. Trying again later may help.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// The request had no time left for this call. This says nothing about the store.
    #[error("the request's time is over")]
    OutOfTime,
    /// It answered what it never should: a bug here, or another program's data under our keys.
    #[error("the store answered something unexpected: {0}")]
    Unexpected(String),
}

/// What a store answers.
pub type Result<T> = std::result::Result<T, Error>;

/// What is to be kept under an id.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// The bytes that [`Store::find`] gives back.
    pub record: &'a [u8],
    /// Whose it is: the index's key.
    pub user_id: Option<&'a str>,
    /// Epoch ms from which on it is gone; later than `now`.
    pub expires_at: Ms,
}

/// An entry that another program put there, and whose it is.
#[derive(Debug, Clone, Copy)]
pub struct Enlisted<'a> {
    /// Its id.
    pub id: &'a str,
    /// The index's key.
    pub user_id: &'a str,
    /// Epoch ms, about when it is gone.
    pub expires_at: Ms,
}

/// The keys of a Redis, and who writes them.
#[derive(Debug, Clone)]
pub struct Keyspace {
    /// What every session's key begins with.
    pub prefix: String,
    /// How long a removed entry keeps its id, in ms, where an Express writes here too, which may save it once more. None:
    /// none does.
    pub tombstone: Option<Ms>,
}

impl Default for Keyspace {
    fn default() -> Self {
        Self { prefix: "sess:".into(), tombstone: None }
    }
}

/// What was kept under an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The bytes that were put in.
    pub record: Vec<u8>,
    /// Epoch ms from which on it is gone, give or take a few. None: never (another program put it there).
    pub expires_at: Option<Ms>,
}

/// One row of a user's listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The entry's id.
    pub id: String,
    /// The entry.
    pub found: Found,
}

/// One bounded step through a user's entries.
#[derive(Debug, Default)]
pub struct Page {
    /// The entries that this step found.
    pub rows: Vec<Listed>,
    /// Where the next step starts. `None` if this step has read the last entry.
    pub next: Option<Position>,
    /// How many entries the index named that no longer exist; by now it names them no more. One of them may have been
    /// superseded by an entry that this step has not read: a caller who needs every entry repeats the step.
    pub vanished: usize,
    /// How many further entries are being inserted. None of them was acknowledged.
    pub in_progress: usize,
}

/// A place in a user's list: an entry's rank, which is about when it expires in epoch ms, and its id.
pub type Position = (Ms, String);

/// What became of a write to an entry that should be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is done.
    Applied,
    /// Nothing was done: the entry is not what was expected, because another write came first.
    Changed,
    /// Nothing was done: there is no such entry.
    Missing,
}

/// What became of an insert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Insertion {
    /// It is there.
    Done,
    /// Nothing is kept: the id is taken, or the user's entries were removed meanwhile. Try again under another id.
    Refused,
}

/// Receives the changes of a store's entries.
pub trait Watcher: Send + Sync + 'static {
    /// The entry may have changed, or be gone.
    fn changed(&self, id: &str);
    /// Any entry may have.
    fn doubt(&self);
    /// Every change that was acknowledged anywhere before `at` has been reported.
    fn current(&self, at: BootInstant);
    /// The maximum age of the last [`Watcher::current`] at which cached entries may be served.
    fn max_staleness(&self) -> Duration;
}

/// The contract is at the top of this module.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Puts in a new entry. An id whose entry is gone is never used again.
    async fn insert(&self, id: &str, entry: Entry<'_>, now: Ms) -> Result<Insertion>;

    /// The entry, if there is one.
    async fn find(&self, id: &str, now: Ms) -> Result<Option<Found>>;

    /// The entries of several ids, in their order, in one round trip.
    async fn find_many(&self, ids: &[&str], now: Ms) -> Result<Vec<Option<Found>>>;

    /// Puts `entry` in the place of the one whose record is `expected`, to the byte.
    async fn replace(&self, id: &str, expected: &[u8], entry: Entry<'_>, now: Ms) -> Result<Outcome>;

    /// As `replace`, for an entry that is `expected` but for its times. It takes no more room, so a Redis at its
    /// `maxmemory` does it too.
    async fn touch(&self, id: &str, expected: &[u8], entry: Entry<'_>, now: Ms) -> Result<Outcome>;

    /// Removes entries, whatever they are; says how many there were. A full Redis does it too. `user_id` is whose they
    /// are, where known, so that the index forgets them at once and not only when next listed.
    async fn remove(&self, ids: &[&str], user_id: Option<&str>, now: Ms) -> Result<usize>;

    /// Removes the entry if its record is `expected`, to the byte; otherwise as `remove`.
    async fn remove_if(&self, id: &str, expected: &[u8], user_id: Option<&str>, now: Ms) -> Result<Outcome>;

    /// Puts entries into their users' lists that another program put into the store, where that can be. An entry that is
    /// gone is as one that expires: a listing passes over it.
    async fn enlist(&self, entries: &[Enlisted<'_>], now: Ms) -> Result<()>;

    /// Puts `entry` under `new_id`, which is new, in the place of the one under `id`, if its record is `expected`, to the
    /// byte: of many at once one applies. `user_id` is whose that one is, where known. `list_by_user` shows at most one of
    /// the two. A sweep that removes everything it finds ends the entry, whichever of the two it is by then.
    async fn supersede(
        &self,
        id: &str,
        expected: &[u8],
        user_id: Option<&str>,
        new_id: &str,
        entry: Entry<'_>,
        now: Ms,
    ) -> Result<Outcome>;

    /// Returns a user's entries, the latest expiry first. Looks at `limit` of them at most, those after `after`.
    async fn list_by_user(&self, user_id: &str, after: Option<&Position>, limit: usize, now: Ms) -> Result<Page>;

    /// Returns a user's entries, the earliest expiry first, with those that are being inserted: for a caller who removes
    /// what it gets. Looks at `limit` of them at most. A page without `next` and without `vanished` entries has every entry
    /// that was acknowledged before the call, or its successor.
    async fn sweep_user(&self, user_id: &str, limit: usize, now: Ms) -> Result<Page>;

    /// Frees the room of expired entries, `limit` at most; says how many it freed.
    async fn purge_expired(&self, now: Ms, limit: usize) -> Result<usize>;

    /// Whether it could serve a call now.
    async fn ping(&self) -> Result<()>;

    /// From now on tells `watcher` of each change, until the store is dropped. One at the most: a second is told nothing.
    fn watch(&self, watcher: Arc<dyn Watcher>);
}

/// Opens the store that `url` names; `keyspace` is for a Redis.
///
/// # Errors
/// [`Error::Unavailable`] when an SQLite file cannot be opened or made. A Redis that is away is no error:
/// every call says so until it is back.
pub async fn open(url: &StoreUrl, keyspace: &Keyspace) -> Result<Arc<dyn Store>> {
    open_supervised(url, keyspace, &Arc::default()).await
}

/// As [`open`]. Restarts of the store's background tasks are counted in `metrics`, which also say whether one is down.
///
/// # Errors
/// As [`open`].
pub async fn open_supervised(url: &StoreUrl, keyspace: &Keyspace, metrics: &Arc<Metrics>) -> Result<Arc<dyn Store>> {
    Ok(match url {
        StoreUrl::Sqlite(path) => Arc::new(Sqlite::open(path, metrics)?),
        StoreUrl::Redis(target) => Arc::new(Redis::open(target, keyspace, metrics).await?),
    })
}

/// When a call that begins now has to have ended, all of its steps together.
fn deadline() -> Instant {
    Instant::now() + DEADLINE
}

/// Runs a step of a call until the call's deadline.
async fn within<T>(deadline: Instant, step: impl Future<Output = Result<T>> + Send) -> Result<T> {
    tokio::time::timeout_at(deadline, step).await.unwrap_or_else(|_| Err(late()))
}

fn late() -> Error {
    Error::Unavailable("no answer in time".into())
}
