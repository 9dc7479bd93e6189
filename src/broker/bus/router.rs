//! rumqttd's router, which takes a message that is for many readers off the publisher's hands: what is published at one
//! end comes out at the other, on a thread of its own. The only file that names rumqttd; `tests/rumqttd_facts.rs` pins
//! what it relies on.
//!
//! Two rules keep the router from blocking us and us from breaking it:
//! - An event is sent only for the first packet in a link's buffer; the router takes the whole buffer for one event.
//!   So at most one event a link (and one `Ready`) is ever in the router's bounded channel.
//! - `Ready` is sent once for each `Unschedule`, at once.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use rumqttd::local::{LinkBuilder, LinkRx, LinkTx};
use rumqttd::protocol::{Filter, Packet, Publish, QoS, RetainForwardRule, Subscribe};
use rumqttd::{Notification, RouterConfig};

/// Counted bytes after which the router starts a new segment of its log.
const SEGMENT_SIZE: usize = 32 * 1024;
/// Segments of the log; when one more is needed the oldest goes, read or not.
const SEGMENTS: usize = 3;

/// Counted bytes in the log up to which one more message, however large, does no harm: a message pushes out at most the
/// oldest segment, and then the others still hold at least so much.
pub(super) const BUDGET: u64 = (SEGMENT_SIZE * (SEGMENTS - 1)) as u64;

/// Messages the router copies from the log before it turns to something else.
const MESSAGES_A_TURN: u64 = 100;

/// The one topic that the router sees. It keeps a log for every filter and an entry for every topic it ever met, for ever:
/// so it is shown none of the clients' own.
const TOPIC: &str = "m";

/// The router has ended, or has closed a link, which only a bug can make it do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stopped;

/// Where messages go in.
pub(super) struct Sender {
    tx: LinkTx,
    /// Nothing comes here, but without it the router would close the link.
    _rx: LinkRx,
}

/// Where they come out. While it is not read, the log takes [`BUDGET`] and no more.
pub(super) struct Receiver {
    _tx: LinkTx,
    rx: LinkRx,
}

/// A message that has come through the router.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Arrival {
    /// How many messages were there before it, since the router started.
    pub(super) index: u64,
    /// Its envelope.
    pub(super) envelope: Bytes,
}

/// What one message of `size` bytes adds to the router's count.
pub(super) fn counted_size(size: usize) -> u64 {
    // Four, and the topic.
    (size + 4 + TOPIC.len()) as u64
}

/// Starts the router's thread, which lives as long as the process.
pub(super) fn start() -> Result<(Sender, Receiver), Stopped> {
    let config = RouterConfig {
        max_connections: 2,
        max_outgoing_packet_count: MESSAGES_A_TURN,
        max_segment_size: SEGMENT_SIZE,
        max_segment_count: SEGMENTS,
        custom_segment: None,
        initialized_filters: None,
        shared_subscriptions_strategy: rumqttd::Strategy::default(),
    };
    let events = rumqttd::Router::new(0, config).spawn();
    let connect = |name| LinkBuilder::new(name, events.clone()).topic_alias_max(0).build().map_err(|_| Stopped);
    let (mut tx, mut rx, _) = connect("relay")?;
    let filter = Filter {
        path: TOPIC.to_owned(),
        qos: QoS::AtMostOnce,
        nolocal: false,
        preserve_retain: false,
        retain_forward_rule: RetainForwardRule::Never,
    };
    send(&mut tx, Packet::Subscribe(Subscribe { pkid: 0, filters: vec![filter] }, None))?;
    while !matches!(rx.recv().map_err(|_| Stopped)?, Some(Notification::DeviceAck(_))) {}
    let (sender, _rx, _) = connect("publisher")?;
    Ok((Sender { tx: sender, _rx }, Receiver { _tx: tx, rx }))
}

impl Sender {
    /// Sends `envelope` through.
    pub(super) fn publish(&mut self, envelope: Bytes) -> Result<(), Stopped> {
        self.push(Packet::Publish(Publish::new(Bytes::from_static(TOPIC.as_bytes()), envelope, false), None))
    }

    fn push(&mut self, packet: Packet) -> Result<(), Stopped> {
        {
            let mut buffer = self.tx.buffer();
            if !buffer.is_empty() {
                buffer.push_back(packet);
                return Ok(());
            }
        }
        // `&mut self`: nobody else pushes between the look and this.
        send(&mut self.tx, packet)
    }

    /// Makes the router panic; see `tests/rumqttd_facts.rs`.
    #[cfg(test)]
    pub(super) fn crash_router(&mut self) {
        let publish = Publish::new(Bytes::from_static("\u{fc}".as_bytes()), Bytes::new(), false);
        self.push(Packet::Publish(publish, None)).unwrap();
    }
}

impl Receiver {
    /// The next message. Blocks the thread.
    pub(super) fn next(&mut self) -> Result<Arrival, Stopped> {
        loop {
            match self.rx.recv().map_err(|_| Stopped)? {
                Some(Notification::Forward(forward)) => {
                    if let Some((_, index)) = forward.cursor {
                        return Ok(Arrival { index, envelope: forward.publish.payload });
                    }
                }
                Some(Notification::Unschedule) => self.rx.ready().map_err(|_| Stopped)?,
                Some(Notification::Disconnect(..)) => return Err(Stopped),
                _ => {}
            }
        }
    }
}

/// `LinkTx::send` is async by name only.
fn send(tx: &mut LinkTx, packet: Packet) -> Result<(), Stopped> {
    match pin!(tx.send(packet)).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Ok(_)) => Ok(()),
        _ => Err(Stopped),
    }
}

macro_rules! opaque_debug {
    ($($type:ident),*) => {$(
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($type)).finish_non_exhaustive()
            }
        }
    )*};
}
opaque_debug!(Sender, Receiver);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_costs_what_the_router_counts() {
        // The topic, the payload, and four: `Storage::size` of rumqttd's `PublishData`.
        assert_eq!(counted_size(100), 4 + 1 + 100);
    }
}
