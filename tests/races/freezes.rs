//! A limit of two sessions a user, while Redis freezes for 0.7 s: calls fail that Redis carries out later. No place is lost
//! to a session whose login was answered with an error.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use futures_util::future::join_all;
use sessiond::clock::Clock;
use sessiond::session::{Error, Id, OnLimit, Policy, Regenerate, Sessions};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::redis_server::RedisServer;
use super::{PATIENCE, is_live, is_unavailable, issue, keyspace, listed, open, policy, see, seed, sessions};

const LIMIT: usize = 2;
const USERS: usize = 16;
/// How many log in per user and freeze.
const LOGINS: usize = 4;
const FREEZES: usize = 3;
const FREEZE: Duration = Duration::from_millis(700);

struct User {
    name: String,
    /// Sessions from before the freeze.
    before: Vec<Id>,
    /// Logins during the freeze that were acknowledged, and how many were answered with an error.
    during: Vec<Id>,
    failed: usize,
}

/// As a login of a visitor who has a session, or of one who has none.
async fn login(sessions: &Sessions, user: &str, visitor: Option<Id>) -> Result<Id, Error> {
    match visitor {
        Some(visitor) => {
            let wanted = Regenerate { user_id: Some(Some(user.into())), ..Regenerate::default() };
            Ok(sessions.regenerate(&visitor, wanted, |_| true).await?.expect("nobody else has it").id)
        }
        None => Ok(issue(sessions, Some(user), 100).await?.id),
    }
}

async fn log_in(sessions: Sessions, user: String, before: Vec<Id>, visitors: Vec<Id>, mut random: Rng) -> User {
    let mut logins = Vec::new();
    let mut visitors = visitors.into_iter();
    for _ in 0..LOGINS {
        let visitor = visitors.next();
        let begins = Duration::from_millis(random.u64(..300));
        let (sessions, user) = (&sessions, &user);
        logins.push(async move {
            sleep(begins).await;
            login(sessions, user, visitor).await
        });
    }
    let (mut during, mut failed) = (Vec::new(), 0);
    for answer in join_all(logins).await {
        match answer {
            Ok(id) => during.push(id),
            Err(Error::TooManySessions { limit: LIMIT }) => {}
            Err(error) => failed += usize::from(is_unavailable(&error)),
        }
    }
    User { name: user, before, during, failed }
}

impl User {
    /// Why this is not how it must be in the end.
    async fn wrong(&self, sessions: &Sessions, on_limit: OnLimit) -> Option<String> {
        let listed = see(|| listed(sessions, &self.name)).await;
        let acknowledged: Vec<&Id> = self.before.iter().chain(&self.during).collect();
        let ghosts = listed.iter().filter(|id| !acknowledged.contains(id)).count();
        let mut live = 0;
        for id in &acknowledged {
            live += usize::from(is_live(sessions, id).await);
        }
        let all = acknowledged.len();
        let expected = if on_limit == OnLimit::Reject { all } else { all.min(LIMIT) };
        let right = listed.len() <= LIMIT && ghosts == 0 && live == expected;
        (!right).then(|| {
            format!(
                "{}: {} listed, {ghosts} of them not acknowledged; {live} live of {all} acknowledged; {} logins failed",
                self.name,
                listed.len(),
                self.failed
            )
        })
    }
}

async fn a_limit_outlasts_freezes(on_limit: OnLimit) {
    let (redis, seed) = (Arc::new(RedisServer::start()), seed());
    let mut random = Rng::with_seed(seed);
    let policy = Policy { max_sessions_per_user: Some(LIMIT), on_limit, ..policy() };
    let on = async || sessions(open(&redis.url(), &keyspace(false)).await, &policy, Clock::system());
    let processes = [on().await, on().await];
    let observer = on().await;
    // One place is free where nobody gives way.
    let before = if on_limit == OnLimit::Reject { LIMIT - 1 } else { LIMIT };
    let (mut users, mut wrong) = (Vec::new(), Vec::new());
    for freeze in 0..FREEZES {
        let mut running = JoinSet::new();
        for number in 0..USERS {
            let name = format!("user-{freeze}-{number}");
            let (mut ids, mut visitors) = (Vec::new(), Vec::new());
            for _ in 0..before {
                ids.push(see(|| issue(&observer, Some(&name), 100)).await.id);
            }
            for _ in 0..LOGINS / 2 {
                visitors.push(see(|| issue(&observer, None, 100)).await.id);
            }
            running.spawn(log_in(processes[number % 2].clone(), name, ids, visitors, random.fork()));
        }
        sleep(Duration::from_millis(random.u64(10..60))).await;
        redis.signal("-STOP");
        sleep(FREEZE).await;
        redis.signal("-CONT");
        users.extend(running.join_all().await);
        for sessions in processes.iter().chain([&observer]) {
            let began = Instant::now();
            while sessions.ping().await.is_err() {
                assert!(began.elapsed() < PATIENCE, "it does not find Redis again");
                sleep(Duration::from_millis(10)).await;
            }
        }
    }
    let failed = users.iter().map(|user| user.failed).sum::<usize>();
    let began = Instant::now();
    for user in &users {
        while let Some(what) = user.wrong(&observer, on_limit).await {
            if began.elapsed() > PATIENCE {
                wrong.push(what);
                break;
            }
            sleep(Duration::from_millis(50)).await;
        }
    }
    eprintln!("{on_limit:?}: {failed} logins failed; {} of {} users are wrong", wrong.len(), FREEZES * USERS);
    let first = &wrong[..wrong.len().min(5)];
    assert!(first.is_empty(), "seed {seed}: {} users of {}, such as {first:#?}", wrong.len(), FREEZES * USERS);
    // Otherwise nothing was tried.
    assert!(failed > USERS, "{failed} logins failed");
    for user in &users {
        log_in_again(&observer, user, on_limit).await;
    }
}

/// The next login is served, if there is a place for it or one is made.
async fn log_in_again(sessions: &Sessions, user: &User, on_limit: OnLimit) {
    if on_limit == OnLimit::Reject {
        see(|| sessions.revoke_user(&user.name, None)).await;
    }
    let began = Instant::now();
    let id = loop {
        match login(sessions, &user.name, None).await {
            Ok(id) => break id,
            Err(error) => assert!(began.elapsed() < PATIENCE, "{}: {error}", user.name),
        }
        sleep(Duration::from_millis(50)).await;
    };
    assert!(is_live(sessions, &id).await, "{}: the session of a new login is dead", user.name);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn evict_oldest() {
    a_limit_outlasts_freezes(OnLimit::EvictOldest).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn evict_idle() {
    a_limit_outlasts_freezes(OnLimit::EvictIdle).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reject() {
    a_limit_outlasts_freezes(OnLimit::Reject).await;
}
