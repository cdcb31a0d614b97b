//! `sessiond adopt` over an Express fleet's keys.

use std::process::Stdio;
use std::time::{Duration, Instant};

use redis::Commands;

use crate::place::Place;
use crate::sessiond::command;

const POINTER: [&str; 3] = ["adopt", "--user-pointer", "/passport/user"];

/// As connect-redis has saved them: `count` sessions of ten users, one of nobody, and one of another serializer.
fn fleet(count: usize) -> (Place, redis::Connection) {
    let place = Place::redis();
    let mut redis = place.redis.as_ref().unwrap().connection();
    for n in 0..count {
        let record = format!(r#"{{"cookie":{{"originalMaxAge":600000}},"passport":{{"user":"u{}"}}}}"#, n % 10);
        let _: () = redis.set_ex(format!("sess:s{n}"), record, 600).unwrap();
    }
    let _: () = redis.set_ex("sess:nobody", r#"{"cookie":{}}"#, 600).unwrap();
    let _: () = redis.set_ex("sess:packed\u{1b}[2J", b"\x83\xa6secret", 600).unwrap();
    (place, redis)
}

#[test]
fn a_fleet_is_adopted() {
    let (place, mut redis) = fleet(100);
    let adopt = |more: &[&str]| place.ask(&[&POINTER[..], more].concat());
    let dry = adopt(&["--dry-run"]);
    assert_eq!((dry.code, dry.stderr.as_str()), (1, ""), "some could not be read");
    for shown in [
        "would be adopted  100",
        "listed before     0",
        "without a user    1",
        "unreadable        1",
        "packed\\u001b[2J: ",
    ] {
        assert!(dry.stdout.contains(shown), "{shown}: {}", dry.stdout);
    }
    assert!(!dry.stdout.contains("secret") && !dry.stdout.contains('\u{1b}'), "{}", dry.stdout);
    assert!(!redis.exists::<_, bool>("sess-user:u1").unwrap());
    let done = adopt(&["--json"]).json();
    assert_eq!((&done["adopted"], &done["dry_run"], &done["from"]), (&100.into(), &false.into(), &().into()));
    assert_eq!(done["unreadable_examples"][0]["id"], "packed\u{1b}[2J");
    assert_eq!(
        place.ask(&["revoke", "--user", "u1", "--user-pointer", "/passport/user"]).stdout,
        "10 sessions ended\n"
    );
    let _: () = redis.del("sess:packed\u{1b}[2J").unwrap();
    let again = adopt(&["--json"]);
    assert_eq!((again.code, &again.json()["listed_before"]), (0, &90.into()));
}

#[test]
fn it_asks_whether_it_was_told_right() {
    let (place, _) = fleet(3);
    for (flags, why) in [
        (&["--user-pointer", "/user/id"][..], "--user-pointer"),
        (&["--user-pointer", "/x", "--key-prefix", "other:"], "--key-prefix"),
    ] {
        let said = place.ask(&[&["adopt"], flags].concat());
        assert!(said.stderr.contains(why), "{}", said.stderr);
    }
}

#[test]
fn it_says_what_it_lacks() {
    let (sqlite, redis) = (Place::sqlite(), Place::redis());
    for (place, args, why) in [
        (&sqlite, &POINTER[..], "--store"),
        (&redis, &["adopt"], "--user-pointer"),
        (&redis, &["adopt", "--from", "x"], "--from"),
        (&redis, &["adopt", "--rate", "0"], "--rate"),
        (&sqlite, &["stats", "--express-writes"], "--express-writes"),
        (&redis, &["stats", "--tombstone", "1"], "--tombstone"),
    ] {
        let said = place.ask(args);
        assert!(said.code == 2 && said.stderr.contains(why), "{args:?}: {}", said.stderr);
    }
}

/// It keeps to its rate, says where it was when it is interrupted, and goes on from there.
#[test]
fn an_interrupted_run_goes_on() {
    let (place, mut redis) = fleet(3000);
    let began = Instant::now();
    let mut command = command(place.folder.path(), &[&POINTER[..], &["--json", "--rate", "1000"]].concat());
    command
        .envs([("SESSIOND_STORE", place.redis.as_ref().unwrap().url())])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    while redis.keys::<_, Vec<String>>("sess-user:*").unwrap().is_empty() {
        assert!(began.elapsed() < Duration::from_secs(10));
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(200));
    std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let output = child.wait_with_output().unwrap();
    let (stdout, stderr) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    let first: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    let (adopted, cursor) = (first["adopted"].as_u64().unwrap(), first["from"].as_str().unwrap());
    assert!((1..3000).contains(&adopted) && stderr.contains(&format!("--from {cursor}")), "{adopted} {stderr}");
    let rest = place.ask(&[&POINTER[..], &["--json", "--from", cursor]].concat()).json();
    assert_eq!(adopted + rest["adopted"].as_u64().unwrap(), 3000);
}
