//! The HTTP API: every route, and the middleware in order.

mod docs;
mod error;
mod extract;
mod openapi;
mod ops;
mod session;
mod sessions;
mod wire;

use std::any::Any;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::error::Error;
use crate::config::{Checked, Server};
use crate::cookie::{SetCookie, Signer};
use crate::session::Sessions;

/// Time on top of reading the body after which a request is answered 503: far more than a few calls to the store.
const WORK: Duration = Duration::from_secs(5);

/// What the handlers share. Cheap to clone.
#[derive(Clone)]
pub struct App(Arc<Shared>);

/// The inside of [`App`].
pub struct Shared {
    sessions: Sessions,
    signer: Signer,
    set_cookie: SetCookie,
    max_body_bytes: usize,
    read_timeout: Duration,
    in_flight: Semaphore,
}

impl Deref for App {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl App {
    /// The API over `sessions`.
    #[must_use]
    pub fn new(sessions: Sessions, config: &Checked, server: &Server) -> Self {
        Self(Arc::new(Shared {
            signer: Signer::new(&config.secrets),
            set_cookie: config.set_cookie.clone(),
            // Data may come with escapes and white space that are not stored.
            max_body_bytes: 2 * sessions.policy().max_data_bytes + 16 * 1024,
            read_timeout: Duration::from_millis(server.read_timeout.unsigned_abs()),
            in_flight: Semaphore::new(server.max_in_flight),
            sessions,
        }))
    }
}

/// Every route.
fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(openapi::Contract::openapi())
        .routes(routes!(sessions::issue))
        .routes(routes!(session::resolve, session::revoke))
        .routes(routes!(session::update, session::replace))
        .routes(routes!(session::touch))
        .routes(routes!(session::regenerate))
        .routes(routes!(ops::livez))
        .routes(routes!(ops::readyz))
        .routes(routes!(ops::contract))
        .routes(routes!(docs::page))
        .route("/docs/{asset}", get(docs::asset))
}

/// The API as a service.
pub fn router(app: App) -> Router {
    let (router, _) = routes().split_for_parts();
    around(router, app)
}

/// What stands around the routes, from the outside in: the guard, the catching of panics, and the answers to what is no
/// route.
fn around(router: Router<App>, app: App) -> Router {
    router
        .fallback(async || Error::not_found())
        .method_not_allowed_fallback(async || Error::method_not_allowed())
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn_with_state(app.clone(), guard))
        .with_state(app)
}

/// The contract as the handlers state it, in YAML.
///
/// # Panics
/// Never: the document is made of what is compiled in.
#[must_use]
pub fn contract() -> String {
    let (_, contract) = routes().split_for_parts();
    contract.to_yaml().expect("the contract can be written as YAML")
}

/// Bounds how many requests are in work and for how long, and keeps every answer out of caches.
async fn guard(State(app): State<App>, request: Request, next: Next) -> Response {
    // Those who ask whether the process is well are answered also when it has much to do.
    let counts = request.uri().path().starts_with("/v1/");
    let mut response = match counts.then(|| app.in_flight.try_acquire()).transpose() {
        Err(_) => Error::unavailable("overloaded", "too many requests are in work: try again").into_response(),
        Ok(_permit) => timeout(app.read_timeout + WORK, next.run(request)).await.unwrap_or_else(|_| {
            Error::unavailable("deadline", "the answer took too long: whether a change was made is not known")
                .into_response()
        }),
    };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// The panic hook has logged it.
fn panicked(_panic: Box<dyn Any + Send>) -> Response {
    Error::internal().into_response()
}

#[cfg(test)]
mod tests;
