//! CONNECT.

use std::fmt;

use bytes::Bytes;

use super::property::{self, Holders, Property, Value, id};
use super::publish::MessageProperties;
use super::read::{Reader, check_topic_name};
use super::{Frame, PacketError, Reason, Recipient, Version};
use crate::qos::Qos;

/// CONNECT.
#[derive(Clone, PartialEq, Eq)]
pub struct Connect {
    /// Protocol version.
    pub version: Version,
    /// Another broker's bridge, which mosquitto marks by bit 7 of the protocol level: its subscriptions are No Local and
    /// Retain As Published.
    pub is_bridge: bool,
    /// Empty: the server is to choose one.
    pub client_id: String,
    /// Clean Start, in MQTT 3 Clean Session.
    pub clean_start: bool,
    /// Seconds; 0: none.
    pub keep_alive: u16,
    /// Seconds; `None` in MQTT 3, where Clean Session decides.
    pub session_expiry: Option<u32>,
    /// QoS 1 and 2 messages the client takes at once.
    pub receive_maximum: u16,
    /// Bytes of the largest packet the client takes.
    pub maximum_packet_size: usize,
    /// Topic aliases the client takes.
    pub topic_alias_maximum: u16,
    /// Request Problem Information, if it is there.
    pub problem_information: Option<bool>,
    /// Whether an authentication method was asked for.
    pub has_authentication_method: bool,
    /// The will.
    pub will: Option<WillRequest>,
    /// User name.
    pub username: Option<String>,
    /// Password: any bytes. Never shown.
    pub password: Option<Bytes>,
}

/// The will of a CONNECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WillRequest {
    /// A valid topic name.
    pub topic: String,
    /// The payload.
    pub payload: Bytes,
    /// `qos`
    pub qos: Qos,
    /// `retain`
    pub retain: bool,
    /// Encoded properties, forwarded unchanged.
    pub properties: Bytes,
    /// Message expiry interval in seconds.
    pub expiry: Option<u32>,
    /// Will delay interval in seconds.
    pub delay: u32,
}

/// A CONNECT that cannot be accepted. Without a version no answer can be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectError {
    /// In which form a CONNACK can be sent.
    pub version: Option<Version>,
    /// Why.
    pub error: PacketError,
}

/// The password and what is in the will are nobody's business.
impl fmt::Debug for Connect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Connect { version, client_id, clean_start, username, .. } = self;
        f.debug_struct("Connect")
            .field("version", version)
            .field("client_id", client_id)
            .field("clean_start", clean_start)
            .field("username", username)
            .finish_non_exhaustive()
    }
}

impl Connect {
    /// Parses the first packet of a connection.
    pub fn parse(frame: &Frame) -> Result<Connect, ConnectError> {
        let mut reader = Reader::new(&frame.body);
        let head = Head::parse(frame.first, &mut reader)?;
        let refuse = |error| ConnectError { version: Some(head.version), error };
        head.check_flags(frame.first).map_err(refuse)?;
        head.parse_rest(reader).map_err(refuse)
    }

    /// To whom answers go.
    pub fn recipient(&self) -> Recipient {
        let Connect { version, problem_information, maximum_packet_size, .. } = *self;
        Recipient { version, problem_information, maximum_packet_size }
    }
}

/// What comes first in a CONNECT.
#[derive(Clone, Copy)]
struct Head {
    version: Version,
    is_bridge: bool,
    flags: u8,
}

impl Head {
    /// Reads the protocol name and level and the flags. What is no protocol of ours is answered as 3.1.1 demands: there
    /// it is a must [MQTT-3.1.2-2], in 5 a may.
    fn parse(first: u8, reader: &mut Reader<'_>) -> Result<Head, ConnectError> {
        let refuse = |version, error| ConnectError { version, error };
        if first >> 4 != 1 {
            return Err(refuse(None, PacketError::protocol("the first packet is not CONNECT [MQTT-3.1.0-1]")));
        }
        let name = reader.binary().map_err(|error| refuse(None, error))?;
        let level = reader.byte().map_err(|error| refuse(None, error))?;
        let version = match (name, level & 0x7F) {
            (b"MQIsdp", 3) => Version::V31,
            (b"MQTT", 4) => Version::V311,
            (b"MQTT", 5) => Version::V5,
            (b"MQTT" | b"MQIsdp", _) => {
                let what = "3.1, 3.1.1 and 5 are spoken here";
                let error = PacketError { reason: Reason::UNSUPPORTED_PROTOCOL_VERSION, what };
                return Err(refuse(Some(Version::V311), error));
            }
            _ => return Err(refuse(None, PacketError::malformed("not the protocol name MQTT [MQTT-3.1.2-1]"))),
        };
        let flags = reader.byte().map_err(|error| refuse(Some(version), error))?;
        Ok(Head { version, is_bridge: level & 0x80 != 0, flags })
    }

    fn check_flags(self, first: u8) -> Result<(), PacketError> {
        let Head { version, flags, .. } = self;
        let will = (flags >> 2) & 0x0F;
        let malformed = |what| Err(PacketError::malformed(what));
        // 3.1 reserves neither.
        if version != Version::V31 && first & 0x0F != 0 {
            return malformed("reserved flags of the fixed header [MQTT-2.1.3-1]");
        }
        if version != Version::V31 && flags & 1 != 0 {
            return malformed("the reserved flag of CONNECT [MQTT-3.1.2-3]");
        }
        if (will & 1 == 0 && will != 0) || will & 6 == 6 {
            return malformed("will QoS or will retain [MQTT-3.1.2-11 to -14]");
        }
        if version != Version::V5 && flags & 0xC0 == 0x40 {
            return malformed("a password without a user name [MQTT-3.1.2-22]");
        }
        Ok(())
    }

    fn parse_rest(self, mut reader: Reader<'_>) -> Result<Connect, PacketError> {
        let Head { version, is_bridge, flags } = self;
        let keep_alive = reader.two()?;
        let mut connect = Connect {
            version,
            is_bridge,
            client_id: String::new(),
            clean_start: flags & 2 != 0,
            keep_alive,
            session_expiry: None,
            receive_maximum: u16::MAX,
            maximum_packet_size: usize::MAX,
            topic_alias_maximum: 0,
            problem_information: None,
            has_authentication_method: false,
            will: None,
            username: None,
            password: None,
        };
        if version == Version::V5 {
            connect.read_properties(&mut reader)?;
        }
        connect.client_id = reader.name()?.to_owned();
        if flags & 4 != 0 {
            connect.will = Some(self.parse_will(&mut reader)?);
        }
        // A client of 3.1 may set the flags and leave the fields out: the length decides (3.1, section 3.1).
        let is_there =
            |flag: u8, reader: &Reader<'_>| flags & flag != 0 && !(version == Version::V31 && reader.is_empty());
        if is_there(0x80, &reader) {
            connect.username = Some(reader.name()?.to_owned());
        }
        if is_there(0x40, &reader) {
            connect.password = Some(Bytes::copy_from_slice(reader.binary()?));
        }
        reader.end()?;
        Ok(connect)
    }

    /// Copied: slices would keep the whole read buffer for as long as the connection lasts.
    fn parse_will(self, reader: &mut Reader<'_>) -> Result<WillRequest, PacketError> {
        let mut properties = MessageProperties::default();
        if self.version == Version::V5 {
            properties = MessageProperties::read(reader, Holders::WILL)?;
        }
        Ok(WillRequest {
            topic: check_topic_name(reader.binary()?)?.to_owned(),
            payload: Bytes::copy_from_slice(reader.binary()?),
            qos: Qos::from_u8((self.flags >> 3) & 3).unwrap_or_default(),
            retain: self.flags & 0x20 != 0,
            properties: properties.copied(),
            expiry: properties.expiry,
            delay: properties.will_delay,
        })
    }
}

impl Connect {
    fn read_properties(&mut self, reader: &mut Reader<'_>) -> Result<(), PacketError> {
        self.session_expiry = Some(0);
        let mut has_authentication_data = false;
        property::read(reader, Holders::CONNECT, |Property { id, value, .. }| {
            match (id, value) {
                (id::SESSION_EXPIRY_INTERVAL, Value::Number(seconds)) => self.session_expiry = Some(seconds),
                // Two byte integers.
                (id::RECEIVE_MAXIMUM, Value::Number(maximum)) => self.receive_maximum = maximum as u16,
                (id::TOPIC_ALIAS_MAXIMUM, Value::Number(maximum)) => self.topic_alias_maximum = maximum as u16,
                (id::MAXIMUM_PACKET_SIZE, Value::Number(bytes)) => self.maximum_packet_size = bytes as usize,
                (id::REQUEST_PROBLEM_INFORMATION, Value::Number(asked)) => self.problem_information = Some(asked == 1),
                (id::AUTHENTICATION_METHOD, _) => self.has_authentication_method = true,
                (id::AUTHENTICATION_DATA, _) => has_authentication_data = true,
                // Response information is not offered, and user properties of CONNECT mean nothing to us.
                _ => {}
            }
            Ok(())
        })?;
        if has_authentication_data && !self.has_authentication_method {
            return Err(PacketError::protocol("authentication data without a method (section 3.1.2.11.10)"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
