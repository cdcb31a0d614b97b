//! A process that is killed in the middle of a login: the browser was told nothing, so what it stored takes no place of
//! those that a user may have.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::redis_server::RedisServer;
use crate::sessiond::{SECRET, Sessiond, cookie};
use crate::slow_link::{Direction, Profile, SlowLink};

/// How soon it is gone.
const PATIENCE: Duration = Duration::from_secs(15);

/// Waits until `condition` holds.
fn until(what: &str, patience: Duration, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < patience, "{what}: not within {patience:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn log_in_in_the_background(server: &Sessiond) -> Child {
    Command::new("curl")
        .args(["-sS", "-m", "30", &server.url("/v1/sessions"), "--json", r#"{"user_id":"ada"}"#])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn start(url: &str, flags: &[&str]) -> Sessiond {
    let folder = tempfile::tempdir().unwrap();
    Sessiond::start(folder.path(), &[&["--store", url, "--secret", SECRET], flags].concat())
}

/// A process stores a session, hears nothing of Redis any more, and is killed.
fn a_process_is_killed_while_it_logs_in(redis: &RedisServer, flags: &[&str]) {
    let link = SlowLink::to(redis.socket(), Profile::default(), 0);
    let mut killed = start(&link.url(), flags);
    let mut connection = redis.connection();
    let mut keys = || redis::cmd("KEYS").arg("sess:*").query::<Vec<String>>(&mut connection).unwrap().len();
    let before = keys();
    link.hold(Direction::FromRedis);
    let mut login = log_in_in_the_background(&killed);
    until("a session is stored", Duration::from_secs(5), || keys() > before);
    killed.kill();
    assert!(!login.wait().unwrap().success(), "the login was answered");
}

fn listed(server: &Sessiond) -> usize {
    server.curl("/v1/users/ada/sessions", &[]).matches(r#""created_at""#).count()
}

fn log_in(server: &Sessiond) -> Option<String> {
    let answer = server.curl("/v1/sessions", &["--json", r#"{"user_id":"ada"}"#]);
    answer.starts_with("HTTP/1.1 201").then(|| cookie(&answer))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_login_leaves_the_place_free() {
    let redis = RedisServer::start();
    let flags = ["--max-sessions-per-user", "1", "--on-limit", "reject"];
    a_process_is_killed_while_it_logs_in(&redis, &flags);
    let server = start(&redis.url(), &flags);
    let mut session = None;
    until("a login is served", PATIENCE, || {
        session = log_in(&server);
        session.is_some()
    });
    assert!(server.resolve(&session.unwrap()).starts_with("HTTP/1.1 200"));
    assert_eq!(listed(&server), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_gives_way_to_a_killed_login() {
    for on_limit in ["evict-oldest", "evict-idle"] {
        let redis = RedisServer::start();
        let flags = ["--max-sessions-per-user", "2", "--on-limit", on_limit];
        let server = start(&redis.url(), &flags);
        let first = log_in(&server).unwrap();
        a_process_is_killed_while_it_logs_in(&redis, &flags);
        let second = log_in(&server).unwrap();
        until("the killed login is gone", PATIENCE, || {
            redis::cmd("KEYS").arg("sess:*").query::<Vec<String>>(&mut redis.connection()).unwrap().len() <= 2
        });
        for session in [&first, &second] {
            assert!(server.resolve(session).starts_with("HTTP/1.1 200"), "{on_limit}: it gave way");
        }
        assert_eq!(listed(&server), 2);
    }
}
