//! A reader as publishers see it: what it was handed and has not taken.

use std::collections::{HashSet, VecDeque};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use foldhash::fast::RandomState;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::filter_readers::FilterReaders;
use super::persist::PersistGuard;

/// Bytes that may wait in one queue before publishers to it wait; one message of any size goes beyond.
pub(super) const BUDGET: usize = 64 * 1024;

/// Room for so many messages is kept after a flood.
const KEPT: usize = 64;

/// A message on its way to one reader.
#[derive(Debug)]
pub(super) struct Arrival {
    /// Its number on the bus, from 1.
    pub(super) position: u64,
    /// Sealed.
    pub(super) envelope: Bytes,
    /// The reader is durable, and somebody may wait for it.
    pub(super) persist: Option<PersistGuard>,
}

/// The two ways to a reader. Each brings messages in the order of their positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// From the publisher.
    Direct,
    /// Through the router.
    Routed,
}

/// One reader's queue.
#[derive(Debug)]
pub(super) struct ReaderQueue {
    /// Of the reader, in the order in which they were made.
    number: u64,
    state: Mutex<State>,
    /// Whether there is something in it; saves the reader a lock.
    filled: AtomicBool,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct State {
    arrivals: VecDeque<Arrival>,
    /// Of their envelopes.
    bytes: usize,
    /// Over [`BUDGET`]: it counts as full with each of its filters.
    is_full: bool,
    is_durable: bool,
    /// Of the last message that came by each way: a filter that overlaps brings the same again.
    last: [u64; 2],
    filters: HashSet<ByAddress, RandomState>,
}

/// What makes it durable or full, if it is, counts for each of its filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) is_durable: bool,
    pub(super) is_full: bool,
}

#[derive(Debug)]
struct ByAddress(Arc<FilterReaders>);

impl PartialEq for ByAddress {
    fn eq(&self, other: &ByAddress) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for ByAddress {}

impl Hash for ByAddress {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

impl ReaderQueue {
    /// Empty, for a reader of nothing.
    pub(super) fn new(number: u64) -> ReaderQueue {
        ReaderQueue { number, state: Mutex::default(), filled: AtomicBool::new(false), arrived: Notify::new() }
    }

    /// The reader's number.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Hands over a message, once however many filters it comes by, and wakes the reader. A durable reader gets a guard
    /// like `persist`.
    pub(super) fn push(&self, way: Way, position: u64, envelope: &Bytes, persist: Option<&PersistGuard>) {
        let mut state = self.state.lock();
        let last = &mut state.last[way as usize];
        if *last >= position {
            return;
        }
        *last = position;
        let persist = persist.filter(|_| state.is_durable).map(PersistGuard::another);
        state.bytes += envelope.len();
        state.arrivals.push_back(Arrival { position, envelope: envelope.clone(), persist });
        if state.bytes > BUDGET && !state.is_full {
            state.is_full = true;
            state.filters.iter().for_each(|filter| filter.0.add_full());
        }
        if state.arrivals.len() == 1 {
            self.filled.store(true, Ordering::Release);
            drop(state);
            self.arrived.notify_one();
        }
    }

    /// Moves all messages into `taken`, which must be empty.
    pub(super) fn take(&self, taken: &mut VecDeque<Arrival>) {
        if !self.filled.load(Ordering::Acquire) {
            return;
        }
        taken.shrink_to(KEPT);
        let mut state = self.state.lock();
        self.filled.store(false, Ordering::Release);
        std::mem::swap(&mut state.arrivals, taken);
        state.empty();
    }

    /// Whether there is nothing in it.
    pub(super) fn is_empty(&self) -> bool {
        !self.filled.load(Ordering::Acquire)
    }

    /// Whether the message at `position` is in it, or, if the router has it, is still to come.
    pub(super) fn awaits(&self, position: u64, is_routed: bool) -> bool {
        let state = self.state.lock();
        let is_to_come = is_routed && state.last[Way::Routed as usize] < position;
        is_to_come || state.arrivals.iter().any(|arrival| arrival.position == position)
    }

    /// Whether `condition` holds for all its filters.
    pub(super) fn all_filters(&self, condition: impl Fn(&FilterReaders) -> bool) -> bool {
        self.state.lock().filters.iter().all(|filter| condition(&filter.0))
    }

    /// The filters it is subscribed to.
    pub(super) fn filters(&self) -> Vec<Arc<FilterReaders>> {
        self.state.lock().filters.iter().map(|filter| filter.0.clone()).collect()
    }

    /// Is subscribed to `filter` from now on; `None` if it was.
    pub(super) fn enter(&self, filter: &Arc<FilterReaders>) -> Option<Standing> {
        let mut state = self.state.lock();
        state.filters.insert(ByAddress(filter.clone())).then(|| state.standing())
    }

    /// Is not subscribed to `filter` any more; `None` if it was not.
    pub(super) fn leave(&self, filter: &Arc<FilterReaders>) -> Option<Standing> {
        let mut state = self.state.lock();
        let was_there = state.filters.remove(&ByAddress(filter.clone()));
        if state.filters.len() * 4 < state.filters.capacity() {
            state.filters.shrink_to_fit();
        }
        was_there.then(|| state.standing())
    }

    /// Whether publishers wait until the reader has given what it gets to the store. Call it under the lock of publishers.
    pub(super) fn set_durable(&self, durable: bool) {
        let mut state = self.state.lock();
        if std::mem::replace(&mut state.is_durable, durable) != durable {
            state.filters.iter().for_each(|filter| filter.0.count_durable(durable));
        }
    }

    /// Drops what is in it, and what is still to come of the messages up to `head`.
    pub(super) fn clear(&self, head: u64) {
        let mut state = self.state.lock();
        self.filled.store(false, Ordering::Release);
        state.last = [head; 2];
        let arrivals = std::mem::take(&mut state.arrivals);
        state.empty();
        drop(state);
        // Outside: whoever waits for their guards is woken.
        drop(arrivals);
    }

    /// Waits until there is something, or somebody wakes it. Cancel safe.
    pub(super) async fn arrived(&self) {
        self.arrived.notified().await;
    }

    /// Wakes the reader.
    pub(super) fn wake(&self) {
        self.arrived.notify_one();
    }
}

impl State {
    fn standing(&self) -> Standing {
        Standing { is_durable: self.is_durable, is_full: self.is_full }
    }

    /// The messages are gone.
    fn empty(&mut self) {
        self.bytes = 0;
        if std::mem::take(&mut self.is_full) {
            self.filters.iter().for_each(|filter| filter.0.remove_full());
        }
    }
}
