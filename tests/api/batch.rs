use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::app::{Answer, TestApp};

impl TestApp {
    pub(crate) async fn batch(&self, cookies: &[&str]) -> Answer {
        let body = json!({ "cookies": cookies }).to_string();
        self.call("POST", "/v1/sessions/resolve", &["content-type: application/json"], &body).await
    }
}

fn bare(cookie: &str) -> &str {
    cookie.split_once('=').unwrap().1
}

#[tokio::test]
async fn many_cookies_are_resolved_in_their_order() {
    for app in [TestApp::start(&[]).await, TestApp::start_on_redis(&[]).await] {
        let (first, second, ended) = (app.cookie().await, app.cookie().await, app.cookie().await);
        app.revoke(&ended).await.expect(204);
        let header = |cookie: &str| cookie.strip_prefix("cookie: ").unwrap().to_owned();
        let decoded = bare(&second).replace("%3A", ":").replace("%2B", "+").replace("%2F", "/");
        let forged = format!("{}x", &bare(&first)[..bare(&first).len() - 1]);
        let cookies = [
            &format!("theme=dark; {}", header(&first)),
            bare(&second),
            &decoded,
            &header(&ended),
            &forged,
            "",
            "nonsense",
            &header(&first),
            "connect.sid=",
        ];
        let answer = app.batch(&cookies).await.expect(200).json();
        assert_eq!(answer["unreadable"], json!([]));
        let ids: Vec<&Value> = answer["sessions"].as_array().unwrap().iter().map(|session| &session["id"]).collect();
        let (one, two) = (app.look(&first).await.json(), app.look(&second).await.json());
        let none = &json!(null);
        assert_eq!(ids, [&one["id"], &two["id"], &two["id"], none, none, none, none, &one["id"], none]);
        assert_eq!(answer["sessions"][0], one, "each as a resolve of its own shows it");
        assert_eq!(app.batch(&[]).await.expect(200).json()["sessions"], json!([]));
    }
}

#[tokio::test]
async fn a_batch_touches_as_single_resolves_do() {
    for app in [TestApp::start(&[]).await, TestApp::start_on_redis(&[]).await] {
        let mut cookies = Vec::new();
        for _ in 0..100 {
            cookies.push(bare(&app.cookie().await).to_owned());
        }
        let cookies: Vec<&str> = cookies.iter().map(String::as_str).collect();
        let before = app.batch(&cookies).await.expect(200).json();
        app.pass(61_000);
        let after = app.batch(&cookies).await.expect(200).json();
        let again = app.batch(&cookies).await.expect(200).json();
        for at in 0..cookies.len() {
            let at = |answer: &Value| answer["sessions"][at].clone();
            assert!(at(&before).get("set_cookie").is_none());
            assert!(at(&after)["expires_at"].as_str() > at(&before)["expires_at"].as_str());
            assert!(at(&after)["set_cookie"].as_str().unwrap().starts_with("connect.sid=s%3A"));
            assert_eq!(at(&again)["expires_at"], at(&after)["expires_at"]);
            assert!(at(&again).get("set_cookie").is_none());
        }
    }
}

#[tokio::test]
async fn a_record_that_cannot_be_read_spoils_no_other() {
    let app = TestApp::start_on_redis(&[]).await;
    let (broken, whole) = (app.cookie().await, app.cookie().await);
    let id = app.look(&broken).await.json()["id"].as_str().unwrap().to_owned();
    let mut connection = app.redis.as_ref().unwrap().connection();
    redis::cmd("SET").arg(format!("sess:{id}")).arg("\u{83}msgpack").arg("KEEPTTL").exec(&mut connection).unwrap();
    let answer = app.batch(&[bare(&broken), bare(&whole), bare(&broken)]).await.expect(200).json();
    assert_eq!(answer["unreadable"], json!([0, 2]));
    assert_eq!(answer["sessions"][0], json!(null));
    assert_eq!(answer["sessions"][1]["user_id"], "ada");
}

#[tokio::test]
async fn a_batch_has_limits() {
    let app = TestApp::start(&[]).await;
    app.batch(&vec!["x"; 1000]).await.expect(200);
    app.batch(&vec!["x"; 1001]).await.problem_at(422, "out-of-bounds", "/cookies");
    let long = "x".repeat(16 * 1024 + 1);
    app.batch(&["x", &long]).await.problem_at(422, "out-of-bounds", "/cookies/1");
    app.batch(&vec![&long[1..]; 300]).await.problem(413, "body-too-large");
    let wrong = |body| app.call("POST", "/v1/sessions/resolve", &["content-type: application/json"], body);
    wrong("{}").await.problem(422, "invalid-field");
    wrong("[]").await.problem(422, "invalid-field");
    wrong(r#"{"cookies":[1]}"#).await.problem_at(422, "invalid-field", "/cookies/0");
    wrong(r#"{"cookies":null}"#).await.problem_at(422, "invalid-field", "/cookies");
    wrong(r#"{"cookies":[],"x":1}"#).await.problem(422, "invalid-field");
}

/// Each candidate costs an HMAC for each secret, so one text may have eight; the others' results do not depend on it.
#[tokio::test]
async fn one_browsers_cookies_spoil_no_other_result() {
    let app = TestApp::start(&[]).await;
    let cookie = app.cookie().await;
    let good = cookie.strip_prefix("cookie: ").unwrap();
    let forged = format!("connect.sid=s%3Aid.{}", "x".repeat(43));
    let many = |cookie: &str, count: usize| vec![cookie; count].join("; ");
    // What has no signature costs nothing.
    let junk = format!("{}; {good}", many("connect.sid=x", 64));
    let (within, beyond) = (format!("{}; {good}", many(&forged, 7)), format!("{}; {good}", many(&forged, 8)));
    let mut cookies = vec![good; 10];
    (cookies[3], cookies[5], cookies[7]) = (&junk, &within, &beyond);
    let sessions = app.batch(&cookies).await.expect(200).json()["sessions"].take();
    for (position, session) in sessions.as_array().unwrap().iter().enumerate() {
        assert_eq!(session.is_null(), position == 7, "{position}: {session}");
    }
}

#[tokio::test]
async fn a_batch_of_many_candidates_lets_other_requests_go_on() {
    let secrets: Vec<String> = (0..16).map(|n| format!("secret {n} for tests of 32 bytes or more")).collect();
    let app = TestApp::start(&["--secret", &secrets.join(",")]).await;
    let forged = format!("connect.sid=s%3Aid.{}", "x".repeat(43));
    let two = [forged.as_str(); 2].join("; ");
    let all = vec![two.as_str(); 1000];
    let mut batch = std::pin::pin!(app.batch(&all));
    let first = futures_util::poll!(&mut batch);
    assert!(first.is_pending(), "32,000 HMACs in one go");
    batch.await.expect(200);
}

/// A batch takes memory for what it finds, not for the most that it could find: while the store is slow, many batches
/// wait for it, and not for each other.
#[tokio::test]
async fn many_small_batches_ask_the_store_at_once() {
    let app = TestApp::start_on_redis(&[]).await;
    let cookie = app.cookie().await;
    let cookies = vec![bare(&cookie); 256];
    app.redis.as_ref().unwrap().signal("-STOP");
    for answer in join_all((0..16).map(|_| app.batch(&cookies))).await {
        answer.problem(503, "store-unavailable");
    }
    let metrics = app.call("GET", "/metrics", &[], "").await.body;
    let name = "sessiond_store_call_duration_seconds_sum{call=\"find_many\"} ";
    let waited: f64 = metrics.lines().find_map(|line| line.strip_prefix(name)).unwrap().parse().unwrap();
    assert!(waited > 0.4 * 16.0, "all together waited for {waited} s");
}

#[tokio::test]
async fn a_batch_that_would_be_too_large_is_refused() {
    for app in [TestApp::start(&[]).await, TestApp::start_on_redis(&[]).await] {
        let large = format!(r#"{{"data":{{"a":"{}"}}}}"#, "x".repeat(60_000));
        let cookie = app.issue(&large).await.expect(201).cookie();
        app.batch(&vec![bare(&cookie); 200]).await.expect(200);
        app.batch(&vec![bare(&cookie); 300]).await.problem(413, "answer-too-large");
    }
}

#[tokio::test]
async fn a_batch_is_one_call_to_the_store() {
    let app = TestApp::start_on_redis(&[]).await;
    let mut cookies = Vec::new();
    for _ in 0..50 {
        cookies.push(bare(&app.cookie().await).to_owned());
    }
    let cookies: Vec<&str> = cookies.iter().map(String::as_str).collect();
    let calls = |text: &str| {
        let line =
            text.lines().find(|line| line.starts_with("sessiond_store_calls_total{call=\"find_many\",outcome=\"ok\"}"));
        line.unwrap().rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()
    };
    let metrics = || app.call("GET", "/metrics", &[], "");
    let before = calls(&metrics().await.body);
    app.batch(&cookies).await.expect(200);
    assert_eq!(calls(&metrics().await.body), before + 1);
}
