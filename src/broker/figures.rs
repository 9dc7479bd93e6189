//! What the broker's counters say at one moment: plain numbers, for `$SYS`, the stats topics and the status command.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::bus::Bus;
use super::stats::{self, BrokerStats};
use super::store::{self, Health};

/// What they are taken from.
#[derive(Clone, Debug)]
pub(super) struct Sources {
    pub(super) started: Instant,
    pub(super) bus: Bus,
    pub(super) store: store::Store,
    pub(super) stats: Arc<BrokerStats>,
}

/// All figures of the broker. Counters run from its start; what there is of something is as of now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Figures {
    /// Whole seconds since the start.
    pub uptime: u64,
    /// Sessions and their connections.
    pub clients: Clients,
    /// Connections that came, whatever became of them.
    pub sockets: u64,
    /// Of these, closed at once because of `max_connections`.
    pub over_limit: u64,
    /// Connections accepted.
    pub accepted: u64,
    /// Connections whose CONNECT was refused, or was none.
    pub refused: u64,
    /// Connections that ended before CONNECT was complete.
    pub abandoned: u64,
    /// From clients.
    pub received: Traffic,
    /// To clients.
    pub sent: Traffic,
    /// Messages that everybody published, the gateway included.
    pub published: u64,
    /// Messages dropped, by reason; reasons that never happened are not there. Beside those of
    /// [`DropReason`](crate::stats::DropReason) there is `lost`: a bug of the bus.
    pub dropped: BTreeMap<&'static str, u64>,
    /// Retained messages, `$SYS` not counted.
    pub retained: Held,
    /// Messages that could not be retained because `max_retained` was reached; they were delivered.
    pub retained_refused: u64,
    /// Times a publisher had to wait for a reader.
    pub held_up: u64,
    /// Messages that wait for clients.
    pub queued: Held,
    /// QoS 1 and 2 messages sent and not acknowledged.
    pub inflight: u64,
    /// Subscriptions of clients.
    pub subscriptions: u64,
    /// Of shared subscriptions.
    pub shared_subscriptions: u64,
    /// What is on disk.
    pub store: Store,
    /// What the process takes.
    pub memory: Memory,
}

/// Sessions and their connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Clients {
    /// Sessions with a connection.
    pub connected: u64,
    /// Sessions kept without one.
    pub disconnected: u64,
    /// Most sessions there have been.
    pub maximum: u64,
    /// Sessions that ended because their client did not come back in time.
    pub expired: u64,
}

/// From clients, or to them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Traffic {
    /// Bytes of everything.
    pub bytes: u64,
    /// MQTT packets of every kind.
    pub packets: u64,
    /// PUBLISH packets.
    pub messages: u64,
    /// Bytes of their payloads.
    pub payload: u64,
}

/// Messages that are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Held {
    /// How many.
    pub messages: u64,
    /// Topics, properties and payloads.
    pub bytes: u64,
}

/// What survives a restart; see [`store`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Store {
    /// Whether what is to survive gets to the disk.
    pub state: StoreState,
    /// Why it does not, and what to do.
    pub error: Option<String>,
    /// Whole seconds for which the disk has not answered; 0 while it does.
    pub stalled_for: u64,
    /// How often the disk has not answered for more than 5 s.
    pub stalls: u64,
    /// Transactions written.
    pub commits: u64,
    /// Bytes written to its log; about as many again go into the database itself.
    pub written: u64,
    /// Changes that wait to be written.
    pub pending: u64,
    /// Transactions that failed.
    pub failures: u64,
    /// Changes dropped because the disk took none and too much waited.
    pub dropped: u64,
    /// Bytes of its files.
    pub size: u64,
}

/// See [`Health`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreState {
    /// `persistence = false`.
    #[default]
    Off,
    /// All is well.
    Healthy,
    /// The disk does not answer; who waits for it waits.
    Stalled,
    /// The broker goes on in memory.
    Degraded,
}

/// Resident memory of the process, in bytes; 0 where the kernel does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Now.
    pub current: u64,
    /// The most there has been.
    pub maximum: u64,
}

impl Figures {
    /// The figures at `now`.
    pub(super) fn take(sources: &Sources, now: Instant) -> Figures {
        let (stats, bus) = (&sources.stats, sources.bus.stats());
        let lost = Some(("lost", bus.lost.get())).filter(|&(_, n)| n > 0);
        // The parts of a gauge are read one after the other: a client may come or go in between.
        let (sessions, connected) = (stats.sessions.get() as u64, stats.connected.get() as u64);
        let (retained, retained_bytes) = sources.bus.retained_size();
        Figures {
            uptime: now.saturating_duration_since(sources.started).as_secs(),
            clients: Clients {
                connected,
                disconnected: sessions.saturating_sub(connected),
                maximum: stats.sessions.most() as u64,
                expired: stats.expired_sessions.get(),
            },
            sockets: stats.sockets.get(),
            over_limit: stats.over_limit.get(),
            accepted: stats.connections.get(),
            refused: stats.refused.get(),
            abandoned: stats.abandoned.get(),
            received: Traffic::take(&stats.received),
            sent: Traffic::take(&stats.sent),
            published: bus.published.get(),
            dropped: stats.dropped.nonzero().map(|(reason, n)| (reason.as_str(), n)).chain(lost).collect(),
            retained: Held { messages: retained as u64, bytes: retained_bytes as u64 },
            retained_refused: bus.retained_refused.get(),
            held_up: bus.busy.get(),
            queued: Held { messages: stats.queued.messages.get() as u64, bytes: stats.queued.bytes.get() as u64 },
            inflight: stats.inflight.get() as u64,
            subscriptions: stats.subscriptions.get() as u64,
            shared_subscriptions: stats.shared_subscriptions.get() as u64,
            store: Store::take(&sources.store),
            memory: Memory::take(),
        }
    }

    /// Messages dropped for any reason.
    pub fn dropped_messages(&self) -> u64 {
        self.dropped.values().sum()
    }
}

impl Traffic {
    fn take(traffic: &stats::Traffic) -> Traffic {
        Traffic {
            bytes: traffic.bytes.get(),
            packets: traffic.packets.get(),
            messages: traffic.messages.get(),
            payload: traffic.payload.get(),
        }
    }
}

impl Store {
    fn take(store: &store::Store) -> Store {
        let (state, stalled_for, error) = match store.health() {
            Health::Off => (StoreState::Off, 0, None),
            Health::Healthy => (StoreState::Healthy, 0, None),
            Health::Stalled(waited) => (StoreState::Stalled, waited.as_secs(), Some(does_not_answer(waited))),
            Health::Degraded { error, .. } => (StoreState::Degraded, 0, Some(error.as_ref().to_owned())),
        };
        let stats = store.stats();
        Store {
            state,
            error,
            stalled_for,
            stalls: stats.stalls.get(),
            commits: stats.commits.get(),
            written: stats.bytes_written.get(),
            pending: store.pending() as u64,
            failures: stats.failures.get(),
            dropped: stats.dropped.get(),
            size: store.size(),
        }
    }
}

/// What people are told of a disk that was asked so long ago.
pub fn does_not_answer(waited: Duration) -> String {
    format!("the disk has not answered for {} s", waited.as_secs())
}

impl StoreState {
    /// As it is written on `$SYS`, in lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            StoreState::Off => "off",
            StoreState::Healthy => "healthy",
            StoreState::Stalled => "stalled",
            StoreState::Degraded => "degraded",
        }
    }
}

impl Memory {
    fn take() -> Memory {
        // The kernel makes this text from what it has in memory: nothing waits for a disk.
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        Memory { current: status_bytes(&status, "VmRSS:"), maximum: status_bytes(&status, "VmHWM:") }
    }
}

/// The field `name` of proc_pid_status(5), which is in KiB.
fn status_bytes(status: &str, name: &str) -> u64 {
    let field = status.lines().find_map(|line| line.strip_prefix(name));
    let kib = field.and_then(|field| field.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or_default() * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_the_kernel() {
        let status = "VmPeak:\t  9 kB\nVmHWM:\t    7000 kB\nVmRSS:\t    6000 kB\n";
        assert_eq!((status_bytes(status, "VmHWM:"), status_bytes(status, "VmSwap:")), (7_168_000, 0));
        let memory = Memory::take();
        assert!(memory.current > 100_000 && memory.maximum >= memory.current, "{memory:?}");
    }
}
