//! `inspect`: one session as it is stored, and whether a cookie for it is right.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::ops::{self, Ops};
use super::output::{columns, count, escaped, json_escaped, moment, note, print, print_json, span};
use crate::clock::{Clock, Ms, rfc3339};
use crate::cookie::{Signer, Unopened, Verified, is_value};
use crate::id::Id;
use crate::session::{Client, Error, Stored};

/// Which session to show.
#[derive(Debug, Args)]
#[command(
    after_help = "Exits 0 when the session is shown; 1 when there is none, or the signature is wrong; 2 when nobody can say."
)]
pub(super) struct Inspect {
    /// The session's id; or its cookie, as a value (s:…), as name=value, or as a whole Cookie header. `-` reads it from
    /// standard input: others on this machine can read command lines, and a cookie opens its session
    #[arg(value_name = "COOKIE-OR-ID")]
    session: String,
    #[command(flatten)]
    ops: Ops,
}

/// Which secret signed a cookie.
#[derive(Serialize)]
struct Signature {
    /// Counted from 1: the one that signs now.
    secret: usize,
    of: usize,
}

/// The JSON document. Names are those of the API, where it has them.
#[derive(Serialize)]
struct Document<'a> {
    id: &'a str,
    state: &'static str,
    user_id: Option<&'a str>,
    created_at: Option<String>,
    touched_at: Option<String>,
    expires_at: Option<String>,
    lifetime_ends_at: Option<String>,
    idle_timeout_ms: Option<Ms>,
    /// When the store drops it; null: never.
    store_expires_at: Option<String>,
    store_ttl_ms: Option<Ms>,
    client: Option<&'a Client>,
    record_bytes: usize,
    cookie: Option<&'a RawValue>,
    data: Option<&'a RawValue>,
    signature: Option<Signature>,
}

impl Inspect {
    pub(super) async fn run(&self) -> Result<ExitCode, String> {
        let stdin;
        let given = if self.session == "-" {
            stdin = std::io::read_to_string(std::io::stdin()).map_err(|error| format!("standard input: {error}"))?;
            stdin.trim()
        } else {
            self.session.trim()
        };
        let (id, signature) = if is_value(given) || given.contains('=') {
            match self.open(given)? {
                Ok((id, signature)) => (id, Some(signature)),
                Err(wrong) => return no(&wrong),
            }
        } else {
            (ops::id(given)?, None)
        };
        let sessions = self.ops.sessions().await?;
        let Some(stored) = sessions.inspect(&id).await.map_err(|error| error.to_string())? else {
            let signed = if signature.is_some() { "the signature is right, but " } else { "" };
            return no(&format!(
                "{signed}there is no session {}: it never was, has expired or was revoked",
                escaped(id.as_str())
            ));
        };
        let now = Clock::system().now();
        if self.ops.json {
            print_json(&document(&stored, signature, now))?;
        } else {
            print(&text(&stored, signature.as_ref(), now))?;
        }
        Ok(ExitCode::SUCCESS)
    }

    /// The id in a cookie; or, within, what is wrong with the cookie. Repeats nothing of it.
    fn open(&self, given: &str) -> Result<Result<(Id, Signature), String>, String> {
        let config = &self.ops.config;
        let secrets = config.secrets(&self.ops.rules()?.store)?;
        let name = &config.cookie.cookie_name;
        match Signer::new(&secrets).open_text(without_name(given), name, &mut 0) {
            Ok(Verified { id, secret }) => Ok(Ok((id, Signature { secret: secret + 1, of: secrets.len() }))),
            Err(Unopened::BadSignature) => {
                Ok(Err(format!("the signature is wrong: no secret that is known here ({}) made it", secrets.len())))
            }
            Err(Unopened::Absent) => {
                Err(format!("there is no cookie called {name} in this: --cookie-name names another"))
            }
        }
    }
}

/// A header's value, whether or not its name came along.
fn without_name(header: &str) -> &str {
    match header.split_at_checked(7) {
        Some((name, value)) if name.eq_ignore_ascii_case("cookie:") => value,
        _ => header,
    }
}

fn no(why: &str) -> Result<ExitCode, String> {
    note(&format!("sessiond: {why}"));
    Ok(ExitCode::FAILURE)
}

fn state(stored: &Stored) -> &'static str {
    match (&stored.record, stored.standing) {
        (Err(_), _) => "unreadable",
        (Ok(_), None) => "ended",
        (Ok(_), Some(_)) => "live",
    }
}

fn document(stored: &Stored, signature: Option<Signature>, now: Ms) -> Document<'_> {
    let record = stored.record.as_ref().ok();
    let ours = record.and_then(|record| record.ours.as_ref());
    let standing = stored.standing;
    Document {
        id: &stored.id,
        state: state(stored),
        user_id: stored.user_id.as_deref(),
        created_at: ours.map(|ours| rfc3339(ours.created_at)),
        touched_at: standing.map(|standing| rfc3339(standing.touched_at)),
        expires_at: standing.map(|standing| rfc3339(standing.expires_at)),
        lifetime_ends_at: ours.map(|ours| rfc3339(ours.lifetime_ends_at)),
        idle_timeout_ms: standing.map(|standing| standing.idle_timeout),
        store_expires_at: stored.found.expires_at.map(rfc3339),
        store_ttl_ms: stored.found.expires_at.map(|at| at - now),
        client: ours.and_then(|ours| ours.client.as_ref()),
        record_bytes: stored.found.record.len(),
        cookie: record.and_then(|record| serde_json::from_str(record.cookie_json()).ok()),
        data: record.and_then(|record| serde_json::from_str(record.data.as_str()).ok()),
        signature,
    }
}

fn text(stored: &Stored, signature: Option<&Signature>, now: Ms) -> String {
    let mut rows = vec![("id", escaped(&stored.id))];
    if let Some(Signature { secret, of }) = signature {
        let which = if *secret == 1 { "the one that signs now" } else { "an older one" };
        rows.push(("signature", format!("right, by secret {secret} of {of}: {which}")));
    }
    rows.push((
        "state",
        match &stored.record {
            Err(Error::Unreadable(why)) => format!("unreadable: {why}"),
            Ok(_) if stored.standing.is_none() => "ended: its lifetime is over, and only the store still has it".into(),
            _ => state(stored).into(),
        },
    ));
    rows.push(("user", stored.user_id.as_deref().map_or_else(|| "none".into(), escaped)));
    let record = stored.record.as_ref().ok();
    let ours = record.and_then(|record| record.ours.as_ref());
    rows.push((
        "created",
        ours.map_or_else(|| "Express made it, and did not say".into(), |ours| moment(ours.created_at, now)),
    ));
    if let Some(standing) = stored.standing {
        rows.push(("touched", moment(standing.touched_at, now)));
        rows.push(("expires", format!("{}, unless touched", moment(standing.expires_at, now))));
        rows.push(("idle timeout", span(standing.idle_timeout)));
    }
    rows.push((
        "lifetime ends",
        ours.map_or_else(|| "never: Express knows none".into(), |ours| moment(ours.lifetime_ends_at, now)),
    ));
    rows.push(("store drops it", stored.found.expires_at.map_or_else(|| "never".into(), |at| moment(at, now))));
    if let Some(client) = ours.and_then(|ours| ours.client.as_ref()) {
        rows.push(("client", super::list::client(client)));
    }
    rows.push(("size", count(stored.found.record.len() as u64, "byte")));
    if let Some(record) = record {
        rows.push(("cookie", json_escaped(record.cookie_json())));
        rows.push(("data", pretty(record.data.as_str())));
    }
    columns(&rows)
}

/// As it is stored, where that is not what every JSON library reads.
fn pretty(json: &str) -> String {
    let value = serde_json::from_str::<Value>(json).and_then(|value| serde_json::to_string_pretty(&value));
    json_escaped(value.as_deref().unwrap_or(json))
}
