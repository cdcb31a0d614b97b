use serde_json::json;

use crate::app::TestApp;

#[tokio::test]
async fn a_login_gets_a_new_id_and_keeps_the_data() {
    for app in [TestApp::start(&[]).await, TestApp::start_on_redis(&[]).await] {
        let before = app.issue(r#"{"data":{"cart":[1],"n":1},"client":{"label":"phone"}}"#).await.expect(201);
        app.pass(5_000);
        let after =
            app.regenerate(&before.cookie(), r#"{"user_id":"ada","data":{"n":null,"seen":true}}"#).await.expect(200);
        assert_ne!(after.json()["id"], before.json()["id"]);
        assert_eq!(after.json()["user_id"], "ada");
        assert_eq!(after.json()["data"], json!({"cart": [1], "seen": true}));
        assert_eq!(after.json()["client"], json!({"label": "phone"}));
        assert_eq!(after.json()["set_cookie"], after.set_cookie());
        assert!(after.json()["created_at"].as_str() > before.json()["created_at"].as_str(), "the lifetime begins anew");
        app.resolve(&before.cookie()).await.problem(401, "no-session");
        app.regenerate(&before.cookie(), "{}").await.problem(401, "no-session");
        assert_eq!(app.resolve(&after.cookie()).await.expect(200).etag(), after.etag());
    }
}

#[tokio::test]
async fn without_a_login_the_lifetime_goes_on() {
    let app = TestApp::start(&["--lifetime", "10h"]).await;
    let first = app.issue(r#"{"user_id":"ada"}"#).await;
    app.pass(60_000);
    let second = app.regenerate(&first.cookie(), "").await.expect(200);
    for field in ["created_at", "lifetime_ends_at", "user_id", "data"] {
        assert_eq!(second.json()[field], first.json()[field], "{field}");
    }
    let longer =
        app.regenerate(&second.cookie(), r#"{"lifetime_ms":40000000,"idle_timeout_ms":5000}"#).await.expect(200);
    assert!(longer.json()["lifetime_ends_at"].as_str() > first.json()["lifetime_ends_at"].as_str());
    assert_eq!(longer.json()["idle_timeout_ms"], 5000);
    assert_eq!(longer.json()["created_at"], first.json()["created_at"]);
    let anonymous = app.regenerate(&longer.cookie(), r#"{"user_id":null}"#).await.expect(200);
    assert_eq!(anonymous.json()["user_id"], json!(null));
}

#[tokio::test]
async fn a_wrong_regenerate_leaves_the_old_session() {
    let app = TestApp::start(&[]).await;
    let cookie = app.cookie().await;
    app.regenerate(&cookie, r#"{"user_id":""}"#).await.problem_at(422, "invalid-user-id", "/user_id");
    app.regenerate(&cookie, r#"{"data":{"reload":1}}"#).await.problem_at(422, "reserved-name", "/data/reload");
    app.regenerate(&cookie, r#"{"idle_timeout_ms":1}"#).await.problem_at(422, "out-of-bounds", "/idle_timeout_ms");
    app.regenerate(&cookie, "{").await.problem(400, "malformed-json");
    app.resolve(&cookie).await.expect(200);
}
