//! The command line and the environment: one struct a concern, its combinations checked once.

mod duration;
mod key;
mod listen;
mod secret;
mod session;
mod storage;

use std::fmt;
use std::path::PathBuf;

use clap::{ArgAction, Args, ValueEnum};
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use crate::cache::Limits;
use crate::caller;
use crate::clock::Ms;
use crate::cookie::{Attributes, Priority, SameSite, SetCookie};
use crate::session::Policy;
use crate::store::{Keyspace, StoreUrl};

pub use key::Keys;
pub use listen::Listen;
pub use secret::fresh as fresh_secret;
pub use session::Session;
pub use storage::Storage;

/// Everything that `sessiond serve` is told. `Debug` and `--help` print no secret.
#[derive(Debug, Clone, Args)]
pub struct Config {
    /// Where to listen and how much to take.
    #[command(flatten)]
    pub server: Server,
    /// Who may call.
    #[command(flatten)]
    pub keys: Keys,
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
    /// Address to listen on: IP:PORT, localhost:PORT, or unix:PATH
    #[arg(long, env = "SESSIOND_LISTEN", default_value = "127.0.0.1:8080", value_name = "ADDR")]
    pub listen: Listen,
    /// Address for /metrics, /livez, /readyz, /docs and /openapi.yaml, which --listen then does not serve: IP:PORT,
    /// localhost:PORT, or unix:PATH
    #[arg(long, env = "SESSIOND_OPS_ADDR", value_name = "ADDR")]
    pub ops_addr: Option<Listen>,
    /// Host name that requests may be for, besides localhost and addresses, where --listen or --ops-addr is a loopback
    /// address and needs no key. Repeat it, or put commas between; * allows any. Other names are answered 421, because a
    /// web page can point its own name at this machine (DNS rebinding)
    #[arg(long, env = "SESSIOND_ALLOWED_HOST", value_delimiter = ',', value_name = "HOST")]
    pub allowed_host: Vec<String>,
    /// Connections that may be open at once; more wait to be accepted
    #[arg(long, env = "SESSIOND_MAX_CONNECTIONS", default_value_t = 10_000, value_name = "N")]
    pub max_connections: usize,
    /// Requests that may be in progress at once, until their answers are sent; more are answered 503. Requests without a
    /// valid key have a limit of their own, and /livez and /readyz have none
    #[arg(long, env = "SESSIOND_MAX_IN_FLIGHT", default_value_t = 4_096, value_name = "N")]
    pub max_in_flight: usize,
    /// How long a request's head, and then its body, may take to arrive, and how long an answer may wait to be read.
    /// Reading an answer at less than 16 KiB/s uses this time up
    #[arg(long, env = "SESSIOND_READ_TIMEOUT", default_value = "10s", value_parser = duration::parse, value_name = "DURATION")]
    pub read_timeout: Ms,
    /// How long a connection may be idle between two requests; longer than callers' pools keep theirs
    #[arg(long, env = "SESSIOND_KEEP_ALIVE_TIMEOUT", default_value = "75s", value_parser = duration::parse, value_name = "DURATION")]
    pub keep_alive_timeout: Ms,
    /// How long requests in progress may take to end after SIGTERM or SIGINT
    #[arg(long, env = "SESSIOND_DRAIN_TIMEOUT", default_value = "20s", value_parser = duration::parse, value_name = "DURATION")]
    pub drain_timeout: Ms,
}

/// What signs the cookies.
#[derive(Clone, Args)]
#[command(next_help_heading = "Secret")]
pub struct Secrets {
    /// Secret that signs the cookies (`sessiond secret` makes one)
    ///
    /// It has 32 bytes or more. Repeat it, or put commas between, to rotate: the first signs, all verify. With SQLite and none given, one is made
    /// beside the database. Other users of a machine can read its command lines: prefer the environment or a file
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
    /// Secure attribute: the cookie goes over HTTPS only
    ///
    /// Browsers count localhost as such
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

/// What is logged, to standard error, and traced. No log has a cookie, a secret or a key in it.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Logs and traces")]
pub struct Logs {
    /// What to log
    #[arg(long, env = "SESSIOND_LOG_LEVEL", default_value = "info", value_name = "LEVEL")]
    pub log_level: Level,
    /// How to write the log
    #[arg(long, env = "SESSIOND_LOG_FORMAT", default_value = "text", value_name = "FORMAT")]
    pub log_format: Format,
    /// Base URL of a collector (OTLP over HTTP, as in http://127.0.0.1:4318) that gets the spans of those requests whose
    /// traceparent is sampled. Needs a build with the feature otlp
    #[arg(long, env = "SESSIOND_OTLP_ENDPOINT", hide_env_values = true, value_name = "URL")]
    pub otlp_endpoint: Option<SecretString>,
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

/// Where the sessions are and which rules they keep: what every command needs. No secret is in it.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Where the sessions are.
    pub store: StoreUrl,
    /// The keys, if it is a Redis.
    pub keyspace: Keyspace,
    /// The cookie's attributes.
    pub attributes: Attributes,
    /// The rules of sessions.
    pub policy: Policy,
}

/// A configuration that holds together.
#[derive(Debug, Clone)]
pub struct Checked {
    /// The keys of callers. None: they need no key.
    pub keys: caller::Keys,
    /// Where the sessions are.
    pub store: StoreUrl,
    /// The keys, if it is a Redis.
    pub keyspace: Keyspace,
    /// What the near-cache may keep, if there is to be one.
    pub cache: Option<Limits>,
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
        self.checked(false)
    }

    /// Checks the same, and makes no file.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub fn validate(&self) -> Result<Rules, String> {
        let Checked { store, keyspace, attributes, policy, .. } = self.checked(true)?;
        Ok(Rules { store, keyspace, attributes, policy })
    }

    fn checked(&self, is_dry_run: bool) -> Result<Checked, String> {
        self.server.check()?;
        self.logs.check()?;
        let keys = self.keys.load()?;
        if let Listen::Tcp(address) = &self.server.listen
            && !address.ip().is_loopback()
            && keys.is_empty()
            && !self.keys.allow_no_key
        {
            return Err(format!(
                "--listen {address}: anybody who reaches this address could open and end sessions. Give each caller a key \
                 (`sessiond keygen` makes them), listen on 127.0.0.1 or unix:PATH, or pass --allow-no-key where only your \
                 backends can reach it"
            ));
        }
        let Rules { store, keyspace, attributes, policy } = self.rules()?;
        let cache = self.storage.cache()?;
        let set_cookie = SetCookie::new(&attributes).map_err(|why| why.to_string())?;
        // Last: it may make a file.
        let (secrets, secret_file) = self.secrets.load(&store, is_dry_run)?;
        Ok(Checked { keys, store, keyspace, cache, secrets, secret_file, attributes, set_cookie, policy })
    }

    /// Checks what a command needs that serves nobody, and signs nothing.
    ///
    /// # Errors
    /// Says which flag is wrong and what would do. Does not repeat the store URL.
    pub fn rules(&self) -> Result<Rules, String> {
        let (store, keyspace) = self.storage.check()?;
        let mut policy = self.session.policy()?;
        policy.express_writes = keyspace.tombstone.is_some();
        Ok(Rules { store, keyspace, attributes: self.cookie.attributes(), policy })
    }

    /// The secrets that the service verifies with. Makes none.
    ///
    /// # Errors
    /// Says which flag is wrong and what would do. Repeats no secret.
    pub fn secrets(&self, store: &StoreUrl) -> Result<Vec<SecretString>, String> {
        self.secrets.known(store)
    }

    /// The file that the secrets are read from, if there is one.
    #[must_use]
    pub fn secret_file(&self, store: &StoreUrl) -> Option<PathBuf> {
        self.secrets.file(store)
    }
}

impl Server {
    fn check(&self) -> Result<(), String> {
        for (flag, value) in [("--max-connections", self.max_connections), ("--max-in-flight", self.max_in_flight)] {
            if !(1..=1_000_000).contains(&value) {
                return Err(format!("{flag} is {value}: use 1 to 1000000"));
            }
        }
        // An empty variable is none.
        let is_name = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        if let Some(name) = self.allowed_host.iter().find(|name| *name != "*" && !is_name(name)) {
            return Err(format!("--allowed-host {name}: write a host name alone, as in gate.example.com, or *"));
        }
        bounds("--read-timeout", self.read_timeout, 100, 600_000)?;
        bounds("--keep-alive-timeout", self.keep_alive_timeout, 100, 3_600_000)?;
        bounds("--drain-timeout", self.drain_timeout, 0, 600_000)
    }
}

impl Logs {
    fn check(&self) -> Result<(), String> {
        let Some(endpoint) = &self.otlp_endpoint else { return Ok(()) };
        if cfg!(not(feature = "otlp")) {
            return Err(
                "--otlp-endpoint: this build sends no spans: build it with `cargo build --release --features otlp`"
                    .into(),
            );
        }
        // Not what the parser says: there may be a password in a URL.
        let url = Url::parse(endpoint.expose_secret()).ok();
        // https would need another build of the exporter, and be refused with each span.
        if url.is_none_or(|url| url.scheme() != "http" || !url.has_host()) {
            return Err(
                "--otlp-endpoint: this is no URL such as http://127.0.0.1:4318 (spans are sent by plain HTTP)".into()
            );
        }
        Ok(())
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

fn bounds(flag: &str, value: Ms, min: Ms, max: Ms) -> Result<(), String> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(format!("{flag} is {}: use {} to {}", duration::text(value), duration::text(min), duration::text(max)))
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secrets").field("secret_file", &self.secret_file).finish_non_exhaustive()
    }
}
