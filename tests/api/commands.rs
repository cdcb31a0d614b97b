//! What the API asks of Redis.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::json;

use crate::app::TestApp;
use crate::keys::{CALLS, call};

/// No call looks through the keys, however many there are: every command is about keys that it names.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_scans() {
    let flags = ["--max-sessions-per-user", "50", "--idle-timeout", "1h"];
    let app = TestApp::start_on_redis(&flags).await;
    let mut monitor = UnixStream::connect(app.redis.as_ref().unwrap().socket()).unwrap();
    monitor.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    monitor.write_all(b"MONITOR\r\n").unwrap();
    let mut lines = BufReader::new(monitor).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "+OK");
    let mut cookies = Vec::new();
    for _ in 0..60 {
        cookies.push(app.cookie().await);
    }
    let cookie = cookies.pop().unwrap();
    app.merge(&cookie, r#"{"m":1}"#).await.expect(200);
    app.replace(&cookie, "{}").await.expect(200);
    app.touch(&cookie).await.expect(200);
    let cookie = app.regenerate(&cookie, r#"{"user_id":"bob"}"#).await.expect(200).cookie();
    app.revoke(&cookie).await.expect(204);
    let bare: Vec<&str> = cookies.iter().map(|cookie| &cookie["cookie: ".len()..]).collect();
    let json = "content-type: application/json";
    let batch = json!({ "cookies": bare }).to_string();
    app.call("POST", "/v1/sessions/resolve", &[json], &batch).await.expect(200);
    app.call("GET", "/v1/users/ada/sessions?limit=7", &[], "").await.expect(200);
    app.call("DELETE", "/v1/users/ada/sessions", &[], "").await.expect(200);
    // And whatever else there is.
    for (method, path, _) in CALLS {
        let answer = call(&app, "x: y", method, path, &[]).await;
        assert!(answer.status.is_success(), "{method} {path}: {answer:?}");
    }
    redis::cmd("ECHO").arg("the end").exec(&mut app.redis.as_ref().unwrap().connection()).unwrap();
    let mut asked = BTreeSet::new();
    for line in lines.map_while(Result::ok) {
        if line.contains("\"the end\"") {
            break;
        }
        asked.insert(line.split('"').nth(1).unwrap().to_uppercase());
    }
    let expected = [
        // The connection that says that this is the end.
        "CLIENT",
        "ECHO",
        "DEL",
        "EVALSHA",
        "GET",
        "PEXPIRE",
        "PING",
        "PTTL",
        "SCRIPT",
        "SET",
        "ZADD",
        "ZCARD",
        "ZRANGE",
        "ZREM",
        "ZREMRANGEBYSCORE",
    ];
    let unexpected: Vec<_> = asked.iter().filter(|name| !expected.contains(&name.as_str())).collect();
    assert!(unexpected.is_empty(), "{unexpected:?}");
    assert!(asked.contains("ZRANGE") && asked.contains("EVALSHA") && asked.contains("SET"), "{asked:?}");
}
