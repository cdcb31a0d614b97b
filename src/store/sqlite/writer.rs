//! The writer thread, and the checkpointer beside it.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use rusqlite::Connection;

use crate::store::{Error, Result, Watcher};

/// How many writes one commit takes.
const GROUP: usize = 256;
/// How often to look whether another process has written.
const HEARTBEAT: Duration = Duration::from_millis(20);
/// After about how many pages (4 KiB) in the WAL they are to be copied into the file.
const CHECKPOINT: usize = 4096;
/// Pages that a commit writes, about, besides one for each write: those at the end of the table and of its indexes.
const COMMIT: usize = 4;

/// Runs inside a transaction, or is told why there is none; gives back how to answer once the commit is known.
pub(super) type WriteJob = Box<dyn FnOnce(Result<&Connection>) -> Answer + Send>;
type Answer = Box<dyn FnOnce(Result<()>)>;

/// The writer thread: one transaction for all the writes that wait. Calls for the checkpointer now and then.
pub(super) fn write(
    connection: &Connection,
    jobs: &Receiver<WriteJob>,
    mut watched: Watched,
    checkpointer: &Sender<()>,
) {
    let mut pages = 0;
    loop {
        let first = match watched.watcher.get() {
            Some(_) => jobs.recv_timeout(HEARTBEAT),
            None => jobs.recv().map_err(RecvTimeoutError::from),
        };
        let first = match first {
            Ok(first) => first,
            Err(RecvTimeoutError::Timeout) => {
                watched.beat(connection);
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let group = std::iter::once(first).chain(jobs.try_iter().take(GROUP - 1));
        let begun = connection.execute_batch("begin immediate").map_err(Error::from);
        let answers: Vec<Answer> = group.map(|job| job(begun.clone().map(|()| connection))).collect();
        let committed = begun.and_then(|()| commit(connection));
        pages += COMMIT + answers.len();
        for answer in answers {
            answer(committed.clone());
        }
        if pages >= CHECKPOINT && checkpointer.try_send(()).is_ok() {
            pages = 0;
        }
        watched.beat(connection);
    }
}

/// The checkpointer: copies the WAL into the file when it is called, while writes go on. They do not wait for the disk; but
/// when the WAL has grown to `wal_autocheckpoint` all the same, the writer does the rest, and begins it anew.
pub(super) fn checkpoint(connection: &Connection, calls: &Receiver<()>) {
    for () in calls {
        if let Err(error) = connection.query_row("pragma wal_checkpoint(passive)", [], |_| Ok(())) {
            tracing::debug!(%error, "the WAL was not copied into the file");
        }
    }
}

/// What the writer thread knows of other processes' writes: only its own connection can tell them from its own.
pub(super) struct Watched {
    watcher: Arc<OnceLock<Arc<dyn Watcher>>>,
    version: Option<i64>,
    beaten: Instant,
}

impl Watched {
    pub(super) fn new(watcher: Arc<OnceLock<Arc<dyn Watcher>>>) -> Self {
        Self { watcher, version: None, beaten: Instant::now() }
    }

    /// Now and then proves to who watches that everything is told, or has them doubt it.
    fn beat(&mut self, connection: &Connection) {
        let at = Instant::now();
        let Some(watcher) = self.watcher.get() else { return };
        if at.duration_since(self.beaten) < HEARTBEAT {
            return;
        }
        self.beaten = at;
        // Another number when another connection has committed, and only then.
        let query = connection.prepare_cached("pragma data_version");
        let version = query.and_then(|mut query| query.query_row([], |row| row.get(0))).ok();
        if version.is_none() || version != self.version {
            watcher.doubt();
        }
        self.version = version;
        if version.is_some() {
            watcher.current(at);
        }
    }
}

fn commit(connection: &Connection) -> Result<()> {
    // A full disk or a failed read makes SQLite end the transaction by itself.
    if connection.is_autocommit() {
        return Err(Error::Unavailable("SQLite rolled the write back".into()));
    }
    connection.execute_batch("commit").map_err(|error| {
        if !connection.is_autocommit() {
            let _ = connection.execute_batch("rollback");
        }
        error.into()
    })
}
