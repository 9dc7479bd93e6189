//! Whether a connection is still alive. Pure.

use std::time::{Duration, Instant};

use crate::broker::packet::{PacketError, Reason};

/// A client that takes no byte for so long, or for longer than its keep-alive allows, is gone.
const WRITE_STALL: Duration = Duration::from_secs(60);

/// Bytes a second of a packet that keep a connection alive: half of what a modem of 1200 baud carries. A client cannot
/// send PINGREQ inside a packet, nor, if it does one thing at a time, while it reads one.
const LEAST_RATE: u64 = 64;

/// When a client was last heard of, and whether it takes what is sent to it.
///
/// A packet gives the client its whole time, one and a half times the keep-alive; so do bytes that it takes after there
/// was no room for them. A part of a packet gives it as much time as that many bytes may take at [`LEAST_RATE`], and never
/// more than the whole. So a packet that comes at this rate on average may take as long as it likes, up to
/// `max_packet_size`; a client that stalls amid it goes as one that is silent, and one that trickles soon after.
#[derive(Debug)]
pub struct Liveness {
    /// Longest silence allowed; `None`: any.
    silence: Option<Duration>,
    /// From here on its silence counts.
    heard: Instant,
    /// Since when there is something to write and none of it was taken.
    stalled_since: Option<Instant>,
    /// There was no room for it.
    blocked: bool,
}

impl Liveness {
    /// A client that was heard at `now`.
    pub fn new(silence: Option<Duration>, now: Instant) -> Liveness {
        Liveness { silence, heard: now, stalled_since: None, blocked: false }
    }

    /// A packet came; or none was read, so that the client's silence says nothing.
    pub fn heard(&mut self, now: Instant) {
        self.heard = now;
    }

    /// So many bytes came, which need not be a whole packet.
    pub fn received(&mut self, now: Instant, bytes: usize) {
        let time = Duration::from_micros(bytes as u64 * 1_000_000 / LEAST_RATE);
        self.heard = now.min(self.heard + time);
    }

    /// The system took bytes for the client; `more` wait.
    pub fn wrote(&mut self, now: Instant, more: bool) {
        // The client has made the room for them.
        if std::mem::take(&mut self.blocked) {
            self.heard = self.heard.max(now);
        }
        self.stalled_since = more.then_some(now);
    }

    /// The client takes no bytes now.
    pub fn stalled(&mut self, now: Instant) {
        self.stalled_since.get_or_insert(now);
        self.blocked = true;
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
        self.silence.map(|silence| self.heard + silence)
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
        assert_eq!(client.deadline(), Some(at(190)), "it makes room");
        client.heard(at(185));
        assert_eq!(client.overdue(at(190)).unwrap().what, "the client takes no data");
        client.wrote(at(100), false);
        assert_eq!(client.overdue(at(190)), None);
    }

    #[test]
    fn a_packet_may_take_its_time_while_its_bytes_come() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let client = || Liveness::new(Some(Duration::from_secs(6)), start);
        let cut_after = |bytes_a_second: &dyn Fn(u64) -> usize| {
            let mut client = client();
            (1..=3600).find(|&second| {
                let is_over = client.overdue(at(second)).is_some();
                client.received(at(second), bytes_a_second(second));
                is_over
            })
        };
        assert_eq!(cut_after(&|_| 60_000), None, "it is quick");
        assert_eq!(cut_after(&|_| LEAST_RATE as usize), None, "it is slow");
        assert_eq!(cut_after(&|second| if second % 5 == 0 { 320 } else { 0 }), None, "it comes by fits and starts");
        assert_eq!(cut_after(&|second| if second <= 100 { 60_000 } else { 0 }), Some(106), "it stalls");
        assert_eq!(cut_after(&|_| 0), Some(6));
        assert_eq!(cut_after(&|_| 1), Some(7), "it trickles");
        assert_eq!(cut_after(&|_| LEAST_RATE as usize / 2), Some(11));
        let mut client = client();
        client.received(at(5), usize::MAX >> 24);
        assert_eq!(client.deadline(), Some(at(11)), "never more than the whole time");
    }

    #[test]
    fn a_client_that_takes_what_is_sent_is_alive() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut client = Liveness::new(Some(Duration::from_secs(6)), start);
        client.wrote(at(2), true);
        client.wrote(at(3), false);
        assert_eq!(client.deadline(), Some(at(6)), "what the system had room for says nothing");
        for second in 4..100 {
            assert_eq!(client.overdue(at(second)), None);
            client.stalled(at(second));
            client.wrote(at(second), true);
        }
        assert_eq!(client.deadline(), Some(at(105)));
        client.wrote(at(100), false);
        assert_eq!(client.deadline(), Some(at(105)));
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
