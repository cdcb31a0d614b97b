//! `sessiond serve`: the service, from its configuration to its end.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use secrecy::ExposeSecret;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Mutex, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::logs::Log;
use crate::api::{Api, App, Exporter};
use crate::clock::Clock;
use crate::config::{Checked, Config, Format, Keys, Listen, Rules};
use crate::server::{self, Listener};
use crate::session::Sessions;
use crate::store;
use crate::supervise::Task;
use crate::telemetry::Metrics;

/// Why the service has not started, or has ended.
pub(super) enum Failure {
    /// The configuration is wrong.
    Configuration(String),
    /// Something that it needs failed.
    Other(String),
}

impl From<String> for Failure {
    fn from(why: String) -> Self {
        Self::Other(why)
    }
}

/// How often expired sessions are purged from SQLite.
const PURGE_EVERY: Duration = Duration::from_secs(60);

/// How long what callers have begun and hung up on may take to end, after the last request: a few calls to the store.
const DRAIN: Duration = Duration::from_secs(2);

/// Serves until SIGTERM or SIGINT, and then until the requests in progress have ended.
pub(super) async fn serve(
    config: &Config,
    strangers: &[String],
    log: &Log,
    metrics: Arc<Metrics>,
) -> Result<(), Failure> {
    let Rules { store: url, keyspace, attributes, policy } = config.validate().map_err(Failure::Configuration)?;
    for name in strangers {
        tracing::warn!("{name} is set, and is no variable of sessiond: `sessiond --help` lists them");
    }
    if config.check_config {
        log.print("The configuration is good.\n");
        return Ok(());
    }
    let _exporter = match &config.logs.otlp_endpoint {
        Some(url) => {
            let exporter = Exporter::start(url.expose_secret());
            Some(exporter.map_err(|why| format!("--otlp-endpoint: {why}"))?)
        }
        None => None,
    };
    // What can fail comes before what makes a file: the addresses, then the database, then its secret.
    let listener = bind("--listen", &config.server.listen).await?;
    let ops = match &config.server.ops_addr {
        Some(address) => Some(bind("--ops-addr", address).await?),
        None => None,
    };
    let stop = stop().map_err(|error| format!("signals cannot be listened to: {error}"))?;
    let store =
        store::open_supervised(&url, &keyspace, &metrics).await.map_err(|why| format!("--store {url}: {why}"))?;
    let sessions = Sessions::new(store, policy, attributes, Clock::system(), Arc::clone(&metrics));
    let checked = config.check().map_err(Failure::Configuration)?;
    let app = App::new(sessions.clone(), &checked, &config.server);
    let hangups = signal(SignalKind::hangup()).map_err(|error| format!("signals cannot be listened to: {error}"))?;
    greet(config, &checked, &listener, ops.as_ref(), log);
    let background = [
        Task::new("purge", &metrics).spawn({
            let sessions = sessions.clone();
            move || purge(sessions.clone())
        }),
        Task::new("reload", &metrics).spawn({
            let (hangups, keys, app) = (Arc::new(Mutex::new(hangups)), config.keys.clone(), app.clone());
            move || reload_keys(Arc::clone(&hangups), keys.clone(), app.clone())
        }),
    ];
    let (stopping, stopped) = watch::channel(false);
    let stopped = || {
        let mut stopped = stopped.clone();
        async move { drop(stopped.wait_for(|stopped| *stopped).await) }
    };
    let main = server::serve(listener, Api::new(&app, ops.is_none()), &config.server, &metrics, stopped());
    let ops = async {
        if let Some(listener) = ops {
            server::serve(listener, Api::ops(&app), &config.server, &metrics, stopped()).await;
        }
    };
    tokio::join!(main, ops, async {
        stop.await;
        stopping.send_replace(true);
    });
    for task in background {
        task.abort();
        // Over when it has let go of the store.
        let _ = task.await;
    }
    if timeout(DRAIN, sessions.settle()).await.is_err() {
        tracing::warn!("some sessions are still being changed");
    }
    tracing::info!("stopped");
    Ok(())
}

async fn bind(flag: &str, listen: &Listen) -> Result<Listener, String> {
    Listener::bind(listen).await.map_err(|error| match error.kind() {
        ErrorKind::AddrInUse => format!("{flag} {listen}: something listens there already; give another address"),
        _ => format!("{flag} {listen}: {error}"),
    })
}

/// Reads the keys of callers again at each SIGHUP. A file that is wrong changes nothing. The signals are shared, so that a
/// restart misses none.
async fn reload_keys(hangups: Arc<Mutex<Signal>>, keys: Keys, app: App) {
    let mut hangups = hangups.lock().await;
    while hangups.recv().await.is_some() {
        match keys.load() {
            Ok(_) if !keys.has_file() => tracing::warn!("SIGHUP: there is no --api-key-file to read again"),
            Ok(keys) => {
                tracing::info!(keys = keys.len(), "SIGHUP: the callers' keys were read again");
                app.set_keys(keys);
            }
            Err(why) => tracing::error!(why, "SIGHUP: the callers' keys stay as they were"),
        }
    }
}

/// Ends at SIGTERM or SIGINT.
fn stop() -> std::io::Result<impl Future<Output = ()>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping: requests in progress may end, new ones are refused");
    })
}

/// Purges until the server stops. A pass that fails is logged, and the next one comes.
async fn purge(sessions: Sessions) {
    let mut ticks = interval(PURGE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match sessions.purge().await {
            Ok(0) => {}
            Ok(purged) => tracing::debug!(purged, "expired sessions were purged"),
            Err(error) => tracing::warn!(%error, "expired sessions were not purged"),
        }
    }
}

/// Says where things are and what to try.
fn greet(config: &Config, checked: &Checked, listener: &Listener, ops: Option<&Listener>, log: &Log) {
    let at = &listener.address().unwrap_or_else(|| config.server.listen.clone());
    let ops = ops.and_then(Listener::address).unwrap_or_else(|| at.clone());
    let secret = checked
        .secret_file
        .as_ref()
        .map_or("as configured".into(), |file| format!("{} (keep it with the database)", file.display()));
    let keys = checked.keys.len();
    if config.logs.log_format == Format::Json {
        let version = env!("CARGO_PKG_VERSION");
        tracing::info!(version, listen = %at, ops = %ops, store = %checked.store, secret, keys, "serving");
        return;
    }
    let secure = if checked.attributes.secure {
        "Secure: over HTTPS, and on localhost"
    } else {
        "not Secure: also over plain HTTP"
    };
    let (callers, key) = match keys {
        0 => ("whoever reaches this address; `sessiond keygen` makes keys".to_owned(), ""),
        1 => ("who has the key".to_owned(), " -H \"authorization: Bearer $KEY\""),
        _ => (format!("who has one of the {keys} keys"), " -H \"authorization: Bearer $KEY\""),
    };
    let version = env!("CARGO_PKG_VERSION");
    let (issue, docs) = (curl(at, " -i"), curl(&ops, ""));
    log.print(&format!(
        "sessiond {version} listens on {at}\n\
        \x20 sessions  {}\n\
        \x20 secret    {secret}\n\
        \x20 cookie    {}, {secure}\n\
        \x20 callers   {callers}\n\
        \x20 try       {issue}/v1/sessions -H content-type:application/json -d '{{\"user_id\":\"ada\"}}'{key}\n\
        \x20           {docs}/docs\n",
        checked.store, checked.attributes.name,
    ));
}

/// How to reach an address by curl, up to where the path begins.
fn curl(at: &Listen, flags: &str) -> String {
    match at.local() {
        Listen::Tcp(address) => format!("curl{flags} http://{address}"),
        Listen::Unix(path) => format!("curl{flags} --unix-socket {} http://localhost", path.display()),
    }
}
