//! A login of a user who has as many sessions as they may have stops at each point for longer than its deadline, because
//! Redis does not hear it, or it does not hear Redis; then its bytes arrive after all, or are lost with their connection.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use sessiond::clock::Clock;
use sessiond::session::{Error, OnLimit, Policy, Regenerate, Sessions};
use tokio::time::sleep;

use super::redis_server::RedisServer;
use super::slow_link::{Direction, Profile, SlowLink};
use super::{PATIENCE, is_live, is_unavailable, issue, keyspace, listed, open, policy, see, sessions};

const LIMIT: usize = 2;
/// How many logins stop at the same time.
const AT_ONCE: usize = 70;
/// Longer than the deadline of a request.
const STOP: Duration = Duration::from_millis(900);

struct Stop {
    direction: Direction,
    bytes: usize,
    /// Whether what was held back is lost.
    cut: bool,
    /// Whether a visitor logs in who has a session.
    visitor: bool,
}

impl Stop {
    /// What is wrong in the end, if anything, and whether the login was acknowledged.
    async fn at(
        self,
        name: String,
        redis: &RedisServer,
        policy: &Policy,
        observer: &Sessions,
    ) -> (bool, Option<String>) {
        let link = SlowLink::to(redis.socket(), Profile::default(), 0);
        let stopped = sessions(open(&link.url(), &keyspace(false)).await, policy, Clock::system());
        let mut acknowledged = Vec::new();
        // Where nobody gives way, one place is free.
        let before = if policy.on_limit == OnLimit::Reject { LIMIT - 1 } else { LIMIT };
        for _ in 0..before {
            acknowledged.push(see(|| issue(observer, Some(&name), 100)).await.id);
            // Which is the oldest is told by the millisecond.
            sleep(Duration::from_millis(2)).await;
        }
        let visitor = match self.visitor {
            true => Some(see(|| issue(observer, None, 100)).await.id),
            false => None,
        };
        link.hold_after(self.direction, self.bytes);
        let login = async {
            match visitor {
                Some(visitor) => {
                    let wanted = Regenerate { user_id: Some(Some(name.clone())), ..Regenerate::default() };
                    stopped.regenerate(&visitor, wanted, |_| true).await
                }
                None => issue(&stopped, Some(&name), 100).await.map(Some),
            }
        };
        let release = async {
            sleep(STOP).await;
            if self.cut {
                link.cut();
            }
            link.release(self.direction);
        };
        let answer = tokio::join!(login, release).0;
        match answer {
            Ok(session) => acknowledged.extend(session.map(|session| session.id)),
            Err(Error::TooManySessions { .. }) => panic!("there is a place"),
            Err(error) => assert!(is_unavailable(&error)),
        }
        let was_acknowledged = acknowledged.len() > before;
        let (began, expected) = (Instant::now(), acknowledged.len().min(LIMIT));
        loop {
            let listed = see(|| listed(observer, &name)).await;
            let mut live = 0;
            for id in &acknowledged {
                live += usize::from(is_live(observer, id).await);
            }
            let ghosts = listed.iter().filter(|id| !acknowledged.contains(id)).count();
            if listed.len() == expected && live == expected && ghosts == 0 {
                break;
            }
            if began.elapsed() > PATIENCE {
                let what = format!(
                    "{name}: {} listed, {ghosts} of them not acknowledged; {live} live of {} acknowledged",
                    listed.len(),
                    acknowledged.len()
                );
                return (was_acknowledged, Some(what));
            }
            sleep(Duration::from_millis(50)).await;
        }
        // There is a place for the next login, soon, or one is made.
        if expected == LIMIT && policy.on_limit == OnLimit::Reject {
            see(|| observer.revoke(acknowledged.last().unwrap())).await;
        }
        let wrong = loop {
            match issue(observer, Some(&name), 100).await {
                Ok(next) if is_live(observer, &next.id).await => break None,
                Ok(_) => break Some(format!("{name}: the next login is dead")),
                Err(error) if began.elapsed() > PATIENCE => break Some(format!("{name}: the next login: {error}")),
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
        };
        (was_acknowledged, wrong)
    }
}

async fn a_login_stops_anywhere(on_limit: OnLimit) {
    let redis = RedisServer::start();
    let policy = Policy { max_sessions_per_user: Some(LIMIT), on_limit, ..policy() };
    let observer = sessions(open(&redis.url(), &keyspace(false)).await, &policy, Clock::system());
    let mut stops = Vec::new();
    for visitor in [false, true] {
        for cut in [false, true] {
            for bytes in (0..6_000).step_by(200) {
                stops.push(("sent", Stop { direction: Direction::ToRedis, bytes, cut, visitor }));
            }
            for bytes in (0..100).step_by(5).chain((100..2_000).step_by(100)) {
                stops.push(("heard", Stop { direction: Direction::FromRedis, bytes, cut, visitor }));
            }
        }
    }
    let mut stops = stops.into_iter().map(|(what, stop)| {
        let (who, how) = (if stop.visitor { "visitor" } else { "new" }, if stop.cut { "cut" } else { "held" });
        let name = format!("{who}, {how} after {} bytes {what}", stop.bytes);
        stop.at(name, &redis, &policy, &observer)
    });
    let mut outcomes = Vec::new();
    while stops.len() > 0 {
        outcomes.extend(join_all(stops.by_ref().take(AT_ONCE)).await);
    }
    let acknowledged = outcomes.iter().filter(|(acknowledged, _)| *acknowledged).count();
    let wrong: Vec<_> = outcomes.iter().filter_map(|(_, wrong)| wrong.as_ref()).collect();
    eprintln!("{on_limit:?}: {} stops, {acknowledged} acknowledged, {} wrong", outcomes.len(), wrong.len());
    let first = &wrong[..wrong.len().min(8)];
    assert!(first.is_empty(), "{} of {} are wrong, such as {first:#?}", wrong.len(), outcomes.len());
    // Otherwise nothing was tried.
    assert!(acknowledged > 10 && acknowledged < outcomes.len() - 10, "{acknowledged} of {}", outcomes.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn evict_oldest() {
    a_login_stops_anywhere(OnLimit::EvictOldest).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn evict_idle() {
    a_login_stops_anywhere(OnLimit::EvictIdle).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reject() {
    a_login_stops_anywhere(OnLimit::Reject).await;
}
