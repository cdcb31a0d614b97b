//! What handlers take from a request. Each refusal is a problem that names what was wrong.

use std::convert::Infallible;
use std::fmt;
use std::marker::PhantomData;
use std::ops::RangeInclusive;

use axum::body::HttpBody;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequest, FromRequestParts, OptionalFromRequestParts, Path, Query as AxumQuery, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::BodyExt;
use json_patch::PatchOperation;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use tokio::time::timeout;

use super::App;
use super::budget::{Budget, Held};
use super::error::{Error, Result};
use crate::clock::Ms;
use crate::cookie::{Unopened, Verified};
use crate::id::Id;
use crate::session::{self, Change, Precondition, check_user_id};
use crate::telemetry::Cookies;

const JSON: &str = "application/json";
const MERGE_PATCH: &str = "application/merge-patch+json";
const JSON_PATCH: &str = "application/json-patch+json";

/// The largest body of a batch: a thousand `Cookie` headers of 4 KiB.
const MAX_BATCH_BYTES: usize = 4 * 1024 * 1024;

/// The session that a request is about: named by the id in its path, or else by its cookie, whose signature is verified.
/// Only the store knows whether the session is live.
pub(super) struct Named {
    /// The session's id.
    pub id: Id,
    /// Whether the path names it.
    pub by_id: bool,
}

impl FromRequestParts<App> for Named {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self> {
        if let Some(id) = path(parts, app).await? {
            return Id::parse(id).map(|id| Self { id, by_id: true }).ok_or_else(Error::no_such_session);
        }
        let headers = parts.headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes);
        let opened = Tally::new(app).count(app.signer.open(headers, app.set_cookie.name()));
        opened.map(|id| Self { id, by_id: false }).ok_or_else(Error::no_session)
    }
}

impl Named {
    /// The answer when there is no such session.
    pub(super) fn none(&self) -> Error {
        if self.by_id { Error::no_such_session() } else { Error::no_session() }
    }
}

/// Counts cookies by their signature. Adds the counts to the metrics when it is dropped, because threads that increment
/// one metric contend.
pub(super) struct Tally<'a> {
    cookies: &'a Cookies,
    first: u64,
    older: u64,
    bad: u64,
}

impl Tally<'_> {
    pub(super) fn new(app: &App) -> Tally<'_> {
        Tally { cookies: &app.sessions.metrics().cookies, first: 0, older: 0, bad: 0 }
    }

    /// The id, if the cookie has opened one.
    pub(super) fn count(&mut self, opened: std::result::Result<Verified, Unopened>) -> Option<Id> {
        match opened {
            Ok(Verified { id, secret }) => {
                *(if secret == 0 { &mut self.first } else { &mut self.older }) += 1;
                Some(id)
            }
            Err(unopened) => {
                self.bad += u64::from(unopened == Unopened::BadSignature);
                None
            }
        }
    }
}

impl Drop for Tally<'_> {
    fn drop(&mut self) {
        let Cookies { first, older, bad } = self.cookies;
        for (counter, number) in [(first, self.first), (older, self.older), (bad, self.bad)] {
            if number > 0 {
                counter.inc_by(number);
            }
        }
    }
}

/// The one variable of the path, percent-decoded, where there is one.
async fn path(parts: &mut Parts, app: &App) -> Result<Option<String>> {
    let path = <Path<String> as OptionalFromRequestParts<App>>::from_request_parts(parts, app).await;
    match path {
        Ok(path) => Ok(path.map(|Path(text)| text)),
        // The request has not gone through the router.
        Err(PathRejection::MissingPathParams(_)) => Ok(None),
        Err(error) => Err(Error::new(StatusCode::BAD_REQUEST, "invalid-path", error.body_text())),
    }
}

/// The user whom the path names.
pub(super) struct UserId(pub String);

impl FromRequestParts<App> for UserId {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self> {
        let user_id = path(parts, app).await?.unwrap_or_default();
        let refused = |error: session::Error| Error::new(StatusCode::BAD_REQUEST, "invalid-user-id", error.to_string());
        check_user_id(&user_id, "the path").map_err(refused)?;
        Ok(Self(user_id))
    }
}

/// Whether the caller wants an answer from the store, not from the near-cache (RFC 9111, section 5.2.1).
pub(super) struct NoCache(pub bool);

impl FromRequestParts<App> for NoCache {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _app: &App) -> std::result::Result<Self, Infallible> {
        let says = |directive: &str| matches!(directive, "no-cache" | "no-store" | "max-age=0");
        let mut values = parts.headers.get_all(header::CACHE_CONTROL).iter();
        Ok(Self(values.any(|value| {
            value.to_str().is_ok_and(|value| {
                value.split(',').any(|directive| says(directive.trim_ascii().to_ascii_lowercase().as_str()))
            })
        })))
    }
}

/// The query, read into `T`.
pub(super) struct Query<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<App> for Query<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self> {
        let query = AxumQuery::from_request_parts(parts, app).await;
        query
            .map(|AxumQuery(query)| Self(query))
            .map_err(|error| Error::new(StatusCode::BAD_REQUEST, "invalid-query", error.body_text()))
    }
}

/// The `If-Match` header (RFC 9110, section 13.1.1).
pub(super) struct IfMatch(pub Precondition);

impl FromRequestParts<App> for IfMatch {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _app: &App) -> std::result::Result<Self, Infallible> {
        let values: Vec<_> = parts.headers.get_all(header::IF_MATCH).iter().map(HeaderValue::as_bytes).collect();
        if values.is_empty() || values.iter().any(|value| value.trim_ascii() == b"*") {
            return Ok(Self(Precondition::Any));
        }
        // Our tags are text without commas, so no other part of the list can match one.
        let tags = values.iter().flat_map(|value| value.split(|&byte| byte == b','));
        let tags = tags.map(|tag| String::from_utf8_lossy(tag.trim_ascii()).into_owned());
        Ok(Self(Precondition::Tags(tags.collect())))
    }
}

/// A JSON body (RFC 8259), read into `T`, and its part of the budget of bodies. The handler keeps that until it ends,
/// because what is parsed takes more memory than the text.
pub(super) struct Json<T>(pub T, pub Option<Held>);

/// Like [`Json`], but the body may be absent or `null`: then it is `T`'s default.
pub(super) struct OptionalJson<T>(pub T, pub Option<Held>);

impl<T: DeserializeOwned> FromRequest<App> for Json<T> {
    type Rejection = Error;

    async fn from_request(request: Request, app: &App) -> Result<Self> {
        let media_type = media_type(request.headers());
        let (body, held) = read(request, app).await?;
        match media_type.as_deref() {
            Some(JSON) => parse(&body).map(|value| Self(value, held)),
            _ => Err(unsupported(&format!("send the body as {JSON}"))),
        }
    }
}

impl<T: DeserializeOwned + Default> FromRequest<App> for OptionalJson<T> {
    type Rejection = Error;

    async fn from_request(request: Request, app: &App) -> Result<Self> {
        let media_type = media_type(request.headers());
        let (body, held) = read(request, app).await?;
        match media_type.as_deref() {
            _ if body.is_empty() => Ok(Self(T::default(), held)),
            Some(JSON) => parse::<Option<Object<T>>>(&body)
                .map(|value| Self(value.map_or_else(T::default, |Object(value)| value), held)),
            _ => Err(unsupported(&format!("send the body as {JSON}"))),
        }
    }
}

/// The body of a call about many sessions: a JSON body of up to [`MAX_BATCH_BYTES`], and its part of the budget of batches.
pub(super) struct BatchJson<T>(pub T, pub Option<Held>);

impl<T: DeserializeOwned> FromRequest<App> for BatchJson<T> {
    type Rejection = Error;

    async fn from_request(request: Request, app: &App) -> Result<Self> {
        let media_type = media_type(request.headers());
        let (body, held) = read_up_to(MAX_BATCH_BYTES, &app.batches, request, app).await?;
        match media_type.as_deref() {
            Some(JSON) => parse::<Object<T>>(&body).map(|Object(batch)| Self(batch, held)),
            _ => Err(unsupported(&format!("send the body as {JSON}"))),
        }
    }
}

/// The body of `PATCH`: a merge patch or a JSON Patch, by its media type, and its part of the budget of bodies.
pub(super) struct Patch(pub Change, pub Option<Held>);

impl FromRequest<App> for Patch {
    type Rejection = Error;

    async fn from_request(request: Request, app: &App) -> Result<Self> {
        let media_type = media_type(request.headers());
        let (body, held) = read(request, app).await?;
        match media_type.as_deref() {
            Some(MERGE_PATCH) => parse(&body).map(|patch| Self(Change::Merge(Value::Object(patch)), held)),
            Some(JSON_PATCH) => {
                let operations: Vec<Object<PatchOperation>> = parse(&body)?;
                Ok(Self(Change::Patch(operations.into_iter().map(|Object(operation)| operation).collect()), held))
            }
            _ => {
                let accepted = HeaderValue::from_static("application/merge-patch+json, application/json-patch+json");
                Err(unsupported(&format!("send the patch as {MERGE_PATCH} or {JSON_PATCH}"))
                    .header(header::HeaderName::from_static("accept-patch"), accepted))
            }
        }
    }
}

/// A struct that is written as an object: serde would also take an array with the fields in order.
pub(super) struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(value: D) -> std::result::Result<Self, D::Error> {
        struct OnlyMap<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for OnlyMap<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> std::result::Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }

        value.deserialize_map(OnlyMap(PhantomData))
    }
}

/// A span in ms: a whole number, however it is written (`1000`, `1000.0`, `1e3` are one number to JSON Schema).
pub(super) fn span<'de, D: Deserializer<'de>>(value: D) -> std::result::Result<Option<Ms>, D::Error> {
    let Some(number) = Option::<serde_json::Number>::deserialize(value)? else { return Ok(None) };
    #[expect(
        clippy::cast_possible_truncation,
        reason = "it is whole; the cast saturates, and the bounds are far below"
    )]
    let whole =
        number.as_i64().or_else(|| number.as_f64().filter(|float| float.fract() == 0.0).map(|float| float as Ms));
    whole.map(Some).ok_or_else(|| D::Error::custom(format!("{number} is not a whole number of milliseconds")))
}

/// The media type in lower case, without parameters.
fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    Some(value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
}

fn unsupported(detail: &str) -> Error {
    Error::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "unsupported-media-type",
        format!("{detail}: the Content-Type header says which it is"),
    )
}

/// Reads the body of a request about one session, within the limits of size and time.
async fn read(request: Request, app: &App) -> Result<(Vec<u8>, Option<Held>)> {
    read_up_to(app.max_body_bytes, &app.bodies, request, app).await
}

/// Reads a body of up to `limit` bytes. Returns it with the part of `budget` that it takes.
async fn read_up_to(limit: usize, budget: &Budget, request: Request, app: &App) -> Result<(Vec<u8>, Option<Held>)> {
    let close = |error: Error| error.header(header::CONNECTION, HeaderValue::from_static("close"));
    let too_large = || {
        let detail = format!("a body may have {limit} bytes");
        close(Error::new(StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", detail))
    };
    let mut body = request.into_body();
    // A body that is declared too long is not read, so that no 100 Continue asks for it.
    if body.size_hint().lower() > limit as u64 {
        return Err(too_large());
    }
    let receive = async {
        let (mut bytes, mut held) = (Vec::new(), None::<Held>);
        while let Some(frame) = body.frame().await {
            let frame = frame
                .map_err(|_| Error::new(StatusCode::BAD_REQUEST, "broken-body", "the body broke off before its end"))?;
            let Ok(data) = frame.into_data() else { continue };
            if bytes.len() + data.len() > limit {
                return Err(too_large());
            }
            let more = budget.take(data.len()).map_err(close)?;
            match &mut held {
                Some(held) => held.add(more),
                None => held = Some(more),
            }
            bytes.extend_from_slice(&data);
        }
        Ok((bytes, held))
    };
    timeout(app.read_timeout, receive).await.unwrap_or_else(|_| {
        Err(close(Error::new(StatusCode::REQUEST_TIMEOUT, "body-timeout", "the body did not arrive in time")))
    })
}

/// Parses a body. Answers 400 with the place if it is not JSON, and 422 with the field if it does not fit `T`.
fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let malformed = |error: &serde_json::Error| {
        Error::new(StatusCode::BAD_REQUEST, "malformed-json", format!("the body is not JSON: {error}"))
    };
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let pointer = pointer(error.path());
        let error = error.into_inner();
        if error.is_data() {
            Error::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid-field", without_value(&error.to_string())).at(pointer)
        } else {
            malformed(&error)
        }
    })?;
    json.end().map_err(|error| malformed(&error))?;
    Ok(value)
}

/// `invalid type: string "…", expected a sequence at line 1 column 9` without the value: a caller may log what we answer,
/// and the value may be a cookie.
fn without_value(error: &str) -> String {
    let said = error.split_once(": ").filter(|(kind, _)| matches!(*kind, "invalid type" | "invalid value"));
    let Some(((kind, found), (_, expected))) = said.zip(error.rsplit_once(", expected ")) else {
        return error.to_owned();
    };
    let found = found.split_once(['`', '"']).map_or(found, |(found, _)| found);
    let found = found.split_once(',').map_or(found, |(found, _)| found);
    format!("{kind}: {}, expected {expected}", found.trim_end())
}

fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    let segments = path.iter().filter_map(|segment| match segment {
        Segment::Seq { index } => Some(index.to_string()),
        Segment::Map { key } => Some(key.replace('~', "~0").replace('/', "~1")),
        Segment::Enum { .. } | Segment::Unknown => None,
    });
    segments.fold(String::new(), |pointer, segment| pointer + "/" + &segment)
}

/// A user id from the wire.
pub(super) fn user_id(user_id: Option<String>) -> Result<Option<String>> {
    user_id.map(|user_id| check_user_id(&user_id, "/user_id").map(|()| user_id)).transpose().map_err(Error::from)
}

/// Refuses text that is not within `bytes` long.
pub(super) fn within(text: Option<&str>, bytes: RangeInclusive<usize>, pointer: &str) -> Result<()> {
    match text.map(str::len) {
        Some(length) if !bytes.contains(&length) => {
            let detail = format!("this has {length} bytes: use {} to {}", bytes.start(), bytes.end());
            Err(Error::new(StatusCode::UNPROCESSABLE_ENTITY, "out-of-bounds", detail).at(pointer))
        }
        _ => Ok(()),
    }
}
