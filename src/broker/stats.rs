//! What the broker counts: the one place that `$SYS`, the stats topics and the status command read from.
//!
//! [`BrokerStats`] is written to while the broker works; [`Figures`](super::figures::Figures) is what it says at one
//! moment.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::sync::Notify;

use crate::stats::{Counter, Drops};

/// Counters of the network side since the start; readable at any time. Of a session's own a turn of its task may be
/// missing.
#[derive(Debug, Default)]
pub struct BrokerStats {
    /// Connections that came, before any limit.
    pub sockets: Counter,
    /// Connections accepted with CONNACK 0.
    pub connections: Counter,
    /// Connections refused with a CONNACK, or closed in its place.
    pub refused: Counter,
    /// Connections closed on arrival because of `max_connections`.
    pub over_limit: Counter,
    /// Connections that ended before CONNECT was complete: the client went, or its time was over. With the three before it
    /// is what came of all `sockets` whose CONNECT is not awaited just now.
    pub abandoned: Counter,
    /// Clients connected now.
    pub connected: Gauge,
    /// Sessions now, connected or kept.
    pub sessions: Gauge,
    /// Sessions that ended because their client did not come back in time.
    pub expired_sessions: Counter,
    /// What came from clients and what went to them.
    pub received: Traffic,
    /// See `received`. Packets count when they are encoded, bytes when the kernel has taken them.
    pub sent: Traffic,
    /// Subscriptions of clients now, shared ones not counted.
    pub subscriptions: Gauge,
    /// Memberships of clients in groups of shared subscriptions now.
    pub shared_subscriptions: Gauge,
    /// What waits for clients now, those on the way not counted.
    pub queued: QueuedGauge,
    /// QoS 1 and 2 messages sent to clients and not acknowledged now.
    pub inflight: Gauge,
    /// Messages for clients, and from them, that were dropped.
    pub dropped: Drops,
}

/// One direction.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Bytes of everything.
    pub bytes: Counter,
    /// MQTT packets of every kind.
    pub packets: Counter,
    /// PUBLISH packets. From clients: a QoS 2 message that comes again does not count again, so each was either
    /// published or is among the dropped as refused. To clients: sent again counts again.
    pub messages: Counter,
    /// Bytes of their payloads.
    pub payload: Counter,
}

/// Messages that wait, and their bytes.
#[derive(Debug, Default)]
pub struct QueuedGauge {
    /// How many.
    pub messages: Gauge,
    /// Topics, properties and payloads.
    pub bytes: Gauge,
}

/// How many of something there are now.
#[derive(Clone, Debug, Default)]
pub struct Gauge(Arc<Level>);

#[derive(Debug, Default)]
struct Level {
    now: AtomicUsize,
    most: AtomicUsize,
    /// Whom to tell of changes.
    news: OnceLock<Arc<Notify>>,
}

/// One holder's part of a [`Gauge`], until it is dropped.
#[derive(Debug)]
pub struct Counted {
    level: Arc<Level>,
    part: usize,
}

/// One holder's part of a [`QueuedGauge`].
#[derive(Debug)]
pub struct Queued {
    messages: Counted,
    bytes: Counted,
}

impl Gauge {
    /// One more.
    pub fn count(&self) -> Counted {
        let mut counted = self.part();
        counted.set(1);
        counted
    }

    /// A part that is 0 as yet.
    pub fn part(&self) -> Counted {
        Counted { level: self.0.clone(), part: 0 }
    }

    /// Notifies `news` of each change from now on. Only the first call counts.
    pub fn tell(&self, news: Arc<Notify>) {
        let _ = self.0.news.set(news);
    }

    /// The number now.
    pub fn get(&self) -> usize {
        self.0.now.load(Ordering::Relaxed)
    }

    /// The highest number there has been.
    pub fn most(&self) -> usize {
        self.0.most.load(Ordering::Relaxed)
    }
}

impl Counted {
    /// Changes the part; costs nothing if it is the same.
    pub fn set(&mut self, part: usize) {
        if part > self.part {
            let more = part - self.part;
            let now = self.level.now.fetch_add(more, Ordering::Relaxed) + more;
            self.level.most.fetch_max(now, Ordering::Relaxed);
        } else if part < self.part {
            self.level.now.fetch_sub(self.part - part, Ordering::Relaxed);
        } else {
            return;
        }
        self.part = part;
        if let Some(news) = self.level.news.get() {
            news.notify_one();
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.set(0);
    }
}

impl QueuedGauge {
    /// A part that is 0 as yet.
    pub fn part(&self) -> Queued {
        Queued { messages: self.messages.part(), bytes: self.bytes.part() }
    }
}

impl Queued {
    /// Changes the part.
    pub fn set(&mut self, messages: usize, bytes: usize) {
        self.messages.set(messages);
        self.bytes.set(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gauge_is_the_sum_of_its_parts_and_remembers_the_most() {
        let gauge = Gauge::default();
        let (one, mut many) = (gauge.count(), gauge.part());
        assert_eq!((gauge.get(), gauge.most()), (1, 1));
        many.set(7);
        many.set(3);
        assert_eq!((gauge.get(), gauge.most()), (4, 8));
        drop(one);
        drop(many);
        assert_eq!((gauge.get(), gauge.most()), (0, 8));
    }
}
