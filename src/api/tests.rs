//! What no route of ours does: panic, and take too long.

use axum::body::Body;
use axum::http::StatusCode;
use axum::routing::get;
use clap::Parser;
use http_body_util::BodyExt;
use tower::ServiceExt;

use super::*;
use crate::clock::Clock;
use crate::config::Config;
use crate::store;

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    config: Config,
}

async fn answer(path: &str) -> (StatusCode, String) {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("test.db").display());
    let config = Flags::try_parse_from(["sessiond", "--store", &url]).unwrap().config;
    let checked = config.check().unwrap();
    let store = store::open(&checked.store, &checked.key_prefix).await.unwrap();
    let sessions = Sessions::new(store, checked.policy.clone(), checked.attributes.clone(), Clock::system());
    let routes = Router::new()
        .route("/panic", get(async || -> &'static str { panic!("this is meant") }))
        .route("/v1/slow", get(std::future::pending::<&'static str>));
    let service = around(routes, App::new(sessions, &checked, &config.server));
    let response = service.oneshot(Request::get(path).body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
    assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn a_panic_is_a_problem() {
    let (status, body) = answer("/panic").await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(body.contains("\"code\":\"internal\"") && !body.contains("meant"), "{body}");
}

#[tokio::test(start_paused = true)]
async fn what_takes_too_long_is_a_problem() {
    let (status, body) = answer("/v1/slow").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(body.contains("\"code\":\"deadline\""), "{body}");
}
