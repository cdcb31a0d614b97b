//! The writer thread, and the checkpointer beside it.

use std::ffi::c_int;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use rusqlite::Connection;
use rusqlite::hooks::Wal;

use super::health::Health;
use super::identity::Identity;
use super::reserve::Reserve;
use crate::clock::BootInstant;
use crate::store::{Error, Result, Watcher};

/// How many writes one commit takes.
const GROUP: usize = 256;
/// How often to look whether another process has written.
const HEARTBEAT: Duration = Duration::from_millis(20);
/// How often to look whether the files are still there, and whether there is room, also when nothing is written.
const LOOK: Duration = Duration::from_millis(250);
/// After how many more pages (4 KiB) in the WAL they are to be copied into the file.
const CHECKPOINT: usize = 4096;
/// At how many pages in the WAL the writer copies what is left, so that it begins anew.
const FULL: usize = 16_384;
/// With how many free pages (16 MiB) inside the database it takes writes also when the disk has no room.
const FREE: u64 = 4096;
/// How much a checkpoint may take besides what it adds to the database.
const MARGIN: u64 = 1 << 20;

/// A write that waits, with its caller.
pub(super) trait WriteJob: Send {
    /// Whether it only removes: it may then use the reserve.
    fn frees(&self) -> bool;
    /// Whether its caller has gone, having been told that it did not work out.
    fn is_abandoned(&self) -> bool;
    /// Makes the change, inside a transaction. Once more if that transaction was not committed.
    fn apply(&mut self, connection: &Connection, health: &Health);
    /// Answers the caller, once it is known whether the change was committed.
    fn answer(self: Box<Self>, committed: Result<()>);
}

pub(super) type Group = Vec<Box<dyn WriteJob>>;

/// What the writer thread has.
pub(super) struct Writer {
    pub(super) path: PathBuf,
    pub(super) connection: Connection,
    pub(super) health: Arc<Health>,
    pub(super) identity: Identity,
    pub(super) reserve: Reserve,
    pub(super) watched: Watched,
    pub(super) log: Log,
}

impl Writer {
    /// The writer thread: one transaction for all the writes that wait. Calls for the checkpointer now and then.
    pub(super) fn run(mut self, jobs: &Receiver<Box<dyn WriteJob>>) {
        let mut looked = Instant::now();
        loop {
            let patience = if self.watched.watcher.get().is_some() { HEARTBEAT } else { LOOK };
            match jobs.recv_timeout(patience) {
                Ok(first) => {
                    let group = std::iter::once(first).chain(jobs.try_iter().take(GROUP - 1));
                    self.write(group.filter(|job| !job.is_abandoned()).collect());
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if looked.elapsed() >= LOOK {
                self.look_for_files();
                // The checkpointer may have been refused room, and no write has come since.
                if self.health.take_short() {
                    self.make_room();
                }
                self.look_for_room();
                looked = Instant::now();
            }
            // Without a beat near-caches give nothing out.
            if self.health.check().is_ok() {
                self.watched.beat(&self.connection);
            }
        }
    }

    fn write(&mut self, group: Group) {
        if group.is_empty() {
            return;
        }
        if let Err(lost) = self.health.check() {
            return answer(group, &Err(lost));
        }
        let mut group = self.refuse_growth(group);
        let mut committed = self.commit(&mut group);
        // The checkpointer may have been refused room too.
        if self.health.take_short() {
            self.make_room();
            if committed.is_err() {
                group = self.refuse_growth(group);
                committed = self.commit(&mut group);
            }
        }
        if committed.is_ok() {
            // After the commit: no write is acknowledged that went to a file which was deleted before.
            self.look_for_files();
            committed = self.health.check();
        }
        answer(group, &committed);
        self.log.keep_short(&self.connection, &self.health);
    }

    /// Answers those that take room, if there is none.
    fn refuse_growth(&self, group: Group) -> Group {
        let Err(full) = self.health.room() else { return group };
        let (freeing, growing) = group.into_iter().partition(|job| job.frees());
        answer(growing, &Err(full));
        freeing
    }

    fn commit(&self, group: &mut Group) -> Result<()> {
        if group.is_empty() {
            return Ok(());
        }
        let committed = self.transaction(group);
        if committed.is_err() {
            self.health.set_failing(true);
        }
        if !self.connection.is_autocommit() {
            let _ = self.connection.execute_batch("rollback");
        }
        committed
    }

    fn transaction(&self, group: &mut Group) -> Result<()> {
        let (connection, health) = (&self.connection, self.health.as_ref());
        health.run(|| connection.execute_batch("begin immediate"))?;
        // To begin may have taken a while.
        for job in group.iter_mut().filter(|job| !job.is_abandoned()) {
            job.apply(connection, health);
            // A full disk or a failed read may make SQLite end the transaction by itself.
            if connection.is_autocommit() || health.is_short() {
                return Err(Error::Unavailable("SQLite rolled the write back".into()));
            }
        }
        if group.iter().all(|job| job.is_abandoned()) {
            return Err(Error::Unavailable("no caller waits any more".into()));
        }
        health.run(|| connection.execute_batch("commit"))
    }

    /// Makes what room there can be after the disk refused some.
    fn make_room(&self) {
        self.reserve.release();
        self.look_for_room();
        // Then the WAL begins anew in the room that it has. If that does not fit, the room is better left to the WAL.
        let size = std::fs::metadata(&self.path).map_or(0, |file| file.len());
        let pages = self.pragma("page_count").and_then(|pages| Ok(pages * self.pragma("page_size")?));
        let growth = pages.map(|bytes| bytes.saturating_sub(size));
        if growth.is_ok_and(|growth| growth + MARGIN <= self.reserve.available() || growth == 0) {
            copy(&self.connection, "restart", &self.health);
        }
        // If even that was refused room, there is nothing else to do about it.
        self.health.take_short();
    }

    fn look_for_files(&self) {
        if let Some(why) = self.identity.lost()
            && self.health.check().is_ok()
        {
            self.health.lose(why);
        }
    }

    /// Makes the reserve, or finds that the disk is full.
    pub(super) fn look_for_room(&self) {
        if self.health.check().is_err() {
            return;
        }
        let full = !self.reserve.ensure() && self.pragma("freelist_count").is_ok_and(|pages| pages < FREE);
        self.health.set_full(full);
    }

    fn pragma(&self, name: &str) -> Result<u64> {
        let number: u32 =
            self.health.run(|| self.connection.query_row(&format!("pragma {name}"), [], |row| row.get(0)))?;
        Ok(number.into())
    }
}

fn answer(group: Group, committed: &Result<()>) {
    for job in group {
        // Whoever watches is told inside, and must not end the thread.
        let _ = catch_unwind(AssertUnwindSafe(|| job.answer(committed.clone())));
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
    pub(super) fn of(writer: &mut Connection, checkpointer: Sender<()>, health: Arc<Health>) -> rusqlite::Result<Self> {
        let pages = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&pages);
        // In the place of SQLite's own, which copies at the end of a commit, before that is answered.
        writer.wal_hook(Some(move |_: &mut Wal, pages: c_int| {
            counted.store(usize::try_from(pages).unwrap_or(0), Ordering::Relaxed);
            health.set_failing(false);
            Ok(())
        }))?;
        Ok(Self { pages, called: 0, checkpointer })
    }

    /// Has the pages copied into the file. Writes do not wait for the checkpointer; but while they go on it does not get
    /// to the end, and a WAL begins anew only then, so at last the writer does the rest.
    fn keep_short(&mut self, writer: &Connection, health: &Health) {
        let pages = self.pages.load(Ordering::Relaxed);
        if pages < self.called {
            self.called = 0;
        }
        if pages >= FULL {
            copy(writer, "passive", health);
        } else if pages - self.called >= CHECKPOINT && self.checkpointer.try_send(()).is_ok() {
            self.called = pages;
        }
    }
}

/// The checkpointer: copies the WAL into the file when it is called, while writes go on.
pub(super) fn checkpoint(connection: &Connection, calls: &Receiver<()>, health: &Health) {
    calls.iter().for_each(|()| copy(connection, "passive", health));
}

fn copy(connection: &Connection, mode: &str, health: &Health) {
    let sql = format!("pragma wal_checkpoint({mode})");
    if let Err(error) = health.run(|| connection.query_row(&sql, [], |_| Ok(()))) {
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
