//! The command line: its commands, and how each ends. One file a command.

mod adopt;
mod doctor;
mod healthcheck;
mod inspect;
mod list;
mod logs;
mod manual;
mod ops;
mod output;
mod progress;
mod purge;
mod revoke;
mod serve;
mod stats;

use std::process::ExitCode;
use std::sync::Arc;

use clap::builder::BoolishValueParser;
use clap::{Arg, ArgAction, CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;
use secrecy::ExposeSecret;

use self::healthcheck::healthcheck;
use self::serve::{Failure, serve};
use crate::caller::{Key, Scope};
use crate::config::{Config, Listen, fresh_secret};
use crate::telemetry::Metrics;

/// express-session as a service: browser sessions over HTTP, in Redis or an embedded SQLite file
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
    /// Make a key for a caller
    ///
    /// Prints the key, which is shown only this once, and the line for --api-key
    Keygen {
        /// Whose key it is: letters, digits, dots, dashes, underscores
        #[arg(long, value_name = "NAME")]
        name: String,
        /// What it is good for: resolve cookies, work with the sessions that cookies open, or everything
        #[arg(long, value_name = "SCOPE")]
        scope: Scope,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Ask the service on this machine whether it can serve
    ///
    /// Asks /readyz, which asks the store too. Exits 0 if it can serve
    Healthcheck {
        /// Where it listens
        #[arg(long, env = "SESSIOND_LISTEN", default_value = "127.0.0.1:8080", value_name = "ADDR")]
        listen: Listen,
        /// Where it listens for those who run it, when that is another address
        #[arg(long, env = "SESSIOND_OPS_ADDR", value_name = "ADDR")]
        ops_addr: Option<Listen>,
    },
    /// Show a session by its id or its cookie
    ///
    /// Says whether the cookie's signature is right. Does not touch the session
    Inspect(Box<inspect::Inspect>),
    /// List a user's live sessions, the latest expiry first
    Ls(Box<list::List>),
    /// End a session, or a user's sessions
    Revoke(Box<revoke::Revoke>),
    /// Count what is in the store
    Stats(Box<stats::Stats>),
    /// Check the store: how it is set up, and whether what is in it fits together
    Doctor(Box<doctor::Doctor>),
    /// Free what expired sessions take up, and drop index entries without a session
    Purge(Box<purge::Purge>),
    /// Put the sessions of an Express fleet into their users' lists
    ///
    /// Logging a user out everywhere reaches them then
    Adopt(Box<adopt::Adopt>),
    /// Print a script that completes this command line, for a shell to source
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Print the man page, for `man -l -`
    Manual {
        /// Of this command alone
        command: Option<String>,
    },
}

/// Runs what the command line asks for.
#[must_use]
pub fn run() -> ExitCode {
    let cli = match Cli::from_arg_matches(&command().get_matches()) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    match cli.command {
        None => service(&cli.config),
        Some(Command::Serve(config)) => service(&config),
        Some(Command::Secret) => plain(output::print(&format!("{}\n", fresh_secret().expose_secret()))),
        Some(Command::Keygen { name, scope, json }) => match keygen(&name, scope, json) {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => failed(&why, 2),
        },
        Some(Command::Healthcheck { listen, ops_addr }) => {
            plain(block_on(healthcheck(&ops_addr.unwrap_or(listen).local())))
        }
        Some(Command::Inspect(inspect)) => ops(inspect.run()),
        Some(Command::Ls(list)) => ops(list.run()),
        Some(Command::Revoke(revoke)) => ops(revoke.run()),
        Some(Command::Stats(stats)) => ops(stats.run()),
        Some(Command::Doctor(doctor)) => ops(doctor.run()),
        Some(Command::Purge(purge)) => ops(purge.run()),
        Some(Command::Adopt(adopt)) => ops(adopt.run()),
        Some(Command::Completions { shell }) => plain(manual::completions(shell, command())),
        Some(Command::Manual { command: of }) => plain(manual::manual(of.as_deref(), command())),
    }
}

/// Serves. Everything that it prints goes through the log, also why it cannot start: the log waits for no reader.
fn service(config: &Config) -> ExitCode {
    let metrics = Arc::new(Metrics::new());
    let log = match logs::start(&config.logs, &metrics) {
        Ok(log) => log,
        Err(why) => return failed(&why, 1),
    };
    match block_on(serve(config, &strangers(), &log, metrics)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let (why, code) = match failure {
                Failure::Configuration(why) => (why, 2),
                Failure::Other(why) => (why, 1),
            };
            log.print(&format!("sessiond: {why}\n"));
            ExitCode::from(code)
        }
    }
}

fn keygen(name: &str, scope: Scope, json: bool) -> Result<(), String> {
    let (key, line) = Key::generate(name, scope)?;
    if json {
        return output::print_json(&serde_json::json!({ "key": key.expose_secret(), "line": line.to_string() }));
    }
    output::print(&format!("key   {}\nline  {line}\n", key.expose_secret()))?;
    output::note(
        "Give the key to the caller, who sends it as `Authorization: Bearer KEY`; it is not shown again.\n\
         Give the line to the service: --api-key, SESSIOND_API_KEY, or a line of --api-key-file (then SIGHUP).",
    );
    Ok(())
}

/// The command line, for which an empty variable is one that is not set, as `${X:-}` in a compose file leaves it. Only
/// an empty secret, or key of callers, is a mistake: without them a service is not what its operator meant.
fn command() -> clap::Command {
    fn unset_empty(arg: Arg) -> Arg {
        let empty = arg.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty());
        if empty && arg.get_id() != "secret" && arg.get_id() != "api_key" { arg.env(None) } else { arg }
    }
    // The two help texts differ only in their details: clap takes both from one text.
    let is_short = std::env::args_os().any(|arg| arg == "-h");
    let all = |command: clap::Command| command.mut_args(|arg| lenient(unset_empty(arg)).hide_env(is_short));
    let serve = |command: clap::Command| if is_short { shortest(command) } else { command };
    serve(all(Cli::command())).mut_subcommands(|command| match command.get_name() {
        "serve" => serve(all(command)),
        "inspect" => ops::brief(all(command), &["Secret"]),
        "ls" | "revoke" | "stats" | "doctor" | "purge" | "adopt" => ops::brief(all(command), &[]),
        _ => all(command),
    })
}

/// Takes names in any case, and yes, no, 1 and 0 for true and false.
fn lenient(arg: Arg) -> Arg {
    let values = arg.get_possible_values();
    if matches!(arg.get_action(), ArgAction::SetTrue)
        || values.iter().map(|value| value.get_name()).eq(["true", "false"])
    {
        arg.value_parser(BoolishValueParser::new())
    } else if values.is_empty() {
        arg
    } else {
        arg.ignore_case(true)
    }
}

/// What `-h` shows of the service's flags.
const COMMON: [&str; 10] = [
    "listen",
    "store",
    "secret",
    "api_key",
    "cookie_name",
    "cookie_secure",
    "idle_timeout",
    "lifetime",
    "log_format",
    "check_config",
];

/// Leaves the common flags, each on one or two lines.
fn shortest(command: clap::Command) -> clap::Command {
    let command = command.mut_args(|arg| {
        let is_common = COMMON.contains(&arg.get_id().as_str());
        arg.hide(!is_common).help_heading(None)
    });
    command.after_help("`sessiond --help` lists every flag, and the environment variable of each.")
}

/// Variables that look like ours and are not: misspelt, mostly. Kubernetes makes `_PORT` and `_SERVICE_` for a service
/// called sessiond; `_URL` and `_KEY` are what its callers tell themselves.
fn strangers() -> Vec<String> {
    let command = Cli::command();
    let ours = |name: &str| command.get_arguments().any(|flag| flag.get_env().is_some_and(|env| env == name));
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let others = ["PORT", "SERVICE_", "URL", "KEY"];
    let like_ours = names.filter(|name| {
        name.strip_prefix("SESSIOND_").is_some_and(|rest| !others.iter().any(|other| rest.starts_with(other)))
    });
    like_ours.filter(|name| !ours(name)).collect()
}

/// Done or failed.
fn plain(outcome: Result<(), String>) -> ExitCode {
    outcome.map_or_else(|why| failed(&why, 1), |()| ExitCode::SUCCESS)
}

/// The ops commands answer yes or no (0 or 1); that there is no answer is another thing, as is a wrong command line (2).
fn ops(work: impl Future<Output = Result<ExitCode, String>>) -> ExitCode {
    block_on(work).unwrap_or_else(|why| failed(&why, 2))
}

fn failed(why: &str, code: u8) -> ExitCode {
    output::note(&format!("sessiond: {why}"));
    ExitCode::from(code)
}

fn block_on<T, E: From<String>>(work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(|error| format!("the runtime could not be started: {error}"))?.block_on(work)
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

    #[test]
    fn every_argument_of_every_command_has_a_line_of_help() {
        for command in super::Cli::command().get_subcommands() {
            for argument in command.get_arguments() {
                let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.len() > 5, "{} {}", command.get_name(), argument.get_id());
            }
        }
    }
}
