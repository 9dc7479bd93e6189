//! MQTT packets as the edge sees them: one form for 3.1.1 and 5.
//!
//! Only what a client sends is read, and only what a server sends is written. The fields of a PUBLISH, the hot one, are
//! slices of the bytes that came. `read` knows the data types of the specification, `property` the properties.

use std::fmt;

use bytes::{Buf, Bytes, BytesMut};

mod ack;
mod connack;
mod connect;
mod disconnect;
mod property;
mod publish;
mod read;
mod recipient;
mod subscribe;
mod subscription_ids;

pub use ack::{Ack, AckKind, write_ack};
pub use connack::Connack;
pub use connect::{Connect, ConnectError, WillRequest};
pub use disconnect::{write_disconnect, write_pingresp};
pub use publish::{IncomingPublish, OutgoingPublish, are_forwardable};
pub use recipient::Recipient;
pub use subscribe::{Subscribe, SubscribeEntry, Unsubscribe, check_answer, write_suback, write_unsuback};
pub use subscription_ids::SubscriptionIds;

/// The protocol a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// MQTT 3.1, protocol level 3.
    V31,
    /// MQTT 3.1.1, protocol level 4.
    V311,
    /// MQTT 5.0, protocol level 5.
    V5,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Version::V31 => "3.1",
            Version::V311 => "3.1.1",
            Version::V5 => "5",
        })
    }
}

macro_rules! reasons {
    ($($name:ident = $code:literal, $text:literal;)*) => {
        /// A reason code (MQTT 5.0, section 2.4). 3.1.1 has no way to send most of them; they name the cause in logs.
        #[derive(Clone, Copy, PartialEq, Eq)]
        pub struct Reason(pub u8);

        #[allow(missing_docs)]
        impl Reason {
            $(pub const $name: Reason = Reason($code);)*
        }

        impl Reason {
            /// What the specification calls it.
            pub fn text(self) -> &'static str {
                match self.0 {
                    $($code => $text,)*
                    _ => "unknown reason",
                }
            }
        }
    };
}

reasons! {
    SUCCESS = 0x00, "success";
    NO_MATCHING_SUBSCRIBERS = 0x10, "no matching subscribers";
    NO_SUBSCRIPTION_EXISTED = 0x11, "no subscription existed";
    UNSPECIFIED = 0x80, "unspecified error";
    MALFORMED_PACKET = 0x81, "malformed packet";
    PROTOCOL_ERROR = 0x82, "protocol error";
    IMPLEMENTATION_SPECIFIC = 0x83, "implementation specific error";
    UNSUPPORTED_PROTOCOL_VERSION = 0x84, "unsupported protocol version";
    CLIENT_ID_NOT_VALID = 0x85, "client identifier not valid";
    BAD_USER_NAME_OR_PASSWORD = 0x86, "bad user name or password";
    NOT_AUTHORIZED = 0x87, "not authorized";
    SERVER_BUSY = 0x89, "server busy";
    SERVER_SHUTTING_DOWN = 0x8B, "server shutting down";
    BAD_AUTHENTICATION_METHOD = 0x8C, "bad authentication method";
    KEEP_ALIVE_TIMEOUT = 0x8D, "keep alive timeout";
    SESSION_TAKEN_OVER = 0x8E, "session taken over";
    TOPIC_FILTER_INVALID = 0x8F, "topic filter invalid";
    TOPIC_NAME_INVALID = 0x90, "topic name invalid";
    PACKET_ID_NOT_FOUND = 0x92, "packet identifier not found";
    RECEIVE_MAXIMUM_EXCEEDED = 0x93, "receive maximum exceeded";
    TOPIC_ALIAS_INVALID = 0x94, "topic alias invalid";
    PACKET_TOO_LARGE = 0x95, "packet too large";
    QUOTA_EXCEEDED = 0x97, "quota exceeded";
    ADMINISTRATIVE_ACTION = 0x98, "administrative action";
    RETAIN_NOT_SUPPORTED = 0x9A, "retain not supported";
    QOS_NOT_SUPPORTED = 0x9B, "QoS not supported";
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.text() {
            "unknown reason" => write!(f, "reason 0x{:02X}", self.0),
            text => f.write_str(text),
        }
    }
}

impl fmt::Debug for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{:02X} {self}", self.0)
    }
}

impl Reason {
    /// Whether the code says that something failed.
    pub fn is_error(self) -> bool {
        self.0 >= 0x80
    }
}

/// Why a packet cannot be accepted; MQTT 5 clients get it in DISCONNECT or CONNACK, then the connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {what}")]
pub struct PacketError {
    /// What MQTT 5 calls it.
    pub reason: Reason,
    /// The rule that was broken.
    pub what: &'static str,
}

impl PacketError {
    /// A packet that breaks the wire format [MQTT-4.13.1-1].
    pub const fn malformed(what: &'static str) -> PacketError {
        PacketError { reason: Reason::MALFORMED_PACKET, what }
    }

    /// A well-formed packet that must not come, or not now.
    pub const fn protocol(what: &'static str) -> PacketError {
        PacketError { reason: Reason::PROTOCOL_ERROR, what }
    }

    /// What the client may be told. Who may come in and who not is between the gateway and its owner.
    pub fn words(&self) -> &'static str {
        match self.reason {
            Reason::NOT_AUTHORIZED | Reason::BAD_USER_NAME_OR_PASSWORD => self.reason.text(),
            _ => self.what,
        }
    }
}

/// One packet as it came: the first byte of the fixed header, and what follows the remaining length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    first: u8,
    body: Bytes,
}

impl Frame {
    /// Takes the first whole packet off `input`; `None` when more bytes are needed. `max_size` counts the fixed header.
    pub fn split(input: &mut BytesMut, max_size: usize) -> Result<Option<Frame>, PacketError> {
        let Some((header, length)) = fixed_header(input)? else { return Ok(None) };
        if header + length > max_size {
            return Err(PacketError { reason: Reason::PACKET_TOO_LARGE, what: "larger than max_packet_size" });
        }
        if input.len() < header + length {
            return Ok(None);
        }
        let first = input[0];
        input.advance(header);
        Ok(Some(Frame { first, body: input.split_to(length).freeze() }))
    }
}

/// Lengths of the fixed header that `bytes` begins with, and of what follows it; `None` when more bytes are needed.
pub(super) fn fixed_header(bytes: &[u8]) -> Result<Option<(usize, usize)>, PacketError> {
    let mut length = 0;
    for index in 0..4 {
        let Some(&byte) = bytes.get(1 + index) else { return Ok(None) };
        length |= usize::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some((2 + index, length)));
        }
    }
    Err(PacketError::malformed("remaining length of more than four bytes"))
}

/// What a client sends after CONNECT.
#[derive(Debug)]
pub enum Packet {
    /// PUBLISH
    Publish(IncomingPublish),
    /// PUBACK, PUBREC, PUBREL or PUBCOMP
    Ack(Ack),
    /// SUBSCRIBE
    Subscribe(Subscribe),
    /// UNSUBSCRIBE
    Unsubscribe(Unsubscribe),
    /// PINGREQ
    Pingreq,
    /// DISCONNECT
    Disconnect {
        /// [`Reason::SUCCESS`] in MQTT 3.
        reason: Reason,
        /// A new session expiry interval in seconds.
        session_expiry: Option<u32>,
    },
}

impl Packet {
    /// Parses `frame`.
    pub fn parse(version: Version, frame: Frame) -> Result<Packet, PacketError> {
        let kind = frame.first >> 4;
        let expected = match kind {
            3 => None,
            4 | 5 | 7 | 12 | 14 => Some(0),
            6 | 8 | 10 => Some(2),
            0 => return Err(PacketError::protocol("packet type 0, which is reserved")),
            1 => return Err(PacketError::protocol("a second CONNECT [MQTT-3.1.0-2]")),
            15 => return Err(PacketError::protocol("AUTH without an authentication method [MQTT-4.12.0-6]")),
            9 | 11 if frame.first & 0x0F != 0 => {
                return Err(PacketError::malformed(
                    "reserved flags of a packet that only a server sends [MQTT-2.1.3-1]",
                ));
            }
            _ => return Err(PacketError::protocol("a packet that only a server sends")),
        };
        let flags = frame.first & 0x0F;
        // In 3.1 they are DUP, QoS and RETAIN of every packet, and mean nothing in these.
        if version != Version::V31 && expected.is_some_and(|expected| flags != expected) {
            return Err(PacketError::malformed("reserved flags of the fixed header [MQTT-2.1.3-1]"));
        }
        match kind {
            3 => IncomingPublish::parse(version, flags, frame.body).map(Packet::Publish),
            4..=7 => Ack::parse(version, kind, &frame.body).map(Packet::Ack),
            8 => Subscribe::parse(version, &frame.body).map(Packet::Subscribe),
            10 => Unsubscribe::parse(version, &frame.body).map(Packet::Unsubscribe),
            14 => disconnect::parse_disconnect(version, &frame.body),
            _ if frame.body.is_empty() => Ok(Packet::Pingreq),
            _ => Err(PacketError::malformed("bytes after the end of PINGREQ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(bytes: &[u8], max: usize) -> Result<Option<Frame>, PacketError> {
        Frame::split(&mut BytesMut::from(bytes), max)
    }

    #[test]
    fn frames_are_split() {
        assert_eq!(split(&[], 100), Ok(None));
        assert_eq!(split(&[0xC0], 100), Ok(None));
        assert_eq!(split(&[0x30, 3, 0, 1], 100), Ok(None));
        let mut input = BytesMut::from(&[0xC0, 0, 0x30, 1, 7, 9][..]);
        assert_eq!(Frame::split(&mut input, 100).unwrap().unwrap(), Frame { first: 0xC0, body: Bytes::new() });
        assert_eq!(Frame::split(&mut input, 100).unwrap().unwrap().body, &[7][..]);
        assert_eq!(&input[..], &[9]);
    }

    #[test]
    fn lengths_are_checked_before_the_body_comes() {
        assert_eq!(split(&[0x30, 0x80, 0x80, 0x80, 0x80, 1], 1 << 30).unwrap_err().reason, Reason::MALFORMED_PACKET);
        assert_eq!(split(&[0x30, 0xE8, 0x07], 1000).unwrap_err().reason, Reason::PACKET_TOO_LARGE);
        assert_eq!(split(&[0x30, 98], 100), Ok(None));
        assert_eq!(split(&[0x30, 99], 100).unwrap_err().reason, Reason::PACKET_TOO_LARGE);
    }

    #[test]
    fn reserved_flags_are_malformed() {
        for first in [0xC1, 0xE1, 0x80, 0xA0, 0x60, 0x41, 0x52, 0x71] {
            let frame = Frame { first, body: Bytes::from_static(&[0, 1]) };
            let error = Packet::parse(Version::V311, frame).unwrap_err();
            assert_eq!(error.reason, Reason::MALFORMED_PACKET, "{first:#x}");
        }
        let again = Frame { first: 0x6A, body: Bytes::from_static(&[0, 1]) };
        assert!(Packet::parse(Version::V31, again).is_ok(), "DUP in 3.1");
    }

    #[test]
    fn packets_that_a_client_does_not_send_are_protocol_errors() {
        for first in [0x00, 0x01, 0x10, 0x20, 0x90, 0xB0, 0xD0, 0xD1, 0xF0, 0xF1] {
            for version in [Version::V31, Version::V311, Version::V5] {
                let error = Packet::parse(version, Frame { first, body: Bytes::new() }).unwrap_err();
                assert_eq!(error.reason, Reason::PROTOCOL_ERROR, "{first:#x}");
            }
        }
        let long = Frame { first: 0xC0, body: Bytes::from_static(&[0]) };
        assert_eq!(Packet::parse(Version::V5, long).unwrap_err().reason, Reason::MALFORMED_PACKET);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(first: u8, body in proptest::collection::vec(any::<u8>(), 0..80), version in 0usize..3) {
            let version = [Version::V31, Version::V311, Version::V5][version];
            let frame = Frame { first, body: body.into() };
            let _ = Connect::parse(&frame);
            let _ = Packet::parse(version, frame);
        }
    }
}
