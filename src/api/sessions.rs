//! `/v1/sessions`: issuing.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::App;
use super::error::{Problem, Result};
use super::extract::{Object, OptionalJson, user_id};
use super::wire::{Body, Client, Cookie};
use crate::session::NewSession;

/// A session to issue
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"user_id": "ada", "data": {"theme": "dark"}, "client": {"label": "Ada's phone"}}))]
pub(super) struct Issue {
    /// The user, when they are known already; 1 to 256 bytes
    #[serde(default)]
    #[schema(min_length = 1, max_length = 256)]
    user_id: Option<String>,
    /// The data to begin with
    #[serde(default)]
    #[schema(schema_with = super::openapi::nullable_data)]
    data: Option<Map<String, Value>>,
    /// Milliseconds without a touch until it expires; the service may be configured to allow less
    #[serde(default, deserialize_with = "super::extract::span")]
    #[schema(minimum = 1000, maximum = 34_560_000_000_i64)]
    idle_timeout_ms: Option<i64>,
    /// Milliseconds until it ends whatever happens; the service may be configured to allow less
    #[serde(default, deserialize_with = "super::extract::span")]
    #[schema(minimum = 1000, maximum = 34_560_000_000_i64)]
    lifetime_ms: Option<i64>,
    /// Where it is issued to
    #[serde(default)]
    #[schema(value_type = Option<Client>)]
    client: Option<Object<Client>>,
}

/// Issue a session
///
/// With neither a user nor data nothing is stored and no cookie is set (204), unless the service is configured to.
#[utoipa::path(
    post, path = "/v1/sessions", tag = "sessions",
    request_body(content = Option<Issue>, description = "May be left out"),
    responses(
        (status = 201, description = "Issued", body = Body, headers(("Set-Cookie" = String, description = "The session's cookie"), ("ETag" = String, description = "Names user and data"))),
        (status = 204, description = "Nothing to store yet: there is no user and no data"),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn issue(State(app): State<App>, OptionalJson(wanted): OptionalJson<Issue>) -> Result<Response> {
    let new = NewSession {
        user_id: user_id(wanted.user_id)?,
        data: wanted.data.unwrap_or_default(),
        idle_timeout_ms: wanted.idle_timeout_ms,
        lifetime_ms: wanted.lifetime_ms,
        client: wanted.client.map(|Object(client)| client.check()).transpose()?,
    };
    match app.sessions.issue(new).await? {
        Some(session) => app.answer(StatusCode::CREATED, &session, Cookie::New),
        None => Ok(StatusCode::NO_CONTENT.into_response()),
    }
}
