//! `stats`: what is in the store.

use std::process::ExitCode;

use clap::Args;

use super::ops::Ops;
use super::output::{columns, print, print_json};
use super::progress::Progress;
use crate::session::Stats as Counts;

/// Nothing but what every ops command is told.
#[derive(Debug, Args)]
#[command(after_help = "It walks over every session, in small steps. Exits 0 when it could count them; else 2.")]
pub(super) struct Stats {
    #[command(flatten)]
    ops: Ops,
}

impl Stats {
    pub(super) async fn run(&self) -> Result<ExitCode, String> {
        let survey = self.ops.survey().await?;
        let counting = async {
            let progress = Progress::new("sessions", survey.size().await?);
            survey.stats(|keys| progress.advance(keys)).await
        };
        let counts = counting.await.map_err(|error| error.to_string())?;
        if self.ops.json {
            print_json(&counts)?;
        } else {
            print(&text(&counts))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn text(counts: &Counts) -> String {
    columns(&[
        ("live sessions", counts.sessions.to_string()),
        ("with a user", counts.with_user.to_string()),
        ("users", counts.users.to_string()),
        ("expire within 1h", counts.expire_within_1h.to_string()),
        ("expire within 24h", counts.expire_within_24h.to_string()),
        ("without expiry", counts.without_expiry.to_string()),
        ("ended", counts.ended.to_string()),
        ("unreadable", counts.unreadable.to_string()),
        ("bytes", counts.bytes.to_string()),
        ("bytes a record", counts.mean_bytes.to_string()),
    ])
}
