//! What the broker has counted since it started.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::stats::{Counter, Drops};

/// Counters of the network side; readable at any time.
#[derive(Debug, Default)]
pub struct BrokerStats {
    /// Connections accepted with CONNACK 0.
    pub connections: Counter,
    /// Connections refused with a CONNACK, or closed in its place.
    pub refused: Counter,
    /// Connections closed on arrival because of `max_connections`.
    pub over_limit: Counter,
    /// Clients connected now.
    pub connected: Gauge,
    /// Sessions now, connected or kept.
    pub sessions: Gauge,
    /// PUBLISH packets accepted from clients.
    pub messages_in: Counter,
    /// PUBLISH packets sent to clients, again counting again.
    pub messages_out: Counter,
    /// Bytes read from clients.
    pub bytes_in: Counter,
    /// Bytes written to clients.
    pub bytes_out: Counter,
    /// Messages for clients, and from them, that were dropped.
    pub dropped: Drops,
}

/// How many of something there are now.
#[derive(Debug, Default)]
pub struct Gauge(Arc<AtomicUsize>);

/// Counts as one until it is dropped.
#[derive(Debug)]
pub struct Counted(Arc<AtomicUsize>);

impl Gauge {
    /// One more.
    pub fn count(&self) -> Counted {
        self.0.fetch_add(1, Ordering::Relaxed);
        Counted(self.0.clone())
    }

    /// The number now.
    pub fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
