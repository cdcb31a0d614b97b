//! The command line and the environment: one struct a concern, its combinations checked once.

mod duration;
mod secret;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use clap::{ArgAction, Args, ValueEnum};
use secrecy::SecretString;

use crate::clock::Ms;
use crate::cookie::{Attributes, Priority, SameSite, SetCookie};
use crate::session::{MAX_SPAN, MIN_SPAN, Policy};
use crate::store::StoreUrl;

pub use secret::fresh as fresh_secret;

/// The most that `--max-data-bytes` may be.
const MAX_DATA_BYTES: usize = 4 * 1024 * 1024;

/// Everything that `sessiond serve` is told. `Debug` and `--help` print no secret.
#[derive(Debug, Clone, Args)]
pub struct Config {
    /// Where to listen and how much to take.
    #[command(flatten)]
    pub server: Server,
    /// Where the sessions are.
    #[command(flatten)]
    pub storage: Storage,
    /// What signs the cookies.
    #[command(flatten)]
    pub secrets: Secrets,
    /// The cookie.
    #[command(flatten)]
    pub cookie: Cookie,
    /// The rules of sessions.
    #[command(flatten)]
    pub session: Session,
    /// What is logged.
    #[command(flatten)]
    pub logs: Logs,
    /// Check the configuration, print what is wrong with it, and exit
    #[arg(long)]
    pub check_config: bool,
}

/// Where to listen and how much to take.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Server")]
pub struct Server {
    /// Address to listen on: HOST:PORT, or unix:PATH
    #[arg(long, env = "SESSIOND_LISTEN", default_value = "127.0.0.1:8080", value_name = "ADDR")]
    pub listen: Listen,
    /// Serve callers without a key on an address that is not loopback. Only where none but your backends can reach it,
    /// such as a private container network
    #[arg(long, env = "SESSIOND_ALLOW_NO_KEY")]
    pub allow_no_key: bool,
    /// Connections that may be open at once; more wait to be accepted
    #[arg(long, env = "SESSIOND_MAX_CONNECTIONS", default_value_t = 10_000, value_name = "N")]
    pub max_connections: usize,
    /// Requests that may be in work at once; more are answered 503
    #[arg(long, env = "SESSIOND_MAX_IN_FLIGHT", default_value_t = 4_096, value_name = "N")]
    pub max_in_flight: usize,
    /// How long a request's head, and then its body, may take to arrive, and an answer to be read
    #[arg(long, env = "SESSIOND_READ_TIMEOUT", default_value = "10s", value_parser = duration::parse, value_name = "DURATION")]
    pub read_timeout: Ms,
    /// How long a connection may be idle between two requests; longer than callers' pools keep theirs
    #[arg(long, env = "SESSIOND_KEEP_ALIVE_TIMEOUT", default_value = "75s", value_parser = duration::parse, value_name = "DURATION")]
    pub keep_alive_timeout: Ms,
    /// How long requests in work may take to end after SIGTERM or SIGINT
    #[arg(long, env = "SESSIOND_DRAIN_TIMEOUT", default_value = "20s", value_parser = duration::parse, value_name = "DURATION")]
    pub drain_timeout: Ms,
}

/// Where the sessions are.
#[derive(Clone, Args)]
#[command(next_help_heading = "Store")]
pub struct Storage {
    /// sqlite:FILE, redis://[[USER]:PASSWORD@]HOST[:PORT][/DB], or redis+unix:///PATH[?db=N&user=..&pass=..]
    #[arg(
        long = "store",
        env = "SESSIOND_STORE",
        default_value = "sqlite:sessiond.db",
        hide_env_values = true,
        value_name = "URL"
    )]
    store: String,
    /// What the keys in Redis begin with
    #[arg(long, env = "SESSIOND_KEY_PREFIX", default_value = "sess:", value_name = "TEXT")]
    pub key_prefix: String,
}

/// What signs the cookies.
#[derive(Clone, Args)]
#[command(next_help_heading = "Secret")]
pub struct Secrets {
    /// Secret that signs the cookies, 32 bytes or more (`sessiond secret` makes one). Repeat it, or put commas between,
    /// to rotate: the first signs, all verify. With SQLite and none given, one is made beside the database. Other users
    /// of a machine can read its command lines: prefer the environment or a file
    #[arg(
        long = "secret",
        env = "SESSIOND_SECRET",
        hide_env_values = true,
        value_delimiter = ',',
        value_name = "SECRET"
    )]
    secret: Vec<SecretString>,
    /// File with secrets, one a line, in the same order
    #[arg(long, env = "SESSIOND_SECRET_FILE", value_name = "PATH")]
    secret_file: Option<PathBuf>,
    /// Accept secrets shorter than 32 bytes, such as those of an Express fleet that is being adopted
    #[arg(long, env = "SESSIOND_ALLOW_SHORT_SECRET")]
    allow_short_secret: bool,
}

/// The cookie, with the meanings of express-session's options.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Cookie")]
pub struct Cookie {
    /// Name of the cookie
    #[arg(long, env = "SESSIOND_COOKIE_NAME", default_value = "connect.sid", value_name = "NAME")]
    pub cookie_name: String,
    /// Domain attribute. Without it the cookie goes to the host that set it, and to no other
    #[arg(long, env = "SESSIOND_COOKIE_DOMAIN", value_name = "HOST")]
    pub cookie_domain: Option<String>,
    /// Path attribute
    #[arg(long, env = "SESSIOND_COOKIE_PATH", default_value = "/", value_name = "PATH")]
    pub cookie_path: String,
    /// HttpOnly attribute: scripts cannot read the cookie
    #[arg(long, env = "SESSIOND_COOKIE_HTTP_ONLY", default_value_t = true, action = ArgAction::Set, value_name = "BOOL")]
    pub cookie_http_only: bool,
    /// Secure attribute: the cookie goes over HTTPS only; browsers count localhost as such
    #[arg(long, env = "SESSIOND_COOKIE_SECURE", default_value_t = true, action = ArgAction::Set, value_name = "BOOL")]
    pub cookie_secure: bool,
    /// SameSite attribute; none needs --cookie-secure true
    #[arg(long, env = "SESSIOND_COOKIE_SAME_SITE", default_value = "lax", value_name = "MODE")]
    pub cookie_same_site: SameSite,
    /// Partitioned attribute (CHIPS): one cookie jar for each top-level site; needs --cookie-secure true
    #[arg(long, env = "SESSIOND_COOKIE_PARTITIONED", default_value_t = false, action = ArgAction::Set, value_name = "BOOL")]
    pub cookie_partitioned: bool,
    /// Priority attribute (Chromium)
    #[arg(long, env = "SESSIOND_COOKIE_PRIORITY", value_name = "LEVEL")]
    pub cookie_priority: Option<Priority>,
}

/// The rules of sessions. Durations are written 30s, 24h, 400d, or as a bare number of milliseconds.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Session (durations: 30s, 24h, 400d, or milliseconds)")]
pub struct Session {
    /// Time without a touch until a session expires: Express's cookie.maxAge
    #[arg(long, env = "SESSIOND_IDLE_TIMEOUT", default_value = "24h", value_parser = duration::parse, value_name = "DURATION")]
    pub idle_timeout: Ms,
    /// The longest idle timeout that an issuer may ask for
    #[arg(long, env = "SESSIOND_MAX_IDLE_TIMEOUT", default_value = "30d", value_parser = duration::parse, value_name = "DURATION")]
    pub max_idle_timeout: Ms,
    /// Time from issue until a session ends, whatever happens
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
}

/// What is logged, to standard error. No log has a cookie, a secret or a key in it.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Logs")]
pub struct Logs {
    /// What to log
    #[arg(long, env = "SESSIOND_LOG_LEVEL", default_value = "info", value_name = "LEVEL")]
    pub log_level: Level,
    /// How to write it
    #[arg(long, env = "SESSIOND_LOG_FORMAT", default_value = "text", value_name = "FORMAT")]
    pub log_format: Format,
}

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// How logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// An address to listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// HOST:PORT.
    Tcp(SocketAddr),
    /// unix:PATH.
    Unix(PathBuf),
}

/// A configuration that holds together.
#[derive(Debug, Clone)]
pub struct Checked {
    /// Where the sessions are.
    pub store: StoreUrl,
    /// What the keys in Redis begin with.
    pub key_prefix: String,
    /// At least one; the first signs.
    pub secrets: Vec<SecretString>,
    /// The file that the secret was made in or read from, when none was given.
    pub secret_file: Option<PathBuf>,
    /// The cookie's attributes.
    pub attributes: Attributes,
    /// The same, ready to be written.
    pub set_cookie: SetCookie,
    /// The rules of sessions.
    pub policy: Policy,
}

impl Config {
    /// Checks each value and every combination, and reads or makes the secrets.
    ///
    /// # Errors
    /// Says which flag is wrong and what would do. Repeats no secret and no store URL.
    pub fn check(&self) -> Result<Checked, String> {
        self.server.check()?;
        let store: StoreUrl = self.storage.store.parse().map_err(|why| format!("--store (SESSIOND_STORE): {why}"))?;
        if self.storage.key_prefix.is_empty() || self.storage.key_prefix.len() > 64 {
            return Err("--key-prefix has 1 to 64 bytes, as in sess:".into());
        }
        let attributes = self.cookie.attributes();
        let set_cookie = SetCookie::new(&attributes).map_err(|why| why.to_string())?;
        let policy = self.session.policy()?;
        // Last: it may make a file.
        let (secrets, secret_file) = self.secrets.load(&store, self.check_config)?;
        Ok(Checked {
            store,
            key_prefix: self.storage.key_prefix.clone(),
            secrets,
            secret_file,
            attributes,
            set_cookie,
            policy,
        })
    }
}

impl Server {
    fn check(&self) -> Result<(), String> {
        if let Listen::Tcp(address) = &self.listen
            && !address.ip().is_loopback()
            && !self.allow_no_key
        {
            return Err(format!(
                "--listen {address}: anybody who reaches this address could open and end sessions. Listen on 127.0.0.1 or unix:PATH, \
                 or pass --allow-no-key where only your backends can reach it"
            ));
        }
        for (flag, value) in [("--max-connections", self.max_connections), ("--max-in-flight", self.max_in_flight)] {
            if !(1..=1_000_000).contains(&value) {
                return Err(format!("{flag} is {value}: use 1 to 1000000"));
            }
        }
        bounds("--read-timeout", self.read_timeout, 100, 600_000)?;
        bounds("--keep-alive-timeout", self.keep_alive_timeout, 100, 3_600_000)?;
        bounds("--drain-timeout", self.drain_timeout, 0, 600_000)
    }
}

impl Cookie {
    fn attributes(&self) -> Attributes {
        Attributes {
            name: self.cookie_name.clone(),
            domain: self.cookie_domain.clone(),
            path: self.cookie_path.clone(),
            http_only: self.cookie_http_only,
            secure: self.cookie_secure,
            partitioned: self.cookie_partitioned,
            priority: self.cookie_priority,
            same_site: Some(self.cookie_same_site),
        }
    }
}

impl Session {
    fn policy(&self) -> Result<Policy, String> {
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
                    "{flag} is longer than --max-{name} ({max} ms): raise --max-{name} or shorten {flag}"
                ));
            }
        }
        if !(2..=MAX_DATA_BYTES).contains(&self.max_data_bytes) {
            return Err(format!("--max-data-bytes is {}: use 2 to {MAX_DATA_BYTES}", self.max_data_bytes));
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
            user_pointer,
            max_data_bytes: self.max_data_bytes,
        })
    }
}

fn bounds(flag: &str, value: Ms, min: Ms, max: Ms) -> Result<(), String> {
    if (min..=max).contains(&value) { Ok(()) } else { Err(format!("{flag} is {value} ms: use {min} to {max} ms")) }
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() {
                Err("name a path, as in unix:/run/sessiond.sock".into())
            } else {
                Ok(Self::Unix(path.into()))
            };
        }
        let local = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
        local
            .as_deref()
            .unwrap_or(text)
            .parse()
            .map(Self::Tcp)
            .map_err(|_| "write it like 127.0.0.1:8080, [::1]:8080 or unix:/run/sessiond.sock".into())
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Listen {
    /// The address to reach this one at from the same machine.
    #[must_use]
    pub fn local(&self) -> Self {
        match self {
            Self::Tcp(address) if address.ip().is_unspecified() => {
                let ip = if address.is_ipv4() {
                    IpAddr::from([127, 0, 0, 1])
                } else {
                    IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])
                };
                Self::Tcp(SocketAddr::new(ip, address.port()))
            }
            other => other.clone(),
        }
    }
}

impl fmt::Debug for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Storage").field("key_prefix", &self.key_prefix).finish_non_exhaustive()
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secrets").field("secret_file", &self.secret_file).finish_non_exhaustive()
    }
}
