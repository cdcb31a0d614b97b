//! Which hosts a request may name.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::sessiond::{Sessiond, command, run};

/// The status of the answer to these lines.
fn status(mut stream: impl Read + Write, lines: &str) -> String {
    stream.write_all(format!("{lines}connection: close\r\n\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split(' ').nth(1).unwrap_or_default().to_owned()
}

fn connect(server: &Sessiond) -> TcpStream {
    let stream = TcpStream::connect(&server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream
}

#[test]
fn a_request_names_one_host() {
    let folder = tempfile::tempdir().unwrap();
    let server = Sessiond::start(folder.path(), &[]);
    for path in ["/livez", "/v1/session", "/nothing"] {
        let get =
            |version: &str, hosts: &str| status(connect(&server), &format!("GET {path} HTTP/{version}\r\n{hosts}"));
        assert_eq!(get("1.1", ""), "400", "{path}");
        assert_eq!(get("1.1", "host: localhost\r\nhost: localhost\r\n"), "400", "{path}");
        assert_eq!(get("1.0", "host: localhost\r\nhost: evil.example\r\n"), "400", "{path}");
        assert_ne!(get("1.0", ""), "400", "{path}");
        assert_ne!(get("1.1", "host: localhost\r\n"), "400", "{path}");
    }
}

/// DNS rebinding: a page's own name is pointed at this machine.
#[test]
fn without_keys_a_loopback_address_serves_no_foreign_name() {
    let folder = tempfile::tempdir().unwrap();
    let server = Sessiond::start(folder.path(), &["--ops-addr", "127.0.0.1:0", "--allowed-host", "gate.example.com"]);
    let get = |host: &str| status(connect(&server), &format!("GET /v1/session HTTP/1.1\r\nhost: {host}\r\n"));
    for host in ["localhost", "localhost:8080", "127.0.0.1:1", "[::1]:1", "app.localhost", "gate.example.com:80"] {
        assert_eq!(get(host), "401", "{host}");
    }
    for host in ["evil.example", "evil.example:8080", "localhost.evil.example", ""] {
        assert_eq!(get(host), "421", "{host}");
    }
    let absolute = "GET http://evil.example/v1/session HTTP/1.1\r\nhost: localhost\r\n";
    assert_eq!(status(connect(&server), absolute), "421", "the target counts");
    let problem = server.curl("/v1/sessions", &["-H", "host: evil.example", "--json", r#"{"user_id":"ada"}"#]);
    assert!(problem.starts_with("HTTP/1.1 421") && problem.contains("unknown-host"), "{problem}");
    assert!(problem.contains("--allowed-host") && !problem.contains("set-cookie"), "{problem}");
    let over_h2 = server.curl("/v1/session", &["--http2-prior-knowledge", "-H", "host: evil.example"]);
    assert!(over_h2.starts_with("HTTP/2 421"), "{over_h2}");
    let ops = server.log().split_once("curl http://").unwrap().1.split_once('/').unwrap().0.to_owned();
    let ask =
        |host: &str| status(TcpStream::connect(&ops).unwrap(), &format!("GET /metrics HTTP/1.1\r\nhost: {host}\r\n"));
    assert_eq!((ask("evil.example").as_str(), ask("localhost").as_str()), ("421", "200"));
    assert!(run(folder.path(), &["healthcheck", "--listen", &server.address, "--ops-addr", &ops]).status.success());
}

#[test]
fn elsewhere_any_name_will_do() {
    let folder = tempfile::tempdir().unwrap();
    let get = "GET /v1/session HTTP/1.1\r\nhost: sessiond.internal\r\n";
    let any = Sessiond::start(folder.path(), &["--allowed-host", "*"]);
    assert_eq!(status(connect(&any), get), "401");
    let open = Sessiond::spawn(command(folder.path(), &["--listen", "0.0.0.0:0", "--allow-no-key"]));
    let port = open.address.rsplit_once(':').unwrap().1;
    assert_eq!(status(TcpStream::connect(format!("127.0.0.1:{port}")).unwrap(), get), "401");
    assert!(run(folder.path(), &["healthcheck", "--listen", &open.address]).status.success());
    let key = "a:resolve:0000000000000000000000000000000000000000000000000000000000000000";
    let keyed = Sessiond::start(folder.path(), &["--api-key", key]);
    assert_eq!(status(connect(&keyed), get), "403");
    let socket = folder.path().join("s");
    let unix = Sessiond::spawn(command(folder.path(), &["--listen", &format!("unix:{}", socket.display())]));
    assert_eq!(status(UnixStream::connect(&socket).unwrap(), get), "401", "{}", unix.address);
    let wrong = run(folder.path(), &["--allowed-host", "http://gate.example.com"]);
    assert!(!wrong.status.success() && String::from_utf8_lossy(&wrong.stderr).contains("--allowed-host"));
}
