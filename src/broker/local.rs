//! The client without a socket: devices, `$SYS` and the gateway's own topics publish and subscribe with it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use bytes::Bytes;
use tokio::task::consume_budget;

use super::bus::{Bus, BusError, Published, Reader, Received, TryPublishError};
use super::message::{Draft, Envelope, Message};
use super::retained::Snapshot;
use super::subscriptions::{Subscription, SubscriptionOptions, Subscriptions};
use crate::qos::Qos;
use crate::topic::{TopicFilter, TopicName};

/// What local clients are held to; may change while they are there.
#[derive(Debug)]
pub struct LocalLimits {
    max_payload_size: AtomicUsize,
    retained: AtomicBool,
}

impl LocalLimits {
    /// Bytes of one message's payload, and whether retained messages are kept; without, RETAIN counts as 0.
    pub fn new(max_payload_size: usize, retained: bool) -> LocalLimits {
        LocalLimits { max_payload_size: AtomicUsize::new(max_payload_size), retained: AtomicBool::new(retained) }
    }

    /// Others from now on.
    pub fn set(&self, max_payload_size: usize, retained: bool) {
        self.max_payload_size.store(max_payload_size, Relaxed);
        self.retained.store(retained, Relaxed);
    }
}

/// Why a local client's message was not published.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PublishError {
    /// Larger than `max_payload_size`.
    #[error("cannot publish {size} bytes to {topic}: the limit is {limit}; hint: raise max_payload_size in [broker]")]
    TooLarge {
        /// The message's topic.
        topic: TopicName,
        /// Its payload.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// Somebody who would get it is behind; only from `try_publish`.
    #[error("cannot publish to {0} now: its readers are behind")]
    Busy(TopicName),
    /// The bus does not run.
    #[error(transparent)]
    Bus(#[from] BusError),
}

/// A message from a local client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// Its topic.
    pub topic: TopicName,
    /// Its payload.
    pub payload: Bytes,
    /// Its QoS.
    pub qos: Qos,
    /// Whether it is to be retained.
    pub retain: bool,
}

/// One local publisher. Cheap to clone; clones share its identity.
#[derive(Clone, Debug)]
pub struct LocalClient {
    bus: Bus,
    limits: Arc<LocalLimits>,
    session: u64,
    /// Whether what it retains goes to disk.
    keeps: bool,
}

/// A message for a local subscriber.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Its topic.
    pub topic: TopicName,
    /// Its payload.
    pub payload: Bytes,
    /// The publisher's QoS lowered to the subscription's.
    pub qos: Qos,
    /// Whether it comes from the retained store, and not live.
    pub retain: bool,
    /// MQTT 5 properties; see [`Draft::properties`](super::message::Draft::properties).
    pub properties: Bytes,
}

/// A local client's subscriptions.
#[derive(Debug)]
pub struct Subscriber {
    bus: Bus,
    reader: Reader,
    subscriptions: Subscriptions,
    session: u64,
    /// Retained messages that are still to be delivered, with the QoS of their subscription.
    retained: VecDeque<(Message, Qos)>,
    /// Live messages that are still to be matched.
    batch: VecDeque<Received>,
}

impl LocalClient {
    /// A client with a new identity.
    pub fn new(bus: Bus, limits: Arc<LocalLimits>) -> LocalClient {
        LocalClient { session: bus.session_number(), bus, limits, keeps: true }
    }

    /// The same client for what is said anew at each start: what it retains does not go to disk.
    #[must_use]
    pub fn volatile(self) -> LocalClient {
        LocalClient { keeps: false, ..self }
    }

    /// Publishes, waiting for room.
    pub async fn publish(&self, publish: Publish) -> Result<Published, PublishError> {
        let envelope = self.envelope(&publish)?;
        Ok(self.bus.publish(envelope).await?)
    }

    /// Publishes if there is room now.
    pub fn try_publish(&self, publish: Publish) -> Result<Published, PublishError> {
        let envelope = self.envelope(&publish)?;
        self.bus.try_publish(envelope).map_err(|error| match error {
            TryPublishError::Busy(..) => PublishError::Busy(publish.topic),
            TryPublishError::Bus(error) => PublishError::Bus(error),
        })
    }

    /// Subscribes; retained messages come first. A bare [`Qos`] will do for options.
    pub async fn subscribe<O: Into<SubscriptionOptions> + Copy>(
        &self,
        filters: Vec<(TopicFilter, O)>,
    ) -> Result<Subscriber, BusError> {
        let mut subscriber = Subscriber {
            bus: self.bus.clone(),
            reader: self.bus.reader(),
            subscriptions: Subscriptions::new(),
            session: self.session,
            retained: VecDeque::new(),
            batch: VecDeque::new(),
        };
        subscriber.replace(filters.clone(), filters);
        Ok(subscriber)
    }

    fn envelope(&self, publish: &Publish) -> Result<Envelope, PublishError> {
        let (size, limit) = (publish.payload.len(), self.limits.max_payload_size.load(Relaxed));
        if size > limit {
            return Err(PublishError::TooLarge { topic: publish.topic.clone(), size, limit });
        }
        let envelope = Envelope::new(&Draft {
            topic: publish.topic.as_str(),
            payload: &publish.payload,
            qos: publish.qos,
            retain: publish.retain && self.limits.retained.load(Relaxed),
            origin: self.session,
            expires: None,
            properties: &[],
        });
        Ok(if self.keeps { envelope.lazy() } else { envelope.volatile() })
    }
}

impl Subscriber {
    /// Subscribes to `filters` in place of what it had. A filter that stays misses and repeats nothing; for a new one its
    /// retained messages come first. Messages that were published before are matched against what holds now.
    pub fn change<O: Into<SubscriptionOptions> + Copy>(&mut self, filters: Vec<(TopicFilter, O)>) {
        let new = filters.iter().filter(|(filter, _)| self.subscriptions.get(filter).is_none()).cloned().collect();
        self.replace(filters, new);
    }

    /// As [`Subscriber::change`], for somebody else who goes on in its place: the retained messages of all filters come
    /// first, as at any start. One that a filter which stays is still to get live comes so, and only so.
    pub fn take_over<O: Into<SubscriptionOptions> + Copy>(&mut self, filters: Vec<(TopicFilter, O)>) {
        self.replace(filters.clone(), filters);
    }

    /// Subscribes to `filters`; the retained messages of `shown`, which are some of them, come first.
    fn replace<O: Into<SubscriptionOptions> + Copy>(
        &mut self,
        filters: Vec<(TopicFilter, O)>,
        shown: Vec<(TopicFilter, O)>,
    ) {
        filters.iter().for_each(|(filter, _)| self.reader.subscribe(filter));
        let before = std::mem::take(&mut self.subscriptions);
        let is_left = |filter: &TopicFilter| !filters.iter().any(|(other, _)| other == filter);
        before.iter().filter(|(filter, _)| is_left(filter)).for_each(|(filter, _)| self.reader.unsubscribe(filter));
        let snapshot = match shown.is_empty() {
            true => Snapshot::default(),
            false => self.bus.retained_of(shown.iter().map(|(filter, _)| filter)),
        };
        for (filter, options) in &filters {
            let retained_floor = before.get(filter).map_or(snapshot.version, |kept| kept.retained_floor);
            let subscription = Subscription { options: (*options).into(), id: None, retained_floor };
            self.subscriptions.insert(filter.clone(), subscription);
        }
        for message in snapshot.messages {
            let is_to_come =
                self.subscriptions.matches(&message, self.session).is_some() && self.reader.awaits(&message);
            let is_own = message.origin() == self.session;
            let matching = shown.iter().filter(|(filter, _)| filter.matches(message.topic()));
            let options =
                matching.map(|(_, options)| (*options).into()).filter(|options| !(options.no_local && is_own));
            let qos = options.map(|options| options.qos).max();
            self.retained.extend(qos.filter(|_| !is_to_come).map(|qos| (message, qos)));
        }
    }

    /// The next message; `None` when the bus has stopped. Cancel safe.
    /// Whoever subscribes must go on receiving: publishers to it wait for it.
    pub async fn recv(&mut self) -> Option<Delivery> {
        // As in `Bus::publish`: other tasks have their turn.
        consume_budget().await;
        loop {
            let delivery = self.next_retained().or_else(|| self.next_live());
            if delivery.is_some() {
                return delivery;
            }
            self.reader.recv(&mut self.batch).await.ok()?;
        }
    }

    /// The messages that have come until now; no more will.
    pub fn leave(&mut self) -> impl Iterator<Item = Delivery> {
        self.reader.take(&mut self.batch);
        self.reader.clear();
        self.rest()
    }

    /// The messages that have come until now.
    pub fn arrived(&mut self) -> impl Iterator<Item = Delivery> {
        self.reader.take(&mut self.batch);
        self.rest()
    }

    fn rest(&mut self) -> impl Iterator<Item = Delivery> {
        std::iter::from_fn(|| self.next_retained().or_else(|| self.next_live()))
    }

    fn next_retained(&mut self) -> Option<Delivery> {
        std::iter::from_fn(|| self.retained.pop_front()).find_map(|(message, qos)| Delivery::new(&message, qos, true))
    }

    fn next_live(&mut self) -> Option<Delivery> {
        std::iter::from_fn(|| self.batch.pop_front()).find_map(|Received { message, .. }| {
            let found = self.subscriptions.matches(&message, self.session)?;
            Delivery::new(&message, found.qos, false)
        })
    }
}

impl Delivery {
    /// `None` for a message that has expired.
    fn new(message: &Message, qos: Qos, retain: bool) -> Option<Delivery> {
        if message.expires().is_some_and(|expiry| expiry <= Instant::now()) {
            return None;
        }
        Some(Delivery {
            topic: TopicName::new(message.topic()).ok()?,
            payload: message.payload(),
            qos: message.qos().min(qos),
            retain,
            properties: Bytes::copy_from_slice(message.properties()),
        })
    }
}
