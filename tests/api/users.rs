use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::app::{Answer, TestApp};

const HOUR: i64 = 3_600_000;

impl TestApp {
    async fn list(&self, user: &str, query: &str) -> Answer {
        self.call("GET", &format!("/v1/users/{user}/sessions{query}"), &[], "").await
    }
}

fn ids(page: &Value) -> Vec<String> {
    page["sessions"].as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_users_sessions_are_listed_page_by_page() {
    for app in [TestApp::start(&[]).await, TestApp::start_on_redis(&[]).await] {
        assert_eq!(app.list("ada", "").await.expect(200).json(), json!({"sessions": [], "next_cursor": null}));
        let mut issued = Vec::new();
        for n in 0..7 {
            let body = format!(r#"{{"user_id":"ada","data":{{"n":{n}}},"client":{{"label":"device {n}"}}}}"#);
            issued.push(app.issue(&body).await.expect(201).json()["id"].as_str().unwrap().to_owned());
            app.pass(1000);
        }
        app.issue(r#"{"user_id":"bob"}"#).await.expect(201);
        let (mut seen, mut cursor, mut pages) = (Vec::new(), String::new(), 0);
        loop {
            let page = app.list("ada", &format!("?limit=3&current={}{cursor}", issued[4])).await.expect(200).json();
            for row in page["sessions"].as_array().unwrap() {
                assert_eq!(row["current"], row["id"] == issued[4].as_str());
                assert!(row.get("data").is_none());
                assert!(row["client"]["label"].as_str().unwrap().starts_with("device "));
                assert!(row["created_at"].as_str() < row["expires_at"].as_str());
                assert_eq!(row["created_at"], row["touched_at"]);
            }
            seen.extend(ids(&page));
            pages += 1;
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        issued.reverse();
        assert_eq!(seen, issued, "the newest first, each once");
        assert_eq!(pages, 3);
    }
}

#[tokio::test]
async fn logging_out_everywhere_and_everywhere_else() {
    for app in [TestApp::start(&[]).await, TestApp::start_on_redis(&[]).await] {
        let (mine, other, bobs) =
            (app.cookie().await, app.cookie().await, app.issue(r#"{"user_id":"bob"}"#).await.cookie());
        let id = app.resolve(&mine).await.json()["id"].as_str().unwrap().to_owned();
        let everywhere_else = format!("/v1/users/ada/sessions?except={id}");
        assert_eq!(app.call("DELETE", &everywhere_else, &[], "").await.expect(200).json(), json!({"revoked": 1}));
        app.resolve(&mine).await.expect(200);
        app.resolve(&other).await.problem(401, "no-session");
        assert_eq!(app.call("DELETE", &everywhere_else, &[], "").await.expect(200).json(), json!({"revoked": 0}));
        let everywhere = app.call("DELETE", "/v1/users/ada/sessions", &[], "").await.expect(200);
        assert_eq!(everywhere.json(), json!({"revoked": 1}));
        app.resolve(&mine).await.problem(401, "no-session");
        app.resolve(&bobs).await.expect(200);
    }
}

#[tokio::test]
async fn any_text_is_a_user() {
    for app in [TestApp::start(&[]).await, TestApp::start_on_redis(&[]).await] {
        let users =
            ["a/b", "a b", "a:b*?[", "ä€🍪", "%2F", "..", "\u{1}\n", "'\"\\;--", &"x".repeat(256), &"ä".repeat(128)];
        for user in users {
            let issued = app.issue(&json!({ "user_id": user }).to_string()).await.expect(201);
            let encoded: String = user.bytes().map(|byte| format!("%{byte:02X}")).collect();
            let page = app.list(&encoded, "").await.expect(200).json();
            assert_eq!(ids(&page), [issued.json()["id"].as_str().unwrap()], "{user}");
            let ended = app.call("DELETE", &format!("/v1/users/{encoded}/sessions"), &[], "").await.expect(200);
            assert_eq!(ended.json(), json!({"revoked": 1}), "{user}");
        }
    }
}

#[tokio::test]
async fn wrong_questions_are_refused() {
    let app = TestApp::start(&[]).await;
    for query in ["?limit=0", "?limit=1001", "?limit=x", "?cursor=x", "?cursor=MTIz", "?cursor=%00"] {
        app.list("ada", query).await.problem(400, "invalid-query");
    }
    app.list(&"x".repeat(257), "").await.problem(400, "invalid-user-id");
    app.list("%FF", "").await.problem(400, "invalid-path");
    app.call("DELETE", "/v1/users/ada/sessions?except=", &[], "").await.problem(400, "invalid-query");
    app.list("ada", "?limit=1000").await.expect(200);
}

/// The index never forgets a live session.
#[tokio::test]
async fn a_session_that_is_kept_alive_by_touches_stays_listed() {
    for app in [
        TestApp::start(&["--idle-timeout", "1h", "--lifetime", "30d"]).await,
        TestApp::start_on_redis(&["--idle-timeout", "1h", "--lifetime", "30d"]).await,
    ] {
        let (resolved, touched) = (app.cookie().await, app.cookie().await);
        let dead = app.cookie().await;
        for _ in 0..12 {
            app.pass(HOUR * 9 / 10);
            app.resolve(&resolved).await.expect(200);
            app.touch(&touched).await.expect(200);
        }
        app.resolve(&dead).await.problem(401, "no-session");
        let page = app.list("ada", "").await.expect(200).json();
        assert_eq!(ids(&page).len(), 2);
        let ended = app.call("DELETE", "/v1/users/ada/sessions", &[], "").await.expect(200);
        assert_eq!(ended.json(), json!({"revoked": 2}));
    }
}

#[tokio::test]
async fn a_user_has_only_so_many_sessions() {
    for on_limit in ["evict-oldest", "evict-idle"] {
        let flags = ["--max-sessions-per-user", "3", "--on-limit", on_limit];
        for app in [TestApp::start(&flags).await, TestApp::start_on_redis(&flags).await] {
            let first = app.cookie().await;
            app.pass(1000);
            let second = app.cookie().await;
            app.pass(1000);
            let third = app.cookie().await;
            app.pass(1000);
            app.touch(&first).await.expect(200);
            // Logged out by its cookie: the index learns of it only when it is listed.
            app.revoke(&third).await.expect(204);
            let fourth = app.cookie().await;
            for cookie in [&first, &second, &fourth] {
                app.look(cookie).await.expect(200);
            }
            app.pass(1000);
            let fifth = app.cookie().await;
            let (gone, stays) = if on_limit == "evict-oldest" { (&first, &second) } else { (&second, &first) };
            app.look(gone).await.problem(401, "no-session");
            // Who is logged in already takes no place more; who logs in does.
            let moved = app.regenerate(stays, r#"{"user_id":"ada"}"#).await.expect(200).cookie();
            for cookie in [&moved, &fourth, &fifth] {
                app.look(cookie).await.expect(200);
            }
            let visitor = app.issue(r#"{"data":{"n":1}}"#).await.cookie();
            let login = app.regenerate(&visitor, r#"{"user_id":"ada"}"#).await.expect(200);
            let alive = BTreeSet::from_iter(ids(&app.list("ada", "").await.json()));
            assert_eq!(alive.len(), 3);
            assert!(alive.contains(login.json()["id"].as_str().unwrap()));
            app.issue(r#"{"user_id":"bob"}"#).await.expect(201);
        }
    }
}

#[tokio::test]
async fn a_limit_that_rejects_says_so() {
    let flags = ["--max-sessions-per-user", "1", "--on-limit", "reject"];
    for app in [TestApp::start(&flags).await, TestApp::start_on_redis(&flags).await] {
        let only = app.cookie().await;
        app.issue(r#"{"user_id":"ada"}"#).await.problem(409, "too-many-sessions");
        let visitor = app.issue(r#"{"data":{"n":1}}"#).await.cookie();
        app.regenerate(&visitor, r#"{"user_id":"ada"}"#).await.problem(409, "too-many-sessions");
        app.resolve(&visitor).await.expect(200);
        app.revoke(&only).await.expect(204);
        app.regenerate(&visitor, r#"{"user_id":"ada"}"#).await.expect(200);
    }
}

/// A limit that was lowered holds from the next issue on.
#[tokio::test]
async fn a_lower_limit_ends_all_that_are_too_many() {
    let app = TestApp::start(&[]).await;
    for _ in 0..10 {
        app.cookie().await;
    }
    let lower = TestApp::beside(&app, &["--max-sessions-per-user", "4"]).await;
    lower.cookie().await;
    assert_eq!(ids(&lower.list("ada", "").await.json()).len(), 4);
}
