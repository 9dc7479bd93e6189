//! CONNACK.

use bytes::{BufMut, BytesMut};

use super::property::{self, id, put_flag, put_four, put_text, put_two};
use super::{PacketError, Reason, Recipient, Version};
use crate::qos::Qos;

/// CONNACK of an accepted connection. `None`: the value is the one the client assumes without the property.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
    /// Bytes of the largest packet taken, if told.
    pub maximum_packet_size: Option<u32>,
    /// If the server chose it.
    pub assigned_client_id: Option<String>,
    /// Topic aliases taken.
    pub topic_alias_maximum: u16,
    /// Seconds, if not what the client asked for.
    pub server_keep_alive: Option<u16>,
}

impl Connack {
    /// Appends the packet. 3.1 knows no Session Present.
    pub fn write(&self, out: &mut BytesMut, version: Version) {
        match version {
            Version::V31 => out.put_slice(&[0x20, 2, 0, 0]),
            Version::V311 => out.put_slice(&[0x20, 2, u8::from(self.session_present), 0]),
            Version::V5 => put_packet(out, self.session_present, Reason::SUCCESS, &self.properties()),
        }
    }

    /// Bytes of the whole packet.
    pub fn size(&self, version: Version) -> usize {
        let mut packet = BytesMut::new();
        self.write(&mut packet, version);
        packet.len()
    }

    /// In the order in which mosquitto sends them: there are clients and tests that compare bytes.
    fn properties(&self) -> BytesMut {
        let mut out = BytesMut::new();
        if let Some(seconds) = self.server_keep_alive {
            put_two(&mut out, id::SERVER_KEEP_ALIVE, seconds);
        }
        put_two(&mut out, id::TOPIC_ALIAS_MAXIMUM, self.topic_alias_maximum);
        if let Some(client_id) = &self.assigned_client_id {
            put_text(&mut out, id::ASSIGNED_CLIENT_IDENTIFIER, client_id);
        }
        if let Some(seconds) = self.session_expiry {
            put_four(&mut out, id::SESSION_EXPIRY_INTERVAL, seconds);
        }
        if !self.retain_available {
            put_flag(&mut out, id::RETAIN_AVAILABLE, false);
        }
        if let Some(bytes) = self.maximum_packet_size {
            put_four(&mut out, id::MAXIMUM_PACKET_SIZE, bytes);
        }
        put_two(&mut out, id::RECEIVE_MAXIMUM, self.receive_maximum);
        if let Some(qos) = self.maximum_qos {
            put_flag(&mut out, id::MAXIMUM_QOS, qos > Qos::AtMostOnce);
        }
        out
    }

    /// Appends the CONNACK that refuses a connection. MQTT 3 knows five codes (3.1.1, section 3.2.2.3); what fits none of
    /// them, and in every version a CONNECT that is malformed, is answered by closing alone.
    pub fn write_refusal(out: &mut BytesMut, recipient: &Recipient, error: PacketError) {
        let PacketError { reason, .. } = error;
        if recipient.version == Version::V5 {
            if reason != Reason::MALFORMED_PACKET && recipient.maximum_packet_size >= 5 {
                put_packet(out, false, reason, &recipient.words(reason, error.words(), 5));
            }
            return;
        }
        let code = match reason {
            Reason::UNSUPPORTED_PROTOCOL_VERSION => 1,
            Reason::CLIENT_ID_NOT_VALID => 2,
            Reason::SERVER_BUSY | Reason::SERVER_SHUTTING_DOWN | Reason::QUOTA_EXCEEDED => 3,
            Reason::BAD_USER_NAME_OR_PASSWORD => 4,
            // What a will asks for and cannot have: mosquitto's answer.
            Reason::PACKET_TOO_LARGE | Reason::RETAIN_NOT_SUPPORTED | Reason::QOS_NOT_SUPPORTED => 5,
            Reason::NOT_AUTHORIZED => 5,
            _ => return,
        };
        out.put_slice(&[0x20, 2, 0, code]);
    }
}

fn put_packet(out: &mut BytesMut, session_present: bool, reason: Reason, properties: &[u8]) {
    out.put_u8(0x20);
    property::put_variable(out, 2 + property::variable_size(properties.len()) + properties.len());
    out.put_slice(&[u8::from(session_present), reason.0]);
    Recipient::put_properties(out, properties);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Frame;
    use super::super::property::{Holders, Property, Value};
    use super::super::read::Reader;
    use super::*;

    /// What a client makes of it.
    fn read(mut bytes: BytesMut) -> Connack {
        let frame = Frame::split(&mut bytes, usize::MAX).unwrap().expect("a whole packet");
        assert_eq!((frame.first, bytes.len()), (0x20, 0));
        let mut reader = Reader::new(&frame.body);
        let session_present = reader.byte().unwrap() == 1;
        assert_eq!(reader.byte(), Ok(0));
        let mut connack = Connack { session_present, retain_available: true, ..Connack::default() };
        property::read(&mut reader, Holders::CONNACK, |Property { id, value, .. }| {
            match (id, value) {
                (id::SERVER_KEEP_ALIVE, Value::Number(n)) => connack.server_keep_alive = Some(n as u16),
                (id::TOPIC_ALIAS_MAXIMUM, Value::Number(n)) => connack.topic_alias_maximum = n as u16,
                (id::ASSIGNED_CLIENT_IDENTIFIER, Value::Text(id)) => connack.assigned_client_id = Some(id.into()),
                (id::SESSION_EXPIRY_INTERVAL, Value::Number(n)) => connack.session_expiry = Some(n),
                (id::RETAIN_AVAILABLE, Value::Number(n)) => connack.retain_available = n == 1,
                (id::MAXIMUM_PACKET_SIZE, Value::Number(n)) => connack.maximum_packet_size = Some(n),
                (id::RECEIVE_MAXIMUM, Value::Number(n)) => connack.receive_maximum = n as u16,
                (id::MAXIMUM_QOS, Value::Number(n)) => connack.maximum_qos = Qos::from_u8(n as u8),
                other => panic!("{other:?}"),
            }
            Ok(())
        })
        .unwrap();
        reader.end().unwrap();
        connack
    }

    prop_compose! {
        fn any_connack()(session_present: bool, session_expiry: Option<u32>, receive_maximum in 1u16.., qos in 0u8..3,
            retain_available: bool, maximum_packet_size in proptest::option::of(1u32..), id in proptest::option::of("[a-z]{1,200}"),
            topic_alias_maximum: u16, server_keep_alive: Option<u16>) -> Connack {
            let maximum_qos = Qos::from_u8(qos).filter(|&qos| qos < Qos::ExactlyOnce);
            Connack {
                session_present, session_expiry, receive_maximum, maximum_qos, retain_available, maximum_packet_size,
                assigned_client_id: id, topic_alias_maximum, server_keep_alive,
            }
        }
    }

    proptest! {
        #[test]
        fn written_is_read_again(connack in any_connack()) {
            let mut out = BytesMut::new();
            connack.write(&mut out, Version::V5);
            prop_assert_eq!(out.len(), connack.size(Version::V5));
            prop_assert_eq!(read(out), connack);
        }
    }

    #[test]
    fn mqtt_3_has_two_bytes() {
        let connack = Connack { session_present: true, ..Connack::default() };
        let mut out = BytesMut::new();
        connack.write(&mut out, Version::V31);
        connack.write(&mut out, Version::V311);
        assert_eq!(&out[..], &[0x20, 2, 0, 0, 0x20, 2, 1, 0]);
    }

    #[test]
    fn refusals_have_the_form_of_the_version() {
        let refusal = |recipient: Recipient, reason| {
            let mut out = BytesMut::new();
            Connack::write_refusal(&mut out, &recipient, PacketError { reason, what: "secret" });
            out.to_vec()
        };
        let (v311, v5) = (Recipient::of(Version::V311), Recipient::of(Version::V5));
        assert_eq!(refusal(v311, Reason::NOT_AUTHORIZED), [0x20, 2, 0, 5]);
        assert_eq!(refusal(v311, Reason::MALFORMED_PACKET), b"");
        assert_eq!(refusal(v5, Reason::MALFORMED_PACKET), b"");
        assert_eq!(refusal(v5, Reason::PROTOCOL_ERROR), [0x20, 3, 0, 0x82, 0]);
        assert_eq!(refusal(v5, Reason::NOT_AUTHORIZED), [0x20, 3, 0, 0x87, 0]);
        let curious = Recipient { problem_information: Some(true), ..v5 };
        assert_eq!(refusal(curious, Reason::NOT_AUTHORIZED), b"\x20\x14\0\x87\x11\x1F\0\x0Enot authorized");
        assert_eq!(refusal(v5, Reason::QUOTA_EXCEEDED), [0x20, 3, 0, 0x97, 0]);
        assert_eq!(refusal(curious, Reason::QUOTA_EXCEEDED), b"\x20\x0C\0\x97\x09\x1F\0\x06secret");
        assert_eq!(refusal(v311, Reason::PACKET_TOO_LARGE), [0x20, 2, 0, 5]);
        assert_eq!(refusal(Recipient { maximum_packet_size: 4, ..v5 }, Reason::QUOTA_EXCEEDED), b"");
    }
}
