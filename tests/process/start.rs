//! Starts that fail: what they say, how they exit, and that they leave nothing behind.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::place::{Place, Said};
use crate::redis_server::RedisServer;
use crate::sessiond::{SECRET, Sessiond, command};

/// Starts a service that is to end by itself.
fn start(folder: &Path, flags: &[&str]) -> Said {
    let flags = [&["--listen", "127.0.0.1:0"], flags].concat();
    let mut command = command(folder, &flags);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let began = Instant::now();
    while child.try_wait().unwrap().is_none() && began.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(5));
    }
    let is_running = child.try_wait().unwrap().is_none();
    child.kill().unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(!is_running, "{flags:?}: it serves: {}", String::from_utf8_lossy(&output.stderr));
    output.into()
}

fn files(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

#[test]
fn a_taken_address_leaves_nothing_behind() {
    let (folder, taken) = (tempfile::tempdir().unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let address = taken.local_addr().unwrap().to_string();
    for flag in ["--listen", "--ops-addr"] {
        let flags = if flag == "--listen" { vec![] } else { vec!["--listen", "127.0.0.1:0"] };
        let mut command = command(folder.path(), &[flags, vec![flag, &address]].concat());
        let said: Said = command.output().unwrap().into();
        assert!(said.code == 1 && said.stderr.contains(&format!("{flag} {address}")), "{}", said.stderr);
        assert!(said.stderr.contains("something listens there already"), "{}", said.stderr);
        assert_eq!(files(folder.path()), [""; 0], "{flag}");
    }
}

#[test]
fn a_store_that_cannot_be_opened_leaves_no_secret_behind() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("sessiond.db")).unwrap();
    let said = start(folder.path(), &[]);
    assert!(said.code == 1 && said.stderr.contains("--store sqlite:sessiond.db: "), "{}", said.stderr);
    assert_eq!(files(folder.path()), ["sessiond.db"]);
}

#[test]
fn a_missing_folder_is_named() {
    let folder = tempfile::tempdir().unwrap();
    for flags in [&["--store", "sqlite:no/such/x.db"][..], &["--store", "sqlite:no/such/x.db", "--check-config"]] {
        let said = start(folder.path(), flags);
        assert_eq!(said.code, 2, "{}", said.stderr);
        assert!(said.stderr.contains("there is no folder no/such"), "{}", said.stderr);
        assert!(!said.stderr.contains("secret"), "{}", said.stderr);
    }
}

#[test]
fn a_file_that_is_no_socket_is_called_that() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notes.txt");
    fs::write(&path, "mine").unwrap();
    let address = format!("unix:{}", path.display());
    let said: Said = command(folder.path(), &["--listen", &address]).output().unwrap().into();
    assert!(said.code == 1 && said.stderr.contains("no socket"), "{}", said.stderr);
    assert!(!said.stderr.contains("listens there already"), "{}", said.stderr);
    assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
}

/// Refused by the service and by what looks at a store, and left as it is: its journal mode, too.
#[test]
fn a_database_of_another_program_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("theirs.db");
    for version in [0, 1, 7] {
        let _ = fs::remove_file(&path);
        let theirs = Connection::open(&path).unwrap();
        theirs.execute_batch(&format!("create table invoices (total); pragma user_version = {version};")).unwrap();
        theirs.close().unwrap();
        let before = fs::read(&path).unwrap();
        for args in [&[][..], &["stats"], &["doctor"], &["purge"]] {
            let args = [args, &["--store", "sqlite:theirs.db"]].concat();
            let said: Said = match args[0] {
                "--store" => start(folder.path(), &args),
                _ => command(folder.path(), &args).output().unwrap().into(),
            };
            assert!(said.code != 0 && said.stderr.contains("another program"), "{version} {args:?}: {}", said.stderr);
            assert!(said.stderr.contains("invoices"), "{}", said.stderr);
            assert!(fs::read(&path).unwrap() == before, "{version} {args:?}");
            assert_eq!(files(folder.path()), ["theirs.db"], "{args:?}");
        }
    }
}

#[test]
fn a_redis_that_refuses_who_asks_is_an_error_at_start() {
    let redis = RedisServer::start();
    let folder = tempfile::tempdir().unwrap();
    let mut connection = redis.connection();
    let unix = |query: &str| format!("{}{query}", redis.url());
    let refused = |url: &str, says: &str| {
        let said = start(folder.path(), &["--store", url, "--secret", SECRET]);
        assert!(said.code == 1 && said.stderr.contains(says), "{url}: {}", said.stderr);
        assert!(!said.stderr.contains("hunter2"), "{}", said.stderr);
        // Once, and not as if waiting could help.
        assert!(!said.stderr.contains("ERROR"), "{}", said.stderr);
        let args = ["stats", "--store", url];
        let said: Said = command(folder.path(), &args).output().unwrap().into();
        assert!(said.code == 2 && said.stderr.contains(says), "{}", said.stderr);
    };
    refused(&unix("?db=4711"), "no database 4711");
    redis::cmd("CONFIG").arg("SET").arg("requirepass").arg("hunter2").exec(&mut connection).unwrap();
    refused(&unix(""), "NOAUTH");
    refused(&unix(""), "redis://USER:PASSWORD@HOST");
    refused(&unix("?db=3"), "NOAUTH");
    refused(&unix("?pass=hunter22"), "WRONGPASS");
    refused(&unix("?user=nobody&pass=hunter2"), "WRONGPASS");
    refused(&unix("?pass=hunter2&db=4711"), "no database 4711");
    let server = Sessiond::start(folder.path(), &["--store", &unix("?pass=hunter2&db=3"), "--secret", SECRET]);
    assert!(server.resolve(&server.issue()).starts_with("HTTP/1.1 200"));
}

/// A password that is set later: what is logged then says so.
#[test]
fn a_redis_that_refuses_later_is_logged_with_the_cause() {
    let mut redis = RedisServer::start();
    let folder = tempfile::tempdir().unwrap();
    let server = Sessiond::start(folder.path(), &["--store", &redis.url(), "--secret", SECRET]);
    redis.kill();
    redis.restart_with(&["--requirepass", "hunter2"]);
    let began = Instant::now();
    let mut answer = String::new();
    while !server.log().contains("NOAUTH") {
        assert!(began.elapsed() < Duration::from_secs(10), "{answer}{}", server.log());
        answer = server.curl("/readyz", &[]);
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    }
    assert!(server.curl("/livez", &[]).starts_with("HTTP/1.1 200"));
}

/// The line of README.md is all that the service and its commands need.
#[test]
fn the_documented_redis_user_is_enough() {
    let place =
        Place::redis_as_documented_user(&["--cache", "1MiB", "--express-writes", "--max-sessions-per-user", "3"]);
    let server = &place.server;
    let cookie = server.issue();
    assert!(server.resolve(&cookie).starts_with("HTTP/1.1 200"));
    for _ in 0..4 {
        server.issue();
    }
    assert!(server.curl("/readyz", &[]).starts_with("HTTP/1.1 200"));
    for args in [&["stats"][..], &["doctor"], &["purge"], &["ls", "--user", "ada"], &["revoke", "--user", "ada"]] {
        let said = place.ask(&[args, &["--express-writes"]].concat());
        assert_eq!((said.code, said.stderr.as_str()), (0, ""), "{args:?}: {}", said.stdout);
    }
    let log = server.log();
    assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
}
