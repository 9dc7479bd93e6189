//! Messages that a publisher hands to a reader directly, without the router's thread between them.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::lane::Lane;

/// Room for so many is kept after a flood.
const KEPT: usize = 64;

/// A reader's own queue. What bounds it is the budget of each lane: see [`Flow`](super::flow::Flow).
#[derive(Debug, Default)]
pub(super) struct Direct {
    messages: Mutex<VecDeque<(Lane, Bytes)>>,
    /// Whether there is something in it; saves the reader a lock.
    filled: AtomicBool,
    arrived: Notify,
}

impl Direct {
    /// Adds a sealed envelope and wakes the reader.
    pub(super) fn push(&self, lane: Lane, envelope: Bytes) {
        let mut messages = self.messages.lock();
        messages.push_back((lane, envelope));
        if messages.len() == 1 {
            self.filled.store(true, Ordering::Release);
            drop(messages);
            self.arrived.notify_one();
        }
    }

    /// Moves all of it into `taken`, which must be empty.
    pub(super) fn take(&self, taken: &mut VecDeque<(Lane, Bytes)>) {
        if !self.filled.load(Ordering::Acquire) {
            return;
        }
        taken.shrink_to(KEPT);
        let mut messages = self.messages.lock();
        self.filled.store(false, Ordering::Release);
        std::mem::swap(&mut *messages, taken);
    }

    /// Waits until there is something. Cancel safe.
    pub(super) async fn arrived(&self) {
        self.arrived.notified().await;
    }
}
