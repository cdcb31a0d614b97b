//! Whether the file can be used, as its threads tell each other and callers.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::ErrorCode;
use rusqlite::ffi::{SQLITE_IOERR_SHMSIZE, SQLITE_IOERR_WRITE};

use super::reserve::NEEDED;
use crate::store::{Error, Result};

/// How often a probe writes while no write fails. Each makes other processes on the file empty their near-caches.
const PROBE: Duration = Duration::from_secs(10);

/// The state of the file. A caller reads one atomic.
#[derive(Default)]
pub(super) struct Health {
    /// Why nothing is read or written any more.
    lost: OnceLock<String>,
    /// What SQLite said about the damage. Calls that do not meet it still work.
    damaged: OnceLock<String>,
    /// Whether only removals are done.
    full: AtomicBool,
    /// Whether a thread was refused room since the writer last asked.
    short: AtomicBool,
    /// Whether the last write was not committed.
    failing: AtomicBool,
    /// When a probe last wrote.
    probed: Mutex<Option<Instant>>,
}

impl Health {
    /// Returns an error if nothing can be read or written any more.
    pub(super) fn check(&self) -> Result<()> {
        self.lost.get().map_or(Ok(()), |why| Err(Error::Unavailable(why.clone())))
    }

    /// Returns an error if a write that takes room has no chance.
    pub(super) fn room(&self) -> Result<()> {
        if !self.full.load(Ordering::Relaxed) {
            return Ok(());
        }
        let needed = NEEDED >> 20;
        Err(Error::Unavailable(format!(
            "the disk is full or refuses writes: only revokes are done until it takes {needed} MiB"
        )))
    }

    /// Returns an error if the service should get no requests.
    pub(super) fn ready(&self) -> Result<()> {
        self.check()?;
        self.damaged.get().map_or(Ok(()), |why| Err(Error::Unavailable(why.clone())))?;
        self.room()
    }

    /// Ends all use of the file, until the service is restarted.
    pub(super) fn lose(&self, why: String) {
        tracing::error!(why, "the SQLite file is not used any more");
        let _ = self.lost.set(why);
    }

    pub(super) fn set_full(&self, full: bool) {
        if self.full.swap(full, Ordering::Relaxed) == full {
            return;
        }
        if full {
            tracing::error!("the disk is full or refuses writes: only revokes are done, in the room of the reserve");
        } else {
            tracing::info!("the disk has room again");
        }
    }

    /// Notes that the disk refused room.
    pub(super) fn set_short(&self) {
        self.short.store(true, Ordering::Relaxed);
    }

    /// Returns whether the disk refused room since the last call.
    pub(super) fn take_short(&self) -> bool {
        self.short.swap(false, Ordering::Relaxed)
    }

    pub(super) fn is_short(&self) -> bool {
        self.short.load(Ordering::Relaxed)
    }

    pub(super) fn set_failing(&self, failing: bool) {
        self.failing.store(failing, Ordering::Relaxed);
    }

    /// Returns whether a probe is to write something.
    pub(super) fn probe_is_due(&self) -> bool {
        let mut probed = self.probed.lock().unwrap_or_else(PoisonError::into_inner);
        let due = self.failing.load(Ordering::Relaxed) || probed.is_none_or(|at| at.elapsed() >= PROBE);
        if due {
            *probed = Some(Instant::now());
        }
        due
    }

    /// Runs a call to SQLite, and notes what its error says about the file. A panic is an error: it ends no thread.
    pub(super) fn run<T>(&self, call: impl FnOnce() -> rusqlite::Result<T>) -> Result<T> {
        match catch_unwind(AssertUnwindSafe(call)) {
            Ok(answer) => answer.map_err(|error| self.note(error)),
            Err(_) => Err(Error::Unexpected("a call to SQLite panicked".into())),
        }
    }

    /// Notes what an error says about the file.
    pub(super) fn note(&self, error: rusqlite::Error) -> Error {
        let code = error.sqlite_error_code();
        let extended = error.sqlite_error().map(|error| error.extended_code);
        // A write that an exhausted quota refuses is an I/O error.
        if code == Some(ErrorCode::DiskFull) || matches!(extended, Some(SQLITE_IOERR_WRITE | SQLITE_IOERR_SHMSIZE)) {
            self.set_short();
        }
        let error = Error::from(error);
        if matches!(code, Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)) {
            self.damaged.get_or_init(|| reason(&error));
        }
        error
    }
}

fn reason(error: &Error) -> String {
    match error {
        Error::Unavailable(why) | Error::Unexpected(why) => why.clone(),
        Error::OutOfTime => error.to_string(),
    }
}
