//! Looking at a whole store, step by step: for commands that an operator runs, never on the path of a request.
//!
//! Each step is bounded, so that a store that serves at the same time is not held up, and may be asked again after a
//! failure. What comes and goes during a walk may or may not be seen.

use std::fmt;
use std::num::ParseIntError;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::redis::Redis;
use super::sqlite::SqliteSurvey;
use super::{Found, Keyspace, Result, StoreUrl};
use crate::clock::Ms;

/// How long one round trip of a survey may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// Where a walk goes on, as a number. Only the store that made it can read it.
#[derive(Debug, Clone)]
pub struct Cursor(pub(super) String);

impl FromStr for Cursor {
    type Err = ParseIntError;

    fn from_str(text: &str) -> std::result::Result<Self, ParseIntError> {
        text.parse::<u64>().map(|number| Self(number.to_string()))
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One step of a walk.
#[derive(Debug)]
pub struct Batch {
    /// The entries that it found, each with its id.
    pub entries: Vec<(String, Found)>,
    /// How many keys it looked at: of these, [`Survey::size`] has about as many as there are.
    pub looked_at: u64,
    /// Where the next one begins; None: this was the last.
    pub next: Option<Cursor>,
}

/// One step of a walk over the index.
#[derive(Debug)]
pub struct IndexBatch {
    /// How many entries the index had here.
    pub entries: u64,
    /// How many of them should have a session, and have none.
    pub dangling: u64,
    /// How many were taken out.
    pub pruned: u64,
    /// How many keys it looked at, as in [`Batch`].
    pub looked_at: u64,
    /// Where the next one begins; None: this was the last.
    pub next: Option<Cursor>,
}

/// One thing about a database that was looked at.
#[derive(Debug, Clone)]
pub struct Check {
    /// What, in a word that does not change: `persistence`, `journal_mode`.
    pub name: &'static str,
    /// What was found.
    pub found: String,
    /// What to do about it; None: it is as it should be.
    pub advice: Option<String>,
}

impl Check {
    /// `advice` counts when it is not as it should be.
    pub(crate) fn new(name: &'static str, good: bool, found: impl Into<String>, advice: &str) -> Self {
        Self { name, found: found.into(), advice: (!good).then(|| advice.to_owned()) }
    }

    /// Whether nobody but its owner can read a file.
    pub(crate) fn private(name: &'static str, path: &Path) -> Self {
        let shown = path.display();
        let mode = path.metadata().map(|file| file.permissions().mode() & 0o777);
        let found = mode.as_ref().map_or_else(|error| error.to_string(), |mode| format!("mode {mode:04o}"));
        let good = mode.is_ok_and(|mode| mode & 0o077 == 0);
        let advice = format!("`chmod 600 {shown}`: others on this machine can get at it");
        Self::new(name, good, format!("{shown}: {found}"), &advice)
    }
}

/// A store seen as a whole. It knows no rule of sessions, as [`super::Store`].
#[async_trait]
pub trait Survey: Send + Sync + 'static {
    /// How the database is set up, and how it fares.
    async fn checks(&self, now: Ms) -> Result<Vec<Check>>;

    /// About how many keys there are to look at.
    async fn size(&self) -> Result<u64>;

    /// Some of the entries that there are at `now`. From None until there is no next cursor, every entry that is there
    /// all the while is found at least once; a Redis that is growing may show some twice.
    async fn walk(&self, from: Option<&Cursor>, now: Ms) -> Result<Batch>;

    /// Of these `(user_id, id)`, which are entries that `list_by_user` does not find.
    async fn unlisted(&self, entries: &[(&str, &str)], now: Ms) -> Result<Vec<bool>>;

    /// Some of the users' lists. `prune` takes out what has no session, and only that.
    async fn walk_index(&self, from: Option<&Cursor>, prune: bool, now: Ms) -> Result<IndexBatch>;
}

/// Opens the store that `url` names, to be looked at. It is not made when missing, and its schema stays as it is.
///
/// # Errors
/// [`super::Error::Unavailable`] when an SQLite file cannot be opened, or has another schema. A Redis that is away is no
/// error: every call says so.
pub async fn survey(url: &StoreUrl, keyspace: &Keyspace) -> Result<Arc<dyn Survey>> {
    Ok(match url {
        StoreUrl::Sqlite(path) => Arc::new(SqliteSurvey::open(path)?),
        StoreUrl::Redis(target) => Arc::new(Redis::open(target, keyspace, &Arc::default()).await?),
    })
}

/// When a round trip that begins now has to have ended.
pub(super) fn deadline() -> Instant {
    Instant::now() + DEADLINE
}
