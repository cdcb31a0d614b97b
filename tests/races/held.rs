//! "Log out everywhere" against an issue, a login and a regenerate, at each point where they can overtake each other: the
//! one call stops after so many of its bytes have reached Redis, the other after it has heard so much of the answers; then
//! the first goes on to its end, and then the second.

use std::fmt::Debug;

use sessiond::clock::Clock;
use sessiond::session::{Error, Id, Regenerate, Session, Sessions};
use tokio::task::JoinHandle;

use super::redis_server::RedisServer;
use super::slow_link::{Direction, Profile, SlowLink};
use super::{is_live, is_unavailable, issue, keyspace, listed, open, policy, see, sessions};

/// How much data a session has, in bytes.
const BYTES: usize = 1_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Issue,
    Login,
    Regenerate,
}

impl Call {
    /// `old` is what is regenerated.
    async fn run(self, sessions: Sessions, user: String, old: Option<Id>) -> Result<Option<Session>, Error> {
        let user_id = (self == Self::Login).then(|| Some(user.clone()));
        let wanted = Regenerate { user_id, ..Regenerate::default() };
        match old {
            Some(old) => sessions.regenerate(&old, wanted, |_| true).await,
            None => issue(&sessions, Some(&user), BYTES).await.map(Some),
        }
    }
}

/// Waits until `call` has passed as many bytes as it may, or has ended before.
async fn until_held<T: Debug>(link: &SlowLink, direction: Direction, call: &mut JoinHandle<T>) -> Option<T> {
    tokio::select! {
        () = link.until_held(direction) => None,
        answer = call => Some(answer.unwrap()),
    }
}

async fn every_interleaving(call: Call, express_writes: bool) {
    let (redis, keyspace) = (RedisServer::start(), keyspace(express_writes));
    let links = [1, 2].map(|seed| SlowLink::to(redis.socket(), Profile::default(), seed));
    let on = async |url: String| sessions(open(&url, &keyspace).await, &policy(), Clock::system());
    let (calling, revoking, observer) = (on(links[0].url()).await, on(links[1].url()).await, on(redis.url()).await);
    let (mut trials, mut acknowledged, mut failed, mut violations) = (0, 0, 0, Vec::new());
    // About as much as the call sends.
    let bytes = if call == Call::Issue { 2_400 } else { 4_500 };
    for sent in (0..bytes).step_by(150) {
        for heard in (0..160).step_by(8).chain((200..2_200).step_by(400)) {
            let user = format!("user-{sent}-{heard}");
            let old = match call {
                Call::Issue => None,
                Call::Login => Some(see(|| issue(&observer, None, BYTES)).await.id),
                Call::Regenerate => Some(see(|| issue(&observer, Some(&user), BYTES)).await.id),
            };
            links[0].hold_after(Direction::ToRedis, sent);
            let mut called = tokio::spawn(call.run(calling.clone(), user.clone(), old));
            let answer = until_held(&links[0], Direction::ToRedis, &mut called).await;
            links[1].hold_after(Direction::FromRedis, heard);
            let (revoker, of) = (revoking.clone(), user.clone());
            let mut revoke = tokio::spawn(async move { revoker.revoke_user(&of, None).await });
            let revoked = until_held(&links[1], Direction::FromRedis, &mut revoke).await;
            links[0].release(Direction::ToRedis);
            let in_time = answer.is_some();
            let answer = match answer {
                Some(answer) => answer,
                None => called.await.unwrap(),
            };
            links[1].release(Direction::FromRedis);
            let revoked = match revoked {
                Some(revoked) => revoked,
                None => revoke.await.unwrap(),
            };
            trials += 1;
            failed += usize::from(answer.as_ref().is_err_and(is_unavailable));
            failed += usize::from(revoked.as_ref().is_err_and(is_unavailable));
            let Ok(Some(session)) = answer else { continue };
            acknowledged += 1;
            let point = format!("{sent} bytes sent, {heard} heard");
            // A regenerated session is one that was acknowledged before the revoke.
            let ends = revoked.is_ok() && (in_time || call == Call::Regenerate);
            let lives = is_live(&observer, &session.id).await;
            if lives && ends {
                violations.push(format!("{point}: it lives after revoke_user"));
            }
            if lives && !see(|| listed(&observer, &user)).await.contains(&session.id) {
                violations.push(format!("{point}: it lives and is not listed"));
            }
            see(|| observer.revoke_user(&user, None)).await;
            if is_live(&observer, &session.id).await {
                violations.push(format!("{point}: it lives after a second revoke_user"));
            }
        }
    }
    eprintln!(
        "{call:?}, express_writes {express_writes}: {trials} interleavings, {acknowledged} acknowledged, \
         {failed} calls failed, {} violations",
        violations.len()
    );
    let first = &violations[..violations.len().min(5)];
    assert!(first.is_empty(), "{} violations, such as {first:#?}", violations.len());
    // Otherwise nothing was tried.
    assert!(failed < trials / 10 && acknowledged > trials / 10);
}

macro_rules! interleavings {
    ($($name:ident: $call:expr, $express_writes:expr;)+) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            every_interleaving($call, $express_writes).await;
        })+
    };
}

interleavings!(
    issue_against_revoke_user: Call::Issue, false;
    issue_against_revoke_user_beside_express: Call::Issue, true;
    login_against_revoke_user: Call::Login, false;
    login_against_revoke_user_beside_express: Call::Login, true;
    regenerate_against_revoke_user: Call::Regenerate, false;
    regenerate_against_revoke_user_beside_express: Call::Regenerate, true;
);
