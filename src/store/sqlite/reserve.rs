//! Room on the disk that is kept for revokes.
//!
//! A removal too is written to the WAL. So a file beside the database holds some room; when the disk is full it is deleted,
//! and while it is missing only removals are done. The file is missing for every process on the database at once.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::beside;

/// How much room it keeps: for the pages that a checkpoint adds to the database, which is due after 16 MiB of WAL, or
/// for some 400 revokes one by one.
const SIZE: u64 = 8 << 20;
/// How much free room is needed to make the reserve. It is more than the reserve takes: otherwise releasing the reserve would
/// be enough to make it again.
pub(super) const NEEDED: u64 = SIZE + (1 << 20);

pub(super) struct Reserve {
    path: PathBuf,
}

impl Reserve {
    pub(super) fn new(database: &Path) -> Self {
        Self { path: beside(database, "-reserve") }
    }

    /// Leaves its room to others.
    pub(super) fn release(&self) {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => tracing::debug!(%error, "the reserve was not deleted"),
            _ => {}
        }
    }

    /// Makes the file unless it exists; returns whether it does now.
    pub(super) fn ensure(&self) -> bool {
        if fs::metadata(&self.path).is_ok_and(|file| file.len() >= SIZE) {
            return true;
        }
        if self.available() < NEEDED {
            return false;
        }
        let made = self.make();
        if let Err(error) = &made {
            tracing::debug!(%error, "the reserve was not made");
            self.release();
        }
        made.is_ok()
    }

    /// Returns how many bytes the file system has left. One that does not say how large it is counts as unlimited.
    pub(super) fn available(&self) -> u64 {
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        match rustix::fs::statvfs(folder) {
            Ok(disk) if disk.f_blocks > 0 => disk.f_bavail.saturating_mul(disk.f_frsize),
            _ => u64::MAX,
        }
    }

    fn make(&self) -> io::Result<()> {
        // Random, or a file system that compresses would keep no room for it.
        let mut chunk = vec![0; 1 << 20];
        getrandom::fill(&mut chunk).map_err(io::Error::other)?;
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&self.path)?;
        // All that is needed, for `available` knows of no quota.
        for _ in 0..NEEDED >> 20 {
            file.write_all(&chunk)?;
        }
        file.set_len(SIZE)
    }
}
