use serde_json::json;
use sessiond::session::{Change, Error, Id};
use tokio::task::JoinSet;

use crate::app::TestApp;
use crate::metrics::value;

#[tokio::test]
async fn data_is_merged_patched_and_replaced() {
    for app in [TestApp::start(&[]).await, TestApp::start_on_redis(&[]).await] {
        let cookie = app.cookie().await;
        let merged = app.merge(&cookie, r#"{"a":{"b":1,"c":null},"n":null}"#).await.expect(200);
        assert_eq!(merged.json()["data"], json!({"a": {"b": 1}}));
        assert_eq!(merged.cookie(), cookie);
        let patched = app
            .patch(&cookie, r#"[{"op":"test","path":"/a/b","value":1},{"op":"add","path":"/list","value":[1]}]"#)
            .await;
        assert_eq!(patched.expect(200).json()["data"], json!({"a": {"b": 1}, "list": [1]}));
        let replaced = app.replace(&cookie, r#"{"z":1,"y":[1.5,1e3,"\u00fc"]}"#).await.expect(200);
        assert_eq!(replaced.json()["data"], json!({"z": 1, "y": [1.5, 1000.0, "ü"]}));
        let resolved = app.resolve(&cookie).await;
        assert_eq!(resolved.json()["data"], replaced.json()["data"]);
        assert_eq!(resolved.json()["user_id"], "ada");
        assert_eq!(resolved.etag(), replaced.etag());
    }
}

#[tokio::test]
async fn if_match_is_the_callers_own_precondition() {
    let app = TestApp::start(&[]).await;
    let cookie = app.cookie().await;
    let etag = app.resolve(&cookie).await.etag();
    let put = async |tag: &str, data: &str| {
        app.call(
            "PUT",
            "/v1/session/data",
            &[&cookie, "content-type: application/json", &format!("if-match: {tag}")],
            data,
        )
        .await
    };
    let changed = put(&etag, r#"{"n":2}"#).await.expect(200);
    assert_ne!(changed.etag(), etag);
    put(&etag, r#"{"n":3}"#).await.problem(412, "precondition-failed");
    put(&format!("W/{}", changed.etag()), r#"{"n":3}"#).await.problem(412, "precondition-failed");
    put("", r#"{"n":3}"#).await.problem(412, "precondition-failed");
    assert_eq!(app.resolve(&cookie).await.json()["data"], json!({"n": 2}));
    put(&format!("\"other\", {}", changed.etag()), r#"{"n":3}"#).await.expect(200);
    put(&format!("\"x,*,y\", *, {}x", changed.etag()), r#"{"n":9}"#).await.problem(412, "precondition-failed");
    put("*", r#"{"n":4}"#).await.expect(200);
    let back = put("*", r#"{"n":1}"#).await.expect(200);
    assert_eq!(back.etag(), etag, "the tag is over user and data");
    app.revoke(&cookie).await;
    put("*", r#"{"n":5}"#).await.problem(401, "no-session");
}

#[tokio::test]
async fn a_wrong_update_changes_nothing() {
    let app = TestApp::start(&["--max-data-bytes", "1000"]).await;
    let cookie = app.cookie().await;
    let before = app.look(&cookie).await.json();
    app.merge(&cookie, r#"{"a":"#).await.problem(400, "malformed-json");
    app.merge(&cookie, "").await.problem(400, "malformed-json");
    app.merge(&cookie, "{} {}").await.problem(400, "malformed-json");
    app.merge(&cookie, "[1]").await.problem(422, "invalid-field");
    app.merge(&cookie, "null").await.problem(422, "invalid-field");
    app.merge(&cookie, r#"{"save":1}"#).await.problem_at(422, "reserved-name", "/save");
    app.merge(&cookie, &json!({ "a": "x".repeat(1000) }).to_string()).await.problem(422, "data-too-large");
    app.patch(&cookie, r#"[{"op":"remove","path":"/none"}]"#).await.problem(409, "patch-conflict");
    app.patch(&cookie, r#"[{"op":"nop","path":"/n"}]"#).await.problem(422, "invalid-field");
    app.patch(&cookie, r#"[{"op":"add","path":"n","value":1}]"#).await.problem(422, "invalid-field");
    app.patch(&cookie, r#"[["remove","/n"]]"#).await.problem_at(422, "invalid-field", "/0");
    app.patch(&cookie, r#"{"op":"add"}"#).await.problem(422, "invalid-field");
    app.patch(&cookie, r#"[{"op":"replace","path":"","value":[]}]"#).await.problem(409, "patch-conflict");
    app.replace(&cookie, "").await.problem(400, "malformed-json");
    app.replace(&cookie, "null").await.problem(422, "invalid-field");
    app.replace(&cookie, "[]").await.problem(422, "invalid-field");
    let error = app.replace(&cookie, "{\n  \"a\": x\n}").await.problem(400, "malformed-json").json();
    assert!(error["detail"].as_str().unwrap().contains("line 2 column"), "{error}");
    assert_eq!(app.look(&cookie).await.json(), before);
}

#[tokio::test]
async fn an_update_does_not_change_the_user() {
    let app = TestApp::start(&["--user-pointer", "/passport/user"]).await;
    let cookie = app.issue(r#"{"user_id":"ada","data":{"n":1}}"#).await.expect(201).cookie();
    assert_eq!(app.resolve(&cookie).await.json()["data"], json!({"n": 1, "passport": {"user": "ada"}}));
    app.merge(&cookie, r#"{"passport":{"user":"eve"}}"#).await.problem(422, "user-is-bound");
    app.merge(&cookie, r#"{"passport":null}"#).await.problem(422, "user-is-bound");
    app.replace(&cookie, "{}").await.problem(422, "user-is-bound");
    app.regenerate(&cookie, r#"{"data":{"passport":{"user":"eve"}}}"#).await.problem_at(422, "user-is-bound", "/data");
    app.merge(&cookie, r#"{"passport":{"strategy":"local"}}"#).await.expect(200);
    assert_eq!(app.resolve(&cookie).await.json()["user_id"], "ada");
    let out = app.regenerate(&cookie, r#"{"user_id":null,"keep_data":true}"#).await.expect(200);
    assert_eq!(out.json()["user_id"], json!(null));
    assert_eq!(out.json()["data"], json!({"n": 1, "passport": {"strategy": "local"}}));
}

#[tokio::test]
async fn every_write_keeps_to_if_match() {
    let app = TestApp::start(&[]).await;
    let cookie = app.cookie().await;
    let other = "if-match: \"other\"";
    for (method, path) in [("POST", "/v1/session/touch"), ("POST", "/v1/session/regenerate"), ("DELETE", "/v1/session")]
    {
        app.call(method, path, &[&cookie, other], "").await.problem(412, "precondition-failed");
    }
    let same = format!("if-match: {}", app.resolve(&cookie).await.expect(200).etag());
    app.call("POST", "/v1/session/touch", &[&cookie, &same], "").await.expect(200);
    let cookie = app.call("POST", "/v1/session/regenerate", &[&cookie, &same], "").await.expect(200).cookie();
    app.call("DELETE", "/v1/session", &[&cookie, &same], "").await.expect(204);
    app.call("DELETE", "/v1/session", &[&cookie, &same], "").await.expect(204);
}

/// A document that is nested into itself must not overflow the stack of whoever walks it.
#[tokio::test]
async fn a_patch_cannot_nest_without_end() {
    let app = TestApp::start(&[]).await;
    let cookie = app.issue(r#"{"data":{"a":[]}}"#).await.expect(201).cookie();
    let mut path = "/a".to_owned();
    let mut operations = Vec::new();
    for _ in 0..14 {
        operations.push(json!({"op": "copy", "from": "/a", "path": format!("{path}/-")}));
        path += &"/0".repeat(operations.len().pow(2));
    }
    let answer = app.patch(&cookie, &json!(operations).to_string()).await;
    assert!([409, 422].contains(&answer.status.as_u16()), "{answer:?}");
    let deeper: Vec<_> = (0..14)
        .map(|n| json!({"op": "copy", "from": "/a", "path": format!("/a{}/-", "/0".repeat((1 << n) - 1))}))
        .collect();
    app.patch(&cookie, &json!(deeper).to_string()).await.problem(422, "data-too-deep");
    app.resolve(&cookie).await.expect(200);
    // Nor keep a thread busy by copying much.
    let numbers: Vec<u32> = (0..15_000).map(|n| n % 10).collect();
    app.replace(&cookie, &json!({ "a": numbers }).to_string()).await.expect(200);
    let copies = vec![json!({"op": "copy", "from": "/a", "path": "/b"}); 1000];
    app.patch(&cookie, &json!(copies).to_string()).await.problem(422, "data-too-large");
}

const UPDATES: usize = 1000;
/// How many of them a slow machine makes before the others have waited for too long. When they all raced, it was about 100,
/// on any machine.
const MADE: usize = UPDATES / 2;

/// Merges as many fields into one session of 60 KB, all at once, in turns by these services. Gives back how many were, and
/// has seen that these are in it, and that whoever is not was told that nothing was changed.
async fn update_at_once(apps: &[&TestApp]) -> usize {
    let data = json!({"user_id": "ada", "data": {"large": vec!["0123456789"; 3700]}}).to_string();
    let issued = apps[0].issue(&data).await.expect(201);
    let id = Id::parse(issued.json()["id"].as_str().unwrap()).unwrap();
    let mut updates = JoinSet::new();
    for number in 0..UPDATES {
        let (sessions, id) = (apps[number % apps.len()].sessions.clone(), id.clone());
        updates.spawn(async move {
            let change = Change::Merge(json!({ format!("field{number}"): number }));
            (number, sessions.update(&id, &change, |_| true).await)
        });
    }
    let mut made = Vec::new();
    while let Some(update) = updates.join_next().await {
        match update.unwrap() {
            (number, Ok(session)) => drop((session.unwrap(), made.push(number))),
            (_, Err(Error::Contention)) => {}
            (_, Err(other)) => panic!("{other}"),
        }
    }
    let data = &apps[0].look(&issued.cookie()).await.expect(200).json()["data"];
    assert!(made.iter().all(|number| data[format!("field{number}")] == json!(number)), "an update is lost");
    assert_eq!(data.as_object().unwrap().len(), 1 + made.len(), "an update was made, and refused");
    made.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_updates_of_one_session_are_made_one_after_another() {
    for app in [TestApp::start(&[]).await, TestApp::start_on_redis(&[]).await] {
        let made = update_at_once(&[&app]).await;
        assert!(made >= MADE, "{made}");
        let finds = value(&app.metrics().await, r#"sessiond_store_calls_total{call="find",outcome="ok"}"#);
        // And this test's own.
        assert_eq!(finds, made as f64 + 1.0, "each reads once");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_updates_through_two_processes_race_in_pairs() {
    let app = TestApp::start_on_redis(&[]).await;
    let other = TestApp::beside(&app, &[]).await;
    let made = update_at_once(&[&app, &other]).await;
    assert!(made >= MADE, "{made}");
}
