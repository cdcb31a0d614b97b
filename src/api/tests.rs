//! What no route of ours does: panic, and take too long.

use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use clap::Parser;
use http_body_util::BodyExt;

use super::*;
use crate::clock::Clock;
use crate::config::Config;
use crate::store;

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    config: Config,
}

#[utoipa::path(get, path = "/panic")]
async fn panics() -> &'static str {
    panic!("this is meant")
}

#[utoipa::path(get, path = "/v1/slow")]
async fn slow() -> &'static str {
    std::future::pending().await
}

async fn answer(path: &str) -> (StatusCode, String) {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("test.db").display());
    let config = Flags::try_parse_from(["sessiond", "--store", &url]).unwrap().config;
    let checked = config.check().unwrap();
    let store = store::open(&checked.store, &checked.keyspace).await.unwrap();
    let sessions =
        Sessions::new(store, checked.policy.clone(), checked.attributes.clone(), Clock::system(), Arc::default());
    let app = App::new(sessions, &checked, &config.server);
    let routes = [(None, routes!(panics)), (Some(Scope::Resolve), routes!(slow))].into_iter();
    let api = Arc::new(Api { router: around(routes, &app, &app.hosts), ..Api::ops(&app) });
    let request = Request::get(path).header(header::HOST, "localhost").body(Body::empty()).unwrap();
    let (response, in_flight) = api.answer(request).await;
    assert!(in_flight.is_some());
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
