//! A reader: one session's end of the bus.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use super::persist::PersistGuard;
use super::reader_queue::{Arrival, ReaderQueue};
use super::{BusError, Shared};
use crate::broker::message::Message;
use crate::broker::store::Qos2Gate;
use crate::topic::TopicFilter;

/// One reader's end of the bus: a session's, a group's, or a local subscriber's.
pub struct Reader {
    shared: Arc<Shared>,
    queue: Arc<ReaderQueue>,
    /// Empty; its memory changes places with that of the queue.
    taken: VecDeque<Arrival>,
}

/// A message that a reader has taken.
#[derive(Debug)]
pub struct Received {
    /// The message.
    pub message: Message,
    /// Only durable readers have one, of what its publisher may wait for.
    persist: Option<PersistGuard>,
}

impl Received {
    /// The gate that keeps the message from its client until its publisher's packet identifier is on disk. Not, if the publisher does not wait
    /// for this reader.
    pub fn gate(&self) -> Option<Qos2Gate> {
        Qos2Gate::of(&self.message).filter(|_| self.persist.is_some())
    }

    /// All that follows from the message was given to the store. Every durable reader says so of each message.
    pub fn persisted(self) {
        if let Some(persist) = self.persist {
            persist.persisted();
        }
    }
}

/// Makes a reader durable, or no longer.
#[derive(Clone)]
pub struct Durability {
    shared: Arc<Shared>,
    queue: Arc<ReaderQueue>,
}

impl Reader {
    pub(super) fn new(shared: Arc<Shared>, number: u64) -> Reader {
        Reader { shared, queue: Arc::new(ReaderQueue::new(number)), taken: VecDeque::new() }
    }

    /// Reads what `filter` matches from now on: every message published after this returns arrives once, by however many
    /// filters it comes.
    pub fn subscribe(&mut self, filter: &TopicFilter) {
        self.shared.enter(filter, &self.queue);
    }

    /// Ceases to. What was published before still comes.
    pub fn unsubscribe(&mut self, filter: &TopicFilter) {
        self.shared.leave(filter, &self.queue);
    }

    /// Reads nothing from now on, and forgets what has come and was not received.
    pub fn clear(&mut self) {
        self.shared.clear(&self.queue);
    }

    /// Is durable from the next message on, or no longer.
    pub fn set_durable(&self, durable: bool) {
        self.durability().set(durable);
    }

    /// For whoever else decides whether publishers wait until what this reader gets is in the store.
    pub fn durability(&self) -> Durability {
        Durability { shared: self.shared.clone(), queue: self.queue.clone() }
    }

    /// Appends the next messages to `batch`: at least one, and not more than the budget holds, in order for each publisher
    /// and topic. Waits for ever without filters. Cancel safe. While a reader does not call this, publishers to it soon
    /// wait.
    pub async fn recv(&mut self, batch: &mut VecDeque<Received>) -> Result<(), BusError> {
        loop {
            if self.take(batch) {
                return Ok(());
            }
            if self.shared.fan_out.stopped.is_cancelled() {
                return Err(BusError::Stopped);
            }
            self.queue.arrived().await;
        }
    }

    /// Appends what there is now to `batch`; says whether there was anything.
    pub fn take(&mut self, batch: &mut VecDeque<Received>) -> bool {
        let before = batch.len();
        self.queue.take(&mut self.taken);
        for Arrival { envelope, persist, .. } in self.taken.drain(..) {
            match Message::decode(envelope) {
                Ok(message) => batch.push_back(Received { message, persist }),
                Err(error) => {
                    tracing::error!(%error, "a message was lost inside the broker: please report this");
                    self.shared.stats.lost.increment();
                }
            }
        }
        let count = batch.len() - before;
        self.shared.stats.delivered.add(count as u64);
        count > 0
    }

    /// Whether `message`, which one of its filters matches, is still to be received.
    pub(in crate::broker) fn awaits(&self, message: &Message) -> bool {
        // In this order: what leaves the router is in the queue before.
        let is_routed = self.shared.fan_out.contains(message.position());
        self.queue.awaits(message.position(), is_routed)
    }

    /// Whether everything published so far for its filters has been received.
    pub fn is_level(&self) -> bool {
        self.queue.all_filters(|filter| !filter.is_routed()) && self.queue.is_empty()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.shared.clear(&self.queue);
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("number", &self.queue.number()).finish_non_exhaustive()
    }
}

impl Durability {
    /// From the next message on publishers wait for the reader, or not any more.
    pub fn set(&self, durable: bool) {
        // Under the publishers' lock, so at a moment that is exactly between two messages.
        let _publisher = self.shared.publisher.lock();
        self.queue.set_durable(durable);
    }
}

impl fmt::Debug for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Durability").finish_non_exhaustive()
    }
}
