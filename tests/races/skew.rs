//! Two processes whose clocks differ by more than the idle timeout.

use sessiond::clock::{BootInstant, Clock};
use sessiond::session::{Error, OnLimit, Policy, Sessions, Touch};

use super::redis_server::RedisServer;
use super::{is_live, issue, keyspace, listed, open, policy, sessions};

/// How far behind the clock of the first process is, in ms.
const SKEW: i64 = 90_000;
const IDLE_TIMEOUT: i64 = 60_000;

struct Skewed {
    behind: Sessions,
    right: Sessions,
    _redis: RedisServer,
}

impl Skewed {
    async fn new(express_writes: bool, limit: Option<(usize, OnLimit)>) -> Self {
        let (redis, keyspace) = (RedisServer::start(), keyspace(express_writes));
        let policy = Policy {
            idle_timeout: IDLE_TIMEOUT,
            max_sessions_per_user: limit.map(|(limit, _)| limit),
            on_limit: limit.map_or(OnLimit::EvictOldest, |(_, on_limit)| on_limit),
            ..policy()
        };
        let on = async |clock: Clock| sessions(open(&redis.url(), &keyspace).await, &policy, clock);
        let (system, clock) = (Clock::system(), Clock::system());
        let behind = on(Clock::new(move || clock.now() - SKEW, BootInstant::now)).await;
        Self { behind, right: on(system).await, _redis: redis }
    }
}

async fn what_is_live_is_listed(express_writes: bool) {
    let skewed = Skewed::new(express_writes, None).await;
    let first = issue(&skewed.behind, Some("u"), 10).await.unwrap().id;
    assert!(is_live(&skewed.right, &first).await && is_live(&skewed.behind, &first).await);
    for sessions in [&skewed.right, &skewed.behind] {
        assert_eq!(listed(sessions, "u").await.unwrap(), std::slice::from_ref(&first));
    }
    // Each write prunes the index.
    let second = issue(&skewed.right, Some("u"), 10).await.unwrap().id;
    skewed.right.resolve(&second, Touch::Force).await.unwrap().unwrap();
    skewed.behind.resolve(&second, Touch::Force).await.unwrap().unwrap();
    for sessions in [&skewed.right, &skewed.behind] {
        let all = listed(sessions, "u").await.unwrap();
        assert!(all.len() == 2 && all.contains(&first) && all.contains(&second), "{all:?} of {first} and {second}");
    }
}

async fn revoke_user_reaches_all(express_writes: bool) {
    let skewed = Skewed::new(express_writes, None).await;
    for revoker in [&skewed.right, &skewed.behind] {
        for issuers in [[&skewed.behind, &skewed.right], [&skewed.right, &skewed.behind]] {
            let mut ids = Vec::new();
            for issuer in issuers {
                ids.push(issue(issuer, Some("u"), 10).await.unwrap().id);
            }
            assert_eq!(revoker.revoke_user("u", None).await.unwrap(), 2);
            for id in &ids {
                assert!(!is_live(&skewed.right, id).await && !is_live(&skewed.behind, id).await);
            }
        }
    }
}

async fn a_limit_counts_all(express_writes: bool) {
    for on_limit in [OnLimit::EvictOldest, OnLimit::EvictIdle] {
        let skewed = Skewed::new(express_writes, Some((1, on_limit))).await;
        let mut ids = Vec::new();
        for issuer in [&skewed.behind, &skewed.right, &skewed.behind] {
            ids.push(issue(issuer, Some("u"), 10).await.unwrap().id);
            let mut live = 0;
            for id in &ids {
                live += usize::from(is_live(&skewed.right, id).await);
            }
            assert_eq!(live, 1, "{on_limit:?}, after {} logins", ids.len());
        }
    }
}

async fn a_limit_that_rejects_counts_all(express_writes: bool) {
    for first_is_behind in [true, false] {
        let skewed = Skewed::new(express_writes, Some((1, OnLimit::Reject))).await;
        let (first, second) =
            if first_is_behind { (&skewed.behind, &skewed.right) } else { (&skewed.right, &skewed.behind) };
        let id = issue(first, Some("u"), 10).await.unwrap().id;
        let refused = issue(second, Some("u"), 10).await;
        assert!(matches!(refused, Err(Error::TooManySessions { limit: 1 })), "{first_is_behind}: {refused:?}");
        assert!(is_live(second, &id).await);
    }
}

macro_rules! skewed {
    ($($case:ident),+) => {
        $(mod $case {
            #[tokio::test]
            async fn alone() {
                super::$case(false).await;
            }
            #[tokio::test]
            async fn beside_express() {
                super::$case(true).await;
            }
        })+
    };
}

skewed!(what_is_live_is_listed, revoke_user_reaches_all, a_limit_counts_all, a_limit_that_rejects_counts_all);
