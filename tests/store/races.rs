//! The rules under races: two processes on one store, many callers at once.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Map, Value, json};
use sessiond::session::{Change, Error, Id, NewSession, OnLimit, Policy, Regenerate, Session, Sessions, Touch};
use sessiond::store::Error as StoreError;
use tokio::task::JoinSet;

use super::{Fixture, policy};

const ROUNDS: usize = 120;

async fn issue(sessions: &Sessions, user_id: &str) -> Session {
    let new = NewSession { user_id: Some(user_id.into()), data: object(&json!({"n": 0})), ..NewSession::default() };
    sessions.issue(new).await.unwrap().unwrap()
}

fn object(value: &Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

fn merge(patch: Value) -> Change {
    Change::Merge(patch)
}

async fn look(sessions: &Sessions, id: &Id) -> Option<Session> {
    sessions.resolve(id, Touch::Never).await.unwrap()
}

async fn data(sessions: &Sessions, id: &Id) -> Value {
    serde_json::from_str(look(sessions, id).await.unwrap().data.as_str()).unwrap()
}

/// 64 writers, each of its own field and, with If-Match, of one counter.
pub(crate) async fn no_update_is_lost(fixture: &Fixture) {
    let sessions = fixture.sessions();
    for round in 0..5 {
        let id = issue(&sessions[0], "u").await.id;
        let counted = Arc::new(AtomicUsize::new(0));
        let mut writers = JoinSet::new();
        for writer in 0..64 {
            let (sessions, id, counted) = (sessions[writer % 2].clone(), id.clone(), Arc::clone(&counted));
            writers.spawn(async move {
                let change = merge(json!({ format!("field{writer}"): writer }));
                sessions.update(&id, &change, |_| true).await.unwrap().unwrap();
                let seen = look(&sessions, &id).await.unwrap();
                let seen_data: Value = serde_json::from_str(seen.data.as_str()).unwrap();
                let next = merge(json!({"n": seen_data["n"].as_u64().unwrap() + 1}));
                match sessions.update(&id, &next, |session| session.etag() == seen.etag()).await {
                    Ok(session) => drop((session.unwrap(), counted.fetch_add(1, Ordering::Relaxed))),
                    Err(Error::PreconditionFailed) => {}
                    Err(other) => panic!("{other}"),
                }
            });
        }
        while let Some(done) = writers.join_next().await {
            done.unwrap();
        }
        let data = data(&sessions[1], &id).await;
        assert_eq!(data["n"].as_u64().unwrap() as usize, counted.load(Ordering::Relaxed), "round {round}");
        assert!((0..64).all(|writer| data[format!("field{writer}")] == json!(writer)), "round {round}: {data}");
    }
}

/// Once a revoke has been answered, the session is gone, whatever was under way.
async fn never_revived<F>(fixture: &Fixture, write: impl Fn(Sessions, Id) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let sessions = fixture.sessions();
    for round in 0..ROUNDS {
        let id = issue(&sessions[0], "u").await.id;
        let mut writers = JoinSet::new();
        for writer in 0..6 {
            writers.spawn(write(sessions[writer % 2].clone(), id.clone()));
        }
        if round % 3 > 0 {
            tokio::task::yield_now().await;
        }
        assert!(sessions[round % 2].revoke(&id).await.unwrap());
        assert!(look(&sessions[1], &id).await.is_none(), "round {round}");
        while let Some(done) = writers.join_next().await {
            done.unwrap();
        }
        assert!(look(&sessions[0], &id).await.is_none(), "round {round}: revived");
    }
    assert_eq!(sessions[0].list("u", None, 10).await.unwrap().sessions.len(), 0);
}

pub(crate) async fn an_update_never_revives(fixture: &Fixture) {
    never_revived(fixture, |sessions, id| async move {
        for n in 0..4 {
            sessions.update(&id, &merge(json!({ "n": n })), |_| true).await.unwrap();
        }
    })
    .await;
}

pub(crate) async fn a_touch_never_revives(fixture: &Fixture) {
    never_revived(fixture, |sessions, id| async move {
        for _ in 0..4 {
            sessions.resolve(&id, Touch::Force).await.unwrap();
        }
    })
    .await;
}

pub(crate) async fn one_regenerate_wins(fixture: &Fixture) {
    let sessions = fixture.sessions();
    for round in 0..ROUNDS {
        let callers = if round == 0 { 100 } else { 8 };
        let old = issue(&sessions[0], "u").await.id;
        let mut racing = JoinSet::new();
        for caller in 0..callers {
            let (sessions, id) = (sessions[caller % 2].clone(), old.clone());
            racing.spawn(async move { sessions.regenerate(&id, Regenerate::default(), |_| true).await.unwrap() });
        }
        let winners: Vec<Session> = racing.join_all().await.into_iter().flatten().collect();
        assert_eq!(winners.len(), 1, "round {round}");
        assert!(look(&sessions[1], &old).await.is_none(), "round {round}");
        let listed = sessions[0].list("u", None, 200).await.unwrap().sessions;
        assert_eq!(
            listed.iter().map(|session| &session.id).collect::<Vec<_>>(),
            [&winners[0].id],
            "round {round}: no orphan"
        );
        sessions[0].revoke(&winners[0].id).await.unwrap();
    }
}

/// An update that was answered before the regenerate was is in the new session; one that comes after finds none.
pub(crate) async fn a_regenerate_carries_a_racing_update(fixture: &Fixture) {
    let sessions = fixture.sessions();
    for round in 0..ROUNDS {
        let old = issue(&sessions[0], "u").await.id;
        let (updating, id) = (sessions[1].clone(), old.clone());
        let update = tokio::spawn(async move {
            let mut written = 0;
            while written < 5
                && updating.update(&id, &merge(json!({ "n": written + 1 })), |_| true).await.unwrap().is_some()
            {
                written += 1;
            }
            written
        });
        if round % 2 > 0 {
            tokio::task::yield_now().await;
        }
        let new = sessions[0].regenerate(&old, Regenerate::default(), |_| true).await.unwrap().unwrap();
        let written: u64 = update.await.unwrap();
        assert_eq!(data(&sessions[0], &new.id).await["n"], json!(written), "round {round}");
    }
}

/// 32 issuers of one user against revoke-all.
pub(crate) async fn revoking_a_user_reaches_every_acknowledged_session(fixture: &Fixture) {
    let sessions = fixture.sessions();
    for round in 0..ROUNDS / 4 {
        let acknowledged = Arc::new(std::sync::Mutex::new(Vec::new()));
        let mut issuers = JoinSet::new();
        for issuer in 0..32 {
            let (sessions, acknowledged) = (sessions[issuer % 2].clone(), Arc::clone(&acknowledged));
            issuers.spawn(async move {
                for _ in 0..3 {
                    let session = issue(&sessions, "u").await;
                    acknowledged.lock().unwrap().push(session.id);
                }
            });
        }
        while acknowledged.lock().unwrap().len() < 10 {
            tokio::task::yield_now().await;
        }
        let before: Vec<Id> = acknowledged.lock().unwrap().clone();
        let revoked = sessions[round % 2].revoke_user("u", None).await.unwrap();
        assert!(revoked >= 10, "round {round}");
        for id in &before {
            assert!(look(&sessions[0], id).await.is_none(), "round {round}: a session outlived the revoke");
        }
        issuers.join_all().await;
        let listed: HashSet<Id> =
            sessions[0].list("u", None, 1000).await.unwrap().sessions.into_iter().map(|session| session.id).collect();
        let all = acknowledged.lock().unwrap().clone();
        for id in all {
            assert_eq!(
                look(&sessions[0], &id).await.is_some(),
                listed.contains(&id),
                "round {round}: every survivor is listed"
            );
        }
        if let Some(redis) = &fixture.redis {
            let members: usize = redis::cmd("ZCARD").arg("sess-user:u").query(&mut redis.connection()).unwrap();
            assert_eq!(members, listed.len(), "round {round}: no entry without a session");
        }
        let kept = listed.iter().next().cloned();
        sessions[0].revoke_user("u", kept.as_ref()).await.unwrap();
        assert_eq!(sessions[1].list("u", None, 1000).await.unwrap().sessions.len(), usize::from(kept.is_some()));
        sessions[0].revoke_user("u", None).await.unwrap();
        assert!(sessions[1].list("u", None, 1000).await.unwrap().sessions.is_empty());
    }
}

pub(crate) async fn revoking_a_user_reaches_a_session_that_is_being_regenerated(fixture: &Fixture) {
    let sessions = fixture.sessions();
    for round in 0..ROUNDS {
        let old = issue(&sessions[0], "u").await.id;
        let (regenerating, id) = (sessions[1].clone(), old.clone());
        let regenerated =
            tokio::spawn(async move { regenerating.regenerate(&id, Regenerate::default(), |_| true).await.unwrap() });
        if round % 2 > 0 {
            tokio::task::yield_now().await;
        }
        sessions[0].revoke_user("u", None).await.unwrap();
        let survivor = regenerated.await.unwrap();
        assert!(look(&sessions[0], &old).await.is_none(), "round {round}");
        if let Some(survivor) = survivor {
            assert!(look(&sessions[0], &survivor.id).await.is_none(), "round {round}: it lives on under a new id");
        }
        assert!(sessions[0].list("u", None, 10).await.unwrap().sessions.is_empty(), "round {round}");
    }
}

/// More sessions than one listing takes, and all of them on the move.
pub(crate) async fn revoking_a_user_reaches_sessions_that_move_in_the_listing(fixture: &Fixture) {
    let sessions = fixture.sessions();
    let mut issuing = JoinSet::new();
    for n in 0..2_300 {
        let sessions = sessions[n % 2].clone();
        issuing.spawn(async move { issue(&sessions, "u").await.id });
        if issuing.len() >= 64 {
            issuing.join_next().await.unwrap().unwrap();
        }
    }
    issuing.join_all().await;
    let ids: Vec<Id> =
        sessions[0].list("u", None, 5_000).await.unwrap().sessions.into_iter().map(|session| session.id).collect();
    assert_eq!(ids.len(), 2_300);
    let (touching, last) = (sessions[1].clone(), ids.clone());
    let touches = tokio::spawn(async move {
        for id in last.iter().rev() {
            touching.resolve(id, Touch::Force).await.unwrap();
        }
    });
    sessions[0].revoke_user("u", Some(&ids[7])).await.unwrap();
    let left = sessions[0].list("u", None, 5_000).await.unwrap().sessions;
    assert_eq!(left.iter().map(|session| &session.id).collect::<Vec<_>>(), [&ids[7]]);
    touches.await.unwrap();
    assert_eq!(sessions[0].list("u", None, 5_000).await.unwrap().sessions.len(), 1);
}

/// How many issue at once.
const ISSUERS: usize = 32;

async fn many_issuers(sessions: &[Sessions; 2], limit: usize) -> Vec<Result<Session, Error>> {
    let mut issuers = JoinSet::new();
    for issuer in 0..ISSUERS {
        let sessions = sessions[issuer % 2].clone();
        issuers.spawn(async move {
            let mut answers = Vec::new();
            for _ in 0..3 {
                answers.push(issue_to(&sessions, "u").await);
                let listed = sessions.list("u", None, 1000).await.unwrap().sessions.len();
                assert!(listed < limit + ISSUERS, "{listed} sessions of {limit} that there may be");
            }
            answers
        });
    }
    issuers.join_all().await.into_iter().flatten().collect()
}

async fn issue_to(sessions: &Sessions, user: &str) -> Result<Session, Error> {
    let new = NewSession { user_id: Some(user.into()), ..NewSession::default() };
    sessions.issue(new).await.map(Option::unwrap)
}

async fn listed(sessions: &Sessions) -> usize {
    sessions.list("u", None, 1000).await.unwrap().sessions.len()
}

/// 32 issuers of one user who may have five sessions: five in the end.
pub(crate) async fn a_limit_holds(fixture: &Fixture) {
    for on_limit in [OnLimit::EvictOldest, OnLimit::EvictIdle] {
        let sessions = fixture.sessions_under(&Policy { max_sessions_per_user: Some(5), on_limit, ..policy() });
        for round in 0..10 {
            let issued = many_issuers(&sessions, 5).await;
            assert!(issued.iter().all(Result::is_ok), "round {round}");
            let mut alive = 0;
            for session in issued.into_iter().flatten() {
                alive += usize::from(look(&sessions[0], &session.id).await.is_some());
            }
            assert_eq!(alive, 5, "round {round}");
            assert_eq!(listed(&sessions[1]).await, 5, "round {round}");
            sessions[1].revoke_user("u", None).await.unwrap();
        }
    }
}

pub(crate) async fn a_limit_that_rejects_holds(fixture: &Fixture) {
    let policy = Policy { max_sessions_per_user: Some(5), on_limit: OnLimit::Reject, ..policy() };
    let sessions = fixture.sessions_under(&policy);
    for round in 0..3 {
        let (mut issued, refused): (Vec<_>, Vec<_>) =
            many_issuers(&sessions, 5).await.into_iter().partition(Result::is_ok);
        assert!((1..=5).contains(&issued.len()), "round {round}: {} were given", issued.len());
        for error in refused {
            // On a busy machine some do not get to the end within the request's deadline.
            let late = matches!(error, Err(Error::Store(StoreError::Unavailable(_) | StoreError::OutOfTime)));
            assert!(late || matches!(error, Err(Error::TooManySessions { limit: 5 })), "round {round}: {error:?}");
        }
        // Places that were left empty, because many withdrew at once, are there for whoever comes next.
        while issued.len() < 5 {
            let next = issue_to(&sessions[0], "u").await;
            issued.extend(next.is_ok().then_some(next));
        }
        assert!(issue_to(&sessions[1], "u").await.is_err());
        for session in issued {
            assert!(sessions[0].revoke(&session.unwrap().id).await.unwrap(), "round {round}");
        }
    }
}

/// A login that is sent several times: the one that wins is live, and nobody but the oldest gave way to it.
pub(crate) async fn a_login_that_loses_the_race_evicts_nobody(fixture: &Fixture) {
    for limit in [1, 3] {
        let policy = Policy { max_sessions_per_user: Some(limit), save_uninitialized: true, ..policy() };
        let sessions = fixture.sessions_under(&policy);
        for round in 0..40 {
            for _ in 0..limit {
                issue_to(&sessions[0], "u").await.unwrap();
            }
            let visitor = sessions[0].issue(NewSession::default()).await.unwrap().unwrap();
            // Which is the oldest is told by the millisecond.
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            let logins = (0..4).map(|login| {
                let wanted = Regenerate { user_id: Some(Some("u".into())), ..Regenerate::default() };
                let (sessions, id) = (sessions[login % 2].clone(), visitor.id.clone());
                tokio::spawn(async move { sessions.regenerate(&id, wanted, |_| true).await.unwrap() })
            });
            let mut won = Vec::new();
            for login in logins.collect::<Vec<_>>() {
                won.extend(login.await.unwrap());
            }
            assert_eq!(won.len(), 1, "round {round}");
            assert!(look(&sessions[1], &won[0].id).await.is_some(), "round {round}, limit {limit}: the winner is dead");
            assert_eq!(listed(&sessions[0]).await, limit, "round {round}");
            sessions[1].revoke_user("u", None).await.unwrap();
        }
    }
}

/// What is being regenerated is there twice for a moment, and nobody loses a session for that.
pub(crate) async fn a_regenerate_beside_a_login_takes_one_place(fixture: &Fixture) {
    let sessions = fixture.sessions_under(&Policy { max_sessions_per_user: Some(3), ..policy() });
    let mut left = [0; 4];
    for _ in 0..40 {
        for _ in 0..2 {
            issue_to(&sessions[0], "u").await.unwrap();
        }
        // Which is the oldest is told by the millisecond, and then by the id, which is about to be another.
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        let renewed = issue_to(&sessions[0], "u").await.unwrap();
        let (logging_in, regenerating) = (sessions[0].clone(), sessions[1].clone());
        let regenerate =
            tokio::spawn(async move { regenerating.regenerate(&renewed.id, Regenerate::default(), |_| true).await });
        tokio::spawn(async move { issue_to(&logging_in, "u").await }).await.unwrap().unwrap();
        regenerate.await.unwrap().unwrap();
        left[listed(&sessions[0]).await] += 1;
        sessions[1].revoke_user("u", None).await.unwrap();
    }
    assert!(left[3] >= 38, "{left:?}");
}

/// A caller that hangs up leaves nothing that takes a place.
pub(crate) async fn an_aborted_login_takes_no_place_for_long(fixture: &Fixture) {
    let sessions = fixture.sessions_under(&Policy { max_sessions_per_user: Some(2), ..policy() });
    for round in 0..40_u64 {
        let aborted = sessions[0].clone();
        let task = tokio::spawn(async move { issue_to(&aborted, "u").await });
        tokio::time::sleep(std::time::Duration::from_micros(round * 20)).await;
        task.abort();
        let _ = task.await;
    }
    let began = std::time::Instant::now();
    issue_to(&sessions[1], "u").await.unwrap();
    assert!(began.elapsed() < std::time::Duration::from_millis(400), "{:?}", began.elapsed());
    while listed(&sessions[0]).await > 2 {
        assert!(began.elapsed() < std::time::Duration::from_secs(5));
    }
}
