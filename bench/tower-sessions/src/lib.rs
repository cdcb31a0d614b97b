//! axum, tower-sessions and its Redis store, as their READMEs put them together. A resolve only reads.

use std::env;
use std::error::Error;

use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use fred::prelude::{ClientLike, Config, Pool, ServerConfig};
use serde_json::{Map, Value};
use tower_sessions::{Expiry, Session, SessionManagerLayer};
use tower_sessions_redis_store::RedisStore;

type Answer = Result<(StatusCode, Json<Map<String, Value>>), StatusCode>;

async fn issue(session: Session, Json(answer): Json<Map<String, Value>>) -> StatusCode {
    match session.insert("answer", answer).await {
        Ok(()) => StatusCode::CREATED,
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

async fn resolve(session: Session) -> Answer {
    let stored = session.get::<Map<String, Value>>("answer").await.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    let (Some(mut answer), Some(id)) = (stored, session.id()) else { return Err(StatusCode::UNAUTHORIZED) };
    answer.insert("id".into(), id.to_string().into());
    Ok((StatusCode::OK, Json(answer)))
}

/// Serves until killed. `REDIS_SOCKET` is Redis's unix socket, `REDIS_POOL` how many connections to it are kept.
///
/// # Errors
/// When Redis is not there.
pub async fn serve() -> Result<(), Box<dyn Error>> {
    let server = ServerConfig::Unix { path: env::var("REDIS_SOCKET")?.into() };
    // The store has no prefix for its keys: a database of its own.
    let config = Config { server, database: Some(1), ..Config::default() };
    let pool = Pool::new(config, None, None, None, env::var("REDIS_POOL")?.parse()?)?;
    let _task = pool.connect();
    pool.wait_for_connect().await?;
    let sessions = SessionManagerLayer::new(RedisStore::new(pool))
        .with_expiry(Expiry::OnInactivity(time::Duration::days(1)))
        .with_secure(false);
    let router = Router::new().route("/sessions", post(issue)).route("/session", get(resolve)).layer(sessions);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    eprintln!("listens on {}", listener.local_addr()?);
    axum::serve(listener, router).await?;
    Ok(())
}
