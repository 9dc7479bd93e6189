//! All readers that are subscribed to one filter, as publishers see them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use bytes::Bytes;
use parking_lot::Mutex;

use super::persist::PersistGuard;
use super::reader_queue::{ReaderQueue, Way};
use super::waiters::Waiters;
use crate::topic::TopicFilter;

/// The readers of one filter. It is in the index while there are any.
#[derive(Debug)]
pub(super) struct FilterReaders {
    filter: TopicFilter,
    /// By number.
    readers: Mutex<Vec<Subscribed>>,
    /// Of `readers`, without those that leave.
    count: AtomicUsize,
    /// Of these, the durable ones.
    durable: AtomicUsize,
    /// Of these, those with more than their budget.
    full: AtomicUsize,
    /// Messages for this filter that the router has.
    routed: AtomicUsize,
    /// Publishers that wait until none is full.
    room: Waiters,
}

#[derive(Debug)]
struct Subscribed {
    queue: Arc<ReaderQueue>,
    /// It gets what came after this position,
    since: u64,
    /// and, if it leaves, up to this one.
    until: u64,
}

/// Who is left when a reader has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// It was none of the readers.
    NotThere,
    /// Others.
    Others,
    /// Nobody.
    Nobody,
}

impl FilterReaders {
    /// Without readers.
    pub(super) fn new(filter: TopicFilter) -> FilterReaders {
        FilterReaders {
            filter,
            readers: Mutex::default(),
            count: AtomicUsize::new(0),
            durable: AtomicUsize::new(0),
            full: AtomicUsize::new(0),
            routed: AtomicUsize::new(0),
            room: Waiters::default(),
        }
    }

    /// The filter.
    pub(super) fn filter(&self) -> &TopicFilter {
        &self.filter
    }

    /// How many readers there are.
    pub(super) fn count(&self) -> usize {
        self.count.load(SeqCst)
    }

    /// Whether any of them is durable.
    pub(super) fn is_durable(&self) -> bool {
        self.durable.load(SeqCst) > 0
    }

    /// Whether any of them has more than its budget.
    pub(super) fn is_full(&self) -> bool {
        self.full.load(SeqCst) > 0
    }

    /// Waits until that is over. Cancel safe.
    pub(super) async fn room(&self) {
        self.room.until(|| !self.is_full()).await;
    }

    /// Whether the router has messages for it, which a message that was handed over directly would overtake.
    pub(super) fn is_routed(&self) -> bool {
        self.routed.load(SeqCst) > 0
    }

    /// The router gets a message for it.
    pub(super) fn add_routed(&self) {
        self.routed.fetch_add(1, SeqCst);
    }

    /// A message from the router was handed over, or lost. Readers that have left get nothing more after the last.
    pub(super) fn remove_routed(&self) {
        // Under the lock: who leaves meanwhile may wait for a message that comes next.
        let mut readers = self.readers.lock();
        if self.routed.fetch_sub(1, SeqCst) == 1 {
            readers.retain(|reader| reader.until == u64::MAX);
        }
    }

    /// Adds a reader, which gets what comes after `head`; under the lock of publishers. One that is there stays as it is;
    /// says whether it is new.
    pub(super) fn enter(self: &Arc<FilterReaders>, queue: &Arc<ReaderQueue>, head: u64) -> bool {
        let mut readers = self.readers.lock();
        let Some(standing) = queue.enter(self) else { return false };
        if readers.is_empty() {
            // Most filters have one reader.
            readers.reserve_exact(1);
        }
        let at = readers.partition_point(|reader| reader.queue.number() <= queue.number());
        readers.insert(at, Subscribed { queue: queue.clone(), since: head, until: u64::MAX });
        self.count.fetch_add(1, SeqCst);
        self.durable.fetch_add(usize::from(standing.is_durable), SeqCst);
        self.full.fetch_add(usize::from(standing.is_full), SeqCst);
        true
    }

    /// Removes a reader, which still gets what the router has up to `head`; under the lock of publishers.
    pub(super) fn leave(self: &Arc<FilterReaders>, queue: &Arc<ReaderQueue>, head: u64) -> Left {
        let mut readers = self.readers.lock();
        let Some(standing) = queue.leave(self) else { return Left::NotThere };
        let first = readers.partition_point(|reader| reader.queue.number() < queue.number());
        // Others of this number have left before, while the router had something for them.
        if let Some(index) = (first..readers.len()).find(|&index| readers[index].until == u64::MAX) {
            if self.is_routed() {
                readers[index].until = head;
            } else {
                readers.remove(index);
                if readers.len() * 4 < readers.capacity() {
                    readers.shrink_to_fit();
                }
            }
        }
        let count = self.count.fetch_sub(1, SeqCst) - 1;
        self.durable.fetch_sub(usize::from(standing.is_durable), SeqCst);
        drop(readers);
        if standing.is_full {
            self.remove_full();
        }
        if count == 0 { Left::Nobody } else { Left::Others }
    }

    /// Hands the message at `position` to every reader that was there then.
    pub(super) fn hand_out(&self, way: Way, position: u64, envelope: &Bytes, persist: Option<&PersistGuard>) {
        for reader in &*self.readers.lock() {
            if reader.since < position && position <= reader.until {
                reader.queue.push(way, position, envelope, persist);
            }
        }
    }

    /// Wakes every reader.
    pub(super) fn wake(&self) {
        self.readers.lock().iter().for_each(|reader| reader.queue.wake());
    }

    /// One reader more has more than its budget.
    pub(super) fn add_full(&self) {
        self.full.fetch_add(1, SeqCst);
    }

    /// One reader less; with the last one publishers go on.
    pub(super) fn remove_full(&self) {
        if self.full.fetch_sub(1, SeqCst) == 1 && self.room.any() {
            self.room.wake();
        }
    }

    /// A reader is durable now, or no longer.
    pub(super) fn count_durable(&self, durable: bool) {
        if durable {
            self.durable.fetch_add(1, SeqCst);
        } else {
            self.durable.fetch_sub(1, SeqCst);
        }
    }
}
