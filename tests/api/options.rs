//! Express's options, each with its flag.

use serde_json::json;

use crate::app::TestApp;

const LONG: &str = "an old secret for tests of 32 bytes or more";

#[tokio::test]
async fn save_uninitialized() {
    let app = TestApp::start(&["--save-uninitialized", "true"]).await;
    let answer = app.issue("").await.expect(201);
    assert_eq!(app.resolve(&answer.cookie()).await.expect(200).json()["data"], json!({}));
}

/// By default an update that changes nothing writes nothing; only a touch that is due.
#[tokio::test]
async fn resave() {
    let quiet = TestApp::start(&[]).await;
    let cookie = quiet.cookie().await;
    let first = quiet.look(&cookie).await.json();
    quiet.pass(30_000);
    assert!(quiet.merge(&cookie, r#"{"n":1}"#).await.expect(200).header("set-cookie").is_none());
    assert_eq!(quiet.look(&cookie).await.json(), first);
    quiet.pass(31_000);
    quiet.merge(&cookie, r#"{"n":1}"#).await.expect(200);
    assert_ne!(quiet.look(&cookie).await.json()["touched_at"], first["touched_at"]);

    let eager = TestApp::start(&["--resave", "true"]).await;
    let cookie = eager.cookie().await;
    let first = eager.look(&cookie).await.json();
    eager.pass(1_000);
    eager.merge(&cookie, r#"{"n":1}"#).await.expect(200).set_cookie();
    assert_ne!(eager.look(&cookie).await.json()["touched_at"], first["touched_at"]);
}

#[tokio::test]
async fn rolling() {
    let app = TestApp::start(&["--rolling", "false"]).await;
    let cookie = app.cookie().await;
    app.pass(120_000);
    let touched = app.touch(&cookie).await.expect(200);
    assert!(touched.header("set-cookie").is_none(), "the store's expiry moves, the cookie's does not");
    assert!(touched.json().get("set_cookie").is_none());
    app.merge(&cookie, r#"{"n":2}"#).await.expect(200).set_cookie();
}

#[tokio::test]
async fn max_age_is_the_idle_timeout_in_ms() {
    let app = TestApp::start_on_redis(&["--idle-timeout", "90000"]).await;
    let answer = app.issue(r#"{"user_id":"ada"}"#).await.expect(201);
    assert_eq!(answer.json()["idle_timeout_ms"], 90_000);
    let key = format!("sess:{}", answer.json()["id"].as_str().unwrap());
    let mut redis = app.redis.as_ref().unwrap().connection();
    let (record, pttl): (String, i64) =
        redis::pipe().cmd("GET").arg(&key).cmd("PTTL").arg(&key).query(&mut redis).unwrap();
    assert!(record.starts_with(r#"{"cookie":{"originalMaxAge":90000,"expires":"2"#), "{record}");
    assert!((85_000..=90_000).contains(&pttl));
}

#[tokio::test]
async fn browser_session() {
    let app = TestApp::start_on_redis(&["--browser-session", "true"]).await;
    let answer = app.issue(r#"{"user_id":"ada"}"#).await.expect(201);
    assert!(!answer.set_cookie().contains("Expires"), "{}", answer.set_cookie());
    let key = format!("sess:{}", answer.json()["id"].as_str().unwrap());
    let mut redis = app.redis.as_ref().unwrap().connection();
    let (record, pttl): (String, i64) =
        redis::pipe().cmd("GET").arg(&key).cmd("PTTL").arg(&key).query(&mut redis).unwrap();
    assert!(record.starts_with(r#"{"cookie":{"originalMaxAge":null,"expires":null,"#), "{record}");
    assert!(pttl > 86_000_000, "the idle timeout holds all the same");
    // What the record says counts, not how the service is configured now: Express's "remember me" that was not ticked.
    let persistent = TestApp::beside(&app, &["--browser-session", "false"]).await;
    for cookie in [persistent.touch(&answer.cookie()).await, persistent.merge(&answer.cookie(), r#"{"a":1}"#).await] {
        assert!(!cookie.expect(200).set_cookie().contains("Expires"));
    }
    let again = persistent.regenerate(&answer.cookie(), "").await.expect(200);
    assert!(!again.set_cookie().contains("Expires"));
    let answer = again;
    app.pass(61_000);
    assert!(!app.resolve(&answer.cookie()).await.expect(200).set_cookie().contains("Expires"));
}

#[tokio::test]
async fn secrets_rotate() {
    let old = TestApp::start(&["--secret", LONG]).await;
    let cookie = old.cookie().await;
    let both =
        TestApp::beside(&old, &["--secret", "the new secret for tests of 32 bytes or more", "--secret", LONG]).await;
    assert!(both.resolve(&cookie).await.expect(200).header("set-cookie").is_none(), "a plain read signs nothing anew");
    let touched = both.touch(&cookie).await.expect(200);
    assert_ne!(touched.cookie(), cookie, "signed with the new secret when next set");
    let new = TestApp::beside(&old, &["--secret", "the new secret for tests of 32 bytes or more"]).await;
    new.resolve(&cookie).await.problem(401, "no-session");
    new.resolve(&touched.cookie()).await.expect(200);
}

#[tokio::test]
async fn the_cookies_attributes() {
    let app = TestApp::start(&[
        "--cookie-name",
        "sid",
        "--cookie-domain",
        "example.com",
        "--cookie-path",
        "/app",
        "--cookie-http-only",
        "false",
        "--cookie-same-site",
        "none",
        "--cookie-partitioned",
        "true",
        "--cookie-priority",
        "high",
    ])
    .await;
    let answer = app.issue(r#"{"user_id":"ada"}"#).await.expect(201);
    let cookie = answer.set_cookie();
    assert!(cookie.starts_with("sid=s%3A") && cookie.contains("; Domain=example.com; Path=/app; Expires="), "{cookie}");
    assert!(cookie.ends_with(" GMT; Secure; Partitioned; Priority=High; SameSite=None"), "{cookie}");
    app.resolve(&answer.cookie()).await.expect(200);
    let cleared = app.revoke(&answer.cookie()).await.expect(204);
    assert!(cleared.set_cookie().ends_with("; Secure; Partitioned; Priority=High; SameSite=None"));
    let plain = TestApp::start(&["--cookie-secure", "false", "--cookie-same-site", "strict"]).await;
    assert!(plain.issue(r#"{"user_id":"a"}"#).await.set_cookie().ends_with("GMT; HttpOnly; SameSite=Strict"));
}

#[tokio::test]
async fn key_prefix() {
    let app = TestApp::start_on_redis(&["--key-prefix", "app:"]).await;
    app.cookie().await;
    let mut keys: Vec<String> =
        redis::cmd("KEYS").arg("*").query(&mut app.redis.as_ref().unwrap().connection()).unwrap();
    keys.sort();
    assert!(keys.len() == 2 && keys[0] == "app-user:ada" && keys[1].starts_with("app:"), "{keys:?}");
}
