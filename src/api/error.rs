//! Every error of the API: RFC 9457 problem details, made and logged in one place.

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{AppendHeaders, IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{session, store};

/// The media type of problem details.
const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

/// What goes over the wire (RFC 9457). `type` is `about:blank`: the status says what kind of problem it is, and `code` which one.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct Problem {
    /// Always `about:blank`
    #[serde(rename = "type")]
    #[schema(example = "about:blank")]
    kind: &'static str,
    /// The status in words
    #[schema(example = "Unauthorized")]
    title: &'static str,
    /// The HTTP status
    #[schema(example = 401, minimum = 400, maximum = 599)]
    status: u16,
    /// Which problem it is, for programs; it stays the same between versions
    #[schema(example = "no-session")]
    code: &'static str,
    /// What is wrong and what to do about it, for people
    #[schema(example = "no live session comes with this request")]
    detail: String,
    /// Where in the request's body the problem is (RFC 6901); absent when it is not about a place in the body
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "/user_id", nullable = false)]
    pointer: Option<String>,
}

/// An answer that is an error.
#[derive(Debug)]
pub(super) struct Error {
    problem: Box<Problem>,
    headers: Vec<(HeaderName, HeaderValue)>,
    cause: Option<Cause>,
}

/// What went wrong inside, for the log. It travels with the answer to the guard, which logs it once and knows the request.
#[derive(Debug, Clone)]
pub(super) enum Cause {
    /// The store is unreachable, or the request took too long.
    Unavailable(String),
    /// A limit on requests or memory in use is reached.
    Overloaded(&'static str),
    /// A bug.
    Bug(String),
}

/// What a handler answers.
pub(super) type Result<T = Response> = std::result::Result<T, Error>;

impl Error {
    pub(super) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        let title = status.canonical_reason().unwrap_or("Error");
        let problem =
            Problem { kind: "about:blank", title, status: status.as_u16(), code, detail: detail.into(), pointer: None };
        Self { problem: Box::new(problem), headers: Vec::new(), cause: None }
    }

    pub(super) fn at(mut self, pointer: impl Into<String>) -> Self {
        self.problem.pointer = Some(pointer.into());
        self
    }

    pub(super) fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    pub(super) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    pub(super) fn because(mut self, cause: Cause) -> Self {
        self.cause = Some(cause);
        self
    }

    /// No cookie, a forged one, an unknown session, one that has expired or was revoked: the caller cannot tell which.
    pub(super) fn no_session() -> Self {
        let detail = "no live session comes with this request: send the browser's Cookie header; POST /v1/sessions issues a session";
        Self::new(StatusCode::UNAUTHORIZED, "no-session", detail)
            .header(header::WWW_AUTHENTICATE, HeaderValue::from_static("Cookie realm=\"sessiond\""))
    }

    /// The same for an id.
    pub(super) fn no_such_session() -> Self {
        Self::new(StatusCode::NOT_FOUND, "no-session", "there is no live session of this id")
    }

    /// The caller's key is missing, unknown or too weak. Never 401: a gateway would take that for "not logged in".
    pub(super) fn forbidden(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, code, detail)
    }

    pub(super) fn not_found() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "not-found",
            "there is nothing at this path: GET /openapi.yaml says what there is (on --ops-addr, where there is one)",
        )
    }

    pub(super) fn method_not_allowed() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method-not-allowed",
            "this path does not take this method: the Allow header says which it takes",
        )
    }

    /// Trying again later may help.
    pub(super) fn unavailable(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail)
            .header(header::RETRY_AFTER, HeaderValue::from_static("1"))
    }

    /// A limit is reached. `detail` is for the caller, `why` for the log.
    pub(super) fn overloaded(detail: &str, why: &'static str) -> Self {
        Self::unavailable("overloaded", detail).because(Cause::Overloaded(why))
    }

    pub(super) fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "something is wrong in sessiond: its log says more")
    }
}

impl From<session::Error> for Error {
    fn from(error: session::Error) -> Self {
        match error {
            session::Error::Store(store::Error::OutOfTime) => {
                let detail = "the session store is slow: what became of the session is not known; try again";
                Self::unavailable("store-unavailable", detail)
                    .because(Cause::Unavailable("the calls to the store took too long together".into()))
            }
            session::Error::Store(store::Error::Unavailable(why)) => {
                let detail = "the session store does not answer, or refuses to: what became of the session is not known; try again";
                Self::unavailable("store-unavailable", detail).because(Cause::Unavailable(why))
            }
            session::Error::Store(store::Error::Unexpected(why)) => Self::internal().because(Cause::Bug(why)),
            session::Error::Invalid { code, pointer, detail } => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, detail).at(pointer)
            }
            session::Error::PreconditionFailed => {
                let detail =
                    "the session's user or data have changed since: read it again, and send the new ETag in If-Match";
                Self::new(StatusCode::PRECONDITION_FAILED, "precondition-failed", detail)
            }
            session::Error::PatchConflict(detail) => Self::new(StatusCode::CONFLICT, "patch-conflict", detail),
            session::Error::Unreadable(detail) => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "unreadable-session", detail)
            }
            session::Error::TooManySessions { limit } => {
                let detail = format!(
                    "the user has {limit} sessions, and may have no more: let them end one, which GET and DELETE \
                     /v1/users/{{user_id}}/sessions help with (scope admin)"
                );
                Self::new(StatusCode::CONFLICT, "too-many-sessions", detail)
            }
            session::Error::TooMuch { limit } => {
                let detail = format!("the sessions take more than {limit} bytes together: ask for fewer at once");
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "answer-too-large", detail)
            }
            session::Error::Contention => {
                Self::unavailable("contention", "too many callers change this session at once: try again")
            }
        }
    }
}

/// A line of JSON, of about `size` bytes; it ends the line, for those who read it in a terminal.
pub(super) fn json(body: &impl Serialize, size: usize) -> Vec<u8> {
    let mut json = Vec::with_capacity(size);
    if serde_json::to_writer(&mut json, body).is_err() {
        json.clear();
    }
    json.push(b'\n');
    json
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let status = self.status();
        let body = json(&self.problem, 512);
        let mut response =
            (status, [(header::CONTENT_TYPE, PROBLEM_JSON)], AppendHeaders(self.headers), body).into_response();
        if let Some(cause) = self.cause {
            response.extensions_mut().insert(cause);
        }
        response
    }
}
