//! The store as a whole: walks, counts, drift.

use std::collections::BTreeSet;

use redis::Commands;
use sessiond::clock::{Clock, Ms};
use sessiond::id::Id;
use sessiond::session::{Lists, NewSession, Precondition, Stats, Survey, Touch};
use sessiond::store::{self, Entry, Insertion, Keyspace, StoreUrl};

use super::{Fixture, policy};

/// More than two steps of a walk.
const MANY: usize = 2500;

fn now() -> Ms {
    Clock::system().now()
}

async fn ids(survey: &Survey) -> Vec<String> {
    let (mut ids, mut walk) = (Vec::new(), survey.walk(None));
    while let Some(step) = walk.next().await.unwrap() {
        ids.extend(step.entries.into_iter().map(|stored| stored.id));
    }
    ids
}

async fn insert(fixture: &Fixture, id: &str, record: &str, user_id: Option<&str>, ttl: Ms) {
    let entry = Entry { record: record.as_bytes(), user_id, expires_at: now() + ttl };
    assert_eq!(fixture.store().insert(id, entry, now()).await.unwrap(), Insertion::Done);
}

/// A session of `user`, in the record as in the list.
async fn issue(fixture: &Fixture, user: &str) -> Id {
    let new = NewSession { user_id: Some(user.into()), ..NewSession::default() };
    fixture.sessions()[0].issue(new).await.unwrap().unwrap().id
}

const EXPRESS: &str = r#"{"cookie":{"originalMaxAge":7200000}}"#;

pub(crate) async fn a_walk_finds_every_live_entry_once(fixture: &Fixture) {
    if let Some(redis) = &fixture.redis {
        let mut redis = redis.connection();
        for n in 0..MANY {
            let _: () = redis.set(format!("other:{n}"), "x").unwrap();
        }
        let _: () = redis.set("sess-user", "x").unwrap();
        let _: () = redis.sadd("sess:a-set", "x").unwrap();
        let _: () = redis.set(b"sess:\xff", "not a name").unwrap();
    }
    let mut expected = BTreeSet::new();
    for n in 0..MANY {
        let id = format!("id {n} \u{e9}");
        insert(fixture, &id, EXPRESS, (n % 3 == 0).then_some("ada"), 60_000).await;
        expected.insert(id);
    }
    insert(fixture, "short", EXPRESS, None, 1).await;
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    let survey = fixture.survey().await;
    assert!(survey.size().await.unwrap() >= MANY as u64);
    let found = ids(&survey).await;
    assert_eq!(found.len(), MANY);
    assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected);
}

pub(crate) async fn everything_is_counted(fixture: &Fixture) {
    let survey = fixture.survey().await;
    assert_eq!(survey.stats(|_| ()).await.unwrap(), Stats::default());
    for user in ["ada", "ada", "eve"] {
        issue(fixture, user).await;
    }
    // Express's own: without a user, and due within two hours.
    insert(fixture, "express", EXPRESS, None, 7_200_000).await;
    insert(fixture, "soon", EXPRESS, None, 60_000).await;
    insert(fixture, "spoilt", "not JSON", None, 60_000).await;
    let over =
        r#"{"cookie":{},"sessiond":{"created_at":0,"touched_at":0,"lifetime_ends_at":1,"idle_timeout_ms":60000}}"#;
    insert(fixture, "over", over, None, 60_000).await;
    let stats = survey.stats(|_| ()).await.unwrap();
    let bytes = stats.bytes;
    assert!(bytes > 3 * 100 + 2 * EXPRESS.len() as u64, "{stats:?}");
    let expected = Stats {
        sessions: 5,
        with_user: 3,
        users: 2,
        expire_within_1h: 1,
        expire_within_24h: 5,
        without_expiry: 0,
        ended: 1,
        unreadable: 1,
        bytes,
        mean_bytes: bytes / 7,
    };
    assert_eq!(stats, expected);
}

pub(crate) async fn a_session_that_its_users_list_does_not_have_is_found(fixture: &Fixture) {
    let survey = fixture.survey().await;
    issue(fixture, "ada").await;
    let lost = issue(fixture, "ada").await;
    assert_eq!(survey.examine(|_| ()).await.unwrap().1, 0);
    if let Some(redis) = &fixture.redis {
        let _: () = redis.connection().zrem("sess-user:ada", lost.as_str()).unwrap();
    } else {
        let file = rusqlite::Connection::open(fixture.url.strip_prefix("sqlite:").unwrap()).unwrap();
        file.execute("update sessions set user_id = null where id = ?", [lost.as_str()]).unwrap();
    }
    let (stats, unlisted) = survey.examine(|_| ()).await.unwrap();
    assert_eq!((stats.with_user, unlisted), (2, 1));
    // As the advice says: the next touch brings it back.
    fixture.sessions()[0].resolve(&lost, Touch::Force).await.unwrap().unwrap();
    assert_eq!(survey.examine(|_| ()).await.unwrap().1, 0);
}

/// Nobody is told of a problem because sessions come and go.
pub(crate) async fn what_others_do_meanwhile_is_no_drift(fixture: &Fixture) {
    let survey = fixture.survey().await;
    let [sessions, _] = fixture.sessions();
    let busy = tokio::spawn(async move {
        for n in 0..200 {
            let new = || NewSession { user_id: Some(format!("user {}", n % 7)), ..NewSession::default() };
            let one = sessions.issue(new()).await.unwrap().unwrap().id;
            sessions.issue(new()).await.unwrap();
            assert!(sessions.revoke(&one, &Precondition::Any).await.unwrap());
            if n % 10 == 0 {
                sessions.revoke_user(&format!("user {}", n % 7), None).await.unwrap();
            }
        }
    });
    while !busy.is_finished() {
        assert_eq!(survey.examine(|_| ()).await.unwrap().1, 0);
        survey.lists(true, |_| ()).await.unwrap();
    }
    busy.await.unwrap();
    assert!(survey.stats(|_| ()).await.unwrap().sessions > 0);
}

pub(crate) async fn a_session_is_inspected_as_it_is(fixture: &Fixture) {
    let [sessions, _] = fixture.sessions();
    let id = issue(fixture, "ada").await;
    let before = fixture.store().find(id.as_str(), now()).await.unwrap().unwrap().record;
    let stored = sessions.inspect(&id).await.unwrap().unwrap();
    assert_eq!((stored.user_id.as_deref(), stored.standing.is_some()), (Some("ada"), true));
    assert_eq!(stored.found.record, before);
    insert(fixture, "spoilt", "not JSON", None, 60_000).await;
    let spoilt = sessions.inspect(&Id::parse("spoilt").unwrap()).await.unwrap().unwrap();
    assert!(spoilt.record.is_err() && spoilt.standing.is_none());
    assert!(sessions.inspect(&Id::parse("nobody").unwrap()).await.unwrap().is_none());
}

#[tokio::test]
async fn an_entry_without_a_session_is_found_and_purged() {
    let fixture = Fixture::redis().await;
    let mut redis = fixture.redis.as_ref().unwrap().connection();
    let survey = fixture.survey().await;
    let [sessions, _] = fixture.sessions();
    let kept = issue(&fixture, "ada").await;
    let ended = issue(&fixture, "ada").await;
    assert!(sessions.revoke(&ended, &Precondition::Any).await.unwrap());
    let whole = Lists { entries: 1, dangling: 0, pruned: 0 };
    assert_eq!(survey.lists(false, |_| ()).await.unwrap(), whole, "a revoke leaves nothing behind");
    let (hour, other) = (now() + 3_600_000, "sess-user:a user of many words");
    let _: () = redis.zadd("sess-user:ada", "ghost", hour).unwrap();
    let _: () = redis.zadd("sess-user:ada", "expired", now() - 5).unwrap();
    let _: () = redis.zadd("sess-user:ada", "under way", -hour).unwrap();
    let _: () = redis.zadd(other, "ghost", hour).unwrap();
    let drifted = Lists { entries: 5, dangling: 2, pruned: 0 };
    assert_eq!(survey.lists(false, |_| ()).await.unwrap(), drifted);
    assert_eq!(survey.lists(false, |_| ()).await.unwrap(), drifted, "looking changes nothing");
    assert_eq!(survey.lists(true, |_| ()).await.unwrap(), Lists { pruned: 3, ..drifted });
    assert_eq!(survey.lists(true, |_| ()).await.unwrap(), Lists { entries: 2, ..whole });
    let left: Vec<String> = redis.zrange("sess-user:ada", 0, -1).unwrap();
    assert_eq!(left, ["under way", kept.as_str()]);
    assert!(!redis.exists::<_, bool>(other).unwrap());
}

/// A prefix means itself, whatever it looks like to SCAN.
#[tokio::test]
async fn a_prefix_is_no_pattern() {
    let fixture = Fixture::redis().await;
    // As a user who may use any key: not that of README.md.
    let url: StoreUrl = fixture.redis.as_ref().unwrap().url().parse().unwrap();
    let mut redis = fixture.redis.as_ref().unwrap().connection();
    let keyspace = Keyspace { prefix: r"a[b]*?\:".into(), ..Keyspace::default() };
    let store = store::open(&url, &keyspace).await.unwrap();
    let entry = Entry { record: EXPRESS.as_bytes(), user_id: Some("ada"), expires_at: now() + 60_000 };
    assert_eq!(store.insert("mine", entry, now()).await.unwrap(), Insertion::Done);
    for other in [r"abx\:theirs", "ab*?:theirs", "sess:theirs"] {
        let _: () = redis.set(other, EXPRESS).unwrap();
    }
    let survey = Survey::new(store::survey(&url, &keyspace).await.unwrap(), policy(), Clock::system());
    assert_eq!(ids(&survey).await, ["mine"]);
    assert_eq!(survey.lists(true, |_| ()).await.unwrap(), Lists { entries: 1, dangling: 0, pruned: 0 });
}

/// An Express with `disableTTL` writes keys that never expire.
#[tokio::test]
async fn a_key_without_expiry_counts_until_it_is_touched() {
    let fixture = Fixture::redis().await;
    let mut redis = fixture.redis.as_ref().unwrap().connection();
    let _: () = redis.set("sess:for-ever", EXPRESS).unwrap();
    let survey = fixture.survey().await;
    assert_eq!(survey.stats(|_| ()).await.unwrap().without_expiry, 1);
    let [sessions, _] = fixture.sessions();
    sessions.resolve(&Id::parse("for-ever").unwrap(), Touch::WhenDue).await.unwrap().unwrap();
    assert_eq!(survey.stats(|_| ()).await.unwrap().without_expiry, 0);
}

/// It is looked at as it is: neither made nor brought up to date.
#[tokio::test]
async fn a_file_that_is_no_store_is_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let survey = async |file: &str| {
        let url = format!("sqlite:{}", folder.path().join(file).display());
        store::survey(&url.parse().unwrap(), &Keyspace::default()).await.map(|_| ()).unwrap_err().to_string()
    };
    assert!(survey("nothing.db").await.contains("nothing.db"));
    assert!(!folder.path().join("nothing.db").exists());
    std::fs::write(folder.path().join("text.db"), "this is not a database, but text, of which there is enough")
        .unwrap();
    assert!(survey("text.db").await.contains("not a database"));
    rusqlite::Connection::open(folder.path().join("empty.db")).unwrap().execute_batch("vacuum").unwrap();
    assert!(survey("empty.db").await.contains("schema 0"));
}
