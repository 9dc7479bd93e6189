//! The file: SQLite, one connection, used by one thread.
//!
//! Write-ahead log, fsync at each commit. The connection holds the file's lock for as long as it lives, so that no
//! second gatepost writes it, and needs no shared memory. Rows of queues have growing keys and no index, so that they
//! are appended at the end of one tree; pages that become free are used again, and given back a few at each checkpoint.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use foldhash::fast::RandomState;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior, ffi, params};
use rustix::fs::{Access, AtFlags, CWD, accessat};

use super::change::{RowId, SessionId};
use super::encode::{self, Clock, Stage};
use super::pending::{Pending, RowChange, SessionChanges};

/// "gate": the file is ours.
const APPLICATION: i32 = 0x6761_7465;
/// Of the tables below.
const VERSION: i32 = 1;
/// Bytes of a page. A commit of one message writes one page: with 4096 and the header of the log that are two blocks
/// of a file system, 8.5 KB; with 1024 mostly one, 5.2 KB. Smaller ones cost more than they save.
const PAGE: u64 = 1024;
/// Header of a page in the log.
const FRAME_HEADER: u64 = 24;
/// Pages in the log at which they are brought into the database; the log is not much longer, unless one transaction is.
const CHECKPOINT_PAGES: u64 = 4000;
/// Free pages given back to the file system at one checkpoint, and how many are kept for use.
const SHRINK_PAGES: i64 = 4000;
const KEPT_FREE_PAGES: i64 = 4000;

const TABLES: [&str; 5] = [
    "CREATE TABLE sessions(session INTEGER PRIMARY KEY, record BLOB NOT NULL) STRICT",
    "CREATE TABLE subscriptions(session INTEGER NOT NULL, filter TEXT NOT NULL, options BLOB NOT NULL, \
     PRIMARY KEY(session, filter)) STRICT, WITHOUT ROWID",
    "CREATE TABLE queue(row INTEGER PRIMARY KEY, stage INTEGER NOT NULL, session INTEGER NOT NULL, message BLOB) STRICT",
    "CREATE TABLE received(id INTEGER PRIMARY KEY, sum INTEGER NOT NULL) STRICT",
    "CREATE TABLE retained(topic TEXT NOT NULL PRIMARY KEY, message BLOB NOT NULL) STRICT, WITHOUT ROWID",
];

/// An open database.
#[derive(Debug)]
pub(super) struct Database {
    connection: Connection,
    path: PathBuf,
    /// How many rows of the queue each session has; none has no entry.
    owned: HashMap<SessionId, u64, RandomState>,
    /// Pages in the log when it was last looked at.
    log_pages: u64,
}

/// What a transaction cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Written {
    /// Rows inserted, updated and deleted.
    pub(super) rows: u64,
    /// To the log. (A checkpoint then writes each page that is in there once to the database.)
    pub(super) bytes: u64,
}

/// Why the database does not do it.
#[derive(Debug, thiserror::Error)]
pub(super) enum DatabaseError {
    /// It is not what was written.
    #[error("{} is damaged: {what}", path.display())]
    Damaged { path: PathBuf, what: String },
    /// Another process has it.
    #[error("{} is in use by another process; hint: is another gatepost running? give each its own `state_dir`", path.display())]
    Locked { path: PathBuf },
    /// A later gatepost wrote it.
    #[error(
        "{} was written by a newer gatepost (format {version}, this one knows {VERSION}); hint: update gatepost, or \
         move the file away", path.display()
    )]
    Newer { path: PathBuf, version: i32 },
    /// There is no room.
    #[error("cannot write {}: the disk is full; hint: make room, gatepost goes on by itself then", path.display())]
    Full { path: PathBuf },
    /// The folder, or a file that is none.
    #[error(
        "cannot open {}: {source}; hint: gatepost must be able to write in the folder `state_dir`, and the file must be \
         its own (was it started as root once?)", path.display()
    )]
    Folder { path: PathBuf, source: io::Error },
    /// The thread that writes it cannot be started.
    #[error("cannot start the thread of the store: {source}; hint: is the limit of processes for this user reached?")]
    Thread { source: io::Error },
    /// Anything else.
    #[error("cannot read or write {}: {source}; hint: see the kernel's log for errors of the disk", path.display())]
    Failed { path: PathBuf, source: rusqlite::Error },
}

impl DatabaseError {
    /// What SQLite said about `path`.
    pub(super) fn new(path: &Path, source: rusqlite::Error) -> DatabaseError {
        let path = path.to_owned();
        let (code, extended) = match &source {
            rusqlite::Error::SqliteFailure(error, _) => (error.code, error.extended_code),
            // A column that is not what the schema says, text that is not UTF-8.
            rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
            | rusqlite::Error::Utf8Error(..) => return DatabaseError::Damaged { path, what: source.to_string() },
            _ => return DatabaseError::Failed { path, source },
        };
        match code {
            ffi::ErrorCode::DatabaseCorrupt | ffi::ErrorCode::NotADatabase => {
                DatabaseError::Damaged { path, what: source.to_string() }
            }
            // A sector that cannot be read, or a file that is cut short.
            ffi::ErrorCode::SystemIoFailure
                if [ffi::SQLITE_IOERR_READ, ffi::SQLITE_IOERR_SHORT_READ, ffi::SQLITE_IOERR_CORRUPTFS]
                    .contains(&extended) =>
            {
                DatabaseError::Damaged { path, what: source.to_string() }
            }
            // Our statements are always the same: that one is wrong, or the format unknown, comes from what is in the file.
            _ if extended == ffi::SQLITE_ERROR => DatabaseError::Damaged { path, what: source.to_string() },
            ffi::ErrorCode::DatabaseBusy | ffi::ErrorCode::DatabaseLocked => DatabaseError::Locked { path },
            ffi::ErrorCode::DiskFull => DatabaseError::Full { path },
            // Not by its rights, which were asked for before it was opened: by two bytes of its header.
            _ if extended == ffi::SQLITE_READONLY => DatabaseError::Damaged { path, what: source.to_string() },
            _ => DatabaseError::Failed { path, source },
        }
    }
}

impl Database {
    /// Opens the file, or makes it (mode 0600, and its folder 0700), and checks it from end to end.
    pub(super) fn open(path: &Path) -> Result<Database, DatabaseError> {
        make_file(path).map_err(|source| DatabaseError::Folder { path: path.to_owned(), source })?;
        let error = |source| DatabaseError::new(path, source);
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(error)?;
        prepare(&connection).map_err(error)?;
        let mut database = Database { connection, path: path.to_owned(), owned: HashMap::default(), log_pages: 0 };
        database.check()?;
        database.log_pages = database.count_log_pages().map_err(error)?;
        Ok(database)
    }

    /// The connection, to read it.
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Notes what [`Restored`](super::Restored) had.
    pub(super) fn set_owned(&mut self, owned: impl Iterator<Item = (SessionId, u64)>) {
        self.owned = owned.filter(|&(_, rows)| rows > 0).collect();
    }

    /// Removes what belongs to no session.
    pub(super) fn remove_orphans(&self) -> Result<(), DatabaseError> {
        let sql = "BEGIN; \
            DELETE FROM subscriptions WHERE session NOT IN (SELECT session FROM sessions); \
            DELETE FROM queue WHERE session NOT IN (SELECT session FROM sessions); \
            DELETE FROM received WHERE id >> 16 NOT IN (SELECT session FROM sessions); \
            COMMIT";
        self.connection.execute_batch(sql).map_err(|source| self.error(source))
    }

    /// An error with the path in it.
    pub(super) fn error(&self, source: rusqlite::Error) -> DatabaseError {
        DatabaseError::new(&self.path, source)
    }

    /// That a row is not what was written.
    pub(super) fn damaged(&self, what: String) -> DatabaseError {
        DatabaseError::Damaged { path: self.path.clone(), what }
    }

    /// That it is ours, of this version, whole, and has the tables that this version makes.
    fn check(&mut self) -> Result<(), DatabaseError> {
        let path = self.path.clone();
        let error = |source| DatabaseError::new(&path, source);
        let damaged = |what: String| DatabaseError::Damaged { path: path.clone(), what };
        let pragma = |name| self.connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i32>(0));
        let application = pragma("application_id").map_err(error)?;
        let version = pragma("user_version").map_err(error)?;
        let tables = self.tables().map_err(error)?;
        if (application, version, tables.is_empty()) == (0, 0, true) {
            return self.create().map_err(error);
        }
        if application != APPLICATION {
            return Err(damaged("it is not a database of gatepost".to_owned()));
        }
        if version > VERSION {
            return Err(DatabaseError::Newer { path, version });
        }
        if version != VERSION || tables != TABLES {
            return Err(damaged("it does not have the tables it should have".to_owned()));
        }
        let check = |row: &rusqlite::Row<'_>| row.get::<_, String>(0);
        let found = self.connection.query_row("PRAGMA quick_check(1)", [], check).map_err(error)?;
        if found == "ok" { Ok(()) } else { Err(damaged(found.replace('\n', " "))) }
    }

    /// As they were made, and whatever else is there.
    fn tables(&self) -> rusqlite::Result<Vec<String>> {
        let mut statement = self.connection.prepare("SELECT coalesce(sql, name) FROM sqlite_schema ORDER BY rowid")?;
        let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
        rows.filter(|sql| !sql.as_ref().is_ok_and(|sql| sql.starts_with("sqlite_autoindex"))).collect()
    }

    fn create(&mut self) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for table in TABLES {
            transaction.execute(table, [])?;
        }
        transaction.pragma_update(None, "application_id", APPLICATION)?;
        transaction.pragma_update(None, "user_version", VERSION)?;
        transaction.commit()
    }

    /// Writes all of `batch` or nothing. With `probe` something is written in any case.
    pub(super) fn commit(&mut self, batch: &Pending, probe: bool) -> Result<Written, DatabaseError> {
        let path = self.path.clone();
        self.try_commit(batch, probe).map_err(|source| DatabaseError::new(&path, source))
    }

    fn try_commit(&mut self, batch: &Pending, probe: bool) -> rusqlite::Result<Written> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut writer = Writer::new(&transaction);
        writer.write(batch, &self.owned)?;
        let Writer { rows, added, forgotten, .. } = writer;
        if probe {
            transaction.pragma_update(None, "user_version", VERSION)?;
        }
        transaction.commit()?;
        if batch.wipe {
            self.owned.clear();
        }
        self.owned.retain(|session, _| !forgotten.contains(session));
        for (session, added) in added {
            let count = self.owned.entry(session).or_default();
            *count = count.saturating_add_signed(added);
            if *count == 0 {
                self.owned.remove(&session);
            }
        }
        let bytes = self.account()?;
        Ok(Written { rows, bytes })
    }

    /// The bytes that were added to the log; brings it into the database when it has become long.
    fn account(&mut self) -> rusqlite::Result<u64> {
        let mut pages = self.count_log_pages()?;
        // The log begins anew after all of it was brought into the database.
        let mut added = pages.checked_sub(self.log_pages).unwrap_or(pages);
        if pages >= CHECKPOINT_PAGES {
            self.shrink()?;
            let shrunk = self.count_log_pages()?;
            added += shrunk.saturating_sub(pages);
            pages = shrunk;
            self.connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))?;
        }
        self.log_pages = pages;
        Ok(added * (PAGE + FRAME_HEADER))
    }

    /// Gives some of the free pages back to the file system.
    fn shrink(&self) -> rusqlite::Result<()> {
        let free: i64 = self.connection.query_row("PRAGMA freelist_count", [], |row| row.get(0))?;
        let spare = (free - KEPT_FREE_PAGES).min(SHRINK_PAGES);
        if spare > 0 {
            let mut statement = self.connection.prepare(&format!("PRAGMA incremental_vacuum({spare})"))?;
            let mut rows = statement.query([])?;
            while rows.next()?.is_some() {}
        }
        Ok(())
    }

    fn count_log_pages(&self) -> rusqlite::Result<u64> {
        let mut statement = self.connection.prepare_cached("PRAGMA wal_checkpoint(NOOP)")?;
        statement.query_row([], |row| row.get::<_, i64>(1)).map(|pages| u64::try_from(pages).unwrap_or(0))
    }

    /// Brings the log into the database and closes both; without a log the file is whole by itself.
    pub(super) fn close(self) -> Result<(), DatabaseError> {
        let Database { connection, path, .. } = self;
        connection
            .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)
            .and_then(|_| connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())))
            .and_then(|()| connection.close().map_err(|(_, error)| error))
            .map_err(|source| DatabaseError::new(&path, source))
    }
}

/// What all connections of this file are.
fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(std::time::Duration::ZERO)?;
    connection.set_prepared_statement_cache_capacity(24);
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    // A damaged file is moved away as it is.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.pragma_update(None, "page_size", PAGE as i64)?;
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    connection.pragma_update(None, "cache_size", -256)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    // Before the first access in WAL mode: then there is no shared memory and nobody else.
    connection.pragma_update_and_check(None, "locking_mode", "EXCLUSIVE", |_| Ok(()))?;
    let mode: String = connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    if mode != "wal" {
        let what = format!("the journal mode is {mode} and cannot be changed");
        return Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_CANTOPEN), Some(what)));
    }
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update_and_check(None, "wal_autocheckpoint", 0, |_| Ok(()))?;
    let log_limit = (CHECKPOINT_PAGES * (PAGE + FRAME_HEADER)) as i64;
    connection.pragma_update_and_check(None, "journal_size_limit", log_limit, |_| Ok(()))?;
    connection.execute_batch("BEGIN IMMEDIATE; COMMIT")
}

fn make_file(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
    if let Some(folder) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    match fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        Err(_) if !fs::metadata(path)?.is_file() => Err(io::Error::other("it is not a file")),
        // SQLite would go on with a file that may only be read, and fail later. Not by opening it: closing it again
        // would give up the locks that this process has on it.
        Err(_) => Ok(accessat(CWD, path, Access::READ_OK | Access::WRITE_OK, AtFlags::EACCESS)?),
        Ok(_) => Ok(()),
    }
}

/// One transaction.
struct Writer<'a> {
    transaction: &'a Transaction<'a>,
    clock: Clock,
    rows: u64,
    /// By how many the rows of a session have become more.
    added: HashMap<SessionId, i64, RandomState>,
    /// Sessions whose rows are gone.
    forgotten: Vec<SessionId>,
}

impl<'a> Writer<'a> {
    fn new(transaction: &'a Transaction<'a>) -> Writer<'a> {
        let (added, forgotten) = Default::default();
        Writer { transaction, clock: Clock::read(), rows: 0, added, forgotten }
    }

    fn write(&mut self, batch: &Pending, owned: &HashMap<SessionId, u64, RandomState>) -> rusqlite::Result<()> {
        if batch.wipe {
            for table in ["sessions", "subscriptions", "queue", "received", "retained"] {
                self.execute(&format!("DELETE FROM {table}"), [])?;
            }
        } else {
            let ended = batch.sessions.iter().filter(|(_, changes)| changes.wipe).map(|(session, _)| *session);
            self.end(&ended.collect::<Vec<_>>(), owned)?;
        }
        let mut sessions: Vec<_> = batch.sessions.iter().collect();
        sessions.sort_unstable_by_key(|(session, _)| **session);
        for (session, changes) in &sessions {
            self.session(**session, changes)?;
        }
        self.queue(&sessions)?;
        let mut retained: Vec<_> = batch.retained.iter().collect();
        retained.sort_unstable_by_key(|(topic, _)| topic.as_bytes());
        for (topic, retain) in retained {
            match &retain.message {
                Some(message) => {
                    let value = encode::retained(message, self.clock);
                    self.execute("INSERT OR REPLACE INTO retained VALUES(?1, ?2)", params![&**topic, value])?;
                }
                None => drop(self.execute("DELETE FROM retained WHERE topic = ?1", [&**topic])?),
            }
        }
        Ok(())
    }

    /// Removes all that belongs to these sessions. The queue has no index by session: it is walked through once, if
    /// any of them has rows in it.
    fn end(&mut self, ended: &[SessionId], owned: &HashMap<SessionId, u64, RandomState>) -> rusqlite::Result<()> {
        for session in ended {
            let id = session.get() as i64;
            self.execute("DELETE FROM sessions WHERE session = ?1", [id])?;
            self.execute("DELETE FROM subscriptions WHERE session = ?1", [id])?;
            let (first, _) = encode::received(*session, 0);
            let (last, _) = encode::received(*session, u16::MAX);
            self.execute("DELETE FROM received WHERE id BETWEEN ?1 AND ?2", [first, last])?;
        }
        let owners: Vec<SessionId> = ended.iter().copied().filter(|session| owned.contains_key(session)).collect();
        if owners.is_empty() {
            return Ok(());
        }
        let rows = {
            let mut statement = self.transaction.prepare_cached("SELECT row, session FROM queue")?;
            let rows = statement.query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))?;
            let ours = |session: i64| owners.iter().any(|owner| owner.get() as i64 == session);
            rows.filter(|row| row.as_ref().map_or(true, |&(_, session)| ours(session)))
                .collect::<rusqlite::Result<Vec<_>>>()?
        };
        for (row, _) in rows {
            self.execute("DELETE FROM queue WHERE row = ?1", [row])?;
        }
        self.forgotten = owners;
        Ok(())
    }

    fn session(&mut self, session: SessionId, changes: &SessionChanges) -> rusqlite::Result<()> {
        let id = session.get() as i64;
        if let Some((client_id, record)) = &changes.record {
            let value = encode::session(session, client_id, record);
            self.execute("INSERT OR REPLACE INTO sessions VALUES(?1, ?2)", params![id, value])?;
        }
        for (filter, subscription) in &changes.subscriptions {
            match subscription {
                Some(subscription) => {
                    let value = encode::subscription(session, subscription);
                    let sql = "INSERT OR REPLACE INTO subscriptions VALUES(?1, ?2, ?3)";
                    self.execute(sql, params![id, &**filter, value])?;
                }
                None => {
                    let sql = "DELETE FROM subscriptions WHERE session = ?1 AND filter = ?2";
                    self.execute(sql, params![id, &**filter])?;
                }
            }
        }
        for (&packet_id, &taken) in &changes.received {
            let (key, sum) = encode::received(session, packet_id);
            match taken {
                true => self.execute("INSERT OR REPLACE INTO received VALUES(?1, ?2)", [key, sum])?,
                false => self.execute("DELETE FROM received WHERE id = ?1", [key])?,
            };
        }
        Ok(())
    }

    /// The rows of all sessions in order, so that new ones are appended.
    fn queue(&mut self, sessions: &[(&SessionId, &SessionChanges)]) -> rusqlite::Result<()> {
        let mut rows: Vec<(RowId, SessionId, &RowChange)> = Vec::new();
        for (session, changes) in sessions {
            rows.extend(changes.rows.iter().map(|(row, change)| (*row, **session, &change.change)));
        }
        rows.sort_unstable_by_key(|(row, ..)| *row);
        for (row, session, change) in rows {
            let added = self.row(row, session, change)?;
            if added != 0 {
                *self.added.entry(session).or_default() += added;
            }
        }
        Ok(())
    }

    /// Returns by how many the session's rows have become more.
    fn row(&mut self, row: RowId, session: SessionId, change: &RowChange) -> rusqlite::Result<i64> {
        let id = row.get() as i64;
        match change {
            RowChange::Insert(new) => {
                let stage = match (&new.outgoing, new.packet_id) {
                    (Some(_), None) => Stage::Queued,
                    (Some(_), Some(packet_id)) => Stage::Sent(packet_id),
                    (None, packet_id) => Stage::Released(packet_id.unwrap_or(0)),
                };
                let message = new.outgoing.as_ref().map(|outgoing| encode::queued(row, session, outgoing, self.clock));
                let stage = encode::stage(row, session, stage);
                let values = params![id, stage, session.get() as i64, message];
                self.execute("INSERT OR REPLACE INTO queue VALUES(?1, ?2, ?3, ?4)", values)?;
                return Ok(1);
            }
            RowChange::Sent(packet_id) => {
                let stage = encode::stage(row, session, Stage::Sent(*packet_id));
                self.execute("UPDATE queue SET stage = ?2 WHERE row = ?1", [id, stage])?;
            }
            RowChange::Released(packet_id) => {
                let stage = encode::stage(row, session, Stage::Released(*packet_id));
                self.execute("UPDATE queue SET stage = ?2, message = NULL WHERE row = ?1", [id, stage])?;
            }
            RowChange::Delete => return Ok(-(self.execute("DELETE FROM queue WHERE row = ?1", [id])? as i64)),
        }
        Ok(0)
    }

    fn execute(&mut self, sql: &str, values: impl rusqlite::Params) -> rusqlite::Result<usize> {
        let rows = self.transaction.prepare_cached(sql)?.execute(values)?;
        self.rows += rows as u64;
        Ok(rows)
    }
}
