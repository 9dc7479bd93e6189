//! What one session has counted since it last told the broker. Plain numbers: a message costs no shared counter.

use super::Session;
use crate::broker::packet::fixed_header;
use crate::broker::stats::{BrokerStats, Counted, Queued};

/// Counts of one session, told to [`BrokerStats`] once a turn of its task.
#[derive(Debug)]
pub struct SessionCounters {
    /// Packets from the client.
    pub packets_in: u64,
    /// PUBLISH packets from the client, and the bytes of their payloads.
    messages_in: (u64, u64),
    /// The same to the client.
    messages_out: (u64, u64),
    /// Up to here the packets in the output are counted.
    scanned: usize,
    subscriptions: Counted,
    shared_subscriptions: Counted,
    queued: Queued,
    inflight: Counted,
}

/// What a session has now.
#[derive(Clone, Copy, Debug)]
pub struct SessionGauges {
    pub subscriptions: usize,
    pub shared_subscriptions: usize,
    pub queued: usize,
    pub queued_bytes: usize,
    pub inflight: usize,
}

impl Session {
    /// Tells the broker's counters what was done since the last time, and what there is now.
    pub(super) fn account(&mut self, output: &[u8]) {
        self.counters.tell(&self.context.stats, output);
        self.counters.hold(SessionGauges {
            subscriptions: self.subscriptions.len(),
            shared_subscriptions: self.shares.len(),
            queued: self.queue.len(),
            queued_bytes: self.queue.bytes(),
            inflight: self.inflight.on_the_way(),
        });
    }
}

impl SessionCounters {
    /// Nothing yet.
    pub fn new(stats: &BrokerStats) -> SessionCounters {
        SessionCounters {
            packets_in: 0,
            messages_in: (0, 0),
            messages_out: (0, 0),
            scanned: 0,
            subscriptions: stats.subscriptions.part(),
            shared_subscriptions: stats.shared_subscriptions.part(),
            queued: stats.queued.part(),
            inflight: stats.inflight.part(),
        }
    }

    /// A connection begins, with CONNECT and an empty output.
    pub fn connected(&mut self) {
        self.packets_in += 1;
        self.scanned = 0;
    }

    /// A PUBLISH came.
    pub fn message_in(&mut self, payload: usize) {
        self.messages_in.0 += 1;
        self.messages_in.1 += payload as u64;
    }

    /// A PUBLISH was put into the output.
    pub fn message_out(&mut self, payload: usize) {
        self.messages_out.0 += 1;
        self.messages_out.1 += payload as u64;
    }

    /// The first `bytes` of the output are gone.
    pub fn wrote(&mut self, bytes: usize) {
        self.scanned = self.scanned.saturating_sub(bytes);
    }

    /// Tells the broker. `output` has what was there at the last call, less what was written, and what came since.
    pub fn tell(&mut self, stats: &BrokerStats, output: &[u8]) {
        let packets_out = count_packets(output.get(self.scanned..).unwrap_or_default());
        self.scanned = output.len();
        let (received, sent) = (&stats.received, &stats.sent);
        for (counter, n) in [
            (&received.packets, std::mem::take(&mut self.packets_in)),
            (&received.messages, std::mem::take(&mut self.messages_in.0)),
            (&received.payload, std::mem::take(&mut self.messages_in.1)),
            (&sent.packets, packets_out),
            (&sent.messages, std::mem::take(&mut self.messages_out.0)),
            (&sent.payload, std::mem::take(&mut self.messages_out.1)),
        ] {
            if n > 0 {
                counter.add(n);
            }
        }
    }

    /// Tells the broker what there is now.
    pub fn hold(&mut self, holdings: SessionGauges) {
        self.subscriptions.set(holdings.subscriptions);
        self.shared_subscriptions.set(holdings.shared_subscriptions);
        self.queued.set(holdings.queued, holdings.queued_bytes);
        self.inflight.set(holdings.inflight);
    }
}

/// How many packets `output` has, all of them whole: so the writers of packets need not count.
fn count_packets(mut output: &[u8]) -> u64 {
    let mut packets = 0;
    while let Ok(Some((header, length))) = fixed_header(output) {
        packets += 1;
        output = output.get(header + length..).unwrap_or_default();
    }
    packets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_counted_once_whenever_they_leave() {
        let stats = BrokerStats::default();
        let mut counters = SessionCounters::new(&stats);
        counters.connected();
        let mut output = [&[0x20, 2, 0, 0][..], &[0xD0, 0], &[0x30, 0x80, 1], &[7; 128]].concat();
        counters.message_out(100);
        counters.tell(&stats, &output);
        output.drain(..5);
        counters.wrote(5);
        output.extend([0xD0, 0]);
        counters.tell(&stats, &output);
        counters.wrote(output.len());
        counters.tell(&stats, &[]);
        assert_eq!((stats.received.packets.get(), stats.sent.packets.get()), (1, 4));
        assert_eq!((stats.sent.messages.get(), stats.sent.payload.get()), (1, 100));
    }

    #[test]
    fn what_a_session_has_goes_with_it() {
        let stats = BrokerStats::default();
        let mut counters = SessionCounters::new(&stats);
        counters.hold(SessionGauges {
            subscriptions: 2,
            shared_subscriptions: 1,
            queued: 3,
            queued_bytes: 300,
            inflight: 4,
        });
        assert_eq!((stats.subscriptions.get(), stats.queued.bytes.get(), stats.inflight.get()), (2, 300, 4));
        drop(counters);
        assert_eq!((stats.subscriptions.get(), stats.queued.bytes.get(), stats.inflight.get()), (0, 0, 0));
    }
}
