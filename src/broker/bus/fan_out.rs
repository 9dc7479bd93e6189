//! Messages for many readers: handed to rumqttd's router on the publisher's thread, and to the readers on the relay's.
//!
//! The router carries envelopes and knows neither topics nor filters nor readers; who is to get a message stands here, in
//! the order in which the router has them.

use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use std::thread;

use foldhash::fast::FixedState;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::BusStats;
use super::filter_readers::FilterReaders;
use super::persist::PersistGuard;
use super::reader_queue::Way;
use super::router::{self, Arrival, Receiver};
use super::waiters::Waiters;

/// What is on its way through the router.
#[derive(Debug)]
pub(super) struct FanOut {
    jobs: Mutex<VecDeque<Job>>,
    /// As the router counts them.
    bytes: AtomicU64,
    /// How many there are by [`slot`] of their topic.
    topics: [AtomicU32; SLOTS],
    room: Waiters,
    /// Notified when a probe has come through.
    pub(super) probed: Notify,
    /// Cancelled when the router has ended.
    pub(super) stopped: CancellationToken,
    stats: Arc<BusStats>,
}

/// Counters of topics: two that share one are told apart by nobody, and go the longer way together.
const SLOTS: usize = 256;

/// What to do with what comes from the router.
#[derive(Debug)]
pub(super) enum Job {
    /// Hand it out.
    Deliver(Delivery),
    /// Say so: see [`FanOut::probed`].
    Probe,
}

/// A message on its way through the router.
#[derive(Debug)]
pub(super) struct Delivery {
    /// Its number on the bus.
    pub(super) position: u64,
    /// As the router counts it.
    pub(super) bytes: u64,
    /// Of its topic.
    pub(super) slot: usize,
    /// Whose readers get it.
    pub(super) filters: Vec<Arc<FilterReaders>>,
    /// Held until all have it.
    pub(super) persist: Option<PersistGuard>,
}

impl FanOut {
    /// Nothing on its way.
    pub(super) fn new(stats: Arc<BusStats>) -> FanOut {
        FanOut {
            jobs: Mutex::default(),
            bytes: AtomicU64::new(0),
            topics: std::array::from_fn(|_| AtomicU32::new(0)),
            room: Waiters::default(),
            probed: Notify::new(),
            stopped: CancellationToken::new(),
            stats,
        }
    }

    /// Notes what the router gets next. Under the lock of publishers.
    pub(super) fn begin(&self, job: Job) {
        if let Job::Deliver(delivery) = &job {
            delivery.filters.iter().for_each(|filter| filter.add_routed());
            self.bytes.fetch_add(delivery.bytes, SeqCst);
            self.topics[delivery.slot].fetch_add(1, SeqCst);
        }
        self.jobs.lock().push_back(job);
    }

    /// Whether a message on `topic` may be on its way, which one that is handed over directly would overtake.
    pub(super) fn has_topic(&self, topic: &str) -> bool {
        self.bytes.load(SeqCst) > 0 && self.topics[slot(topic)].load(SeqCst) > 0
    }

    /// Whether the router takes a message of any size, and loses none for it.
    pub(super) fn has_room(&self) -> bool {
        self.bytes.load(SeqCst) <= router::BUDGET
    }

    /// Waits for that. Cancel safe.
    pub(super) async fn room(&self) {
        self.room.until(|| self.has_room()).await;
    }

    /// Whether the message at `position` is on its way.
    pub(super) fn contains(&self, position: u64) -> bool {
        let jobs = self.jobs.lock();
        jobs.iter().any(|job| matches!(job, Job::Deliver(delivery) if delivery.position == position))
    }

    /// Starts the thread that hands out what comes from the router. When it ends, with the router, it calls `stopped`.
    pub(super) fn start(
        self: &Arc<FanOut>,
        receiver: Receiver,
        stopped: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        let fan_out = self.clone();
        thread::Builder::new().name("relay".to_owned()).spawn(move || {
            fan_out.run(receiver);
            fan_out.stopped.cancel();
            stopped();
        })?;
        Ok(())
    }

    fn run(&self, mut receiver: Receiver) {
        let mut expected = 0;
        while let Ok(arrival) = receiver.next() {
            for _ in expected..arrival.index {
                self.lose();
            }
            expected = arrival.index + 1;
            // In its own statement: the lock is not held while it is handed out.
            let job = self.jobs.lock().front().map(Job::is_probe);
            match job {
                Some(true) => {
                    self.jobs.lock().pop_front();
                    self.probed.notify_waiters();
                }
                Some(false) => self.deliver(&arrival),
                None => {}
            }
        }
    }

    /// Hands out the first message. It stays in the list until all have it: see [`FanOut::contains`].
    fn deliver(&self, arrival: &Arrival) {
        let Some((position, filters, persist)) = self.jobs.lock().front_mut().and_then(Job::begin) else { return };
        for filter in &filters {
            filter.hand_out(Way::Routed, position, &arrival.envelope, persist.as_ref());
        }
        if let Some(persist) = persist {
            persist.persisted();
        }
        self.finish(filters);
    }

    /// The router has lost the first message, which it never does while its budget is kept.
    fn lose(&self) {
        tracing::error!("a message was lost inside the broker: please report this");
        self.stats.lost.increment();
        let job = self.jobs.lock().front_mut().map(Job::begin);
        match job {
            Some(Some((_, filters, persist))) => {
                if let Some(persist) = persist {
                    persist.lose();
                }
                self.finish(filters);
            }
            _ => drop(self.jobs.lock().pop_front()),
        }
    }

    /// The first message is not on its way any more.
    fn finish(&self, filters: Vec<Arc<FilterReaders>>) {
        if let Some(Job::Deliver(Delivery { bytes, slot, .. })) = self.jobs.lock().pop_front() {
            self.topics[slot].fetch_sub(1, SeqCst);
            let left = self.bytes.fetch_sub(bytes, SeqCst) - bytes;
            if left <= router::BUDGET / 2 && self.room.any() {
                self.room.wake();
            }
        }
        filters.iter().for_each(|filter| filter.remove_routed());
    }
}

/// The counter of `topic`.
pub(super) fn slot(topic: &str) -> usize {
    FixedState::with_seed(0).hash_one(topic.as_bytes()) as usize % SLOTS
}

impl Job {
    fn is_probe(&self) -> bool {
        matches!(self, Job::Probe)
    }

    /// Takes out what is needed to hand it out.
    fn begin(&mut self) -> Option<(u64, Vec<Arc<FilterReaders>>, Option<PersistGuard>)> {
        match self {
            Job::Deliver(delivery) => {
                Some((delivery.position, std::mem::take(&mut delivery.filters), delivery.persist.take()))
            }
            Job::Probe => None,
        }
    }
}
