//! Why the store cannot have its file, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use rusqlite::ffi;
use rustix::io::Errno;

use super::schema::VERSION;

/// Why the database does not do it.
#[derive(Debug, thiserror::Error)]
pub(super) enum DatabaseError {
    /// It is not what was written.
    #[error("{} is damaged: {what}", path.display())]
    Damaged { path: PathBuf, what: String },
    /// The disk does not give back what is in there.
    #[error(
        "cannot read {}: {what}; hint: the disk fails, and the kernel's log says how; once it can be read again, restart \
         gatepost; if it never can, move the file away first", path.display()
    )]
    Unreadable { path: PathBuf, what: String },
    /// To read it, a change that was cut short has to be undone.
    #[error(
        "{} was being written when gatepost ended, and that cannot be undone where nothing can be written; hint: make room, \
         or mount the file system with `rw`, and restart gatepost", path.display()
    )]
    Unfinished { path: PathBuf },
    /// Another process has it.
    #[error(
        "{} is in use by another process; hint: is another gatepost running? give each its own `state_dir`; if it was a \
         backup, restart gatepost", path.display()
    )]
    Locked { path: PathBuf },
    /// A later gatepost wrote it.
    #[error(
        "{} was written by a newer gatepost (format {version}, this one knows {VERSION}); hint: update gatepost, or \
         move the file away", path.display()
    )]
    Newer { path: PathBuf, version: i32 },
    /// Another program's.
    #[error("{} is the database of another program; hint: move it away, or set another `state_dir`", path.display())]
    Foreign { path: PathBuf },
    /// It is not the file that was read at the start.
    #[error("{} has changed since it was read; hint: restart gatepost, which reads it then", path.display())]
    Changed { path: PathBuf },
    /// There is no room.
    #[error("cannot write {}: the disk is full; hint: make room, gatepost goes on by itself then", path.display())]
    Full { path: PathBuf },
    /// Nothing can be written there at all.
    #[error(
        "cannot write {}: the file system is read-only; hint: the kernel's log may say why; gatepost goes on by itself \
         when it is mounted with `rw`", path.display()
    )]
    ReadOnly { path: PathBuf },
    /// The folder, or a file that is none.
    #[error(
        "cannot open {}: {source}; hint: gatepost must be able to write in the folder `state_dir`, and the file must be \
         its own (was it started as root once?)", path.display()
    )]
    Folder { path: PathBuf, source: io::Error },
    /// The thread that writes it cannot be started.
    #[error("cannot start the thread of the store: {source}; hint: is the limit of processes for this user reached?")]
    Thread { source: io::Error },
    /// A file, most likely the log, which is made anew at each start.
    #[error(
        "cannot open {} or what belongs to it: {source}; hint: `df -i` shows whether the file system has inodes left, and \
         `LimitNOFILE` in the unit how many files may be open", path.display()
    )]
    Unopened { path: PathBuf, source: rusqlite::Error },
    /// Anything else.
    #[error("cannot read or write {}: {source}; hint: see the kernel's log for errors of the disk", path.display())]
    Failed { path: PathBuf, source: rusqlite::Error },
}

impl DatabaseError {
    /// What the system said when the file at `path` was made or looked at.
    pub(super) fn file(path: &Path, source: io::Error) -> DatabaseError {
        let path = path.to_owned();
        match Errno::from_io_error(&source) {
            Some(Errno::NOSPC | Errno::DQUOT) => DatabaseError::Full { path },
            Some(Errno::ROFS) => DatabaseError::ReadOnly { path },
            _ => DatabaseError::Folder { path, source },
        }
    }

    /// Whether the file may be whole, and is only not to be written: to read it takes its log, which is made if there
    /// is none.
    pub(super) fn is_of_writing(&self) -> bool {
        matches!(self, DatabaseError::Full { .. } | DatabaseError::ReadOnly { .. } | DatabaseError::Unopened { .. })
    }

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
            // A file that is cut short.
            _ if extended == ffi::SQLITE_IOERR_SHORT_READ => DatabaseError::Damaged { path, what: source.to_string() },
            // A sector that cannot be read, or a disk that is gone.
            _ if [ffi::SQLITE_IOERR_READ, ffi::SQLITE_IOERR_CORRUPTFS].contains(&extended) => {
                DatabaseError::Unreadable { path, what: source.to_string() }
            }
            ffi::ErrorCode::CannotOpen => DatabaseError::Unopened { path, source },
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
