//! The service with one route more, for scripts/bench: `GET /hello` answers what was last `PUT` there, and does nothing
//! else. So a resolve and a bare axum handler are measured in one process, over one accept loop, with one body.

use std::sync::{Arc, RwLock};

use axum::Router;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;
use bytes::Bytes;
use clap::Parser;
use sessiond::api::{Api, App};
use sessiond::clock::Clock;
use sessiond::config::Config;
use sessiond::server::{self, Listener};
use sessiond::session::Sessions;
use sessiond::store;
use sessiond::telemetry::Metrics;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    config: Config,
}

type Body = Arc<RwLock<Bytes>>;

async fn hello(State(body): State<Body>) -> impl IntoResponse {
    let body = body.read().map(|body| body.clone()).unwrap_or_default();
    ([(header::CONTENT_TYPE, "application/json")], body)
}

async fn put(State(body): State<Body>, new: Bytes) {
    if let Ok(mut body) = body.write() {
        *body = new;
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config = Flags::parse().config;
    let checked = config.check()?;
    let store = store::open(&checked.store, &checked.keyspace).await?;
    let metrics = Arc::new(Metrics::new());
    let sessions =
        Sessions::new(store, checked.policy.clone(), checked.attributes.clone(), Clock::system(), Arc::clone(&metrics));
    let hello = Router::new().route("/hello", get(hello).put(put)).with_state(Body::default());
    let api = Api::new(&App::new(sessions, &checked, &config.server), true).merge(hello);
    let listener = Listener::bind(&config.server.listen).await?;
    eprintln!("listens on {}", listener.address().ok_or("no address")?);
    server::serve(listener, api, &config.server, &metrics, std::future::pending()).await;
    Ok(())
}
