//! Whether the files at the paths are still the ones that SQLite has open.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::beside;

/// The database and its WAL, each with the device and inode that it had when it was opened.
///
/// Looks at paths only: to close a file that SQLite has open would end SQLite's locks on it.
pub(super) struct Identity {
    files: [(PathBuf, (u64, u64)); 2],
}

impl Identity {
    /// The identity of a database that is open, so that its WAL exists and stays.
    pub(super) fn of(database: &Path) -> std::io::Result<Self> {
        let file = |path: PathBuf| {
            let metadata = fs::metadata(&path)?;
            Ok::<_, std::io::Error>((path, (metadata.dev(), metadata.ino())))
        };
        Ok(Self { files: [file(database.to_owned())?, file(beside(database, "-wal"))?] })
    }

    /// Returns an explanation if another file is there now, or none.
    pub(super) fn lost(&self) -> Option<String> {
        self.files.iter().find_map(|(path, opened)| {
            let what = match fs::metadata(path) {
                Ok(file) if (file.dev(), file.ino()) == *opened => return None,
                Ok(_) => "replaced",
                Err(error) if error.kind() == ErrorKind::NotFound => "deleted",
                // A path that cannot be looked at says nothing.
                Err(_) => return None,
            };
            Some(format!(
                "{} was {what} while it was in use, so what is written now would be lost: restart the service",
                path.display()
            ))
        })
    }
}
