//! The logic between frames and topics, both ways, without I/O or a clock.
//!
//! - [`PublishRules`]: a frame from the device becomes publications.
//! - [`CommandRules`]: a message on a topic becomes frames for the device.
//!
//! Everything works on bytes: what a rule does not ask to change comes out as it went in.

use std::net::SocketAddr;
use std::time::{Instant, SystemTime};

use bytes::Bytes;

use crate::qos::Qos;
use crate::stats::DropReason;
use crate::topic::TopicName;

mod command;
mod compose;
mod fields;
#[cfg(test)]
mod fixture;
mod json;
mod limit;
mod payload;
mod publish;

pub use command::{Command, CommandOutcome, CommandRules, Target};
pub use payload::rfc3339;
pub use publish::PublishRules;

/// A message for the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// Where to.
    pub topic: TopicName,
    /// What.
    pub payload: Bytes,
    /// With which guarantee.
    pub qos: Qos,
    /// Whether the broker keeps it for later subscribers.
    pub retain: bool,
}

/// What became of a frame under one rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A message to publish now.
    Publish(Publication),
    /// A frame, or a message made from one, that goes no further.
    Dropped {
        /// Why, for the counter.
        reason: DropReason,
        /// Why, for people, where the reason alone does not say it.
        detail: Option<String>,
    },
}

/// The time, as an argument.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// For intervals.
    pub instant: Instant,
    /// For time stamps.
    pub wall: SystemTime,
}

impl Now {
    /// The clocks' time now.
    pub fn read() -> Now {
        Now { instant: Instant::now(), wall: SystemTime::now() }
    }
}

/// What `{peer}` stands for: the address, `_`, the port (`192.168.1.7_51234`, `fe80::1_51234`).
/// An IPv4-mapped IPv6 address is written as IPv4; an IPv6 zone is left out.
pub fn peer_name(peer: SocketAddr) -> String {
    format!("{}_{}", peer.ip().to_canonical(), peer.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_named_by_address_and_port() {
        let table = [
            ("192.168.1.7:51234", "192.168.1.7_51234"),
            ("[fe80::1]:51234", "fe80::1_51234"),
            ("[fe80::1%3]:51234", "fe80::1_51234"),
            ("[::ffff:192.168.1.7]:51234", "192.168.1.7_51234"),
        ];
        for (peer, name) in table {
            assert_eq!(peer_name(peer.parse().unwrap()), name);
        }
    }
}
