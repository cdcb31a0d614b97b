//! The routes for operators: liveness, readiness, metrics and the contract. None shows a session.

use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tokio::sync::Mutex;
use utoipa::ToSchema;

use super::App;
use super::error::{self, Error, Problem, json};
use crate::session::{self, Sessions};

/// The probes, which are never refused for load.
pub(super) const PROBES: [&str; 2] = ["/livez", "/readyz"];

/// How the service is
#[derive(Serialize, ToSchema)]
pub(super) struct Health {
    /// `live` or `ready`
    #[schema(example = "ready")]
    status: &'static str,
}

/// Whether the store can serve, asked by one probe at a time: probes need no key, and are not to be a way to busy a store.
#[derive(Default)]
pub(super) struct Readiness(Mutex<Option<(Instant, Result<(), session::Error>)>>);

/// How long an answer is good for.
const FRESH: Duration = Duration::from_millis(250);

impl Readiness {
    async fn ask(&self, sessions: &Sessions) -> Result<(), session::Error> {
        let mut known = self.0.lock().await;
        if let Some((asked, answer)) = &*known
            && asked.elapsed() < FRESH
        {
            return answer.clone();
        }
        let answer = sessions.ping().await;
        *known = Some((Instant::now(), answer.clone()));
        answer
    }
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

/// Can it serve? Asks the store, and whether every background task runs.
#[utoipa::path(
    get, path = "/readyz", tag = "ops",
    responses(
        (status = 200, description = "It can", body = Health),
        (status = 503, description = "The store is unreachable, or a background task is down", body = Problem, content_type = "application/problem+json", headers(("Retry-After" = String, description = "Seconds to wait"))),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn readyz(State(app): State<App>) -> error::Result<Response> {
    if app.sessions.metrics().tasks_down.get() > 0 {
        let detail = "a background task of sessiond panicked, and is not up again: its log says which; try again";
        return Err(Error::unavailable("task-down", detail));
    }
    app.readiness.ask(&app.sessions).await?;
    Ok(health("ready"))
}

/// Metrics for Prometheus
///
/// In the text format of OpenMetrics. No label is an id, a user or a caller; docs/metrics.md lists them all.
#[utoipa::path(
    get, path = "/metrics", tag = "ops",
    responses(
        (status = 200, description = "Every metric", body = String, content_type = "application/openmetrics-text"),
        (status = 503, description = "Too many of these answers wait to be read", body = Problem, content_type = "application/problem+json", headers(("Retry-After" = String, description = "Seconds to wait"))),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn metrics(State(app): State<App>) -> error::Result<Response> {
    let media_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let held = app.metrics_texts.take(1)?;
    Ok(([(header::CONTENT_TYPE, media_type)], held.with(app.sessions.metrics().text())).into_response())
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
