use std::collections::BTreeSet;

use sessiond::supervise::Task;

use crate::app::TestApp;

impl TestApp {
    pub(crate) async fn metrics(&self) -> String {
        let answer = self.call("GET", "/metrics", &[], "").await.expect(200);
        assert_eq!(answer.header("content-type"), Some("application/openmetrics-text; version=1.0.0; charset=utf-8"));
        assert!(answer.body.ends_with("# EOF\n"));
        answer.body
    }
}

/// The value of the sample that begins with `name`.
#[track_caller]
pub(crate) fn value(metrics: &str, name: &str) -> f64 {
    let line = metrics.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
    line.unwrap_or_else(|| panic!("no {name} in {metrics}")).rsplit_once(' ').unwrap().1.parse().unwrap()
}

#[tokio::test]
async fn what_happens_is_counted() {
    let app = TestApp::start(&[
        "--max-sessions-per-user",
        "3",
        "--secret",
        "first secret of 32 bytes or more,older secret of 32 bytes or more",
    ])
    .await;
    let cookie = app.cookie().await;
    app.look(&cookie).await.expect(200);
    app.touch(&cookie).await.expect(200);
    app.resolve("cookie: connect.sid=s%3Ax.y").await.expect(401);
    app.resolve("cookie: other=1").await.expect(401);
    let older = sessiond::cookie::Signer::new(&["older secret of 32 bytes or more".into()]);
    let id = app.look(&cookie).await.json()["id"].as_str().unwrap().to_owned();
    app.resolve(&format!("cookie: connect.sid={}", older.sign(&id))).await.expect(200);
    let cookie = app.regenerate(&cookie, "").await.expect(200).cookie();
    app.revoke(&cookie).await.expect(204);
    for _ in 0..4 {
        app.cookie().await;
    }
    app.call("DELETE", "/v1/users/ada/sessions", &[], "").await.expect(200);
    app.call("GET", "/v1/nothing", &[], "").await.expect(404);
    app.call("PUT", "/v1/session", &[], "").await.expect(405);
    let metrics = app.metrics().await;
    for (name, expected) in [
        (r#"sessiond_requests_total{method="post",route="/v1/sessions",status="201"}"#, 5.0),
        (r#"sessiond_requests_total{method="get",route="/v1/session",status="200"}"#, 3.0),
        (r#"sessiond_requests_total{method="get",route="/v1/session",status="401"}"#, 2.0),
        (r#"sessiond_requests_total{method="any",route="none",status="404"}"#, 1.0),
        (r#"sessiond_requests_total{method="any",route="none",status="405"}"#, 1.0),
        (r#"sessiond_request_duration_seconds_count{method="get",route="/v1/session"}"#, 5.0),
        (r#"sessiond_sessions_issued_total"#, 5.0),
        (r#"sessiond_sessions_regenerated_total"#, 1.0),
        (r#"sessiond_sessions_revoked_total{by="session"}"#, 1.0),
        (r#"sessiond_sessions_revoked_total{by="limit"}"#, 1.0),
        (r#"sessiond_sessions_revoked_total{by="user"}"#, 3.0),
        (r#"sessiond_cookies_total{secret="first"}"#, 5.0),
        (r#"sessiond_cookies_total{secret="older"}"#, 1.0),
        (r#"sessiond_cookies_total{secret="none"}"#, 1.0),
        (r#"sessiond_touches_total{outcome="written"}"#, 1.0),
        (r#"sessiond_touches_total{outcome="skipped"}"#, 3.0),
        (r#"sessiond_touches_total{outcome="failed"}"#, 0.0),
        (r#"sessiond_store_calls_total{call="find_many",outcome="ok"}"#, 0.0),
        (r#"sessiond_store_calls_total{call="touch",outcome="ok"}"#, 1.0),
        // This very request.
        ("sessiond_requests_in_flight", 1.0),
    ] {
        assert_eq!(value(&metrics, name), expected, "{name}");
    }
    assert!(!metrics.contains(&id) && !metrics.contains("ada"));
}

#[tokio::test]
async fn what_is_purged_and_what_is_touched_is_counted() {
    let app = TestApp::start(&["--idle-timeout", "10s"]).await;
    let cookie = app.cookie().await;
    app.pass(5_000);
    // Twice in one batch: the second finds it touched.
    let bare = cookie.split_once('=').unwrap().1;
    app.batch(&[bare, bare]).await.expect(200);
    app.pass(5_000);
    // An update that changes nothing touches too.
    app.merge(&cookie, "{}").await.expect(200);
    app.pass(20_000);
    app.sessions.purge().await.unwrap();
    let metrics = app.metrics().await;
    for (name, expected) in [
        (r#"sessiond_touches_total{outcome="written"}"#, 2.0),
        (r#"sessiond_touches_total{outcome="skipped"}"#, 1.0),
        (r#"sessiond_sessions_expired_total"#, 1.0),
    ] {
        assert_eq!(value(&metrics, name), expected, "{name}");
    }
}

#[tokio::test]
async fn an_outage_is_counted() {
    let mut app = TestApp::start_on_redis(&[]).await;
    let cookie = app.cookie().await;
    app.redis.as_mut().unwrap().kill();
    app.resolve(&cookie).await.expect(503);
    let metrics = app.metrics().await;
    assert_eq!(value(&metrics, r#"sessiond_store_calls_total{call="find",outcome="unavailable"}"#), 1.0);
    assert_eq!(value(&metrics, r#"sessiond_requests_total{method="get",route="/v1/session",status="503"}"#), 1.0);
}

/// docs/metrics.md lists every metric and no other, and the dashboard asks for none that is not there.
#[tokio::test]
async fn the_documents_name_the_metrics() {
    let app = TestApp::start(&[]).await;
    // A label of each family: one without any is not shown.
    let _task = Task::new("accept", app.sessions.metrics());
    let metrics = app.metrics().await;
    let stated: BTreeSet<&str> =
        metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let listed: BTreeSet<&str> = include_str!("../../docs/metrics.md")
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .map(|name| name.split('{').next().unwrap().trim_end_matches("_total"))
        .collect();
    assert_eq!(listed.iter().map(|name| name.trim_end_matches("_info")).collect::<BTreeSet<_>>(), stated);
    let dashboard: serde_json::Value = serde_json::from_str(include_str!("../../docs/grafana.json")).unwrap();
    let mut asked = 0;
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().unwrap();
            for name in expression.split(|char: char| !char.is_ascii_alphanumeric() && char != '_') {
                if name.starts_with("sessiond_") || name.starts_with("process_") {
                    let base =
                        ["_total", "_bucket", "_sum", "_count", "_info"].iter().find_map(|end| name.strip_suffix(end));
                    assert!(stated.contains(base.unwrap_or(name)), "{name} in {}", panel["title"]);
                    asked += 1;
                }
            }
        }
    }
    assert!(asked >= stated.len());
    // Every call is counted from the start, so all of them are here.
    let called: BTreeSet<&str> = metrics
        .lines()
        .filter_map(|line| line.strip_prefix("sessiond_store_calls_total{call=\"")?.split('"').next())
        .collect();
    let row =
        include_str!("../../docs/metrics.md").lines().find(|line| line.starts_with("| `sessiond_store_calls_total"));
    let listed = row.unwrap().rsplit_once("calls to the store: ").unwrap().1.split_once(';').unwrap().0;
    assert_eq!(listed.split(", ").map(|call| call.trim_matches('`')).collect::<BTreeSet<_>>(), called);
}

/// About this very process.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_process_is_measured() {
    let app = TestApp::start(&[]).await;
    let metrics = app.metrics().await;
    let now = sessiond::clock::Clock::system().now() as f64 / 1000.0;
    let started = value(&metrics, "process_start_time_seconds");
    assert!((now - 600.0..=now + 2.0).contains(&started), "{started} {now}");
    assert!(value(&metrics, "process_resident_memory_bytes") > 1e6);
    assert!(value(&metrics, "process_cpu_seconds_total") < now - started + 600.0);
    let open = value(&metrics, "process_open_fds");
    assert!(open > 3.0 && open <= value(&metrics, "process_max_fds"), "{open}");
    let _held: Vec<_> = (0..20).map(|_| std::fs::File::open("/proc/self/stat").unwrap()).collect();
    assert!(value(&app.metrics().await, "process_open_fds") >= open + 20.0);
    assert!(!metrics.contains("sessiond_process"), "{metrics}");
}

#[tokio::test]
async fn every_answer_has_a_request_id() {
    let app = TestApp::start(&[]).await;
    let own = app.call("GET", "/v1/session", &["x-request-id: caller-7"], "").await;
    assert_eq!(own.header("x-request-id"), Some("caller-7"));
    let mut made = BTreeSet::new();
    for header in ["a: b", "x-request-id: ", "x-request-id: a b", &format!("x-request-id: {}", "x".repeat(129))] {
        for path in ["/v1/session", "/livez", "/nothing"] {
            let id = app.call("GET", path, &[header], "").await.header("x-request-id").unwrap().to_owned();
            assert_eq!(uuid::Uuid::parse_str(&id).unwrap().get_version_num(), 7, "{id}");
            made.insert(id);
        }
    }
    assert_eq!(made.len(), 12);
}
