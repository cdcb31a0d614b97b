//! Where the sessions are.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use bytesize::ByteSize;
use clap::Args;

use super::{bounds, duration};
use crate::cache::Limits;
use crate::clock::Ms;
use crate::store::{Keyspace, StoreUrl};

/// Where the sessions are.
#[derive(Clone, Args)]
#[command(next_help_heading = "Store")]
pub struct Storage {
    /// Where the sessions are, as in sqlite:FILE or redis://HOST:PORT
    ///
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
    key_prefix: String,
    /// Express apps save sessions in this Redis too: keep what is revoked dead when one of them saves it late, and keep
    /// sessions listed that only they extend. To be told to every process and command on that Redis
    #[arg(long, env = "SESSIOND_EXPRESS_WRITES")]
    express_writes: bool,
    /// With --express-writes: how long a revoked id is remembered. A request to Express that takes longer, and then
    /// saves its session, revives it
    #[arg(long, env = "SESSIOND_TOMBSTONE", default_value = "10m", value_parser = duration::parse, value_name = "DURATION")]
    tombstone: Ms,
    /// Memory for a near-cache of resolves, as in 64MiB: a session that was resolved here lately is answered without asking
    /// the store, and what happens to it elsewhere is heeded within --max-staleness. 0: none
    #[arg(long, help_heading = "Near-cache", env = "SESSIOND_CACHE", default_value = "0", value_name = "SIZE")]
    cache: ByteSize,
    /// With --cache: how late another process's revoke may be heeded at the most, whatever becomes of the store; most are
    /// within a few ms
    #[arg(long, help_heading = "Near-cache", env = "SESSIOND_MAX_STALENESS", default_value = "500ms", value_parser = duration::parse, value_name = "DURATION")]
    max_staleness: Ms,
}

impl Storage {
    /// # Errors
    /// Says which flag is wrong and what would do. Does not repeat the store URL.
    pub(super) fn check(&self) -> Result<(StoreUrl, Keyspace), String> {
        let store: StoreUrl = self.store.parse().map_err(|why| format!("--store (SESSIOND_STORE): {why}"))?;
        let prefix = self.key_prefix.clone();
        if prefix.is_empty() || prefix.len() > 64 {
            return Err("--key-prefix has 1 to 64 bytes, as in sess:".into());
        }
        if prefix.contains(|char: char| char.is_control() || "{}".contains(char)) {
            return Err(
                "--key-prefix takes no braces, which would tell a cluster where a key belongs, and no control \
                        characters: choose another, as in sess:"
                    .into(),
            );
        }
        if self.express_writes && !store.express_can_write() {
            return Err("--express-writes goes with Redis: no Express writes to an SQLite file".into());
        }
        let folder = store.file().and_then(Path::parent).filter(|folder| !folder.as_os_str().is_empty());
        if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
            return Err(format!("--store {store}: there is no folder {}: make it, or name another", folder.display()));
        }
        bounds("--tombstone", self.tombstone, 1000, 7 * 24 * 60 * 60 * 1000)?;
        Ok((store, Keyspace { prefix, tombstone: self.express_writes.then_some(self.tombstone) }))
    }

    /// What the near-cache may keep, if there is to be one.
    ///
    /// # Errors
    /// Says which flag is wrong and what would do.
    pub(super) fn cache(&self) -> Result<Option<Limits>, String> {
        bounds("--max-staleness", self.max_staleness, 100, 60_000)?;
        let bytes = self.cache.as_u64();
        if (1..1024 * 1024).contains(&bytes) {
            return Err("--cache takes 1MiB or more, or 0 for none".into());
        }
        let max_staleness = Duration::from_millis(self.max_staleness.unsigned_abs());
        Ok((bytes > 0).then_some(Limits { bytes, max_staleness }))
    }
}

impl fmt::Debug for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Storage").field("key_prefix", &self.key_prefix).finish_non_exhaustive()
    }
}
