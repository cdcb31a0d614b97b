//! The HTTP API: every route, and the middleware in order.

mod budget;
mod docs;
mod error;
mod extract;
mod guard;
mod host;
mod openapi;
mod ops;
mod session;
mod sessions;
mod traces;
mod users;
mod wire;

pub use self::traces::Exporter;

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::body::{Body, HttpBody};
use axum::handler::Handler;
use axum::http::{Method, Request};
use axum::middleware::from_fn_with_state;
use axum::response::Response;
use axum::{BoxError, Router};
use bytes::Bytes;
use tower::ServiceExt;
use utoipa::OpenApi;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};
use utoipa_axum::routes;

use self::budget::Budget;
use self::error::Error;
use self::guard::{Counts, Guard, guard};
pub use self::guard::{InFlight, MAX_HEADERS};
use self::host::Hosts;
use crate::cache::Answers;
use crate::caller::{Keys, Scope};
use crate::config::{Checked, Server};
use crate::cookie::{SetCookie, Signer};
use crate::session::Sessions;

/// What the handlers share. Cheap to clone.
#[derive(Clone)]
pub struct App(Arc<Shared>);

/// The inside of [`App`].
pub struct Shared {
    sessions: Sessions,
    answers: Answers<wire::Shown>,
    keys: ArcSwap<Keys>,
    signer: Signer,
    set_cookie: SetCookie,
    max_body_bytes: usize,
    read_timeout: Duration,
    max_in_flight: i64,
    readiness: ops::Readiness,
    hosts: Hosts,
    ops_hosts: Hosts,
    bodies: Budget,
    batches: Budget,
    lookups: Budget,
    large_answers: Budget,
    metrics_texts: Budget,
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
            max_in_flight: i64::try_from(server.max_in_flight).unwrap_or(i64::MAX),
            readiness: ops::Readiness::default(),
            bodies: Budget::new(budget::BODIES),
            batches: Budget::new(budget::BATCHES),
            lookups: Budget::new(budget::LOOKUPS),
            large_answers: Budget::new(budget::ANSWERS),
            metrics_texts: Budget::new(budget::TEXTS),
            hosts: Hosts::of(&server.listen, config.keys.is_empty(), &server.allowed_host),
            // Its routes need no key, whether or not there are any.
            ops_hosts: server.ops_addr.as_ref().map(|at| Hosts::of(at, true, &server.allowed_host)).unwrap_or_default(),
            keys: ArcSwap::from_pointee(config.keys.clone()),
            answers: Answers::new(sessions.clone(), config.cache),
            sessions,
        }))
    }

    /// From now on, these are the callers' keys.
    pub fn set_keys(&self, keys: Keys) {
        self.0.keys.store(Arc::new(keys));
    }
}

type Route = UtoipaMethodRouter<App>;

/// Every route for callers, with the scope that it needs.
fn routes() -> Vec<(Scope, Route)> {
    let session = || {
        vec![
            (Scope::Resolve, routes!(session::resolve)),
            (Scope::Session, routes!(session::update)),
            (Scope::Session, routes!(session::replace)),
            (Scope::Session, routes!(session::touch)),
            (Scope::Session, routes!(session::regenerate)),
            (Scope::Session, routes!(session::revoke)),
        ]
    };
    let mut routes =
        vec![(Scope::Session, routes!(sessions::issue)), (Scope::Resolve, routes!(sessions::resolve_many))];
    routes.extend(session());
    routes.extend(session().into_iter().map(|(_, route)| (Scope::Admin, openapi::by_id(route))));
    routes.push((Scope::Admin, routes!(users::list)));
    routes.push((Scope::Admin, routes!(users::revoke)));
    routes
}

/// Every route for those who run the service: nobody needs a key, and none tells of a session.
fn ops_routes() -> Vec<Route> {
    vec![
        routes!(ops::livez),
        routes!(ops::readyz),
        routes!(ops::metrics),
        routes!(ops::contract),
        routes!(docs::page),
        routes!(docs::asset),
    ]
}

/// The API as a service.
#[derive(Clone)]
pub struct Api {
    /// The route that is asked for with every request of every browser. It is answered without the router, whose layers
    /// would cost as much as the answer.
    hot: Option<(App, Guard)>,
    router: Router,
    counts: Arc<Counts>,
}

impl Api {
    /// Every route. `ops`: also those for who runs the service.
    #[must_use]
    pub fn new(app: &App, ops: bool) -> Self {
        let routes = routes().into_iter().map(|(scope, route)| (Some(scope), route));
        let ops_routes = ops_routes().into_iter().filter(|_| ops).map(|route| (None, route));
        let guard = Guard::new(app, Some(Scope::Resolve), "get".into(), session::PATH.into(), app.hosts.clone());
        let router = around(routes.chain(ops_routes), app, &app.hosts);
        Self { hot: Some((app.clone(), guard)), router, counts: Arc::new(Counts::new(app)) }
    }

    /// The ops routes alone, for a listener of their own.
    #[must_use]
    pub fn ops(app: &App) -> Self {
        let routes = ops_routes().into_iter().map(|route| (None, route));
        Self { hot: None, router: around(routes, app, &app.ops_hosts), counts: Arc::new(Counts::new(app)) }
    }

    /// With further routes, which nothing guards.
    #[must_use]
    pub fn merge(self, others: Router) -> Self {
        Self { router: self.router.merge(others), ..self }
    }

    /// Answers a request. It counts as in progress for as long as the second value is held, which is to be until the
    /// answer has been sent.
    pub async fn answer<B>(self: &Arc<Self>, request: Request<B>) -> (Response, Option<InFlight>)
    where
        B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        match &self.hot {
            Some((app, guard)) if request.method() == Method::GET && request.uri().path() == session::PATH => {
                let work = |request| session::answer(app, request);
                let (response, in_flight) = guard.around(self, request.map(|_| Body::empty()), work).await;
                (response, Some(in_flight))
            }
            _ => {
                let mut request = request.map(Body::new);
                request.extensions_mut().insert(Arc::clone(self));
                let mut response = self.router.clone().oneshot(request).await.unwrap_or_else(|never| match never {});
                let in_flight = response.extensions_mut().remove::<Arc<InFlight>>();
                (response, in_flight.and_then(Arc::into_inner))
            }
        }
    }
}

/// Puts the guard around each route, and adds the answers to what is no route.
fn around(routes: impl Iterator<Item = (Option<Scope>, Route)>, app: &App, hosts: &Hosts) -> Router {
    let mut router = Router::new();
    for (scope, (_, paths, methods)) in routes {
        let (path, method) = openapi::names(&paths);
        let guard = from_fn_with_state(Guard::new(app, scope, method, path.clone(), hosts.clone()), guard);
        router = router.route(&path, methods.route_layer(guard));
    }
    let guard = from_fn_with_state(Guard::new(app, None, "any".into(), "none".into(), hosts.clone()), guard);
    router
        .fallback((async || Error::not_found()).layer(guard.clone()))
        .method_not_allowed_fallback((async || Error::method_not_allowed()).layer(guard))
        .with_state(app.clone())
}

/// The contract as the handlers state it, in YAML.
///
/// # Panics
/// Never: the document is made of what is compiled in.
#[must_use]
pub fn contract() -> String {
    let routes = routes().into_iter().map(|(scope, route)| openapi::guarded(scope, route));
    let router = OpenApiRouter::with_openapi(openapi::Contract::openapi());
    let router = routes.chain(ops_routes()).fold(router, OpenApiRouter::routes);
    let (_, mut contract) = router.split_for_parts();
    // Only the page itself asks for its parts.
    contract.paths.paths.remove(docs::ASSET);
    contract.to_yaml().expect("the contract can be written as YAML")
}

#[cfg(test)]
mod tests;
