//! `--store`: which store, and where.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use redis::{ConnectionInfo, IntoConnectionInfo};
use url::Url;

/// Where the sessions are kept.
#[derive(Clone)]
pub enum StoreUrl {
    /// `sqlite:sessiond.db`: a file, made when missing.
    Sqlite(PathBuf),
    /// `redis://[[user]:password@]host[:port][/db]` or `redis+unix:///path/to.sock[?db=0&user=..&pass=..]`.
    Redis(Box<RedisTarget>),
}

/// A Redis server, and how it may be printed.
#[derive(Clone)]
pub struct RedisTarget {
    pub(super) info: ConnectionInfo,
    shown: String,
}

impl StoreUrl {
    /// The database's file, if the store is one: the secret is generated beside it, and it must exist for ops commands.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Sqlite(path) => Some(path),
            Self::Redis(_) => None,
        }
    }

    /// Whether an Express can save sessions in the same store.
    #[must_use]
    pub fn express_can_write(&self) -> bool {
        match self {
            Self::Sqlite(_) => false,
            Self::Redis(_) => true,
        }
    }
}

impl FromStr for StoreUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // No error repeats the text: it may hold a password.
        let (scheme, rest) =
            text.split_once(':').ok_or("write it like sqlite:sessiond.db or redis://localhost:6379")?;
        match scheme {
            "sqlite" => match rest.strip_prefix("//").unwrap_or(rest) {
                "" | ":memory:" => Err("name a file, as in sqlite:sessiond.db".into()),
                path if path.contains(['?', '#']) => {
                    Err("an SQLite URL has no parameters: write it like sqlite:sessiond.db".into())
                }
                path => Ok(Self::Sqlite(path.into())),
            },
            "redis" | "redis+unix" => {
                let url = Url::parse(text).map_err(|error| format!("this is not a URL: {error}"))?;
                known_parts(&url)?;
                let info = text.into_connection_info().map_err(|error| {
                    format!(
                        "this is not a Redis URL ({}): write it like redis://user:password@localhost:6379/0",
                        error.category()
                    )
                })?;
                Ok(Self::Redis(Box::new(RedisTarget { info, shown: shown(&url) })))
            }
            _ => Err("the scheme is none of sqlite:, redis:// and redis+unix://".into()),
        }
    }
}

/// Refuses what the redis crate would ignore: a database in the query of a TCP URL, a misspelt parameter.
fn known_parts(url: &Url) -> Result<(), String> {
    if url.fragment().is_some() {
        return Err("a Redis URL has no fragment: percent-encode # as %23".into());
    }
    if url.scheme() == "redis" {
        if url.query().is_some() {
            return Err("a redis:// URL has no parameters: the database is its path, as in redis://127.0.0.1:6379/2, and user and \
                        password stand before the host"
                .into());
        }
        return Ok(());
    }
    if url.has_host() || !url.username().is_empty() || url.password().is_some() {
        return Err(
            "a redis+unix:// URL has no host: write it like redis+unix:///run/redis.sock?db=0&user=..&pass=..".into()
        );
    }
    let mut seen = Vec::new();
    for (name, _) in url.query_pairs() {
        if !["db", "user", "pass"].contains(&&*name) || seen.contains(&name) {
            return Err("a redis+unix:// URL has the parameters db, user and pass, each at most once".into());
        }
        seen.push(name);
    }
    Ok(())
}

/// The URL without user, password and query.
fn shown(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{host}{port}{}", url.scheme(), url.path())
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Self::Redis(target) => f.write_str(&target.shown),
        }
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read() {
        for (text, shown) in [
            ("sqlite:sessiond.db", "sqlite:sessiond.db"),
            ("sqlite:///var/lib/s.db", "sqlite:/var/lib/s.db"),
            ("redis://localhost", "redis://localhost"),
            ("redis://:hunter2@cache:7000/3", "redis://cache:7000/3"),
            ("redis+unix:///run/redis.sock?db=2&user=u&pass=hunter2", "redis+unix:///run/redis.sock"),
        ] {
            let url: StoreUrl = text.parse().unwrap();
            assert_eq!(url.to_string(), shown);
            assert!(!format!("{url:?}").contains("hunter2"));
        }
    }

    #[test]
    fn a_wrong_url_is_refused_without_repeating_it() {
        for text in [
            "",
            "sessiond.db",
            "sqlite:",
            "sqlite::memory:",
            "rediss://:hunter2@h",
            "redis://:hunter2@h/x",
            "redis://:hunter2@h:port",
            "redis://h:6379?db=2",
            "redis://:hunter2@h:6379/?db=2",
            "redis://h:6379/2?protocol=resp3",
            "redis://h:6379/2#hunter2",
            "redis://h:6379/2/3",
            "redis+unix:///r.sock?db=x",
            "redis+unix:///r.sock?database=2",
            "redis+unix:///r.sock?pass=hunter2&db=1&db=2",
            "redis+unix://host/r.sock",
            "sqlite:x.db?mode=ro",
            "postgres://hunter2",
        ] {
            let error = text.parse::<StoreUrl>().unwrap_err();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
