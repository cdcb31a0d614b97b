//! The embedded store: one SQLite file in WAL mode.
//!
//! Two reader threads, and one [writer](writer) thread that takes whatever writes are waiting and commits them together;
//! each is answered after its commit. When the disk is full it still removes ([`reserve`]). A commit survives the end of the process; `synchronous=NORMAL` means that a power cut
//! may lose the last ones. Other processes may open the same file.

mod health;
mod identity;
mod ownership;
mod queue;
mod reserve;
mod survey;
mod worker;
mod writer;

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use crossbeam_channel::bounded;
use rusqlite::{Connection, ErrorCode, OptionalExtension, Params, Row, params};
use tokio::sync::oneshot;

pub(super) use self::survey::SqliteSurvey;

use self::health::Health;
use self::identity::Identity;
use self::queue::{Queue, stopped};
use self::reserve::Reserve;
use self::worker::Worker;
use self::writer::{Log, Watched, WriteJob, Writer, checkpoint};
use super::{
    Enlisted, Entry, Error, Found, Insertion, Listed, Outcome, Page, Position, Result, Store, Watcher, deadline, within,
};
use crate::clock::Ms;
use crate::telemetry::Metrics;

/// Every schema change, in order; the `user_version` of a file is how many were applied.
const MIGRATIONS: [&str; 1] = [include_str!("../../migrations/0001_sessions.sql")];

const FIND: &str = "select record, expires_at from sessions where id = ? and expires_at > ?";

const READERS: usize = 2;
/// How many expired rows one write purges while the disk is full.
const PURGE: usize = 100;
/// How long to wait for another process's write; within the deadline of a call.
const BUSY: Duration = Duration::from_millis(400);
/// How much a reader may cache, in KiB: with less, most reads of a million sessions go to the system for a page. It
/// takes what there is to cache.
const READER_CACHE: u32 = 64 * 1024;
/// As above for the connections that write and copy; more costs more, since SQLite walks through all of it at some commits.
const WRITER_CACHE: u32 = 4 * 1024;

/// The SQLite store. When it is dropped its threads end, and the last of a file's connections folds the WAL into it.
pub struct Sqlite {
    reads: Queue<ReadJob>,
    writes: Queue<Box<dyn WriteJob>>,
    health: Arc<Health>,
    watcher: Arc<OnceLock<Arc<dyn Watcher>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Drop for Sqlite {
    fn drop(&mut self) {
        // Without a sender the threads end.
        (self.reads, self.writes) = (Queue::new().0, Queue::new().0);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

type ReadJob = Box<dyn FnOnce(&Connection, &Worker) + Send>;

impl Sqlite {
    /// Opens `path`, made with mode 0600 when missing, and brings its schema up to date. Panics in the store's threads are
    /// counted in `metrics`, which also say whether one is down.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the file cannot be opened, is no database, or was made by a newer version.
    pub fn open(path: &Path, metrics: &Metrics) -> Result<Self> {
        let named = |error: &dyn std::fmt::Display| Error::Unavailable(format!("{}: {error}", path.display()));
        // Only a file that is missing is created here. Closing an existing one would release this process's locks on it.
        match OpenOptions::new().append(true).create_new(true).mode(0o600).open(path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(named(&error)),
            _ => {}
        }
        // Open until the others are: closed as the last one, it would copy the WAL and remove it.
        let _checked = ownership::check(path).map_err(|error| named(&error))?;
        let connect = |cache| connect(path, cache).map_err(|error| named(&reason(&error)));
        let mut writer = connect(WRITER_CACHE)?;
        migrate(&mut writer).map_err(|error| named(&error))?;
        let health = Arc::<Health>::default();
        let (reads, read_jobs) = Queue::<ReadJob>::new();
        let (writes, write_jobs) = Queue::new();
        let (calls, called) = bounded(1);
        let mut threads = Vec::with_capacity(READERS + 2);
        for _ in 0..READERS {
            let (reader, queued) = (connect(READER_CACHE)?, read_jobs.clone());
            let worker = Worker::new("sqlite-reader", &health, metrics);
            let run = move || worker.take_jobs(&queued, |queued| (queued.job)(&reader, &worker));
            threads.push(spawn("sqlite-reader", run)?);
        }
        let watcher = Arc::default();
        let checkpointer = connect(WRITER_CACHE)?;
        let log = Log::of(&mut writer, calls, Arc::clone(&health)).map_err(|error| named(&error))?;
        let writer = Writer {
            path: path.to_owned(),
            connection: writer,
            worker: Arc::new(Worker::new("sqlite-writer", &health, metrics)),
            identity: Identity::of(path).map_err(|error| named(&error))?,
            reserve: Reserve::new(path),
            watched: Watched::new(Arc::clone(&watcher)),
            log,
            group: Vec::new(),
            looked: Instant::now(),
        };
        // Before the first call, which would wait for it.
        writer.look_for_room();
        threads.push(spawn("sqlite-writer", move || writer.run(&write_jobs))?);
        let worker = Worker::new("sqlite-checkpointer", &health, metrics);
        threads.push(spawn("sqlite-checkpointer", move || checkpoint(&checkpointer, &called, &worker))?);
        Ok(Self { reads, writes, health, watcher, threads })
    }

    async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        self.query(0, query).await
    }

    /// Runs `query`, which contains `bytes` of ids if they are many.
    async fn query<T: Send + 'static>(
        &self,
        bytes: usize,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        let job: ReadJob = Box::new(move |connection, worker| {
            if !answer.is_closed() {
                let _ = answer.send(worker.run(|| query(connection)));
            }
        });
        within(deadline(), async {
            self.health.check()?;
            self.reads.push(job, bytes)?;
            answered.await.unwrap_or_else(|_| Err(stopped()))
        })
        .await
    }

    /// Changes the entries `ids`. `change` contains `bytes` of records.
    async fn write<T: Send + 'static>(
        &self,
        ids: &[&str],
        bytes: usize,
        change: impl Fn(&Connection, &[String]) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        self.change(ids, bytes, false, change).await
    }

    /// Makes a change that only removes. `change` contains `bytes` of records.
    async fn free<T: Send + 'static>(
        &self,
        ids: &[&str],
        bytes: usize,
        change: impl Fn(&Connection, &[String]) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        self.change(ids, bytes, true, change).await
    }

    async fn change<T: Send + 'static>(
        &self,
        ids: &[&str],
        bytes: usize,
        frees: bool,
        change: impl Fn(&Connection, &[String]) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        let ids: Vec<_> = ids.iter().copied().map(str::to_owned).collect();
        let bytes = bytes + ids.iter().map(String::len).sum::<usize>();
        let job = Write { ids, frees, change, outcome: None, answer, watcher: Arc::clone(&self.watcher) };
        within(deadline(), async {
            self.health.check()?;
            self.writes.push(Box::new(job), bytes)?;
            answered.await.unwrap_or_else(|_| Err(stopped()))
        })
        .await
    }

    async fn put(&self, id: &str, expected: &[u8], entry: Entry<'_>, now: Ms) -> Result<Outcome> {
        let (expected, record) = (expected.to_owned(), entry.record.to_owned());
        let (user_id, expires_at) = (entry.user_id.map(str::to_owned), entry.expires_at);
        self.write(&[id], expected.len() + record.len(), move |db, ids| {
            let sql = "update sessions set record = ?, user_id = ?, expires_at = ? where id = ? and record = ? and expires_at > ?";
            let applied = execute(db, sql, params![record, user_id, expires_at, ids[0], expected, now])? == 1;
            outcome(db, applied, &ids[0], now)
        })
        .await
    }
}

/// A change, and who waits for it.
struct Write<T, F> {
    ids: Vec<String>,
    frees: bool,
    change: F,
    outcome: Option<Result<T>>,
    answer: oneshot::Sender<Result<T>>,
    watcher: Arc<OnceLock<Arc<dyn Watcher>>>,
}

impl<T, F> WriteJob for Write<T, F>
where
    T: Send,
    F: Fn(&Connection, &[String]) -> rusqlite::Result<T> + Send,
{
    fn frees(&self) -> bool {
        self.frees
    }

    fn is_abandoned(&self) -> bool {
        self.answer.is_closed()
    }

    fn apply(&mut self, connection: &Connection, worker: &Worker) {
        self.outcome = Some(worker.run(|| (self.change)(connection, &self.ids)));
    }

    fn answer(self: Box<Self>, committed: Result<()>) {
        let Self { ids, outcome, answer, watcher, .. } = *self;
        if let Some(watcher) = watcher.get() {
            ids.iter().for_each(|id| watcher.changed(id));
        }
        // Committed without an outcome: it was left out, for its caller had gone.
        let outcome = committed.and_then(|()| outcome.unwrap_or_else(|| Err(stopped())));
        drop(answer.send(outcome));
    }
}

#[async_trait]
impl Store for Sqlite {
    async fn insert(&self, id: &str, entry: Entry<'_>, now: Ms) -> Result<Insertion> {
        let record = entry.record.to_owned();
        let (user_id, expires_at) = (entry.user_id.map(str::to_owned), entry.expires_at);
        self.write(&[id], record.len(), move |db, ids| {
            // An expired row that was not purged yet is no entry, and gives way.
            let sql = "insert into sessions (id, record, user_id, expires_at) values (?1, ?2, ?3, ?4)
                       on conflict (id) do update set record = ?2, user_id = ?3, expires_at = ?4
                       where sessions.expires_at <= ?5";
            let inserted = execute(db, sql, params![ids[0], record, user_id, expires_at, now])? == 1;
            Ok(if inserted { Insertion::Done } else { Insertion::Refused })
        })
        .await
    }

    async fn find(&self, id: &str, now: Ms) -> Result<Option<Found>> {
        let id = id.to_owned();
        self.read(move |db| db.prepare_cached(FIND)?.query_row(params![id, now], found).optional()).await
    }

    async fn find_many(&self, ids: &[&str], now: Ms) -> Result<Vec<Option<Found>>> {
        let (number, ids) = (ids.len(), serde_json::to_string(ids).unwrap_or_default());
        self.query(ids.len(), move |db| {
            // One statement; `cross join` has SQLite go through the ids, and look each up.
            let sql = "select record, expires_at, key from json_each(?1)
                       cross join sessions on sessions.id = value and expires_at > ?2";
            let mut many: Vec<Option<Found>> = std::iter::repeat_with(|| None).take(number).collect();
            let mut find = db.prepare_cached(sql)?;
            let mut rows = find.query(params![ids, now])?;
            while let Some(row) = rows.next()? {
                if let Some(one) = usize::try_from(row.get::<_, i64>(2)?).ok().and_then(|key| many.get_mut(key)) {
                    *one = Some(found(row)?);
                }
            }
            Ok(many)
        })
        .await
    }

    async fn replace(&self, id: &str, expected: &[u8], entry: Entry<'_>, now: Ms) -> Result<Outcome> {
        self.put(id, expected, entry, now).await
    }

    async fn touch(&self, id: &str, expected: &[u8], entry: Entry<'_>, now: Ms) -> Result<Outcome> {
        self.put(id, expected, entry, now).await
    }

    async fn remove(&self, ids: &[&str], _user_id: Option<&str>, now: Ms) -> Result<usize> {
        self.free(ids, 0, move |db, ids| {
            // Expired by this process's clock or not: by another's it may be live.
            let mut delete = db.prepare_cached("delete from sessions where id = ? returning expires_at > ?")?;
            let live = |id| delete.query_row(params![id, now], |row| row.get::<_, bool>(0)).optional();
            let live = ids.iter().map(live).collect::<rusqlite::Result<Vec<_>>>()?;
            Ok(live.into_iter().flatten().filter(|live| *live).count())
        })
        .await
    }

    async fn remove_if(&self, id: &str, expected: &[u8], _user_id: Option<&str>, now: Ms) -> Result<Outcome> {
        let expected = expected.to_owned();
        self.free(&[id], expected.len(), move |db, ids| {
            let sql = "delete from sessions where id = ? and record = ? and expires_at > ?";
            let applied = execute(db, sql, params![ids[0], expected, now])? == 1;
            outcome(db, applied, &ids[0], now)
        })
        .await
    }

    async fn supersede(
        &self,
        id: &str,
        expected: &[u8],
        _user_id: Option<&str>,
        new_id: &str,
        entry: Entry<'_>,
        now: Ms,
    ) -> Result<Outcome> {
        let (expected, new_id) = (expected.to_owned(), new_id.to_owned());
        let (record, user_id, expires_at) =
            (entry.record.to_owned(), entry.user_id.map(str::to_owned), entry.expires_at);
        self.write(&[id], expected.len() + record.len(), move |db, ids| {
            let sql = "update sessions set id = ?, record = ?, user_id = ?, expires_at = ?
                       where id = ? and record = ? and expires_at > ?";
            let applied = execute(db, sql, params![new_id, record, user_id, expires_at, ids[0], expected, now])? == 1;
            outcome(db, applied, &ids[0], now)
        })
        .await
    }

    async fn enlist(&self, _entries: &[Enlisted<'_>], _now: Ms) -> Result<()> {
        // Nobody else puts entries here; each row names its user.
        Ok(())
    }

    async fn list_by_user(&self, user_id: &str, after: Option<&Position>, limit: usize, now: Ms) -> Result<Page> {
        let (user_id, (rank, last)) = (user_id.to_owned(), after.cloned().unwrap_or((Ms::MAX, String::new())));
        self.read(move |db| {
            let sql = "select id, record, expires_at from sessions
                       where user_id = ? and expires_at > ? and (expires_at, id) < (?, ?)
                       order by expires_at desc, id desc limit ?";
            page(db, sql, params![user_id, now, rank, last, rows(limit)], limit)
        })
        .await
    }

    async fn sweep_user(&self, user_id: &str, limit: usize, _now: Ms) -> Result<Page> {
        let user_id = user_id.to_owned();
        self.read(move |db| {
            // With those that have expired by this process's clock: by another's they may be live.
            let sql = "select id, record, expires_at from sessions where user_id = ? order by expires_at, id limit ?";
            page(db, sql, params![user_id, rows(limit)], limit)
        })
        .await
    }

    async fn purge_expired(&self, now: Ms, limit: usize) -> Result<usize> {
        let sql = "delete from sessions where id in (select id from sessions where expires_at <= ? limit ?)";
        // In small steps while the disk is full: what a step changes must fit into the WAL's room.
        let step = if self.health.room().is_ok() { limit } else { limit.min(PURGE) };
        within(deadline(), async {
            let mut purged = 0;
            while purged < limit {
                let most = i64::try_from(step).unwrap_or(i64::MAX);
                // Nothing is told of: what has expired is as missing as before.
                let rows = self.free(&[], 0, move |db, _| execute(db, sql, params![now, most])).await?;
                purged += rows;
                if rows < step {
                    break;
                }
            }
            Ok(purged)
        })
        .await
    }

    /// Reads, and writes now and then: a process that cannot write is not ready.
    async fn ping(&self) -> Result<()> {
        self.health.ready()?;
        self.read(|db| db.prepare_cached("select 1 from sessions limit 1")?.exists([]).map(drop)).await?;
        let due = self.health.probe_is_due();
        self.write(&[], 0, move |db, _| if due { rewrite_version(db) } else { Ok(()) }).await
    }

    fn watch(&self, watcher: Arc<dyn Watcher>) {
        if self.watcher.set(watcher).is_ok() {
            // Wakes the writer thread, by a write that nobody waits for.
            let (answer, change) = (oneshot::channel().0, |_: &Connection, _: &[String]| Ok(()));
            let watcher = Arc::clone(&self.watcher);
            let job = Write { ids: Vec::new(), frees: true, change, outcome: None, answer, watcher };
            let _ = self.writes.push(Box::new(job), 0);
        }
    }
}

fn connect(path: &Path, cache_kib: u32) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY)?;
    connection.execute_batch("pragma journal_mode = wal; pragma synchronous = normal;")?;
    connection.pragma_update(None, "cache_size", -i64::from(cache_kib))?;
    Ok(connection)
}

fn migrate(connection: &mut Connection) -> Result<()> {
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let applied: u32 = transaction.query_row("pragma user_version", [], |row| row.get(0))?;
    let pending = MIGRATIONS.get(applied as usize..).ok_or_else(|| {
        let known = MIGRATIONS.len();
        Error::Unavailable(format!(
            "a newer sessiond made this file (schema {applied}, known here: {known}); use that one"
        ))
    })?;
    for (version, sql) in (applied + 1..).zip(pending) {
        transaction.execute_batch(sql)?;
        transaction.pragma_update(None, "user_version", version)?;
    }
    Ok(transaction.commit()?)
}

fn execute(db: &Connection, sql: &str, params: impl Params) -> rusqlite::Result<usize> {
    db.prepare_cached(sql)?.execute(params)
}

fn found(row: &Row<'_>) -> rusqlite::Result<Found> {
    Ok(Found { record: row.get(0)?, expires_at: Some(row.get(1)?) })
}

fn rows(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// The rows of `sql`, which are id, record and expiry; `limit` of them at most.
fn page(db: &Connection, sql: &str, params: impl Params, limit: usize) -> rusqlite::Result<Page> {
    let mut statement = db.prepare_cached(sql)?;
    let rows = statement.query_map(params, |row| {
        let expires_at = row.get(2)?;
        Ok((expires_at, Listed { id: row.get(0)?, found: Found { record: row.get(1)?, expires_at: Some(expires_at) } }))
    })?;
    let rows = rows.collect::<rusqlite::Result<Vec<_>>>()?;
    let next = rows.last().filter(|_| rows.len() == limit).map(|(rank, row)| (*rank, row.id.clone()));
    Ok(Page { rows: rows.into_iter().map(|(_, row)| row).collect(), next, ..Page::default() })
}

fn outcome(db: &Connection, applied: bool, id: &str, now: Ms) -> rusqlite::Result<Outcome> {
    if applied {
        return Ok(Outcome::Applied);
    }
    let exists =
        db.prepare_cached("select 1 from sessions where id = ? and expires_at > ?")?.exists(params![id, now])?;
    Ok(if exists { Outcome::Changed } else { Outcome::Missing })
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    let thread = std::thread::Builder::new().name(name.into()).spawn(work);
    thread.map_err(|error| Error::Unavailable(format!("no thread could be started: {error}")))
}

/// Writes a page as it was: the smallest change that is committed. It is read in the same transaction, for a newer version's
/// migration may have changed it.
fn rewrite_version(db: &Connection) -> rusqlite::Result<()> {
    let version: u32 = db.query_row("pragma user_version", [], |row| row.get(0))?;
    db.pragma_update(None, "user_version", version)
}

/// A file beside the database.
fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut path = database.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

/// What SQLite says, and what to do about it where it does not say so itself.
fn reason(error: &rusqlite::Error) -> String {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => format!(
            "the file is damaged ({error}): stop the service, and restore a backup or salvage it with `sqlite3 FILE .recover`"
        ),
        _ => error.to_string(),
    }
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(
                ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseCorrupt
                | ErrorCode::DatabaseLocked
                | ErrorCode::NotADatabase
                | ErrorCode::DiskFull
                | ErrorCode::SystemIoFailure
                | ErrorCode::ReadOnly
                | ErrorCode::CannotOpen
                | ErrorCode::OutOfMemory,
            ) => Self::Unavailable(reason(&error)),
            _ => Self::Unexpected(error.to_string()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests;
