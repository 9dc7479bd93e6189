//! How the file is had, from the start on. It is read without writing, so that a full disk or one that is read-only takes
//! nothing away; it is written when it can be, and only if it is what was read.

use std::path::Path;
use std::time::SystemTime;
use std::{fs, io};

use super::change::Restored;
use super::damage::{beside, set_aside};
use super::database::{Access, Database};
use super::error::DatabaseError;
use super::restore::restore;

/// What the thread that writes has in hand.
#[derive(Debug)]
pub(super) enum Hold {
    /// The file, locked since it was read.
    Locked(Box<Database>),
    /// Nothing: it was read, or found missing, where it could not be written. Nobody else could, but may when we can.
    Free(Footprint),
    /// Nothing: it was read, then found damaged, and is still in its place.
    Damaged(String),
}

/// What was found at the start.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) hold: Hold,
    pub(super) restored: Restored,
    /// Why it cannot be written yet.
    pub(super) error: Option<DatabaseError>,
}

/// Reads the database at `path`, and makes it ready to be written if that can be done. A damaged one is set aside and an
/// empty one made in its place.
///
/// # Errors
/// It was not read, and must be left alone.
pub(super) fn open(path: &Path) -> Result<Opened, DatabaseError> {
    let mut opened = match read(path) {
        Err(DatabaseError::Damaged { what, .. }) => {
            set_aside(path, &what)?;
            read(path)
        }
        read => read,
    }?;
    if let Hold::Locked(database) = &mut opened.hold {
        opened.error = database.make_ready().err();
    }
    Ok(opened)
}

fn read(path: &Path) -> Result<Opened, DatabaseError> {
    match read_as(path, Access::Locked) {
        Ok((database, restored)) => Ok(Opened { hold: Hold::Locked(Box::new(database)), restored, error: None }),
        Err(error) if error.is_of_writing() => read_only(path, error),
        Err(error) => Err(error),
    }
}

/// Where nothing can be written, not even a log that is empty. That there is none, or an empty file, is no loss.
fn read_only(path: &Path, error: DatabaseError) -> Result<Opened, DatabaseError> {
    let look = || Footprint::of(path).map_err(|source| DatabaseError::file(path, source));
    let footprint = look()?;
    let mut restored = Restored::default();
    if footprint != Footprint::default() {
        // There is one only while a new file is made.
        if print(&beside(path, "-journal")).is_ok_and(|journal| journal.is_some()) {
            return Err(DatabaseError::Unfinished { path: path.to_owned() });
        }
        restored = read_as(path, Access::Unlocked { log: footprint.log.is_some() })?.1;
        if look()? != footprint {
            return Err(DatabaseError::Changed { path: path.to_owned() });
        }
    }
    Ok(Opened { hold: Hold::Free(footprint), restored, error: Some(error) })
}

fn read_as(path: &Path, access: Access) -> Result<(Database, Restored), DatabaseError> {
    let mut database = Database::open(path, access)?;
    let restored = restore(&mut database)?;
    Ok((database, restored))
}

impl Hold {
    /// The database, ready to be written.
    ///
    /// # Errors
    /// What is in the way; it can be tried again.
    pub(super) fn ready(&mut self, path: &Path) -> Result<&mut Database, DatabaseError> {
        if let Hold::Damaged(what) = self {
            set_aside(path, what)?;
            *self = Hold::Free(Footprint::default());
        }
        if let Hold::Free(footprint) = self {
            footprint.verify(path)?;
            let (database, _) = read_as(path, Access::Locked)?;
            footprint.verify(path)?;
            *self = Hold::Locked(Box::new(database));
        }
        let Hold::Locked(database) = self else { unreachable!("it was locked above") };
        database.make_ready()?;
        Ok(database)
    }
}

impl Default for Hold {
    fn default() -> Hold {
        Hold::Free(Footprint::default())
    }
}

/// How a file and its log look from outside. None, and one without a byte, are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Footprint {
    file: Option<Print>,
    log: Option<Print>,
}

/// Inode, length, last change.
type Print = (u64, u64, Option<SystemTime>);

impl Footprint {
    fn of(path: &Path) -> io::Result<Footprint> {
        Ok(Footprint { file: print(path)?, log: print(&beside(path, "-wal"))? })
    }

    fn verify(self, path: &Path) -> Result<(), DatabaseError> {
        match Footprint::of(path) {
            Ok(now) if now == self => Ok(()),
            Ok(_) => Err(DatabaseError::Changed { path: path.to_owned() }),
            Err(source) => Err(DatabaseError::file(path, source)),
        }
    }
}

fn print(path: &Path) -> io::Result<Option<Print>> {
    use std::os::unix::fs::MetadataExt;
    match fs::metadata(path) {
        Ok(file) if file.len() == 0 => Ok(None),
        Ok(file) => Ok(Some((file.ino(), file.len(), file.modified().ok()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The database at `path`, ready to be written, and what is in it.
#[cfg(test)]
pub(super) fn open_ready(path: &Path) -> Result<(Database, Restored), DatabaseError> {
    let Opened { hold, restored, error } = open(path)?;
    match (hold, error) {
        (Hold::Locked(database), None) => Ok((*database, restored)),
        (_, error) => Err(error.unwrap()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::store::pending::Pending;
    use crate::broker::store::versions;

    fn folder() -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("broker.db");
        versions::put(1, &path);
        (folder, path)
    }

    /// As on a file system that is read-only, with a log and without.
    #[test]
    fn what_may_only_be_read_is_read_and_left_as_it_is() {
        let (_folder, path) = folder();
        for _ in 0..2 {
            let before = Footprint::of(&path).unwrap();
            let Opened { mut hold, restored, error } =
                read_only(&path, DatabaseError::ReadOnly { path: path.clone() }).unwrap();
            assert!(error.is_some() && Footprint::of(&path).unwrap() == before);
            versions::check(1, &restored);
            // It can be written now, and is what was read.
            let database = hold.ready(&path).unwrap();
            database.commit(&Pending::default(), true).unwrap();
            let Hold::Locked(database) = hold else { panic!("it is locked") };
            database.close().unwrap();
            assert!(!beside(&path, "-wal").exists());
        }
    }

    #[test]
    fn a_file_that_another_has_for_a_moment_is_waited_for() {
        let (_folder, path) = folder();
        // As `.backup` of sqlite3 has it.
        let other = rusqlite::Connection::open(&path).unwrap();
        other.execute_batch("BEGIN; SELECT count(*) FROM sessions").unwrap();
        let backup = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(300));
            drop(other);
        });
        let opened = open(&path).unwrap();
        versions::check(1, &opened.restored);
        assert!(opened.error.is_none());
        backup.join().unwrap();
    }

    #[test]
    fn what_is_not_the_file_that_was_read_is_never_written() {
        let (_folder, path) = folder();
        let mut read = read_only(&path, DatabaseError::ReadOnly { path: path.clone() }).unwrap().hold;
        let mut missing = Hold::default();
        let (database, _) = open_ready(&path).unwrap();
        database.close().unwrap();
        let before = Footprint::of(&path).unwrap();
        for hold in [&mut read, &mut missing] {
            let error = hold.ready(&path).unwrap_err();
            assert!(matches!(error, DatabaseError::Changed { .. }), "{error}");
        }
        assert_eq!(Footprint::of(&path).unwrap(), before);
    }

    #[test]
    fn what_has_to_be_undone_first_is_not_read_where_nothing_can_be_written() {
        let (_folder, path) = folder();
        fs::write(beside(&path, "-journal"), b"undo this").unwrap();
        let read = read_only(&path, DatabaseError::Full { path: path.clone() });
        assert!(matches!(read, Err(DatabaseError::Unfinished { .. })));
    }

    #[test]
    fn names_of_all_kinds_are_read_without_a_log() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a?b#c%20 d.db");
        versions::put(1, &path);
        open_ready(&path).unwrap().0.close().unwrap();
        let opened = read_only(&path, DatabaseError::ReadOnly { path: path.clone() }).unwrap();
        versions::check(1, &opened.restored);
    }
}
