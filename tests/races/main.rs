//! The store's promises under latency: processes whose links to Redis are slow, cut and held, whose clocks differ, that
//! are killed, and a Redis that freezes. Written from the promises, not from the implementation.
//!
//! `SESSIOND_RACE_ROUNDS` says how many rounds to run, `SESSIOND_RACE_SEED` repeats their plans and the links' delays.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod dead_entries;
mod deadline;
mod freezes;
mod held;
#[path = "../common/policy.rs"]
mod policy;
#[path = "../common/redis_server.rs"]
mod redis_server;
mod rounds;
mod skew;
#[path = "../common/slow_link.rs"]
mod slow_link;
mod stops;

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Map, json};
use sessiond::clock::Clock;
use sessiond::session::{Error, Id, NewSession, Policy, Session, Sessions, Touch};
use sessiond::store::{self, Keyspace, Store};
use tokio::time::sleep;

use policy::{attributes, policy};

/// How long a tombstone stays here, in ms.
const TOMBSTONE: i64 = 60_000;

/// How soon everything is as it must be: a login that failed may take a place for 10 s.
const PATIENCE: Duration = Duration::from_secs(15);

/// The keyspace of a service with or without `--express-writes`.
fn keyspace(express_writes: bool) -> Keyspace {
    Keyspace { tombstone: express_writes.then_some(TOMBSTONE), ..Keyspace::default() }
}

async fn open(url: &str, keyspace: &Keyspace) -> Arc<dyn Store> {
    store::open(&url.parse().unwrap(), keyspace).await.unwrap()
}

fn sessions(store: Arc<dyn Store>, policy: &Policy, clock: Clock) -> Sessions {
    Sessions::new(store, policy.clone(), attributes(), clock, Arc::default())
}

/// A session of `user` with about `bytes` of data.
async fn issue(sessions: &Sessions, user: Option<&str>, bytes: usize) -> Result<Session, Error> {
    let data = Map::from_iter([("text".into(), json!("x".repeat(bytes)))]);
    let new = NewSession { user_id: user.map(Into::into), data, ..NewSession::default() };
    sessions.issue(new).await.map(Option::unwrap)
}

/// What is seen at last, however busy the machine is: repeats `look` while the store is unavailable.
async fn see<T, F: Future<Output = Result<T, Error>>>(look: impl Fn() -> F) -> T {
    let began = Instant::now();
    loop {
        match look().await {
            Ok(seen) => return seen,
            Err(error) => assert!(is_unavailable(&error) && began.elapsed() < PATIENCE, "{error}"),
        }
        sleep(Duration::from_millis(10)).await;
    }
}

async fn is_live(sessions: &Sessions, id: &Id) -> bool {
    see(|| sessions.resolve(id, Touch::Never)).await.is_some()
}

/// The ids that the user's list shows.
async fn listed(sessions: &Sessions, user: &str) -> Result<Vec<Id>, Error> {
    let listing = sessions.list(user, None, 1000).await?;
    Ok(listing.sessions.into_iter().map(|session| session.id).collect())
}

/// Whether the store was unavailable; any other error fails the test.
fn is_unavailable(error: &Error) -> bool {
    assert!(matches!(error, Error::Store(store::Error::Unavailable(_) | store::Error::OutOfTime)), "{error}");
    true
}

/// `SESSIOND_RACE_SEED`, or a random seed.
fn seed() -> u64 {
    std::env::var("SESSIOND_RACE_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap())
}
