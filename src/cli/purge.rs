//! `purge`: frees what is over.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::ops::Ops;
use super::output::{columns, print, print_json};
use super::progress::Progress;

/// Nothing but what every ops command is told.
#[derive(Debug, Args)]
#[command(
    after_help = "The service purges an SQLite file once a minute, Redis drops expired sessions by itself, and a user's list is \
                        pruned whenever it is used: this does it all now. Exits 0 when it is done; else 2."
)]
pub(super) struct Purge {
    #[command(flatten)]
    ops: Ops,
}

impl Purge {
    pub(super) async fn run(&self) -> Result<ExitCode, String> {
        let (sessions, survey) = (self.ops.sessions().await?, self.ops.survey().await?);
        let purging = async {
            let expired = sessions.purge().await?;
            let progress = Progress::new("lists of users", survey.size().await?);
            Ok((expired, survey.lists(true, |keys| progress.advance(keys)).await?.pruned))
        };
        let (expired, pruned) = purging.await.map_err(|error: crate::session::Error| error.to_string())?;
        if self.ops.json {
            print_json(&json!({ "expired": expired, "index_entries": pruned }))?;
        } else {
            print(&columns(&[
                ("expired sessions freed", expired.to_string()),
                ("index entries dropped", pruned.to_string()),
            ]))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
