//! The file: SQLite, one connection, used by one thread.
//!
//! Write-ahead log, fsync at each commit. The connection holds the file's lock for as long as it lives, so that no
//! second gatepost writes it, and needs no shared memory. Rows of queues have growing keys and no index, so that they
//! are appended at the end of one tree; pages that become free are used again, and given back a few at each checkpoint.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use foldhash::fast::RandomState;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, TransactionBehavior, ffi};
use rustix::fs::{Access as Right, AtFlags, CWD, accessat};

use super::batch::Batch;
use super::change::SessionId;
use super::error::DatabaseError;
use super::pending::Pending;
use super::retained_rows::RetainedRows;
use super::schema::{Schema, VERSION};

/// Bytes of a page. A commit of one message writes one page: with 4096 and the header of the log that are two blocks
/// of a file system, 8.5 KB; with 1024 mostly one, 5.2 KB. Smaller ones cost more than they save.
const PAGE: u64 = 1024;
/// Header of a page in the log.
const FRAME_HEADER: u64 = 24;
/// Pages in the log at which they are brought into the database; the log is not much longer, unless one transaction is.
const CHECKPOINT_PAGES: u64 = 4000;
/// How long a file that another process has is waited for: that of a backup, say, or of a gatepost that is just ending. Less
/// than what counts as a stall.
const LOCK_PATIENCE: Duration = Duration::from_secs(3);
/// Free pages given back to the file system at one checkpoint, and how many are kept for use.
const SHRINK_PAGES: i64 = 4000;
const KEPT_FREE_PAGES: i64 = 4000;

/// An open database.
#[derive(Debug)]
pub(super) struct Database {
    connection: Connection,
    path: PathBuf,
    schema: Schema,
    /// Whether there are rows that belong to no session.
    is_orphaned: bool,
    /// Whether it was made ready to be written.
    is_ready: bool,
    /// How many rows of the queue each session has; none has no entry.
    owned: HashMap<SessionId, u64, RandomState>,
    /// Of retained messages; read when it is made ready.
    retained: RetainedRows,
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

/// How a database is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// To be written later, and by nobody else until it is closed. It is made if there is none (mode 0600, and its folder
    /// 0700), and its log too.
    Locked,
    /// Where nobody can write; with a log or without.
    Unlocked { log: bool },
}

impl Database {
    /// Opens the file, and checks it from end to end. Nothing is written into it.
    pub(super) fn open(path: &Path, access: Access) -> Result<Database, DatabaseError> {
        let error = |source| DatabaseError::new(path, source);
        let connection = connect(path, access)?;
        prepare(&connection).map_err(error)?;
        let schema = Schema::find(&connection, path)?;
        let check = |row: &rusqlite::Row<'_>| row.get::<_, String>(0);
        let found = connection.query_row("PRAGMA quick_check(1)", [], check).map_err(error)?;
        let database = Database {
            connection,
            path: path.to_owned(),
            schema,
            is_orphaned: false,
            is_ready: false,
            owned: HashMap::default(),
            retained: RetainedRows::default(),
            log_pages: 0,
        };
        if found == "ok" { Ok(database) } else { Err(database.damaged(found.replace('\n', " "))) }
    }

    /// Of its tables; 0: it has none yet.
    pub(super) fn version(&self) -> i32 {
        self.schema.version()
    }

    /// The connection, to read it.
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Notes what [`Restored`](super::Restored) had.
    pub(super) fn set_owned(&mut self, owned: impl Iterator<Item = (SessionId, u64)>) {
        self.owned = owned.filter(|&(_, rows)| rows > 0).collect();
    }

    /// Notes that there are rows that belong to no session.
    pub(super) fn set_orphaned(&mut self) {
        self.is_orphaned = true;
    }

    /// Writes what has to be there before anything else: the tables of this version. Does nothing the second time.
    ///
    /// # Errors
    /// It can be tried again; what was read is there still.
    pub(super) fn make_ready(&mut self) -> Result<(), DatabaseError> {
        if self.is_ready {
            return Ok(());
        }
        self.try_make_ready().map_err(|source| self.error(source))
    }

    fn try_make_ready(&mut self) -> rusqlite::Result<()> {
        let connection = &mut self.connection;
        if self.schema.version() == 0 {
            connection.pragma_update(None, "page_size", PAGE as i64)?;
            connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
        }
        let mode: String = connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
        if mode != "wal" {
            let what = format!("the journal mode is {mode} and cannot be changed");
            return Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_IOERR), Some(what)));
        }
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update_and_check(None, "wal_autocheckpoint", 0, |_| Ok(()))?;
        let log_limit = (CHECKPOINT_PAGES * (PAGE + FRAME_HEADER)) as i64;
        connection.pragma_update_and_check(None, "journal_size_limit", log_limit, |_| Ok(()))?;
        self.schema.migrate(connection)?;
        if self.is_orphaned {
            self.remove_orphans()?;
        }
        self.retained = RetainedRows::read(&self.connection)?;
        self.connection.execute_batch("BEGIN IMMEDIATE; COMMIT")?;
        self.log_pages = self.count_log_pages()?;
        self.is_ready = true;
        Ok(())
    }

    fn remove_orphans(&mut self) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute_batch(
            "DELETE FROM subscriptions WHERE session NOT IN (SELECT session FROM sessions); \
             DELETE FROM queue WHERE session NOT IN (SELECT session FROM sessions); \
             DELETE FROM received WHERE id >> 16 NOT IN (SELECT session FROM sessions)",
        )?;
        transaction.commit()?;
        self.is_orphaned = false;
        Ok(())
    }

    /// An error with the path in it.
    pub(super) fn error(&self, source: rusqlite::Error) -> DatabaseError {
        DatabaseError::new(&self.path, source)
    }

    /// That a row is not what was written.
    pub(super) fn damaged(&self, what: String) -> DatabaseError {
        DatabaseError::Damaged { path: self.path.clone(), what }
    }

    /// Writes all of `batch` or nothing, into a database that is ready. With `probe` something is written in any case.
    pub(super) fn commit(&mut self, batch: &Pending, probe: bool) -> Result<Written, DatabaseError> {
        let path = self.path.clone();
        self.try_commit(batch, probe).map_err(|source| DatabaseError::new(&path, source))
    }

    fn try_commit(&mut self, batch: &Pending, probe: bool) -> rusqlite::Result<Written> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut writer = Batch::new(&transaction);
        writer.write(batch, &self.owned, &self.retained)?;
        let Batch { rows, added, forgotten, retained, .. } = writer;
        if probe {
            transaction.pragma_update(None, "user_version", VERSION)?;
        }
        transaction.commit()?;
        if batch.wipe {
            self.owned.clear();
            self.retained = self.retained.emptied();
        }
        self.retained.apply(retained);
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

fn connect(path: &Path, access: Access) -> Result<Connection, DatabaseError> {
    let (reads, writes) = (OpenFlags::SQLITE_OPEN_READ_ONLY, OpenFlags::SQLITE_OPEN_READ_WRITE);
    let opened = match access {
        Access::Locked => {
            make_file(path).map_err(|source| DatabaseError::file(path, source))?;
            Connection::open_with_flags(path, writes | OpenFlags::SQLITE_OPEN_NO_MUTEX)
        }
        // A log is read by one that has the lock; there, nobody can have it, for it takes a file that can be written.
        Access::Unlocked { log: true } => {
            Connection::open_with_flags_and_vfs(path, reads | OpenFlags::SQLITE_OPEN_NO_MUTEX, c"unix-none")
        }
        Access::Unlocked { log: false } => {
            let flags = reads | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
            Connection::open_with_flags(immutable(path), flags)
        }
    };
    opened.map_err(|source| DatabaseError::new(path, source))
}

/// The file, and never mind its log, as SQLite writes it.
fn immutable(path: &Path) -> PathBuf {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let mut uri = b"file:".to_vec();
    for &byte in path.as_os_str().as_bytes() {
        match byte {
            b'%' | b'?' | b'#' => uri.extend(format!("%{byte:02x}").bytes()),
            _ => uri.push(byte),
        }
    }
    uri.extend(b"?immutable=1");
    std::ffi::OsString::from_vec(uri).into()
}

/// What all connections of this file are. Nothing here writes.
fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(LOCK_PATIENCE)?;
    connection.set_prepared_statement_cache_capacity(24);
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    // What somebody else has added to the file is not to change or refuse what is written to our tables.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, false)?;
    // A damaged file is moved away as it is.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    // Before the first access, which the next ones may be: in WAL mode there is no shared memory then, which a full disk
    // has no room for, and nobody else.
    connection.pragma_update_and_check(None, "locking_mode", "EXCLUSIVE", |_| Ok(()))?;
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.pragma_update(None, "cache_size", -256)
}

fn make_file(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    match fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        Err(_) if !fs::metadata(path)?.is_file() => Err(io::Error::other("it is not a file")),
        // SQLite would go on with a file that may only be read, or a folder that its log cannot be made in, and fail
        // later. Not by opening it: closing it again would give up the locks that this process has on it.
        Err(_) => {
            accessat(CWD, path, Right::READ_OK | Right::WRITE_OK, AtFlags::EACCESS)?;
            Ok(accessat(CWD, folder, Right::WRITE_OK | Right::EXEC_OK, AtFlags::EACCESS)?)
        }
        Ok(_) => Ok(()),
    }
}
