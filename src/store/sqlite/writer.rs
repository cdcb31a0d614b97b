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
use super::queue::Queued;
use super::reserve::Reserve;
use super::worker::Worker;
use crate::clock::BootInstant;
use crate::store::{Error, Result, Watcher};

/// How many writes one commit takes.
const GROUP: usize = 256;
/// How often to look whether another process has written.
const HEARTBEAT: Duration = Duration::from_millis(20);
/// How long to wait after a panic until the next beat. Less than a task takes to be up: it stays down while each beat panics.
const PAUSE: Duration = Duration::from_millis(500);
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
    fn apply(&mut self, connection: &Connection, worker: &Worker);
    /// Answers the caller, once it is known whether the change was committed.
    fn answer(self: Box<Self>, committed: Result<()>);
}

pub(super) type Group = Vec<Box<dyn WriteJob>>;

/// What the writer thread has.
pub(super) struct Writer {
    pub(super) path: PathBuf,
    pub(super) connection: Connection,
    pub(super) worker: Arc<Worker>,
    pub(super) identity: Identity,
    pub(super) reserve: Reserve,
    pub(super) watched: Watched,
    pub(super) log: Log,
    /// The writes of this turn that have no answer yet.
    pub(super) group: Group,
    /// When the writer last looked for the files and for room.
    pub(super) looked: Instant,
}

impl Writer {
    /// Runs the writer thread until nobody can send more jobs.
    pub(super) fn run(mut self, jobs: &Receiver<Queued<Box<dyn WriteJob>>>) {
        let worker = Arc::clone(&self.worker);
        loop {
            match worker.task.turn(|| self.turn(jobs)) {
                Some(true) => {}
                Some(false) => return,
                None => self.recover(),
            }
        }
    }

    /// Commits the writes that wait, in one transaction. Looks after the files, the room and the near-cache when it is
    /// time. Returns whether more jobs may come.
    fn turn(&mut self, jobs: &Receiver<Queued<Box<dyn WriteJob>>>) -> bool {
        let patience = if self.watched.watcher.get().is_some() { HEARTBEAT } else { LOOK };
        match jobs.recv_timeout(patience) {
            Ok(first) => {
                let group = std::iter::once(first).chain(jobs.try_iter().take(GROUP - 1));
                self.group = group.map(|queued| queued.job).filter(|job| !job.is_abandoned()).collect();
                self.write();
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return false,
        }
        if self.looked.elapsed() >= LOOK {
            self.looked = Instant::now();
            self.look_for_files();
            // The checkpointer may have been refused room, and no write has come since.
            if self.worker.health.take_short() {
                self.make_room();
            }
            self.look_for_room();
        }
        // Without a beat near-caches give nothing out.
        if self.worker.health.check().is_ok() {
            self.watched.beat(&self.connection);
        }
        true
    }

    /// Cleans up after a turn that panicked.
    fn recover(&mut self) {
        self.roll_back();
        // Before the answers: the near-cache may not have been told of a change.
        self.watched.doubt();
        self.watched.pause();
        self.answer_all(&Err(Error::Unexpected("the SQLite writer panicked".into())));
    }

    fn write(&mut self) {
        if self.group.is_empty() {
            return;
        }
        if let Err(lost) = self.worker.health.check() {
            return self.answer_all(&Err(lost));
        }
        self.refuse_growth();
        let mut committed = self.commit();
        // The checkpointer may have been refused room too.
        if self.worker.health.take_short() {
            self.make_room();
            if committed.is_err() {
                self.refuse_growth();
                committed = self.commit();
            }
        }
        if committed.is_ok() {
            // After the commit: no write is acknowledged that went to a file which was deleted before.
            self.look_for_files();
            committed = self.worker.health.check();
        }
        self.answer_all(&committed);
        self.log.keep_short(&self.connection, &self.worker);
    }

    /// Answers the writes that take room, if there is none.
    fn refuse_growth(&mut self) {
        let Err(full) = self.worker.health.room() else { return };
        let growing = self.group.extract_if(.., |job| !job.frees()).collect();
        self.answer(growing, &Err(full));
    }

    fn commit(&mut self) -> Result<()> {
        if self.group.is_empty() {
            return Ok(());
        }
        let committed = self.transaction();
        if committed.is_err() {
            self.worker.health.set_failing(true);
        }
        self.roll_back();
        committed
    }

    fn transaction(&mut self) -> Result<()> {
        let (connection, worker, group) = (&self.connection, &self.worker, &mut self.group);
        worker.run(|| connection.execute_batch("begin immediate"))?;
        // To begin may have taken a while.
        for job in group.iter_mut().filter(|job| !job.is_abandoned()) {
            job.apply(connection, worker);
            // A full disk or a failed read may make SQLite end the transaction by itself.
            if connection.is_autocommit() || worker.health.is_short() {
                return Err(Error::Unavailable("SQLite rolled the write back".into()));
            }
        }
        if group.iter().all(|job| job.is_abandoned()) {
            return Err(Error::Unavailable("no caller waits any more".into()));
        }
        worker.run(|| connection.execute_batch("commit"))
    }

    /// Rolls back the transaction that is open, if one is.
    fn roll_back(&self) {
        if !self.connection.is_autocommit() {
            let _ = self.connection.execute_batch("rollback");
        }
    }

    /// Answers every write of this turn that has no answer yet.
    fn answer_all(&mut self, committed: &Result<()>) {
        let group = std::mem::take(&mut self.group);
        self.answer(group, committed);
    }

    fn answer(&mut self, group: Group, committed: &Result<()>) {
        let mut panicked = false;
        for job in group {
            // The near-cache is told inside, and must not end the thread.
            panicked |= catch_unwind(AssertUnwindSafe(|| job.answer(committed.clone()))).is_err();
        }
        if panicked {
            self.watched.doubt();
            self.worker.task.caught_panic();
        }
    }

    /// Makes what room there can be after the disk refused some.
    fn make_room(&self) {
        self.reserve.release();
        self.look_for_room();
        // A checkpoint lets the WAL start again in the room that it has. If the checkpoint's own pages do not fit, the WAL
        // keeps the room.
        let size = std::fs::metadata(&self.path).map_or(0, |file| file.len());
        let pages = self.pragma("page_count").and_then(|pages| Ok(pages * self.pragma("page_size")?));
        let growth = pages.map(|bytes| bytes.saturating_sub(size));
        if growth.is_ok_and(|growth| growth + MARGIN <= self.reserve.available() || growth == 0) {
            copy(&self.connection, "restart", &self.worker);
        }
        // If even that was refused room, there is nothing else to do about it.
        self.worker.health.take_short();
    }

    fn look_for_files(&self) {
        if let Some(why) = self.identity.lost()
            && self.worker.health.check().is_ok()
        {
            self.worker.health.lose(why);
        }
    }

    /// Makes the reserve, or finds that the disk is full.
    pub(super) fn look_for_room(&self) {
        if self.worker.health.check().is_err() {
            return;
        }
        let full = !self.reserve.ensure() && self.pragma("freelist_count").is_ok_and(|pages| pages < FREE);
        self.worker.health.set_full(full);
    }

    fn pragma(&self, name: &str) -> Result<u64> {
        let number: u32 =
            self.worker.run(|| self.connection.query_row(&format!("pragma {name}"), [], |row| row.get(0)))?;
        Ok(number.into())
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
    fn keep_short(&mut self, writer: &Connection, worker: &Worker) {
        let pages = self.pages.load(Ordering::Relaxed);
        if pages < self.called {
            self.called = 0;
        }
        if pages >= FULL {
            copy(writer, "passive", worker);
        } else if pages - self.called >= CHECKPOINT && self.checkpointer.try_send(()).is_ok() {
            self.called = pages;
        }
    }
}

/// The checkpointer: copies the WAL into the file when it is called, while writes go on.
pub(super) fn checkpoint(connection: &Connection, calls: &Receiver<()>, worker: &Worker) {
    worker.take_jobs(calls, |()| copy(connection, "passive", worker));
}

fn copy(connection: &Connection, mode: &str, worker: &Worker) {
    let sql = format!("pragma wal_checkpoint({mode})");
    if let Err(error) = worker.run(|| connection.query_row(&sql, [], |_| Ok(()))) {
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

    /// Tells the near-cache that it may have missed a change.
    fn doubt(&mut self) {
        // The next beat does so again, before it proves anything.
        self.version = None;
        if let Some(watcher) = self.watcher.get() {
            let _ = catch_unwind(AssertUnwindSafe(|| watcher.doubt()));
        }
    }

    /// Delays the next beat, so that a near-cache that panics each time does not slow down the writes.
    fn pause(&mut self) {
        self.beaten = BootInstant::now() + PAUSE;
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
