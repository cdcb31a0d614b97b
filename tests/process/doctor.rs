//! `doctor`: silent on what is well, and not on each fault that can be made.

use std::os::unix::fs::PermissionsExt;

use redis::Commands;

use crate::place::{Place, Said};
use crate::sessiond::{SECRET, Sessiond, command, cookie, without_privileges};

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
    // Every session has an expiry, so this drops live ones too.
    set("maxmemory-policy", "volatile-ttl");
    diagnosed(&place, &["maxmemory_policy"]);
    let advised = place.ask(&["doctor"]).stdout;
    assert!(advised.contains("noeviction") && !advised.contains("or volatile"), "{advised}");
    let started =
        Sessiond::start(place.folder.path(), &["--store", &place.redis.as_ref().unwrap().url(), "--secret", SECRET]);
    assert!(started.log().contains("maxmemory-policy to noeviction"), "{}", started.log());
    assert!(!started.log().contains("or volatile"), "{}", started.log());
    set("maxmemory-policy", "noeviction");
    diagnosed(&place, &[]);
    set("appendonly", "no");
    diagnosed(&place, &["persistence"]);
    set("appendonly", "yes");
    set("maxmemory-policy", "volatile-ttl");
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

/// Whichever command it may not run, that one is named.
#[test]
fn a_command_that_a_redis_user_may_not_run_is_named() {
    let place = Place::redis();
    live(&place);
    let mut redis = place.redis.as_ref().unwrap().connection();
    let url = format!("{}?user=ops&pass=pw", place.redis.as_ref().unwrap().url());
    for (command, code) in [("time", 1), ("dbsize", 2), ("scan", 2), ("get", 2), ("zrange", 2), ("exists", 2)] {
        let acl = ["SETUSER", "ops", "reset", "on", ">pw", "~*", "+@all", &format!("-{command}")];
        redis::cmd("ACL").arg(&acl).exec(&mut redis).unwrap();
        let said = place.ask(&["doctor", "--store", &url]);
        let all = said.stdout + &said.stderr;
        assert!(said.code == code && all.contains(&format!("+{command}")), "{command}: {all}");
    }
    // Nor may it touch other keys.
    let acl = ["SETUSER", "ops", "reset", "on", ">pw", "~other:*", "+@all"];
    redis::cmd("ACL").arg(&acl).exec(&mut redis).unwrap();
    let said = place.ask(&["doctor", "--store", &url]);
    assert!(said.code == 2 && said.stderr.contains("NOPERM") && said.stderr.contains("~"), "{}", said.stderr);
}

/// A copy that is not to be changed: only read, in a folder where nothing can be made.
#[test]
fn a_file_that_cannot_be_written_is_looked_at() {
    let mut place = Place::sqlite();
    live(&place);
    place.server.signal("-TERM");
    assert!(place.server.wait());
    let mode = |file: &str, mode| {
        let path = place.folder.path().join(file);
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let files = || std::fs::read_dir(place.folder.path()).unwrap().count();
    let before = files();
    for (folder, file) in [(0o700, 0o400), (0o500, 0o600), (0o500, 0o400)] {
        mode("sessiond.db", file);
        mode("", folder);
        for args in [&["stats", "--json"][..], &["doctor"]] {
            let said: Said = without_privileges(place.folder.path(), args).output().unwrap().into();
            assert_eq!((said.code, said.stderr.as_str()), (0, ""), "{folder:o} {file:o} {args:?}: {}", said.stdout);
            assert!(args[0] == "doctor" || said.json()["sessions"] == 4, "{}", said.stdout);
        }
        mode("", 0o700);
        assert_eq!(files(), before, "{folder:o} {file:o}");
    }
}

/// What is not in the file itself yet cannot be read without a place for an index of it: no wrong answer is given.
#[test]
fn a_file_whose_wal_cannot_be_read_is_not_counted() {
    let mut place = Place::sqlite();
    live(&place);
    place.server.kill();
    let path = |file: &str| place.folder.path().join(file);
    std::fs::remove_file(path("sessiond.db-shm")).unwrap();
    assert!(path("sessiond.db-wal").metadata().unwrap().len() > 0);
    std::fs::set_permissions(place.folder.path(), std::fs::Permissions::from_mode(0o500)).unwrap();
    let said: Said = without_privileges(place.folder.path(), &["stats"]).output().unwrap().into();
    std::fs::set_permissions(place.folder.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    assert!(said.code == 2 && said.stderr.contains("sessiond.db-wal"), "{}{}", said.stdout, said.stderr);
}

#[test]
fn a_secret_file_that_others_can_read_is_told() {
    for place in Place::both() {
        let file = place.folder.path().join("secrets");
        std::fs::write(&file, SECRET).unwrap();
        let ask = || {
            let mut command = command(place.folder.path(), &["doctor", "--json", "--secret-file", "secrets"]);
            let store = place.redis.as_ref().map_or("sqlite:sessiond.db".to_owned(), |redis| redis.url());
            let said: Said = command.env("SESSIOND_STORE", store).output().unwrap().into();
            said
        };
        for (mode, code) in [(0o640, 1), (0o604, 1), (0o600, 0), (0o400, 0)] {
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
            let said = ask();
            assert_eq!(said.code, code, "{mode:o}: {}{}", said.stdout, said.stderr);
            let found = format!("secrets: mode 0{mode:o}");
            let json = said.json();
            let checks = json["checks"].as_array().unwrap();
            let check = checks.iter().find(|check| check["name"] == "secret_file_mode").expect("the check");
            assert!(check["found"].as_str().unwrap().ends_with(&found) && check["ok"] == (code == 0), "{check}");
        }
    }
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
