//! `adopt`: puts an Express fleet's sessions into their users' lists.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use super::ops::Ops;
use super::output::{columns, escaped, note, print, print_json};
use super::progress::Progress;
use crate::session::{Adopted, Error};
use crate::store::Cursor;

/// How it goes about it.
#[derive(Debug, Args)]
#[command(
    after_help = "Sessions that the service issues, or has met, are listed already; this is for those that only Express has \
                  seen. It may run at any time and again, and changes no session. Exits 0 when all could be read, 1 when some \
                  could not, 2 when it did not come to the end; it then says how to go on."
)]
pub(super) struct Adopt {
    /// Only count what would be adopted
    #[arg(long)]
    dry_run: bool,
    /// The most keys to look at in a second
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// Go on where an earlier run stopped, which told this
    #[arg(long, value_name = "CURSOR")]
    from: Option<Cursor>,
    #[command(flatten)]
    ops: Ops,
}

impl Adopt {
    pub(super) async fn run(&self) -> Result<ExitCode, String> {
        let rules = self.ops.rules()?;
        if !rules.store.express_can_write() {
            return Err(
                "there is nothing to adopt in an SQLite file: name the Redis of the Express fleet with --store".into(),
            );
        }
        if rules.policy.user_pointer.is_none() {
            return Err("say where in a session's data its user is, as in --user-pointer /passport/user: without it no session \
                        names one"
                .into());
        }
        let (mut adopted, mut from) = (Adopted::default(), self.from.clone());
        let stopped = tokio::select! {
            done = self.walk(&mut adopted, &mut from) => done.err(),
            _ = tokio::signal::ctrl_c() => Some("interrupted".to_owned()),
        };
        self.tell(&adopted, from.as_ref().filter(|_| stopped.is_some()))?;
        match (stopped, from) {
            (None, _) => Ok(if adopted.unreadable == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }),
            (Some(why), None) => Err(format!("{why}: start again")),
            (Some(why), Some(cursor)) => Err(format!("{why}: go on with --from {cursor}")),
        }
    }

    /// `from` is where to go on, should it stop.
    async fn walk(&self, adopted: &mut Adopted, from: &mut Option<Cursor>) -> Result<(), String> {
        let (sessions, survey) = (self.ops.sessions().await?, self.ops.survey().await?);
        let told = |error: Error| error.to_string();
        let progress = Progress::new("sessions", survey.size().await.map_err(told)?);
        let mut walk = survey.walk(from.clone());
        let mut next = Instant::now();
        while let Some(step) = walk.next().await.map_err(told)? {
            let looked_at = step.looked_at;
            adopted.take(step, &survey, &sessions, self.dry_run).await.map_err(told)?;
            *from = walk.cursor().cloned();
            progress.advance(looked_at);
            #[expect(clippy::cast_precision_loss, reason = "a step looks at a thousand")]
            let pause = Duration::from_secs_f64(looked_at as f64 / f64::from(self.rate));
            next = Instant::now().max(next + pause);
            if from.is_some() {
                sleep_until(next).await;
            }
        }
        Ok(())
    }

    fn tell(&self, adopted: &Adopted, from: Option<&Cursor>) -> Result<(), String> {
        let Adopted { adopted, listed, without_user, ended, unreadable, examples } = adopted;
        if self.ops.json {
            let examples: Vec<_> = examples.iter().map(|one| json!({ "id": one.id, "why": one.why })).collect();
            return print_json(&json!({
                "dry_run": self.dry_run,
                "adopted": adopted,
                "listed_before": listed,
                "without_user": without_user,
                "ended": ended,
                "unreadable": unreadable,
                "unreadable_examples": examples,
                "from": from.map(Cursor::to_string),
            }));
        }
        let adopted_as = if self.dry_run { "would be adopted" } else { "adopted" };
        let numbers = [
            (adopted_as, adopted),
            ("listed before", listed),
            ("without a user", without_user),
            ("ended", ended),
            ("unreadable", unreadable),
        ];
        let mut text = columns(&numbers.map(|(name, number)| (name, number.to_string())));
        for one in examples {
            text.push_str(&format!("  {}: {}\n", escaped(&one.id), one.why));
        }
        print(&text)?;
        // What looks like a mistake in how it was asked.
        match (adopted + listed, without_user + ended + unreadable) {
            (0, 0) if from.is_none() => note("sessiond: there is no session: is --key-prefix that of the fleet?"),
            (0, 1..) => note("sessiond: no session names a user: is --user-pointer where the fleet has them?"),
            _ => {}
        }
        Ok(())
    }
}
