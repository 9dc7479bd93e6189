//! What waits for the disk, who waits for what, and when the next transaction is due. Pure: it is told the time.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;

use super::StoreSettings;
use super::change::{Change, Qos2Gate, RowId, SessionId, StoredMessage, Urgency};
use super::pending::{NewRow, Pending};

/// How long everybody has to submit all anew, before the transaction that replaces what was on disk.
const RESYNC_TIME: Duration = Duration::from_secs(1);
/// How long after a failure it is tried again, at first.
const RETRY: Duration = Duration::from_secs(1);
/// How often that doubles, when the disk takes little things and fails at large ones.
const MAX_DOUBLINGS: u32 = 6;

/// The accounts.
#[derive(Debug)]
pub(super) struct Ledger {
    settings: StoreSettings,
    mode: Mode,
    pending: Pending,
    /// What is being written, and up to which number all is done when it is written.
    inflight: Option<(Vec<Qos2Gate>, u64)>,
    gates: Gates,
    /// Of the last change that somebody may wait for.
    last: u64,
    /// All up to it is done.
    done: u64,
    /// Since when something waits, and something urgent.
    waiting: Option<Instant>,
    urgent: Option<Instant>,
    last_commit: Option<Instant>,
    /// Transactions that failed since all was well.
    failures: u32,
}

/// Whether the disk takes what it is given. In all but the first nobody waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// It does.
    Healthy,
    /// It did not, and is tried again then.
    Failing(Instant),
    /// Too much waited and was dropped. It is tried again then.
    Lost(Instant),
    /// It does again; everybody submits all anew until then.
    Resync(Instant),
    /// The rest is written, and that was it.
    Closing,
    /// Nothing is taken any more.
    Closed,
}

/// What the writer is to do.
#[derive(Debug)]
pub(super) enum Work {
    /// Write this, and report [`Ledger::committed`] or [`Ledger::failed`].
    Commit(Pending),
    /// Find out whether the disk takes anything, and report [`Ledger::resync`] or [`Ledger::failed`].
    Probe,
    /// Nothing before then; `None`: until a change comes.
    Wait(Option<Instant>),
    /// Nothing any more: close the database.
    Close,
}

/// What became of a change besides its ticket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Submitted {
    /// The number to wait for; 0: none.
    pub(super) number: u64,
    /// Whether the writer must look again when the next transaction is due.
    pub(super) wake: bool,
    /// Changes that are now undone or made one with others.
    pub(super) cancelled: u64,
    /// Whether it was dropped, for the disk takes nothing; and how many with it.
    pub(super) dropped: u64,
}

/// Rows behind a gate.
#[derive(Debug, Default)]
struct Gates {
    keys: HashMap<RowId, Qos2Gate, RandomState>,
    rows: HashMap<Qos2Gate, Vec<(SessionId, RowId, NewRow)>, RandomState>,
}

impl Ledger {
    pub(super) fn new(settings: StoreSettings) -> Ledger {
        Ledger {
            settings,
            mode: Mode::Healthy,
            pending: Pending::default(),
            inflight: None,
            gates: Gates::default(),
            last: 0,
            done: 0,
            waiting: None,
            urgent: None,
            last_commit: None,
            failures: 0,
        }
    }

    /// Takes in a change.
    pub(super) fn submit(&mut self, change: Change, now: Instant) -> Submitted {
        if matches!(self.mode, Mode::Lost(_) | Mode::Closing | Mode::Closed) {
            return Submitted { dropped: 1, ..Submitted::default() };
        }
        let before = self.pending.weight();
        let Some(change) = self.gates.take(change, &mut self.pending) else { return Submitted::default() };
        let waited_for = !is_lazy(&change);
        self.pending.apply(change);
        let after = self.pending.weight();
        let wake = self.note_times(now);
        self.last += u64::from(waited_for);
        let number = if waited_for { self.last } else { 0 };
        if after.urgent == 0 {
            // Nothing that anybody waits for is left: done with what is being written, or at once.
            match &mut self.inflight {
                Some((_, through)) => *through = self.last,
                None => self.done = self.last,
            }
        }
        let cancelled = (1 + before.entries).saturating_sub(after.entries) as u64;
        let mut dropped = 0;
        if let Mode::Failing(retry) = self.mode {
            if after.bytes > self.settings.max_pending_bytes {
                self.mode = Mode::Lost(retry);
                (self.pending, self.gates) = Default::default();
                dropped = after.entries as u64;
            }
        }
        Submitted { number, wake, cancelled, dropped }
    }

    /// Says what is to be done at `now`, and hands it out.
    pub(super) fn next(&mut self, now: Instant) -> Work {
        let due = match self.mode {
            Mode::Closed => return Work::Close,
            Mode::Closing if self.pending.weight().entries == 0 => {
                self.mode = Mode::Closed;
                return Work::Close;
            }
            Mode::Closing => now,
            Mode::Failing(at) | Mode::Lost(at) | Mode::Resync(at) => at,
            Mode::Healthy => match self.due() {
                Some(due) => due,
                None => return Work::Wait(None),
            },
        };
        if due > now {
            return Work::Wait(Some(due));
        }
        if matches!(self.mode, Mode::Lost(_)) {
            return Work::Probe;
        }
        (self.waiting, self.urgent) = (None, None);
        let mut batch = std::mem::take(&mut self.pending);
        self.inflight = Some((batch.opened.iter().copied().collect(), self.last));
        batch.opened.shrink_to_fit();
        Work::Commit(batch)
    }

    /// What was handed out is on disk. Says whether all is well again.
    pub(super) fn committed(&mut self, now: Instant) -> bool {
        if let Some((_, through)) = self.inflight.take() {
            self.done = self.done.max(through);
        }
        self.last_commit = Some(now);
        self.failures = 0;
        let recovered = matches!(self.mode, Mode::Failing(_) | Mode::Resync(_));
        if recovered {
            self.mode = Mode::Healthy;
        }
        recovered
    }

    /// What was handed out could not be written: it waits with what has come since.
    pub(super) fn failed(&mut self, batch: Pending, now: Instant) {
        let mut batch = batch;
        batch.mark_doubtful();
        batch.absorb(std::mem::take(&mut self.pending));
        self.pending = batch;
        match self.mode {
            Mode::Closing | Mode::Closed => self.mode = Mode::Closed,
            // What was tried to bring in everything is dropped: it is asked for anew next time.
            Mode::Resync(_) | Mode::Lost(_) => return self.lose(now),
            Mode::Healthy | Mode::Failing(_) => self.mode = Mode::Failing(now + RETRY),
        }
        self.inflight = None;
        self.note_times(now);
    }

    /// What waits is dropped: everybody is asked for everything when the disk takes something.
    pub(super) fn lose(&mut self, now: Instant) {
        self.mode = match self.mode {
            Mode::Closing | Mode::Closed => Mode::Closed,
            _ => Mode::Lost(now + RETRY * (1 << self.failures.min(MAX_DOUBLINGS))),
        };
        self.failures += 1;
        (self.pending, self.gates, self.inflight) = Default::default();
        self.note_times(now);
    }

    /// What was on disk is gone, or not worth anything: everybody submits all anew.
    pub(super) fn resync(&mut self, now: Instant) {
        (self.pending, self.gates, self.inflight) = (Pending::wiping(), Gates::default(), None);
        if !matches!(self.mode, Mode::Closing | Mode::Closed) {
            self.mode = Mode::Resync(now + RESYNC_TIME);
        }
    }

    /// The rest is written at once; then nothing is taken any more.
    pub(super) fn close(&mut self) {
        self.mode = match self.mode {
            Mode::Healthy | Mode::Failing(_) => Mode::Closing,
            // Half of everything is worse than what was on disk.
            Mode::Lost(_) | Mode::Resync(_) | Mode::Closing => {
                self.pending = Pending::default();
                Mode::Closing
            }
            Mode::Closed => Mode::Closed,
        };
    }

    /// Nothing is taken any more.
    pub(super) fn end(&mut self) {
        (self.mode, self.pending, self.gates) = (Mode::Closed, Pending::default(), Gates::default());
    }

    pub(super) fn mode(&self) -> Mode {
        self.mode
    }

    /// How many changes wait.
    pub(super) fn pending(&self) -> usize {
        self.pending.weight().entries
    }

    /// Of the last change that somebody may wait for.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// All up to it is done.
    pub(super) fn watermark(&self) -> u64 {
        if matches!(self.mode, Mode::Healthy | Mode::Closing) { self.done } else { u64::MAX }
    }

    /// Whether rows behind `gate` are not on disk yet.
    pub(super) fn is_gated(&self, gate: Qos2Gate) -> bool {
        self.watermark() != u64::MAX
            && (self.gates.rows.contains_key(&gate)
                || self.pending.opened.contains(&gate)
                || self.inflight.as_ref().is_some_and(|(opened, _)| opened.contains(&gate)))
    }

    fn due(&self) -> Option<Instant> {
        let StoreSettings { gather, lazy, .. } = self.settings;
        let by_urgent = self.urgent.map(|since| since + gather);
        let by_lazy = self.waiting.map(|since| {
            let gathered = since + gather;
            self.last_commit.map_or(gathered, |last| gathered.max(last + lazy))
        });
        by_urgent.into_iter().chain(by_lazy).min()
    }

    /// Since when what is in the pending set waits. Says whether something became due earlier.
    fn note_times(&mut self, now: Instant) -> bool {
        let before = (self.waiting.is_none(), self.urgent.is_none());
        let weight = self.pending.weight();
        self.waiting = (weight.entries > 0).then(|| self.waiting.unwrap_or(now));
        self.urgent = (weight.urgent > 0).then(|| self.urgent.unwrap_or(now));
        (before.0 && self.waiting.is_some()) || (before.1 && self.urgent.is_some())
    }
}

/// Whether nobody waits for it.
fn is_lazy(change: &Change) -> bool {
    match change {
        Change::Retain(_, urgency) | Change::Forget { urgency, .. } | Change::Assign { urgency, .. } => {
            *urgency == Urgency::Lazy
        }
        Change::Dequeue { .. } | Change::KeepWill { .. } | Change::DropWill { .. } => true,
        _ => false,
    }
}

impl Gates {
    /// Keeps what is to wait behind a gate, changes what waits there, and moves into `pending` what `change` opens. Returns the change
    /// if it is for `pending`.
    fn take(&mut self, change: Change, pending: &mut Pending) -> Option<Change> {
        match change {
            Change::Enqueue { session, row, outgoing, gate: Some(key) } => {
                self.shut(key, session, row, outgoing);
                return None;
            }
            Change::PublishReceived { opens: Some(key), .. } | Change::OpenGate { gate: key } => {
                for (session, row, new) in self.rows.remove(&key).unwrap_or_default() {
                    self.keys.remove(&row);
                    pending.insert_row(session, row, new);
                }
            }
            _ if self.keys.is_empty() => {}
            Change::Move { from, session, row, outgoing } => {
                let Some(key) = self.remove(from.1) else {
                    return Some(Change::Move { from, session, row, outgoing });
                };
                self.shut(key, session, row, outgoing);
                return None;
            }
            Change::Assign { row, packet_id, .. } if self.change(row, |new| new.assign(packet_id)) => return None,
            Change::PubrecReceived { row, packet_id, .. } if self.change(row, |new| new.release(packet_id)) => {
                return None;
            }
            Change::Dequeue { row, .. } if self.remove(row).is_some() => return None,
            Change::EndSession { session } => self.end(session),
            _ => {}
        }
        Some(change)
    }

    fn change(&mut self, row: RowId, change: impl FnOnce(&mut NewRow)) -> bool {
        let behind = self.keys.get(&row).and_then(|key| self.rows.get_mut(key));
        let found = behind.and_then(|rows| rows.iter_mut().find(|(_, id, _)| *id == row));
        found.map(|(_, _, new)| change(new)).is_some()
    }

    fn shut(&mut self, key: Qos2Gate, session: SessionId, row: RowId, outgoing: StoredMessage) {
        self.keys.insert(row, key);
        self.rows.entry(key).or_default().push((session, row, NewRow::new(outgoing)));
    }

    /// Returns the gate it was behind.
    fn remove(&mut self, row: RowId) -> Option<Qos2Gate> {
        let key = self.keys.remove(&row)?;
        if let Some(rows) = self.rows.get_mut(&key) {
            rows.retain(|(_, id, _)| *id != row);
            if rows.is_empty() {
                self.rows.remove(&key);
            }
        }
        Some(key)
    }

    fn end(&mut self, session: SessionId) {
        let Gates { keys, rows } = self;
        rows.retain(|_, rows| {
            rows.retain(|(owner, row, _)| {
                if *owner == session {
                    keys.remove(row);
                }
                *owner != session
            });
            !rows.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::super::fixture::{connected, draft_message, stored};
    use super::*;
    use crate::qos::Qos;

    const SESSION: SessionId = SessionId(1);
    const MS: Duration = Duration::from_millis(1);

    fn row(number: u64) -> RowId {
        RowId(NonZeroU64::new(number).unwrap())
    }

    fn enqueue(number: u64, gate: Option<Qos2Gate>) -> Change {
        Change::Enqueue { session: SESSION, row: row(number), outgoing: stored("a", &[0; 100]), gate }
    }

    fn dequeue(number: u64) -> Change {
        Change::Dequeue { session: SESSION, row: row(number) }
    }

    fn retain(urgency: Urgency) -> Change {
        Change::Retain(draft_message("a", b"1", Qos::AtMostOnce, None), urgency)
    }

    fn key(position: u64) -> Qos2Gate {
        Qos2Gate { position }
    }

    fn wait(ledger: &mut Ledger, now: Instant) -> Option<Duration> {
        match ledger.next(now) {
            Work::Wait(due) => due.map(|due| due - now),
            work => panic!("{work:?}"),
        }
    }

    fn take(ledger: &mut Ledger, now: Instant) -> Pending {
        match ledger.next(now) {
            Work::Commit(batch) => batch,
            work => panic!("{work:?}"),
        }
    }

    fn ledger() -> (Ledger, Instant) {
        (Ledger::new(StoreSettings::default()), Instant::now())
    }

    #[test]
    fn a_transaction_gathers_for_a_moment_and_idle_is_idle() {
        let (mut ledger, now) = ledger();
        assert_eq!(wait(&mut ledger, now), None);
        let first = ledger.submit(enqueue(1, None), now);
        assert_eq!((first.number, first.wake), (1, true));
        let second = ledger.submit(enqueue(2, None), now + MS);
        assert_eq!((second.number, second.wake), (2, false));
        assert_eq!(wait(&mut ledger, now + MS), Some(MS));
        assert_eq!(take(&mut ledger, now + 2 * MS).weight().entries, 2);
        let third = ledger.submit(enqueue(3, None), now + 2 * MS);
        assert!(!ledger.committed(now + 3 * MS), "all was well");
        assert_eq!((ledger.watermark(), third.number, third.wake), (2, 3, true));
        take(&mut ledger, now + 4 * MS);
        ledger.committed(now + 4 * MS);
        assert_eq!((wait(&mut ledger, now + 5 * MS), ledger.watermark()), (None, 3));
    }

    #[test]
    fn lazy_changes_come_once_a_second_or_with_others() {
        let (mut ledger, now) = ledger();
        assert_eq!(ledger.submit(retain(Urgency::Lazy), now), Submitted { wake: true, ..Submitted::default() });
        assert_eq!(ledger.last(), 0, "nobody waits for it");
        assert_eq!(wait(&mut ledger, now), Some(2 * MS), "nothing was written for long");
        take(&mut ledger, now + 2 * MS);
        ledger.committed(now + 2 * MS);
        ledger.submit(retain(Urgency::Lazy), now + 12 * MS);
        assert_eq!(wait(&mut ledger, now + 12 * MS), Some(990 * MS));
        assert!(ledger.submit(enqueue(1, None), now + 20 * MS).wake);
        assert_eq!(take(&mut ledger, now + 22 * MS).weight().entries, 2);
        ledger.committed(now + 22 * MS);
        ledger.submit(retain(Urgency::Lazy), now + 30 * MS);
        ledger.submit(retain(Urgency::Urgent), now + 31 * MS);
        assert_eq!(wait(&mut ledger, now + 31 * MS), Some(2 * MS), "it became urgent");
    }

    #[test]
    fn what_is_undone_is_done_at_once_or_with_what_is_being_written() {
        let (mut ledger, now) = ledger();
        ledger.submit(enqueue(1, None), now);
        assert_eq!(ledger.submit(dequeue(1), now).cancelled, 2);
        assert_eq!((ledger.watermark(), wait(&mut ledger, now)), (1, None));
        ledger.submit(enqueue(2, None), now);
        take(&mut ledger, now + 2 * MS);
        ledger.submit(enqueue(3, None), now);
        ledger.submit(dequeue(3), now);
        assert_eq!(ledger.watermark(), 1, "2 is on its way");
        ledger.committed(now + 3 * MS);
        assert_eq!(ledger.watermark(), 3);
    }

    #[test]
    fn a_held_row_comes_with_the_identifier_that_seals_it() {
        let (mut ledger, now) = ledger();
        ledger.submit(Change::OpenSession { session: SESSION, client_id: "c".into(), record: connected() }, now);
        take(&mut ledger, now + 2 * MS);
        ledger.committed(now + 2 * MS);
        assert_eq!(ledger.submit(enqueue(1, Some(key(1))), now), Submitted::default());
        ledger.submit(enqueue(2, Some(key(1))), now);
        ledger.submit(Change::Assign { session: SESSION, row: row(1), packet_id: 5, urgency: Urgency::Urgent }, now);
        ledger.submit(dequeue(2), now);
        assert_eq!(wait(&mut ledger, now), None, "nothing to write");
        assert!(ledger.is_gated(key(1)) && !ledger.is_gated(key(2)));
        let opened =
            ledger.submit(Change::PublishReceived { session: SESSION, packet_id: 9, opens: Some(key(1)) }, now);
        assert!(ledger.is_gated(key(1)), "not on disk yet");
        let batch = take(&mut ledger, now + 4 * MS);
        assert_eq!(batch.weight().entries, 2, "the identifier and the row that was not dropped");
        assert!(ledger.is_gated(key(1)));
        ledger.committed(now + 5 * MS);
        assert!(!ledger.is_gated(key(1)) && ledger.watermark() >= opened.number);
        ledger.submit(enqueue(3, Some(key(3))), now);
        ledger.submit(Change::EndSession { session: SESSION }, now);
        assert!(!ledger.is_gated(key(3)), "its session has ended");
    }

    #[test]
    fn while_the_disk_takes_nothing_nobody_waits_and_nothing_is_lost() {
        let (mut ledger, now) = ledger();
        ledger.submit(enqueue(1, None), now);
        let batch = take(&mut ledger, now + 2 * MS);
        ledger.failed(batch, now + 3 * MS);
        assert_eq!(ledger.watermark(), u64::MAX);
        ledger.submit(dequeue(1), now + 4 * MS);
        assert_eq!(wait(&mut ledger, now + 3 * MS), Some(1000 * MS));
        let batch = take(&mut ledger, now + 1003 * MS);
        assert_eq!(batch.weight().entries, 1, "row 1 may be on disk: it is deleted, not forgotten");
        ledger.submit(enqueue(2, None), now + 1003 * MS);
        assert!(ledger.committed(now + 1004 * MS), "all is well again");
        assert_eq!(ledger.watermark(), 1);
    }

    #[test]
    fn too_much_is_dropped_and_asked_for_again() {
        let settings = StoreSettings { max_pending_bytes: 1000, ..StoreSettings::default() };
        let (mut ledger, now) = (Ledger::new(settings), Instant::now());
        ledger.submit(enqueue(1, Some(key(1))), now);
        ledger.failed(Pending::default(), now);
        let dropped: u64 = (2..20).map(|number| ledger.submit(enqueue(number, None), now).dropped).sum();
        assert_eq!((dropped, ledger.mode()), (18, Mode::Lost(now + 1000 * MS)));
        assert!(matches!(ledger.next(now + 1000 * MS), Work::Probe));
        ledger.failed(Pending::default(), now + 1000 * MS);
        assert!(matches!(ledger.next(now + 2000 * MS), Work::Probe));
        ledger.resync(now + 2000 * MS);
        for number in 2..20 {
            assert_eq!(
                ledger.submit(enqueue(number, None), now + 2001 * MS).dropped,
                0,
                "all is taken, there is no bound"
            );
        }
        assert_eq!(ledger.watermark(), u64::MAX);
        assert_eq!(wait(&mut ledger, now + 2001 * MS), Some(999 * MS), "all have time to submit");
        let batch = take(&mut ledger, now + 3000 * MS);
        assert!(batch.wipe && batch.weight().entries == 18);
        ledger.failed(batch, now + 3000 * MS);
        assert_eq!(ledger.mode(), Mode::Lost(now + 5000 * MS), "less often, for that was much work");
        ledger.resync(now + 5000 * MS);
        take(&mut ledger, now + 6000 * MS);
        assert!(ledger.committed(now + 6000 * MS) && ledger.mode() == Mode::Healthy);
    }

    #[test]
    fn closing_writes_the_rest_and_takes_nothing_more() {
        let (mut ledger, now) = ledger();
        ledger.submit(retain(Urgency::Lazy), now);
        ledger.close();
        assert_eq!(ledger.submit(enqueue(1, None), now).dropped, 1);
        take(&mut ledger, now);
        ledger.committed(now);
        assert!(matches!(ledger.next(now), Work::Close));
        assert_eq!((ledger.mode(), ledger.watermark()), (Mode::Closed, u64::MAX));
    }
}
