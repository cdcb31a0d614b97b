//! `serve`: the service, from its start to its end.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

use crate::api::{self, App};
use crate::clock::Clock;
use crate::config::{Checked, Config, Format, Listen};
use crate::server::{self, Listener};
use crate::session::Sessions;
use crate::{store, telemetry};

/// How often expired sessions are purged from SQLite.
const PURGE_EVERY: Duration = Duration::from_secs(60);

pub(super) async fn run(config: &Config) -> Result<(), String> {
    telemetry::start(&config.logs);
    let checked = config.check()?;
    if config.check_config {
        eprintln!("The configuration is good.");
        return Ok(());
    }
    let stop = stop().map_err(|error| format!("signals cannot be listened to: {error}"))?;
    let store = store::open(&checked.store, &checked.key_prefix)
        .await
        .map_err(|why| format!("--store {}: {why}", checked.store))?;
    let sessions = Sessions::new(store, checked.policy.clone(), checked.attributes.clone(), Clock::system());
    let listen = &config.server.listen;
    let listener = Listener::bind(listen).await.map_err(|error| format!("--listen {listen}: {error}"))?;
    greet(config, &checked, &listener.address().unwrap_or_else(|| listen.clone()));
    let purging = tokio::spawn(purge(sessions.clone()));
    server::serve(listener, api::router(App::new(sessions, &checked, &config.server)), &config.server, stop).await;
    purging.abort();
    tracing::info!("stopped");
    Ok(())
}

/// Ends at SIGTERM or SIGINT.
fn stop() -> std::io::Result<impl Future<Output = ()>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping: requests in work may end, new ones are refused");
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
fn greet(config: &Config, checked: &Checked, at: &Listen) {
    let secret = checked
        .secret_file
        .as_ref()
        .map_or("as configured".into(), |file| format!("{} (keep it with the database)", file.display()));
    if config.logs.log_format == Format::Json {
        tracing::info!(version = env!("CARGO_PKG_VERSION"), listen = %at, store = %checked.store, secret, "serving");
        return;
    }
    let (curl, url) = match at.local() {
        Listen::Tcp(address) => ("curl".to_owned(), format!("http://{address}")),
        Listen::Unix(path) => (format!("curl --unix-socket {}", path.display()), "http://localhost".into()),
    };
    let secure = if checked.attributes.secure {
        "Secure: over HTTPS, and on localhost"
    } else {
        "not Secure: also over plain HTTP"
    };
    eprintln!(
        "sessiond {} listens on {at}\n  sessions  {}\n  secret    {secret}\n  cookie    {}, {secure}\n  try       {curl} -i {url}/v1/sessions -H content-type:application/json -d '{{\"user_id\":\"ada\"}}'\n            {curl} {url}/openapi.yaml",
        env!("CARGO_PKG_VERSION"),
        checked.store,
        checked.attributes.name,
    );
}
