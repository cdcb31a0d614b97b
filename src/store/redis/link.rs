//! One multiplexed connection to Redis, made anew whenever it is lost.
//!
//! Callers never wait for a connection: without one a call fails at once. The redis crate's own `ConnectionManager`
//! makes callers wait past their deadline, and keeps a connection whose server no longer answers.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{AsyncConnectionConfig, Client, ErrorKind, InfoDict, RedisError};
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

const WRONG_PASSWORD: &str = "authentication failed: Redis refuses the user or the password in the URL (WRONGPASS)";

#[derive(Clone)]
pub(super) struct Link {
    client: Client,
    connection: watch::Receiver<std::result::Result<Connected, Disconnected>>,
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

/// Why there is no connection.
#[derive(Clone)]
struct Disconnected {
    why: String,
    /// Redis answers, and refuses the user, the password or the database: waiting changes nothing.
    is_refusal: bool,
}

impl Disconnected {
    fn new(why: impl Into<String>) -> Self {
        Self { why: why.into(), is_refusal: false }
    }

    fn of(error: &RedisError, database: i64) -> Self {
        let refusal = refusal(error, database);
        let is_refusal = refusal.is_some();
        Self { why: refusal.unwrap_or_else(|| reason(error)), is_refusal }
    }
}

impl Link {
    /// Starts the task that keeps the connection, and waits for its first try.
    ///
    /// # Errors
    /// When the target can never be a connection, or Redis refuses the user, the password or the database. A Redis that
    /// cannot be reached is none.
    pub(super) async fn open(target: &RedisTarget, metrics: &Arc<Metrics>) -> Result<Self> {
        let tcp = TcpSettings::default().set_nodelay(true);
        let client = Client::open(target.info.clone().set_tcp_settings(tcp))
            .map_err(|error| Error::Unexpected(error.category().into()))?;
        let (keeper, connection) = watch::channel(Err(Disconnected::new("not yet")));
        let (suspicion, moved) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let metrics = Arc::clone(metrics);
        let mut link = Self { client, connection, suspicion, moved, metrics };
        let (client, suspicion, moved) = (link.client.clone(), Arc::clone(&link.suspicion), Arc::clone(&link.moved));
        let kept = move || keep(client.clone(), keeper.clone(), Arc::clone(&suspicion), Arc::clone(&moved));
        link.task("redis-connection").spawn(kept);
        // Longer than the first try takes, unless it panics.
        let _ = timeout(2 * DEADLINE, link.connection.changed()).await;
        let refusal = link.connection.borrow().as_ref().err().filter(|reason| reason.is_refusal).cloned();
        refusal.map_or(Ok(link), |reason| Err(Error::Unavailable(reason.why)))
    }

    /// A background task of this store.
    pub(super) fn task(&self, name: &'static str) -> Task {
        Task::new(name, &self.metrics)
    }

    /// The connection, if there is one.
    pub(super) fn connection(&self) -> Result<MultiplexedConnection> {
        let connected = self.connection.borrow();
        let connection = connected.as_ref().map(|connected| connected.connection.clone());
        connection.map_err(|reason| Error::Unavailable(format!("Redis is not connected: {}", reason.why)))
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
        let ours = self.connection.borrow().as_ref().ok().and_then(|connected| connected.run_id.clone());
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
async fn keep(
    client: Client,
    keeper: watch::Sender<std::result::Result<Connected, Disconnected>>,
    suspicion: Arc<Notify>,
    moved: Arc<Notify>,
) {
    // What was logged last of this outage: whether it is a refusal, which waiting does not end.
    let mut logged: Option<bool> = None;
    let mut is_first = true;
    while !keeper.is_closed() {
        match connect(&client).await {
            Ok(connected) => {
                if logged.take().is_some() {
                    tracing::info!("Redis is back");
                }
                let connection = connected.connection.clone();
                let _ = keeper.send(Ok(connected));
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
                logged = Some(false);
                let _ = keeper.send(Err(Disconnected::new(why)));
                sleep(PAUSE).await;
            }
            Err(reason) => {
                let is_reported_by_open = is_first && reason.is_refusal;
                let is_new = logged.is_none_or(|was_refusal| reason.is_refusal && !was_refusal);
                if is_new && !is_reported_by_open {
                    logged = Some(reason.is_refusal);
                    let error = &reason.why;
                    tracing::error!(error, "Redis is away; trying again until it is back");
                }
                // Tells `open` that the first try is over.
                let _ = keeper.send(Err(reason));
                sleep(PAUSE).await;
            }
        }
        is_first = false;
    }
}

/// A replica does not: it refuses writes, and is behind in what is read.
async fn serves(mut connection: MultiplexedConnection) -> bool {
    let info = timeout(DEADLINE, info(&mut connection, "replication")).await;
    info.is_ok_and(|info| info.is_ok_and(|info| !info.is_some_and(|info| is_replica(&info))))
}

async fn connect(client: &Client) -> std::result::Result<Connected, Disconnected> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(DEADLINE))
        .set_response_timeout(None)
        .set_pipeline_buffer_size(QUEUE);
    let attempt = async {
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        let info = info(&mut connection, "default").await?;
        Ok((connection, info))
    };
    let attempt: std::result::Result<_, RedisError> =
        timeout(DEADLINE, attempt).await.map_err(|_| Disconnected::new("no answer"))?;
    let database = client.get_connection_info().redis_settings().db();
    let (connection, info) = attempt.map_err(|error| Disconnected::of(&error, database))?;
    if let Some(info) = &info {
        check(info).map_err(Disconnected::new)?;
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
        Err(error) if error.code().is_some() && code(&error).as_deref() != Some("NOAUTH") => Ok(None),
        info => info.map(Some),
    }
}

pub(super) fn run_id(info: &InfoDict) -> Option<String> {
    info.get("run_id")
}

/// Whether a full Redis with this policy keeps every session: each has an expiry, so `volatile-*` drops them as well. An
/// empty policy is one that Redis did not state.
pub(super) fn keeps_sessions(policy: &str) -> bool {
    policy.is_empty() || policy == "noeviction"
}

fn is_replica(info: &InfoDict) -> bool {
    info.get::<String>("role").is_some_and(|role| role == "slave")
}

/// The code of Redis's reply; of a pipeline the first, of which the crate tells none that it does not know.
fn code(error: &RedisError) -> Option<String> {
    error.clone().into_server_errors()?.first().map(|(_, reply)| reply.code().to_owned())
}

/// What to do about an error that no waiting ends: a wrong user, password or database.
fn refusal(error: &RedisError, database: i64) -> Option<String> {
    let no_password = "Redis needs a password (NOAUTH): put it into the URL, as in redis://USER:PASSWORD@HOST:PORT/DB, or \
                       redis+unix:///PATH?user=USER&pass=PASSWORD";
    // The crate has replaced the code, and passes Redis's text on.
    let detail = error.detail().unwrap_or_default();
    match code(error).as_deref() {
        Some("NOAUTH") => Some(no_password.into()),
        Some("WRONGPASS") => Some(WRONG_PASSWORD.into()),
        _ if error.kind() == ErrorKind::AuthenticationFailed => Some(WRONG_PASSWORD.into()),
        None if detail.starts_with("Authentication required") => Some(no_password.into()),
        None if detail.starts_with("DB index is out of range") => Some(format!(
            "Redis has no database {database}: they are counted from 0, and its `databases` (16) says how many there are"
        )),
        _ => None,
    }
}

/// What may be told of an error: Redis's code but not its text, which may name keys; of the network's errors, all.
pub(super) fn reason(error: &RedisError) -> String {
    match code(error).as_deref() {
        Some("OOM") => "Redis is full (OOM): raise its maxmemory, or let sessions expire sooner".into(),
        Some("NOPERM") => not_permitted(error),
        Some(code) => format!("Redis answered {code}"),
        None if error.is_io_error() => error.to_string(),
        None => error.category().to_owned(),
    }
}

/// Names the command that a Redis user may not run; a key, which the text may name too, is left out.
fn not_permitted(error: &RedisError) -> String {
    let errors = error.clone().into_server_errors();
    let detail = errors.as_ref().and_then(|errors| errors.first()?.1.details()).unwrap_or_default();
    let command = detail.split_once("run the '").and_then(|(_, rest)| rest.split_once('\''));
    match command {
        Some((command, _)) => {
            let command = command.to_lowercase();
            format!("this Redis user may not run {command} (NOPERM): allow it with ACL SETUSER … +{command}")
        }
        None => {
            "this Redis user may not use a key or a channel of ours (NOPERM): allow them with ACL SETUSER … ~KEYS; the \
                 README of sessiond has the whole line"
                .into()
        }
    }
}

fn check(info: &InfoDict) -> std::result::Result<(), String> {
    let version: String = info.get("redis_version").unwrap_or_default();
    let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    if major.is_some_and(|major| major < 7) {
        return Err(format!("this is Redis {version}, and 7.0 or later is needed"));
    }
    if is_replica(info) {
        return Err("this Redis is a replica: give the address of its primary".into());
    }
    let policy: String = info.get("maxmemory_policy").unwrap_or_default();
    if !keeps_sessions(&policy) {
        tracing::warn!(policy, "Redis may evict live sessions when it is full: set maxmemory-policy to noeviction");
    }
    Ok(())
}
