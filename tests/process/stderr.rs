//! A standard error that cannot be written: closed, full, or never read. The service must not notice.

use std::fs::File;
use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::redis_server::RedisServer;
use crate::sessiond::{SECRET, Sessiond, command};

/// A sessiond on a unix socket, so that nobody has to read where it listens.
struct Service {
    child: Child,
    socket: PathBuf,
}

impl Service {
    /// Starts it and waits until it answers.
    fn start(folder: &Path, flags: &[&str], stderr: impl Into<Stdio>) -> Self {
        let socket = folder.join("s.sock");
        let listen = format!("unix:{}", socket.display());
        let flags = [&["--listen", &listen], flags].concat();
        let child = command(folder, &flags).stdout(Stdio::null()).stderr(stderr).spawn().unwrap();
        let service = Self { child, socket };
        service.wait_for("/livez", "HTTP/1.1 200");
        service
    }

    /// What curl prints, the head of the answer included. Empty when there is no answer.
    fn curl(&self, path: &str, args: &[&str]) -> String {
        let url = format!("http://localhost{path}");
        let mut curl = Command::new("curl");
        curl.args(["-si", "-m", "5", "--unix-socket"]).arg(&self.socket).arg(url).args(args);
        String::from_utf8(curl.output().unwrap().stdout).unwrap()
    }

    #[track_caller]
    fn wait_for(&self, path: &str, expected: &str) -> String {
        let began = Instant::now();
        loop {
            let answer = self.curl(path, &[]);
            if answer.contains(expected) {
                return answer;
            }
            assert!(began.elapsed() < Duration::from_secs(10), "{path} has no {expected}: {answer}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    #[track_caller]
    fn issues(&self) {
        let answer = self.curl("/v1/sessions", &["--json", r#"{"user_id":"ada"}"#]);
        assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    }

    /// Sends SIGTERM while a request is in progress: it must be answered, and the process must exit with 0.
    #[track_caller]
    fn stops(mut self) {
        let mut slow = UnixStream::connect(&self.socket).unwrap();
        slow.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let head = "POST /v1/sessions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n";
        // The answer to `Expect` shows that the request is in progress.
        write!(slow, "{head}content-length: 17\r\nexpect: 100-continue\r\n\r\n").unwrap();
        let mut go_on = [0; 25];
        slow.read_exact(&mut go_on).unwrap();
        assert!(go_on.starts_with(b"HTTP/1.1 100"), "{}", String::from_utf8_lossy(&go_on));
        self.signal("-TERM");
        slow.write_all(br#"{"user_id":"ada"}"#).unwrap();
        let mut answer = String::new();
        slow.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
        let status = exit(&mut self.child);
        assert!(status.success(), "{status}");
    }

    fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap().success());
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits for the exit, not for ever.
#[track_caller]
fn exit(child: &mut Child) -> ExitStatus {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if began.elapsed() > Duration::from_secs(10) {
            child.kill().unwrap();
            panic!("it does not exit");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A pipe that nobody reads, and that is full: the next write to it blocks.
fn full_pipe() -> (PipeReader, PipeWriter) {
    const CAPACITY: usize = 64 * 1024;
    let (reader, mut writer) = pipe().unwrap();
    writer.write_all(&[b'.'; CAPACITY]).unwrap();
    (reader, writer)
}

fn dev_full() -> File {
    File::options().write(true).open("/dev/full").unwrap()
}

/// The value of the sample `name`.
fn value(metrics: &str, name: &str) -> f64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in {metrics}")).parse().unwrap()
}

/// The outage is logged by the task that keeps the connection: a failed write must not end it.
fn survives_an_outage(stderr: impl Into<Stdio>, after_start: impl FnOnce()) {
    let mut redis = RedisServer::start();
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(folder.path(), &["--store", &redis.url(), "--secret", SECRET], stderr);
    after_start();
    for _ in 0..2 {
        redis.kill();
        service.wait_for("/readyz", "HTTP/1.1 503");
        redis.restart();
        service.wait_for("/readyz", "HTTP/1.1 200");
        service.issues();
    }
    service.stops();
}

#[test]
fn an_outage_of_redis_ends_though_nobody_holds_the_log_pipe() {
    let (reader, writer) = pipe().unwrap();
    survives_an_outage(writer, || drop(reader));
}

#[test]
fn an_outage_of_redis_ends_though_the_log_disk_is_full() {
    survives_an_outage(dev_full(), || ());
}

#[test]
fn an_outage_of_redis_ends_though_nobody_reads_the_log_pipe() {
    let (_reader, writer) = full_pipe();
    survives_an_outage(writer, || ());
}

#[test]
fn lines_that_cannot_be_written_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(folder.path(), &[], dev_full());
    // The greeting.
    service.wait_for("/metrics", "sessiond_log_lines_lost_total 1\n");
    service.stops();
}

#[test]
fn requests_are_answered_though_nobody_reads_the_log_pipe() {
    const REQUESTS: usize = 20_000;
    let folder = tempfile::tempdir().unwrap();
    let (reader, writer) = full_pipe();
    // Each request is a line.
    let service = Service::start(folder.path(), &["--log-level", "trace"], writer);
    let stream = UnixStream::connect(&service.socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let (mut requests, mut answers) = (stream.try_clone().unwrap(), stream);
    let ask = std::thread::spawn(move || {
        for last in (0..REQUESTS).map(|n| n + 1 == REQUESTS) {
            let close = if last { "connection: close\r\n" } else { "" };
            write!(requests, "GET /livez HTTP/1.1\r\nhost: x\r\n{close}\r\n").unwrap();
        }
    });
    let mut text = String::new();
    answers.read_to_string(&mut text).unwrap();
    ask.join().unwrap();
    assert_eq!(text.matches("HTTP/1.1 200").count(), REQUESTS);
    let lost = value(&service.curl("/metrics", &[]), "sessiond_log_lines_lost_total");
    assert!(lost > 0.0 && lost < REQUESTS as f64, "{lost} lines lost");
    service.issues();
    service.stops();
    drop(reader);
}

/// When the pipe is read again, the log goes on.
#[test]
fn a_log_pipe_that_is_read_late_has_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let (mut reader, writer) = full_pipe();
    let mut service = Service::start(folder.path(), &[], writer);
    service.signal("-TERM");
    let mut log = String::new();
    reader.read_to_string(&mut log).unwrap();
    let log = log.trim_start_matches('.');
    assert!(log.starts_with("sessiond ") && log.contains(" listens on unix:"), "{log}");
    assert!(log.trim_end().ends_with("stopped"), "{log}");
    assert!(exit(&mut service.child).success());
}

#[test]
fn a_failed_start_ends_whatever_standard_error_is() {
    let folder = tempfile::tempdir().unwrap();
    let (reader, closed) = pipe().unwrap();
    drop(reader);
    let (_reader, full) = full_pipe();
    for stderr in [Stdio::from(closed), full.into(), dev_full().into()] {
        let mut command = command(folder.path(), &["--listen", "0.0.0.0:0"]);
        assert_eq!(exit(&mut command.stderr(stderr).spawn().unwrap()).code(), Some(2));
    }
}

#[test]
fn an_ops_command_does_not_panic_when_standard_error_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    // Makes the database.
    drop(Sessiond::start(folder.path(), &[]));
    let keygen = ["keygen", "--name", "x", "--scope", "admin"];
    let missing = ["inspect", "00000000-0000-4000-8000-000000000000"];
    for (flags, code) in [(&keygen[..], 0), (&missing, 1), (&["ls", "ada", "--store", "sqlite:/nowhere/x.db"], 2)] {
        for stderr in [Stdio::from(pipe().unwrap().1), dev_full().into()] {
            let mut command = command(folder.path(), flags);
            assert_eq!(
                exit(&mut command.stdout(Stdio::null()).stderr(stderr).spawn().unwrap()).code(),
                Some(code),
                "{flags:?}"
            );
        }
    }
}

/// Anybody can make the service refuse requests: that must not use up the one warning about an outage.
#[test]
fn an_outage_is_logged_though_requests_are_refused_for_load() {
    let folder = tempfile::tempdir().unwrap();
    let mut redis = RedisServer::start();
    let flags = ["--store", &redis.url(), "--secret", SECRET, "--max-in-flight", "1", "--read-timeout", "60s"];
    let server = Sessiond::start(folder.path(), &flags);
    let cookie = server.issue();
    // A body that does not end is a request in progress.
    let mut unfinished = TcpStream::connect(&server.address).unwrap();
    let head =
        "POST /v1/sessions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{";
    unfinished.write_all(head.as_bytes()).unwrap();
    let began = Instant::now();
    while !server.resolve(&cookie).contains("overloaded") {
        assert!(began.elapsed() < Duration::from_secs(5), "{}", server.log());
    }
    drop(unfinished);
    redis.kill();
    let began = Instant::now();
    while !server.resolve(&cookie).contains("store-unavailable") {
        assert!(began.elapsed() < Duration::from_secs(5), "{}", server.log());
    }
    let warned = |why: &str| {
        let log = server.log();
        log.lines().filter(|line| line.contains("WARN") && line.contains("answered 503") && line.contains(why)).count()
    };
    while warned("/v1/session") < 2 {
        assert!(began.elapsed() < Duration::from_secs(5), "{}", server.log());
    }
    assert_eq!(warned("--max-in-flight"), 1, "{}", server.log());
}

/// Frames that break the protocol, from a client without a key: one line each would fill any disk.
#[test]
fn protocol_errors_write_no_lines() {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    const UNASKED_PONG: &[u8] = b"\0\0\x08\x06\x01\0\0\0\0unasked!";
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let service = Service::start(folder.path(), &[], File::create(&log).unwrap());
    let mut stream = UnixStream::connect(&service.socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(PREFACE).unwrap();
    stream.write_all(&UNASKED_PONG.repeat(1_000)).unwrap();
    // A PING: it is answered, after the settings and their acknowledgement, when what came before it has been read.
    stream.write_all(b"\0\0\x08\x06\0\0\0\0\0the last").unwrap();
    let mut answers = Vec::new();
    while !answers.windows(8).any(|payload| payload == b"the last") {
        let mut some = [0; 1024];
        let read = stream.read(&mut some).unwrap();
        assert!(read > 0, "the connection was closed");
        answers.extend_from_slice(&some[..read]);
    }
    drop(stream);
    service.stops();
    let log = std::fs::read_to_string(log).unwrap();
    let lines = log.lines().filter(|line| line.contains("WARN") || line.contains("ERROR")).count();
    assert_eq!(lines, 0, "{}", &log[..log.len().min(2_000)]);
    assert!(log.contains(" listens on "));
}
