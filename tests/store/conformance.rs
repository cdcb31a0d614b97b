//! What `sessiond::store` promises, call by call.

use std::time::Duration;

use sessiond::clock::{Clock, Ms};
use sessiond::store::{Entry, Insertion, Outcome, Store};

use super::Fixture;

pub(crate) fn now() -> Ms {
    Clock::system().now()
}

fn entry<'a>(record: &'a str, user_id: Option<&'a str>, ttl: Ms) -> Entry<'a> {
    Entry { record: record.as_bytes(), user_id, expires_at: now() + ttl }
}

async fn record(store: &dyn Store, id: &str) -> Option<String> {
    store.find(id, now()).await.unwrap().map(|found| String::from_utf8(found.record).unwrap())
}

async fn ids(store: &dyn Store, user_id: &str) -> Vec<String> {
    loop {
        let page = store.list_by_user(user_id, None, 100, now()).await.unwrap();
        if page.vanished == 0 {
            return page.rows.into_iter().map(|row| row.id).collect();
        }
    }
}

/// How much longer than its members an index lives beside an Express, in ms.
const UNTOLD: Ms = 30 * 24 * 60 * 60 * 1000;

/// Waits until `expires_at` has passed.
async fn pass(expires_at: Ms) {
    while now() <= expires_at + 2 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub(crate) async fn insert_never_overwrites(fixture: &Fixture) {
    let store = fixture.store();
    assert_eq!(store.insert("a", entry("one", Some("u"), 60_000), now()).await.unwrap(), Insertion::Done);
    assert_eq!(store.insert("a", entry("two", Some("u"), 60_000), now()).await.unwrap(), Insertion::Refused);
    assert_eq!(store.insert("a", entry("two", Some("v"), 60_000), now()).await.unwrap(), Insertion::Refused);
    assert_eq!(store.insert("a", entry("two", None, 60_000), now()).await.unwrap(), Insertion::Refused);
    assert_eq!(record(store, "a").await.as_deref(), Some("one"));
    assert_eq!(ids(store, "u").await, ["a"]);
    assert_eq!(ids(store, "v").await, [""; 0]);
    assert_eq!(record(fixture.stores[1].as_ref(), "a").await.as_deref(), Some("one"), "the other process sees it");
    let expires_at = now() + 60_000;
    let found = store.find("a", now()).await.unwrap().unwrap();
    assert!((found.expires_at.unwrap() - expires_at).abs() < 2_000);
}

pub(crate) async fn writes_apply_only_to_what_is_there(fixture: &Fixture) {
    let store = fixture.store();
    store.insert("a", entry("one", Some("u"), 60_000), now()).await.unwrap();
    assert_eq!(store.remove(&["a"], Some("u"), now()).await.unwrap(), 1);
    assert_eq!(store.remove(&["a"], Some("u"), now()).await.unwrap(), 0);
    assert_eq!(store.remove_if("a", b"one", Some("u"), now()).await.unwrap(), Outcome::Missing);
    assert_eq!(store.replace("a", b"one", entry("two", Some("u"), 60_000), now()).await.unwrap(), Outcome::Missing);
    assert_eq!(store.touch("a", b"one", entry("one", Some("u"), 60_000), now()).await.unwrap(), Outcome::Missing);
    assert_eq!(record(store, "a").await, None);
    assert_eq!(ids(store, "u").await, [""; 0]);
}

pub(crate) async fn writes_apply_only_to_what_was_expected(fixture: &Fixture) {
    let store = fixture.store();
    store.insert("a", entry("one", None, 60_000), now()).await.unwrap();
    assert_eq!(store.replace("a", b"other", entry("two", None, 60_000), now()).await.unwrap(), Outcome::Changed);
    assert_eq!(store.touch("a", b"other", entry("two", None, 60_000), now()).await.unwrap(), Outcome::Changed);
    assert_eq!(store.remove_if("a", b"other", None, now()).await.unwrap(), Outcome::Changed);
    assert_eq!(record(store, "a").await.as_deref(), Some("one"));
    assert_eq!(store.replace("a", b"one", entry("two", None, 90_000), now()).await.unwrap(), Outcome::Applied);
    let found = store.find("a", now()).await.unwrap().unwrap();
    assert_eq!(found.record, b"two");
    assert!((found.expires_at.unwrap() - now() - 90_000).abs() < 2_000, "a replace moves the expiry");
    assert_eq!(store.touch("a", b"two", entry("two", None, 120_000), now()).await.unwrap(), Outcome::Applied);
    let found = store.find("a", now()).await.unwrap().unwrap();
    assert!((found.expires_at.unwrap() - now() - 120_000).abs() < 2_000, "a touch moves the expiry");
    assert_eq!(store.remove_if("a", b"two", None, now()).await.unwrap(), Outcome::Applied);
    assert_eq!(record(store, "a").await, None);
}

pub(crate) async fn an_expired_entry_is_missing_before_it_is_purged(fixture: &Fixture) {
    let store = fixture.store();
    let short = entry("one", Some("u"), 40);
    store.insert("a", short, now()).await.unwrap();
    store.insert("b", entry("stays", Some("u"), 60_000), now()).await.unwrap();
    pass(short.expires_at).await;
    assert_eq!(record(store, "a").await, None);
    assert_eq!(ids(store, "u").await, ["b"]);
    assert_eq!(store.replace("a", b"one", entry("two", Some("u"), 60_000), now()).await.unwrap(), Outcome::Missing);
    assert_eq!(store.touch("a", b"one", entry("one", Some("u"), 60_000), now()).await.unwrap(), Outcome::Missing);
    assert_eq!(store.remove(&["a"], Some("u"), now()).await.unwrap(), 0);
    assert_eq!(ids(store, "u").await, ["b"]);
    assert_eq!(
        store.insert("a", entry("anew", None, 40), now()).await.unwrap(),
        Insertion::Done,
        "an expired entry gives way"
    );
    assert_eq!(record(store, "a").await.as_deref(), Some("anew"));
    pass(now() + 40).await;
    let purged = store.purge_expired(now(), 10).await.unwrap();
    assert_eq!(purged, usize::from(fixture.redis.is_none()), "Redis purges by itself");
    assert_eq!(store.purge_expired(now(), 10).await.unwrap(), 0);
    assert_eq!(record(store, "b").await.as_deref(), Some("stays"));
}

pub(crate) async fn unknown_ids_create_nothing(fixture: &Fixture) {
    let store = fixture.store();
    assert_eq!(store.find("none", now()).await.unwrap(), None);
    assert_eq!(store.replace("none", b"", entry("two", Some("u"), 60_000), now()).await.unwrap(), Outcome::Missing);
    assert_eq!(store.touch("none", b"", entry("two", Some("u"), 60_000), now()).await.unwrap(), Outcome::Missing);
    assert_eq!(store.remove(&["none"], Some("u"), now()).await.unwrap(), 0);
    assert_eq!(ids(store, "u").await, [""; 0]);
    assert_eq!(store.find("none", now()).await.unwrap(), None);
    if let Some(redis) = &fixture.redis {
        let keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut redis.connection()).unwrap();
        assert!(keys.iter().all(|key| key == "{sess:none}:revoked"), "{keys:?}");
    }
}

pub(crate) async fn several_are_found_and_removed_at_once(fixture: &Fixture) {
    let store = fixture.store();
    for id in ["a", "b", "c"] {
        store.insert(id, entry(id, Some("u"), 60_000), now()).await.unwrap();
    }
    let found = store.find_many(&["c", "none", "a", "a"], now()).await.unwrap();
    let found: Vec<Option<Vec<u8>>> = found.into_iter().map(|found| found.map(|found| found.record)).collect();
    assert_eq!(found, [Some(b"c".to_vec()), None, Some(b"a".to_vec()), Some(b"a".to_vec())]);
    let (many, one) = (store.find_many(&["c"], now()).await.unwrap(), store.find("c", now()).await.unwrap());
    let (many, one) = (many[0].as_ref().unwrap(), one.unwrap());
    assert_eq!(many.record, one.record);
    assert!((many.expires_at.unwrap() - one.expires_at.unwrap()).abs() < 2_000);
    assert!(store.find_many(&[], now()).await.unwrap().is_empty());
    assert_eq!(store.remove(&["a", "none", "b", "b"], Some("u"), now()).await.unwrap(), 2);
    assert_eq!(ids(store, "u").await, ["c"]);
    assert_eq!(store.remove(&[], Some("u"), now()).await.unwrap(), 0);
}

pub(crate) async fn users_are_listed_page_by_page(fixture: &Fixture) {
    let store = fixture.store();
    let began = now();
    // Some expire at the same millisecond: then ids decide.
    let mut expected: Vec<(Ms, String)> =
        (0..25).map(|n| (began + 60_000 + 1000 * (n / 4), format!("id-{n:02}"))).collect();
    for (expires_at, id) in &expected {
        let entry = Entry { record: id.as_bytes(), user_id: Some("ü/?&:*"), expires_at: *expires_at };
        assert_eq!(store.insert(id, entry, began).await.unwrap(), Insertion::Done);
    }
    store.insert("other", entry("x", Some("somebody else"), 60_000), now()).await.unwrap();
    store.insert("nobody", entry("x", None, 60_000), now()).await.unwrap();
    expected.sort();
    expected.reverse();
    for limit in [1, 3, 24, 25, 26] {
        let (mut listed, mut after) = (Vec::new(), None);
        loop {
            let page = store.list_by_user("ü/?&:*", after.as_ref(), limit, now()).await.unwrap();
            assert!(page.rows.len() <= limit);
            assert!(page.rows.iter().all(|row| row.found.record == row.id.as_bytes()));
            listed.extend(page.rows.into_iter().map(|row| row.id));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let expected: Vec<&String> = expected.iter().map(|(_, id)| id).collect();
        assert_eq!(listed.iter().collect::<Vec<_>>(), expected, "pages of {limit}");
        let swept = store.sweep_user("ü/?&:*", limit, now()).await.unwrap();
        let swept: Vec<&String> = swept.rows.iter().map(|row| &row.id).collect();
        let last: Vec<&String> = expected.iter().rev().take(limit).copied().collect();
        assert_eq!(swept, last, "a sweep begins at the other end");
    }
}

pub(crate) async fn the_index_follows_every_write(fixture: &Fixture) {
    let store = fixture.store();
    let short = entry("a", Some("u"), 300);
    store.insert("a", short, now()).await.unwrap();
    store.insert("b", entry("b", Some("u"), 250), now()).await.unwrap();
    store.insert("c", entry("c", Some("u"), 60_000), now()).await.unwrap();
    // Touched and replaced before they expire, they are listed after.
    assert_eq!(store.touch("a", b"a", entry("a", Some("u"), 60_000), now()).await.unwrap(), Outcome::Applied);
    assert_eq!(store.replace("b", b"b", entry("B", Some("u"), 60_000), now()).await.unwrap(), Outcome::Applied);
    // Removed without a word on whose it was.
    assert_eq!(store.remove(&["c"], None, now()).await.unwrap(), 1);
    pass(short.expires_at).await;
    let mut listed = ids(store, "u").await;
    listed.sort();
    assert_eq!(listed, ["a", "b"]);
    if let Some(redis) = &fixture.redis {
        let members: Vec<String> =
            redis::cmd("ZRANGE").arg("sess-user:u").arg("0").arg("-1").query(&mut redis.connection()).unwrap();
        assert_eq!(members.len(), 2, "listing has pruned what was removed: {members:?}");
        // A session that never met the index enters it at its first touch.
        redis::cmd("SET").arg("sess:express").arg("e").arg("EX").arg("60").exec(&mut redis.connection()).unwrap();
        assert_eq!(store.touch("express", b"e", entry("e", Some("u"), 60_000), now()).await.unwrap(), Outcome::Applied);
        assert!(ids(store, "u").await.contains(&"express".to_owned()));
    }
}

pub(crate) async fn records_are_bytes(fixture: &Fixture) {
    let store = fixture.store();
    let bytes: Vec<u8> = (0..=255).cycle().take(70_000).collect();
    let entry = |record| Entry { record, user_id: Some("\u{0}\u{10FFFF}"), expires_at: now() + 60_000 };
    assert_eq!(store.insert("a b\"%", entry(&bytes), now()).await.unwrap(), Insertion::Done);
    assert_eq!(store.find("a b\"%", now()).await.unwrap().unwrap().record, bytes);
    assert_eq!(store.replace("a b\"%", &bytes, entry(&bytes[..10]), now()).await.unwrap(), Outcome::Applied);
    assert_eq!(store.find("a b\"%", now()).await.unwrap().unwrap().record, bytes[..10]);
    assert_eq!(ids(store, "\u{0}\u{10FFFF}").await, ["a b\"%"]);
}

pub(crate) async fn every_key_expires(fixture: &Fixture) {
    let store = fixture.store();
    let id = |n: usize| format!("id-{n}");
    for n in 0..20 {
        let user_id = ["u", "v"][n % 2];
        store.insert(&id(n), entry("one", Some(user_id), 50_000), now()).await.unwrap();
        store.touch(&id(n), b"one", entry("one", Some(user_id), 90_000), now()).await.unwrap();
    }
    store.replace("id-0", b"one", entry("two", Some("u"), 1), now()).await.unwrap();
    store.insert("none", entry("one", None, 1_000), now()).await.unwrap();
    store.insert("past", Entry { expires_at: now() - 5, ..entry("one", Some("w"), 0) }, now()).await.unwrap();
    pass(now() + 5).await;
    assert_eq!(record(store, "id-0").await, None, "a ttl never rounds to none");
    assert_eq!(record(store, "past").await, None, "a ttl never turns into none");
    if let Some(redis) = &fixture.redis {
        let mut connection = redis.connection();
        let keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut connection).unwrap();
        assert!(keys.len() >= 22, "{keys:?}");
        for key in keys {
            let pttl: Ms = redis::cmd("PTTL").arg(&key).query(&mut connection).unwrap();
            let longest = match (key.starts_with("sess-user:"), fixture.keyspace.tombstone) {
                (false, _) => 90_000,
                // An index lives ten minutes at least.
                (true, None) => 601_000,
                (true, Some(_)) => 600_000 + UNTOLD,
            };
            assert!(pttl > 0 && pttl <= longest, "{key} has the ttl {pttl}");
            assert!(!key.starts_with("sess-user:u") || pttl > 80_000, "an index lives as long as its longest member");
        }
    }
}
