//! What the accept loop holds clients to.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

use crate::sessiond::{Sessiond, cookie};

/// Sends bytes and reads until the server closes.
fn exchange(server: &Sessiond, bytes: &[u8]) -> (String, Duration) {
    let began = Instant::now();
    let mut stream = TcpStream::connect(&server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    // A reset is a way to close.
    let _ = stream.read_to_end(&mut answer);
    (String::from_utf8_lossy(&answer).into_owned(), began.elapsed())
}

fn request(headers: &str) -> Vec<u8> {
    format!("GET /livez HTTP/1.1\r\nhost: localhost\r\n{headers}connection: close\r\n\r\n").into_bytes()
}

#[test]
fn whoever_sends_half_a_request_is_let_go() {
    let folder = tempfile::tempdir().unwrap();
    let server = Sessiond::start(folder.path(), &["--read-timeout", "300ms", "--keep-alive-timeout", "400ms"]);
    for bytes in [
        &b""[..],
        b"P",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nhost:",
        b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\nGET /li",
    ] {
        let (answer, took) = exchange(&server, bytes);
        assert!(took < Duration::from_secs(3), "{bytes:?} held a connection for {took:?}: {answer}");
    }
    let (answer, took) =
        exchange(&server, b"POST /v1/sessions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\n\r\n{");
    assert!(
        answer.starts_with("HTTP/1.1 408") && answer.contains("body-timeout") && took < Duration::from_secs(3),
        "{answer}"
    );
}

/// A head has the read timeout from its first byte on, also when it is not the connection's first.
#[test]
fn a_later_head_has_the_read_timeout_too() {
    let folder = tempfile::tempdir().unwrap();
    let server = Sessiond::start(folder.path(), &["--read-timeout", "500ms", "--keep-alive-timeout", "60s"]);
    let whole = b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let (answer, took) = exchange(&server, &[&whole[..], b"GET /li"].concat());
    assert!(answer.starts_with("HTTP/1.1 200") && took < Duration::from_secs(5), "beside the one before: {took:?}");
    for pause in [Duration::ZERO, Duration::from_millis(2_500)] {
        let mut stream = keep_alive(&server);
        // Not for a condition: an idle connection is to live on, and after a second gives its buffers back.
        std::thread::sleep(pause);
        assert!(ask(&mut stream).starts_with("HTTP/1.1 200"), "idle for {pause:?}");
        let began = Instant::now();
        stream.write_all(b"GET /li").unwrap();
        assert_eq!(stream.read(&mut [0; 1]).unwrap_or(0), 0);
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }
}

/// A connection that has had an answer.
fn keep_alive(server: &Sessiond) -> TcpStream {
    let mut stream = TcpStream::connect(&server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert!(ask(&mut stream).starts_with("HTTP/1.1 200"));
    stream
}

/// Asks over a connection that stays open.
fn ask(stream: &mut TcpStream) -> String {
    stream.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"}\n") {
        let mut part = [0; 1024];
        let read = stream.read(&mut part).unwrap();
        assert!(read > 0, "closed: {}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&part[..read]);
    }
    String::from_utf8(answer).unwrap()
}

#[test]
fn an_idle_connection_ends_after_the_keep_alive_timeout_and_at_shutdown() {
    let folder = tempfile::tempdir().unwrap();
    let server = Sessiond::start(folder.path(), &["--read-timeout", "60s", "--keep-alive-timeout", "1500ms"]);
    let mut stream = keep_alive(&server);
    let began = Instant::now();
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    assert!((1..5).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    // Shorter than the time after which it would give its buffers back, and than the read timeout.
    let server = Sessiond::start(folder.path(), &["--keep-alive-timeout", "200ms"]);
    let mut stream = keep_alive(&server);
    let began = Instant::now();
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    assert!(began.elapsed() < Duration::from_millis(800), "{:?}", began.elapsed());
    let mut server = Sessiond::start(folder.path(), &[]);
    let (busy, rested) = (keep_alive(&server), keep_alive(&server));
    std::thread::sleep(Duration::from_millis(1_500));
    let fresh = keep_alive(&server);
    let began = Instant::now();
    server.signal("-TERM");
    assert!(server.wait() && began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    for mut stream in [busy, rested, fresh] {
        assert_eq!(stream.read(&mut [0; 1]).unwrap_or(0), 0);
    }
}

/// Connections that have rested cost little: their buffers serve the next ones.
#[test]
fn an_idle_connection_costs_little() {
    let folder = tempfile::tempdir().unwrap();
    rlimit::increase_nofile_limit(8_192).unwrap();
    let server = Sessiond::start(folder.path(), &[]);
    let mut held = vec![keep_alive(&server)];
    let before = server.memory();
    for _ in 0..4 {
        held.extend((0..1_000).map(|_| keep_alive(&server)));
        std::thread::sleep(Duration::from_millis(2_500));
    }
    let each = (server.memory() - before) as f64 / held.len() as f64;
    assert!(each < 24.0, "an idle connection takes {each:.1} KiB");
}

/// Bodies in progress take no more than the budget, over all connections.
#[test]
fn unfinished_bodies_are_bounded_together() {
    let folder = tempfile::tempdir().unwrap();
    let server = Sessiond::start(folder.path(), &["--read-timeout", "60s"]);
    let before = server.memory();
    let length = 4 * 1024 * 1024;
    let head = format!(
        "POST /v1/sessions/resolve HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    );
    let unfinished = vec![b' '; length - 1];
    let mut refused = 0;
    let mut held = Vec::new();
    for _ in 0..60 {
        let mut stream = TcpStream::connect(&server.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        // Broken off where the server has refused it.
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&unfinished));
        let mut answer = [0; 12];
        match stream.read_exact(&mut answer) {
            Ok(()) => {
                assert_eq!(&answer, b"HTTP/1.1 503");
                refused += 1;
            }
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => refused += 1,
            Err(_) => held.push(stream),
        }
    }
    let grown = (server.memory() - before) / 1024;
    assert!(
        (10..=20).contains(&held.len()) && refused == 60 - held.len(),
        "{} are held, {refused} refused",
        held.len()
    );
    assert!(grown < 160, "grown by {grown} MiB");
    // They are batches: a login needs none of their memory.
    server.issue();
    // Once they are gone, there is room again.
    drop(held);
    let began = Instant::now();
    while !server.curl("/v1/sessions/resolve", &["--json", r#"{"cookies":[]}"#]).starts_with("HTTP/1.1 200") {
        assert!(began.elapsed() < Duration::from_secs(10));
    }
}

#[test]
fn a_body_that_is_declared_too_long_is_not_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let server = Sessiond::start(folder.path(), &[]);
    for expect in ["", "expect: 100-continue\r\n"] {
        let head = format!(
            "POST /v1/sessions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 1000000000\r\n{expect}\r\n"
        );
        let (answer, took) = exchange(&server, head.as_bytes());
        assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("body-too-large"), "{answer}");
        assert!(answer.contains("connection: close") && took < Duration::from_secs(5), "{took:?}: {answer}");
    }
}

#[test]
fn heads_are_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let server = Sessiond::start(folder.path(), &[]);
    let many = |count: usize| (0..count).map(|n| format!("x-{n}: y\r\n")).collect::<String>();
    assert!(exchange(&server, &request(&many(60))).0.starts_with("HTTP/1.1 200"));
    assert!(exchange(&server, &request(&many(64))).0.starts_with("HTTP/1.1 431"));
    let long = |bytes: usize| format!("cookie: {}\r\n", "a".repeat(bytes));
    assert!(exchange(&server, &request(&long(15_000))).0.starts_with("HTTP/1.1 200"));
    assert!(exchange(&server, &request(&long(17_000))).0.starts_with("HTTP/1.1 431"));
    assert!(exchange(&server, &request("x: a\0b\r\n")).0.starts_with("HTTP/1.1 400"));
    // Bytes above ASCII are another application's business.
    let odd =
        b"GET /v1/session HTTP/1.1\r\nhost: localhost\r\ncookie: a=\xff\xfe; connect.sid=\x80\r\nconnection: close\r\n\r\n";
    assert!(exchange(&server, odd).0.starts_with("HTTP/1.1 401"));
}

/// A request that two parsers could read in two ways does not get a second request through.
#[test]
fn nothing_is_smuggled() {
    let folder = tempfile::tempdir().unwrap();
    let server = Sessiond::start(folder.path(), &["--read-timeout", "500ms"]);
    let inner = "GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let post = "POST /v1/sessions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
    for shape in [
        format!("{post}content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{inner}"),
        format!("{post}content-length: 2\r\ncontent-length: 5\r\n\r\n{{}}   {inner}"),
        format!("{post}content-length: 2\r\n x: y\r\n\r\n{{}}{inner}"),
    ] {
        let (answer, _) = exchange(&server, shape.as_bytes());
        assert!(answer.matches("HTTP/1.1 ").count() <= 1, "{shape}\n{answer}");
    }
}

#[test]
fn connections_are_bounded_and_wait_their_turn() {
    let folder = tempfile::tempdir().unwrap();
    let server = Sessiond::start(folder.path(), &["--max-connections", "2", "--read-timeout", "60s"]);
    let held: Vec<TcpStream> = (0..2).map(|_| TcpStream::connect(&server.address).unwrap()).collect();
    std::thread::sleep(Duration::from_millis(100));
    let mut third = TcpStream::connect(&server.address).unwrap();
    third.write_all(&request("")).unwrap();
    third.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(third.read(&mut [0; 1]).is_err(), "it waits");
    drop(held);
    third.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut answer = String::new();
    third.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn http_2_needs_no_upgrade() {
    let folder = tempfile::tempdir().unwrap();
    let server = Sessiond::start(folder.path(), &[]);
    let cookie = server.issue();
    let answer = server.curl("/v1/session", &["--http2-prior-knowledge", "-H", &format!("Cookie: {cookie}")]);
    assert!(answer.starts_with("HTTP/2 200"), "{answer}");
}

#[test]
fn whoever_does_not_read_is_let_go() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Sessiond::start(folder.path(), &["--read-timeout", "500ms", "--max-connections", "1"]);
    let mut deaf = TcpStream::connect(&server.address).unwrap();
    deaf.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    let request = b"GET /openapi.yaml HTTP/1.1\r\nhost: localhost\r\n\r\n";
    // Until nothing more goes in.
    while deaf.write_all(request).is_ok() {}
    let (answer, took) = exchange(&server, &self::request(""));
    assert!(answer.starts_with("HTTP/1.1 200") && took < Duration::from_secs(5), "{took:?}: {answer}");
    let began = Instant::now();
    server.signal("-TERM");
    assert!(server.wait() && began.elapsed() < Duration::from_secs(5));
}

/// An answer has an end over HTTP/1.1 too, though the socket takes some of it now and then.
#[tokio::test]
async fn an_answer_that_is_read_too_slowly_ends_its_connection() {
    let folder = tempfile::tempdir().unwrap();
    let server = Sessiond::start(folder.path(), &["--read-timeout", "2s"]);
    let data = format!(r#"{{"data":{{"a":"{}"}}}}"#, "x".repeat(60_000));
    let cookie = cookie(&server.curl("/v1/sessions", &["--json", &data]));
    let body = serde_json::json!({ "cookies": vec![cookie; 200] }).to_string();
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(server.address.parse().unwrap()).await.unwrap();
    let head = "POST /v1/sessions/resolve HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
    let request = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes()).await.unwrap();
    assert!(stream.read(&mut [0; 800]).await.unwrap() > 0);
    let began = Instant::now();
    // Until only the request for the metrics is in progress. The kernel sends on what it has when the connection ends.
    while !server.curl("/metrics", &[]).contains("sessiond_requests_in_flight 1\n") {
        assert!(began.elapsed() < Duration::from_secs(30), "it goes on");
        // Half of the least rate.
        for _ in 0..10 {
            let _ = stream.read(&mut [0; 800]).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    assert!(began.elapsed() > Duration::from_secs(1), "{:?}", began.elapsed());
}
