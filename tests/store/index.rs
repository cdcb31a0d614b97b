//! The names of a user's list in Redis.

use sessiond::store::{Entry, Insertion, Keyspace, Store};

use super::Fixture;
use super::conformance::now;

async fn ids(store: &dyn Store, user_id: &str) -> Vec<String> {
    store.sweep_user(user_id, 100, now()).await.unwrap().rows.into_iter().map(|row| row.id).collect()
}

fn entry(record: &[u8]) -> Entry<'_> {
    Entry { record, user_id: Some("ada"), expires_at: now() + 60_000 }
}

/// With such a prefix the key of the id `-user:ada` was that of Ada's list.
#[tokio::test]
async fn no_id_names_a_list() {
    for prefix in ["sess", "app::", "user:"] {
        let fixture = Fixture::on_redis(Keyspace { prefix: prefix.into(), tombstone: None }).await;
        let store = fixture.store();
        assert_eq!(store.insert("one", entry(b"1"), now()).await.unwrap(), Insertion::Done);
        let keys: Vec<String> =
            redis::cmd("KEYS").arg("*").query(&mut fixture.redis.as_ref().unwrap().connection()).unwrap();
        assert_eq!(keys.len(), 2, "{keys:?}");
        for key in keys {
            if let Some(id) = key.strip_prefix(prefix).filter(|id| *id != "one") {
                store.remove(&[id], None, now()).await.unwrap();
            }
        }
        assert_eq!(ids(store, "ada").await, ["one"], "{prefix}");
    }
}

#[tokio::test]
async fn prefixes_that_end_in_colons_have_lists_of_their_own() {
    let fixture = Fixture::on_redis(Keyspace { prefix: "app:".into(), tombstone: None }).await;
    let keyspace = Keyspace { prefix: "app::".into(), tombstone: None };
    let other = sessiond::store::open(&fixture.url.parse().unwrap(), &keyspace).await.unwrap();
    fixture.store().insert("one", entry(b"1"), now()).await.unwrap();
    other.insert("other", entry(b"2"), now()).await.unwrap();
    assert_eq!(ids(fixture.store(), "ada").await, ["one"]);
    assert_eq!(ids(other.as_ref(), "ada").await, ["other"]);
}

/// What version 0.1 listed under another name is found, also while a process of that version still reads and writes there.
#[tokio::test]
async fn a_list_of_version_0_1_is_copied() {
    let fixture = Fixture::on_redis(Keyspace { prefix: "sess".into(), tombstone: None }).await;
    let mut redis = fixture.redis.as_ref().unwrap().connection();
    for round in 0..2 {
        let (before, after) = (format!("before{round}"), format!("after{round}"));
        let expiry = now() + 60_000;
        redis::cmd("SET").arg(format!("sess{before}")).arg("1").arg("PX").arg(60_000).exec(&mut redis).unwrap();
        redis::cmd("ZADD").arg("sess-user:ada").arg(expiry).arg(&before).exec(&mut redis).unwrap();
        redis::cmd("PEXPIRE").arg("sess-user:ada").arg(60_000).exec(&mut redis).unwrap();
        fixture.store().insert(&after, entry(b"2"), now()).await.unwrap();
        let mut listed = ids(fixture.store(), "ada").await;
        listed.sort();
        assert_eq!(listed, [after.clone(), before.clone()]);
        assert!(redis::cmd("EXISTS").arg("sess-user:ada").query::<bool>(&mut redis).unwrap());
        let pttl: i64 = redis::cmd("PTTL").arg("user:sess:ada").query(&mut redis).unwrap();
        assert!(pttl > 50_000, "the list lives {pttl} ms");
        assert_eq!(fixture.store().remove(&[&after, &before], Some("ada"), now()).await.unwrap(), 2);
        assert!(ids(fixture.store(), "ada").await.is_empty(), "what is gone is not copied");
    }
}

/// The old name of one prefix's list is the name of another's.
#[tokio::test]
async fn a_list_of_another_prefix_stays_as_it_is() {
    let fixture = Fixture::on_redis(Keyspace { prefix: "sess:".into(), tombstone: None }).await;
    let keyspace = Keyspace { prefix: "sess".into(), tombstone: None };
    let other =
        sessiond::store::open(&fixture.redis.as_ref().unwrap().url().parse().unwrap(), &keyspace).await.unwrap();
    fixture.store().insert("one", entry(b"1"), now()).await.unwrap();
    assert!(ids(other.as_ref(), "ada").await.is_empty());
    assert_eq!(ids(fixture.store(), "ada").await, ["one"]);
}
