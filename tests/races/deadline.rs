//! A request ends in time, however many calls to the store it makes and however slow each of them is.

use std::time::{Duration, Instant};

use sessiond::clock::Clock;
use sessiond::session::{NewSession, OnLimit, Policy, Precondition, Regenerate};

use super::redis_server::RedisServer;
use super::slow_link::{Profile, SlowLink};
use super::{keyspace, open, policy, sessions};

/// What README promises: 700 ms for the calls to the store, and some time on a busy machine.
const IN_TIME: Duration = Duration::from_millis(850);

/// A login under a limit makes seven calls. Each of them is answered within its own deadline of 500 ms.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_over_a_slow_link_ends_in_time() {
    let redis = RedisServer::start();
    let link = SlowLink::to(redis.socket(), Profile { delay: Duration::from_millis(150), ..Profile::default() }, 1);
    let policy =
        Policy { max_sessions_per_user: Some(2), on_limit: OnLimit::Reject, save_uninitialized: true, ..policy() };
    let direct = sessions(open(&redis.url(), &keyspace(false)).await, &policy, Clock::system());
    let slow = sessions(open(&link.url(), &keyspace(false)).await, &policy, Clock::system());
    let visitor = direct.issue(NewSession::default()).await.unwrap().unwrap().id;
    let wanted = Regenerate { user_id: Some(Some("ada".into())), ..Regenerate::default() };
    let mut longest = Duration::ZERO;
    for _ in 0..8 {
        // A call that takes too long has the connection made anew.
        while slow.ping().await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let began = Instant::now();
        // Either way: what counts is when.
        let _ = slow.regenerate(&visitor, wanted.clone(), Precondition::Any).await;
        longest = longest.max(began.elapsed());
    }
    assert!(longest < IN_TIME, "a login took {longest:?}");
    assert!(longest > Duration::from_millis(500), "the longest took {longest:?} only: nothing was tried");
}
