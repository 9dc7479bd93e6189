//! How far the durable readers of each lane have filed what came: handed to the store what their sessions are to get.
//!
//! A durable reader is a session whose state is on disk, or a group of shared subscriptions with such a member. It
//! files a message once it has submitted all changes that follow from it, also when there are none. A publisher whose
//! message is filed by all of them knows that what the store has by then is all there is to wait for.
//!
//! The head of a lane grows before a publisher looks for durable readers, and a reader is counted before it looks at
//! the head. So of a message and a reader that come at the same time, either the reader counts the message as older
//! than itself or the publisher waits for the reader; never neither.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};

use parking_lot::Mutex;

use super::flow::{Flow, take_out};
use super::lane::{LANES, Lane, LaneSet};
use super::waiters::Waiters;

/// The durable readers of all lanes.
#[derive(Debug)]
pub(super) struct Filing([LaneFiling; LANES]);

/// What one durable reader has filed on each lane.
#[derive(Debug)]
pub(super) struct Marks([Mark; LANES]);

#[derive(Debug)]
struct Mark {
    /// Up to here the lane is filed.
    filed: AtomicU64,
    /// The head when it became a durable reader of the lane; [`NOT_READ`] while it is none.
    since: AtomicU64,
}

const NOT_READ: u64 = u64::MAX;

#[derive(Debug)]
struct LaneFiling {
    lane: Lane,
    /// How many durable readers there are; written under the lock of `readers`.
    count: AtomicUsize,
    readers: Mutex<Vec<Arc<Marks>>>,
    /// Every reader has filed at least up to here.
    least: AtomicU64,
    /// Publishers that wait for `filed`.
    waiting: Waiters,
}

impl Filing {
    /// No durable reader.
    pub(super) fn new() -> Filing {
        Filing(Lane::all().map(LaneFiling::new))
    }

    /// Whether any durable reader reads `lane`: one load.
    pub(super) fn is_durable(&self, lane: Lane) -> bool {
        self.lane(lane).count.load(SeqCst) > 0
    }

    /// Counts `marks` among the durable readers of `lanes`, which it reads already.
    pub(super) fn join(&self, flow: &Flow, lanes: LaneSet, marks: &Arc<Marks>) {
        for lane in lanes.iter() {
            let filing = self.lane(lane);
            let mut readers = filing.readers.lock();
            filing.count.store(readers.len() + 1, SeqCst);
            let head = flow.head(lane);
            let mark = marks.at(lane);
            mark.filed.fetch_max(head, SeqCst);
            mark.since.store(head, SeqCst);
            readers.push(marks.clone());
        }
    }

    /// Ceases to count `marks` among the durable readers of `lanes`.
    pub(super) fn leave(&self, lanes: LaneSet, marks: &Arc<Marks>) {
        for lane in lanes.iter() {
            let filing = self.lane(lane);
            let mut readers = filing.readers.lock();
            take_out(&mut readers, marks);
            marks.at(lane).since.store(NOT_READ, SeqCst);
            filing.count.store(readers.len(), SeqCst);
            drop(readers);
            filing.waiting.wake();
        }
    }

    /// Notes that the reader of `marks` has filed what was on `lane` up to `position`.
    pub(super) fn file(&self, lane: Lane, marks: &Marks, position: u64) {
        let before = marks.at(lane).filed.fetch_max(position, SeqCst);
        let filing = self.lane(lane);
        if filing.waiting.any() && before <= filing.least.load(SeqCst) && filing.find_least() > before {
            filing.waiting.wake();
        }
    }

    /// Whether every durable reader of `lane` has filed what was on it up to `position`.
    pub(super) fn is_filed(&self, lane: Lane, position: u64) -> bool {
        let filing = self.lane(lane);
        filing.count.load(SeqCst) == 0 || position <= filing.least.load(SeqCst) || position <= filing.find_least()
    }

    /// Waits until [`Filing::is_filed`].
    pub(super) async fn filed(&self, lane: Lane, position: u64) {
        self.lane(lane).waiting.until(|| self.is_filed(lane, position)).await;
    }

    /// Waits until every durable reader has filed all that is on its lanes now.
    pub(super) async fn all_filed(&self, flow: &Flow) {
        for lane in Lane::all() {
            self.filed(lane, flow.head(lane)).await;
        }
    }

    /// How many durable readers have not filed all that is on their lanes.
    pub(super) fn behind(&self, flow: &Flow) -> usize {
        let mut behind: Vec<Arc<Marks>> = Vec::new();
        for filing in &self.0 {
            let head = flow.head(filing.lane);
            for marks in &*filing.readers.lock() {
                let is_behind = marks.at(filing.lane).filed.load(SeqCst) < head;
                if is_behind && !behind.iter().any(|known| Arc::ptr_eq(known, marks)) {
                    behind.push(marks.clone());
                }
            }
        }
        behind.len()
    }

    fn lane(&self, lane: Lane) -> &LaneFiling {
        &self.0[lane.index()]
    }
}

impl LaneFiling {
    fn new(lane: Lane) -> LaneFiling {
        LaneFiling {
            lane,
            count: AtomicUsize::new(0),
            readers: Mutex::default(),
            least: AtomicU64::new(0),
            waiting: Waiters::default(),
        }
    }

    fn find_least(&self) -> u64 {
        let readers = self.readers.lock();
        // Marks only grow and new readers begin at the head, so this never falls.
        let least = readers.iter().map(|marks| marks.at(self.lane).filed.load(SeqCst)).min();
        // Without readers everything is filed, but only until there is one.
        least.map_or(u64::MAX, |least| {
            self.least.store(least, SeqCst);
            least
        })
    }
}

impl Marks {
    /// Nothing filed, no lane read.
    pub(super) fn new() -> Marks {
        Marks(std::array::from_fn(|_| Mark { filed: AtomicU64::new(0), since: AtomicU64::new(NOT_READ) }))
    }

    /// Whether a publisher of the message at `position` of `lane` waits for this reader to file it.
    pub(super) fn is_awaited(&self, lane: Lane, position: u64) -> bool {
        position > self.at(lane).since.load(SeqCst)
    }

    fn at(&self, lane: Lane) -> &Mark {
        &self.0[lane.index()]
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;
    use crate::topic::TopicFilter;

    fn lanes(filter: &str) -> LaneSet {
        LaneSet::of(&TopicFilter::new(filter).unwrap())
    }

    fn reader(filing: &Filing, flow: &Flow, filter: &str) -> Arc<Marks> {
        let marks = Arc::new(Marks::new());
        filing.join(flow, lanes(filter), &marks);
        marks
    }

    #[test]
    fn a_lane_is_filed_as_far_as_its_last_durable_reader_has() {
        let (filing, flow, lane) = (Filing::new(), Flow::new(100, 64), Lane::of("a"));
        let first = flow.add(lane, 10);
        assert!(!filing.is_durable(lane) && filing.is_filed(lane, first));
        let (one, two) = (reader(&filing, &flow, "a"), reader(&filing, &flow, "#"));
        assert!(filing.is_durable(lane) && !filing.is_durable(Lane::of("$a")));
        assert!(filing.is_filed(lane, first), "older than the readers");
        let second = flow.add(lane, 10);
        assert!(!filing.is_filed(lane, second));
        filing.file(lane, &one, second);
        assert!(!filing.is_filed(lane, second));
        filing.file(lane, &two, second);
        assert!(filing.is_filed(lane, second));
        let third = flow.add(lane, 10);
        filing.file(lane, &two, third);
        assert!(!filing.is_filed(lane, third));
        filing.leave(lanes("a"), &one);
        assert!(filing.is_filed(lane, third) && filing.is_durable(lane));
        filing.leave(lanes("#"), &two);
        assert!(!filing.is_durable(lane) && filing.is_filed(lane, flow.add(lane, 10)));
        let late = reader(&filing, &flow, "a");
        let last = flow.add(lane, 10);
        assert!(!filing.is_filed(lane, last), "nothing is left of the time without readers");
        filing.file(lane, &late, last);
        assert!(filing.is_filed(lane, last));
    }

    #[test]
    fn only_messages_younger_than_the_reader_are_awaited() {
        let (filing, flow, lane) = (Filing::new(), Flow::new(100, 64), Lane::of("a"));
        let first = flow.add(lane, 10);
        let marks = reader(&filing, &flow, "a");
        let second = flow.add(lane, 10);
        assert_eq!((marks.is_awaited(lane, first), marks.is_awaited(lane, second)), (false, true));
        filing.leave(lanes("a"), &marks);
        assert!(!marks.is_awaited(lane, second));
    }

    #[test]
    fn who_waits_wakes_when_it_is_filed_or_the_reader_leaves() {
        let (filing, flow, lane) = (Filing::new(), Flow::new(100, 64), Lane::of("a"));
        let marks = reader(&filing, &flow, "a");
        let (first, second) = (flow.add(lane, 10), flow.add(lane, 10));
        let mut cx = Context::from_waker(Waker::noop());
        let mut one = pin!(filing.filed(lane, first));
        let mut two = pin!(filing.filed(lane, second));
        assert!(one.as_mut().poll(&mut cx).is_pending() && two.as_mut().poll(&mut cx).is_pending());
        filing.file(lane, &marks, first);
        assert!(one.as_mut().poll(&mut cx).is_ready() && two.as_mut().poll(&mut cx).is_pending());
        filing.leave(lanes("a"), &marks);
        assert!(two.as_mut().poll(&mut cx).is_ready());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn nobody_is_left_waiting_while_it_is_filed_elsewhere() {
        let (filing, flow, lane) = (Arc::new(Filing::new()), Arc::new(Flow::new(100, 64)), Lane::of("a"));
        let marks = reader(&filing, &flow, "a");
        for _ in 0..2000 {
            let position = flow.add(lane, 1);
            let (filing, marks) = (filing.clone(), marks.clone());
            let filer = tokio::spawn({
                let filing = filing.clone();
                async move { filing.file(lane, &marks, position) }
            });
            filing.filed(lane, position).await;
            filer.await.unwrap();
        }
    }
}
