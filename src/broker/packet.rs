//! MQTT packets as the edge sees them: one form for 3.1.1 and 5.
//!
//! Packets other than PUBLISH are parsed by `mqtt-protocol-core`; PUBLISH, the hot one, is read and written here
//! without copies. What that crate does not check is checked here: reserved flags, packet identifiers of 0, U+0000,
//! wildcards in topic names, the reserved bits of CONNECT.

use std::fmt;

use bytes::{Buf, Bytes, BytesMut};
use mqtt_protocol_core::mqtt::result_code::MqttError;

mod connect;
mod control;
mod publish;

pub use connect::{Connack, Connect, ConnectError, WillRequest};
pub use control::{Ack, AckKind, Subscribe, SubscribeEntry, Unsubscribe, write_ack, write_disconnect, write_pingresp};
pub use control::{write_suback, write_unsuback};
pub use publish::{IncomingPublish, OutgoingPublish};

/// The protocol a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// MQTT 3.1.1, protocol level 4.
    V311,
    /// MQTT 5.0, protocol level 5.
    V5,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
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

        impl fmt::Display for Reason {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.0 {
                    $($code => f.write_str($text),)*
                    other => write!(f, "reason 0x{other:02X}"),
                }
            }
        }
    };
}

reasons! {
    SUCCESS = 0x00, "success";
    NO_SUBSCRIPTION_EXISTED = 0x11, "no subscription existed";
    UNSPECIFIED = 0x80, "unspecified error";
    MALFORMED_PACKET = 0x81, "malformed packet";
    PROTOCOL_ERROR = 0x82, "protocol error";
    UNSUPPORTED_PROTOCOL_VERSION = 0x84, "unsupported protocol version";
    CLIENT_ID_NOT_VALID = 0x85, "client identifier not valid";
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
    RETAIN_NOT_SUPPORTED = 0x9A, "retain not supported";
    QOS_NOT_SUPPORTED = 0x9B, "QoS not supported";
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
}

impl From<MqttError> for PacketError {
    fn from(error: MqttError) -> PacketError {
        match u8::try_from(error as u16) {
            Ok(code) => PacketError { reason: Reason(code), what: "refused by the parser" },
            Err(_) => PacketError::malformed("refused by the parser"),
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
        let mut length = 0;
        for index in 0..4 {
            let Some(&byte) = input.get(1 + index) else { return Ok(None) };
            length |= usize::from(byte & 0x7F) << (7 * index);
            if byte & 0x80 != 0 {
                continue;
            }
            let header = 2 + index;
            if header + length > max_size {
                return Err(PacketError { reason: Reason::PACKET_TOO_LARGE, what: "larger than max_packet_size" });
            }
            if input.len() < header + length {
                return Ok(None);
            }
            let first = input[0];
            input.advance(header);
            return Ok(Some(Frame { first, body: input.split_to(length).freeze() }));
        }
        Err(PacketError::malformed("remaining length of more than four bytes"))
    }
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
        /// [`Reason::SUCCESS`] in 3.1.1.
        reason: Reason,
        /// A new session expiry interval in seconds.
        session_expiry: Option<u32>,
    },
}

impl Packet {
    /// Parses `frame`.
    pub fn parse(version: Version, frame: Frame) -> Result<Packet, PacketError> {
        let flags = frame.first & 0x0F;
        let expected = match frame.first >> 4 {
            3 => flags,
            6 | 8 | 10 => 2,
            _ => 0,
        };
        if flags != expected {
            return Err(PacketError::malformed("reserved flags of the fixed header [MQTT-2.1.3-1]"));
        }
        match frame.first >> 4 {
            3 => IncomingPublish::parse(version, flags, frame.body).map(Packet::Publish),
            kind @ 4..=7 => Ack::parse(version, kind, &frame.body).map(Packet::Ack),
            8 => Subscribe::parse(version, &frame.body).map(Packet::Subscribe),
            10 => Unsubscribe::parse(version, &frame.body).map(Packet::Unsubscribe),
            12 if frame.body.is_empty() => Ok(Packet::Pingreq),
            14 => control::parse_disconnect(version, &frame.body),
            0 => Err(PacketError::malformed("packet type 0")),
            1 => Err(PacketError::protocol("a second CONNECT [MQTT-3.1.0-2]")),
            15 if version == Version::V5 => Err(PacketError::protocol("AUTH without an authentication method")),
            _ => Err(PacketError::protocol("a packet that only a server sends")),
        }
    }
}

/// Runs a parser of `mqtt-protocol-core`, which must take all of `body`.
fn parse_exact<T>(body: &[u8], parse: impl FnOnce(&[u8]) -> Result<(T, usize), MqttError>) -> Result<T, PacketError> {
    let (packet, used) = parse(body)?;
    if used != body.len() {
        return Err(PacketError::malformed("bytes after the end of the packet"));
    }
    Ok(packet)
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
    }

    proptest! {
        #[test]
        fn no_bytes_panic(first: u8, body in proptest::collection::vec(any::<u8>(), 0..80), v5: bool) {
            let version = if v5 { Version::V5 } else { Version::V311 };
            let frame = Frame { first, body: body.into() };
            let _ = Connect::parse(&frame);
            let _ = Packet::parse(version, frame);
        }
    }
}
