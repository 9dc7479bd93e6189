//! The bus: publishers on one side, readers on the other, rumqttd's router between them.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::consume_budget;
use tokio_util::sync::CancellationToken;

use super::admission::is_reserved;
use super::filer::Filer;
use super::filing::Filing;
use super::flow::{Admission, Flow};
use super::lane::Lane;
use super::message::{Envelope, Message};
use super::reader::Reader;
use super::relay;
use super::retained::{Retained, Retention, Snapshot};
use super::router::{self, Sender, Stopped};
use super::store::{Change, Store, Urgency};
use crate::stats::Counter;
use crate::topic::TopicFilter;

/// How large the bus may grow.
#[derive(Clone, Copy, Debug)]
pub struct BusSettings {
    /// Topics with a retained message.
    pub max_retained: usize,
    /// Up to so many readers of a lane the publisher hands them a message itself, which saves two changes of thread;
    /// beyond, the router does, so that what happens under the publisher's lock stays bounded.
    pub direct_readers: usize,
}

/// Why the bus did not do it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BusError {
    /// The router's thread has ended; nothing can be routed any more and the process should end.
    #[error(
        "the message router has stopped; hint: this is a bug in gatepost or rumqttd, see the log above; restart it"
    )]
    Stopped,
    /// A thread could not be started.
    #[error(
        "cannot start a thread for the bus: {0}; hint: is the limit of processes for this user or service reached?"
    )]
    Thread(Arc<std::io::Error>),
}

/// Why [`Bus::try_publish`] did not take a message.
#[derive(Debug, thiserror::Error)]
pub enum TryPublishError {
    /// A reader of its lane is behind; [`Bus::ready`] waits until it has caught up.
    #[error("the lane is full")]
    Busy(Envelope),
    /// See [`BusError::Stopped`].
    #[error(transparent)]
    Bus(#[from] BusError),
}

/// What became of a message the bus took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Whether anyone reads its lane. False does not mean that it was lost: nobody subscribed to it.
    pub read: bool,
    /// Where its lane ended after it, if it was read.
    pub(super) position: u64,
    /// For RETAIN 1: what the retained store did.
    pub retained: Option<Retention>,
}

/// What the bus has counted since the start.
#[derive(Debug, Default)]
pub struct BusStats {
    /// Messages taken from publishers.
    pub published: Counter,
    /// Of these, on a lane that nobody read.
    pub unread: Counter,
    /// Messages handed to readers; one published counts once for each reader of its lane.
    pub delivered: Counter,
    /// Messages that a reader should have had and did not get: a bug.
    pub lost: Counter,
    /// Times a publisher was told to wait.
    pub busy: Counter,
    /// Retained messages refused because the store was full.
    pub retained_refused: Counter,
}

/// The bus. Cheap to clone; all clones are the same bus.
#[derive(Clone)]
pub struct Bus(Arc<Shared>);

/// What all clones of a bus and all its readers share.
pub(super) struct Shared {
    /// One publishes at a time.
    pub(super) publisher: Mutex<Sender>,
    pub(super) flow: Flow,
    pub(super) filing: Filing,
    store: Store,
    pub(super) stats: BusStats,
    /// Notified when a probe has come through.
    pub(super) probe: Notify,
    /// Cancelled when the router has ended.
    pub(super) stopped: CancellationToken,
    /// Locked before `publisher`, where both are.
    retained: Mutex<Retained>,
    last_session: AtomicU64,
    /// See [`Bus::refresh_sys_with`].
    refresh_sys: OnceLock<RefreshSys>,
}

type RefreshSys = Box<dyn Fn() + Send + Sync>;

impl Bus {
    /// Starts the router. Its thread cannot be stopped and lives as long as the process: start one bus.
    pub fn start(settings: BusSettings) -> Result<Bus, BusError> {
        Bus::start_with(settings, Store::off())
    }

    /// As [`Bus::start`]; what is retained goes into `store`.
    pub fn start_with(settings: BusSettings, store: Store) -> Result<Bus, BusError> {
        let (sender, receiver) = router::start().map_err(|Stopped| BusError::Stopped)?;
        let shared = Arc::new(Shared {
            publisher: Mutex::new(sender),
            flow: Flow::new(router::LANE_BUDGET, settings.direct_readers),
            filing: Filing::new(),
            store,
            stats: BusStats::default(),
            probe: Notify::new(),
            stopped: CancellationToken::new(),
            retained: Mutex::new(Retained::new(settings.max_retained)),
            last_session: AtomicU64::new(0),
            refresh_sys: OnceLock::new(),
        });
        relay::start(shared.clone(), receiver).map_err(|error| BusError::Thread(Arc::new(error)))?;
        Ok(Bus(shared))
    }

    /// Resolves when a message that this sends has come through the router's thread and the relay's: both are alive. (What
    /// is published may be handed over without them.) One at a time.
    ///
    /// # Errors
    /// The router has ended.
    pub async fn probe(&self) -> Result<(), BusError> {
        let answered = self.0.probe.notified();
        tokio::pin!(answered);
        answered.as_mut().enable();
        self.0.publisher.lock().probe().map_err(|Stopped| BusError::Stopped)?;
        tokio::select! {
            () = answered => Ok(()),
            () = self.failed() => Err(BusError::Stopped),
        }
    }

    /// A number for a new session, not 0 and never given again.
    pub fn session_number(&self) -> u64 {
        self.0.last_session.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Publishes; for RETAIN 1 also updates the retained store, in the order of the lane. Never blocks or waits.
    pub fn try_publish(&self, envelope: Envelope) -> Result<Published, TryPublishError> {
        if envelope.retain() {
            return self.publish_retained(envelope);
        }
        let Pushed { read, position, .. } = self.0.push(envelope, 0)?;
        Ok(Published { read, position, retained: None })
    }

    /// Waits until `lane` has room again. Another publisher may take the room: try again in a loop.
    pub async fn ready(&self, lane: Lane) {
        self.0.flow.room(lane).await;
    }

    /// Publishes, waiting for room on the lane. If the future is dropped, so is the message.
    pub async fn publish(&self, mut envelope: Envelope) -> Result<Published, BusError> {
        // Nothing below waits while there is room: without this a busy publisher would never let another task run.
        consume_budget().await;
        loop {
            let lane = envelope.lane();
            envelope = match self.try_publish(envelope) {
                Ok(published) => return Ok(published),
                Err(TryPublishError::Bus(error)) => return Err(error),
                Err(TryPublishError::Busy(envelope)) => envelope,
            };
            self.ready(lane).await;
        }
    }

    /// A new reader, which reads nothing yet.
    pub fn reader(&self) -> Reader {
        Reader::new(self.0.clone())
    }

    /// A new durable reader, of no lane yet.
    pub(super) fn filer(&self) -> Filer {
        Filer::new(self.0.clone())
    }

    /// Whether a session or a group on disk reads `lane`.
    pub(super) fn is_durable(&self, lane: Lane) -> bool {
        self.0.filing.is_durable(lane)
    }

    /// Whether all that follows from the messages on `lane` up to `position` has been given to the store.
    pub(super) fn is_filed(&self, lane: Lane, position: u64) -> bool {
        self.0.filing.is_filed(lane, position)
    }

    /// Waits for that.
    pub(super) async fn filed(&self, lane: Lane, position: u64) {
        self.0.filing.filed(lane, position).await;
    }

    /// Waits until every durable reader has filed all that has been published so far.
    pub(super) async fn all_filed(&self) {
        self.0.filing.all_filed(&self.0.flow).await;
    }

    /// How many durable readers have not.
    pub(super) fn behind(&self) -> usize {
        self.0.filing.behind(&self.0.flow)
    }

    /// Takes in what was retained when the gateway ended; returns how many there was no room for.
    pub(super) fn restore(&self, messages: Vec<Message>) -> usize {
        let (mut retained, now) = (self.0.retained.lock(), Instant::now());
        let mut refused = 0;
        for message in messages {
            let expired = message.expires().is_some_and(|expires| expires <= now);
            if expired || retained.admit(message.topic(), false, now).is_none() {
                refused += usize::from(!expired);
                self.0.store.submit(Change::Forget { topic: message.topic().into(), urgency: Urgency::Lazy });
            } else {
                retained.update(message);
            }
        }
        self.0.forget_expired(&mut retained);
        refused
    }

    /// Gives all that is retained to the store anew.
    pub(super) fn save(&self) {
        let retained = self.0.retained.lock();
        retained.iter().for_each(|message| self.0.keep(message, false, Urgency::Lazy));
    }

    /// The retained messages that `filter` matches now, without expired ones.
    pub fn retained(&self, filter: &TopicFilter) -> Snapshot {
        self.retained_of([filter])
    }

    /// The retained messages that any of `filters` matches now, each once.
    pub(super) fn retained_of<'a>(&self, filters: impl IntoIterator<Item = &'a TopicFilter>) -> Snapshot {
        let filters: Vec<&TopicFilter> = filters.into_iter().collect();
        if let Some(refresh) = self.0.refresh_sys.get() {
            if filters.iter().any(|filter| is_reserved(filter.as_str())) {
                refresh();
            }
        }
        let mut retained = self.0.retained.lock();
        let snapshot = retained.snapshot(filters, Instant::now());
        self.0.forget_expired(&mut retained);
        snapshot
    }

    /// Calls `refresh` from now on before retained messages below `$SYS` are looked up: it publishes what has changed,
    /// so that nobody has to keep them up to date while nobody asks. It must not wait. Only the first call counts.
    pub(super) fn refresh_sys_with(&self, refresh: impl Fn() + Send + Sync + 'static) {
        // A second one would be refused: there is one broker on a bus.
        let _ = self.0.refresh_sys.set(Box::new(refresh));
    }

    /// Waits until somebody reads the lane of `$` topics, or nobody does. One task only. Cancel safe.
    pub(super) async fn system_is_read(&self, read: bool) {
        self.0.flow.system_is_read(read).await;
    }

    /// Topics with a retained message, and what these messages take in bytes; `$SYS` is not among them.
    pub fn retained_size(&self) -> (usize, usize) {
        let retained = self.0.retained.lock();
        (retained.len(), retained.bytes())
    }

    /// How many topics may have a retained message from now on. Those that are too many stay until they are deleted.
    pub fn set_max_retained(&self, max: usize) {
        self.0.retained.lock().set_max(max);
    }

    /// Resolves when the router's thread has died. The process should then exit with code 70.
    pub async fn failed(&self) {
        self.0.stopped.cancelled().await;
    }

    /// The counters.
    pub fn stats(&self) -> &BusStats {
        &self.0.stats
    }

    fn publish_retained(&self, envelope: Envelope) -> Result<Published, TryPublishError> {
        // The lock is held until the message is on its lane: so the last one on the lane is the one retained.
        let mut retained = self.0.retained.lock();
        let now = Instant::now();
        let deletes = envelope.payload().is_empty();
        let version = retained.admit(envelope.topic(), deletes, now);
        self.0.forget_expired(&mut retained);
        let Some(version) = version else {
            let Pushed { read, position, .. } = self.0.push(envelope, 0)?;
            self.0.stats.retained_refused.increment();
            return Ok(Published { read, position, retained: Some(Retention::Refused) });
        };
        let urgency = envelope.urgency();
        let Pushed { bytes, read, position } = self.0.push(envelope, version)?;
        let message = Message::decode(bytes).map_err(|_| BusError::Stopped)?;
        // Under the lock: so the last one on disk is the last one on the lane, too.
        self.0.keep(&message, deletes, urgency);
        Ok(Published { read, position, retained: Some(retained.update(message)) })
    }
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bus").field("stats", &self.0.stats).finish_non_exhaustive()
    }
}

/// A sealed envelope that was put on its lane, or, unread, was not.
struct Pushed {
    bytes: Bytes,
    read: bool,
    /// Where its lane ended after it; 0: unread.
    position: u64,
}

impl Shared {
    /// Lets the store know what is retained now. What the broker itself says on `$SYS` is never kept.
    fn keep(&self, message: &Message, deletes: bool, urgency: Urgency) {
        if !self.store.is_on() || message.is_volatile() || message.topic().starts_with("$SYS/") {
            return;
        }
        self.store.submit(match deletes {
            true => Change::Forget { topic: message.topic().into(), urgency },
            false => Change::Retain(message.clone(), urgency),
        });
    }

    fn forget_expired(&self, retained: &mut Retained) {
        for message in retained.take_expired() {
            self.keep(&message, true, Urgency::Lazy);
        }
    }

    fn push(&self, envelope: Envelope, retained_version: u64) -> Result<Pushed, TryPublishError> {
        let lane = envelope.lane();
        let mut publisher = self.publisher.lock();
        let pushed = match self.flow.admit(lane) {
            Admission::Full => {
                drop(publisher);
                self.stats.busy.increment();
                return Err(TryPublishError::Busy(envelope));
            }
            Admission::Room { direct } => {
                let position = self.flow.add(lane, router::counted_size(envelope.size()));
                let bytes = envelope.seal(position, retained_version);
                if direct {
                    self.flow.hand_out(lane, position, &bytes);
                } else {
                    self.flow.note_routed(lane, position);
                    publisher.publish(lane, bytes.clone()).map_err(|Stopped| BusError::Stopped)?;
                }
                Pushed { bytes, read: true, position }
            }
            Admission::Unread => {
                drop(publisher);
                self.stats.unread.increment();
                Pushed { bytes: envelope.seal(0, retained_version), read: false, position: 0 }
            }
        };
        self.stats.published.increment();
        Ok(pushed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::lane::LaneSet;
    use crate::broker::message::Draft;
    use crate::qos::Qos;
    use std::collections::VecDeque;

    fn bus() -> Bus {
        Bus::start(BusSettings { max_retained: 10, direct_readers: 0 }).unwrap()
    }

    fn envelope() -> Envelope {
        let (topic, payload, properties) = ("a", &b"1"[..], &b""[..]);
        Envelope::new(&Draft {
            topic,
            payload,
            qos: Qos::AtMostOnce,
            retain: true,
            origin: 1,
            expires: None,
            properties,
        })
    }

    fn lanes() -> LaneSet {
        LaneSet::of(&TopicFilter::new("#").unwrap())
    }

    #[tokio::test]
    async fn a_probe_comes_through_the_router_and_disturbs_nothing() {
        let bus = bus();
        let mut reader = bus.reader();
        reader.set_lanes(lanes());
        for _ in 0..3 {
            bus.probe().await.unwrap();
            bus.try_publish(envelope()).unwrap();
            let mut batch = VecDeque::new();
            reader.recv(&mut batch).await.unwrap();
            assert_eq!(batch.len(), 1);
        }
        assert_eq!(bus.stats().lost.get(), 0);
        bus.0.publisher.lock().crash_router();
        assert!(bus.probe().await.is_err());
    }

    #[tokio::test]
    async fn when_the_router_dies_everybody_is_told() {
        let bus = bus();
        let mut reader = bus.reader();
        reader.set_lanes(lanes());
        bus.0.publisher.lock().crash_router();
        bus.failed().await;
        bus.failed().await;
        assert!(matches!(reader.recv(&mut VecDeque::new()).await, Err(BusError::Stopped)));
        let deadline = Instant::now() + std::time::Duration::from_secs(10);
        while bus.try_publish(envelope()).is_ok() {
            // The channel of events closes a moment after the links.
            assert!(Instant::now() < deadline);
        }
    }
}
