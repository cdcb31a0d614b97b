//! Nothing secret in any output: every log and every error body of a run, at the chattiest level.

use std::path::Path;
use std::time::Duration;

use crate::contract::calls;
use crate::redis_server::RedisServer;
use crate::sessiond::{SECRET, Sessiond, command, cookie};

const REDIS_PASSWORD: &str = "hunter2-the-password";

/// What must not be found: each secret, and of each cookie value its signature.
pub(crate) fn hunt(output: &str, cookies: &[String], what: &str) {
    let signatures = cookies.iter().map(|cookie| cookie.rsplit_once('.').unwrap().1);
    for secret in signatures.chain([SECRET, REDIS_PASSWORD, "a-key-that-is-wrong"]) {
        assert!(secret.len() > 10);
        assert!(!output.contains(secret), "{what} tells {secret}");
    }
}

/// A life, and every error that can be had.
fn live(server: &Sessiond, cookies: &mut Vec<String>) -> String {
    let first = server.issue();
    let header = format!("Cookie: {first}");
    let with = |path: &str, args: &[&str]| server.curl(path, &[&["-H", header.as_str()], args].concat());
    let mut errors = String::new();
    errors += &with("/v1/session/data", &["-X", "PUT", "-d", "{}"]);
    errors += &with("/v1/session/data", &["-X", "PUT", "--json", "{"]);
    errors += &with("/v1/session/data", &["-X", "PUT", "--json", r#"{"cookie":1}"#]);
    errors += &with("/v1/session/data", &["-X", "PUT", "--json", "{}", "-H", "if-match: \"x\""]);
    errors += &with("/v1/session?touch=x", &[]);
    errors += &with("/v1/nothing", &[]);
    errors += &with("/v1/session", &["-X", "PUT"]);
    errors += &with("/v1/sessions/resolve", &["--json", r#"{"cookies":["s:a.b",1]}"#]);
    errors += &with("/v1/sessions/resolve", &["--json", &format!(r#"{{"cookies":"{first}"}}"#)]);
    errors += &with("/v1/sessions/resolve", &["--json", &format!(r#"{{"cookies":[{{"{first}":1}}]}}"#)]);
    errors += &with("/v1/sessions", &["--json", &format!(r#"{{"data":"{first}, expected a \" cookie"}}"#)]);
    errors += &with("/v1/users/%FF/sessions", &[]);
    errors += &server.curl("/v1/session", &["-H", "Authorization: Bearer sessiond_a-key-that-is-wrong"]);
    errors += &server.curl("/metrics", &[]);
    assert!(errors.matches("application/problem+json").count() == 13, "{errors}");
    // Every call of the contract, with what it cannot read; one of them ends the session.
    let third = server.issue();
    for (method, path) in calls() {
        let path = path.replace("{id}", "a").replace("{user_id}", "%FF");
        let body = format!(r#"{{"data":"{third}, expected a \" cookie"}}"#);
        errors += &server.curl(&path, &["-X", &method, "-H", &format!("Cookie: {third}"), "--json", &body]);
    }
    let second = cookie(&with("/v1/session/regenerate", &["-X", "POST"]));
    let forged = format!("{}x", &second[..second.len() - 1]);
    errors += &server.resolve(&forged);
    errors += &server.resolve(&first);
    errors += &server.resolve("connect.sid=s:a.b");
    assert!(server.resolve(&second).starts_with("HTTP/1.1 200"));
    cookies.extend([third, first, second, forged]);
    errors
}

fn start(folder: &Path, flags: &[&str], format: &str) -> Sessiond {
    let mut command = command(
        folder,
        &[&["--listen", "127.0.0.1:0", "--log-level", "trace", "--log-format", format], flags].concat(),
    );
    command.env("SESSIOND_SECRET", SECRET).env("RUST_LOG", "trace");
    Sessiond::spawn(command)
}

#[test]
fn no_output_tells_a_secret() {
    let folder = tempfile::tempdir().unwrap();
    let mut redis = RedisServer::start();
    redis::cmd("CONFIG").arg("SET").arg("requirepass").arg(REDIS_PASSWORD).exec(&mut redis.connection()).unwrap();
    let url = format!("{}?pass={REDIS_PASSWORD}", redis.url());
    for format in ["text", "json"] {
        let mut cookies = Vec::new();
        let on_sqlite = start(folder.path(), &[], format);
        let mut output = live(&on_sqlite, &mut cookies);
        output += &on_sqlite.log();
        let on_redis = start(folder.path(), &["--store", &url], format);
        output += &live(&on_redis, &mut cookies);
        redis.kill();
        output += &on_redis.resolve(&cookies[cookies.len() - 2]);
        assert!(output.contains("store-unavailable"));
        // Back without the password, which it then refuses.
        redis.restart();
        std::thread::sleep(Duration::from_millis(500));
        output += &on_redis.resolve(&cookies[cookies.len() - 2]);
        output += &on_redis.log();
        assert!(on_redis.log().contains("Redis is away"), "{}", on_redis.log());
        hunt(&output, &cookies, format);
        redis::cmd("CONFIG").arg("SET").arg("requirepass").arg(REDIS_PASSWORD).exec(&mut redis.connection()).unwrap();
    }
}

/// The check above would find a leak.
#[test]
#[should_panic(expected = "tells")]
fn the_hunt_finds_what_it_hunts() {
    hunt(&format!("x {SECRET} y"), &["connect.sid=s%3Aid.abcdefghijklmnop".into()], "a log");
}
