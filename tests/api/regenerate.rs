use serde_json::json;
use sessiond::id::Id;

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

/// What an issue gives a session when it names nothing.
const IDLE_TIMEOUT: i64 = 86_400_000;
const OF_ADA: &str = r#"{"user_id":"ada","data":{"cart":[1],"n":1},"client":{"label":"Ada's phone"},"idle_timeout_ms":2592000000,"lifetime_ms":5184000000}"#;

#[tokio::test]
async fn another_user_gets_nothing_of_the_first_users() {
    for app in [TestApp::start(&[]).await, TestApp::start_on_redis(&[]).await] {
        for user in ["\"bob\"", "null"] {
            let before = app.issue(OF_ADA).await.expect(201);
            app.pass(5_000);
            let after = app.regenerate(&before.cookie(), &format!(r#"{{"user_id":{user}}}"#)).await.expect(200);
            assert_eq!(after.json()["user_id"].to_string(), user);
            assert_eq!(after.json()["data"], json!({}), "{user}");
            assert_eq!(after.json()["client"], json!(null), "{user}");
            assert_eq!(after.json()["idle_timeout_ms"], IDLE_TIMEOUT, "{user}");
            assert!(after.json()["created_at"].as_str() > before.json()["created_at"].as_str(), "{user}");
            assert!(after.json()["lifetime_ends_at"].as_str() < before.json()["lifetime_ends_at"].as_str(), "{user}");
            app.resolve(&before.cookie()).await.problem(401, "no-session");
            assert_eq!(app.resolve(&after.cookie()).await.expect(200).etag(), after.etag());
        }
    }
}

#[tokio::test]
async fn what_is_given_to_another_user_is_theirs() {
    let app = TestApp::start(&[]).await;
    let before = app.issue(OF_ADA).await.expect(201);
    let wanted = r#"{"user_id":"bob","data":{"n":null,"seen":true},"client":{"label":"Bob's phone"},"idle_timeout_ms":5000,"lifetime_ms":6000}"#;
    let after = app.regenerate(&before.cookie(), wanted).await.expect(200).json();
    assert_eq!(after["data"], json!({"seen": true}), "the patch is merged into no data");
    assert_eq!(after["client"], json!({"label": "Bob's phone"}));
    assert_eq!(after["idle_timeout_ms"], 5000);
    let kept = app.issue(OF_ADA).await.expect(201);
    let wanted = r#"{"user_id":"bob","keep_data":true,"data":{"n":null,"seen":true}}"#;
    let after = app.regenerate(&kept.cookie(), wanted).await.expect(200).json();
    assert_eq!(after["data"], json!({"cart": [1], "seen": true}));
    assert_eq!((&after["client"], &after["idle_timeout_ms"]), (&json!(null), &json!(IDLE_TIMEOUT)), "data only");
    let kept = app.issue(OF_ADA).await.expect(201);
    let after = app.regenerate(&kept.cookie(), r#"{"user_id":null,"keep_data":true}"#).await.expect(200).json();
    assert_eq!((&after["user_id"], &after["data"]), (&json!(null), &json!({"cart": [1], "n": 1})));
    app.regenerate(&app.cookie().await, r#"{"keep_data":1}"#).await.problem_at(422, "invalid-field", "/keep_data");
}

#[tokio::test]
async fn the_same_user_keeps_everything() {
    let app = TestApp::start(&[]).await;
    for keep in ["", r#","keep_data":false"#, r#","keep_data":true"#] {
        // Without a user, and with the one that it has: a login once more.
        for user in [r#""client":null"#, r#""user_id":"ada""#] {
            let before = app.issue(OF_ADA).await.expect(201);
            let after = app.regenerate(&before.cookie(), &format!("{{{user}{keep}}}")).await.expect(200);
            for field in ["user_id", "data", "client", "idle_timeout_ms"] {
                assert_eq!(after.json()[field], before.json()[field], "{field} {user} {keep}");
            }
        }
        let visitor = app.issue(r#"{"data":{"cart":[1]},"idle_timeout_ms":5000}"#).await.expect(201);
        let login = app.regenerate(&visitor.cookie(), &format!(r#"{{"user_id":"ada"{keep}}}"#)).await.expect(200);
        assert_eq!(login.json()["data"], json!({"cart": [1]}), "a login keeps what nobody's session held {keep}");
        assert_eq!(login.json()["idle_timeout_ms"], 5000);
    }
}

/// An application keeps the user in the data, where the pointer leads, and its data may be nothing that this service can change.
#[tokio::test]
async fn what_an_application_keeps_of_its_user_goes_with_them() {
    const OF_EXPRESS: &str = r#"{"cookie":{"originalMaxAge":2592000000,"expires":"2026-11-23T00:59:40.896Z","httpOnly":true,"path":"/"},"sessiond":{"created_at":1,"touched_at":2,"lifetime_ends_at":4000000000000,"idle_timeout_ms":5,"user_id":"eve"},"half":"\ud800","passport":{"user":"ada","roles":["admin"]}}"#;
    let app = TestApp::start_on_redis(&["--user-pointer", "/passport/user", "--browser-session", "true"]).await;
    let mut redis = app.redis.as_ref().unwrap().connection();
    for (number, (wanted, data)) in [
        (r#"{"user_id":"bob"}"#, json!({"passport": {"user": "bob"}})),
        (r#"{"user_id":"bob","data":{"passport":{"user":"eve"},"n":1}}"#, json!({"passport": {"user": "bob"}, "n": 1})),
        (r#"{"user_id":null}"#, json!({})),
    ]
    .into_iter()
    .enumerate()
    {
        let id = Id::parse(format!("express{number}")).unwrap();
        redis::cmd("SET").arg(format!("sess:{id}")).arg(OF_EXPRESS).arg("PX").arg(60_000).exec(&mut redis).unwrap();
        let before = app.look(&app.signed(&id)).await.expect(200).body;
        assert!(before.contains(r#""user_id":"ada""#), "{before}");
        let after = app.regenerate(&app.signed(&id), wanted).await.expect(200);
        assert_eq!(after.json()["data"], data, "{wanted}");
        assert_eq!(after.json()["idle_timeout_ms"], IDLE_TIMEOUT, "{wanted}");
        assert!(!after.set_cookie().contains("Expires"), "\"remember me\" was the first user's: {wanted}");
        let key = format!("sess:{}", after.json()["id"].as_str().unwrap());
        let record: String = redis::cmd("GET").arg(key).query(&mut redis).unwrap();
        assert!(!record.contains("ada") && !record.contains("eve"), "{record}");
    }
    // To be kept it has to be read.
    let id = Id::parse("express").unwrap();
    redis::cmd("SET").arg("sess:express").arg(OF_EXPRESS).arg("PX").arg(60_000).exec(&mut redis).unwrap();
    let kept = r#"{"user_id":"bob","keep_data":true}"#;
    app.regenerate(&app.signed(&id), kept).await.problem(422, "unreadable-session");
}
