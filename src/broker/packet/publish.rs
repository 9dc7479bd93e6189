//! PUBLISH, both ways.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::property::{self, Holders, Property, Value, id, put_four, put_two, put_variable, variable_size};
use super::read::{Reader, check_topic_name};
use super::subscription_ids::SubscriptionIds;
use super::{PacketError, Version};
use crate::qos::Qos;

/// A PUBLISH from a client, checked but for the topic that an alias stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IncomingPublish {
    /// Sent before, perhaps.
    pub dup: bool,
    /// `qos`
    pub qos: Qos,
    /// `retain`
    pub retain: bool,
    /// Packet identifier; 0 with QoS 0.
    pub id: u16,
    /// A valid topic name, or empty when `alias` stands for it.
    pub topic: Bytes,
    /// The payload.
    pub payload: Bytes,
    /// The properties that are forwarded unchanged, as they came (MQTT 5.0, section 3.3.2.3); empty in MQTT 3.
    pub properties: Bytes,
    /// Message expiry interval in seconds.
    pub expiry: Option<u32>,
    /// Topic alias.
    pub alias: Option<u16>,
}

impl IncomingPublish {
    pub(super) fn parse(version: Version, flags: u8, mut body: Bytes) -> Result<IncomingPublish, PacketError> {
        let qos = Qos::from_u8((flags >> 1) & 3).ok_or(PacketError::malformed("QoS 3 [MQTT-3.3.1-4]"))?;
        let dup = flags & 8 != 0;
        if dup && qos == Qos::AtMostOnce {
            return Err(PacketError::malformed("DUP with QoS 0 [MQTT-3.3.1-2]"));
        }
        let mut reader = Reader::new(&body);
        let topic = reader.binary()?;
        let id = if qos > Qos::AtMostOnce { reader.id()? } else { 0 };
        let mut properties = MessageProperties::default();
        if version == Version::V5 {
            properties = MessageProperties::read(&mut reader, Holders::PUBLISH)?;
        }
        if !(topic.is_empty() && properties.alias.is_some()) {
            check_topic_name(topic)?;
        }
        let (topic, forwarded) = (body.slice_ref(topic), properties.forwarded(&body));
        let MessageProperties { expiry, alias, .. } = properties;
        // The handle on the body goes on as the payload: one reference less to count.
        let before = body.len() - reader.rest().len();
        body.advance(before);
        let retain = flags & 1 != 0;
        Ok(IncomingPublish { dup, qos, retain, id, topic, payload: body, properties: forwarded, expiry, alias })
    }
}

/// The properties of a message, a PUBLISH or a will: those that the broker acts on, and the others.
#[derive(Debug, Default)]
pub(super) struct MessageProperties<'a> {
    /// All of them as they came.
    block: &'a [u8],
    /// Whether there is one in `block` that is not forwarded.
    mixed: bool,
    pub(super) expiry: Option<u32>,
    alias: Option<u16>,
    pub(super) will_delay: u32,
}

impl<'a> MessageProperties<'a> {
    pub(super) fn read(reader: &mut Reader<'a>, holder: Holders) -> Result<MessageProperties<'a>, PacketError> {
        let mut found = MessageProperties::default();
        let block = property::read(reader, holder, |property| found.take(property))?;
        Ok(MessageProperties { block, ..found })
    }

    fn take(&mut self, property: Property<'_>) -> Result<(), PacketError> {
        match (property.id, property.value) {
            (id::MESSAGE_EXPIRY_INTERVAL, Value::Number(seconds)) => self.expiry = Some(seconds),
            (id::WILL_DELAY_INTERVAL, Value::Number(seconds)) => self.will_delay = seconds,
            // It is a two byte integer.
            (id::TOPIC_ALIAS, Value::Number(alias)) => self.alias = Some(alias as u16),
            (id::SUBSCRIPTION_IDENTIFIER, _) => {
                return Err(PacketError::protocol("a subscription identifier from a client [MQTT-3.3.4-6]"));
            }
            (id::RESPONSE_TOPIC, Value::Text(topic)) if topic.is_empty() || topic.contains(['+', '#']) => {
                return Err(PacketError::protocol("a response topic that is no topic name [MQTT-3.3.2-14]"));
            }
            _ => {}
        }
        self.mixed |= !is_forwarded(property.id);
        Ok(())
    }

    /// Those that are forwarded unchanged. `body` is what they were read from.
    fn forwarded(&self, body: &Bytes) -> Bytes {
        if self.mixed { self.without_own() } else { body.slice_ref(self.block) }
    }

    /// Those that are forwarded unchanged, in an allocation of their own.
    pub(super) fn copied(&self) -> Bytes {
        if self.mixed { self.without_own() } else { Bytes::copy_from_slice(self.block) }
    }

    fn without_own(&self) -> Bytes {
        let mut kept = BytesMut::new();
        let mut rest = Reader::new(self.block);
        // They were read once, so nothing can fail here.
        while let Ok(property) = property::next(&mut rest, Holders::PUBLISH.or(Holders::WILL)) {
            if is_forwarded(property.id) {
                kept.put_slice(property.raw);
            }
        }
        kept.freeze()
    }
}

/// Whether `properties`, as [`IncomingPublish::properties`] has them, are what a client may send today, so that they can
/// go on to others.
pub fn are_forwardable(properties: &[u8]) -> bool {
    let mut rest = Reader::new(properties);
    while !rest.is_empty() {
        if !property::next(&mut rest, Holders::PUBLISH).is_ok_and(|property| is_forwarded(property.id)) {
            return false;
        }
    }
    true
}

fn is_forwarded(id: u8) -> bool {
    !matches!(id, id::MESSAGE_EXPIRY_INTERVAL | id::WILL_DELAY_INTERVAL | id::TOPIC_ALIAS)
}

/// A PUBLISH to a client. Properties are left out for MQTT 3.
#[derive(Clone, Copy, Debug)]
pub struct OutgoingPublish<'a> {
    /// Sent before.
    pub dup: bool,
    /// `qos`
    pub qos: Qos,
    /// `retain`
    pub retain: bool,
    /// Packet identifier; not written with QoS 0.
    pub id: u16,
    /// Empty when an alias that the client knows stands for it.
    pub topic: &'a [u8],
    /// The payload.
    pub payload: &'a [u8],
    /// Encoded properties, forwarded unchanged.
    pub properties: &'a [u8],
    /// What is left of the message expiry interval, in seconds.
    pub expiry: Option<u32>,
    /// Identifiers of the subscriptions that matched.
    pub subscription_ids: &'a SubscriptionIds,
    /// Topic alias.
    pub alias: Option<u16>,
}

impl OutgoingPublish<'_> {
    /// Bytes of the whole packet.
    pub fn size(&self, version: Version) -> usize {
        let remaining = self.remaining_length(version);
        1 + variable_size(remaining) + remaining
    }

    /// Appends the packet to `out`. It must be no larger than MQTT allows (268 435 455 bytes), which holds for
    /// everything that came in as a packet.
    pub fn write(&self, version: Version, out: &mut BytesMut) {
        let remaining = self.remaining_length(version);
        out.reserve(5 + remaining);
        out.put_u8(0x30 | (u8::from(self.dup) << 3) | ((self.qos as u8) << 1) | u8::from(self.retain));
        put_variable(out, remaining);
        out.put_u16(self.topic.len() as u16);
        out.put_slice(self.topic);
        if self.qos > Qos::AtMostOnce {
            out.put_u16(self.id);
        }
        if version == Version::V5 {
            put_variable(out, self.properties_length());
            if let Some(expiry) = self.expiry {
                put_four(out, id::MESSAGE_EXPIRY_INTERVAL, expiry);
            }
            if let Some(alias) = self.alias {
                put_two(out, id::TOPIC_ALIAS, alias);
            }
            for own in self.subscription_ids.iter() {
                out.put_u8(id::SUBSCRIPTION_IDENTIFIER);
                put_variable(out, own as usize);
            }
            out.put_slice(self.properties);
        }
        out.put_slice(self.payload);
    }

    fn properties_length(&self) -> usize {
        let ids: usize = self.subscription_ids.iter().map(|id| 1 + variable_size(id as usize)).sum();
        self.expiry.map_or(0, |_| 5) + self.alias.map_or(0, |_| 3) + ids + self.properties.len()
    }

    fn remaining_length(&self, version: Version) -> usize {
        let id = if self.qos > Qos::AtMostOnce { 2 } else { 0 };
        let properties = match version {
            Version::V31 | Version::V311 => 0,
            Version::V5 => {
                let length = self.properties_length();
                variable_size(length) + length
            }
        };
        2 + self.topic.len() + id + properties + self.payload.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Frame, Packet, Reason};
    use super::*;

    fn parse(version: Version, bytes: &[u8]) -> Result<IncomingPublish, PacketError> {
        let frame = Frame::split(&mut BytesMut::from(bytes), 1 << 20).unwrap().expect("a whole packet");
        match Packet::parse(version, frame)? {
            Packet::Publish(publish) => Ok(publish),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_mqtt_forbids_is_refused() {
        let table: [(&str, Version, &[u8], Reason); 12] = [
            ("QoS 3", Version::V311, &[0x36, 3, 0, 1, b'a'], Reason::MALFORMED_PACKET),
            ("DUP, QoS 0", Version::V311, &[0x38, 3, 0, 1, b'a'], Reason::MALFORMED_PACKET),
            ("id 0", Version::V311, &[0x32, 5, 0, 1, b'a', 0, 0], Reason::PROTOCOL_ERROR),
            ("id missing", Version::V311, &[0x32, 3, 0, 1, b'a'], Reason::MALFORMED_PACKET),
            ("wildcard", Version::V311, &[0x30, 3, 0, 1, b'#'], Reason::MALFORMED_PACKET),
            ("not UTF-8", Version::V311, &[0x30, 3, 0, 1, 0xFF], Reason::MALFORMED_PACKET),
            ("NUL", Version::V5, &[0x30, 4, 0, 1, 0, 0], Reason::MALFORMED_PACKET),
            ("empty topic, no alias", Version::V5, &[0x30, 3, 0, 0, 0], Reason::MALFORMED_PACKET),
            ("subscription id", Version::V5, &[0x30, 6, 0, 1, b'a', 2, 0x0B, 1], Reason::PROTOCOL_ERROR),
            ("a property of CONNECT", Version::V5, &[0x30, 7, 0, 1, b'a', 3, 0x21, 0, 1], Reason::PROTOCOL_ERROR),
            ("response topic", Version::V5, &[0x30, 8, 0, 1, b'a', 4, 8, 0, 1, b'#'], Reason::PROTOCOL_ERROR),
            (
                "expiry twice",
                Version::V5,
                &[0x30, 14, 0, 1, b'a', 10, 2, 0, 0, 0, 1, 2, 0, 0, 0, 1],
                Reason::PROTOCOL_ERROR,
            ),
        ];
        for (name, version, bytes, reason) in table {
            assert_eq!(parse(version, bytes).unwrap_err().reason, reason, "{name}");
        }
    }

    #[test]
    fn properties_are_told_apart() {
        let bytes = [0x30, 17, 0, 0, 13, 1, 1, 2, 0, 0, 0, 9, 0x23, 0, 7, 9, 0, 0, b'p'];
        let publish = parse(Version::V5, &bytes).unwrap();
        assert_eq!((publish.expiry, publish.alias, &publish.topic[..]), (Some(9), Some(7), &b""[..]));
        assert_eq!(&publish.properties[..], &[1, 1, 9, 0, 0]);
        assert_eq!(&publish.payload[..], b"p");
    }

    prop_compose! {
        fn any_publish()(qos in 0u8..3, retain: bool, dup: bool, id in 1u16.., topic in "[^+#\\p{Cc}\\p{Noncharacter_Code_Point}]{1,40}",
            payload in proptest::collection::vec(any::<u8>(), 0..300), expiry: Option<u32>, alias in proptest::option::of(1u16..))
            -> IncomingPublish {
            let qos = Qos::from_u8(qos).unwrap();
            let (dup, id) = if qos == Qos::AtMostOnce { (false, 0) } else { (dup, id) };
            let properties = Bytes::from_static(&[1, 1, 0x26, 0, 1, b'k', 0, 1, b'v']);
            IncomingPublish { dup, qos, retain, id, topic: topic.into(), payload: payload.into(), properties, expiry, alias }
        }
    }

    proptest! {
        #[test]
        fn written_is_read_again(sent in any_publish(), v5: bool) {
            let version = if v5 { Version::V5 } else { Version::V311 };
            let mut out = BytesMut::new();
            let IncomingPublish { dup, qos, retain, id, ref topic, ref payload, ref properties, expiry, alias } = sent;
            let packet = OutgoingPublish { dup, qos, retain, id, topic, payload, properties, expiry, alias, subscription_ids: &SubscriptionIds::default() };
            packet.write(version, &mut out);
            prop_assert_eq!(out.len(), packet.size(version));
            let expected = match version {
                Version::V5 => sent.clone(),
                _ => IncomingPublish { properties: Bytes::new(), expiry: None, alias: None, ..sent.clone() },
            };
            prop_assert_eq!(parse(version, &out).unwrap(), expected);
        }

        /// Subscription identifiers, which a client must not send, are read by the table of properties.
        #[test]
        fn subscription_identifiers_are_written(ids in proptest::collection::vec(1u32..268_435_455, 0..4)) {
            let all: SubscriptionIds = ids.iter().copied().collect();
            let packet = OutgoingPublish {
                dup: false, qos: Qos::AtMostOnce, retain: false, id: 0, topic: b"t", payload: b"p", properties: b"",
                expiry: None, alias: None, subscription_ids: &all,
            };
            let mut out = BytesMut::new();
            packet.write(Version::V5, &mut out);
            prop_assert_eq!(out.len(), packet.size(Version::V5));
            let frame = Frame::split(&mut out, 1 << 20).unwrap().unwrap();
            let mut reader = Reader::new(&frame.body[3..]);
            let mut read = Vec::new();
            // One that comes twice is for clients only.
            let block = reader.variable().unwrap() as usize;
            let mut rest = Reader::new(reader.take(block).unwrap());
            while !rest.is_empty() {
                read.push(property::next(&mut rest, Holders::PUBLISH).unwrap().value);
            }
            prop_assert_eq!(reader.rest(), b"p");
            prop_assert_eq!(read, ids.iter().map(|&id| Value::Number(id)).collect::<Vec<_>>());
        }
    }
}
