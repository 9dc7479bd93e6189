//! What becomes of a damaged database: it is moved aside, for somebody to look at, and an empty one takes its place.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::{fs, io};

use super::error::DatabaseError;

/// The database and what SQLite keeps beside it.
const FILES: [&str; 4] = ["", "-wal", "-shm", "-journal"];

/// Moves the database at `path` and its log to `*.bad`, in place of older ones. It must be closed.
pub(super) fn set_aside(path: &Path, what: &str) -> Result<(), DatabaseError> {
    let bad = beside(path, ".bad");
    let moved = move_all(path, &bad);
    moved.map_err(|source| DatabaseError::Folder { path: bad.clone(), source })?;
    tracing::error!(
        database = %path.display(), moved_to = %bad.display(), damage = what,
        "the database is damaged; starting with an empty one: retained messages and sessions are gone"
    );
    Ok(())
}

fn move_all(path: &Path, bad: &Path) -> io::Result<()> {
    for suffix in FILES {
        remove(&beside(bad, suffix))?;
    }
    // The log first: without its database it is nothing, with another one it would be damage.
    for suffix in FILES.iter().rev() {
        match fs::rename(beside(path, suffix), beside(bad, suffix)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    path.parent().map_or(Ok(()), |folder| fs::File::open(folder)?.sync_all())
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The file that SQLite keeps beside the database at `path` by this suffix.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

/// Bytes of the database at `path` and its log.
pub(super) fn size(path: &Path) -> u64 {
    FILES.iter().map(|suffix| fs::metadata(beside(path, suffix)).map_or(0, |file| file.len())).sum()
}
