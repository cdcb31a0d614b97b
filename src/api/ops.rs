//! For those who run the service: is it alive, can it serve, what does it offer. Never a session.

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::App;
use super::error::{Problem, Result, json};

/// How the service is
#[derive(Serialize, ToSchema)]
pub(super) struct Health {
    /// `live` or `ready`
    #[schema(example = "ready")]
    status: &'static str,
}

/// Is the process alive?
#[utoipa::path(
    get, path = "/livez", tag = "ops",
    responses(
        (status = 200, description = "It is", body = Health),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn livez() -> Response {
    health("live")
}

/// Can it serve? Asks the store.
#[utoipa::path(
    get, path = "/readyz", tag = "ops",
    responses(
        (status = 200, description = "It can", body = Health),
        (status = 503, description = "The store is away", body = Problem, content_type = "application/problem+json", headers(("Retry-After" = String, description = "Seconds to wait"))),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn readyz(State(app): State<App>) -> Result<Response> {
    app.sessions.ping().await?;
    Ok(health("ready"))
}

/// Metrics for Prometheus
///
/// In the text format of OpenMetrics. No label is an id, a user or a caller; docs/metrics.md lists them all.
#[utoipa::path(
    get, path = "/metrics", tag = "ops",
    responses(
        (status = 200, description = "Every metric", body = String, content_type = "application/openmetrics-text"),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn metrics(State(app): State<App>) -> Response {
    let media_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, media_type)], app.sessions.metrics().text()).into_response()
}

/// This document
#[utoipa::path(
    get, path = "/openapi.yaml", tag = "ops",
    responses(
        (status = 200, description = "OpenAPI 3.1", body = Object, content_type = "application/yaml"),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn contract() -> Response {
    ([(header::CONTENT_TYPE, "application/yaml")], include_str!("../../openapi.yaml")).into_response()
}

fn health(status: &'static str) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], json(&Health { status }, 32)).into_response()
}
