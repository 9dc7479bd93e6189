//! CONNECT and CONNACK.

use bytes::{BufMut, Bytes, BytesMut};
use mqtt_protocol_core::mqtt::packet as mpc;
use mqtt_protocol_core::mqtt::packet::{Property, v3_1_1, v5_0};
use mqtt_protocol_core::mqtt::result_code::{ConnectReasonCode, MqttError};

use super::publish::{PublishProperties, check_topic_name};
use super::{Frame, PacketError, Reason, Version, parse_exact};
use crate::qos::Qos;

/// CONNECT.
#[derive(Clone, Debug)]
pub struct Connect {
    /// Protocol version.
    pub version: Version,
    /// Empty: the server is to choose one.
    pub client_id: String,
    /// Clean Start, in 3.1.1 Clean Session.
    pub clean_start: bool,
    /// Seconds; 0: none.
    pub keep_alive: u16,
    /// Seconds; `None` in 3.1.1, where Clean Session decides.
    pub session_expiry: Option<u32>,
    /// QoS 1 and 2 messages the client takes at once.
    pub receive_maximum: u16,
    /// Bytes of the largest packet the client takes.
    pub maximum_packet_size: usize,
    /// Topic aliases the client takes.
    pub topic_alias_maximum: u16,
    /// Whether an authentication method was asked for.
    pub has_authentication_method: bool,
    /// The will.
    pub will: Option<WillRequest>,
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

impl Connect {
    /// Parses the first packet of a connection.
    pub fn parse(frame: &Frame) -> Result<Connect, ConnectError> {
        let refuse = |version, error| ConnectError { version, error };
        let version = protocol_version(frame)?;
        let parsed = match version {
            Version::V311 => parse_v311(&frame.body),
            Version::V5 => parse_v5(&frame.body),
        };
        let connect = parsed.map_err(|error| refuse(Some(version), error))?;
        if connect.client_id.contains('\0') {
            let what = "U+0000 in the client identifier [MQTT-1.5.4-2]";
            return Err(refuse(Some(version), PacketError { reason: Reason::CLIENT_ID_NOT_VALID, what }));
        }
        Ok(connect)
    }
}

/// Reads the protocol name and level, and checks the flags, which `mqtt-protocol-core` does not.
fn protocol_version(frame: &Frame) -> Result<Version, ConnectError> {
    let refuse = |version, error| Err(ConnectError { version, error });
    let unsupported = PacketError { reason: Reason::UNSUPPORTED_PROTOCOL_VERSION, what: "3.1.1 and 5 are spoken here" };
    if frame.first != 0x10 {
        return refuse(None, PacketError::protocol("the first packet is not CONNECT [MQTT-3.1.0-1]"));
    }
    if frame.body.starts_with(b"\0\x06MQIsdp") {
        return refuse(Some(Version::V311), unsupported);
    }
    let Some((&[level, flags], _)) =
        frame.body.strip_prefix(b"\0\x04MQTT".as_slice()).and_then(|rest| rest.split_first_chunk())
    else {
        return refuse(None, PacketError::malformed("not the protocol name MQTT [MQTT-3.1.2-1]"));
    };
    let version = match level & 0x7F {
        4 => Version::V311,
        5 => Version::V5,
        0..=3 => return refuse(Some(Version::V311), unsupported),
        _ => return refuse(Some(Version::V5), unsupported),
    };
    // Bit 7 of the level marks a bridge of mosquitto; it asks for nothing that a client does not get.
    if level & 0x80 != 0 {
        return refuse(Some(version), unsupported);
    }
    if flags & 1 != 0 {
        return refuse(Some(version), PacketError::malformed("the reserved flag of CONNECT [MQTT-3.1.2-3]"));
    }
    let will_bits = (flags >> 3) & 7;
    if (flags & 4 == 0 && will_bits != 0) || will_bits & 3 == 3 {
        return refuse(Some(version), PacketError::malformed("will QoS or will retain [MQTT-3.1.2-11 to -14]"));
    }
    Ok(version)
}

fn parse_v311(body: &[u8]) -> Result<Connect, PacketError> {
    let packet = parse_exact(body, v3_1_1::Connect::parse)?;
    let will = match (packet.will_topic(), packet.will_payload()) {
        (Some(topic), Some(payload)) => Some(WillRequest {
            topic: check_topic_name(topic.as_bytes())?.to_owned(),
            payload: Bytes::copy_from_slice(payload),
            qos: Qos::from_u8(packet.will_qos() as u8).unwrap_or_default(),
            retain: packet.will_retain(),
            properties: Bytes::new(),
            expiry: None,
            delay: 0,
        }),
        _ => None,
    };
    Ok(Connect {
        version: Version::V311,
        client_id: packet.client_id().to_owned(),
        clean_start: packet.clean_session(),
        keep_alive: packet.keep_alive(),
        session_expiry: None,
        receive_maximum: u16::MAX,
        maximum_packet_size: usize::MAX,
        topic_alias_maximum: 0,
        has_authentication_method: false,
        will,
    })
}

fn parse_v5(body: &[u8]) -> Result<Connect, PacketError> {
    let packet = parse_exact(body, v5_0::Connect::parse)?;
    let mut connect = Connect {
        version: Version::V5,
        client_id: packet.client_id().to_owned(),
        clean_start: packet.clean_start(),
        keep_alive: packet.keep_alive(),
        session_expiry: Some(0),
        receive_maximum: u16::MAX,
        maximum_packet_size: usize::MAX,
        topic_alias_maximum: 0,
        has_authentication_method: false,
        will: will_v5(&packet)?,
    };
    for property in packet.props() {
        match property {
            Property::SessionExpiryInterval(value) => connect.session_expiry = Some(value.val()),
            Property::ReceiveMaximum(value) => connect.receive_maximum = value.val(),
            Property::MaximumPacketSize(value) => connect.maximum_packet_size = value.val() as usize,
            Property::TopicAliasMaximum(value) => connect.topic_alias_maximum = value.val(),
            Property::AuthenticationMethod(_) => connect.has_authentication_method = true,
            _ => {}
        }
    }
    Ok(connect)
}

fn will_v5(packet: &v5_0::Connect) -> Result<Option<WillRequest>, PacketError> {
    let (Some(topic), Some(payload)) = (packet.will_topic(), packet.will_payload()) else { return Ok(None) };
    let mut properties = PublishProperties::default();
    let mut delay = 0;
    for property in packet.will_props() {
        match property {
            Property::WillDelayInterval(value) => delay = value.val(),
            other => properties.take(other, &other.to_continuous_buffer())?,
        }
    }
    Ok(Some(WillRequest {
        topic: check_topic_name(topic.as_bytes())?.to_owned(),
        payload: Bytes::copy_from_slice(payload),
        qos: Qos::from_u8(packet.will_qos() as u8).unwrap_or_default(),
        retain: packet.will_retain(),
        properties: properties.forwarded.freeze(),
        expiry: properties.expiry,
        delay,
    }))
}

/// CONNACK of an accepted connection. `None`: the value is the one the client assumes without the property.
#[derive(Clone, Debug, Default)]
pub struct Connack {
    /// Session Present.
    pub session_present: bool,
    /// Seconds, if not what the client asked for.
    pub session_expiry: Option<u32>,
    /// QoS 1 and 2 messages taken at once.
    pub receive_maximum: u16,
    /// If not 2.
    pub maximum_qos: Option<Qos>,
    /// Whether retained messages are offered.
    pub retain_available: bool,
    /// Bytes of the largest packet taken.
    pub maximum_packet_size: u32,
    /// If the server chose it.
    pub assigned_client_id: Option<String>,
    /// Topic aliases taken.
    pub topic_alias_maximum: u16,
    /// Seconds, if not what the client asked for.
    pub server_keep_alive: Option<u16>,
}

impl Connack {
    /// Appends the packet. Fails only if a value is out of the range MQTT gives it.
    pub fn write(&self, out: &mut BytesMut, version: Version) -> Result<(), MqttError> {
        if version == Version::V311 {
            out.put_slice(&[0x20, 2, u8::from(self.session_present), 0]);
            return Ok(());
        }
        let packet = v5_0::Connack::builder()
            .session_present(self.session_present)
            .reason_code(ConnectReasonCode::Success)
            .props(self.properties()?)
            .build()?;
        out.put_slice(&packet.to_continuous_buffer());
        Ok(())
    }

    fn properties(&self) -> Result<Vec<Property>, MqttError> {
        let mut properties: Vec<Property> = vec![
            mpc::ReceiveMaximum::new(self.receive_maximum)?.into(),
            mpc::MaximumPacketSize::new(self.maximum_packet_size)?.into(),
            mpc::TopicAliasMaximum::new(self.topic_alias_maximum)?.into(),
        ];
        if let Some(seconds) = self.session_expiry {
            properties.push(mpc::SessionExpiryInterval::new(seconds)?.into());
        }
        if let Some(qos) = self.maximum_qos {
            properties.push(mpc::MaximumQos::new(qos as u8)?.into());
        }
        if !self.retain_available {
            properties.push(mpc::RetainAvailable::new(0)?.into());
        }
        if let Some(id) = &self.assigned_client_id {
            properties.push(mpc::AssignedClientIdentifier::new(id)?.into());
        }
        if let Some(seconds) = self.server_keep_alive {
            properties.push(mpc::ServerKeepAlive::new(seconds)?.into());
        }
        Ok(properties)
    }

    /// Appends the CONNACK that refuses a connection. 3.1.1 knows five codes (section 3.2.2.3); what fits none of them
    /// is answered by closing alone.
    pub fn write_refusal(out: &mut BytesMut, version: Version, reason: Reason) {
        if version == Version::V5 {
            out.put_slice(&[0x20, 3, 0, reason.0, 0]);
            return;
        }
        let code = match reason {
            Reason::UNSUPPORTED_PROTOCOL_VERSION => 1,
            Reason::CLIENT_ID_NOT_VALID => 2,
            Reason::SERVER_BUSY | Reason::SERVER_SHUTTING_DOWN | Reason::QUOTA_EXCEEDED => 3,
            Reason(0x86) => 4,
            Reason::NOT_AUTHORIZED => 5,
            _ => return,
        };
        out.put_slice(&[0x20, 2, 0, code]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(body: &[u8]) -> Frame {
        Frame { first: 0x10, body: Bytes::copy_from_slice(body) }
    }

    fn refusal(body: &[u8]) -> (Option<Version>, Reason) {
        let error = Connect::parse(&frame(body)).unwrap_err();
        (error.version, error.error.reason)
    }

    #[test]
    fn versions_are_told_apart() {
        let v311 = Connect::parse(&frame(b"\0\x04MQTT\x04\x02\0\x3C\0\x01a")).unwrap();
        assert_eq!((v311.version, &*v311.client_id, v311.clean_start, v311.keep_alive), (Version::V311, "a", true, 60));
        let v5 = Connect::parse(&frame(b"\0\x04MQTT\x05\0\0\0\x05\x11\0\0\0\x09\0\0")).unwrap();
        assert_eq!((v5.version, &*v5.client_id, v5.session_expiry), (Version::V5, "", Some(9)));
        let unsupported = Reason::UNSUPPORTED_PROTOCOL_VERSION;
        assert_eq!(refusal(b"\0\x06MQIsdp\x03\x02\0\x3C\0\x01a"), (Some(Version::V311), unsupported));
        assert_eq!(refusal(b"\0\x04MQTT\x03\x02\0\x3C\0\x01a"), (Some(Version::V311), unsupported));
        assert_eq!(refusal(b"\0\x04MQTT\x06\x02\0\x3C\0\0\x01a"), (Some(Version::V5), unsupported));
        assert_eq!(refusal(b"\0\x04HTTP\x04\x02\0\x3C\0\x01a").0, None);
        assert_eq!(refusal(b"").0, None);
    }

    #[test]
    fn flags_are_checked() {
        for flags in [0x03u8, 0x0A, 0x22, 0x1E] {
            let body = [b"\0\x04MQTT\x04", &[flags][..], b"\0\0\0\x01a\0\x01t\0\x01p"].concat();
            assert_eq!(refusal(&body).1, Reason::MALFORMED_PACKET, "{flags:#x}");
        }
    }

    #[test]
    fn wills_are_read() {
        let body = b"\0\x04MQTT\x05\x2E\0\0\0\0\x01c\x0C\x18\0\0\0\x05\x02\0\0\0\x07\x01\x01\0\x01t\0\x01p";
        let will = Connect::parse(&frame(body)).unwrap().will.unwrap();
        let expected = WillRequest {
            topic: "t".into(),
            payload: Bytes::from_static(b"p"),
            qos: Qos::AtLeastOnce,
            retain: true,
            properties: Bytes::from_static(&[1, 1]),
            expiry: Some(7),
            delay: 5,
        };
        assert_eq!(will, expected);
        assert_eq!(refusal(b"\0\x04MQTT\x04\x06\0\0\0\x01c\0\x01#\0\x01p").1, Reason::TOPIC_NAME_INVALID);
    }

    #[test]
    fn connack_is_read_by_others() {
        let connack = Connack {
            session_present: true,
            session_expiry: Some(100),
            receive_maximum: 10,
            maximum_qos: Some(Qos::AtLeastOnce),
            retain_available: false,
            maximum_packet_size: 1000,
            assigned_client_id: Some("x".into()),
            topic_alias_maximum: 3,
            server_keep_alive: Some(9),
        };
        let mut out = BytesMut::new();
        connack.write(&mut out, Version::V5).unwrap();
        let read = v5_0::Connack::parse(&out[2..]).unwrap().0;
        assert!(read.session_present());
        assert_eq!(read.props().len(), 8);
    }

    #[test]
    fn refusals_have_the_form_of_the_version() {
        let mut out = BytesMut::new();
        Connack::write_refusal(&mut out, Version::V5, Reason::NOT_AUTHORIZED);
        Connack::write_refusal(&mut out, Version::V311, Reason::NOT_AUTHORIZED);
        Connack::write_refusal(&mut out, Version::V311, Reason::MALFORMED_PACKET);
        assert_eq!(&out[..], &[0x20, 3, 0, 0x87, 0, 0x20, 2, 0, 5]);
    }
}
