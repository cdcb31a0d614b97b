//! Start, stop, crash, and several processes on one store.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::redis_server::RedisServer;
use crate::sessiond::{SECRET, Sessiond, command, cookie, run};

#[test]
fn sessions_survive_kill_9() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Sessiond::start(folder.path(), &[]);
    let cookies: Vec<String> = (0..20).map(|_| server.issue()).collect();
    server.curl("/v1/session", &["-X", "DELETE", "-H", &format!("Cookie: {}", cookies[0])]);
    server.kill();
    let server = Sessiond::start(folder.path(), &[]);
    assert!(server.resolve(&cookies[0]).starts_with("HTTP/1.1 401"), "the revoked stay revoked");
    for cookie in &cookies[1..] {
        assert!(server.resolve(cookie).starts_with("HTTP/1.1 200"));
    }
}

/// Stopped, a store is one file and its secret: they can be copied.
#[test]
fn a_stopped_store_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Sessiond::start(folder.path(), &[]);
    let cookie = server.issue();
    server.signal("-TERM");
    assert!(server.wait());
    assert!(!folder.path().join("sessiond.db-wal").exists());
    let copy = tempfile::tempdir().unwrap();
    for file in ["sessiond.db", "sessiond.db.secret"] {
        std::fs::copy(folder.path().join(file), copy.path().join(file)).unwrap();
    }
    assert!(Sessiond::start(copy.path(), &[]).resolve(&cookie).starts_with("HTTP/1.1 200"));
}

fn share(one: &Sessiond, other: &Sessiond) {
    let first = one.issue();
    assert!(other.resolve(&first).starts_with("HTTP/1.1 200"));
    let header = format!("Cookie: {first}");
    other.curl(
        "/v1/session/data",
        &["-X", "PATCH", "-H", &header, "-H", "content-type: application/merge-patch+json", "-d", r#"{"m":2}"#],
    );
    assert!(one.resolve(&first).contains(r#""data":{"n":1,"m":2}"#));
    let second = cookie(&one.curl("/v1/session/regenerate", &["-X", "POST", "-H", &header]));
    assert!(other.resolve(&first).starts_with("HTTP/1.1 401"));
    assert!(other.resolve(&second).starts_with("HTTP/1.1 200"));
    other.curl("/v1/session", &["-X", "DELETE", "-H", &format!("Cookie: {second}")]);
    assert!(one.resolve(&second).starts_with("HTTP/1.1 401"));
}

#[test]
fn two_processes_share_every_session() {
    let redis = RedisServer::start();
    let folder = tempfile::tempdir().unwrap();
    let url = redis.url();
    let start = || Sessiond::start(folder.path(), &["--store", &url, "--secret", SECRET]);
    share(&start(), &start());
    let on_sqlite = || Sessiond::start(folder.path(), &[]);
    share(&on_sqlite(), &on_sqlite());
}

#[test]
fn a_redis_that_comes_later_is_found() {
    let mut redis = RedisServer::start();
    redis.kill();
    let folder = tempfile::tempdir().unwrap();
    let server = Sessiond::start(folder.path(), &["--store", &redis.url(), "--secret", SECRET]);
    assert!(server.curl("/readyz", &[]).starts_with("HTTP/1.1 503"));
    assert!(server.curl("/livez", &[]).starts_with("HTTP/1.1 200"));
    assert!(!run(folder.path(), &["healthcheck", "--listen", &server.address]).status.success());
    redis.restart();
    std::thread::sleep(Duration::from_secs(1));
    assert!(server.resolve(&server.issue()).starts_with("HTTP/1.1 200"));
    assert!(run(folder.path(), &["healthcheck", "--listen", &server.address]).status.success());
    let log = server.log();
    assert_eq!(log.matches("Redis is away").count(), 1, "a failure is logged once: {log}");
    assert_eq!(log.matches("Redis is back").count(), 1, "{log}");
}

#[test]
fn requests_in_work_end_before_it_stops() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Sessiond::start(folder.path(), &[]);
    let mut idle = TcpStream::connect(&server.address).unwrap();
    let mut slow = TcpStream::connect(&server.address).unwrap();
    slow.write_all(b"POST /v1/sessions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 17\r\n\r\n{\"user_id\"").unwrap();
    std::thread::sleep(Duration::from_millis(200));
    server.signal("-TERM");
    std::thread::sleep(Duration::from_millis(200));
    assert!(TcpStream::connect(&server.address).is_err(), "new connections are refused");
    slow.write_all(b":\"ada\"}").unwrap();
    let mut answer = String::new();
    slow.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    assert_eq!(idle.read(&mut [0; 1]).unwrap(), 0);
    assert!(server.wait());
}

#[test]
fn it_does_not_wait_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Sessiond::start(folder.path(), &["--drain-timeout", "300ms"]);
    let mut stuck = TcpStream::connect(&server.address).unwrap();
    stuck.write_all(b"POST /v1/sessions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\n").unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let began = Instant::now();
    server.signal("-INT");
    assert!(server.wait());
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}

#[test]
fn a_unix_socket_will_do() {
    let folder = tempfile::tempdir().unwrap();
    let address = format!("unix:{}", folder.path().join("s.sock").display());
    let socket = folder.path().join("s.sock");
    let socket = socket.to_str().unwrap();
    let start = || Sessiond::spawn(command(folder.path(), &["--listen", &address]));
    let curl = |path: &str| {
        let output = std::process::Command::new("curl")
            .args(["-sS", "--unix-socket", socket, &format!("http://localhost{path}")])
            .output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    let mut server = start();
    assert_eq!(curl("/readyz"), "{\"status\":\"ready\"}\n");
    assert!(run(folder.path(), &["healthcheck", "--listen", &address]).status.success());
    assert!(!run(folder.path(), &["--listen", &address]).status.success(), "the socket is taken");
    server.kill();
    let mut server = start();
    assert_eq!(curl("/livez"), "{\"status\":\"live\"}\n", "a stale socket is replaced");
    server.signal("-TERM");
    assert!(server.wait());
    assert!(!folder.path().join("s.sock").exists());
}

#[test]
fn an_outage_is_logged_when_it_begins_and_when_it_is_over() {
    let mut redis = RedisServer::start();
    let folder = tempfile::tempdir().unwrap();
    let server = Sessiond::start(folder.path(), &["--store", &redis.url(), "--secret", SECRET]);
    for _ in 0..2 {
        redis.kill();
        redis.restart();
        std::thread::sleep(Duration::from_millis(1_500));
        assert!(server.resolve(&server.issue()).starts_with("HTTP/1.1 200"));
    }
    let log = server.log();
    assert_eq!(log.matches("Redis is away").count(), 2, "{log}");
    assert_eq!(log.matches("Redis is back").count(), 2, "{log}");
}

#[test]
fn a_redis_url_says_user_password_and_database() {
    let redis = RedisServer::start();
    let mut connection = redis.connection();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    redis::cmd("CONFIG").arg("SET").arg("port").arg(port).exec(&mut connection).unwrap();
    redis::cmd("ACL").arg(&["SETUSER", "app", "on", ">p@ss:word/", "~*", "+@all"]).exec(&mut connection).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let url = format!("redis://app:p%40ss%3Aword%2F@127.0.0.1:{port}/3");
    let server = Sessiond::start(folder.path(), &["--store", &url, "--secret", SECRET]);
    assert!(server.resolve(&server.issue()).starts_with("HTTP/1.1 200"));
    let keys = |database: i64, connection: &mut redis::Connection| {
        redis::cmd("SELECT").arg(database).exec(connection).unwrap();
        redis::cmd("DBSIZE").query::<i64>(connection).unwrap()
    };
    assert_eq!((keys(3, &mut connection), keys(0, &mut connection)), (2, 0));
    let wrong = run(folder.path(), &["--store", &url.replace("word", "wort"), "--secret", SECRET]);
    let said = String::from_utf8(wrong.stderr).unwrap();
    assert!(said.contains("authentication failed") && !said.contains("wort"), "{said}");
}

#[test]
fn background_tasks_are_supervised() {
    fn check(server: &Sessiond, tasks: &[&str]) {
        let metrics = server.curl("/metrics", &[]);
        for task in tasks {
            let sample = format!("sessiond_task_restarts_total{{task=\"{task}\"}} 0\n");
            assert!(metrics.contains(&sample), "no {sample} in {metrics}");
        }
        assert!(metrics.contains("sessiond_tasks_down 0\n"), "{metrics}");
    }
    let redis = RedisServer::start();
    let folder = tempfile::tempdir().unwrap();
    let on_redis = ["--store", &redis.url(), "--secret", SECRET, "--cache", "1MiB"];
    let server = Sessiond::start(folder.path(), &on_redis);
    check(&server, &["accept", "purge", "reload", "redis-connection", "redis-tracker"]);
    let server = Sessiond::start(folder.path(), &[]);
    check(&server, &["accept", "purge", "reload", "sqlite-writer", "sqlite-reader", "sqlite-checkpointer"]);
}
