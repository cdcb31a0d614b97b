//! `doctor`: whether all is well with the store, and what to do where it is not.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::ops::Ops;
use super::output::{count, escaped, print, print_json};
use super::progress::Progress;
use crate::session::{Error, Lists, Stats, Survey};
use crate::store::Check;

/// Nothing but what every ops command is told.
#[derive(Debug, Args)]
#[command(
    after_help = "It walks over every session, in small steps, and changes nothing. Exits 0 when there is no problem, 1 when \
                        there is one or more, 2 when it could not look."
)]
pub(super) struct Doctor {
    #[command(flatten)]
    ops: Ops,
}

impl Doctor {
    pub(super) async fn run(&self) -> Result<ExitCode, String> {
        let (store, survey) = (self.ops.rules()?.store, self.ops.survey().await?);
        let mut checks = survey.checks().await.map_err(|error| error.to_string())?;
        if let Some(secret) = self.ops.config.secret_file(&store) {
            checks.push(Check::private("secret_file_mode", &secret));
        }
        let problems = |checks: &[Check]| checks.iter().filter(|check| check.advice.is_some()).count();
        match walk(&survey).await {
            Ok(walked) => checks.extend(walked),
            // A damaged file can not be walked over, and what was found before is the answer.
            Err(error) if problems(&checks) > 0 => {
                checks.push(Check::new("walk", false, error.to_string(), "see to the other problems, and ask again"));
            }
            Err(error) => return Err(error.to_string()),
        }
        let problems = problems(&checks);
        if self.ops.json {
            let checks: Vec<_> = checks.iter().map(document).collect();
            print_json(&json!({ "store": store.to_string(), "problems": problems, "checks": checks }))?;
        } else {
            print(&text(&checks, problems as u64))?;
        }
        Ok(if problems == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// What only every session together can tell.
async fn walk(survey: &Survey) -> Result<[Check; 4], Error> {
    let size = survey.size().await?;
    let progress = Progress::new("sessions", size);
    let (Stats { sessions, without_expiry, unreadable, .. }, unlisted) =
        survey.examine(|keys| progress.advance(keys)).await?;
    drop(progress);
    let progress = Progress::new("lists of users", size);
    let Lists { entries, dangling, .. } = survey.lists(false, |keys| progress.advance(keys)).await?;
    Ok([
        Check::new(
            "without_expiry",
            without_expiry == 0,
            format!("{without_expiry} of {} never expire", count(sessions, "live session")),
            "an Express with disableTTL writes such: take that option out; a touch gives a session its expiry, \
             `sessiond revoke` ends it",
        ),
        Check::new(
            "unreadable",
            unreadable == 0,
            format!("{} cannot be read", count(unreadable, "record")),
            "another program writes under --key-prefix, or an Express uses a serializer that is not JSON: give this \
             service a prefix of its own, or that Express the JSON serializer",
        ),
        Check::new(
            "unlisted_sessions",
            unlisted == 0,
            format!("{} with a user not in that user's list", count(unlisted, "session")),
            "logging out everywhere misses these until they are next resolved: is --user-pointer that of the service? If an \
             Express beside it issues sessions, `sessiond adopt` lists them",
        ),
        Check::new(
            "dangling_entries",
            dangling == 0,
            format!("{dangling} of {entries} entries of users' lists have no session"),
            "`sessiond purge` drops them; an Express beside this service that ends sessions leaves some, and so does lost data",
        ),
    ])
}

fn document(check: &Check) -> serde_json::Value {
    json!({ "name": check.name, "ok": check.advice.is_none(), "found": check.found, "advice": check.advice })
}

fn text(checks: &[Check], problems: u64) -> String {
    let mut text = String::new();
    for check in checks {
        let verdict = if check.advice.is_some() { "problem" } else { "ok" };
        text.push_str(&format!("{verdict:9}{:19}{}\n", check.name, escaped(&check.found)));
        if let Some(advice) = &check.advice {
            text.push_str(&format!("{:28}-> {advice}\n", ""));
        }
    }
    match problems {
        0 => text + "no problems\n",
        _ => format!("{text}{}\n", count(problems, "problem")),
    }
}
