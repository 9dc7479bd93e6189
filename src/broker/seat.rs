//! A reader as the publishers see it: what it was handed and has not taken, and how far it has read.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::lane::{LANES, Lane, LaneSet};

/// Room for so many messages is kept after a flood.
const KEPT: usize = 64;

/// One reader's place at its lanes.
#[derive(Debug)]
pub(super) struct Seat {
    /// For each lane its head after the last message that was taken.
    positions: [AtomicU64; LANES],
    /// Sealed envelopes; what bounds them is the budget of each lane: see [`Flow`](super::flow::Flow).
    messages: Mutex<VecDeque<(Lane, Bytes)>>,
    /// Whether there is something in `messages`; saves the reader a lock.
    filled: AtomicBool,
    arrived: Notify,
}

impl Seat {
    /// Position 0 everywhere.
    pub(super) fn new() -> Seat {
        Seat {
            positions: std::array::from_fn(|_| AtomicU64::new(0)),
            messages: Mutex::default(),
            filled: AtomicBool::new(false),
            arrived: Notify::new(),
        }
    }

    /// How far the reader has read `lane`.
    pub(super) fn position(&self, lane: Lane) -> &AtomicU64 {
        &self.positions[lane.index()]
    }

    /// Hands over a message and wakes the reader.
    pub(super) fn push(&self, lane: Lane, envelope: Bytes) {
        let mut messages = self.messages.lock();
        messages.push_back((lane, envelope));
        if messages.len() == 1 {
            self.filled.store(true, Ordering::Release);
            drop(messages);
            self.arrived.notify_one();
        }
    }

    /// Moves all messages into `taken`, which must be empty.
    pub(super) fn take(&self, taken: &mut VecDeque<(Lane, Bytes)>) {
        if !self.filled.load(Ordering::Acquire) {
            return;
        }
        taken.shrink_to(KEPT);
        let mut messages = self.messages.lock();
        self.filled.store(false, Ordering::Release);
        std::mem::swap(&mut *messages, taken);
    }

    /// Drops the messages of `lanes`.
    pub(super) fn forget(&self, lanes: LaneSet) {
        if !lanes.is_empty() {
            self.messages.lock().retain(|(lane, _)| !lanes.contains(*lane));
        }
    }

    /// Waits until there is something, or somebody wakes it. Cancel safe.
    pub(super) async fn arrived(&self) {
        self.arrived.notified().await;
    }

    /// Wakes the reader.
    pub(super) fn wake(&self) {
        self.arrived.notify_one();
    }
}
