use serde_json::json;

use crate::app::TestApp;

#[tokio::test]
async fn a_session_is_issued_with_its_cookie() {
    for app in [TestApp::start(&[]).await, TestApp::start_on_redis(&[]).await] {
        let answer = app
            .issue(r#"{"user_id":"ada","data":{"theme":"dark"},"idle_timeout_ms":60000,"lifetime_ms":3600000,"client":{"ip":"::1","label":"phone"}}"#)
            .await
            .expect(201);
        let session = answer.json();
        assert_eq!(session["user_id"], "ada");
        assert_eq!(session["data"], json!({"theme": "dark"}));
        assert_eq!(session["idle_timeout_ms"], 60_000);
        assert_eq!(session["client"], json!({"ip": "::1", "label": "phone"}));
        assert_eq!(session["created_at"], session["touched_at"]);
        assert_eq!(session["set_cookie"], answer.set_cookie());
        assert!(answer.set_cookie().ends_with("; HttpOnly; Secure; SameSite=Lax"), "{}", answer.set_cookie());
        assert!(answer.set_cookie().contains("; Path=/; Expires="));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        let resolved = app.resolve(&answer.cookie()).await.expect(200);
        assert_eq!(resolved.etag(), answer.etag());
        let mut expected = session;
        expected.as_object_mut().unwrap().remove("set_cookie");
        assert_eq!(resolved.json(), expected);
    }
}

#[tokio::test]
async fn nothing_is_stored_for_nobody_with_nothing() {
    let app = TestApp::start_on_redis(&[]).await;
    for body in ["", "{}", r#"{"data":{}}"#, r#"{"user_id":null,"data":null,"client":{"ip":"::1"}}"#] {
        let answer = app.issue(body).await.expect(204);
        assert!(answer.header("set-cookie").is_none() && answer.body.is_empty());
    }
    let keys: i64 = redis::cmd("DBSIZE").query(&mut app.redis.as_ref().unwrap().connection()).unwrap();
    assert_eq!(keys, 0);
}

#[tokio::test]
async fn a_user_id_is_opaque_text() {
    let app = TestApp::start(&[]).await;
    for user_id in ["1", "ünï/cödé:*?", &"x".repeat(256), "\u{0}", "a\nb"] {
        let answer = app.issue(&json!({ "user_id": user_id }).to_string()).await.expect(201);
        assert_eq!(app.resolve(&answer.cookie()).await.json()["user_id"], user_id);
    }
    app.issue(&json!({ "user_id": "x".repeat(257) }).to_string()).await.problem_at(422, "invalid-user-id", "/user_id");
    app.issue(r#"{"user_id":""}"#).await.problem_at(422, "invalid-user-id", "/user_id");
}

#[tokio::test]
async fn what_an_issuer_may_ask_for_is_bounded() {
    let app = TestApp::start(&["--max-idle-timeout", "48h", "--max-lifetime", "60d"]).await;
    app.issue(r#"{"user_id":"a","idle_timeout_ms":172800000,"lifetime_ms":5184000000}"#).await.expect(201);
    app.issue(r#"{"user_id":"a","idle_timeout_ms":172800001}"#).await.problem_at(
        422,
        "out-of-bounds",
        "/idle_timeout_ms",
    );
    app.issue(r#"{"user_id":"a","idle_timeout_ms":999}"#).await.problem_at(422, "out-of-bounds", "/idle_timeout_ms");
    app.issue(r#"{"user_id":"a","lifetime_ms":5184000001}"#).await.problem_at(422, "out-of-bounds", "/lifetime_ms");
    let long = json!({ "user_id": "a", "client": { "user_agent": "x".repeat(1025) } }).to_string();
    app.issue(&long).await.problem_at(422, "out-of-bounds", "/client/user_agent");
}

#[tokio::test]
async fn data_keeps_the_rules_of_express() {
    let app = TestApp::start(&["--max-data-bytes", "100"]).await;
    app.issue(r#"{"data":{"toString":1}}"#).await.problem_at(422, "reserved-name", "/data/toString");
    app.issue(r#"{"data":{"cookie":1}}"#).await.problem_at(422, "reserved-name", "/data/cookie");
    app.issue(&json!({ "data": { "a": "x".repeat(100) } }).to_string()).await.problem_at(
        422,
        "data-too-large",
        "/data",
    );
    let deep = format!(r#"{{"data":{}1{}}}"#, r#"{"a":"#.repeat(65), "}".repeat(65));
    app.issue(&deep).await.problem_at(422, "data-too-deep", "/data");
    app.issue(r#"{"data":[1]}"#).await.problem_at(422, "invalid-field", "/data");
    app.issue(r#"{"userid":"ada"}"#).await.problem(422, "invalid-field");
    app.issue(r#"{"user_id":7}"#).await.problem_at(422, "invalid-field", "/user_id");
    app.issue(r#"["ada",null,null,null,null]"#).await.problem(422, "invalid-field");
    app.issue(r#"{"client":["::1"]}"#).await.problem_at(422, "invalid-field", "/client");
    app.issue(r#"{"idle_timeout_ms":1000.5}"#).await.problem_at(422, "invalid-field", "/idle_timeout_ms");
    app.issue(r#"{"user_id":"a","idle_timeout_ms":1e4,"lifetime_ms":10000.0}"#).await.expect(201);
    app.issue(r#"{"client":{"ip":[]}}"#).await.problem_at(422, "invalid-field", "/client/ip");
}

/// Also when there is nothing to store yet.
#[tokio::test]
async fn spans_out_of_bounds_are_refused_in_any_case() {
    let app = TestApp::start(&[]).await;
    app.issue(r#"{"lifetime_ms":0}"#).await.problem_at(422, "out-of-bounds", "/lifetime_ms");
    app.issue(r#"{"idle_timeout_ms":-1}"#).await.problem_at(422, "out-of-bounds", "/idle_timeout_ms");
    app.issue(r#"{"lifetime_ms":5000}"#).await.expect(204);
}
