//! How far the readers of each lane are behind, so that a publisher waits before too much is on its way.
//!
//! Each lane has a head, the bytes ever published on it; each reader has a position on each of its lanes, the head as
//! it was after the last message it took. The distance from the slowest reader to the head must not exceed the budget
//! when a message is added. The slowest is looked for only when the last known one was too far behind.
//!
//! To few readers the publisher hands a message itself. If they are many the router does, on its own threads; then the
//! publisher must not, before the router has handed over all it had, or messages would be overtaken.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::lane::{LANES, Lane, LaneSet};
use super::seat::Seat;
use super::waiters::Waiters;

/// The accounts of all lanes.
#[derive(Debug)]
pub(super) struct Flow {
    budget: u64,
    direct_readers: usize,
    lanes: [LaneFlow; LANES],
    /// Somebody has begun or ceased to read the lane of `$` topics.
    system: Notify,
}

/// Whether a lane takes a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// There is room for one message of any size.
    Room {
        /// Whether to hand it to the readers directly: they are few, and the router has nothing that it would overtake.
        direct: bool,
    },
    /// A reader is too far behind.
    Full,
    /// There is no reader.
    Unread,
}

#[derive(Debug)]
struct LaneFlow {
    lane: Lane,
    head: AtomicU64,
    /// The head after the last message that the router got.
    routed: AtomicU64,
    /// The head after the last message that came from the router and was handed to the readers.
    relayed: AtomicU64,
    /// How many readers there are; written under the lock of `readers`.
    reader_count: AtomicUsize,
    readers: Mutex<Vec<Arc<Seat>>>,
    /// No reader's position is lower; written under the lock of `readers`.
    slowest: AtomicU64,
    /// Publishers that wait for `room`.
    waiting: Waiters,
}

impl Flow {
    /// Accounts that allow `budget` bytes between the slowest reader and the head, and have a message handed over
    /// directly if its lane has up to `direct_readers`.
    pub(super) fn new(budget: u64, direct_readers: usize) -> Flow {
        Flow { budget, direct_readers, lanes: Lane::all().map(LaneFlow::new), system: Notify::new() }
    }

    /// Whether `lane` takes a message now. To hold, this and [`Flow::add`] must be called under one lock.
    pub(super) fn admit(&self, lane: Lane) -> Admission {
        let flow = self.lane(lane);
        let reader_count = flow.reader_count.load(SeqCst);
        if reader_count == 0 {
            return Admission::Unread;
        }
        if flow.backlog() > self.budget && flow.find_slowest() > self.budget {
            return Admission::Full;
        }
        Admission::Room { direct: reader_count <= self.direct_readers && flow.router_is_empty() }
    }

    /// Adds a message of `size` bytes to `lane`; returns the head after it.
    pub(super) fn add(&self, lane: Lane, size: u64) -> u64 {
        self.lane(lane).head.fetch_add(size, SeqCst) + size
    }

    /// The bytes ever added to `lane`.
    pub(super) fn head(&self, lane: Lane) -> u64 {
        self.lane(lane).head.load(SeqCst)
    }

    /// Notes that the router has the message that was added last.
    pub(super) fn note_routed(&self, lane: Lane, head: u64) {
        self.lane(lane).routed.store(head, SeqCst);
    }

    /// Hands the message that was added to `lane` with the head `position` to its readers: all that were there then.
    pub(super) fn hand_out(&self, lane: Lane, position: u64, envelope: &Bytes) {
        for reader in &*self.lane(lane).readers.lock() {
            // One that came later begins behind it.
            if reader.position(lane).load(SeqCst) < position {
                reader.push(lane, envelope.clone());
            }
        }
    }

    /// [`Flow::hand_out`] for a message that comes from the router.
    pub(super) fn relay(&self, lane: Lane, position: u64, envelope: &Bytes) {
        self.hand_out(lane, position, envelope);
        let flow = self.lane(lane);
        flow.relayed.store(position, SeqCst);
        self.wake_if_room(flow, None);
    }

    /// Wakes every reader.
    pub(super) fn wake_readers(&self) {
        for flow in &self.lanes {
            flow.readers.lock().iter().for_each(|reader| reader.wake());
        }
    }

    /// Counts `reader` among the readers of `lanes`, as one that has read everything so far. Under the lock of `add`.
    pub(super) fn join(&self, lanes: LaneSet, reader: &Arc<Seat>) {
        for lane in lanes.iter() {
            let flow = self.lane(lane);
            let mut readers = flow.readers.lock();
            reader.position(lane).store(flow.head.load(SeqCst), SeqCst);
            readers.push(reader.clone());
            flow.reader_count.store(readers.len(), SeqCst);
        }
        self.tell_of_system(lanes);
    }

    /// Ceases to count `reader` among the readers of `lanes`.
    pub(super) fn leave(&self, lanes: LaneSet, reader: &Arc<Seat>) {
        for lane in lanes.iter() {
            let flow = self.lane(lane);
            let mut readers = flow.readers.lock();
            take_out(&mut readers, reader);
            flow.reader_count.store(readers.len(), SeqCst);
            drop(readers);
            self.wake_if_room(flow, None);
        }
        self.tell_of_system(lanes);
    }

    /// Notes that `reader` has taken the messages of `lane` up to `position`. Only the reader itself calls this.
    pub(super) fn advance(&self, lane: Lane, reader: &Seat, position: u64) {
        let before = reader.position(lane).fetch_max(position, SeqCst);
        self.wake_if_room(self.lane(lane), Some(before));
    }

    /// Whether `reader` has taken everything that was added to `lanes`.
    pub(super) fn is_level(&self, lanes: LaneSet, reader: &Seat) -> bool {
        lanes.iter().all(|lane| reader.position(lane).load(SeqCst) >= self.lane(lane).head.load(SeqCst))
    }

    /// Waits until somebody reads the lane of `$` topics, or nobody does. One task only. Cancel safe.
    pub(super) async fn system_is_read(&self, read: bool) {
        let flow = self.lane(Lane::system());
        while (flow.reader_count.load(SeqCst) > 0) != read {
            self.system.notified().await;
        }
    }

    fn tell_of_system(&self, lanes: LaneSet) {
        if lanes.contains(Lane::system()) {
            self.system.notify_one();
        }
    }

    /// Waits until `lane` has room.
    pub(super) async fn room(&self, lane: Lane) {
        let flow = self.lane(lane);
        flow.waiting.until(|| flow.find_slowest() <= self.budget).await;
    }

    /// Wakes the waiting publishers if the lane is half empty: not for each message that is taken. `before` is the
    /// position of the reader that moved: unless it was the slowest, nothing has changed.
    fn wake_if_room(&self, flow: &LaneFlow, before: Option<u64>) {
        // `slowest` is read under the lock for the reason that `any` has.
        if !flow.waiting.any() {
            return;
        }
        let moved = {
            let readers = flow.readers.lock();
            let slowest = before.is_none_or(|before| before <= flow.slowest.load(SeqCst));
            slowest.then(|| flow.find_slowest_of(&readers))
        };
        if moved.is_some_and(|backlog| backlog <= self.budget / 2) {
            flow.waiting.wake();
        }
    }

    fn lane(&self, lane: Lane) -> &LaneFlow {
        &self.lanes[lane.index()]
    }
}

impl LaneFlow {
    fn new(lane: Lane) -> LaneFlow {
        LaneFlow {
            lane,
            head: AtomicU64::new(0),
            routed: AtomicU64::new(0),
            relayed: AtomicU64::new(0),
            reader_count: AtomicUsize::new(0),
            readers: Mutex::default(),
            slowest: AtomicU64::new(0),
            waiting: Waiters::default(),
        }
    }

    /// Bytes between the slowest reader as last known and the head: at least the true distance.
    fn backlog(&self) -> u64 {
        self.head.load(SeqCst).saturating_sub(self.slowest.load(SeqCst))
    }

    /// Whether the router has nothing for this lane any more.
    fn router_is_empty(&self) -> bool {
        self.relayed.load(SeqCst) >= self.routed.load(SeqCst)
    }

    /// The true distance now.
    fn find_slowest(&self) -> u64 {
        self.find_slowest_of(&self.readers.lock())
    }

    fn find_slowest_of(&self, readers: &[Arc<Seat>]) -> u64 {
        let head = self.head.load(SeqCst);
        // Positions only grow and new readers begin at the head, so this never falls.
        let slowest = readers.iter().map(|reader| reader.position(self.lane).load(SeqCst)).min().unwrap_or(head);
        // What the router still has counts too, even if those who were to get it have gone: its log is not larger.
        let relayed = self.relayed.load(SeqCst);
        let slowest = if self.router_is_empty() { slowest } else { slowest.min(relayed) };
        self.slowest.store(slowest, SeqCst);
        head.saturating_sub(slowest)
    }
}

/// Removes `reader` from a lane's `readers`, if it is among them, and gives memory back.
pub(super) fn take_out<T>(readers: &mut Vec<Arc<T>>, reader: &Arc<T>) {
    if let Some(index) = readers.iter().position(|other| Arc::ptr_eq(other, reader)) {
        readers.swap_remove(index);
        if readers.len() * 4 < readers.capacity() {
            readers.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic::TopicFilter;

    fn lanes(filter: &str) -> LaneSet {
        LaneSet::of(&TopicFilter::new(filter).unwrap())
    }

    fn reader(flow: &Flow, filter: &str) -> Arc<Seat> {
        let reader = Arc::new(Seat::new());
        flow.join(lanes(filter), &reader);
        reader
    }

    #[test]
    fn a_lane_is_full_when_its_slowest_reader_is_a_budget_behind() {
        let (flow, lane) = (Flow::new(100, 2), Lane::of("a"));
        assert_eq!(flow.admit(lane), Admission::Unread);
        let (slow, fast) = (reader(&flow, "#"), reader(&flow, "a"));
        assert_eq!(flow.admit(Lane::of("$a")), Admission::Unread);
        assert_eq!(flow.admit(lane), Admission::Room { direct: true });
        flow.add(lane, 100);
        assert_eq!(
            flow.admit(lane),
            Admission::Room { direct: true },
            "one message fits while the budget is not exceeded"
        );
        let head = flow.add(lane, 1_000_000);
        assert_eq!(flow.admit(lane), Admission::Full);
        flow.advance(lane, &fast, head);
        assert_eq!(flow.admit(lane), Admission::Full);
        flow.advance(lane, &slow, head - 101);
        assert_eq!(flow.admit(lane), Admission::Full);
        flow.advance(lane, &slow, head - 100);
        assert_eq!(flow.admit(lane), Admission::Room { direct: true });
    }

    #[test]
    fn the_router_hands_over_while_readers_are_many_or_it_has_something_left() {
        let (flow, lane) = (Flow::new(100, 2), Lane::of("a"));
        let readers = [(); 2].map(|()| reader(&flow, "a"));
        let third = reader(&flow, "a");
        assert_eq!(flow.admit(lane), Admission::Room { direct: false });
        let routed = flow.add(lane, 10);
        flow.note_routed(lane, routed);
        flow.leave(lanes("a"), &third);
        assert_eq!(flow.admit(lane), Admission::Room { direct: false }, "it would overtake the one before");
        let late = reader(&flow, "a");
        flow.leave(lanes("a"), &readers[1]);
        flow.relay(lane, routed, &Bytes::new());
        assert_eq!(flow.admit(lane), Admission::Room { direct: true });
        let mut taken = std::collections::VecDeque::new();
        late.take(&mut taken);
        assert!(taken.is_empty(), "it was published before");
        readers[0].take(&mut taken);
        assert_eq!(taken.len(), 1);
    }

    #[test]
    fn what_the_router_has_left_counts_when_its_readers_have_gone() {
        let (flow, lane) = (Flow::new(100, 0), Lane::of("a"));
        let first = reader(&flow, "a");
        let routed = flow.add(lane, 101);
        flow.note_routed(lane, routed);
        flow.leave(lanes("a"), &first);
        let _second = reader(&flow, "a");
        assert_eq!(flow.admit(lane), Admission::Full);
        flow.relay(lane, routed, &Bytes::new());
        assert_eq!(flow.admit(lane), Admission::Room { direct: false });
    }

    #[test]
    fn a_reader_is_level_when_it_has_taken_all_of_its_own_lanes() {
        let (flow, lane) = (Flow::new(100, 2), Lane::of("a"));
        flow.add(lane, 7);
        let one = reader(&flow, "a");
        assert!(flow.is_level(lanes("a"), &one));
        flow.add(Lane::of("$a"), 7);
        assert!(flow.is_level(lanes("a"), &one));
        let head = flow.add(lane, 7);
        assert!(!flow.is_level(lanes("a"), &one));
        flow.advance(lane, &one, head);
        assert!(flow.is_level(lanes("a"), &one));
    }

    #[test]
    fn a_reader_is_behind_only_from_where_it_joined_and_until_it_leaves() {
        let (flow, lane) = (Flow::new(100, 2), Lane::of("a"));
        let slow = reader(&flow, "a");
        flow.add(lane, 500);
        let late = reader(&flow, "a");
        flow.leave(lanes("a"), &slow);
        assert_eq!(flow.admit(lane), Admission::Room { direct: true });
        flow.add(lane, 101);
        assert_eq!(flow.admit(lane), Admission::Full);
        flow.leave(lanes("a"), &late);
        assert_eq!(flow.admit(lane), Admission::Unread);
    }

    #[tokio::test]
    async fn waiting_publishers_wake_when_the_lane_is_half_empty_or_its_reader_leaves() {
        let (flow, lane) = (Arc::new(Flow::new(100, 2)), Lane::of("a"));
        let slow = reader(&flow, "a");
        flow.room(lane).await;
        let head = flow.add(lane, 200);
        let wait = |flow: Arc<Flow>| async move { flow.room(lane).await };
        let mut first = polled(wait(flow.clone()));
        assert!(!first.is_done());
        flow.advance(lane, &slow, head - 60);
        assert!(!first.is_done(), "more than half full");
        flow.advance(lane, &slow, head - 50);
        assert!(first.is_done());

        flow.add(lane, 200);
        let mut second = polled(wait(flow.clone()));
        assert!(!second.is_done());
        flow.leave(lanes("a"), &slow);
        assert!(second.is_done());
    }

    #[tokio::test]
    async fn who_waits_for_readers_of_system_topics_is_told_of_the_first_and_of_the_last() {
        let flow = Arc::new(Flow::new(100, 0));
        let wait = |read| {
            polled({
                let flow = flow.clone();
                async move { flow.system_is_read(read).await }
            })
        };
        assert!(wait(false).is_done());
        let mut there = wait(true);
        let other = reader(&flow, "#");
        assert!(!there.is_done());
        let (one, two) = (reader(&flow, "$SYS/#"), reader(&flow, "$a"));
        assert!(there.is_done());
        let mut gone = wait(false);
        flow.leave(lanes("$SYS/#"), &one);
        flow.leave(lanes("#"), &other);
        assert!(!gone.is_done());
        flow.leave(lanes("$a"), &two);
        assert!(gone.is_done());
    }

    /// A future polled by hand.
    struct Polled<F>(std::pin::Pin<Box<F>>);

    fn polled<F: Future<Output = ()>>(future: F) -> Polled<F> {
        Polled(Box::pin(future))
    }

    impl<F: Future<Output = ()>> Polled<F> {
        fn is_done(&mut self) -> bool {
            self.0.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())).is_ready()
        }
    }
}
