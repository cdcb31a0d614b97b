//! What the accept loop holds clients to.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::sessiond::Sessiond;

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
    format!("GET /livez HTTP/1.1\r\nhost: x\r\n{headers}connection: close\r\n\r\n").into_bytes()
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
        b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\nGET /li",
    ] {
        let (answer, took) = exchange(&server, bytes);
        assert!(took < Duration::from_secs(3), "{bytes:?} held a connection for {took:?}: {answer}");
    }
    let (answer, took) = exchange(&server, b"POST /v1/sessions HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n{");
    assert!(
        answer.starts_with("HTTP/1.1 408") && answer.contains("body-timeout") && took < Duration::from_secs(3),
        "{answer}"
    );
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
        b"GET /v1/session HTTP/1.1\r\nhost: x\r\ncookie: a=\xff\xfe; connect.sid=\x80\r\nconnection: close\r\n\r\n";
    assert!(exchange(&server, odd).0.starts_with("HTTP/1.1 401"));
}

/// A request that two parsers could read in two ways does not get a second request through.
#[test]
fn nothing_is_smuggled() {
    let folder = tempfile::tempdir().unwrap();
    let server = Sessiond::start(folder.path(), &["--read-timeout", "500ms"]);
    let inner = "GET /livez HTTP/1.1\r\nhost: x\r\n\r\n";
    let post = "POST /v1/sessions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n";
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
    let request = b"GET /openapi.yaml HTTP/1.1\r\nhost: x\r\n\r\n";
    // Until nothing more goes in.
    while deaf.write_all(request).is_ok() {}
    let (answer, took) = exchange(&server, &self::request(""));
    assert!(answer.starts_with("HTTP/1.1 200") && took < Duration::from_secs(5), "{took:?}: {answer}");
    let began = Instant::now();
    server.signal("-TERM");
    assert!(server.wait() && began.elapsed() < Duration::from_secs(5));
}
