//! The near-cache, as callers see it.

use std::time::Duration;

use crate::app::{Answer, TestApp};

const CACHE: &[&str] = &["--cache", "16MiB", "--max-staleness", "60s"];
const HIT: &str = "sessiond; hit";
const MISS: &str = "sessiond; fwd=miss";

fn status(answer: &Answer) -> &str {
    answer.header("cache-status").expect("a Cache-Status header")
}

/// A service whose near-cache has begun to work, and the Cookie header of a session that is in it.
async fn started(flags: &[&str]) -> (TestApp, String) {
    let app = TestApp::start(&[CACHE, flags].concat()).await;
    let cookie = app.cookie().await;
    kept(&app, &cookie).await;
    (app, cookie)
}

/// Resolves until the answer comes from the near-cache.
async fn kept(app: &TestApp, cookie: &str) -> Answer {
    loop {
        let answer = app.resolve(cookie).await.expect(200);
        if status(&answer) == HIT {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_kept_answer_is_the_answer() {
    let (app, cookie) = started(&[]).await;
    let asked = app.call("GET", "/v1/session", &[&cookie, "cache-control: no-cache"], "").await.expect(200);
    let kept = app.resolve(&cookie).await.expect(200);
    assert_eq!((status(&asked), status(&kept)), ("sessiond; fwd=request", HIT));
    assert_eq!((&asked.body, asked.etag()), (&kept.body, kept.etag()));
    assert_eq!((asked.header("age"), kept.header("age")), (None, Some("0")));
    for name in ["content-type", "cache-control", "x-content-type-options"] {
        assert_eq!(asked.header(name), kept.header(name));
    }
    app.pass(5_500);
    assert_eq!(app.resolve(&cookie).await.header("age"), Some("5"));
    // The machine's clock has been set back.
    app.step(-20_000);
    assert_eq!(app.resolve(&cookie).await.header("age"), Some("5"), "it is as old as before");
}

#[tokio::test]
async fn without_a_cache_nothing_is_said_of_one() {
    let app = TestApp::start(&[]).await;
    let cookie = app.cookie().await;
    for _ in 0..2 {
        let answer = app.resolve(&cookie).await.expect(200);
        assert_eq!((answer.header("cache-status"), answer.header("age")), (None, None));
    }
}

#[tokio::test]
async fn every_change_is_seen_at_once() {
    let (app, cookie) = started(&[]).await;
    app.merge(&cookie, r#"{"n":2}"#).await.expect(200);
    assert_eq!(app.resolve(&cookie).await.json()["data"]["n"], 2);
    kept(&app, &cookie).await;
    app.replace(&cookie, r#"{"n":3}"#).await.expect(200);
    assert_eq!(app.resolve(&cookie).await.json()["data"]["n"], 3);
    kept(&app, &cookie).await;
    let regenerated = app.regenerate(&cookie, "{}").await.expect(200).cookie();
    app.resolve(&cookie).await.problem(401, "no-session");
    kept(&app, &regenerated).await;
    app.revoke(&regenerated).await.expect(204);
    app.resolve(&regenerated).await.problem(401, "no-session");
    let last = app.cookie().await;
    kept(&app, &last).await;
    app.call("DELETE", "/v1/users/ada/sessions", &[], "").await.expect(200);
    app.resolve(&last).await.problem(401, "no-session");
}

#[tokio::test]
async fn a_kept_answer_ends_with_its_session() {
    let (app, cookie) = started(&["--idle-timeout", "1h", "--lifetime", "90m", "--touch-after", "1h"]).await;
    app.pass(59 * 60_000);
    assert_eq!(status(&app.look(&cookie).await.expect(200)), HIT);
    // Express ends a session by whole seconds: in the last one the store is asked.
    app.pass(59_500);
    assert_eq!(status(&app.look(&cookie).await.expect(200)), MISS);
    app.pass(500);
    app.look(&cookie).await.problem(401, "no-session");
    // A touch moves the idle timeout, and not the lifetime.
    let cookie = app.cookie().await;
    app.pass(45 * 60_000);
    app.resolve(&cookie).await.expect(200);
    kept(&app, &cookie).await;
    app.pass(44 * 60_000);
    assert_eq!(status(&app.look(&cookie).await.expect(200)), HIT);
    app.pass(60_000);
    app.look(&cookie).await.problem(401, "no-session");
}

#[tokio::test]
async fn a_touch_is_written_when_it_is_due_by_one_caller() {
    let (app, cookie) = started(&["--touch-after", "10s"]).await;
    app.pass(9_000);
    assert_eq!(status(&app.resolve(&cookie).await), HIT);
    app.pass(1_000);
    let answers = futures_util::future::join_all((0..8).map(|_| app.resolve(&cookie))).await;
    let written: Vec<_> = answers.iter().filter(|answer| answer.header("set-cookie").is_some()).collect();
    assert_eq!(written.len(), 1, "{answers:?}");
    assert_eq!(status(written[0]), "sessiond; fwd=stale");
    // What is kept from now on has the new times, and no Set-Cookie.
    let kept = kept(&app, &cookie).await;
    assert_eq!((kept.header("set-cookie"), kept.json().get("set_cookie")), (None, None));
    assert_eq!(kept.json()["touched_at"], written[0].json()["touched_at"]);
    app.pass(9_000);
    assert_eq!(status(&app.resolve(&cookie).await), HIT);
}

#[tokio::test]
async fn who_insists_is_answered_by_the_store() {
    let (app, cookie) = started(&[]).await;
    let id = app.resolve(&cookie).await.json()["id"].as_str().unwrap().to_owned();
    for (path, header) in [
        ("/v1/session", "cache-control: max-age=0"),
        ("/v1/session", "cache-control: private, No-Cache"),
        ("/v1/session?touch=force", "x: y"),
        (&format!("/v1/sessions/{id}"), "x: y"),
    ] {
        kept(&app, &cookie).await;
        let answer = app.call("GET", path, &[&cookie, header], "").await.expect(200);
        assert_eq!((status(&answer), answer.header("age")), ("sessiond; fwd=request", None), "{path} {header}");
    }
}

#[tokio::test]
async fn another_processs_revoke_is_heeded() {
    for redis in [false, true] {
        let app = match redis {
            true => TestApp::start_on_redis(CACHE).await,
            false => TestApp::start(CACHE).await,
        };
        let other = TestApp::beside(&app, CACHE).await;
        let cookie = app.cookie().await;
        kept(&app, &cookie).await;
        kept(&other, &cookie).await;
        other.revoke(&cookie).await.expect(204);
        other.resolve(&cookie).await.problem(401, "no-session");
        let began = std::time::Instant::now();
        while app.resolve(&cookie).await.status == 200 {
            assert!(began.elapsed() < Duration::from_secs(5), "far less than the 60 s that are allowed");
            tokio::task::yield_now().await;
        }
        let cookie = app.cookie().await;
        assert_eq!(status(&app.resolve(&cookie).await), MISS);
    }
}

/// What is kept would hold for ever by a clock that has stepped back; Redis counts down what is left.
#[tokio::test]
async fn a_clock_that_steps_back_ends_no_session_that_is_used() {
    for hours in [-1, -24 * 365] {
        let app = TestApp::start_on_redis(&[CACHE, &["--idle-timeout", "3s"]].concat()).await;
        let cookie = app.cookie().await;
        kept(&app, &cookie).await;
        app.step(hours * 3_600_000);
        assert_eq!(status(&app.resolve(&cookie).await.expect(200)), HIT);
        // Each expect(200) fails when the session has ended.
        while status(&app.resolve(&cookie).await.expect(200)) != "sessiond; fwd=stale" {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        assert!(kept(&app, &cookie).await.header("age").is_some_and(|age| age == "0"), "no age of an hour");
    }
}

#[tokio::test]
async fn a_clock_that_steps_forward_ends_what_is_kept() {
    let (app, cookie) = started(&["--idle-timeout", "1h", "--touch-after", "1h"]).await;
    assert_eq!(status(&app.look(&cookie).await.expect(200)), HIT);
    app.step(2 * 3_600_000);
    app.look(&cookie).await.problem(401, "no-session");
}
