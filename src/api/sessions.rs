//! `/v1/sessions`: issuing, and resolving many at once.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::task::yield_now;
use utoipa::ToSchema;

use super::App;
use super::error::{Error, Problem, Result};
use super::extract::{BatchJson, Object, OptionalJson, Tally, user_id, within};
use super::wire::{Body, Client, Cookie, ok_held, size};
use crate::id::Id;
use crate::session::{MAX_ANSWER_BYTES, NewSession, Session};

/// How many cookies one call may resolve.
const MAX_BATCH: usize = 1000;
/// The longest of them, in bytes: what a request's head may hold.
const MAX_COOKIE_BYTES: usize = 16 * 1024;
/// After work like that of so many HMACs, about a quarter of a millisecond, a batch lets other requests go on.
const HMACS_AT_ONCE: usize = 1024;
/// Reading so many bytes of a `Cookie` header takes about as long as an HMAC.
const BYTES_LIKE_HMAC: usize = 64;

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
        (status = 409, description = "The user has as many sessions as they may have, and the service is configured to refuse more", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn issue(
    State(app): State<App>,
    OptionalJson(wanted, _held): OptionalJson<Issue>,
) -> Result<Response> {
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

/// Cookies to resolve
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"cookies": ["connect.sid=s%3A5b0c9ce5-70c3-4c0c-8d4e-0b8f0f8b3c11.pZ1qYQ…", "s%3A…"]}))]
pub(super) struct Batch {
    /// Each a Cookie header as the browser sent it, or the bare value of the session's cookie
    #[schema(max_items = 1000, schema_with = cookies)]
    cookies: Vec<String>,
}

fn cookies() -> utoipa::openapi::schema::ArrayBuilder {
    use utoipa::openapi::Type;
    use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder};
    let cookie = ObjectBuilder::new().schema_type(Type::String).max_length(Some(MAX_COOKIE_BYTES));
    ArrayBuilder::new()
        .items(cookie)
        .max_items(Some(MAX_BATCH))
        .description(Some("Each a Cookie header as the browser sent it, or the bare value of the session's cookie"))
}

/// The sessions behind a batch of cookies
#[derive(Serialize, ToSchema)]
pub(super) struct Resolved<'a> {
    /// In the order of the cookies; null: that cookie opens no live session
    #[schema(value_type = Vec<Option<Body>>)]
    sessions: Vec<Option<Body<'a>>>,
    /// The positions of those, null above, whose record cannot be read: whether they are live is not known
    unreadable: Vec<usize>,
}

/// Resolve many
///
/// Up to 1000 cookies in one call, each touched as a resolve of its own would. Of one Cookie header, up to 8 signed cookies
/// of the session's name are checked, in their order: a header with more forged ones before the right one opens no session.
#[utoipa::path(
    post, path = "/v1/sessions/resolve", tag = "sessions",
    request_body(content = Batch),
    responses(
        (status = 200, description = "What they open", body = Resolved),
        (status = 422, description = "There are too many cookies, or one is too long", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body has more than 4 MiB, or the sessions more than 16 MiB: ask for fewer", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn resolve_many(State(app): State<App>, BatchJson(batch, held): BatchJson<Batch>) -> Result<Response> {
    let cookies = batch.cookies;
    if cookies.len() > MAX_BATCH {
        let detail = format!("one call resolves up to {MAX_BATCH} cookies, and these are {}", cookies.len());
        return Err(Error::new(StatusCode::UNPROCESSABLE_ENTITY, "out-of-bounds", detail).at("/cookies"));
    }
    if let Some(position) = cookies.iter().position(|cookie| cookie.len() > MAX_COOKIE_BYTES) {
        within(Some(&cookies[position]), 0..=MAX_COOKIE_BYTES, &format!("/cookies/{position}"))?;
    }
    let (opens, ids) = open_all(&app, &cookies).await;
    drop((cookies, held));
    // The size of what is found is known only afterwards. Until then the batch reserves the most that it can find.
    let most = (ids.len() * app.sessions.policy().max_data_bytes).min(MAX_ANSWER_BYTES);
    let _finding = app.lookups.take_soon(most).await?;
    let mut found = app.sessions.resolve_many(ids).await?.into_iter();
    let mut unreadable = Vec::new();
    let mut sessions = Vec::with_capacity(opens.len());
    for (position, opens) in opens.into_iter().enumerate() {
        match opens.then(|| found.next()).flatten().transpose() {
            Ok(session) => sessions.push(session.flatten()),
            Err(_) => {
                unreadable.push(position);
                sessions.push(None);
            }
        }
    }
    let set = |session: &Option<Session>| app.set_cookie(session.as_ref()?, Cookie::Touched);
    let set_cookies: Vec<Option<String>> = sessions.iter().map(set).collect();
    let bodies = sessions
        .iter()
        .zip(&set_cookies)
        .map(|(session, set_cookie)| session.as_ref().map(|session| Body::new(session, set_cookie.as_deref())));
    let about = sessions.iter().flatten().map(size).sum();
    let held = app.large_answers.take_soon(about).await?;
    Ok(ok_held(&Resolved { sessions: bodies.collect(), unreadable }, about, held))
}

/// Returns which of the cookies open a session id, and those ids.
async fn open_all(app: &App, cookies: &[String]) -> (Vec<bool>, Vec<Id>) {
    let mut opens = Vec::with_capacity(cookies.len());
    let mut ids = Vec::with_capacity(cookies.len());
    let mut tally = Tally::new(app);
    let mut since_yield = 0;
    for cookie in cookies {
        let mut compared = 0;
        let id = tally.count(app.signer.open_text(cookie, app.set_cookie.name(), &mut compared));
        opens.push(id.is_some());
        ids.extend(id);
        // A signature costs an HMAC for each secret.
        since_yield += compared * app.signer.secrets() + cookie.len() / BYTES_LIKE_HMAC;
        if since_yield >= HMACS_AT_ONCE {
            since_yield = 0;
            yield_now().await;
        }
    }
    (opens, ids)
}
