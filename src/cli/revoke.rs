//! `revoke`: ends one session, or a user's.

use std::process::ExitCode;

use clap::{ArgGroup, Args};
use serde_json::json;

use super::ops::{self, Ops};
use super::output::{count, print, print_json};
use crate::session::{Precondition, check_user_id};

/// What to end.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("which").args(["id", "user"]).required(true)))]
#[command(
    after_help = "Exits 0 when what it names has ended, also when there was no such session (it says 0 sessions); else 2: \
                        some may have ended, ask again."
)]
pub(super) struct Revoke {
    /// The session to end
    id: Option<String>,
    /// End every session of this user
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// But for this one
    #[arg(long, conflicts_with = "id", value_name = "ID")]
    except: Option<String>,
    #[command(flatten)]
    ops: Ops,
}

impl Revoke {
    pub(super) async fn run(&self) -> Result<ExitCode, String> {
        if let Some(user) = &self.user {
            check_user_id(user, "--user").map_err(|error| error.to_string())?;
        }
        // Not by clap, which would repeat what it refuses: that may be a cookie.
        let read = |id: &Option<String>| id.as_deref().map(ops::id).transpose();
        let (id, except) = (read(&self.id)?, read(&self.except)?);
        let sessions = self.ops.sessions().await?;
        let revoked = match (&self.user, &id) {
            (Some(user), _) => sessions.revoke_user(user, except.as_ref()).await,
            (None, Some(id)) => sessions.revoke(id, &Precondition::Any).await.map(usize::from),
            (None, None) => Ok(0),
        }
        .map_err(|error| error.to_string())?;
        if self.ops.json {
            print_json(&json!({ "revoked": revoked }))?;
        } else {
            print(&format!("{} ended\n", count(revoked as u64, "session")))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
