use serde_json::json;
use sessiond::id::Id;

use crate::app::TestApp;

const HOUR: i64 = 3_600_000;

#[tokio::test]
async fn a_cookie_that_opens_nothing_is_one_answer() {
    let app = TestApp::start(&[]).await;
    let cookie = app.cookie().await;
    let revoked = app.cookie().await;
    app.revoke(&revoked).await.expect(204);
    let mut bodies = Vec::new();
    for header in [
        "x: y",
        "cookie: other=1",
        "cookie: connect.sid=",
        "cookie: connect.sid=s%3Aforged.9Qe1bDw9IbckYzW0%2BXplAxUJPFtXhop3NfwdmnycIw8",
        &cookie[..cookie.len() - 1],
        &app.signed(&Id::random()),
        &revoked,
    ] {
        let answer = app.resolve(header).await.problem(401, "no-session");
        assert!(answer.header("www-authenticate").is_some());
        assert!(answer.header("set-cookie").is_none());
        bodies.push(answer.body);
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1);
    app.resolve(&cookie).await.expect(200);
}

#[tokio::test]
async fn any_duplicate_that_verifies_opens_the_session() {
    let app = TestApp::start(&[]).await;
    let cookie = app.cookie().await;
    let value = cookie.strip_prefix("cookie: ").unwrap();
    app.resolve(&format!("cookie: connect.sid=s%3Aforged.x; a=\"b; {value}")).await.expect(200);
    app.call("GET", "/v1/session", &["cookie: a=1", &cookie], "").await.expect(200);
}

#[tokio::test]
async fn a_session_slides_until_its_lifetime_ends() {
    let app = TestApp::start(&["--idle-timeout", "24h", "--lifetime", "72h"]).await;
    let cookie = app.cookie().await;
    for _ in 0..3 {
        app.pass(23 * HOUR);
        app.resolve(&cookie).await.expect(200);
    }
    app.pass(3 * HOUR - 60_000);
    app.resolve(&cookie).await.expect(200);
    app.pass(60_000);
    app.resolve(&cookie).await.problem(401, "no-session");
    app.touch(&cookie).await.problem(401, "no-session");
    app.merge(&cookie, "{}").await.problem(401, "no-session");
    app.regenerate(&cookie, "{}").await.problem(401, "no-session");
}

#[tokio::test]
async fn an_idle_session_expires() {
    let app = TestApp::start(&[]).await;
    let (kept, idle) = (app.cookie().await, app.cookie().await);
    app.pass(23 * HOUR);
    app.resolve(&kept).await.expect(200);
    app.pass(HOUR);
    app.resolve(&idle).await.problem(401, "no-session");
    app.resolve(&kept).await.expect(200);
}

#[tokio::test]
async fn touches_are_throttled() {
    for app in [TestApp::start(&[]).await, TestApp::start_on_redis(&[]).await] {
        let cookie = app.cookie().await;
        let first = app.look(&cookie).await.json();
        app.pass(59_000);
        let early = app.resolve(&cookie).await.expect(200);
        assert_eq!(early.json()["expires_at"], first["expires_at"]);
        assert!(early.header("set-cookie").is_none());
        app.pass(2_000);
        let looked = app.look(&cookie).await.expect(200);
        assert_eq!(looked.json()["touched_at"], first["touched_at"], "looking does not touch");
        let due = app.resolve(&cookie).await.expect(200);
        assert!(due.json()["expires_at"].as_str() > first["expires_at"].as_str());
        assert_eq!(due.cookie(), cookie, "the cookie's expiry moves, its value does not");
        assert_eq!(due.etag(), early.etag(), "times do not change the tag");
        assert_eq!(app.look(&cookie).await.json()["touched_at"], due.json()["touched_at"]);
        app.pass(1_000);
        let forced = app.call("GET", "/v1/session?touch=force", &[&cookie], "").await.expect(200);
        assert!(forced.json()["touched_at"].as_str() > due.json()["touched_at"].as_str());
        app.pass(1_000);
        let touched = app.touch(&cookie).await.expect(200);
        assert!(touched.json()["touched_at"].as_str() > forced.json()["touched_at"].as_str());
        assert!(touched.json()["set_cookie"].is_string());
    }
}

/// A session with a short idle timeout is touched after a tenth of it.
#[tokio::test]
async fn short_sessions_are_touched_in_time() {
    let app = TestApp::start(&[]).await;
    let cookie = app.issue(r#"{"user_id":"a","idle_timeout_ms":10000}"#).await.cookie();
    for _ in 0..5 {
        app.pass(9_000);
        app.resolve(&cookie).await.expect(200);
    }
    app.pass(10_000);
    app.resolve(&cookie).await.problem(401, "no-session");
}

#[tokio::test]
async fn head_answers_as_get_without_a_body() {
    let app = TestApp::start(&[]).await;
    let cookie = app.cookie().await;
    for path in ["/v1/session", "/livez", "/readyz", "/openapi.yaml"] {
        let get = app.call("GET", path, &[&cookie], "").await.expect(200);
        let head = app.call("HEAD", path, &[&cookie], "").await.expect(200);
        assert_eq!(head.header("content-length").unwrap(), get.body.len().to_string(), "{path}");
        assert!(head.body.is_empty());
    }
}

#[tokio::test]
async fn revoking_is_final_and_may_be_repeated() {
    for app in [TestApp::start(&[]).await, TestApp::start_on_redis(&[]).await] {
        let cookie = app.cookie().await;
        for header in [cookie.as_str(), &cookie, "x: y", "cookie: connect.sid=forged"] {
            let answer = app.revoke(header).await.expect(204);
            assert!(answer.set_cookie().starts_with("connect.sid=; Path=/; Max-Age=0; Expires=Thu, 01 Jan 1970"));
        }
        app.resolve(&cookie).await.problem(401, "no-session");
        app.merge(&cookie, r#"{"a":1}"#).await.problem(401, "no-session");
        app.touch(&cookie).await.problem(401, "no-session");
        app.resolve(&cookie).await.problem(401, "no-session");
    }
}

/// A record that Express made is read, extended, and left as it is to the byte; what cannot be read is said so.
#[tokio::test]
async fn a_session_that_express_made_is_resolved() {
    let app = TestApp::start_on_redis(&["--user-pointer", "/passport/user"]).await;
    let mut redis = app.redis.as_ref().unwrap().connection();
    let id = Id::parse("2ZxoG-lhTWsQgMKY2HSPYdMLI1Pe6pzi").unwrap();
    let key = format!("sess:{id}");
    let record = r#"{"cookie":{"originalMaxAge":60000,"expires":"2001-01-01T00:00:00.000Z","httpOnly":true,"path":"/"},"passport":{"user":"u1"},"n":1}"#;
    redis::cmd("SET").arg(&key).arg(record).arg("EX").arg(30).exec(&mut redis).unwrap();
    let session = app.resolve(&app.signed(&id)).await.expect(200).json();
    assert_eq!(session["user_id"], "u1");
    assert_eq!(session["data"], json!({"passport": {"user": "u1"}, "n": 1}));
    assert_eq!(session["created_at"], json!(null));
    assert_eq!(session["idle_timeout_ms"], 60_000);
    let (stored, pttl): (String, i64) =
        redis::pipe().cmd("GET").arg(&key).cmd("PTTL").arg(&key).query(&mut redis).unwrap();
    assert_eq!(stored, record);
    assert!(pttl > 50_000, "it was touched: {pttl}");
    let updated = app.merge(&app.signed(&id), r#"{"n":2}"#).await.expect(200);
    assert_eq!(updated.json()["data"]["n"], 2);
    let stored: String = redis::cmd("GET").arg(&key).query(&mut redis).unwrap();
    assert!(
        stored.starts_with(r#"{"cookie":{"originalMaxAge":60000,"expires":"20"#) && !stored.contains("sessiond"),
        "{stored}"
    );

    redis::cmd("SET").arg(&key).arg("not json").exec(&mut redis).unwrap();
    app.resolve(&app.signed(&id)).await.problem(422, "unreadable-session");
    let stored: String = redis::cmd("GET").arg(&key).query(&mut redis).unwrap();
    assert_eq!(stored, "not json");
}
