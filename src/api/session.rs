//! `/v1/session` and `/v1/sessions/{id}`: one session, which the request's cookie opens or the path names. The extractor
//! [`Named`] decides; [`by_id`](super::openapi::by_id) turns the contract of the first form into that of the second.

use axum::extract::{FromRequestParts, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

use super::App;
use super::error::{Error, Problem, Result};
use super::extract::{IfMatch, Json, Named, NoCache, Object, OptionalJson, Patch, Query, user_id};
use super::wire::{Body, Client, Cookie, Shown};
use crate::cache::Answer;
use crate::session::{Change, Regenerate, Session, Touch};

/// Where [`resolve`] is.
pub(super) const PATH: &str = "/v1/session";

/// RFC 9211.
const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// How a resolve touches.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Resolve {
    /// `never` only looks, `force` extends the session in any case; without it the session is touched when that is due,
    /// or, when it is named by its id, not at all
    #[serde(default)]
    #[param(inline)]
    touch: Option<TouchMode>,
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum TouchMode {
    Never,
    Force,
}

/// What changes with the id; a field that is left out leaves things as they are
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"user_id": "ada", "data": {"cart": null}}))]
pub(super) struct Regeneration {
    /// The user who logs in, 1 to 256 bytes; this starts a new lifetime. null removes the user. If the session belonged to
    /// another user, its data, client and timeouts are reset to those of a new session
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 256)]
    user_id: Option<Option<String>>,
    /// Keep the data, and only the data, of a session that belonged to another user. Without a change from one user to
    /// another or to null, the data is kept in any case. False when left out
    #[serde(default)]
    keep_data: bool,
    /// A merge patch (RFC 7396) for the data that is kept, not a replacement; if no data is kept, for an empty object
    #[serde(default)]
    #[schema(schema_with = super::openapi::nullable_data)]
    data: Option<Map<String, Value>>,
    /// Milliseconds without a touch until it expires
    #[serde(default, deserialize_with = "super::extract::span")]
    #[schema(minimum = 1000, maximum = 34_560_000_000_i64)]
    idle_timeout_ms: Option<i64>,
    /// Milliseconds from now until it ends whatever happens
    #[serde(default, deserialize_with = "super::extract::span")]
    #[schema(minimum = 1000, maximum = 34_560_000_000_i64)]
    lifetime_ms: Option<i64>,
    /// Where the session is now
    #[serde(default)]
    #[schema(value_type = Option<Client>)]
    client: Option<Object<Client>>,
}

/// Tells null from nothing.
fn given<'de, D: Deserializer<'de>>(value: D) -> std::result::Result<Option<Option<String>>, D::Error> {
    Option::deserialize(value).map(Some)
}

/// Resolve the session
///
/// Answers with the user and the data behind the browser's cookie, and touches the session when that is due. Where there is
/// a near-cache (--cache), `Cache-Status` says whether it had the answer (RFC 9211), and if so `Age` how many seconds ago
/// the store gave it.
#[utoipa::path(
    get, path = "/v1/session", tag = "session", security(("cookie" = [])),
    params(Resolve, ("Cache-Control" = Option<String>, Header, nullable = false, description = "`no-cache`: ask the store, also where there is a near-cache (--cache)")),
    responses(
        (status = 200, description = "It is live", body = Body, headers(("ETag" = String, description = "Names user and data"))),
        (status = 401, description = "No live session comes with this request", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn resolve(
    State(app): State<App>,
    query: Query<Resolve>,
    named: Named,
    no_cache: NoCache,
) -> Result<Response> {
    show(&app, query, named, no_cache).await
}

async fn show(app: &App, Query(query): Query<Resolve>, named: Named, NoCache(no_cache): NoCache) -> Result<Response> {
    let touch = match query.touch {
        None if named.by_id => Touch::Never,
        None => Touch::WhenDue,
        Some(TouchMode::Never) => Touch::Never,
        Some(TouchMode::Force) => Touch::Force,
    };
    // Who looks a session up by its id wants the store's word.
    let exact = no_cache || named.by_id;
    let make = |session: &Session| {
        let shown = Shown::new(session, None);
        let bytes = shown.bytes();
        (shown, bytes)
    };
    let answer = app.answers.resolve(&named.id, touch, exact, make).await?.ok_or_else(|| named.none())?;
    let (mut response, age, status) = match answer {
        Answer::Kept(shown, age) => (shown.into_response(), Some(age), "sessiond; hit"),
        Answer::Asked(shown) if exact => (shown.into_response(), None, "sessiond; fwd=request"),
        Answer::Asked(shown) => (shown.into_response(), None, "sessiond; fwd=miss"),
        Answer::Extended(session) => {
            let response = app.answer(StatusCode::OK, &session, named.cookie(Cookie::Touched))?;
            (response, None, if touch == Touch::Force { "sessiond; fwd=request" } else { "sessiond; fwd=stale" })
        }
    };
    if app.answers.are_kept() {
        let headers = response.headers_mut();
        // Room for these and the guard's, at once.
        headers.reserve(5);
        headers.insert(CACHE_STATUS, HeaderValue::from_static(status));
        if let Some(age) = age {
            headers.insert(header::AGE, HeaderValue::from(age / 1000));
        }
    }
    Ok(response)
}

/// [`resolve`], for a request that has not gone through the router.
pub(super) async fn answer(app: &App, request: Request) -> Result<Response> {
    let (mut parts, _) = request.into_parts();
    let query = Query::from_request_parts(&mut parts, app).await?;
    let named = Named::from_request_parts(&mut parts, app).await?;
    let no_cache = NoCache::from_request_parts(&mut parts, app).await.unwrap_or_else(|never| match never {});
    show(app, query, named, no_cache).await
}

/// Revoke the session
///
/// This is logout. The answer clears the browser's cookie, also when there was no session.
#[utoipa::path(
    delete, path = "/v1/session", tag = "session", security(("cookie" = []), ()),
    params(("If-Match" = Option<String>, Header, nullable = false, description = "Only when the session's ETag is one of these (RFC 9110)")),
    responses(
        (status = 204, description = "There is no such session any more", headers(("Set-Cookie" = String, description = "Makes the browser forget the cookie"))),
        (status = 412, description = "The session is not the one that If-Match names", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn revoke(
    State(app): State<App>,
    named: std::result::Result<Named, Error>,
    IfMatch(precondition): IfMatch,
) -> Result<Response> {
    match named {
        Ok(Named { id, by_id }) => match (by_id, app.sessions.revoke(&id, &precondition).await?) {
            (true, true) => Ok(StatusCode::NO_CONTENT.into_response()),
            (true, false) => Err(Error::no_such_session()),
            (false, _) => app.cleared(),
        },
        // No cookie, or none of ours.
        Err(error) if error.status() == StatusCode::UNAUTHORIZED => app.cleared(),
        Err(error) => Err(error),
    }
}

/// Update the data
///
/// By merge patch (RFC 7396) or JSON Patch (RFC 6902). Compare-and-set: of two callers that change different fields at
/// once both win. The user stays who they are; see regenerate.
#[utoipa::path(
    patch, path = "/v1/session/data", tag = "session", security(("cookie" = [])),
    params(("If-Match" = Option<String>, Header, nullable = false, description = "Only when the session's ETag is one of these (RFC 9110)")),
    request_body(content(
        (super::openapi::MergePatch = "application/merge-patch+json"),
        (super::openapi::JsonPatch = "application/json-patch+json"),
    )),
    responses(
        (status = 200, description = "The session as it is now", body = Body, headers(("ETag" = String, description = "Names user and data"))),
        (status = 401, description = "No live session comes with this request", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The JSON Patch does not fit the data", body = Problem, content_type = "application/problem+json"),
        (status = 412, description = "The session is not the one that If-Match names", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn update(
    State(app): State<App>,
    named: Named,
    IfMatch(precondition): IfMatch,
    Patch(change, _held): Patch,
) -> Result<Response> {
    let session = app.sessions.update(&named.id, &change, &precondition).await?.ok_or_else(|| named.none())?;
    app.answer(StatusCode::OK, &session, named.cookie(Cookie::Updated))
}

/// Replace the data
#[utoipa::path(
    put, path = "/v1/session/data", tag = "session", security(("cookie" = [])),
    params(("If-Match" = Option<String>, Header, nullable = false, description = "Only when the session's ETag is one of these (RFC 9110)")),
    request_body(content = super::openapi::Data),
    responses(
        (status = 200, description = "The session as it is now", body = Body, headers(("ETag" = String, description = "Names user and data"))),
        (status = 401, description = "No live session comes with this request", body = Problem, content_type = "application/problem+json"),
        (status = 412, description = "The session is not the one that If-Match names", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn replace(
    State(app): State<App>,
    named: Named,
    IfMatch(precondition): IfMatch,
    Json(data, _held): Json<Map<String, Value>>,
) -> Result<Response> {
    let change = Change::Replace(data);
    let session = app.sessions.update(&named.id, &change, &precondition).await?.ok_or_else(|| named.none())?;
    app.answer(StatusCode::OK, &session, named.cookie(Cookie::Updated))
}

/// Touch the session
///
/// Extends it now, whether or not that is due.
#[utoipa::path(
    post, path = "/v1/session/touch", tag = "session", security(("cookie" = [])),
    params(("If-Match" = Option<String>, Header, nullable = false, description = "Only when the session's ETag is one of these (RFC 9110)")),
    responses(
        (status = 200, description = "Extended", body = Body, headers(("ETag" = String, description = "Names user and data"))),
        (status = 401, description = "No live session comes with this request", body = Problem, content_type = "application/problem+json"),
        (status = 412, description = "The session is not the one that If-Match names", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn touch(State(app): State<App>, named: Named, IfMatch(precondition): IfMatch) -> Result<Response> {
    let session = app.sessions.touch(&named.id, &precondition).await?.ok_or_else(|| named.none())?;
    app.answer(StatusCode::OK, &session, named.cookie(Cookie::Touched))
}

/// Regenerate the session
///
/// New id, same data; the old id is dead. With `user_id` this is login: an anonymous session's data is kept. If the session
/// belonged to another user, its data, client and timeouts are reset; `keep_data` keeps the data. Of many at once exactly
/// one wins, and the others are answered 401.
#[utoipa::path(
    post, path = "/v1/session/regenerate", tag = "session", security(("cookie" = [])),
    request_body(content = Option<Regeneration>, description = "May be left out"),
    params(("If-Match" = Option<String>, Header, nullable = false, description = "Only when the session's ETag is one of these (RFC 9110)")),
    responses(
        (status = 200, description = "The session under its new id", body = Body, headers(("Set-Cookie" = String, description = "The new cookie"), ("ETag" = String, description = "Names user and data"))),
        (status = 401, description = "No live session comes with this request", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The user has as many sessions as they may have, and the service is configured to refuse more", body = Problem, content_type = "application/problem+json"),
        (status = 412, description = "The session is not the one that If-Match names", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn regenerate(
    State(app): State<App>,
    named: Named,
    IfMatch(precondition): IfMatch,
    OptionalJson(wanted, _held): OptionalJson<Regeneration>,
) -> Result<Response> {
    let wanted = Regenerate {
        user_id: wanted.user_id.map(user_id).transpose()?,
        keep_data: wanted.keep_data,
        data: wanted.data.map(Value::Object),
        idle_timeout_ms: wanted.idle_timeout_ms,
        lifetime_ms: wanted.lifetime_ms,
        client: wanted.client.map(|Object(client)| client.check()).transpose()?,
    };
    let session = app.sessions.regenerate(&named.id, wanted, precondition).await?.ok_or_else(|| named.none())?;
    app.answer(StatusCode::OK, &session, Cookie::New)
}
