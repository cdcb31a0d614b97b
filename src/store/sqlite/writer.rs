//! The writer thread, and the checkpointer beside it.

use std::ffi::c_int;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use rusqlite::Connection;
use rusqlite::hooks::Wal;

use crate::clock::BootInstant;
use crate::store::{Error, Result, Watcher};

/// How many writes one commit takes.
const GROUP: usize = 256;
/// How often to look whether another process has written.
const HEARTBEAT: Duration = Duration::from_millis(20);
/// After how many more pages (4 KiB) in the WAL they are to be copied into the file.
const CHECKPOINT: usize = 4096;
/// At how many pages in the WAL the writer copies what is left, so that it begins anew.
const FULL: usize = 16_384;

/// Runs inside a transaction, or is told why there is none; gives back how to answer once the commit is known.
pub(super) type WriteJob = Box<dyn FnOnce(Result<&Connection>) -> Answer + Send>;
type Answer = Box<dyn FnOnce(Result<()>)>;

/// The writer thread: one transaction for all the writes that wait. Calls for the checkpointer now and then.
pub(super) fn write(connection: &Connection, jobs: &Receiver<WriteJob>, mut watched: Watched, mut log: Log) {
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
        let transaction = || begun.clone().and_then(|()| in_transaction(connection));
        let answers: Vec<Answer> = group.map(|job| job(transaction().map(|()| connection))).collect();
        let committed = transaction().and_then(|()| commit(connection));
        for answer in answers {
            answer(committed.clone());
        }
        log.keep_short(connection);
        watched.beat(connection);
    }
}

/// What the writer thread knows of the WAL.
pub(super) struct Log {
    /// How many pages it had after the last commit.
    pages: Arc<AtomicUsize>,
    /// How many of them somebody was called to copy.
    called: usize,
    checkpointer: Sender<()>,
}

impl Log {
    /// The log of the one connection that writes.
    pub(super) fn of(writer: &mut Connection, checkpointer: Sender<()>) -> rusqlite::Result<Self> {
        let pages = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&pages);
        // In the place of SQLite's own, which copies at the end of a commit, before that is answered.
        writer.wal_hook(Some(move |_: &mut Wal, pages: c_int| {
            counted.store(usize::try_from(pages).unwrap_or(0), Ordering::Relaxed);
            Ok(())
        }))?;
        Ok(Self { pages, called: 0, checkpointer })
    }

    /// Has the pages copied into the file. Writes do not wait for the checkpointer; but while they go on it does not get
    /// to the end, and a WAL begins anew only then, so at last the writer does the rest.
    fn keep_short(&mut self, writer: &Connection) {
        let pages = self.pages.load(Ordering::Relaxed);
        if pages < self.called {
            self.called = 0;
        }
        if pages >= FULL {
            copy(writer);
        } else if pages - self.called >= CHECKPOINT && self.checkpointer.try_send(()).is_ok() {
            self.called = pages;
        }
    }
}

/// The checkpointer: copies the WAL into the file when it is called, while writes go on.
pub(super) fn checkpoint(connection: &Connection, calls: &Receiver<()>) {
    calls.iter().for_each(|()| copy(connection));
}

fn copy(connection: &Connection) {
    if let Err(error) = connection.query_row("pragma wal_checkpoint(passive)", [], |_| Ok(())) {
        tracing::debug!(%error, "the WAL was not copied into the file");
    }
}

/// What the writer thread knows of other processes' writes: only its own connection can tell them from its own.
pub(super) struct Watched {
    watcher: Arc<OnceLock<Arc<dyn Watcher>>>,
    version: Option<i64>,
    beaten: BootInstant,
}

impl Watched {
    pub(super) fn new(watcher: Arc<OnceLock<Arc<dyn Watcher>>>) -> Self {
        Self { watcher, version: None, beaten: BootInstant::now() }
    }

    /// Now and then proves to who watches that everything is told, or has them doubt it.
    fn beat(&mut self, connection: &Connection) {
        let at = BootInstant::now();
        let Some(watcher) = self.watcher.get() else { return };
        if at.saturating_duration_since(self.beaten) < HEARTBEAT {
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

/// A full disk or a failed read makes SQLite end the transaction by itself.
fn in_transaction(connection: &Connection) -> Result<()> {
    if connection.is_autocommit() {
        return Err(Error::Unavailable("SQLite rolled the write back".into()));
    }
    Ok(())
}

fn commit(connection: &Connection) -> Result<()> {
    connection.execute_batch("commit").map_err(|error| {
        if !connection.is_autocommit() {
            let _ = connection.execute_batch("rollback");
        }
        error.into()
    })
}
