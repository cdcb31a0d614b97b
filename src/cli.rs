//! The commands: serve (the default), secret, healthcheck.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Arg, CommandFactory, FromArgMatches, Parser, Subcommand};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use secrecy::ExposeSecret;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::api::{self, App};
use crate::clock::Clock;
use crate::config::{Checked, Config, Format, Listen, fresh_secret};
use crate::server::{self, Listener};
use crate::session::Sessions;
use crate::{store, telemetry};

/// How often expired sessions are purged from SQLite.
const PURGE_EVERY: Duration = Duration::from_secs(60);
/// How long a health check waits.
const HEALTHCHECK_TIMEOUT: Duration = Duration::from_secs(3);

/// express-session as a service: browser sessions over HTTP, kept in Redis or in an embedded SQLite file
#[derive(Debug, Parser)]
#[command(
    version,
    args_conflicts_with_subcommands = true,
    after_help = "Each flag has an environment variable; a flag wins over it."
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    config: Config,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the API (the default)
    Serve(Box<Config>),
    /// Print a fresh secret for --secret
    Secret,
    /// Ask the service on this machine whether it can serve (/readyz, so the store counts): exits 0 when it can
    Healthcheck {
        /// Where it listens
        #[arg(long, env = "SESSIOND_LISTEN", default_value = "127.0.0.1:8080", value_name = "ADDR")]
        listen: Listen,
    },
}

/// Runs what the command line asks for.
#[must_use]
pub fn run() -> ExitCode {
    let cli = match Cli::from_arg_matches(&command().get_matches()) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    let outcome = match cli.command {
        None => block_on(serve(&cli.config)),
        Some(Command::Serve(config)) => block_on(serve(&config)),
        Some(Command::Secret) => {
            #[expect(clippy::print_stdout, reason = "this is the command's product")]
            {
                println!("{}", fresh_secret().expose_secret());
            }
            Ok(())
        }
        Some(Command::Healthcheck { listen }) => block_on(healthcheck(&listen.local())),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("sessiond: {why}");
            ExitCode::FAILURE
        }
    }
}

/// The command line, for which an empty variable is one that is not set, as `${X:-}` in a compose file leaves it. Only
/// an empty secret is a mistake.
fn command() -> clap::Command {
    fn unset_empty(arg: Arg) -> Arg {
        let empty = arg.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty());
        if empty && arg.get_id() != "secret" { arg.env(None) } else { arg }
    }
    let all = |command: clap::Command| command.mut_args(unset_empty);
    all(Cli::command()).mut_subcommand("serve", all).mut_subcommand("healthcheck", all)
}

fn block_on(work: impl Future<Output = Result<(), String>>) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(|error| format!("the runtime could not be started: {error}"))?.block_on(work)
}

async fn serve(config: &Config) -> Result<(), String> {
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

async fn healthcheck(listen: &Listen) -> Result<(), String> {
    let failed = |error: &dyn std::fmt::Display| format!("{listen} is not healthy: {error}");
    let asked = async {
        match listen {
            Listen::Tcp(address) => ready(TcpStream::connect(address).await.map_err(|error| failed(&error))?).await,
            Listen::Unix(path) => ready(UnixStream::connect(path).await.map_err(|error| failed(&error))?).await,
        }
        .map_err(|error| failed(&error))
    };
    let status = timeout(HEALTHCHECK_TIMEOUT, asked).await.map_err(|_| failed(&"no answer in time"))??;
    if status.is_success() { Ok(()) } else { Err(failed(&status)) }
}

async fn ready(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> hyper::Result<hyper::StatusCode> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = hyper::Request::get("/readyz").header("host", "localhost").body(Empty::<bytes::Bytes>::new());
    Ok(sender.send_request(request.expect("this is a request")).await?.status())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        super::Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_has_a_variable_of_its_name_and_a_line_of_help() {
        let command = super::Cli::command();
        let flags = command
            .get_arguments()
            .filter(|flag| !["check_config", "help", "version"].contains(&flag.get_id().as_str()));
        for flag in flags {
            let name = flag.get_long().expect("a long name");
            let variable = format!("SESSIOND_{}", name.to_uppercase().replace('-', "_"));
            assert_eq!(flag.get_env().and_then(|name| name.to_str()), Some(variable.as_str()));
            assert!(flag.get_help().is_some_and(|help| help.to_string().len() > 10), "--{name}");
        }
    }
}
