//! `ls`: a user's live sessions.

use std::num::NonZeroUsize;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::ops::Ops;
use super::output::{count, escaped, print, print_json, relative, table};
use crate::clock::{Clock, Ms, rfc3339};
use crate::session::{Client, Session, check_user_id};

/// Whose sessions to list.
#[derive(Debug, Args)]
#[command(after_help = "Exits 0 when it could list them, also when there are none; else 2.")]
pub(super) struct List {
    /// Whose sessions
    #[arg(long, value_name = "USER")]
    user: String,
    /// How many to show
    #[arg(long, default_value = "100", value_name = "N")]
    limit: NonZeroUsize,
    #[command(flatten)]
    ops: Ops,
}

/// The JSON document. Names are those of the API.
#[derive(Serialize)]
struct Document<'a> {
    user_id: &'a str,
    sessions: Vec<Row<'a>>,
    /// Whether there are more than were asked for.
    more: bool,
}

#[derive(Serialize)]
struct Row<'a> {
    id: &'a str,
    created_at: Option<String>,
    touched_at: String,
    expires_at: String,
    lifetime_ends_at: Option<String>,
    idle_timeout_ms: Ms,
    client: Option<&'a Client>,
}

impl List {
    pub(super) async fn run(&self) -> Result<ExitCode, String> {
        check_user_id(&self.user, "--user").map_err(|error| error.to_string())?;
        let store = self.ops.sessions().await?;
        let (mut sessions, mut after) = (Vec::new(), None);
        // One more than to show tells whether there are more.
        while sessions.len() <= self.limit.get() {
            let wanted = (self.limit.get() - sessions.len()).saturating_add(1);
            let page = store.list(&self.user, after, wanted).await.map_err(|error| error.to_string())?;
            sessions.extend(page.sessions);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let more = sessions.len() > self.limit.get();
        sessions.truncate(self.limit.get());
        if self.ops.json {
            print_json(&Document { user_id: &self.user, sessions: sessions.iter().map(row).collect(), more })?;
        } else {
            print(&text(&sessions, more, Clock::system().now()))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn row(session: &Session) -> Row<'_> {
    Row {
        id: session.id.as_str(),
        created_at: session.created_at.map(rfc3339),
        touched_at: rfc3339(session.standing.touched_at),
        expires_at: rfc3339(session.standing.expires_at),
        lifetime_ends_at: session.standing.lifetime_ends_at.map(rfc3339),
        idle_timeout_ms: session.standing.idle_timeout,
        client: session.client.as_ref(),
    }
}

fn text(sessions: &[Session], more: bool, now: Ms) -> String {
    let mut rows = vec![["ID", "CREATED", "TOUCHED", "EXPIRES", "CLIENT"].map(str::to_owned).to_vec()];
    rows.extend(sessions.iter().map(|session| {
        vec![
            escaped(session.id.as_str()),
            session.created_at.map_or_else(String::new, |at| relative(at, now)),
            relative(session.standing.touched_at, now),
            relative(session.standing.expires_at, now),
            session.client.as_ref().map_or_else(String::new, client),
        ]
    }));
    let shown = count(sessions.len() as u64, "session");
    let more = if more { ", and there are more: see --limit" } else { "" };
    if sessions.is_empty() { format!("{shown}{more}\n") } else { format!("{}{shown}{more}\n", table(&rows)) }
}

/// A client on one line.
pub(super) fn client(client: &Client) -> String {
    let parts = [&client.label, &client.ip, &client.user_agent];
    parts.into_iter().flatten().map(|part| escaped(part)).collect::<Vec<_>>().join(", ")
}
