//! Every error is a problem (RFC 9457).

use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::Request;
use bytes::Bytes;

use crate::app::TestApp;

#[tokio::test]
async fn paths_methods_and_media_types() {
    let app = TestApp::start(&[]).await;
    let cookie = app.cookie().await;
    for path in ["/", "/v1", "/v1/sessionx", "/v1/session/", "/%00", "/v1/session/data/x"] {
        app.call("GET", path, &[&cookie], "").await.problem(404, "not-found");
    }
    for (method, path, allow) in [
        ("PUT", "/v1/session", "GET,HEAD,DELETE"),
        ("GET", "/v1/sessions", "POST"),
        ("POST", "/v1/session/data", "PATCH,PUT"),
        ("GET", "/v1/session/touch", "POST"),
        ("OPTIONS", "/v1/session/regenerate", "POST"),
        ("DELETE", "/livez", "GET,HEAD"),
        ("BREW", "/readyz", "GET,HEAD"),
    ] {
        let answer = app.call(method, path, &[&cookie], "").await.problem(405, "method-not-allowed");
        assert_eq!(answer.header("allow"), Some(allow), "{method} {path}");
    }
    for header in ["x: y", "content-type: application/json", "content-type: text/plain", "content-type: \u{fc}"] {
        let answer = app
            .call("PATCH", "/v1/session/data", &[&cookie, header], "{}")
            .await
            .problem(415, "unsupported-media-type");
        assert_eq!(answer.header("accept-patch"), Some("application/merge-patch+json, application/json-patch+json"));
    }
    app.call("PUT", "/v1/session/data", &[&cookie], "{}").await.problem(415, "unsupported-media-type");
    app.call("POST", "/v1/sessions", &["content-type: text/plain"], "{}").await.problem(415, "unsupported-media-type");
    app.call("POST", "/v1/sessions", &["content-type: Application/JSON; charset=utf-8"], "{}").await.expect(204);
    app.call("GET", "/v1/session?touch=maybe", &[&cookie], "").await.problem(400, "invalid-query");
}

#[tokio::test]
async fn bodies_are_bounded_in_size_and_time() {
    let app = TestApp::start(&["--max-data-bytes", "1000", "--read-timeout", "200ms"]).await;
    let limit = 2 * 1000 + 16 * 1024;
    let json = |padding: usize| format!(r#"{{"user_id":"a"}}{}"#, " ".repeat(padding - 15));
    app.issue(&json(limit)).await.expect(201);
    app.issue(&json(limit + 1)).await.problem(413, "body-too-large");
    // Without a length, chunk by chunk.
    let chunks = futures_stream(vec![Bytes::from(" ".repeat(limit)), Bytes::from("  ")], None);
    app.send(post(chunks)).await.problem(413, "body-too-large");
    let began = Instant::now();
    let stuck = futures_stream(vec![Bytes::from("{")], Some(Duration::from_secs(30)));
    app.send(post(stuck)).await.problem(408, "body-timeout");
    assert!(began.elapsed() < Duration::from_secs(5));
}

fn post(body: Body) -> Request<Body> {
    Request::post("/v1/sessions").header("content-type", "application/json").body(body).unwrap()
}

/// A body of these chunks, and then nothing for a while.
fn futures_stream(chunks: Vec<Bytes>, then: Option<Duration>) -> Body {
    use http_body_util::channel::Channel;
    let (mut sender, channel) = Channel::<Bytes, std::convert::Infallible>::new(8);
    tokio::spawn(async move {
        for chunk in chunks {
            let _ = sender.send_data(chunk).await;
        }
        if let Some(then) = then {
            tokio::time::sleep(then).await;
        }
    });
    Body::new(channel)
}

#[tokio::test]
async fn a_store_that_is_away_is_told_at_once() {
    let mut app = TestApp::start_on_redis(&[]).await;
    let cookie = app.cookie().await;
    app.redis.as_mut().unwrap().kill();
    let calls = [
        ("POST", "/v1/sessions", r#"{"user_id":"a"}"#),
        ("GET", "/v1/session", ""),
        ("DELETE", "/v1/session", ""),
        ("PUT", "/v1/session/data", "{}"),
        ("POST", "/v1/session/touch", ""),
        ("POST", "/v1/session/regenerate", ""),
        ("GET", "/readyz", ""),
    ];
    for _ in 0..2 {
        for (method, path, body) in calls {
            let began = Instant::now();
            let answer = app.call(method, path, &[&cookie, "content-type: application/json"], body).await;
            assert!(began.elapsed() < Duration::from_millis(600), "{method} {path}: {:?}", began.elapsed());
            let answer = answer.problem(503, "store-unavailable");
            assert_eq!(answer.header("retry-after"), Some("1"));
        }
    }
    app.call("GET", "/livez", &[], "").await.expect(200);
    app.resolve("cookie: connect.sid=forged").await.problem(401, "no-session");
    app.redis.as_mut().unwrap().restart();
    tokio::time::sleep(Duration::from_secs(1)).await;
    app.call("GET", "/readyz", &[], "").await.expect(200);
    app.resolve(&cookie).await.problem(401, "no-session");
    app.cookie().await;
}

#[tokio::test]
async fn a_store_that_is_frozen_is_told_in_time() {
    let app = TestApp::start_on_redis(&[]).await;
    let cookie = app.cookie().await;
    app.redis.as_ref().unwrap().signal("-STOP");
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until {
        let began = Instant::now();
        app.resolve(&cookie).await.problem(503, "store-unavailable");
        assert!(began.elapsed() < Duration::from_millis(600), "{:?}", began.elapsed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    app.redis.as_ref().unwrap().signal("-CONT");
    tokio::time::sleep(Duration::from_secs(1)).await;
    app.resolve(&cookie).await.expect(200);
}

/// And what is touched then stays in its user's list: a session that lives on is never forgotten.
#[tokio::test]
async fn a_full_redis_still_finds_a_users_sessions() {
    let app = TestApp::start_on_redis(&["--idle-timeout", "60s"]).await;
    let kept = app.cookie().await;
    let mut redis = app.redis.as_ref().unwrap().connection();
    redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("1").exec(&mut redis).unwrap();
    for _ in 0..10 {
        app.pass(20_000);
        app.touch(&kept).await.expect(200);
    }
    assert_eq!(app.call("DELETE", "/v1/users/ada/sessions", &[], "").await.expect(200).json()["revoked"], 1);
    app.resolve(&kept).await.problem(401, "no-session");
}

/// A misspelt parameter is refused, and not passed over: `except` says who is spared.
#[tokio::test]
async fn an_unknown_parameter_is_a_problem() {
    let app = TestApp::start(&[]).await;
    let cookie = app.cookie().await;
    let header = format!("cookie: {cookie}");
    for (method, path) in [
        ("DELETE", "/v1/users/ada/sessions?expect=x"),
        ("GET", "/v1/users/ada/sessions?limits=1"),
        ("GET", "/v1/session?touched=never"),
        ("DELETE", "/v1/users/ada/sessions?except=s%3Ax.y"),
        ("DELETE", "/v1/users/ada/sessions?except=s%253Ax.y"),
    ] {
        app.call(method, path, &[&header], "").await.problem(400, "invalid-query");
    }
    app.resolve(&cookie).await.expect(200);
}

/// Redis at maxmemory: what takes room is refused, revoke and touch are not.
#[tokio::test]
async fn a_full_redis_still_revokes_and_touches() {
    let app = TestApp::start_on_redis(&[]).await;
    let (cookie, kept) = (app.cookie().await, app.cookie().await);
    let mut redis = app.redis.as_ref().unwrap().connection();
    redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("1").exec(&mut redis).unwrap();
    app.issue(r#"{"user_id":"b"}"#).await.problem(503, "store-unavailable");
    app.merge(&cookie, r#"{"n":2}"#).await.problem(503, "store-unavailable");
    app.pass(120_000);
    let before = app.look(&kept).await.expect(200).json();
    assert_ne!(app.touch(&kept).await.expect(200).json()["touched_at"], before["touched_at"]);
    assert!(app.resolve(&kept).await.json()["touched_at"].as_str() > before["touched_at"].as_str());
    app.revoke(&cookie).await.expect(204);
    app.resolve(&cookie).await.problem(401, "no-session");
}

#[tokio::test]
async fn too_many_at_once_are_refused() {
    let app = TestApp::start_on_redis(&["--max-in-flight", "1"]).await;
    let cookie = app.cookie().await;
    app.redis.as_ref().unwrap().signal("-STOP");
    let livez = app.call("GET", "/livez", &[], "");
    let (first, second, livez) = tokio::join!(app.resolve(&cookie), app.resolve(&cookie), livez);
    livez.expect(200);
    first.problem(503, "store-unavailable");
    assert_eq!(second.problem(503, "overloaded").header("retry-after"), Some("1"));
}

/// The memory of a body is in use until its request ends: what is parsed of it takes more than its text.
#[tokio::test]
async fn bodies_of_requests_that_wait_for_the_store_are_bounded_together() {
    const BODY: usize = 140 * 1024;
    const BUDGET: usize = 64 * 1024 * 1024;
    let app = TestApp::start_on_redis(&[]).await;
    let cookie = app.cookie().await;
    let body = format!("{{}}{}", " ".repeat(BODY - 2));
    app.replace(&cookie, &body).await.expect(200);
    app.redis.as_ref().unwrap().signal("-STOP");
    let answers = futures_util::future::join_all((0..600).map(|_| app.replace(&cookie, &body))).await;
    let refused = answers.into_iter().filter(|answer| answer.status == 503 && answer.json()["code"] == "overloaded");
    assert_eq!(refused.count(), 600 - BUDGET / BODY);
    app.redis.as_ref().unwrap().signal("-CONT");
    app.replace(&cookie, &body).await.expect(200);
}

/// Also when it freezes between the steps of one call.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_freezes_in_the_middle_is_told_in_time() {
    let app = TestApp::start_on_redis(&[]).await;
    let until = Instant::now() + Duration::from_secs(4);
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let api = app.api.clone();
        let mut cookie = app.cookie().await;
        callers.spawn(async move {
            let mut slowest = Duration::ZERO;
            while Instant::now() < until {
                let began = Instant::now();
                let (name, value) = cookie.split_once(": ").unwrap();
                let request = Request::post("/v1/session/regenerate").header("host", "localhost").header(name, value);
                let (answer, _) = api.answer(request.body(Body::empty()).unwrap()).await;
                slowest = slowest.max(began.elapsed());
                match answer.headers().get("set-cookie") {
                    Some(set) => cookie = format!("cookie: {}", set.to_str().unwrap().split(';').next().unwrap()),
                    // A regenerate of which the outcome is not known may have ended the session.
                    None if answer.status() == 401 => break,
                    None => assert_eq!(answer.status(), 503),
                }
            }
            slowest
        });
    }
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        app.redis.as_ref().unwrap().signal("-STOP");
        tokio::time::sleep(Duration::from_millis(700)).await;
        app.redis.as_ref().unwrap().signal("-CONT");
    }
    for slowest in callers.join_all().await {
        assert!(slowest < Duration::from_millis(600), "{slowest:?}");
    }
}

#[tokio::test]
async fn a_store_that_cannot_be_written_is_not_ready() {
    let app = TestApp::start(&[]).await;
    let path = app.store_url.strip_prefix("sqlite:").unwrap();
    let other = rusqlite::Connection::open(path).unwrap();
    other.execute_batch("begin exclusive").unwrap();
    let began = Instant::now();
    app.call("GET", "/readyz", &[], "").await.problem(503, "store-unavailable");
    app.issue(r#"{"user_id":"a"}"#).await.problem(503, "store-unavailable");
    assert!(began.elapsed() < Duration::from_millis(1200));
    other.execute_batch("rollback").unwrap();
    app.call("GET", "/readyz", &[], "").await.expect(200);
    app.cookie().await;
}
