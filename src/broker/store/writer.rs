//! The thread that writes: the only one that touches the database after it was opened.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::Shared;
use super::change::Restored;
use super::damage::{self, set_aside};
use super::database::{Database, DatabaseError};
use super::ledger::{Mode, Work};
use super::pending::Pending;
use super::restore::restore;
use crate::log_limit::LogLimit;

/// Opens the database at `path` and reads it. A damaged one is set aside and an empty one made in its place.
pub(super) fn open(path: &Path) -> Result<(Database, Restored), DatabaseError> {
    match open_and_restore(path) {
        Err(DatabaseError::Damaged { what, .. }) => {
            set_aside(path, &what)?;
            open_and_restore(path)
        }
        opened => opened,
    }
}

fn open_and_restore(path: &Path) -> Result<(Database, Restored), DatabaseError> {
    let mut database = Database::open(path)?;
    let restored = restore(&mut database)?;
    Ok((database, restored))
}

/// What the thread has in hand.
pub(super) struct Writer {
    shared: Arc<Shared>,
    /// `None`: the disk had no room for it.
    database: Option<Database>,
    log: LogLimit,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, database: Option<Database>) -> Writer {
        let writer = Writer { shared, database, log: LogLimit::default() };
        writer.note_size();
        writer
    }

    /// Writes until the store is closed.
    pub(super) fn run(mut self) {
        loop {
            match self.wait() {
                Work::Commit(batch) => self.ask_disk(|writer| writer.commit(batch)),
                Work::Probe => self.ask_disk(Writer::probe),
                Work::Wait(_) => {}
                Work::Close => break,
            }
        }
        if let Some(Err(error)) = self.database.take().map(Database::close) {
            tracing::warn!(%error, "the database was not closed cleanly; its log is read at the next start");
        }
    }

    /// Sleeps until there is something to do. Idle, nothing wakes it.
    fn wait(&self) -> Work {
        let mut ledger = self.shared.ledger.lock();
        loop {
            match ledger.next(Instant::now()) {
                Work::Wait(None) => self.shared.work.wait(&mut ledger),
                Work::Wait(Some(due)) => drop(self.shared.work.wait_until(&mut ledger, due)),
                work => return work,
            }
        }
    }

    /// Does `work`, which waits for the disk.
    fn ask_disk(&mut self, work: impl FnOnce(&mut Writer)) {
        self.shared.disk.ask(Instant::now());
        work(self);
        self.shared.disk.answer(Instant::now());
    }

    fn commit(&mut self, batch: Pending) {
        // After a failure an empty batch must find out whether the disk takes anything.
        let probe = !matches!(self.shared.ledger.lock().mode(), Mode::Healthy | Mode::Closing);
        match self.write(&batch, probe) {
            Ok(()) => {
                if self.shared.update(|ledger| ledger.committed(Instant::now())) {
                    self.shared.set_error(None);
                    tracing::info!(database = %self.shared.path.display(), "the disk takes what is written again");
                }
            }
            Err(error @ DatabaseError::Damaged { .. }) if self.replace(&error) => {
                self.fail(&error);
                self.ask_for_all();
            }
            Err(error) => {
                self.fail(&error);
                self.shared.update(|ledger| ledger.failed(batch, Instant::now()));
            }
        }
    }

    /// Everything that waited was dropped: when the disk takes something again, everybody submits all anew.
    fn probe(&mut self) {
        match self.write(&Pending::default(), true) {
            Ok(()) => self.ask_for_all(),
            Err(error) => {
                self.fail(&error);
                self.shared.update(|ledger| ledger.failed(Pending::default(), Instant::now()));
            }
        }
    }

    fn write(&mut self, batch: &Pending, probe: bool) -> Result<(), DatabaseError> {
        let database = match &mut self.database {
            Some(database) => database,
            none => none.insert(open(&self.shared.path)?.0),
        };
        let written = database.commit(batch, probe)?;
        let stats = &self.shared.stats;
        stats.commits.increment();
        stats.rows.add(written.rows);
        stats.bytes_written.add(written.bytes);
        self.note_size();
        Ok(())
    }

    /// Here, where waiting for the disk holds up nobody.
    fn note_size(&self) {
        self.shared.size.store(damage::size(&self.shared.path), Ordering::Relaxed);
    }

    /// Sets the damaged database aside and makes a new one.
    fn replace(&mut self, error: &DatabaseError) -> bool {
        self.database = None;
        match set_aside(&self.shared.path, &error.to_string()).and_then(|()| Database::open(&self.shared.path)) {
            Ok(database) => self.database = Some(database),
            Err(error) => self.fail(&error),
        }
        self.database.is_some()
    }

    fn ask_for_all(&self) {
        self.shared.update(|ledger| ledger.resync(Instant::now()));
        self.shared.ask_for_all();
    }

    fn fail(&mut self, error: &DatabaseError) {
        self.shared.stats.failures.increment();
        self.shared.set_error(Some(error));
        if let Some(times) = self.log.events(Instant::now(), 1) {
            tracing::error!(%error, times, "the store cannot write; going on in memory, trying again every second");
        }
    }
}

/// Also when a bug ended the thread nobody waits for it.
impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.update(|ledger| ledger.end());
        self.shared.set_ended();
    }
}
