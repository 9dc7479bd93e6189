//! A reader: one session's end of the bus.

use std::collections::VecDeque;
use std::fmt;
use std::future::pending;
use std::sync::Arc;

use bytes::Bytes;

use super::bus::{BusError, Shared};
use super::flow::Seat;
use super::lane::{LANES, Lane, LaneSet};
use super::links::{Lease, Remains};
use super::message::Message;
use super::router::{Arrival, Stopped};

/// Messages in one batch, unless the bus has fewer: what the router sends before it wants to be asked again.
const BATCH: usize = 200;

/// One reader's end of the bus: a session's, or a local subscriber's.
pub struct Reader {
    shared: Arc<Shared>,
    /// While any lane is subscribed.
    lease: Option<Lease>,
    /// Subscribed at the router.
    lanes: LaneSet,
    /// Answers that the router owes.
    acks: usize,
    /// What came while waiting for answers.
    backlog: VecDeque<Message>,
    progress: Progress,
}

/// How far a reader has read.
struct Progress {
    seat: Arc<Seat>,
    lanes: [LaneProgress; LANES],
    /// Lanes that were read since the last report.
    unreported: LaneSet,
    /// Empty; its memory changes places with that of the direct queue.
    taken: VecDeque<(Lane, Bytes)>,
}

#[derive(Clone, Copy, Default)]
struct LaneProgress {
    /// Of the last message.
    position: u64,
    /// The index that the next message should have, once there was one.
    next_index: Option<u64>,
}

impl Reader {
    pub(super) fn new(shared: Arc<Shared>) -> Reader {
        Reader {
            shared,
            lease: None,
            lanes: LaneSet::EMPTY,
            acks: 0,
            backlog: VecDeque::new(),
            progress: Progress {
                seat: Arc::new(Seat::new()),
                lanes: [LaneProgress::default(); LANES],
                unreported: LaneSet::EMPTY,
                taken: VecDeque::new(),
            },
        }
    }

    /// Reads exactly `lanes` from now on: every message published after this returns arrives once.
    /// Messages of lanes given up that are on their way already may still arrive. Cancel safe: if dropped, call it again.
    pub async fn set_lanes(&mut self, lanes: LaneSet) -> Result<(), BusError> {
        // What an earlier call that was dropped half way left.
        self.settle().await?;
        self.leave(self.lanes.difference(lanes))?;
        self.settle().await?;
        self.enter(lanes.difference(self.lanes)).await?;
        self.settle().await?;
        if self.lanes.is_empty() {
            self.give_back();
        }
        Ok(())
    }

    /// Appends the next messages to `batch`: at least one, at most some hundred, in order for each publisher and topic.
    /// Waits for ever without lanes. Cancel safe. While a reader does not call this, publishers on its lanes soon wait.
    pub async fn recv(&mut self, batch: &mut VecDeque<Message>) -> Result<(), BusError> {
        let before = batch.len();
        batch.append(&mut self.backlog);
        self.progress.take_direct(&self.shared, batch);
        while batch.len() == before {
            let Some(lease) = &mut self.lease else { return pending().await };
            let receiver = &mut lease.link.receiver;
            let mut next = tokio::select! {
                biased;
                () = self.progress.seat.direct.arrived() => None,
                next = receiver.next() => Some(next?),
            };
            self.progress.take_direct(&self.shared, batch);
            while let Some(arrival) = next.take() {
                match arrival {
                    Arrival::Message { lane, index, envelope } => {
                        // What was handed over directly is older.
                        self.progress.take_direct(&self.shared, batch);
                        batch.extend(self.progress.take(&self.shared, lane, index, envelope));
                    }
                    Arrival::Ack => self.acks = self.acks.saturating_sub(1),
                    Arrival::Nothing => {}
                }
                if batch.len() - before < BATCH {
                    next = receiver.try_next()?;
                }
            }
            self.progress.report(&self.shared);
        }
        self.progress.report(&self.shared);
        self.shared.stats.delivered.add((batch.len() - before) as u64);
        Ok(())
    }

    /// Whether everything published so far on its lanes has been received.
    pub fn is_level(&self) -> bool {
        self.shared.flow.is_level(self.lanes, &self.progress.seat)
    }

    /// Subscribes `lanes` at a moment that is exactly between two messages.
    async fn enter(&mut self, lanes: LaneSet) -> Result<(), BusError> {
        if lanes.is_empty() {
            return Ok(());
        }
        if self.lease.is_none() {
            self.lease = Some(self.shared.links.lease().await?);
        }
        while !self.try_enter(lanes)? {
            // Both publishing links wait for the router. When it answers this it has come to them.
            self.settle().await?;
        }
        Ok(())
    }

    fn try_enter(&mut self, lanes: LaneSet) -> Result<bool, BusError> {
        let Some(lease) = &mut self.lease else { return Ok(false) };
        let mut publisher = self.shared.publisher.lock();
        let exact = publisher.barrier();
        if exact {
            lease.link.subscribe(lanes)?;
            self.shared.flow.join(lanes, &self.progress.seat);
            self.progress.start(lanes);
            self.lanes = self.lanes.union(lanes);
        } else {
            lease.link.ping()?;
        }
        self.acks += 1;
        Ok(exact)
    }

    fn leave(&mut self, lanes: LaneSet) -> Result<(), BusError> {
        let Some(lease) = &mut self.lease else { return Ok(()) };
        if !lanes.is_empty() {
            lease.link.unsubscribe(lanes)?;
            self.shared.flow.leave(lanes, &self.progress.seat);
            self.lanes = self.lanes.difference(lanes);
            self.acks += lanes.len();
        }
        Ok(())
    }

    /// Takes what comes until the router owes no answer.
    async fn settle(&mut self) -> Result<(), BusError> {
        while self.acks > 0 {
            let Some(lease) = &mut self.lease else { break };
            match lease.link.receiver.next().await? {
                Arrival::Ack => self.acks -= 1,
                Arrival::Message { lane, index, envelope } => {
                    self.progress.take_direct(&self.shared, &mut self.backlog);
                    self.backlog.extend(self.progress.take(&self.shared, lane, index, envelope));
                    self.progress.report(&self.shared);
                }
                Arrival::Nothing => {}
            }
        }
        Ok(())
    }

    fn give_back(&mut self) {
        if let Some(lease) = self.lease.take() {
            let remains = Remains { lanes: self.lanes, acks: self.acks };
            self.shared.flow.leave(self.lanes, &self.progress.seat);
            self.shared.links.give_back(lease, remains);
            (self.lanes, self.acks) = (LaneSet::EMPTY, 0);
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.give_back();
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("lanes", &self.lanes).finish_non_exhaustive()
    }
}

impl Progress {
    /// Of `lanes` any message may be the first.
    fn start(&mut self, lanes: LaneSet) {
        for lane in lanes.iter() {
            self.lanes[lane.index()] = LaneProgress::default();
        }
    }

    /// Takes what was handed over directly.
    fn take_direct(&mut self, shared: &Shared, batch: &mut VecDeque<Message>) {
        let mut taken = std::mem::take(&mut self.taken);
        self.seat.direct.take(&mut taken);
        for (lane, envelope) in taken.drain(..) {
            batch.extend(self.decode(shared, lane, envelope));
        }
        self.taken = taken;
    }

    /// Takes a message from the router.
    fn take(&mut self, shared: &Shared, lane: Lane, index: u64, envelope: Bytes) -> Option<Message> {
        let progress = &mut self.lanes[lane.index()];
        let lost = progress.next_index.map_or(0, |expected| index.saturating_sub(expected));
        progress.next_index = Some(index + 1);
        if lost > 0 {
            if shared.stats.lost.get() == 0 {
                tracing::error!(lost, "messages were lost inside the broker: please report this");
            }
            shared.stats.lost.add(lost);
        }
        self.decode(shared, lane, envelope)
    }

    fn decode(&mut self, shared: &Shared, lane: Lane, envelope: Bytes) -> Option<Message> {
        let message = match Message::decode(envelope) {
            Ok(message) => message,
            Err(error) => {
                tracing::error!(%error, "a message was lost inside the broker: please report this");
                shared.stats.lost.increment();
                return None;
            }
        };
        self.lanes[lane.index()].position = message.position();
        self.unreported.insert(lane);
        Some(message)
    }

    /// Tells waiting publishers how far it has read.
    fn report(&mut self, shared: &Shared) {
        for lane in std::mem::take(&mut self.unreported).iter() {
            shared.flow.advance(lane, &self.seat, self.lanes[lane.index()].position);
        }
    }
}

impl From<Stopped> for BusError {
    fn from(Stopped: Stopped) -> BusError {
        BusError::Stopped
    }
}
