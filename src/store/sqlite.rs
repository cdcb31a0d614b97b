//! The embedded store: one SQLite file in WAL mode.
//!
//! Two reader threads, and one [writer](writer) thread that takes whatever writes are waiting and commits them together;
//! each is answered after its commit. A commit survives the end of the process; `synchronous=NORMAL` means that a power cut
//! may lose the last ones. Other processes may open the same file.

mod ownership;
mod survey;
mod writer;

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use crossbeam_channel::{Sender, TrySendError, bounded};
use rusqlite::{Connection, ErrorCode, OptionalExtension, Params, Row, params};
use tokio::sync::oneshot;

pub(super) use self::survey::SqliteSurvey;

use self::writer::{Log, Watched, WriteJob, checkpoint, write};
use super::{
    Enlisted, Entry, Error, Found, Insertion, Listed, Outcome, Page, Position, Result, Store, Watcher, deadline, within,
};
use crate::clock::Ms;

/// Every schema change, in order; the `user_version` of a file is how many were applied.
const MIGRATIONS: [&str; 1] = [include_str!("../../migrations/0001_sessions.sql")];

const FIND: &str = "select record, expires_at from sessions where id = ? and expires_at > ?";

const READERS: usize = 2;
/// How many calls may wait for a thread; the next one is refused.
const QUEUE: usize = 1024;
/// How long to wait for another process's write; within the deadline of a call.
const BUSY: Duration = Duration::from_millis(400);
/// How much a reader may cache, in KiB: with less, most reads of a million sessions go to the system for a page. It
/// takes what there is to cache.
const READER_CACHE: u32 = 64 * 1024;
/// As above for the connections that write and copy; more costs more, since SQLite walks through all of it at some commits.
const WRITER_CACHE: u32 = 4 * 1024;

/// The SQLite store. When it is dropped its threads end, and the last of a file's connections folds the WAL into it.
pub struct Sqlite {
    reads: Sender<ReadJob>,
    writes: Sender<WriteJob>,
    watcher: Arc<OnceLock<Arc<dyn Watcher>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Drop for Sqlite {
    fn drop(&mut self) {
        (self.reads, self.writes) = (bounded(0).0, bounded(0).0);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

type ReadJob = Box<dyn FnOnce(&Connection) + Send>;

impl Sqlite {
    /// Opens `path`, made with mode 0600 when missing, and brings its schema up to date.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the file cannot be opened, is no database, or was made by a newer version.
    pub fn open(path: &Path) -> Result<Self> {
        let named = |error: &dyn std::fmt::Display| Error::Unavailable(format!("{}: {error}", path.display()));
        let mut options = OpenOptions::new();
        options.append(true).create(true).mode(0o600).open(path).map_err(|error| named(&error))?;
        ownership::check(path).map_err(|error| named(&error))?;
        let connect = |cache| connect(path, cache).map_err(|error| named(&error));
        let mut writer = connect(WRITER_CACHE)?;
        migrate(&mut writer).map_err(|error| named(&error))?;
        let (reads, read_jobs) = bounded::<ReadJob>(QUEUE);
        let (writes, write_jobs) = bounded::<WriteJob>(QUEUE);
        let (calls, called) = bounded(1);
        let mut threads = Vec::with_capacity(READERS + 2);
        for _ in 0..READERS {
            let (reader, jobs) = (connect(READER_CACHE)?, read_jobs.clone());
            threads.push(spawn("sqlite-reader", move || jobs.iter().for_each(|job| job(&reader)))?);
        }
        let watcher = Arc::default();
        let watched = Watched::new(Arc::clone(&watcher));
        let checkpointer = connect(WRITER_CACHE)?;
        let log = Log::of(&mut writer, calls).map_err(|error| named(&error))?;
        threads.push(spawn("sqlite-writer", move || write(&writer, &write_jobs, watched, log))?);
        threads.push(spawn("sqlite-checkpointer", move || checkpoint(&checkpointer, &called))?);
        Ok(Self { reads, writes, watcher, threads })
    }

    async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        let job: ReadJob = Box::new(move |connection| {
            if !answer.is_closed() {
                let _ = answer.send(query(connection).map_err(Error::from));
            }
        });
        within(deadline(), async {
            self.reads.try_send(job).map_err(refused)?;
            answered.await.unwrap_or_else(|_| Err(stopped()))
        })
        .await
    }

    /// Makes a change to the entries called `ids`.
    async fn write<T: Send + 'static>(
        &self,
        ids: &[&str],
        change: impl FnOnce(&Connection, &[String]) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        let (answer, answered) = oneshot::channel::<Result<T>>();
        let ids: Vec<String> = ids.iter().copied().map(str::to_owned).collect();
        let watcher = Arc::clone(&self.watcher);
        let job: WriteJob = Box::new(move |transaction| {
            // Nobody waits any more: the caller was told that it did not work out.
            if answer.is_closed() {
                return Box::new(|_| ());
            }
            let outcome = transaction.and_then(|connection| change(connection, &ids).map_err(Error::from));
            Box::new(move |committed| {
                if let Some(watcher) = watcher.get() {
                    ids.iter().for_each(|id| watcher.changed(id));
                }
                drop(answer.send(committed.and(outcome)));
            })
        });
        within(deadline(), async {
            self.writes.try_send(job).map_err(refused)?;
            answered.await.unwrap_or_else(|_| Err(stopped()))
        })
        .await
    }

    async fn put(&self, id: &str, expected: &[u8], entry: Entry<'_>, now: Ms) -> Result<Outcome> {
        let (expected, record) = (expected.to_owned(), entry.record.to_owned());
        let (user_id, expires_at) = (entry.user_id.map(str::to_owned), entry.expires_at);
        self.write(&[id], move |db, ids| {
            let sql = "update sessions set record = ?, user_id = ?, expires_at = ? where id = ? and record = ? and expires_at > ?";
            let applied = execute(db, sql, params![record, user_id, expires_at, ids[0], expected, now])? == 1;
            outcome(db, applied, &ids[0], now)
        })
        .await
    }
}

#[async_trait]
impl Store for Sqlite {
    async fn insert(&self, id: &str, entry: Entry<'_>, now: Ms) -> Result<Insertion> {
        let record = entry.record.to_owned();
        let (user_id, expires_at) = (entry.user_id.map(str::to_owned), entry.expires_at);
        self.write(&[id], move |db, ids| {
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
        self.read(move |db| {
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
        self.write(ids, move |db, ids| {
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
        self.write(&[id], move |db, ids| {
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
        self.write(&[id], move |db, ids| {
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
        let limit = rows(limit);
        // Nothing is told of: what has expired is as missing as before.
        self.write(&[], move |db, _| {
            let sql = "delete from sessions where id in (select id from sessions where expires_at <= ? limit ?)";
            execute(db, sql, params![now, limit])
        })
        .await
    }

    /// An empty transaction: whoever cannot write is not ready.
    async fn ping(&self) -> Result<()> {
        self.read(|db| db.query_row("select 1", [], |_| Ok(()))).await?;
        self.write(&[], |_, _| Ok(())).await
    }

    fn watch(&self, watcher: Arc<dyn Watcher>) {
        if self.watcher.set(watcher).is_ok() {
            // Wakes the writer thread, which has waited for writes only. When it has some, it is awake.
            let _ = self.writes.try_send(Box::new(|_| Box::new(|_| ())));
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

#[expect(clippy::needless_pass_by_value, reason = "it is handed over")]
fn refused<T>(error: TrySendError<T>) -> Error {
    match error {
        TrySendError::Full(_) => Error::Unavailable(format!("{QUEUE} calls are waiting for SQLite already")),
        TrySendError::Disconnected(_) => stopped(),
    }
}

fn stopped() -> Error {
    Error::Unavailable("the SQLite thread has stopped".into())
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(
                ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::DiskFull
                | ErrorCode::SystemIoFailure
                | ErrorCode::ReadOnly
                | ErrorCode::CannotOpen
                | ErrorCode::OutOfMemory,
            ) => Self::Unavailable(error.to_string()),
            _ => Self::Unexpected(error.to_string()),
        }
    }
}
