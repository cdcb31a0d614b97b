//! Tells a [`Watcher`] what anybody does to our keys: a connection of its own, over which Redis pushes the name of every
//! key that is written (`CLIENT TRACKING ON BCAST`): at the end of each turn of its loop, before it answers those whose
//! writes they were.
//!
//! So a PONG proves that every change which was acknowledged before the PING was sent has been told. Between two connections
//! changes are missed: then the watcher is told to doubt everything, once when a connection ends, and once when the
//! next one tracks, for what was read in between.

use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ProtocolVersion, PushInfo, PushKind, RedisError, Value};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::link::{Link, info, reason, run_id};
use crate::clock::BootInstant;
use crate::store::{DEADLINE, Watcher};

/// How long to wait after a connection that failed.
const PAUSE: Duration = Duration::from_millis(100);
/// How often a watcher is told that everything was told, as a part of its staleness.
const BEATS: u32 = 5;

/// Starts the task that tracks. If it panics, everything is doubted at once, and it is restarted.
pub(super) fn track(link: Link, prefix: String, watcher: Arc<dyn Watcher>) -> JoinHandle<()> {
    link.task("redis-tracker").spawn(move || {
        let (following, watcher) = (follow(link.clone(), prefix.clone(), Arc::clone(&watcher)), Arc::clone(&watcher));
        async move {
            let end = AssertUnwindSafe(following).catch_unwind().await;
            watcher.doubt();
            if let Err(panic) = end {
                resume_unwind(panic);
            }
        }
    })
}

/// Tracks until it is dropped, what is read over `link`: begins anew whenever that is another connection, and has it made
/// anew when it goes to another server. So nothing is kept that one server has said and another would tell of.
async fn follow(link: Link, prefix: String, watcher: Arc<dyn Watcher>) {
    let info = link.client().get_connection_info().clone();
    // RESP3 is the protocol that has pushes.
    let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    let Ok(client) = Client::open(info.set_redis_settings(settings)) else { return };
    let heartbeat = watcher.max_staleness() / BEATS;
    let (mut away, ended) = (false, Arc::new(Notify::new()));
    let mut changes = link.clone();
    loop {
        changes.mark_unchanged();
        let end = async {
            let (mut connection, run_id) = connect(&client, &prefix, &watcher, &ended).await?;
            if !link.is_to(run_id.as_deref()) {
                return Err((redis::ErrorKind::Io, "the address leads to another server").into());
            }
            watcher.doubt();
            if std::mem::take(&mut away) {
                tracing::info!("the near-cache follows Redis again");
            }
            loop {
                let at = BootInstant::now();
                beat(&mut connection).await?;
                watcher.current(at);
                // Or until the connection has ended, which the next PING finds out.
                let _ = timeout(heartbeat, ended.notified()).await;
            }
        };
        let end: Result<Infallible, RedisError> = tokio::select! {
            end = end => end,
            () = changes.changed() => Err((redis::ErrorKind::Io, "the connection for calls is another one").into()),
        };
        watcher.doubt();
        if let Err(error) = end
            && !std::mem::replace(&mut away, true)
        {
            let why = reason(&error);
            tracing::warn!(why, "the near-cache cannot follow Redis, and is not used until it can; trying again");
        }
        sleep(PAUSE).await;
    }
}

async fn beat(connection: &mut MultiplexedConnection) -> Result<(), RedisError> {
    timeout(DEADLINE, redis::cmd("PING").exec_async(connection)).await.unwrap_or_else(|_| Err(late()))
}

async fn connect(
    client: &Client,
    prefix: &str,
    watcher: &Arc<dyn Watcher>,
    ended: &Arc<Notify>,
) -> Result<(MultiplexedConnection, Option<String>), RedisError> {
    let (told, strip, ended) = (Arc::clone(watcher), prefix.to_owned(), Arc::clone(ended));
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(DEADLINE))
        .set_response_timeout(None)
        // Called for each push as it is read, before any reply behind it is handed out.
        .set_push_sender(move |push: PushInfo| {
            tell(&push, &strip, told.as_ref());
            if push.kind == PushKind::Disconnection {
                ended.notify_one();
            }
            Ok::<_, redis::aio::SendError>(())
        });
    let attempt = async {
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        let run_id = info(&mut connection, "server").await?.as_ref().and_then(run_id);
        let mut tracking = redis::cmd("CLIENT");
        tracking.arg(&["TRACKING", "ON", "BCAST", "PREFIX", prefix]).exec_async(&mut connection).await?;
        Ok((connection, run_id))
    };
    timeout(DEADLINE, attempt).await.unwrap_or_else(|_| Err(late()))
}

/// Anything that is not a list of our keys is a reason to doubt: a flush (null), the connection's end, what a later Redis
/// may say.
fn tell(push: &PushInfo, prefix: &str, watcher: &dyn Watcher) {
    let keys = match (&push.kind, push.data.as_slice()) {
        (PushKind::Invalidate, [Value::Array(keys)]) => keys,
        _ => return watcher.doubt(),
    };
    for key in keys {
        let name = match key {
            Value::BulkString(name) => std::str::from_utf8(name).ok(),
            Value::SimpleString(name) => Some(name.as_str()),
            _ => None,
        };
        match name {
            // A name that is not Unicode is none of ours: nothing is kept of it.
            Some(name) => name.strip_prefix(prefix).into_iter().for_each(|id| watcher.changed(id)),
            None if matches!(key, Value::BulkString(_)) => {}
            None => watcher.doubt(),
        }
    }
}

fn late() -> RedisError {
    (redis::ErrorKind::Io, "no answer in time").into()
}
