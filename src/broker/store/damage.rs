//! What becomes of a damaged database: it is moved aside, for somebody to look at, and an empty one takes its place.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::{fs, io};

use super::error::DatabaseError;

/// The database and what SQLite keeps beside it.
const FILES: [&str; 4] = ["", "-wal", "-shm", "-journal"];

/// Damaged databases that are kept: the newest is `*.bad`, older ones are `*.bad.1` and so on.
const MAX_BAD: usize = 3;

/// Moves the database at `path` and its log to `*.bad`. An older one there gets the next name, and the oldest of more than
/// [`MAX_BAD`] goes. It must be closed.
pub(super) fn set_aside(path: &Path, what: &str) -> Result<(), DatabaseError> {
    let bad = bad(path, 0);
    let moved = make_way(path, 0).and_then(|()| move_all(path, &bad));
    moved.map_err(|source| DatabaseError::Folder { path: bad.clone(), source })?;
    tracing::error!(
        database = %path.display(), moved_to = %bad.display(), damage = what,
        "the database is damaged; starting with an empty one: retained messages and sessions are gone"
    );
    Ok(())
}

/// The name of the damaged database that `number` newer ones came after.
fn bad(path: &Path, number: usize) -> PathBuf {
    match number {
        0 => beside(path, ".bad"),
        _ => beside(path, &format!(".bad.{number}")),
    }
}

/// Frees the name of the damaged database `number`.
fn make_way(path: &Path, number: usize) -> io::Result<()> {
    let (taken, next) = (bad(path, number), number + 1);
    if !FILES.iter().any(|suffix| beside(&taken, suffix).exists()) {
        return Ok(());
    }
    if next == MAX_BAD {
        tracing::warn!(removed = %taken.display(), kept = MAX_BAD, "the oldest damaged database was removed");
        return FILES.iter().try_for_each(|suffix| remove(&beside(&taken, suffix)));
    }
    make_way(path, next)?;
    move_all(&taken, &bad(path, next))?;
    tracing::warn!(moved_to = %bad(path, next).display(), "a database that was damaged before is kept by another name");
    Ok(())
}

/// Moves a database and what is beside it to a name that is free.
fn move_all(from: &Path, to: &Path) -> io::Result<()> {
    // The log first: without its database it is nothing, with another one it would be damage.
    for suffix in FILES.iter().rev() {
        match fs::rename(beside(from, suffix), beside(to, suffix)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    from.parent().map_or(Ok(()), |folder| fs::File::open(folder)?.sync_all())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_damaged_databases_are_kept_and_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("broker.db");
        for round in 0..5 {
            fs::write(&path, format!("{round}")).unwrap();
            if round % 2 == 0 {
                fs::write(beside(&path, "-wal"), format!("log {round}")).unwrap();
            }
            set_aside(&path, "a test").unwrap();
        }
        let mut found: Vec<String> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| format!("{}: {}", entry.file_name().display(), fs::read_to_string(entry.path()).unwrap()))
            .collect();
        found.sort_unstable();
        assert_eq!(
            found,
            [
                "broker.db.bad-wal: log 4",
                "broker.db.bad.1: 3",
                "broker.db.bad.2-wal: log 2",
                "broker.db.bad.2: 2",
                "broker.db.bad: 4",
            ]
        );
    }
}
