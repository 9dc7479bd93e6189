//! rumqttd's router and its links. The only file that names rumqttd; `tests/rumqttd_facts.rs` pins what it relies on.
//!
//! Two rules keep the router from blocking us and us from breaking it:
//! - An event is sent only for the first packet in a link's buffer; the router takes the whole buffer for one event.
//!   So at most one event a link (and one `Ready`) is ever in the router's bounded channel.
//! - `Ready` is sent once for each `Unschedule`, at once, and never on a link that was disconnected.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use rumqttd::local::{LinkBuilder, LinkRx, LinkTx};
use rumqttd::protocol::{
    Disconnect, DisconnectReasonCode, Filter, Packet, PingReq, Publish, QoS, RetainForwardRule, Subscribe, Unsubscribe,
};
use rumqttd::{Notification, RouterConfig};

use super::lane::{LANES, Lane, LaneSet};

/// Counted bytes after which the router starts a new segment of a lane's log.
const SEGMENT_SIZE: usize = 32 * 1024;
/// Segments of a lane's log; when one more is needed the oldest goes, read or not.
const SEGMENTS: usize = 3;

/// Unread bytes on a lane up to which one more message, however large, does no harm: a message pushes out at most the
/// oldest segment, and then the others still hold at least so much.
pub(super) const LANE_BUDGET: u64 = (SEGMENT_SIZE * (SEGMENTS - 1)) as u64;

/// Messages the router copies from one lane before it turns to the next; it stops at 200 for one link.
const MESSAGES_A_TURN: u64 = 100;

/// The lanes' topics as the router sees them: one letter each, so that none needs an allocation. None is `$`, which the
/// router refuses, `+`, `#` or `/`.
const LETTERS: &[u8; LANES] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.";

/// The router has ended, or has closed a link, which only a bug can make it do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stopped;

type Connect = dyn Fn(&str) -> Result<Link, Stopped> + Send;

/// The running router: a factory of links.
pub(super) struct Router {
    // The event type inside rumqttd's sender cannot be named, so a closure keeps it.
    connect: Box<Connect>,
}

/// Both ends of one link.
pub(super) struct Link {
    pub(super) sender: LinkSender,
    pub(super) receiver: LinkReceiver,
}

/// Towards the router.
pub(super) struct LinkSender(LinkTx);

/// From the router.
pub(super) struct LinkReceiver(LinkRx);

/// What comes from the router.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// A message.
    Message {
        /// Its lane.
        lane: Lane,
        /// How many messages were on the lane before it, since the router started.
        index: u64,
        /// Its envelope.
        envelope: Bytes,
    },
    /// The answer to a `subscribe` or a `ping`, or to one lane of an `unsubscribe`.
    Ack,
    /// Nothing for us.
    Nothing,
}

/// What one message of `size` bytes adds to the router's count of a lane.
pub(super) fn counted_size(size: usize) -> u64 {
    // Four, and the lane's topic of one letter.
    size as u64 + 5
}

impl Router {
    /// Starts the router's thread, which lives as long as the process.
    pub(super) fn start(max_links: usize) -> Router {
        let config = RouterConfig {
            max_connections: max_links,
            max_outgoing_packet_count: MESSAGES_A_TURN,
            max_segment_size: SEGMENT_SIZE,
            max_segment_count: SEGMENTS,
            custom_segment: None,
            initialized_filters: None,
            shared_subscriptions_strategy: rumqttd::Strategy::default(),
        };
        let events = rumqttd::Router::new(0, config).spawn();
        let connect = move |name: &str| {
            let link = LinkBuilder::new(name, events.clone()).topic_alias_max(0).build();
            let (tx, rx, _) = link.map_err(|_| Stopped)?;
            Ok(Link { sender: LinkSender(tx), receiver: LinkReceiver(rx) })
        };
        Router { connect: Box::new(connect) }
    }

    /// A new link. Blocks until the router answers. Two links with the same name cannot be open at once.
    pub(super) fn connect(&self, name: &str) -> Result<Link, Stopped> {
        (self.connect)(name)
    }
}

impl Link {
    /// Asks for the messages of `lanes`, from the event that carries this on; answered by one [`Arrival::Ack`].
    pub(super) fn subscribe(&mut self, lanes: LaneSet) -> Result<(), Stopped> {
        let filter = |lane| Filter {
            path: letter(lane).to_owned(),
            qos: QoS::AtMostOnce,
            nolocal: false,
            preserve_retain: false,
            retain_forward_rule: RetainForwardRule::Never,
        };
        let filters = lanes.iter().map(filter).collect();
        self.sender.push(Packet::Subscribe(Subscribe { pkid: 0, filters }, None))
    }

    /// Gives up `lanes`, all of which must be subscribed: the router answers each with one [`Arrival::Ack`], and
    /// others not at all.
    pub(super) fn unsubscribe(&mut self, lanes: LaneSet) -> Result<(), Stopped> {
        let filters = lanes.iter().map(|lane| letter(lane).to_owned()).collect();
        self.sender.push(Packet::Unsubscribe(Unsubscribe { pkid: 0, filters }, None))
    }

    /// Is answered by one [`Arrival::Ack`] after the router has handled all events sent before.
    pub(super) fn ping(&mut self) -> Result<(), Stopped> {
        self.sender.push(Packet::PingReq(PingReq))
    }

    /// Closes the link. It must be idle: if the router were about to serve it, it would take its place in the queue for
    /// that of the next link with the same number.
    pub(super) fn disconnect(mut self) -> Result<(), Stopped> {
        let reason_code = DisconnectReasonCode::NormalDisconnection;
        self.sender.push(Packet::Disconnect(Disconnect { reason_code }, None))
    }
}

impl LinkSender {
    /// Puts `envelope` on `lane`.
    pub(super) fn publish(&mut self, lane: Lane, envelope: Bytes) -> Result<(), Stopped> {
        let publish = Publish::new(Bytes::from_static(letter(lane).as_bytes()), envelope, false);
        self.push(Packet::Publish(publish, None))
    }

    /// Whether the router has taken all that was pushed, and so no event of this link is on its way.
    pub(super) fn is_idle(&self) -> bool {
        self.0.buffer().is_empty()
    }

    fn push(&mut self, packet: Packet) -> Result<(), Stopped> {
        {
            let mut buffer = self.0.buffer();
            if !buffer.is_empty() {
                buffer.push_back(packet);
                return Ok(());
            }
        }
        // `&mut self`: nobody else pushes between the look and this. `send` is async by name only.
        match now(self.0.send(packet)) {
            Some(Ok(_)) => Ok(()),
            _ => Err(Stopped),
        }
    }
}

#[cfg(test)]
impl LinkSender {
    /// Makes the router panic, if anyone has subscribed to anything; see `tests/rumqttd_facts.rs`.
    pub(super) fn crash_router(&mut self) {
        let publish = Publish::new(Bytes::from_static("\u{fc}".as_bytes()), Bytes::new(), false);
        self.push(Packet::Publish(publish, None)).unwrap();
    }

    /// Leaves something in the buffer without an event: to everybody else the router is behind.
    pub(super) fn stall(&mut self) {
        self.0.buffer().push_back(Packet::PingReq(PingReq));
    }

    /// Sends the event that `stall` kept.
    pub(super) fn go_on(&mut self) {
        assert!(now(self.0.send(Packet::PingReq(PingReq))).unwrap().is_ok());
    }
}

impl LinkReceiver {
    /// The next arrival. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<Arrival, Stopped> {
        let notification = self.0.next().await.map_err(|_| Stopped)?;
        self.sort(notification)
    }

    /// The next arrival, if there is one already.
    pub(super) fn try_next(&mut self) -> Result<Option<Arrival>, Stopped> {
        match now(self.0.next()) {
            Some(notification) => self.sort(notification.map_err(|_| Stopped)?).map(Some),
            None => Ok(None),
        }
    }

    /// The next arrival. Blocks the thread.
    pub(super) fn next_blocking(&mut self) -> Result<Arrival, Stopped> {
        let notification = self.0.recv().map_err(|_| Stopped)?;
        self.sort(notification)
    }

    fn sort(&self, notification: Option<Notification>) -> Result<Arrival, Stopped> {
        match notification {
            Some(Notification::Forward(forward)) => {
                let lane = forward.publish.topic.first().and_then(|&letter| lane_of(letter));
                Ok(match (lane, forward.cursor) {
                    (Some(lane), Some((_, index))) => {
                        Arrival::Message { lane, index, envelope: forward.publish.payload }
                    }
                    _ => Arrival::Nothing,
                })
            }
            Some(Notification::DeviceAck(_)) => Ok(Arrival::Ack),
            Some(Notification::Unschedule) => self.0.ready().map(|()| Arrival::Nothing).map_err(|_| Stopped),
            Some(Notification::Disconnect(..)) => Err(Stopped),
            _ => Ok(Arrival::Nothing),
        }
    }
}

fn letter(lane: Lane) -> &'static str {
    std::str::from_utf8(&LETTERS[lane.index()..=lane.index()]).unwrap_or_default()
}

fn lane_of(letter: u8) -> Option<Lane> {
    let index = match letter {
        b'A'..=b'Z' => letter - b'A',
        b'a'..=b'z' => letter - b'a' + 26,
        b'0'..=b'9' => letter - b'0' + 52,
        b'-' => 62,
        b'_' => 63,
        b'.' => 64,
        _ => return None,
    };
    Lane::from_index(usize::from(index))
}

/// The outcome of `future` if it is ready at once.
fn now<F: Future>(future: F) -> Option<F::Output> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
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
opaque_debug!(Router, Link, LinkSender, LinkReceiver);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_and_lanes_are_one_to_one() {
        for (index, &byte) in LETTERS.iter().enumerate() {
            let lane = Lane::from_index(index).unwrap();
            assert_eq!(lane_of(byte), Some(lane));
            assert_eq!(letter(lane).as_bytes(), [byte]);
        }
        assert!((0..=255).filter_map(lane_of).count() == LANES);
    }

    #[test]
    fn a_message_costs_what_the_router_counts() {
        // The topic's letter, the payload, and four: `Storage::size` of rumqttd's `PublishData`.
        assert_eq!(counted_size(100), 4 + 1 + 100);
    }
}
