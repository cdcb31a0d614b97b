//! The rules of sessions, as flags.

use clap::{ArgAction, Args};

use super::{bounds, duration};
use crate::clock::Ms;
use crate::session::{MAX_SPAN, MIN_SPAN, OnLimit, Policy};

/// The most that `--max-data-bytes` may be.
const MAX_DATA_BYTES: usize = 4 * 1024 * 1024;
/// The most that `--max-sessions-per-user` may be.
const MAX_SESSIONS_PER_USER: usize = 1000;

/// The rules of sessions. Durations are written 30s, 24h, 400d, or as a bare number of milliseconds.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Session (durations: 30s, 24h, 400d, or milliseconds)")]
pub struct Session {
    /// Time without a touch until a session expires
    ///
    /// This is Express's cookie.maxAge
    #[arg(long, env = "SESSIOND_IDLE_TIMEOUT", default_value = "24h", value_parser = duration::parse, value_name = "DURATION")]
    pub idle_timeout: Ms,
    /// The longest idle timeout that an issuer may ask for
    #[arg(long, env = "SESSIOND_MAX_IDLE_TIMEOUT", default_value = "30d", value_parser = duration::parse, value_name = "DURATION")]
    pub max_idle_timeout: Ms,
    /// Time from issue until a session ends
    ///
    /// It ends then, whatever happens
    #[arg(long, env = "SESSIOND_LIFETIME", default_value = "30d", value_parser = duration::parse, value_name = "DURATION")]
    pub lifetime: Ms,
    /// The longest lifetime that an issuer may ask for
    #[arg(long, env = "SESSIOND_MAX_LIFETIME", default_value = "400d", value_parser = duration::parse, value_name = "DURATION")]
    pub max_lifetime: Ms,
    /// How old a touch is before a resolve writes the next one; never more than a tenth of the idle timeout
    #[arg(long, env = "SESSIOND_TOUCH_AFTER", default_value = "1m", value_parser = duration::parse, value_name = "DURATION")]
    pub touch_after: Ms,
    /// When a touch is written, move the cookie's expiry too
    #[arg(long, env = "SESSIOND_ROLLING", default_value_t = true, action = ArgAction::Set, value_name = "BOOL")]
    pub rolling: bool,
    /// Write updates that change nothing
    #[arg(long, env = "SESSIOND_RESAVE", default_value_t = false, action = ArgAction::Set, value_name = "BOOL")]
    pub resave: bool,
    /// Store sessions that have neither a user nor data
    #[arg(long, env = "SESSIOND_SAVE_UNINITIALIZED", default_value_t = false, action = ArgAction::Set, value_name = "BOOL")]
    pub save_uninitialized: bool,
    /// Leave Expires off the cookie, so that it ends with the browser; the idle timeout holds all the same
    #[arg(long, env = "SESSIOND_BROWSER_SESSION", default_value_t = false, action = ArgAction::Set, value_name = "BOOL")]
    pub browser_session: bool,
    /// JSON Pointer to the user's id in the data, as in /passport/user; without it the data holds no user
    #[arg(long, env = "SESSIOND_USER_POINTER", value_name = "POINTER")]
    pub user_pointer: Option<String>,
    /// The most that a session's data may take as JSON
    #[arg(long, env = "SESSIOND_MAX_DATA_BYTES", default_value_t = 65_536, value_name = "BYTES")]
    pub max_data_bytes: usize,
    /// How many sessions a user may have at once; without it, as many as they like
    #[arg(long, env = "SESSIOND_MAX_SESSIONS_PER_USER", value_name = "N")]
    pub max_sessions_per_user: Option<usize>,
    /// What happens when a user would get one more: the one issued first ends, the one touched longest ago ends, or the
    /// new one is refused (409)
    #[arg(long, env = "SESSIOND_ON_LIMIT", default_value = "evict-oldest", value_name = "WHAT")]
    pub on_limit: OnLimit,
}

impl Session {
    pub(super) fn policy(&self) -> Result<Policy, String> {
        bounds("--max-idle-timeout", self.max_idle_timeout, MIN_SPAN, MAX_SPAN)?;
        bounds("--max-lifetime", self.max_lifetime, MIN_SPAN, MAX_SPAN)?;
        bounds("--idle-timeout", self.idle_timeout, MIN_SPAN, MAX_SPAN)?;
        bounds("--lifetime", self.lifetime, MIN_SPAN, MAX_SPAN)?;
        bounds("--touch-after", self.touch_after, 0, MAX_SPAN)?;
        for (flag, value, max) in [
            ("--idle-timeout", self.idle_timeout, self.max_idle_timeout),
            ("--lifetime", self.lifetime, self.max_lifetime),
        ] {
            if value > max {
                let name = flag.trim_start_matches("--");
                return Err(format!(
                    "{flag} is longer than --max-{name} ({}): raise --max-{name} or shorten {flag}",
                    duration::text(max)
                ));
            }
        }
        if !(2..=MAX_DATA_BYTES).contains(&self.max_data_bytes) {
            return Err(format!("--max-data-bytes is {}: use 2 to {MAX_DATA_BYTES}", self.max_data_bytes));
        }
        if self.max_sessions_per_user.is_some_and(|limit| !(1..=MAX_SESSIONS_PER_USER).contains(&limit)) {
            return Err(format!("--max-sessions-per-user takes 1 to {MAX_SESSIONS_PER_USER}"));
        }
        if self.on_limit == OnLimit::Reject && self.max_sessions_per_user.is_none() {
            return Err("--on-limit reject without --max-sessions-per-user refuses nobody: say how many".into());
        }
        let user_pointer = match self.user_pointer.as_deref() {
            None => None,
            Some(text) => Some(text.parse().map_err(|why| format!("--user-pointer {text:?}: {why}"))?),
        };
        Ok(Policy {
            idle_timeout: self.idle_timeout,
            max_idle_timeout: self.max_idle_timeout,
            lifetime: self.lifetime,
            max_lifetime: self.max_lifetime,
            touch_after: self.touch_after,
            rolling: self.rolling,
            resave: self.resave,
            save_uninitialized: self.save_uninitialized,
            browser_session: self.browser_session,
            express_writes: false,
            user_pointer,
            max_data_bytes: self.max_data_bytes,
            max_sessions_per_user: self.max_sessions_per_user,
            on_limit: self.on_limit,
        })
    }
}
