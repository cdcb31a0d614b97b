//! Secrets: where they come from, and what makes one good enough.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret, SecretString};

use super::Secrets;
use crate::store::StoreUrl;

const MIN_BYTES: usize = 32;
const MAX_SECRETS: usize = 16;

/// A fresh secret: 32 random bytes, in 43 characters that need no quoting anywhere.
///
/// # Panics
/// When the operating system has no random bytes to give.
#[must_use]
pub fn fresh() -> SecretString {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    URL_SAFE_NO_PAD.encode(bytes).into()
}

/// Where the secret of a database is made when none is given.
fn beside(database: &Path) -> PathBuf {
    format!("{}.secret", database.display()).into()
}

impl Secrets {
    /// The secrets that are given or were made already.
    pub(super) fn known(&self, store: &StoreUrl) -> Result<Vec<SecretString>, String> {
        if let Some(database) = store.file()
            && self.secret.is_empty()
            && self.secret_file.is_none()
            && !beside(database).exists()
        {
            let path = beside(database);
            return Err(format!("no secret is given, and there is none at {}: pass --secret-file", path.display()));
        }
        Ok(self.load(store, true)?.0)
    }

    /// The file that secrets are read from: the one that is named, or the one beside the database if it exists.
    pub(super) fn file(&self, store: &StoreUrl) -> Option<PathBuf> {
        let generated = || store.file().filter(|_| self.secret.is_empty()).map(beside).filter(|path| path.exists());
        self.secret_file.clone().or_else(generated)
    }

    /// The secrets, and the file that was read or made because none was named. `dry`: makes no file.
    pub(super) fn load(&self, store: &StoreUrl, dry: bool) -> Result<(Vec<SecretString>, Option<PathBuf>), String> {
        if !self.secret.is_empty() && self.secret_file.is_some() {
            return Err(
                "both --secret and --secret-file are given (SESSIOND_SECRET, SESSIOND_SECRET_FILE): leave one out"
                    .into(),
            );
        }
        let (secrets, beside) = match (&self.secret_file, store.file()) {
            (Some(path), _) => (read(path)?, None),
            (None, _) if !self.secret.is_empty() => (self.secret.clone(), None),
            (None, Some(database)) => {
                let path = beside(database);
                let secrets = if path.exists() || !dry { read_or_make(&path)? } else { vec![fresh()] };
                (secrets, Some(path))
            }
            (None, None) => {
                return Err("with Redis a secret is needed, the same for every process: run `sessiond secret`, and hand it over as \
                            SESSIOND_SECRET or in a file as SESSIOND_SECRET_FILE"
                    .into());
            }
        };
        self.judge(&secrets)?;
        Ok((secrets, beside))
    }

    fn judge(&self, secrets: &[SecretString]) -> Result<(), String> {
        if secrets.is_empty() || secrets.len() > MAX_SECRETS {
            return Err(format!("there are {} secrets: give 1 to {MAX_SECRETS}", secrets.len()));
        }
        for (position, secret) in (1..).zip(secrets) {
            let length = secret.expose_secret().len();
            if length == 0 {
                return Err(format!("secret number {position} is empty"));
            }
            if length < MIN_BYTES && !self.allow_short_secret {
                return Err(format!(
                    "secret number {position} has {length} bytes, and {MIN_BYTES} are needed: run `sessiond secret` for a good one, or pass \
                     --allow-short-secret when an Express fleet signs with it already (a secret with a comma in it goes into a file: \
                     --secret-file)"
                ));
            }
        }
        Ok(())
    }
}

/// One secret a line; empty lines do not count.
fn read(path: &Path) -> Result<Vec<SecretString>, String> {
    let text = fs::read_to_string(path)
        .map_err(|error| format!("the secret file {} cannot be read: {error}", path.display()))?;
    Ok(text
        .lines()
        .map(|line| line.trim_end_matches('\r'))
        .filter(|line| !line.is_empty())
        .map(SecretString::from)
        .collect())
}

/// Of several processes that start at once, one makes the file, and it never holds half a secret.
fn read_or_make(path: &Path) -> Result<Vec<SecretString>, String> {
    let failed = |error: std::io::Error| format!("no secret could be made at {}: {error}", path.display());
    if !path.exists() {
        let draft = PathBuf::from(format!("{}.{}", path.display(), std::process::id()));
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft).map_err(failed)?;
        writeln!(file, "{}", fresh().expose_secret()).and_then(|()| file.sync_all()).map_err(failed)?;
        let linked = fs::hard_link(&draft, path);
        fs::remove_file(&draft).map_err(failed)?;
        match linked {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(failed(error)),
            _ => {}
        }
    }
    read(path)
}
