//! The commands: serve (the default), secret, healthcheck.

mod healthcheck;
mod serve;

use std::process::ExitCode;

use clap::{Arg, CommandFactory, FromArgMatches, Parser, Subcommand};
use secrecy::ExposeSecret;

use self::healthcheck::healthcheck;
use self::serve::serve;
use crate::caller::{Key, Scope};
use crate::config::{Config, Listen, fresh_secret};

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
    /// Make a key for a caller: prints the key, which is shown only this once, and the line for --api-key
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
    /// Ask the service on this machine whether it can serve (/readyz, so the store counts): exits 0 when it can
    Healthcheck {
        /// Where it listens
        #[arg(long, env = "SESSIOND_LISTEN", default_value = "127.0.0.1:8080", value_name = "ADDR")]
        listen: Listen,
        /// Where it listens for those who run it, when that is another address
        #[arg(long, env = "SESSIOND_OPS_ADDR", value_name = "ADDR")]
        ops_addr: Option<Listen>,
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
        Some(Command::Keygen { name, scope, json }) => keygen(&name, scope, json),
        Some(Command::Healthcheck { listen, ops_addr }) => block_on(healthcheck(&ops_addr.unwrap_or(listen).local())),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("sessiond: {why}");
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "this is the command's product")]
fn keygen(name: &str, scope: Scope, json: bool) -> Result<(), String> {
    let (key, line) = Key::generate(name, scope)?;
    if json {
        println!("{}", serde_json::json!({ "key": key.expose_secret(), "line": line.to_string() }));
        return Ok(());
    }
    println!("key   {}", key.expose_secret());
    println!("line  {line}");
    eprintln!(
        "Give the key to the caller, who sends it as `Authorization: Bearer KEY`; it is not shown again.\n\
         Give the line to the service: --api-key, SESSIOND_API_KEY, or a line of --api-key-file (then SIGHUP)."
    );
    Ok(())
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
