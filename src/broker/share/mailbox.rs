//! What the groups of one session have given to it and it has not sent yet.

use std::cmp::Reverse;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::broker::queue::{Queue, QueueLimits};
use crate::broker::stats::Queued;
use crate::broker::store::SessionId;

/// Messages that a mailbox takes before others get them. What waits longer is a client's that is slow.
const ROOM: usize = 64;

/// How ready a session is for one message more, the readiest greatest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Readiness {
    /// It has no connection.
    Offline,
    /// Enough waits for it.
    Full,
    /// Its client has to take or acknowledge something first.
    Busy,
    /// It sends at once.
    Free,
}

/// One session's, for all its groups. Bounded as the session's own queue is.
#[derive(Debug)]
pub struct Mailbox<T> {
    state: Mutex<State<T>>,
    arrived: Notify,
}

#[derive(Debug)]
struct State<T> {
    queue: Queue<T>,
    /// Kept here because the session of a client that is away does not look.
    counted: Queued,
    connected: bool,
    /// The session on disk.
    session: Option<SessionId>,
    /// The session could not send what was next.
    busy: bool,
    /// Somebody was told that it is full.
    awaited: bool,
}

impl<T> Mailbox<T> {
    /// An empty one of a session without a connection.
    pub fn new(limits: QueueLimits, counted: Queued) -> Mailbox<T> {
        let queue = Queue::new(limits);
        let state = State { queue, counted, connected: false, session: None, busy: false, awaited: false };
        Mailbox { state: Mutex::new(state), arrived: Notify::new() }
    }

    /// Other bounds from the next message on.
    pub fn set_limits(&self, limits: QueueLimits) {
        self.state.lock().queue.set_limits(limits);
    }

    /// How ready the session is, and among equals who has less.
    pub fn readiness(&self) -> (Readiness, Reverse<usize>) {
        let mut state = self.state.lock();
        let full = state.queue.len() >= ROOM || state.queue.is_over_half();
        state.awaited |= full;
        let readiness = match (state.connected, full) {
            (false, _) => Readiness::Offline,
            (true, true) => Readiness::Full,
            (true, false) if state.busy => Readiness::Busy,
            (true, false) => Readiness::Free,
        };
        (readiness, Reverse(state.queue.len()))
    }

    /// Adds `item`, which weighs `bytes`; returns how many the queue dropped, each given to `give_up`.
    pub fn push(&self, item: T, bytes: usize, give_up: impl FnMut(T)) -> u64 {
        let mut state = self.state.lock();
        let was_empty = state.queue.is_empty();
        let dropped = state.queue.push(item, bytes, give_up);
        state.count();
        drop(state);
        if was_empty {
            self.arrived.notify_one();
        }
        dropped
    }

    /// Takes the next item if it can be sent now, and says whether somebody waits for the room that is there now.
    pub fn take_if(&self, can_send: impl FnOnce(&T) -> bool) -> (Option<T>, bool) {
        let mut state = self.state.lock();
        let fits = state.queue.front().map(can_send);
        state.busy = fits == Some(false);
        if fits != Some(true) {
            return (None, false);
        }
        let item = state.queue.pop();
        state.count();
        let has_room = state.queue.len() <= ROOM / 2 && !state.queue.is_over_half();
        (item, has_room && std::mem::take(&mut state.awaited))
    }

    /// Takes out all that `is_meant` is true for, oldest first.
    pub fn extract(&self, is_meant: impl Fn(&T) -> bool, size: impl Fn(&T) -> usize) -> Vec<T> {
        let mut state = self.state.lock();
        let waiting = std::iter::from_fn(|| state.queue.pop()).collect::<Vec<_>>();
        let (taken, left) = waiting.into_iter().partition(is_meant);
        for item in left {
            let size = size(&item);
            // It has just been in there.
            let _: u64 = state.queue.push(item, size, drop);
        }
        state.count();
        // As far as is known: it tries again with the next.
        state.busy &= !state.queue.is_empty();
        taken
    }

    /// The session has a connection now, or none any more; says whether it had one.
    pub fn set_connected(&self, connected: bool) -> bool {
        let mut state = self.state.lock();
        state.busy = false;
        std::mem::replace(&mut state.connected, connected)
    }

    /// The session is on disk now, or no longer.
    pub fn set_session(&self, session: Option<SessionId>) {
        self.state.lock().session = session;
    }

    /// The session on disk, if it is there.
    pub fn session(&self) -> Option<SessionId> {
        self.state.lock().session
    }

    /// Calls `look` for all that waits, oldest first.
    pub fn for_each(&self, look: impl FnMut(&mut T)) {
        self.state.lock().queue.iter_mut().for_each(look);
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.state.lock().queue.is_empty()
    }

    /// Waits until something has come into the empty mailbox. Cancel safe; one task only.
    pub async fn arrived(&self) {
        self.arrived.notified().await;
    }
}

impl<T> State<T> {
    fn count(&mut self) {
        self.counted.set(self.queue.len(), self.queue.bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::stats::BrokerStats;
    use crate::config::QueueFull;

    fn mailbox(messages: usize) -> Mailbox<usize> {
        let mailbox = Mailbox::new(
            QueueLimits { messages, bytes: 1000, full: QueueFull::DropOldest },
            BrokerStats::default().queued.part(),
        );
        mailbox.set_connected(true);
        mailbox
    }

    #[test]
    fn a_session_is_as_ready_as_its_client() {
        let mailbox = mailbox(1000);
        assert_eq!(mailbox.readiness(), (Readiness::Free, Reverse(0)));
        mailbox.push(0, 1, drop);
        assert_eq!(mailbox.readiness(), (Readiness::Free, Reverse(1)), "it has had no time to take it");
        assert_eq!(mailbox.take_if(|_| false), (None, false));
        assert_eq!(mailbox.readiness().0, Readiness::Busy);
        (1..ROOM).for_each(|n| assert_eq!(mailbox.push(n, 1, drop), 0));
        assert_eq!(mailbox.readiness().0, Readiness::Full);
        let told: Vec<bool> = (0..ROOM).map(|_| mailbox.take_if(|_| true).1).collect();
        assert_eq!(told.iter().position(|told| *told), Some(ROOM / 2 - 1));
        assert_eq!(told.iter().filter(|told| **told).count(), 1, "who waits is told once");
        assert_eq!((mailbox.take_if(|_| false), mailbox.readiness().0), ((None, false), Readiness::Free));
        mailbox.set_connected(false);
        assert_eq!(mailbox.readiness().0, Readiness::Offline);
    }

    #[test]
    fn the_bounds_and_the_policy_are_those_of_the_queue() {
        let mailbox = mailbox(2);
        assert_eq!([1, 2, 3].map(|n| mailbox.push(n, 1, drop)), [0, 0, 1]);
        assert_eq!(mailbox.push(4, 999, drop), 1, "bytes count too");
        assert_eq!(mailbox.extract(|_| true, |_| 1), [3, 4]);
    }

    #[test]
    fn extracting_keeps_the_order_of_what_stays() {
        let mailbox = mailbox(10);
        (0..6).for_each(|n| assert_eq!(mailbox.push(n, 1, drop), 0));
        assert_eq!(mailbox.extract(|n| n % 2 == 0, |_| 1), [0, 2, 4]);
        assert_eq!([0; 4].map(|_| mailbox.take_if(|_| true).0), [Some(1), Some(3), Some(5), None]);
    }
}
