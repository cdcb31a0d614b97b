//! One multiplexed connection to Redis, made anew whenever it is lost.
//!
//! Callers never wait for a connection: without one a call fails at once. The redis crate's own `ConnectionManager`
//! makes callers wait past their deadline, and keeps a connection whose server no longer answers.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{AsyncConnectionConfig, Client, InfoDict, RedisError};
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

use crate::store::url::RedisTarget;
use crate::store::{DEADLINE, Error, Result};
use crate::supervise::Task;
use crate::telemetry::Metrics;

/// How long to wait after a try that failed.
const PAUSE: Duration = Duration::from_millis(100);
/// How often a connection that nobody complains of is tried.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How many commands may wait to be written; the crate's default of 50 makes busy callers wait for each other.
const QUEUE: usize = 1024;

/// Replies with which Redis says that it could serve the call, but will not now.
const AWAY: [&str; 13] = [
    "BUSY",
    "CLUSTERDOWN",
    "EXECABORT",
    "LOADING",
    "MASTERDOWN",
    "MISCONF",
    "NOAUTH",
    "NOPERM",
    "NOREPLICAS",
    "OOM",
    "READONLY",
    "TRYAGAIN",
    "WRONGPASS",
];

#[derive(Clone)]
pub(super) struct Link {
    client: Client,
    connection: watch::Receiver<Option<Connected>>,
    suspicion: Arc<Notify>,
    moved: Arc<Notify>,
    metrics: Arc<Metrics>,
}

/// A connection, and what names the server at its end for as long as it runs, where that may be asked.
#[derive(Clone)]
struct Connected {
    connection: MultiplexedConnection,
    run_id: Option<String>,
}

impl Link {
    /// Starts the task that keeps the connection, and waits for its first try.
    pub(super) async fn open(target: &RedisTarget, metrics: &Arc<Metrics>) -> Result<Self> {
        let tcp = TcpSettings::default().set_nodelay(true);
        let client = Client::open(target.info.clone().set_tcp_settings(tcp))
            .map_err(|error| Error::Unexpected(error.category().into()))?;
        let (keeper, connection) = watch::channel(None);
        let (suspicion, moved) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let metrics = Arc::clone(metrics);
        let mut link = Self { client, connection, suspicion, moved, metrics };
        let (client, suspicion, moved) = (link.client.clone(), Arc::clone(&link.suspicion), Arc::clone(&link.moved));
        let kept = move || keep(client.clone(), keeper.clone(), Arc::clone(&suspicion), Arc::clone(&moved));
        link.task("redis-connection").spawn(kept);
        // Longer than the first try takes, unless it panics.
        let _ = timeout(2 * DEADLINE, link.connection.changed()).await;
        Ok(link)
    }

    /// A background task of this store.
    pub(super) fn task(&self, name: &'static str) -> Task {
        Task::new(name, &self.metrics)
    }

    /// The connection, if there is one.
    pub(super) fn connection(&self) -> Result<MultiplexedConnection> {
        let connected = self.connection.borrow();
        let connection = connected.as_ref().map(|connected| connected.connection.clone());
        connection.ok_or_else(|| Error::Unavailable("Redis is not connected".into()))
    }

    /// What makes further connections to the same address.
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Only what is lost or made anew after this is a change.
    pub(super) fn mark_unchanged(&mut self) {
        self.connection.mark_unchanged();
    }

    /// Waits until the connection is lost, or made anew.
    pub(super) async fn changed(&mut self) {
        let _ = self.connection.changed().await;
    }

    /// Whether a further connection, which has come to the server `run_id`, goes where this one does. If not, the address
    /// leads elsewhere by now, and this one is made anew.
    pub(super) fn is_to(&self, run_id: Option<&str>) -> bool {
        let ours = self.connection.borrow().as_ref().and_then(|connected| connected.run_id.clone());
        let same = run_id.zip(ours.as_deref()).is_none_or(|(theirs, ours)| theirs == ours);
        if !same {
            self.moved.notify_waiters();
        }
        same
    }

    /// What an error of the crate means to a caller.
    pub(super) fn failed(&self, error: &RedisError) -> Error {
        match code(error) {
            Some(code) if !AWAY.contains(&code.as_str()) => Error::Unexpected(reason(error)),
            _ => Error::Unavailable(reason(error)),
        }
    }

    /// A call failed: have the connection tried now.
    pub(super) fn suspect(&self) {
        self.suspicion.notify_one();
    }
}

/// Keeps `keeper` filled until nobody reads it. An outage is logged once, when it begins and when it is over.
async fn keep(client: Client, keeper: watch::Sender<Option<Connected>>, suspicion: Arc<Notify>, moved: Arc<Notify>) {
    let mut away = false;
    while !keeper.is_closed() {
        match connect(&client).await {
            Ok(connected) => {
                if std::mem::take(&mut away) {
                    tracing::info!("Redis is back");
                }
                let connection = connected.connection.clone();
                let _ = keeper.send(Some(connected));
                let serves = async {
                    while !keeper.is_closed() && serves(connection.clone()).await {
                        let _ = timeout(HEARTBEAT, suspicion.notified()).await;
                    }
                    "it does not answer, or is a replica"
                };
                let why = tokio::select! {
                    why = serves => why,
                    () = moved.notified() => "its address leads to another server",
                };
                if !keeper.is_closed() {
                    tracing::error!("Redis is away: {why}; connecting anew until it is back");
                }
                away = true;
                let _ = keeper.send(None);
                sleep(PAUSE).await;
            }
            Err(error) => {
                if !std::mem::replace(&mut away, true) {
                    tracing::error!(%error, "Redis is away; trying again until it is back");
                }
                // Tells `open` that the first try is over.
                let _ = keeper.send(None);
                sleep(PAUSE).await;
            }
        }
    }
}

/// A replica does not: it refuses writes, and is behind in what is read.
async fn serves(mut connection: MultiplexedConnection) -> bool {
    let info = timeout(DEADLINE, info(&mut connection, "replication")).await;
    info.is_ok_and(|info| info.is_ok_and(|info| !info.is_some_and(|info| is_replica(&info))))
}

async fn connect(client: &Client) -> Result<Connected> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(DEADLINE))
        .set_response_timeout(None)
        .set_pipeline_buffer_size(QUEUE);
    let attempt = async {
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        let info = info(&mut connection, "default").await?;
        Ok((connection, info))
    };
    let (connection, info) = timeout(DEADLINE, attempt)
        .await
        .map_err(|_| Error::Unavailable("no answer".into()))?
        .map_err(|error| Error::Unavailable(reason(&error)))?;
    if let Some(info) = &info {
        check(info)?;
    }
    Ok(Connected { connection, run_id: info.as_ref().and_then(run_id) })
}

/// What Redis says of itself. None from one that answers, but not that: while it does (LOADING, BUSY), or for a user that
/// may not ask (NOPERM), who is believed.
pub(super) async fn info(
    connection: &mut MultiplexedConnection,
    section: &str,
) -> std::result::Result<Option<InfoDict>, RedisError> {
    match redis::cmd("INFO").arg(section).query_async(connection).await {
        Err(error) if error.code().is_some() => Ok(None),
        info => info.map(Some),
    }
}

pub(super) fn run_id(info: &InfoDict) -> Option<String> {
    info.get("run_id")
}

fn is_replica(info: &InfoDict) -> bool {
    info.get::<String>("role").is_some_and(|role| role == "slave")
}

/// The code of Redis's reply; of a pipeline the first, of which the crate tells none that it does not know.
fn code(error: &RedisError) -> Option<String> {
    error.clone().into_server_errors()?.first().map(|(_, reply)| reply.code().to_owned())
}

/// What may be told of an error: Redis's code but not its text, which may name keys; of the network's errors, all.
pub(super) fn reason(error: &RedisError) -> String {
    match code(error).as_deref() {
        Some("OOM") => "Redis is full (OOM): raise its maxmemory, or let sessions expire sooner".into(),
        Some(code) => format!("Redis answered {code}"),
        None if error.is_io_error() => error.to_string(),
        None => error.category().to_owned(),
    }
}

fn check(info: &InfoDict) -> Result<()> {
    let version: String = info.get("redis_version").unwrap_or_default();
    let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    if major.is_some_and(|major| major < 7) {
        return Err(Error::Unavailable(format!("this is Redis {version}, and 7.0 or later is needed")));
    }
    if is_replica(info) {
        return Err(Error::Unavailable("this Redis is a replica: give the address of its primary".into()));
    }
    let policy: String = info.get("maxmemory_policy").unwrap_or_default();
    if policy.starts_with("allkeys") {
        tracing::warn!(
            policy,
            "Redis may evict live sessions when it is full: set maxmemory-policy to noeviction or volatile-ttl"
        );
    }
    Ok(())
}
