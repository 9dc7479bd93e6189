//! The thread that writes: the only one that touches the database after it was opened.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::Shared;
use super::damage;
use super::error::DatabaseError;
use super::ledger::{Mode, Work};
use super::opening::Hold;
use super::pending::Pending;
use crate::log_limit::LogLimit;

/// What the thread has in hand.
pub(super) struct Writer {
    shared: Arc<Shared>,
    hold: Hold,
    log: LogLimit,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, hold: Hold) -> Writer {
        let writer = Writer { shared, hold, log: LogLimit::default() };
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
        let Hold::Locked(database) = std::mem::take(&mut self.hold) else { return };
        if let Err(error) = database.close() {
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
            Err(error) => self.put_off(error, batch),
        }
    }

    /// Everything that waited was dropped: when the disk takes something again, everybody submits all anew.
    fn probe(&mut self) {
        match self.write(&Pending::default(), true) {
            Ok(()) => self.ask_for_all(),
            Err(error) => self.put_off(error, Pending::default()),
        }
    }

    /// Notes that `batch` was not written. What is damaged, or not given back by the disk, is set aside at the next try,
    /// and nothing of it is missed: all of it was read at the start.
    fn put_off(&mut self, error: DatabaseError, batch: Pending) {
        self.fail(&error);
        let now = Instant::now();
        if let DatabaseError::Damaged { what, .. } | DatabaseError::Unreadable { what, .. } = error {
            self.hold = Hold::Damaged(what);
            self.shared.update(|ledger| ledger.lose(now));
        } else {
            self.shared.update(|ledger| ledger.failed(batch, now));
        }
    }

    fn write(&mut self, batch: &Pending, probe: bool) -> Result<(), DatabaseError> {
        let written = self.hold.ready(&self.shared.path)?.commit(batch, probe)?;
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

    fn ask_for_all(&self) {
        self.shared.update(|ledger| ledger.resync(Instant::now()));
        self.shared.ask_for_all();
    }

    pub(super) fn fail(&mut self, error: &DatabaseError) {
        self.shared.stats.failures.increment();
        self.shared.set_error(Some(error.to_string()));
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
