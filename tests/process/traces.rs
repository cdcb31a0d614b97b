//! A request's place in its caller's trace: in the log, and as a span at a collector.

use std::time::{Duration, Instant};

use crate::sessiond::Sessiond;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

fn traced(server: &Sessiond, path: &str, trace: &str, flags: &str) -> String {
    let header = format!("traceparent: 00-{trace}-b7ad6b7169203331-{flags}");
    server.curl(path, &["-H", &header, "-H", "x-request-id: request-7"])
}

#[test]
fn a_log_line_names_the_request_and_its_trace() {
    let folder = tempfile::tempdir().unwrap();
    let server = Sessiond::start(folder.path(), &["--log-level", "debug", "--log-format", "json"]);
    traced(&server, "/v1/session", TRACE, "00");
    let began = Instant::now();
    // Another thread writes the log, after the answer.
    while !server.log().contains("request-7") && began.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(5));
    }
    let log = server.log();
    let line = log.lines().find(|line| line.contains("request-7")).expect(&log);
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    let expected = [("trace_id", TRACE), ("route", "/v1/session"), ("method", "get"), ("level", "DEBUG")];
    for (field, value) in expected {
        assert_eq!(line[field], value, "{line}");
    }
    assert_eq!(line["status"], 401);
    assert!(line["duration_ms"].is_u64(), "{line}");
}

#[cfg(feature = "otlp")]
#[test]
fn a_sampled_request_is_a_span_at_the_collector() {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::TcpListener;

    let collector = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", collector.local_addr().unwrap());
    let received = std::thread::spawn(move || {
        let (mut stream, _) = collector.accept().unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let (mut head, mut length) = (String::new(), 0);
        while !head.ends_with("\r\n\r\n") {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            head += &line;
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n")
            .unwrap();
        (head, body)
    });
    let folder = tempfile::tempdir().unwrap();
    let mut server = Sessiond::start(folder.path(), &["--otlp-endpoint", &endpoint]);
    traced(&server, "/v1/session", TRACE, "01");
    traced(&server, "/readyz", "11111111111111111111111111111111", "00");
    server.signal("-TERM");
    assert!(server.wait(), "{}", server.log());
    let (head, body) = received.join().unwrap();
    assert!(head.starts_with("POST /v1/traces "), "{head}");
    let has = |bytes: &[u8]| body.windows(bytes.len()).any(|window| window == bytes);
    let id: Vec<u8> = TRACE
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect();
    assert!(has(&id) && has(b"GET /v1/session") && has(b"http.response.status_code") && has(b"sessiond"));
    assert!(!has(&[0x11; 16]) && !has(b"/readyz"), "only what the caller has sampled");
}

#[cfg(not(feature = "otlp"))]
#[test]
fn a_build_without_the_exporter_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let output = crate::sessiond::run(folder.path(), &["--otlp-endpoint", "http://127.0.0.1:1"]);
    assert!(String::from_utf8(output.stderr).unwrap().contains("--features otlp"));
}
