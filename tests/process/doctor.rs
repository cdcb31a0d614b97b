//! `doctor`: silent on what is well, and not on each fault that can be made.

use std::os::unix::fs::PermissionsExt;

use redis::Commands;

use crate::place::Place;
use crate::sessiond::cookie;

/// Asserts that these checks, and no others, find a problem; and that both forms say so.
fn diagnosed(place: &Place, problems: &[&str]) {
    let code = i32::from(!problems.is_empty());
    let said = place.ask(&["doctor", "--json"]);
    assert_eq!(said.code, code, "{}{}", said.stdout, said.stderr);
    let json = said.json();
    let checks = json["checks"].as_array().unwrap();
    let bad = |check: &&serde_json::Value| check["ok"] == false && check["advice"].is_string();
    let found: Vec<_> = checks.iter().filter(bad).map(|check| check["name"].as_str().unwrap()).collect();
    assert_eq!(found, problems, "{json}");
    assert_eq!(json["problems"], problems.len());
    let said = place.ask(&["doctor"]);
    assert_eq!(said.code, code);
    assert_eq!(said.stdout.matches("problem  ").count(), problems.len(), "{}", said.stdout);
    assert_eq!(said.stdout.ends_with("no problems\n"), problems.is_empty(), "{}", said.stdout);
}

/// Logins, logouts and carts, as on any day.
fn live(place: &Place) {
    for _ in 0..3 {
        place.server.issue();
    }
    place.server.curl("/v1/sessions", &["--json", r#"{"data":{"cart":[]}}"#]);
    let leaving = place.server.issue();
    let with = ["-H", &format!("Cookie: {leaving}")];
    let moved = cookie(&place.server.curl("/v1/session/regenerate", &[&with[..], &["-X", "POST"]].concat()));
    place.server.curl("/v1/session", &["-X", "DELETE", "-H", &format!("Cookie: {moved}")]);
}

#[test]
fn a_store_in_service_is_well() {
    for place in Place::both() {
        diagnosed(&place, &[]);
        live(&place);
        diagnosed(&place, &[]);
    }
}

#[test]
fn a_redis_that_loses_sessions_is_told() {
    let place = Place::redis();
    let mut redis = place.redis.as_ref().unwrap().connection();
    let mut set =
        |name: &str, value: &str| redis::cmd("CONFIG").arg("SET").arg(name).arg(value).exec(&mut redis).unwrap();
    set("maxmemory-policy", "allkeys-lru");
    diagnosed(&place, &["maxmemory_policy"]);
    set("maxmemory-policy", "volatile-ttl");
    diagnosed(&place, &[]);
    set("appendonly", "no");
    diagnosed(&place, &["persistence"]);
    set("appendonly", "yes");
    // It evicts: what has an expiry goes, to make room.
    live(&place);
    set("maxmemory", "1");
    let _ = place.server.curl("/v1/sessions", &["--json", r#"{"user_id":"ada"}"#]);
    set("maxmemory", "0");
    let found = place.ask(&["doctor", "--json"]);
    assert!(found.code == 1 && found.stdout.contains(r#"{"name":"evicted_keys","ok":false"#), "{}", found.stdout);
}

#[test]
fn drift_in_redis_is_told() {
    let place = Place::redis();
    let mut redis = place.redis.as_ref().unwrap().connection();
    live(&place);
    let ada: Vec<String> = redis.zrange("sess-user:ada", 0, -1).unwrap();
    let _: () = redis.set("sess:for-ever", r#"{"cookie":{}}"#).unwrap();
    diagnosed(&place, &["without_expiry"]);
    let _: () = redis.set_ex("sess:for-ever", "spoilt", 60).unwrap();
    diagnosed(&place, &["unreadable"]);
    let _: () = redis.del("sess:for-ever").unwrap();
    let _: () = redis.zrem("sess-user:ada", &ada[0]).unwrap();
    diagnosed(&place, &["unlisted_sessions"]);
    assert_eq!(place.ask(&["revoke", &ada[0]]).code, 0);
    let _: () = redis.del(format!("sess:{}", ada[1])).unwrap();
    diagnosed(&place, &["dangling_entries"]);
    assert_eq!(place.ask(&["purge", "--json"]).json()["index_entries"], 1);
    diagnosed(&place, &[]);
}

#[test]
fn a_redis_user_that_may_not_ask_is_told_what_to_allow() {
    let place = Place::redis();
    let mut redis = place.redis.as_ref().unwrap().connection();
    let acl = ["SETUSER", "ops", "on", ">pw", "~*", "+@all", "-info"];
    redis::cmd("ACL").arg(&acl).exec(&mut redis).unwrap();
    let url = format!("{}?user=ops&pass=pw", place.redis.as_ref().unwrap().url());
    let said = place.ask(&["doctor", "--store", &url]);
    assert!(said.code == 1 && said.stdout.contains("+info"), "{}{}", said.stdout, said.stderr);
}

#[test]
fn a_file_that_others_can_read_is_told() {
    let place = Place::sqlite();
    live(&place);
    let mode = |file: &str, mode| {
        let path = place.folder.path().join(file);
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode("sessiond.db", 0o644);
    diagnosed(&place, &["file_mode"]);
    mode("sessiond.db.secret", 0o640);
    diagnosed(&place, &["file_mode", "secret_file_mode"]);
    mode("sessiond.db", 0o600);
    mode("sessiond.db.secret", 0o600);
    diagnosed(&place, &[]);
}

#[test]
fn a_file_that_nobody_looks_after_is_told() {
    let mut place = Place::sqlite();
    live(&place);
    place.server.kill();
    let path = place.folder.path().join("sessiond.db");
    let file = rusqlite::Connection::open(&path).unwrap();
    file.execute("insert into sessions (id, record, expires_at) values ('old', x'7b7d', 1)", []).unwrap();
    diagnosed(&place, &["expired"]);
    assert_eq!(place.ask(&["purge", "--json"]).json()["expired"], 1);
    file.execute("insert into sessions (id, record, expires_at) values ('bad', x'7b7d', 1e15)", []).unwrap();
    diagnosed(&place, &["unreadable"]);
    file.execute("delete from sessions where id = 'bad'", []).unwrap();
    file.execute("update sessions set user_id = 'eve' where user_id = 'ada'", []).unwrap();
    diagnosed(&place, &["unlisted_sessions"]);
    file.execute("update sessions set user_id = 'ada' where user_id = 'eve'", []).unwrap();
    file.execute_batch("pragma journal_mode = delete").unwrap();
    diagnosed(&place, &["journal_mode"]);
}

#[test]
fn a_damaged_file_is_told() {
    let mut place = Place::sqlite();
    place.server.kill();
    let path = place.folder.path().join("sessiond.db");
    let file = rusqlite::Connection::open(&path).unwrap();
    let sql = "with recursive n(i) as (select 1 union all select i + 1 from n where i < 500)
               insert into sessions (id, record, expires_at) select 'id ' || i, zeroblob(200), 10000000000000 from n";
    file.execute(sql, []).unwrap();
    file.close().unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[6 * 4096..].fill(b'x');
    std::fs::write(&path, bytes).unwrap();
    diagnosed(&place, &["integrity", "walk"]);
}
