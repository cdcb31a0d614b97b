//! The rules under races: two processes on one store, many callers at once.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Map, Value, json};
use sessiond::session::{Change, Error, Id, NewSession, OnLimit, Policy, Regenerate, Session, Sessions, Touch};
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

async fn many_issuers(sessions: &[Sessions; 2], limit: usize) -> Vec<Result<Session, Error>> {
    let mut issuers = JoinSet::new();
    for issuer in 0..32 {
        let sessions = sessions[issuer % 2].clone();
        issuers.spawn(async move {
            let mut answers = Vec::new();
            for _ in 0..3 {
                let new = NewSession { user_id: Some("u".into()), ..NewSession::default() };
                answers.push(sessions.issue(new).await.map(Option::unwrap));
                let listed = sessions.list("u", None, 1000).await.unwrap().sessions.len();
                assert!(listed <= limit, "{listed} sessions of {limit} that there may be");
            }
            answers
        });
    }
    issuers.join_all().await.into_iter().flatten().collect()
}

/// 32 issuers of one user who may have five sessions: never more, and five in the end.
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
            assert_eq!(sessions[1].list("u", None, 1000).await.unwrap().sessions.len(), 5, "round {round}");
            sessions[1].revoke_user("u", None).await.unwrap();
        }
    }
}

pub(crate) async fn a_limit_that_rejects_holds(fixture: &Fixture) {
    let policy = Policy { max_sessions_per_user: Some(5), on_limit: OnLimit::Reject, ..policy() };
    let sessions = fixture.sessions_under(&policy);
    for round in 0..10 {
        let (issued, refused): (Vec<_>, Vec<_>) = many_issuers(&sessions, 5).await.into_iter().partition(Result::is_ok);
        assert_eq!(issued.len(), 5, "round {round}: no place is left empty, and none is given twice");
        assert!(refused.iter().all(|error| matches!(error, Err(Error::TooManySessions { limit: 5 }))), "round {round}");
        for session in issued.into_iter().flatten() {
            assert!(sessions[0].revoke(&session.id).await.unwrap(), "round {round}");
        }
    }
}
