//! A reader: one session's end of the bus.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::bus::{BusError, Shared};
use super::lane::{LANES, Lane, LaneSet};
use super::message::Message;
use super::seat::Seat;

/// One reader's end of the bus: a session's, or a local subscriber's.
pub struct Reader {
    shared: Arc<Shared>,
    seat: Arc<Seat>,
    lanes: LaneSet,
    /// Of the last message that was taken, for each lane.
    positions: [u64; LANES],
    /// Empty; its memory changes places with that of the seat's queue.
    taken: VecDeque<(Lane, Bytes)>,
}

impl Reader {
    pub(super) fn new(shared: Arc<Shared>) -> Reader {
        let seat = Arc::new(Seat::new());
        Reader { shared, seat, lanes: LaneSet::EMPTY, positions: [0; LANES], taken: VecDeque::new() }
    }

    /// Reads exactly `lanes` from now on: every message published after this returns arrives once. What has come from
    /// lanes that are given up and was not received is dropped.
    pub fn set_lanes(&mut self, lanes: LaneSet) {
        let left = self.lanes.difference(lanes);
        self.shared.flow.leave(left, &self.seat);
        self.seat.forget(left);
        let entered = lanes.difference(self.lanes);
        if !entered.is_empty() {
            // Under the publishers' lock, so at a moment that is exactly between two messages.
            let _publisher = self.shared.publisher.lock();
            self.shared.flow.join(entered, &self.seat);
        }
        self.lanes = lanes;
    }

    /// Appends the next messages to `batch`: at least one, and not more than the lanes' budgets hold, in order for each
    /// publisher and topic. Waits for ever without lanes. Cancel safe. While a reader does not call this, publishers on
    /// its lanes soon wait.
    pub async fn recv(&mut self, batch: &mut VecDeque<Message>) -> Result<(), BusError> {
        loop {
            if self.take(batch) {
                return Ok(());
            }
            if self.shared.stopped.is_cancelled() {
                return Err(BusError::Stopped);
            }
            self.seat.arrived().await;
        }
    }

    /// Appends what there is now to `batch`; says whether there was anything.
    pub fn take(&mut self, batch: &mut VecDeque<Message>) -> bool {
        let before = batch.len();
        let mut lanes = LaneSet::EMPTY;
        self.seat.take(&mut self.taken);
        for (lane, envelope) in self.taken.drain(..) {
            match Message::decode(envelope) {
                Ok(message) => {
                    self.positions[lane.index()] = message.position();
                    lanes.insert(lane);
                    batch.push_back(message);
                }
                Err(error) => {
                    tracing::error!(%error, "a message was lost inside the broker: please report this");
                    self.shared.stats.lost.increment();
                }
            }
        }
        for lane in lanes.iter() {
            self.shared.flow.advance(lane, &self.seat, self.positions[lane.index()]);
        }
        let count = batch.len() - before;
        self.shared.stats.delivered.add(count as u64);
        count > 0
    }

    /// Whether `message`, which is on one of its lanes, has been taken, or was there before this read the lane: else it is
    /// still to come.
    pub(super) fn has_passed(&self, message: &Message) -> bool {
        let lane = Lane::of(message.topic());
        self.seat.position(lane).load(Ordering::SeqCst) >= message.position()
    }

    /// Whether everything published so far on its lanes has been received.
    pub fn is_level(&self) -> bool {
        self.shared.flow.is_level(self.lanes, &self.seat)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.shared.flow.leave(self.lanes, &self.seat);
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("lanes", &self.lanes).finish_non_exhaustive()
    }
}
