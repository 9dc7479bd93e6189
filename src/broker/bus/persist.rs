//! Whether the durable readers of one message have given it to the store.
//!
//! A durable reader is a session whose state is on disk, or a group of shared subscriptions with such a member. With
//! each message that somebody may wait for it gets a [`PersistGuard`], and drops it once it has submitted all changes
//! that follow from the message, also when there are none. When the last guard is gone, what the store has by then is
//! all there is to wait for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use tokio::sync::Notify;

use super::waiters::Waiters;

/// All messages that durable readers have not given to the store.
#[derive(Debug, Default)]
pub(super) struct Unpersisted {
    messages: AtomicUsize,
    waiting: Waiters,
    /// The broker stops, and readers go although their sessions live on, on disk.
    is_closing: AtomicBool,
}

/// What a publisher waits for before it acknowledges a message. For one task.
#[derive(Clone, Debug)]
pub struct Persisting(Arc<Tracker>);

/// One durable reader's part of a message.
///
/// Dropping it says that nobody waits for the reader any more, for its session is over. While the broker stops, or in a
/// panic, it says that the message is lost with the reader: then its publisher is never answered, and sends it again.
#[derive(Debug)]
pub struct PersistGuard {
    tracker: Arc<Tracker>,
    is_persisted: bool,
}

#[derive(Debug)]
struct Tracker {
    all: Arc<Unpersisted>,
    guards: AtomicUsize,
    is_lost: AtomicBool,
    /// The last guard has gone. One task waits, and a notification without it is kept.
    done: Notify,
}

impl Unpersisted {
    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.messages.load(SeqCst)
    }

    /// Waits until there is none. Cancel safe.
    pub(super) async fn none(&self) {
        self.waiting.until(|| self.count() == 0).await;
    }

    /// From now on a reader that goes takes with it what it has not given to the store.
    pub(super) fn close(&self) {
        self.is_closing.store(true, SeqCst);
    }

    /// Whether readers may have gone whose sessions live on: what is published now is never answered.
    pub(super) fn is_closing(&self) -> bool {
        self.is_closing.load(SeqCst)
    }
}

impl Persisting {
    /// Of a new message, with the first guard.
    pub(super) fn new(all: &Arc<Unpersisted>) -> (Persisting, PersistGuard) {
        all.messages.fetch_add(1, SeqCst);
        let tracker = Arc::new(Tracker {
            all: all.clone(),
            guards: AtomicUsize::new(1),
            is_lost: AtomicBool::new(false),
            done: Notify::new(),
        });
        (Persisting(tracker.clone()), PersistGuard { tracker, is_persisted: false })
    }

    /// Of a message on no bus.
    #[cfg(test)]
    pub(in crate::broker) fn tracked() -> (Persisting, PersistGuard) {
        Persisting::new(&Arc::default())
    }

    /// Whether every durable reader has given the message to the store.
    pub fn is_done(&self) -> bool {
        self.0.guards.load(SeqCst) == 0 && !self.0.is_lost.load(SeqCst)
    }

    /// Whether a durable reader is gone and has taken the message with it.
    pub fn is_lost(&self) -> bool {
        self.0.is_lost.load(SeqCst)
    }

    /// Waits until it is done; for ever, if the message is lost. Cancel safe.
    pub async fn done(&self) {
        while !self.is_done() {
            self.0.done.notified().await;
        }
    }

    /// Waits until it is done, or lost. Cancel safe.
    pub async fn settled(&self) {
        while self.0.guards.load(SeqCst) > 0 {
            self.0.done.notified().await;
        }
    }
}

impl PersistGuard {
    /// For one reader more.
    pub(super) fn another(&self) -> PersistGuard {
        self.tracker.guards.fetch_add(1, SeqCst);
        PersistGuard { tracker: self.tracker.clone(), is_persisted: false }
    }

    /// All that follows from the message was given to the store.
    pub fn persisted(mut self) {
        self.is_persisted = true;
    }

    /// The message will never come to its reader.
    pub(in crate::broker) fn lose(self) {
        self.tracker.is_lost.store(true, SeqCst);
    }
}

impl Drop for PersistGuard {
    fn drop(&mut self) {
        let Tracker { all, guards, is_lost, done } = &*self.tracker;
        if !self.is_persisted && (all.is_closing() || std::thread::panicking()) {
            is_lost.store(true, SeqCst);
        }
        if guards.fetch_sub(1, SeqCst) == 1 {
            done.notify_one();
            if all.messages.fetch_sub(1, SeqCst) == 1 && all.waiting.any() {
                all.waiting.wake();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    fn tracked() -> (Arc<Unpersisted>, Persisting, PersistGuard) {
        let all = Arc::new(Unpersisted::default());
        let (persisting, guard) = Persisting::new(&all);
        (all, persisting, guard)
    }

    #[test]
    fn it_is_done_with_the_last_guard() {
        let (all, persisting, first) = tracked();
        let second = first.another();
        let mut cx = Context::from_waker(Waker::noop());
        let (mut done, mut none) = (pin!(persisting.done()), pin!(all.none()));
        assert!(done.as_mut().poll(&mut cx).is_pending() && none.as_mut().poll(&mut cx).is_pending());
        first.persisted();
        assert!(!persisting.is_done() && done.as_mut().poll(&mut cx).is_pending() && all.count() == 1);
        // Its session is over.
        drop(second);
        assert!(persisting.is_done() && done.as_mut().poll(&mut cx).is_ready());
        assert!(none.as_mut().poll(&mut cx).is_ready());
    }

    #[test]
    fn what_a_reader_takes_with_it_while_the_broker_stops_is_never_done() {
        let (all, persisting, first) = tracked();
        let (other, guard) = Persisting::new(&all);
        all.close();
        guard.persisted();
        assert!(other.is_done(), "it is with the store all the same");
        drop(first);
        assert!(!persisting.is_done() && all.count() == 0);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(pin!(persisting.done()).poll(&mut cx).is_pending());
    }

    #[test]
    fn what_never_came_to_its_reader_is_never_done() {
        let (_, persisting, guard) = tracked();
        guard.lose();
        assert!(!persisting.is_done());
    }

    #[test]
    fn what_a_reader_had_when_it_panicked_is_never_done() {
        let (all, persisting, guard) = tracked();
        let reader = std::thread::spawn(move || {
            let _guard = guard;
            panic!("on purpose");
        });
        assert!(reader.join().is_err());
        assert!(persisting.is_lost() && !persisting.is_done() && all.count() == 0);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(pin!(persisting.settled()).poll(&mut cx).is_ready());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn nobody_is_left_waiting_while_it_is_done_elsewhere() {
        let all = Arc::new(Unpersisted::default());
        for _ in 0..2000 {
            let (persisting, guard) = Persisting::new(&all);
            let reader = tokio::spawn(async move { guard.persisted() });
            persisting.done().await;
            reader.await.unwrap();
        }
        all.none().await;
    }
}
