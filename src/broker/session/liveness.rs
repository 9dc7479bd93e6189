//! Whether a connection is still alive. Pure.

use std::time::{Duration, Instant};

use crate::broker::packet::{PacketError, Reason};

/// A client that takes no byte for so long, or for longer than its keep-alive allows, is gone.
const WRITE_STALL: Duration = Duration::from_secs(60);

/// When a client was last heard of, and whether it takes what is sent to it.
#[derive(Debug)]
pub struct Liveness {
    /// Longest silence allowed; `None`: any.
    silence: Option<Duration>,
    last_packet: Instant,
    /// Since when there is something to write and none of it was taken.
    stalled_since: Option<Instant>,
}

impl Liveness {
    /// A client that was heard at `now`.
    pub fn new(silence: Option<Duration>, now: Instant) -> Liveness {
        Liveness { silence, last_packet: now, stalled_since: None }
    }

    /// A packet came; or none was read, so that the client's silence says nothing.
    pub fn heard(&mut self, now: Instant) {
        self.last_packet = now;
    }

    /// The client took bytes; `more` wait.
    pub fn wrote(&mut self, now: Instant, more: bool) {
        self.stalled_since = more.then_some(now);
    }

    /// The client takes no bytes now.
    pub fn stalled(&mut self, now: Instant) {
        self.stalled_since.get_or_insert(now);
    }

    /// When the connection has to be given up, if nothing moves.
    pub fn deadline(&self) -> Option<Instant> {
        self.silence_deadline().into_iter().chain(self.stall_deadline()).min()
    }

    /// Why the connection has to be given up at `now`.
    pub fn overdue(&self, now: Instant) -> Option<PacketError> {
        let what = if self.stall_deadline().is_some_and(|deadline| now >= deadline) {
            "the client takes no data"
        } else if self.silence_deadline().is_some_and(|deadline| now >= deadline) {
            "nothing came for one and a half times the keep-alive [MQTT-3.1.2-22]"
        } else {
            return None;
        };
        Some(PacketError { reason: Reason::KEEP_ALIVE_TIMEOUT, what })
    }

    fn silence_deadline(&self) -> Option<Instant> {
        self.silence.map(|silence| self.last_packet + silence)
    }

    fn stall_deadline(&self) -> Option<Instant> {
        let patience = self.silence.map_or(WRITE_STALL, |silence| silence.max(WRITE_STALL));
        self.stalled_since.map(|since| since + patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_and_stalls_end_it() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut client = Liveness::new(Some(Duration::from_secs(90)), start);
        assert_eq!((client.deadline(), client.overdue(at(89))), (Some(at(90)), None));
        assert!(client.overdue(at(90)).is_some());
        client.heard(at(80));
        assert_eq!(client.deadline(), Some(at(170)));
        client.stalled(at(70));
        client.stalled(at(75));
        assert_eq!(client.deadline(), Some(at(160)), "no sooner than the keep-alive allows");
        client.wrote(at(100), true);
        client.heard(at(185));
        assert_eq!(client.overdue(at(190)).unwrap().what, "the client takes no data");
        client.wrote(at(100), false);
        assert_eq!(client.overdue(at(190)), None);
    }

    #[test]
    fn without_a_keep_alive_only_a_stall_ends_it() {
        let start = Instant::now();
        let mut client = Liveness::new(None, start);
        assert_eq!(client.deadline(), None);
        client.stalled(start);
        assert_eq!(client.deadline(), Some(start + WRITE_STALL));
    }
}
