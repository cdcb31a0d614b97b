//! The middleware of every route. It checks host and key, bounds how many requests are in progress and for how long, and
//! writes the metrics and the log.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use prometheus_client::metrics::gauge::Gauge;
use tokio::time::timeout;
use uuid::{NoContext, Timestamp, Uuid};

use super::error::{Cause, Error, Result};
use super::host::Hosts;
use super::traces::{Span, TraceParent};
use super::{Api, App, ops};
use crate::caller::{Scope, bearer};
use crate::telemetry::RouteMetrics;

/// How long a request may take after its body was read; then it is answered 503. Calls to the store take far less.
const WORK: Duration = Duration::from_secs(5);

/// The most header fields that a request may have. Over HTTP/1.1 the server refuses more before they get here.
pub const MAX_HEADERS: usize = 64;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const MAX_REQUEST_ID_BYTES: usize = 128;

/// The guard of one route.
#[derive(Clone)]
pub(super) struct Guard {
    app: App,
    /// The scope that the caller's key needs. `None`: the route needs no key.
    scope: Option<Scope>,
    /// Whether the route is a probe. Probes are never refused for load: an orchestrator would end the process.
    is_probe: bool,
    metrics: Arc<RouteMetrics>,
    hosts: Hosts,
}

impl Guard {
    pub(super) fn new(app: &App, scope: Option<Scope>, method: String, path: String, hosts: Hosts) -> Self {
        let is_probe = ops::PROBES.contains(&path.as_str());
        let metrics = Arc::new(app.sessions.metrics().route(method, path));
        Self { app: app.clone(), scope, is_probe, metrics, hosts }
    }
}

/// The outermost middleware of a route.
pub(super) async fn guard(
    State(guard): State<Guard>,
    Extension(api): Extension<Arc<Api>>,
    request: Request,
    next: Next,
) -> Response {
    let limit = guard.app.read_timeout + WORK;
    let work = |request| async move {
        timeout(limit, next.run(request)).await.map_err(|_| {
            Error::unavailable("deadline", "the answer took too long: whether a change was made is not known")
                .because(Cause::Unavailable("a request took too long".into()))
        })
    };
    let (mut response, in_flight) = guard.around(&api, request, work).await;
    response.extensions_mut().insert(Arc::new(in_flight));
    response
}

/// The requests of one listener that are in progress.
pub(super) struct Counts {
    /// All of the process, as a metric.
    all: Gauge,
    /// Those for routes that need a scope, from callers who have it.
    scoped: AtomicI64,
    /// All others. They have a limit of their own, so that callers without a key cannot displace callers with one.
    unscoped: AtomicI64,
}

impl Counts {
    pub(super) fn new(app: &App) -> Self {
        let all = app.sessions.metrics().requests_in_flight.clone();
        Self { all, scoped: AtomicI64::new(0), unscoped: AtomicI64::new(0) }
    }

    fn of(&self, is_scoped: bool) -> &AtomicI64 {
        if is_scoped { &self.scoped } else { &self.unscoped }
    }
}

/// A request in progress. It ends when this is dropped: when the answer has been sent, or the caller has hung up.
pub struct InFlight {
    api: Arc<Api>,
    is_scoped: bool,
    /// How many of its kind were in progress before it.
    others: i64,
}

impl InFlight {
    fn new(api: &Arc<Api>, is_scoped: bool) -> Self {
        api.counts.all.inc();
        let others = api.counts.of(is_scoped).fetch_add(1, Ordering::Relaxed);
        Self { api: Arc::clone(api), is_scoped, others }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.api.counts.all.dec();
        self.api.counts.of(self.is_scoped).fetch_sub(1, Ordering::Relaxed);
    }
}

impl Guard {
    /// Lets `work` answer the request, if it is admitted. A panic is answered 500.
    pub(super) async fn around<W: Future<Output = Result>>(
        &self,
        api: &Arc<Api>,
        request: Request,
        work: impl FnOnce(Request) -> W,
    ) -> (Response, InFlight) {
        let began = Instant::now();
        let request_id = request_id(request.headers());
        let parent = TraceParent::of(request.headers());
        let span = Span::begin(parent, self.metrics.method(), self.metrics.route());
        let trace_id = parent.map(|parent| parent.trace_id.to_owned());
        let (in_flight, admitted) = self.admit(api, &request);
        let answer = match admitted {
            // The panic hook has logged it.
            Ok(()) => AssertUnwindSafe(work(request)).catch_unwind().await.unwrap_or_else(|_| Err(Error::internal())),
            Err(refusal) => Err(refusal),
        };
        let mut response = answer.unwrap_or_else(IntoResponse::into_response);
        let took = began.elapsed();
        self.metrics.answered(response.status().as_u16(), took);
        if let Some(span) = span {
            span.end(response.status().as_u16());
        }
        log(&self.metrics, &mut response, &request_id, trace_id.as_deref(), took);
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(REQUEST_ID, request_id);
        (response, in_flight)
    }

    /// Counts the request as in progress. Refuses it if its caller may not make it, or if too many are in progress. A
    /// request that its caller may not make counts as one without a key.
    fn admit(&self, api: &Arc<Api>, request: &Request) -> (InFlight, Result<()>) {
        if let Err(refusal) = self.check(request) {
            return (InFlight::new(api, false), Err(refusal));
        }
        let in_flight = InFlight::new(api, self.scope.is_some());
        let admitted = if self.is_probe || in_flight.others < self.app.max_in_flight {
            Ok(())
        } else {
            let why = "as many requests are in progress as --max-in-flight allows";
            Err(Error::overloaded("too many requests are in progress: try again", why))
        };
        (in_flight, admitted)
    }

    /// Refuses a request that its caller may not make.
    fn check(&self, request: &Request) -> Result<()> {
        self.hosts.check(request)?;
        if request.headers().len() > MAX_HEADERS {
            let detail = format!("a request may have {MAX_HEADERS} header fields: send fewer");
            return Err(Error::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "too-many-headers", detail));
        }
        if let Some(needed) = self.scope {
            authorize(&self.app, needed, request.headers())?;
        }
        Ok(())
    }
}

/// Refuses a caller whose key is missing, unknown or too weak.
fn authorize(app: &App, needed: Scope, headers: &HeaderMap) -> Result<()> {
    let keys = app.keys.load();
    if keys.is_empty() {
        return Ok(());
    }
    let header = headers.get(header::AUTHORIZATION);
    let Some(presented) = header.and_then(|value| bearer(value.as_bytes())) else {
        let but = if header.is_some() { ", and the Authorization header does not begin with Bearer" } else { "" };
        let detail =
            format!("this call needs a key with the scope {needed}: send Authorization: Bearer and the key{but}");
        return Err(Error::forbidden("missing-api-key", detail));
    };
    let Some(key) = keys.find(presented) else {
        let detail = "the key in the Authorization header is none that is configured: `sessiond keygen` makes one";
        return Err(Error::forbidden("unknown-api-key", detail));
    };
    if key.scope < needed {
        let detail = format!("this call needs a key with the scope {needed}, and the scope of yours is {}", key.scope);
        return Err(Error::forbidden("missing-scope", detail));
    }
    Ok(())
}

/// Returns the caller's id for the request if a log can hold it, or else a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let fits = |value: &&HeaderValue| {
        (1..=MAX_REQUEST_ID_BYTES).contains(&value.len()) && value.as_bytes().iter().all(u8::is_ascii_graphic)
    };
    headers.get(REQUEST_ID).filter(fits).cloned().unwrap_or_else(|| {
        // Without the context that orders those of one millisecond: all threads would share it.
        let id = Uuid::new_v7(Timestamp::now(NoContext)).hyphenated().to_string();
        HeaderValue::from_maybe_shared(bytes::Bytes::from(id)).unwrap_or(HeaderValue::from_static(""))
    })
}

/// Logs a request that failed here as an error or a warning, and every other one at the level debug.
fn log(
    metrics: &RouteMetrics,
    response: &mut Response,
    request_id: &HeaderValue,
    trace_id: Option<&str>,
    took: Duration,
) {
    let status = response.status();
    let cause = response.extensions_mut().remove::<Cause>();
    if !status.is_server_error() && !tracing::enabled!(tracing::Level::DEBUG) {
        return;
    }
    let (method, route) = (metrics.method(), metrics.route());
    // A u64, for JSON has a u128 as a string.
    let (status, duration_ms) = (status.as_u16(), u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
    let request_id = request_id.to_str().unwrap_or_default();
    let log_503 = |last: &LastWarning, why: &str| {
        if last.is_due() {
            let message = "a request was answered 503; further ones within 10 s are logged at the level debug only";
            tracing::warn!(method, route, status, duration_ms, request_id, trace_id, why, message);
        } else {
            tracing::debug!(method, route, status, duration_ms, request_id, trace_id, why, "a request failed");
        }
    };
    match cause {
        Some(Cause::Bug(why)) => {
            tracing::error!(method, route, status, duration_ms, request_id, trace_id, why, "a request failed");
        }
        Some(Cause::Unavailable(why)) => log_503(&OUTAGE, &why),
        Some(Cause::Overloaded(why)) => log_503(&OVERLOAD, why),
        None if status == StatusCode::INTERNAL_SERVER_ERROR => {
            tracing::error!(method, route, status, duration_ms, request_id, trace_id, "a request failed");
        }
        None => tracing::debug!(method, route, status, duration_ms, request_id, trace_id, "answered"),
    }
}

/// The last warning about an unreachable store, and about too much load. They are apart, because callers without a key
/// can cause load: their warning must not hide an outage.
static OUTAGE: LastWarning = LastWarning(Mutex::new(None));
static OVERLOAD: LastWarning = LastWarning(Mutex::new(None));

/// When a warning was logged last. While the store is unreachable every call fails: one line in ten seconds is enough.
struct LastWarning(Mutex<Option<Instant>>);

impl LastWarning {
    /// Whether to log the warning now.
    fn is_due(&self) -> bool {
        const INTERVAL: Duration = Duration::from_secs(10);
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = last.is_none_or(|last| last.elapsed() >= INTERVAL);
        if is_due {
            *last = Some(Instant::now());
        }
        is_due
    }
}
