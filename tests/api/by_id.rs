use serde_json::json;
use sessiond::id::Id;

use crate::app::TestApp;

#[tokio::test]
async fn a_session_is_worked_on_by_its_id() {
    for app in [TestApp::start(&[]).await, TestApp::start_on_redis(&[]).await] {
        let issued = app.issue(r#"{"user_id":"ada","data":{"n":1}}"#).await.expect(201);
        let path = format!("/v1/sessions/{}", issued.json()["id"].as_str().unwrap());
        let seen = app.call("GET", &path, &[], "").await.expect(200);
        assert_eq!(seen.etag(), issued.etag());
        assert_eq!(seen.json()["data"], json!({"n": 1}));
        let merge = "content-type: application/merge-patch+json";
        let data = format!("{path}/data");
        let changed = app.call("PATCH", &data, &[merge], r#"{"m":2}"#).await.expect(200);
        assert_eq!(changed.json()["data"], json!({"n": 1, "m": 2}));
        app.call("PATCH", &data, &[merge, "if-match: \"other\""], r#"{"m":3}"#)
            .await
            .problem(412, "precondition-failed");
        let replaced = app.call("PUT", &data, &["content-type: application/json"], r#"{"k":1}"#).await.expect(200);
        assert_eq!(replaced.json()["data"], json!({"k": 1}));
        app.pass(1000);
        let touched = app.call("POST", &format!("{path}/touch"), &[], "").await.expect(200);
        assert!(touched.json()["expires_at"].as_str() > issued.json()["expires_at"].as_str());
        for answer in [&seen, &changed, &replaced, &touched] {
            assert!(answer.header("set-cookie").is_none() && answer.json().get("set_cookie").is_none(), "{answer:?}");
        }
        let moved = app.call("POST", &format!("{path}/regenerate"), &[], "").await.expect(200);
        app.call("GET", &path, &[], "").await.problem(404, "no-session");
        app.resolve(&issued.cookie()).await.problem(401, "no-session");
        assert_eq!(app.resolve(&moved.cookie()).await.expect(200).json()["data"], json!({"k": 1}));
        let path = format!("/v1/sessions/{}", moved.json()["id"].as_str().unwrap());
        let ended = app.call("DELETE", &path, &[], "").await.expect(204);
        assert!(ended.header("set-cookie").is_none());
        app.call("DELETE", &path, &[], "").await.problem(404, "no-session");
        app.resolve(&moved.cookie()).await.problem(401, "no-session");
    }
}

#[tokio::test]
async fn looking_does_not_touch() {
    let app = TestApp::start(&["--idle-timeout", "10m"]).await;
    let issued = app.issue(r#"{"user_id":"ada"}"#).await.expect(201);
    let path = format!("/v1/sessions/{}", issued.json()["id"].as_str().unwrap());
    app.pass(599_000);
    let seen = app.call("GET", &path, &[], "").await.expect(200);
    assert_eq!(seen.json()["touched_at"], issued.json()["touched_at"]);
    app.pass(1_000);
    app.call("GET", &path, &[], "").await.problem(404, "no-session");
}

#[tokio::test]
async fn an_id_that_names_nothing_is_one_answer() {
    let app = TestApp::start(&[]).await;
    let cookie = app.cookie().await;
    let unknown = [Id::random().to_string(), "%00".into(), "x".repeat(257), "a%2Fb".into(), "%F0%9F%8D%AA".into()];
    for id in unknown {
        // The cookie does not stand in for an id that names nothing.
        let path = format!("/v1/sessions/{id}");
        for (method, path) in [("GET", path.clone()), ("DELETE", path.clone()), ("POST", path.clone() + "/touch")] {
            app.call(method, &path, &[&cookie], "").await.problem(404, "no-session");
        }
    }
    app.call("GET", "/v1/sessions/%FF", &[&cookie], "").await.problem(400, "invalid-path");
    app.call("DELETE", "/v1/sessions/%FF", &[&cookie], "").await.problem(400, "invalid-path");
    app.resolve(&cookie).await.expect(200);
}
