//! What the ops commands have in common: they act on the service's own store, under its own flags.

use std::sync::Arc;

use clap::{Arg, Args};

use super::logs;
use crate::clock::Clock;
use crate::config::{Config, Rules};
use crate::cookie::is_value;
use crate::id::Id;
use crate::session::{Sessions, Survey};
use crate::store;

/// What every ops command is told.
#[derive(Debug, Args)]
pub(super) struct Ops {
    /// Print one JSON document, for programs
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) config: Config,
}

impl Ops {
    /// The store and the rules. What is not there is not made.
    pub(super) fn rules(&self) -> Result<Rules, String> {
        logs::start_plain(&self.config.logs);
        if self.config.check_config {
            return Err("--check-config is for `sessiond serve`".into());
        }
        let rules = self.config.rules()?;
        if let Some(path) = rules.store.file()
            && !path.exists()
        {
            let path = path.display();
            return Err(format!(
                "there is no database at {path}: name the service's own with --store (SESSIOND_STORE)"
            ));
        }
        Ok(rules)
    }

    /// The sessions, as the service has them.
    pub(super) async fn sessions(&self) -> Result<Sessions, String> {
        let Rules { store: url, keyspace, attributes, policy } = self.rules()?;
        let store = store::open(&url, &keyspace).await.map_err(|why| format!("--store {url}: {why}"))?;
        Ok(Sessions::new(store, policy, attributes, Clock::system(), Arc::default()))
    }

    /// The store as a whole.
    pub(super) async fn survey(&self) -> Result<Survey, String> {
        let Rules { store: url, keyspace, policy, .. } = self.rules()?;
        let store = store::survey(&url, &keyspace).await.map_err(|why| format!("--store {url}: {why}"))?;
        Ok(Survey::new(store, policy, Clock::system()))
    }
}

/// Reads an id from the command line.
pub(super) fn id(text: &str) -> Result<Id, String> {
    if is_value(text) {
        return Err("this is a cookie's value: `sessiond inspect` tells the id in it".into());
    }
    Id::parse(text).ok_or_else(|| "an id has 1 to 256 bytes and no control characters".into())
}

/// Every flag of `serve` is taken, so that a command acts as the service would; shown are those that it may need. `wanted`
/// are the headings of its own.
pub(super) fn brief(command: clap::Command, wanted: &[&str]) -> clap::Command {
    let shown = |arg: &Arg| match (arg.get_id().as_str(), arg.get_help_heading()) {
        ("check_config", _) => false,
        ("cookie_name" | "user_pointer" | "log_level" | "log_format", _) | (_, None | Some("Store")) => true,
        (_, Some(heading)) => wanted.contains(&heading),
    };
    let rest =
        "Takes every flag and every variable of `sessiond serve`, so that it acts under the service's own rules.";
    let says = command.get_after_help().map(|says| format!("{says}\n{rest}"));
    command
        .mut_args(|arg| {
            let hidden = !shown(&arg);
            arg.hide(hidden)
        })
        .after_help(says.unwrap_or_else(|| rest.into()))
}
