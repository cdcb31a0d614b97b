//! A user whose index holds many ids without a session: of sessions that have expired, or that were removed by another
//! program. Listing and revoking them may fail at first, but each call makes progress.

use sessiond::clock::Clock;
use sessiond::session::Error;

use super::redis_server::RedisServer;
use super::{is_live, is_unavailable, issue, keyspace, listed, open, policy, sessions};

const INDEX: &str = "sess-user:u";
/// How often a call may fail before it succeeds.
const TRIES: usize = 10;
/// How far away the expiry of an entry is, in ms.
const HOUR: i64 = 60 * 60 * 1000;

/// So many entries without a session, which expire so far from now, and one live session.
async fn a_live_session_among(dead: usize, expires_in: i64, express_writes: bool) {
    let redis = RedisServer::start();
    let mut connection = redis.connection();
    let sessions = sessions(open(&redis.url(), &keyspace(express_writes)).await, &policy(), Clock::system());
    let live = issue(&sessions, Some("u"), 1_000).await.unwrap().id;
    let (score, numbers) = (Clock::system().now() + expires_in, Vec::from_iter(0..dead));
    for numbers in numbers.chunks(10_000) {
        let mut add = redis::cmd("ZADD");
        add.arg(INDEX);
        for number in numbers {
            add.arg(score + *number as i64 % 1000).arg(format!("00000000-0000-4000-8000-{number:012}"));
        }
        add.exec(&mut connection).unwrap();
    }
    let mut members = || redis::cmd("ZCARD").arg(INDEX).query::<usize>(&mut connection).unwrap();
    assert_eq!(members(), dead + 1);
    succeeds("list", &mut members, async || {
        assert_eq!(listed(&sessions, "u").await?, std::slice::from_ref(&live));
        Ok(())
    })
    .await;
    assert!(is_live(&sessions, &live).await);
    succeeds("revoke_user", &mut members, async || sessions.revoke_user("u", None).await.map(|_| ())).await;
    assert!(!is_live(&sessions, &live).await, "it outlived revoke_user");
    for _ in 0..TRIES {
        if members() == 0 {
            break;
        }
        succeeds("revoke_user once more", &mut members, async || sessions.revoke_user("u", None).await.map(|_| ()))
            .await;
    }
    assert_eq!(members(), 0, "entries without a session are left");
}

/// Calls until it succeeds; each call that fails leaves fewer entries.
async fn succeeds(name: &str, members: &mut impl FnMut() -> usize, call: impl AsyncFn() -> Result<(), Error>) {
    for failures in 0..TRIES {
        let before = members();
        match call().await {
            Ok(()) => {
                eprintln!("{name} succeeds after {failures} failures, and leaves {} of {before} entries", members());
                return;
            }
            Err(error) => {
                assert!(is_unavailable(&error));
                assert!(members() < before, "{name} fails and leaves all {before} entries: {error}");
            }
        }
    }
    panic!("{name} fails {TRIES} times");
}

#[tokio::test]
async fn expired_50_000_beside_express() {
    a_live_session_among(50_000, -HOUR, true).await;
}

#[tokio::test]
async fn expired_200_000() {
    a_live_session_among(200_000, -HOUR, false).await;
}

#[tokio::test]
async fn dangling_50_000() {
    a_live_session_among(50_000, HOUR, false).await;
}

#[tokio::test]
async fn dangling_50_000_beside_express() {
    a_live_session_among(50_000, HOUR, true).await;
}

#[tokio::test]
async fn dangling_200_000() {
    a_live_session_among(200_000, HOUR, false).await;
}
