//! An SQLite file seen as a whole, by a connection of its own that changes neither schema nor journal mode.
//!
//! No step has a deadline: the file is on this machine, and a check of all of it takes as long as it takes.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, params};
use url::Url;

use super::ownership::refuse_foreign;
use super::{BUSY, MIGRATIONS};
use crate::clock::Ms;
use crate::store::survey::{Batch, Check, Cursor, IndexBatch, Survey};
use crate::store::{Error, Found, Result};

/// How many rows one step looks at.
const ROWS: u32 = 1000;
/// How long after its expiry a row should be purged, in ms: the service does it once a minute.
const PURGED_AFTER: Ms = 10 * 60 * 1000;

/// An SQLite file to be looked at.
pub(in crate::store) struct SqliteSurvey {
    path: PathBuf,
    is_immutable: bool,
    connection: Arc<Mutex<Connection>>,
}

impl SqliteSurvey {
    /// Opens a file that is there.
    pub(in crate::store) fn open(path: &Path) -> Result<Self> {
        let named = |error: &dyn std::fmt::Display| Error::Unavailable(format!("{}: {error}", path.display()));
        let (connection, is_immutable) = connect(path).map_err(|error| named(&error))?;
        refuse_foreign(&connection).map_err(|error| named(&error))?;
        let schema: u32 =
            connection.query_row("pragma user_version", [], |row| row.get(0)).map_err(|error| named(&error))?;
        if schema as usize != MIGRATIONS.len() {
            let known = MIGRATIONS.len();
            return Err(named(&format!(
                "this is schema {schema}, and this sessiond knows {known}: use the one that serves it"
            )));
        }
        Ok(Self { path: path.to_owned(), is_immutable, connection: Arc::new(Mutex::new(connection)) })
    }

    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        let connection = Arc::clone(&self.connection);
        let asking = tokio::task::spawn_blocking(move || {
            question(&connection.lock().unwrap_or_else(PoisonError::into_inner)).map_err(Error::from)
        });
        asking.await.unwrap_or_else(|error| Err(Error::Unexpected(error.to_string())))
    }
}

/// Opens the file as it can be. A file that cannot be written, or in whose folder no index of the WAL can be made, is read as
/// one that nobody changes (`immutable`), if there is no WAL: whoever serves it has one. Returns whether that is so.
fn connect(path: &Path) -> Result<(Connection, bool)> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY)?;
    let wal = format!("{}-wal", path.display());
    let has_wal = Path::new(&wal).metadata().is_ok_and(|file| file.len() > 0);
    // By a user who cannot write the file, SQLite would make a WAL that its owner cannot write either.
    if has_wal || !connection.is_readonly("main")? {
        // The first read opens the WAL.
        match connection.query_row("select 1 from sqlite_schema limit 1", [], |_| Ok(())).optional() {
            Ok(_) => return Ok((connection, false)),
            Err(error) if matches!(error.sqlite_error_code(), Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if has_wal {
        return Err(Error::Unavailable(format!(
            "the file cannot be written, and {wal} holds changes that are not in it yet: copy both to a folder that can be written, \
             and look there"
        )));
    }
    let path = std::path::absolute(path).map_err(|error| Error::Unavailable(error.to_string()))?;
    let mut url = Url::from_file_path(&path).map_err(|()| Error::Unavailable("this path has no URL".into()))?;
    url.set_query(Some("immutable=1"));
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    Ok((Connection::open_with_flags(url.as_str(), flags)?, true))
}

#[async_trait]
impl Survey for SqliteSurvey {
    async fn checks(&self, now: Ms) -> Result<Vec<Check>> {
        let (integrity, journal, overdue) = self
            .ask(move |db| {
                let integrity = match db.query_row("pragma quick_check(1)", [], |row| row.get(0)) {
                    Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseCorrupt) => error.to_string(),
                    answer => answer?,
                };
                let journal: String = db.query_row("pragma journal_mode", [], |row| row.get(0))?;
                // A damaged file cannot tell.
                let overdue: u32 = if integrity == "ok" {
                    let sql = "select count(*) from sessions where expires_at <= ?";
                    db.query_row(sql, [now - PURGED_AFTER], |row| row.get(0))?
                } else {
                    0
                };
                Ok((integrity, journal, overdue))
            })
            .await?;
        let mut checks = vec![
            Check::new(
                "integrity",
                integrity == "ok",
                format!("quick_check says {integrity}"),
                "the file is damaged: stop the service, and restore a backup or salvage it with `sqlite3 FILE .recover`",
            ),
            Check::private("file_mode", &self.path),
            Check::new(
                "expired",
                overdue == 0,
                format!("{overdue} rows expired more than 10 minutes ago and were not purged"),
                "a service that runs on this file purges them once a minute; `sessiond purge` does it now",
            ),
        ];
        // SQLite does not say which it is of a file that nobody changes.
        if !self.is_immutable {
            checks.push(Check::new(
                "journal_mode",
                journal == "wal",
                journal,
                "restart the service, which sets it to wal; if it stays, the file is where WAL cannot be, such as a network \
                 drive: move it",
            ));
        }
        Ok(checks)
    }

    async fn size(&self) -> Result<u64> {
        let rows: u32 = self.ask(|db| db.query_row("select count(*) from sessions", [], |row| row.get(0))).await?;
        Ok(rows.into())
    }

    async fn walk(&self, from: Option<&Cursor>, now: Ms) -> Result<Batch> {
        let after = from.map_or(String::new(), |cursor| cursor.0.clone());
        self.ask(move |db| {
            // The expired ones are looked at too, so that a step is bounded however many there are of them.
            let sql = "select id, expires_at, iif(expires_at > ?, record, null) from sessions where id > ? order by id limit ?";
            let mut rows = db.prepare_cached(sql)?;
            let rows = rows.query_map(params![now, after, ROWS], |row| {
                let (id, expires_at): (String, Ms) = (row.get(0)?, row.get(1)?);
                let found = row.get::<_, Option<_>>(2)?;
                Ok((id, found.map(|record| Found { record, expires_at: Some(expires_at) })))
            })?;
            let rows = rows.collect::<rusqlite::Result<Vec<_>>>()?;
            let last = rows.last().filter(|_| rows.len() == ROWS as usize).map(|(id, _)| Cursor(id.clone()));
            let looked_at = rows.len() as u64;
            let entries = rows.into_iter().filter_map(|(id, found)| Some((id, found?))).collect();
            Ok(Batch { entries, looked_at, next: last })
        })
        .await
    }

    async fn unlisted(&self, entries: &[(&str, &str)], now: Ms) -> Result<Vec<bool>> {
        let entries: Vec<_> = entries.iter().map(|(user_id, id)| ((*user_id).to_owned(), (*id).to_owned())).collect();
        self.ask(move |db| {
            let sql = "select 1 from sessions where id = ? and expires_at > ? and user_id is not ?";
            let mut unlisted = db.prepare_cached(sql)?;
            entries.iter().map(|(user_id, id)| unlisted.exists(params![id, now, user_id])).collect()
        })
        .await
    }

    /// The list is a column of the session's row: it never has what is not there.
    async fn walk_index(&self, _from: Option<&Cursor>, _prune: bool, now: Ms) -> Result<IndexBatch> {
        let sql = "select count(*) from sessions where user_id is not null and expires_at > ?";
        let entries: u32 = self.ask(move |db| db.query_row(sql, [now], |row| row.get(0))).await?;
        Ok(IndexBatch { entries: entries.into(), dangling: 0, pruned: 0, looked_at: 0, next: None })
    }
}
