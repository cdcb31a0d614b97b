//! Whether a database is one of ours.

use std::path::Path;

use rusqlite::{Connection, OpenFlags, OptionalExtension};

use super::BUSY;
use crate::store::{Error, Result};

/// Checks that the file at `path` is empty or ours, and changes nothing: not even the journal mode. Returns the connection
/// that it was read over.
pub(super) fn check(path: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY)?;
    refuse_foreign(&connection)?;
    Ok(connection)
}

/// Refuses a database that has tables, and not ours.
///
/// # Errors
/// [`Error::Unavailable`] names one of them, and says what to do.
pub(super) fn refuse_foreign(connection: &Connection) -> Result<()> {
    // Of another process that makes the schema at the same time, this reads all or nothing: it is one statement.
    let sql = "select name from sqlite_schema where type = 'table'
               and not exists (select 1 from sqlite_schema where type = 'table' and name = 'sessions') limit 1";
    let foreign: Option<String> = connection.query_row(sql, [], |row| row.get(0)).optional()?;
    foreign.map_or(Ok(()), |table| {
        Err(Error::Unavailable(format!(
            "this is the database of another program (it has a table {table:?}, and none called sessions): give sessiond a file \
             of its own"
        )))
    })
}
