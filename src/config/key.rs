//! The keys of callers: where they are configured.

use std::fmt;
use std::fs;
use std::path::PathBuf;

use clap::Args;

use crate::caller;

/// Who may call. With no key at all, anybody may who reaches the service.
#[derive(Clone, Args)]
#[command(next_help_heading = "Caller keys")]
pub struct Keys {
    /// Key that a caller may have (`sessiond keygen` makes one)
    ///
    /// Repeat it, or put commas between
    #[arg(
        long = "api-key",
        env = "SESSIOND_API_KEY",
        hide_env_values = true,
        value_delimiter = ',',
        value_name = "NAME:SCOPE:HASH"
    )]
    api_key: Vec<String>,
    /// File with more of them, one a line; empty lines and those that begin with # do not count. Read again at SIGHUP
    #[arg(long, env = "SESSIOND_API_KEY_FILE", value_name = "PATH")]
    api_key_file: Option<PathBuf>,
    /// Serve callers without a key on an address that is not loopback. Only where none but your backends can reach it,
    /// such as a private container network
    #[arg(long, env = "SESSIOND_ALLOW_NO_KEY")]
    pub allow_no_key: bool,
}

impl Keys {
    /// Reads them, from the file too.
    ///
    /// # Errors
    /// Says what is wrong, and repeats no line. Also when a file is named and there is no key: whoever names one does not
    /// mean to serve everybody.
    pub fn load(&self) -> Result<caller::Keys, String> {
        let flags = caller::Keys::parse(self.api_key.iter().map(|line| line.trim()))
            .map_err(|why| format!("--api-key (SESSIOND_API_KEY): {why}"))?;
        let Some(path) = &self.api_key_file else { return Ok(flags) };
        let named = |why: &dyn fmt::Display| format!("--api-key-file {}: {why}", path.display());
        let text = fs::read_to_string(path).map_err(|error| named(&error))?;
        let in_file = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let lines: Vec<&str> = self.api_key.iter().map(|line| line.trim()).chain(in_file).collect();
        let keys = caller::Keys::parse(lines).map_err(|why| named(&why))?;
        if keys.is_empty() {
            return Err(named(&"there is no key in it: `sessiond keygen` makes one"));
        }
        Ok(keys)
    }

    /// Whether there is a file to read again.
    #[must_use]
    pub fn has_file(&self) -> bool {
        self.api_key_file.is_some()
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("api_key_file", &self.api_key_file).finish_non_exhaustive()
    }
}
