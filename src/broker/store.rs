//! What survives kill -9 and power cuts: retained messages, sessions, their subscriptions, queues and QoS 2 state, wills.
//!
//! Everybody submits [`Change`]s, which never blocks, and may wait for the [`Ticket`] that comes back. A thread of its
//! own takes all that waits and writes it in one transaction: so the cost of an fsync is shared by all messages of some
//! milliseconds, and what is undone in that time (a message that a quick subscriber acknowledged) is never written.
//!
//! While the disk takes nothing, nobody waits: tickets are done at once and the broker goes on in memory. What was
//! submitted is kept and written when the disk takes it again; if that became too much, it is dropped and all
//! participants are asked for everything anew ([`Store::resync`]).

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;

pub use crate::broker::session_expiry::SessionExpiry;
use crate::stats::Counter;
pub use change::{
    Change, Phase, Qos2Gate, Restored, RowId, SessionId, SessionRecord, StoredMessage, StoredRow, StoredSession,
    StoredSubscription, StoredWill, Urgency, WillId,
};

use error::DatabaseError;
use ledger::{Ledger, Submitted};
use opening::Opened;
use stall::Disk;
pub use stall::PATIENCE;
use writer::Writer;

mod batch;
mod change;
#[cfg(test)]
mod crash;
mod damage;
mod database;
mod encode;
mod error;
#[cfg(test)]
mod fixture;
mod ledger;
#[cfg(test)]
mod model;
mod opening;
mod pending;
mod restore;
mod retained_rows;
mod schema;
mod stall;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod versions;
mod writer;

/// Says when a change is on disk; see [`Store::is_done`]. A later change's is not lower.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

impl Ticket {
    /// Always done.
    pub const DONE: Ticket = Ticket(0);
}

/// How a store behaves.
#[derive(Clone, Copy, Debug)]
pub struct StoreSettings {
    /// How long the first of many changes waits for others to be written with it.
    pub gather: Duration,
    /// How long a lazy change may wait; not more than one transaction in this time for lazy ones alone.
    pub lazy: Duration,
    /// Bytes of changes kept while the disk does not take them; beyond, they are dropped, and asked for again when it does.
    pub max_pending_bytes: usize,
}

impl Default for StoreSettings {
    fn default() -> StoreSettings {
        StoreSettings { gather: Duration::from_millis(2), lazy: Duration::from_secs(1), max_pending_bytes: 16 << 20 }
    }
}

/// Whether what was submitted gets to the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// `persistence = false`: nothing is kept.
    Off,
    /// All is well.
    Healthy,
    /// The disk has not answered for so long, at least [`PATIENCE`]; tickets wait for it.
    Stalled(Duration),
    /// The disk does not take it; the broker goes on in memory, and tickets are done at once.
    Degraded {
        /// Since when.
        since: SystemTime,
        /// What is wrong and what to do.
        error: Arc<str>,
    },
}

/// What the store has counted since the start.
#[derive(Debug, Default)]
pub struct StoreStats {
    /// Transactions written.
    pub commits: Counter,
    /// Changes submitted.
    pub changes: Counter,
    /// Changes that were undone by, or made one with, another before they were written.
    pub cancelled: Counter,
    /// Rows inserted, updated and deleted.
    pub rows: Counter,
    /// Bytes written to the log. Each page in it is written once more when it is brought into the database.
    pub bytes_written: Counter,
    /// Transactions that failed.
    pub failures: Counter,
    /// Changes dropped because the disk took none and too much waited.
    pub dropped: Counter,
    /// Transactions that took longer than [`PATIENCE`], one that still does included.
    pub stalls: Counter,
}

/// The store. Cheap to clone; all clones are the same store. When the last is dropped, what waits is written and the
/// thread ends; [`Store::close`] waits for that.
#[derive(Clone, Debug)]
pub struct Store(Arc<Handle>);

#[derive(Debug)]
struct Handle(Arc<Shared>);

/// What the handles and the thread share.
#[derive(Debug)]
struct Shared {
    on: bool,
    path: PathBuf,
    ledger: Mutex<Ledger>,
    /// The thread looks again when something is due.
    work: Condvar,
    /// [`Ledger::watermark`], to be read without the lock.
    watermark: AtomicU64,
    /// How often everything was asked for.
    resyncs: AtomicU64,
    ended: AtomicBool,
    /// Whether it answers.
    disk: Disk,
    /// See [`Store::size`].
    size: AtomicU64,
    /// The watermark, the end or the error has changed.
    changed: Notify,
    /// The resyncs have changed. Every kept session waits for that, and must not be woken by each commit.
    asked: Notify,
    error: Mutex<Option<(SystemTime, Arc<str>)>>,
    stats: StoreStats,
    last_row: AtomicU64,
    last_session: AtomicU64,
    last_will: AtomicU64,
}

impl Store {
    /// A store that keeps nothing.
    pub fn off() -> Store {
        Store::without_database(PathBuf::new(), None)
    }

    /// Opens or makes the database at `path`, reads it, and starts the thread that writes it. Blocks.
    ///
    /// It never fails: a damaged file goes to `*.bad` and an empty one takes its place; one that cannot be written now (a
    /// full disk, a file system that is read-only) is read all the same, and written when it can be; with a file that
    /// cannot be read or must not be touched (a disk that fails, in use by another process for longer than a moment,
    /// written by a newer gatepost or by another program, somebody else's) it keeps nothing. Each is logged, and to be seen in [`Store::health`].
    pub fn open(path: &Path, settings: StoreSettings) -> (Store, Restored) {
        let Opened { hold, restored, error } = match opening::open(path) {
            Ok(opened) => opened,
            Err(error) => return (Store::unusable(path, &error), Restored::default()),
        };
        let mut ledger = Ledger::new(settings);
        if error.is_some() {
            ledger.failed(pending::Pending::default(), Instant::now());
        }
        let shared = Arc::new(Shared::new(path.to_owned(), ledger, true));
        shared.number_from(&restored);
        let mut writer = Writer::new(shared.clone(), hold);
        if let Some(error) = error {
            writer.fail(&error);
        }
        match thread::Builder::new().name("gatepost-store".to_owned()).spawn(|| writer.run()) {
            Ok(_) => (Store(Arc::new(Handle(shared))), restored),
            Err(source) => (Store::unusable(path, &DatabaseError::Thread { source }), restored),
        }
    }

    fn unusable(path: &Path, error: &DatabaseError) -> Store {
        tracing::error!(%error, "nothing is kept on disk until gatepost is restarted: sessions and retained messages are gone then");
        Store::without_database(path.to_owned(), Some(format!("off until gatepost is restarted: {error}")))
    }

    fn without_database(path: PathBuf, error: Option<String>) -> Store {
        let mut ledger = Ledger::new(StoreSettings::default());
        ledger.end();
        let shared = Shared::new(path, ledger, false);
        shared.set_error(error);
        shared.set_ended();
        Store(Arc::new(Handle(Arc::new(shared))))
    }

    fn shared(&self) -> &Shared {
        &self.0.0
    }

    /// Whether anything is kept: false with `persistence = false` and when the file could not be used at the start.
    pub fn is_on(&self) -> bool {
        self.shared().on
    }

    /// A new row, higher than all before.
    pub fn next_row(&self) -> RowId {
        RowId(NonZeroU64::MIN.saturating_add(self.shared().last_row.fetch_add(1, Ordering::Relaxed)))
    }

    /// A new session.
    pub fn new_session(&self) -> SessionId {
        SessionId(self.shared().last_session.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// A new will, higher than all before.
    pub fn new_will(&self) -> WillId {
        WillId(self.shared().last_will.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// Takes a change; never blocks. The ticket says when it is on disk; that of a lazy change, or of a row behind a gate, is done.
    pub fn submit(&self, change: Change) -> Ticket {
        let shared = self.shared();
        if !shared.on {
            return Ticket::DONE;
        }
        let Submitted { number, wake, cancelled, dropped } =
            shared.update(|ledger| ledger.submit(change, Instant::now()));
        if wake {
            shared.work.notify_one();
        }
        shared.stats.changes.increment();
        shared.stats.cancelled.add(cancelled);
        shared.stats.dropped.add(dropped);
        Ticket(number)
    }

    /// Of the last change that somebody may wait for: done when all such so far are.
    pub fn latest(&self) -> Ticket {
        if self.shared().on { Ticket(self.shared().ledger.lock().last()) } else { Ticket::DONE }
    }

    /// Up to where all is done: committed, undone before it was written, or not waited for because the disk takes
    /// nothing (then it is the highest ticket there is).
    pub fn committed(&self) -> Ticket {
        Ticket(self.shared().watermark.load(Ordering::Acquire))
    }

    /// Whether all changes up to `ticket` are done.
    pub fn is_done(&self, ticket: Ticket) -> bool {
        ticket <= self.committed()
    }

    /// Resolves when all changes up to `ticket` are done.
    pub async fn done(&self, ticket: Ticket) {
        self.shared().until(|| self.is_done(ticket)).await;
    }

    /// Resolves when [`Store::committed`] is no longer `seen`.
    pub async fn progress(&self, seen: Ticket) {
        self.shared().until(|| self.committed() != seen).await;
    }

    /// Whether rows behind `gate` are not on disk: from the Enqueue until the transaction with the PublishReceived that
    /// opens it. False for a gate that nothing waits behind, and while the disk takes nothing. Look again at each
    /// [`Store::progress`].
    pub fn is_gated(&self, gate: Qos2Gate) -> bool {
        self.shared().on && self.shared().ledger.lock().is_gated(gate)
    }

    /// Resolves with a new number when everybody must submit anew all that he wants kept: retained messages, sessions,
    /// subscriptions, queues (rows behind a gate without it), received identifiers, wills. `seen` is the number that the last
    /// call returned, 0 at first. What was on disk is replaced a second later; nobody waits for tickets until then.
    pub async fn resync(&self, seen: u64) -> u64 {
        let number = || self.shared().resyncs.load(Ordering::Acquire);
        until(&self.shared().asked, || number() != seen).await;
        number()
    }

    /// Whether it works.
    pub fn health(&self) -> Health {
        if let Some(waited) = self.shared().disk.stalled(Instant::now()) {
            return Health::Stalled(waited);
        }
        match &*self.shared().error.lock() {
            Some((since, error)) => Health::Degraded { since: *since, error: error.clone() },
            None if self.shared().on => Health::Healthy,
            None => Health::Off,
        }
    }

    /// Resolves when the disk has not answered for [`PATIENCE`], with the moment it was asked. For one task; an idle
    /// store does not wake it.
    pub async fn until_stalled(&self) -> Instant {
        let asked = self.shared().disk.until_stalled().await;
        self.shared().stats.stalls.increment();
        asked
    }

    /// Resolves when the disk has answered what it was asked at `asked`. For the task that
    /// [`until_stalled`](Store::until_stalled) told.
    pub async fn until_answered(&self, asked: Instant) {
        self.shared().disk.until_answered(asked).await;
    }

    /// The counters.
    pub fn stats(&self) -> &StoreStats {
        &self.shared().stats
    }

    /// How many changes wait to be written, those of one thing counted once. What is being written is not among them.
    pub fn pending(&self) -> usize {
        self.shared().ledger.lock().pending()
    }

    /// Bytes of the database, its log included, after the last transaction. Asks no disk.
    pub fn size(&self) -> u64 {
        self.shared().size.load(Ordering::Relaxed)
    }

    /// Writes what waits, brings the log into the database and ends the thread. Returns whether that was done within
    /// `deadline`; it goes on afterwards in any case. What is submitted from now on is dropped; tickets are done when
    /// it is.
    pub async fn close(&self, deadline: Duration) -> bool {
        self.shared().close();
        let ended = self.shared().until(|| self.shared().ended.load(Ordering::Acquire));
        tokio::time::timeout(deadline, ended).await.is_ok()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Shared {
    fn new(path: PathBuf, ledger: Ledger, on: bool) -> Shared {
        Shared {
            on,
            path,
            watermark: AtomicU64::new(ledger.watermark()),
            ledger: Mutex::new(ledger),
            work: Condvar::new(),
            resyncs: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            disk: Disk::default(),
            size: AtomicU64::new(0),
            changed: Notify::new(),
            asked: Notify::new(),
            error: Mutex::new(None),
            stats: StoreStats::default(),
            last_row: AtomicU64::new(0),
            last_session: AtomicU64::new(0),
            last_will: AtomicU64::new(0),
        }
    }

    /// New rows, sessions and wills come after the restored ones.
    fn number_from(&self, restored: &Restored) {
        let unfit = restored.unfit.iter().filter_map(|(_, change)| match change {
            Change::Dequeue { row, .. } => Some(row.get()),
            _ => None,
        });
        let rows = restored.sessions.iter().flat_map(|session| &session.queue).map(|row| row.row.get()).chain(unfit);
        self.last_row.store(rows.max().unwrap_or(0), Ordering::Relaxed);
        let sessions = restored.sessions.iter().map(|session| session.session.get());
        self.last_session.store(sessions.max().unwrap_or(0), Ordering::Relaxed);
        let wills = restored.wills.iter().map(|(will, _)| will.get());
        self.last_will.store(wills.max().unwrap_or(0), Ordering::Relaxed);
    }

    /// Does something with the accounts and tells those who wait what has come of it.
    fn update<T>(&self, change: impl FnOnce(&mut Ledger) -> T) -> T {
        let mut ledger = self.ledger.lock();
        let result = change(&mut ledger);
        // Stored under the lock: a later update does not come first.
        let moved = self.watermark.swap(ledger.watermark(), Ordering::AcqRel) != ledger.watermark();
        drop(ledger);
        if moved {
            self.changed.notify_waiters();
        }
        result
    }

    /// Resolves when `condition` holds; it is looked at whenever something but the resyncs changes.
    async fn until(&self, condition: impl Fn() -> bool) {
        until(&self.changed, condition).await;
    }

    fn close(&self) {
        self.update(Ledger::close);
        self.work.notify_one();
    }

    fn set_ended(&self) {
        self.ended.store(true, Ordering::Release);
        self.changed.notify_waiters();
    }

    fn ask_for_all(&self) {
        self.resyncs.fetch_add(1, Ordering::AcqRel);
        self.asked.notify_waiters();
    }

    /// Notes why nothing can be written; the time is that of the first error.
    fn set_error(&self, error: Option<String>) {
        let mut known = self.error.lock();
        *known = error.map(|error| {
            let since = known.as_ref().map_or_else(SystemTime::now, |(since, _)| *since);
            (since, error.into())
        });
        drop(known);
        self.changed.notify_waiters();
    }
}

/// Resolves when `condition` holds; it is looked at whenever something is `notified`.
async fn until(notified: &Notify, condition: impl Fn() -> bool) {
    while !condition() {
        let mut changed = pin!(notified.notified());
        changed.as_mut().enable();
        // It may have come to hold before the notification was asked for.
        if !condition() {
            changed.await;
        }
    }
}
