//! HTTP/2 has the deadlines and limits of HTTP/1.1.

use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::{Builder, ResponseFuture, SendRequest};
use hyper::{Request, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::callers::keygen;
use crate::sessiond::Sessiond;

/// A client that answers PINGs, and reads no more of each body than `window` bytes.
struct Client {
    requests: SendRequest<Bytes>,
    ended: JoinHandle<Result<(), h2::Error>>,
}

impl Client {
    async fn connect(server: &Sessiond, window: u32) -> Self {
        let stream = TcpStream::connect(&server.address).await.unwrap();
        let (requests, connection) = Builder::new().initial_window_size(window).handshake(stream).await.unwrap();
        Self { requests: requests.ready().await.unwrap(), ended: tokio::spawn(connection) }
    }

    fn get(&mut self, path: &str, headers: usize) -> ResponseFuture {
        let mut request = Request::get(format!("http://localhost{path}"));
        for number in 0..headers {
            request = request.header(format!("x-{number}"), "y");
        }
        self.requests.send_request(request.body(()).unwrap(), true).unwrap().0
    }

    /// Asks with an API key.
    fn get_with_key(&mut self, path: &str, key: &str) -> ResponseFuture {
        let request = Request::get(format!("http://localhost{path}")).header("authorization", format!("Bearer {key}"));
        self.requests.send_request(request.body(()).unwrap(), true).unwrap().0
    }

    /// Whether the server ends the connection within `time`.
    async fn ends_within(self, time: Duration) -> bool {
        let Self { requests: _held, ended } = self;
        timeout(time, ended).await.is_ok()
    }
}

/// With a window of one byte hyper takes the whole answer, and does not know of the rest.
#[tokio::test]
async fn an_answer_that_is_not_taken_ends_its_connection() {
    let folder = tempfile::tempdir().unwrap();
    let server = Sessiond::start(folder.path(), &["--read-timeout", "1s"]);
    for window in [0, 1] {
        let mut client = Client::connect(&server, window).await;
        let mut held = Vec::new();
        for _ in 0..50 {
            held.push(client.get("/openapi.yaml", 0).await.unwrap());
        }
        let began = Instant::now();
        assert!(client.ends_within(Duration::from_secs(10)).await, "window {window}");
        assert!(began.elapsed() > Duration::from_millis(700), "{:?}", began.elapsed());
    }
}

/// One that is taken slowly, but steadily, is not cut off.
#[tokio::test]
async fn an_answer_that_is_taken_slowly_is_sent() {
    let folder = tempfile::tempdir().unwrap();
    let server = Sessiond::start(folder.path(), &["--read-timeout", "1s"]);
    let mut client = Client::connect(&server, 8 * 1024).await;
    let mut body = client.get("/openapi.yaml", 0).await.unwrap().into_body();
    let mut read = 0;
    let began = Instant::now();
    while let Some(data) = body.data().await {
        let length = data.unwrap().len();
        read += length;
        sleep(Duration::from_millis(400)).await;
        body.flow_control().release_capacity(length).unwrap();
    }
    assert!(read > 40_000 && began.elapsed() > Duration::from_secs(2), "{read} bytes in {:?}", began.elapsed());
}

/// A byte now and then is not enough: an answer has an end, however it is read.
#[tokio::test]
async fn an_answer_that_is_taken_byte_by_byte_ends_its_connection() {
    let folder = tempfile::tempdir().unwrap();
    let server = Sessiond::start(folder.path(), &["--read-timeout", "1s"]);
    let mut client = Client::connect(&server, 1).await;
    let mut body = client.get("/openapi.yaml", 0).await.unwrap().into_body();
    let began = Instant::now();
    while let Some(Ok(data)) = body.data().await {
        assert!(began.elapsed() < Duration::from_secs(10), "it goes on");
        sleep(Duration::from_millis(100)).await;
        let _ = body.flow_control().release_capacity(data.len());
    }
    assert!(began.elapsed() > Duration::from_millis(700), "{:?}", began.elapsed());
    assert!(client.ends_within(Duration::from_secs(10)).await);
}

/// Also an answer to a request that comes after the connection was idle.
#[tokio::test]
async fn an_answer_that_is_not_taken_after_idle_time_ends_its_connection() {
    let folder = tempfile::tempdir().unwrap();
    let server = Sessiond::start(folder.path(), &["--read-timeout", "1s", "--keep-alive-timeout", "60s"]);
    let mut client = Client::connect(&server, 1024).await;
    let mut body = client.get("/livez", 0).await.unwrap().into_body();
    while body.data().await.is_some() {}
    // Not for a condition: the connection's timer is to find it idle.
    sleep(Duration::from_millis(1_500)).await;
    let _held = client.get("/openapi.yaml", 0).await.unwrap();
    assert!(client.ends_within(Duration::from_secs(10)).await);
}

#[tokio::test]
async fn an_idle_connection_ends() {
    let folder = tempfile::tempdir().unwrap();
    let server = Sessiond::start(folder.path(), &["--read-timeout", "60s", "--keep-alive-timeout", "1s"]);
    let mut client = Client::connect(&server, 65_535).await;
    let mut body = client.get("/livez", 0).await.unwrap().into_body();
    while body.data().await.is_some() {}
    drop(body);
    let Client { requests: _held, ended } = client;
    let ended = timeout(Duration::from_secs(10), ended).await.expect("it is idle").unwrap();
    assert!(ended.is_ok(), "it says so before it goes: {ended:?}");
    // And one that never asks has the read timeout.
    let server = Sessiond::start(folder.path(), &["--read-timeout", "500ms"]);
    assert!(Client::connect(&server, 65_535).await.ends_within(Duration::from_secs(10)).await);
}

#[tokio::test]
async fn a_request_is_in_flight_until_its_answer_is_sent() {
    let folder = tempfile::tempdir().unwrap();
    let server = Sessiond::start(folder.path(), &["--max-in-flight", "8", "--read-timeout", "60s"]);
    for window in [0, 1] {
        let mut client = Client::connect(&server, window).await;
        let mut held = Vec::new();
        for _ in 0..8 {
            let answer = client.get("/v1/session", 0).await.unwrap();
            assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
            held.push(answer);
        }
        assert!(server.curl("/v1/session", &[]).starts_with("HTTP/1.1 503"), "window {window}");
        assert!(
            server.curl("/livez", &[]).starts_with("HTTP/1.1 200"),
            "routes without keys have a limit of their own"
        );
        assert!(server.curl("/metrics", &[]).contains("sessiond_requests_in_flight 9"));
        client.ended.abort();
        assert!(client.ended.await.is_err(), "hung up");
        drop(held);
        let began = Instant::now();
        while !server.curl("/v1/session", &[]).starts_with("HTTP/1.1 401") {
            assert!(began.elapsed() < Duration::from_secs(10));
        }
    }
}

/// Whoever has no key takes no place from whoever has one, and cannot make the service look dead.
#[tokio::test]
async fn unread_refusals_and_documents_displace_no_caller_and_no_probe() {
    let folder = tempfile::tempdir().unwrap();
    let (key, line) = keygen(folder.path(), "shop", "session");
    let flags = ["--api-key", &line, "--max-in-flight", "8", "--read-timeout", "60s"];
    let server = Sessiond::start(folder.path(), &flags);
    let mut stranger = Client::connect(&server, 0).await;
    let mut held = Vec::new();
    for _ in 0..8 {
        let answer = stranger.get("/v1/session", 0).await.unwrap();
        assert_eq!(answer.status(), StatusCode::FORBIDDEN);
        held.push(answer);
    }
    let mut caller = Client::connect(&server, 65_535).await;
    let status = async |answer: ResponseFuture| answer.await.unwrap().status();
    assert_eq!(status(caller.get_with_key("/v1/session", &key)).await, StatusCode::UNAUTHORIZED);
    for path in ["/livez", "/readyz"] {
        assert_eq!(status(stranger.get(path, 0)).await, StatusCode::OK, "{path}");
    }
    assert_eq!(status(stranger.get("/openapi.yaml", 0)).await, StatusCode::SERVICE_UNAVAILABLE);
}

/// A client that opens a connection ahead learns that it ends, and does not lose a request that it is about to send.
#[tokio::test]
async fn a_connection_that_never_asks_ends_with_goaway() {
    const GOAWAY: u8 = 7;
    let folder = tempfile::tempdir().unwrap();
    let server = Sessiond::start(folder.path(), &["--read-timeout", "500ms"]);
    let mut stream = TcpStream::connect(&server.address).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut received = Vec::new();
    let read = timeout(Duration::from_secs(10), stream.read_to_end(&mut received)).await;
    read.expect("it ends").unwrap();
    let mut kinds = Vec::new();
    let mut frames = &received[..];
    while let Some((&[a, b, c, kind, ..], _)) = frames.split_first_chunk::<9>() {
        kinds.push(kind);
        frames = &frames[9 + u32::from_be_bytes([0, a, b, c]) as usize..];
    }
    assert!(kinds.contains(&GOAWAY), "{kinds:?}");
}

/// No key is needed to ask for the metrics, so nobody may hold many of them.
#[tokio::test]
async fn unread_metrics_take_little() {
    let folder = tempfile::tempdir().unwrap();
    let server = Sessiond::start(folder.path(), &["--read-timeout", "60s"]);
    let before = server.memory();
    let mut held = Vec::new();
    for _ in 0..10 {
        let mut client = Client::connect(&server, 1).await;
        for _ in 0..100 {
            let answer = client.get("/metrics", 0).await.unwrap();
            assert!([StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE].contains(&answer.status()));
            held.push(answer);
        }
        let grown = (server.memory() - before) / 1024;
        assert!(grown < 24, "{} unread answers take {grown} MiB", held.len());
        tokio::spawn(async move { client.ended.await.map(|_| client.requests) });
    }
}

#[tokio::test]
async fn the_number_of_headers_is_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let server = Sessiond::start(folder.path(), &[]);
    let mut client = Client::connect(&server, 65_535).await;
    assert_eq!(client.get("/livez", 64).await.unwrap().status(), StatusCode::OK);
    assert_eq!(client.get("/livez", 65).await.unwrap().status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    assert_eq!(client.get("/v1/session", 65).await.unwrap().status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
}
