//! The bus: publishers on one side, readers on the other.
//!
//! A publisher finds in an index who is subscribed to its topic, and hands the message to their queues itself. To more
//! than some of them the relay does, on a thread of its own; rumqttd's router carries the message there. Nobody else is
//! woken, locked or charged. A publisher waits while one of those who would get its message has too much in its queue.

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use bytes::Bytes;
use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::sync::Notify;
use tokio::task::consume_budget;

use super::message::{Envelope, Message, Urgency};
use super::retained::{Retained, Retention, Snapshot};
use super::store::{Change, Store};
use crate::qos::Qos;
use crate::stats::Counter;
use crate::topic::{TopicFilter, is_reserved};
use fan_out::{Delivery, FanOut, Job};
use filter_readers::{FilterReaders, Left};
use index::Index;
use persist::Unpersisted;
pub use persist::{PersistGuard, Persisting};
pub use reader::{Durability, Reader, Received};
use reader_queue::{ReaderQueue, Way};
use router::{Sender, Stopped};

mod fan_out;
mod filter_readers;
mod index;
mod persist;
mod reader;
mod reader_queue;
mod router;
mod waiters;

/// How large the bus may grow.
#[derive(Clone, Copy, Debug)]
pub struct BusSettings {
    /// Topics with a retained message.
    pub max_retained: usize,
    /// To up to so many readers the publisher hands a message itself, which saves two changes of thread; to more the
    /// router and the relay bring it, so that what happens under the publishers' lock stays bounded.
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
    /// Somebody who would get it is behind; [`Room::ready`] waits until that is over.
    #[error("a reader is behind")]
    Busy(Envelope, Room),
    /// See [`BusError::Stopped`].
    #[error(transparent)]
    Bus(#[from] BusError),
}

/// What a publisher waits for.
#[derive(Clone, Debug)]
pub struct Room(Behind);

#[derive(Clone, Debug)]
enum Behind {
    /// A reader of this filter.
    Filter(Arc<FilterReaders>),
    /// The relay.
    FanOut(Arc<FanOut>),
}

impl Room {
    /// Waits until there may be room again. Another publisher may take it: try again in a loop. Cancel safe.
    pub async fn ready(&self) {
        match &self.0 {
            Behind::Filter(filter) => filter.room().await,
            Behind::FanOut(fan_out) => fan_out.room().await,
        }
    }
}

/// What became of a message the bus took.
#[derive(Clone, Debug)]
pub struct Published {
    /// Its number on the bus, from 1; 0: nobody is subscribed to its topic, which is no loss.
    pub position: u64,
    /// The durable readers who get it, for QoS 1 and 2.
    pub persisting: Option<Persisting>,
    /// For RETAIN 1: what the retained store did.
    pub retained: Option<Retention>,
}

impl Published {
    /// Whether anyone is subscribed to its topic.
    pub fn is_read(&self) -> bool {
        self.position > 0
    }
}

/// What the bus has counted since the start.
#[derive(Debug, Default)]
pub struct BusStats {
    /// Messages taken from publishers.
    pub published: Counter,
    /// Of these, on a topic that nobody was subscribed to.
    pub unread: Counter,
    /// Messages handed to readers; one published counts once for each of them.
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
struct Shared {
    publisher: Mutex<Publisher>,
    direct_readers: usize,
    fan_out: Arc<FanOut>,
    unpersisted: Arc<Unpersisted>,
    store: Store,
    stats: Arc<BusStats>,
    /// Locked before `publisher`, where both are.
    retained: Mutex<Retained>,
    last_session: AtomicU64,
    /// Readers of filters that begin with `$`.
    system_readers: AtomicUsize,
    /// Somebody has begun or ceased to read them.
    system_changed: Notify,
    /// See [`Bus::refresh_sys_with`].
    refresh_sys: OnceLock<RefreshSys>,
}

/// One publishes, subscribes or unsubscribes at a time.
struct Publisher {
    sender: Sender,
    index: Index,
    /// How many messages were handed to anybody.
    head: u64,
    last_reader: u64,
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
        let stats = Arc::new(BusStats::default());
        let shared = Arc::new(Shared {
            publisher: Mutex::new(Publisher { sender, index: Index::default(), head: 0, last_reader: 0 }),
            direct_readers: settings.direct_readers,
            fan_out: Arc::new(FanOut::new(stats.clone())),
            unpersisted: Arc::default(),
            store,
            stats,
            retained: Mutex::new(Retained::new(settings.max_retained)),
            last_session: AtomicU64::new(0),
            system_readers: AtomicUsize::new(0),
            system_changed: Notify::new(),
            refresh_sys: OnceLock::new(),
        });
        let wake = {
            let shared = shared.clone();
            move || shared.publisher.lock().index.all().for_each(|filter| filter.wake())
        };
        shared.fan_out.start(receiver, wake).map_err(|error| BusError::Thread(Arc::new(error)))?;
        Ok(Bus(shared))
    }

    /// Resolves when a message that this sends has come through the router's thread and the relay's: both are alive. (What
    /// is published may be handed over without them.) One at a time.
    ///
    /// # Errors
    /// The router has ended.
    pub async fn probe(&self) -> Result<(), BusError> {
        let answered = self.0.fan_out.probed.notified();
        tokio::pin!(answered);
        answered.as_mut().enable();
        {
            let mut publisher = self.0.publisher.lock();
            self.0.fan_out.begin(Job::Probe);
            publisher.sender.publish(Bytes::new()).map_err(|Stopped| BusError::Stopped)?;
        }
        tokio::select! {
            () = answered => Ok(()),
            () = self.failed() => Err(BusError::Stopped),
        }
    }

    /// A number for a new session, not 0 and never given again.
    pub fn session_number(&self) -> u64 {
        self.0.last_session.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Publishes; for RETAIN 1 also updates the retained store, in the same order. Never blocks or waits.
    pub fn try_publish(&self, envelope: Envelope) -> Result<Published, TryPublishError> {
        if envelope.retain() {
            return self.publish_retained(envelope);
        }
        let Pushed { position, persisting, .. } = self.0.push(envelope, 0)?;
        Ok(Published { position, persisting, retained: None })
    }

    /// Publishes, waiting for room. If the future is dropped, so is the message.
    pub async fn publish(&self, mut envelope: Envelope) -> Result<Published, BusError> {
        // Nothing below waits while there is room: without this a busy publisher would never let another task run.
        consume_budget().await;
        loop {
            let room;
            (envelope, room) = match self.try_publish(envelope) {
                Ok(published) => return Ok(published),
                Err(TryPublishError::Bus(error)) => return Err(error),
                Err(TryPublishError::Busy(envelope, room)) => (envelope, room),
            };
            room.ready().await;
        }
    }

    /// A new reader, which reads nothing yet.
    pub fn reader(&self) -> Reader {
        let number = {
            let mut publisher = self.0.publisher.lock();
            publisher.last_reader += 1;
            publisher.last_reader
        };
        Reader::new(self.0.clone(), number)
    }

    /// Waits until durable readers have given all QoS 1 and 2 messages to the store.
    pub(super) async fn all_persisted(&self) {
        self.0.unpersisted.none().await;
    }

    /// How many messages they have not.
    pub(super) fn unpersisted(&self) -> usize {
        self.0.unpersisted.count()
    }

    /// From now on readers go although their sessions live on, on disk: no message is persisted any more but what they give
    /// to the store themselves.
    pub(super) fn close(&self) {
        // Between two messages.
        let _publisher = self.0.publisher.lock();
        self.0.unpersisted.close();
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

    /// Waits until somebody is subscribed to a filter that begins with `$`, or nobody is. One task only. Cancel safe.
    pub(super) async fn system_is_read(&self, read: bool) {
        while (self.0.system_readers.load(SeqCst) > 0) != read {
            self.0.system_changed.notified().await;
        }
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
        self.0.fan_out.stopped.cancelled().await;
    }

    /// The counters.
    pub fn stats(&self) -> &BusStats {
        &self.0.stats
    }

    fn publish_retained(&self, envelope: Envelope) -> Result<Published, TryPublishError> {
        // The lock is held until the message is handed over: so the last one that readers get is the one retained.
        let mut retained = self.0.retained.lock();
        let now = Instant::now();
        let deletes = envelope.payload().is_empty();
        let version = retained.admit(envelope.topic(), deletes, now);
        self.0.forget_expired(&mut retained);
        let Some(version) = version else {
            let Pushed { position, persisting, .. } = self.0.push(envelope, 0)?;
            self.0.stats.retained_refused.increment();
            return Ok(Published { position, persisting, retained: Some(Retention::Refused) });
        };
        let urgency = envelope.urgency();
        let Pushed { bytes, position, persisting } = self.0.push(envelope, version)?;
        let message = Message::decode(bytes).map_err(|_| BusError::Stopped)?;
        // Under the lock: so the last one on disk is the last one that readers get, too.
        self.0.keep(&message, deletes, urgency);
        Ok(Published { position, persisting, retained: Some(retained.update(message)) })
    }
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bus").field("stats", &self.0.stats).finish_non_exhaustive()
    }
}

/// A sealed envelope, and what became of it: see [`Published`].
struct Pushed {
    bytes: Bytes,
    position: u64,
    persisting: Option<Persisting>,
}

/// The filters that match a topic. Few do, but for a topic made to be matched by many.
type Matching<'a> = SmallVec<[&'a Arc<FilterReaders>; 8]>;

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
        let pushed = self.hand_over(envelope, retained_version);
        match &pushed {
            Ok(Pushed { position, .. }) => {
                self.stats.published.increment();
                self.stats.unread.add(u64::from(*position == 0));
            }
            Err(TryPublishError::Busy(..)) => self.stats.busy.increment(),
            Err(TryPublishError::Bus(_)) => {}
        }
        pushed
    }

    fn hand_over(&self, envelope: Envelope, retained_version: u64) -> Result<Pushed, TryPublishError> {
        let mut publisher = self.publisher.lock();
        let Publisher { sender, index, head, .. } = &mut *publisher;
        let (mut filters, topic) = (Matching::new(), envelope.topic());
        index.matching(topic, |filter| filters.push(filter));
        let readers: usize = filters.iter().map(|filter| filter.count()).sum();
        let is_awaited = envelope.qos() > Qos::AtMostOnce
            && (filters.iter().any(|filter| filter.is_durable()) || self.unpersisted.is_closing());
        let tracked = || is_awaited.then(|| Persisting::new(&self.unpersisted)).unzip();
        if readers == 0 {
            let (persisting, _) = tracked();
            return Ok(Pushed { bytes: envelope.seal(0, retained_version), position: 0, persisting });
        }
        let is_routed = |filter: &&Arc<FilterReaders>| filter.is_routed();
        let overtakes = || filters.iter().any(is_routed) || self.fan_out.has_topic(topic);
        let is_direct = readers <= self.direct_readers && !overtakes();
        if let Some(room) = self.missing_room(&filters, is_direct) {
            return Err(TryPublishError::Busy(envelope, room));
        }
        *head += 1;
        let position = *head;
        let slot = if is_direct { 0 } else { fan_out::slot(topic) };
        let (persisting, persist) = tracked();
        let bytes = envelope.seal(position, retained_version);
        if is_direct {
            for filter in filters {
                filter.hand_out(Way::Direct, position, &bytes, persist.as_ref());
            }
        } else {
            let filters = filters.into_iter().cloned().collect();
            let counted = router::counted_size(bytes.len());
            self.fan_out.begin(Job::Deliver(Delivery { position, bytes: counted, slot, filters, persist }));
            sender.publish(bytes.clone()).map_err(|Stopped| BusError::Stopped)?;
        }
        Ok(Pushed { bytes, position, persisting })
    }

    /// What a message for the readers of `filters` has to wait for.
    fn missing_room(&self, filters: &Matching<'_>, is_direct: bool) -> Option<Room> {
        if let Some(full) = filters.iter().find(|filter| filter.is_full()) {
            return Some(Room(Behind::Filter(Arc::clone(full))));
        }
        let has_room = is_direct || self.fan_out.has_room();
        (!has_room).then(|| Room(Behind::FanOut(self.fan_out.clone())))
    }

    /// `queue` gets what `filter` matches from now on.
    fn enter(&self, filter: &TopicFilter, queue: &Arc<ReaderQueue>) {
        // At a moment that is exactly between two messages.
        let mut publisher = self.publisher.lock();
        let head = publisher.head;
        if publisher.index.get_or_insert(filter).enter(queue, head) {
            self.count_system(filter, true);
        }
    }

    /// `queue` gets no more of it, but what was published before.
    fn leave(&self, filter: &TopicFilter, queue: &Arc<ReaderQueue>) {
        let mut publisher = self.publisher.lock();
        if let Some(readers) = publisher.index.get(filter).cloned() {
            self.leave_one(&mut publisher, &readers, queue);
        }
    }

    /// `queue` gets nothing more and forgets what it has.
    fn clear(&self, queue: &Arc<ReaderQueue>) {
        let mut publisher = self.publisher.lock();
        for readers in queue.filters() {
            self.leave_one(&mut publisher, &readers, queue);
        }
        let head = publisher.head;
        drop(publisher);
        queue.clear(head);
    }

    fn leave_one(&self, publisher: &mut Publisher, readers: &Arc<FilterReaders>, queue: &Arc<ReaderQueue>) {
        match readers.leave(queue, publisher.head) {
            Left::NotThere => return,
            Left::Others => {}
            Left::Nobody => publisher.index.remove(readers.filter()),
        }
        self.count_system(readers.filter(), false);
    }

    fn count_system(&self, filter: &TopicFilter, more: bool) {
        if !filter.as_str().starts_with('$') {
            return;
        }
        if more {
            self.system_readers.fetch_add(1, SeqCst);
        } else {
            self.system_readers.fetch_sub(1, SeqCst);
        }
        self.system_changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::message::Draft;
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

    fn all() -> TopicFilter {
        TopicFilter::new("#").unwrap()
    }

    #[tokio::test]
    async fn a_probe_comes_through_the_router_and_disturbs_nothing() {
        let bus = bus();
        let mut reader = bus.reader();
        reader.subscribe(&all());
        for _ in 0..3 {
            bus.probe().await.unwrap();
            bus.try_publish(envelope()).unwrap();
            let mut batch = VecDeque::new();
            reader.recv(&mut batch).await.unwrap();
            assert_eq!(batch.len(), 1);
        }
        assert_eq!(bus.stats().lost.get(), 0);
        bus.0.publisher.lock().sender.crash_router();
        assert!(bus.probe().await.is_err());
    }

    #[tokio::test]
    async fn when_the_router_dies_everybody_is_told() {
        let bus = bus();
        let mut reader = bus.reader();
        reader.subscribe(&all());
        bus.0.publisher.lock().sender.crash_router();
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
