//! The hello of examples/hello.rs, served as axum's README serves one: by an accept loop that knows no deadlines.

use std::sync::{Arc, RwLock};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::serve::ListenerExt;

/// As sessiond has.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
    let router = Router::new().route("/hello", get(hello).put(put)).with_state(Body::default());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    eprintln!("listens on {}", listener.local_addr()?);
    // Nagle's algorithm is off, as with sessiond.
    axum::serve(listener.tap_io(|stream| drop(stream.set_nodelay(true))), router).await?;
    Ok(())
}
