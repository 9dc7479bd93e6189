//! PUBLISH, both ways.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use mqtt_protocol_core::mqtt::packet::{Property, VariableByteInteger};

use super::{PacketError, Reason, Version};
use crate::broker::subscriptions::Ids;
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
    /// The properties that are forwarded unchanged, as they came (MQTT 5.0, section 3.3.2.3); empty in 3.1.1.
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
        let topic = take_prefixed(&mut body)?;
        let mut id = 0;
        if qos > Qos::AtMostOnce {
            id = body.try_get_u16().map_err(|_| PacketError::malformed("packet identifier missing"))?;
            if id == 0 {
                return Err(PacketError::protocol("packet identifier 0 [MQTT-2.2.1-3]"));
            }
        }
        let mut properties = PublishProperties::default();
        if version == Version::V5 {
            let length = take_variable_length(&mut body)?;
            if body.len() < length {
                return Err(PacketError::malformed("properties end after the packet"));
            }
            properties = PublishProperties::parse(&body.split_to(length))?;
        }
        if !(topic.is_empty() && properties.alias.is_some()) {
            check_topic_name(&topic)?;
        }
        let PublishProperties { forwarded, expiry, alias } = properties;
        let properties = forwarded.freeze();
        Ok(IncomingPublish { dup, qos, retain: flags & 1 != 0, id, topic, payload: body, properties, expiry, alias })
    }
}

/// The properties of a PUBLISH or of a will that the broker has to know apart.
#[derive(Default)]
pub(super) struct PublishProperties {
    pub(super) forwarded: BytesMut,
    pub(super) expiry: Option<u32>,
    alias: Option<u16>,
}

impl PublishProperties {
    fn parse(mut block: &[u8]) -> Result<PublishProperties, PacketError> {
        let mut properties = PublishProperties::default();
        let mut seen = 0u64;
        while !block.is_empty() {
            let (property, used) = Property::parse(block)?;
            let bit = 1u64 << (property.id().as_u8() & 63);
            if seen & bit != 0 && !matches!(property, Property::UserProperty(_)) {
                return Err(PacketError::protocol("a property twice"));
            }
            seen |= bit;
            properties.take(&property, &block[..used])?;
            block = &block[used..];
        }
        Ok(properties)
    }

    /// Takes in one property, of which `raw` is the form on the wire.
    pub(super) fn take(&mut self, property: &Property, raw: &[u8]) -> Result<(), PacketError> {
        let text_ok = match property {
            Property::MessageExpiryInterval(interval) => {
                self.expiry = Some(interval.val());
                return Ok(());
            }
            Property::TopicAlias(alias) => {
                self.alias = Some(alias.val());
                return Ok(());
            }
            Property::ResponseTopic(topic) => {
                check_topic_name(topic.val().as_bytes())?;
                true
            }
            Property::ContentType(text) => !text.val().contains('\0'),
            Property::UserProperty(pair) => !pair.key().contains('\0') && !pair.val().contains('\0'),
            Property::PayloadFormatIndicator(_) | Property::CorrelationData(_) => true,
            _ => return Err(PacketError::protocol("a property that does not belong to PUBLISH")),
        };
        if !text_ok {
            return Err(PacketError::malformed("U+0000 in a string [MQTT-1.5.4-2]"));
        }
        self.forwarded.put_slice(raw);
        Ok(())
    }
}

/// Checks a topic name that came as bytes [MQTT-1.5.4-1, MQTT-3.3.2-2, MQTT-4.7.3-1, MQTT-4.7.3-2].
pub(super) fn check_topic_name(topic: &[u8]) -> Result<&str, PacketError> {
    let invalid = |what| PacketError { reason: Reason::TOPIC_NAME_INVALID, what };
    let text = std::str::from_utf8(topic).map_err(|_| PacketError::malformed("a topic that is not UTF-8"))?;
    if text.is_empty() {
        return Err(PacketError::protocol("an empty topic name"));
    }
    if memchr::memchr3(b'+', b'#', 0, topic).is_some() {
        return Err(invalid("a wildcard or U+0000 in a topic name"));
    }
    Ok(text)
}

fn take_prefixed(body: &mut Bytes) -> Result<Bytes, PacketError> {
    let length = body.try_get_u16().map_err(|_| PacketError::malformed("topic missing"))?;
    if body.len() < usize::from(length) {
        return Err(PacketError::malformed("topic ends after the packet"));
    }
    Ok(body.split_to(usize::from(length)))
}

fn take_variable_length(body: &mut Bytes) -> Result<usize, PacketError> {
    let mut length = 0;
    for index in 0..4 {
        let byte = body.try_get_u8().map_err(|_| PacketError::malformed("property length missing"))?;
        length |= usize::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(length);
        }
    }
    Err(PacketError::malformed("property length of more than four bytes"))
}

/// A PUBLISH to a client. Properties are left out for 3.1.1.
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
    pub subscription_ids: &'a Ids,
    /// Topic alias.
    pub alias: Option<u16>,
}

const MESSAGE_EXPIRY_INTERVAL: u8 = 0x02;
const SUBSCRIPTION_IDENTIFIER: u8 = 0x0B;
const TOPIC_ALIAS: u8 = 0x23;

impl OutgoingPublish<'_> {
    /// Bytes of the whole packet.
    pub fn size(&self, version: Version) -> usize {
        let remaining = self.remaining_length(version);
        1 + variable_length_size(remaining) + remaining
    }

    /// Appends the packet to `out`. It must be no larger than MQTT allows (268 435 455 bytes), which holds for
    /// everything that came in as a packet.
    pub fn write(&self, version: Version, out: &mut BytesMut) {
        let remaining = self.remaining_length(version);
        out.reserve(5 + remaining);
        out.put_u8(0x30 | (u8::from(self.dup) << 3) | ((self.qos as u8) << 1) | u8::from(self.retain));
        put_variable_length(out, remaining);
        out.put_u16(self.topic.len() as u16);
        out.put_slice(self.topic);
        if self.qos > Qos::AtMostOnce {
            out.put_u16(self.id);
        }
        if version == Version::V5 {
            put_variable_length(out, self.properties_length());
            if let Some(expiry) = self.expiry {
                out.put_u8(MESSAGE_EXPIRY_INTERVAL);
                out.put_u32(expiry);
            }
            if let Some(alias) = self.alias {
                out.put_u8(TOPIC_ALIAS);
                out.put_u16(alias);
            }
            for id in self.subscription_ids.iter() {
                out.put_u8(SUBSCRIPTION_IDENTIFIER);
                put_variable_length(out, id as usize);
            }
            out.put_slice(self.properties);
        }
        out.put_slice(self.payload);
    }

    fn properties_length(&self) -> usize {
        let ids: usize = self.subscription_ids.iter().map(|id| 1 + variable_length_size(id as usize)).sum();
        self.expiry.map_or(0, |_| 5) + self.alias.map_or(0, |_| 3) + ids + self.properties.len()
    }

    fn remaining_length(&self, version: Version) -> usize {
        let id = if self.qos > Qos::AtMostOnce { 2 } else { 0 };
        let properties = match version {
            Version::V311 => 0,
            Version::V5 => {
                let length = self.properties_length();
                variable_length_size(length) + length
            }
        };
        2 + self.topic.len() + id + properties + self.payload.len()
    }
}

fn variable_length_size(value: usize) -> usize {
    match value {
        0..=0x7F => 1,
        0x80..=0x3FFF => 2,
        0x4000..=0x1F_FFFF => 3,
        _ => 4,
    }
}

/// Appends `value`, at most [`VariableByteInteger::MAX`], as a variable byte integer.
pub(super) fn put_variable_length(out: &mut BytesMut, value: usize) {
    debug_assert!(value <= VariableByteInteger::MAX as usize);
    let mut rest = value;
    while rest >= 0x80 {
        out.put_u8((rest & 0x7F) as u8 | 0x80);
        rest >>= 7;
    }
    out.put_u8(rest as u8);
}

#[cfg(test)]
mod tests {
    use mqtt_protocol_core::mqtt::Arc;
    use mqtt_protocol_core::mqtt::packet::{v3_1_1, v5_0};
    use proptest::prelude::*;

    use super::super::{Frame, Packet};
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
        let table: [(&str, Version, &[u8], Reason); 10] = [
            ("QoS 3", Version::V311, &[0x36, 3, 0, 1, b'a'], Reason::MALFORMED_PACKET),
            ("DUP, QoS 0", Version::V311, &[0x38, 3, 0, 1, b'a'], Reason::MALFORMED_PACKET),
            ("id 0", Version::V311, &[0x32, 5, 0, 1, b'a', 0, 0], Reason::PROTOCOL_ERROR),
            ("id missing", Version::V311, &[0x32, 3, 0, 1, b'a'], Reason::MALFORMED_PACKET),
            ("wildcard", Version::V311, &[0x30, 3, 0, 1, b'#'], Reason::TOPIC_NAME_INVALID),
            ("not UTF-8", Version::V311, &[0x30, 3, 0, 1, 0xFF], Reason::MALFORMED_PACKET),
            ("NUL", Version::V5, &[0x30, 4, 0, 1, 0, 0], Reason::TOPIC_NAME_INVALID),
            ("empty topic, no alias", Version::V5, &[0x30, 3, 0, 0, 0], Reason::PROTOCOL_ERROR),
            ("subscription id", Version::V5, &[0x30, 6, 0, 1, b'a', 2, 0x0B, 1], Reason::PROTOCOL_ERROR),
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
        fn any_publish()(qos in 0u8..3, retain: bool, dup: bool, id in 1u16.., topic in "[^+#\0]{1,40}",
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
            let packet = OutgoingPublish { dup, qos, retain, id, topic, payload, properties, expiry, alias, subscription_ids: &Ids::default() };
            packet.write(version, &mut out);
            prop_assert_eq!(out.len(), packet.size(version));
            let expected = match version {
                Version::V5 => sent.clone(),
                Version::V311 => IncomingPublish { properties: Bytes::new(), expiry: None, alias: None, ..sent.clone() },
            };
            prop_assert_eq!(parse(version, &out).unwrap(), expected);
        }

        /// The other implementation at hand reads what is written here, subscription identifiers included.
        #[test]
        fn others_read_it(sent in any_publish(), ids in proptest::collection::vec(1u32..268_435_455, 0..4)) {
            let all: Ids = ids.iter().copied().collect();
            let packet = OutgoingPublish {
                dup: sent.dup, qos: sent.qos, retain: sent.retain, id: sent.id, topic: &sent.topic, payload: &sent.payload,
                properties: &sent.properties, expiry: sent.expiry, alias: sent.alias, subscription_ids: &all,
            };
            for version in [Version::V311, Version::V5] {
                let mut out = BytesMut::new();
                packet.write(version, &mut out);
                let first = out[0];
                let frame = Frame::split(&mut out, 1 << 20).unwrap().unwrap();
                let body: Arc<[u8]> = Arc::from(&frame.body[..]);
                let (topic, payload) = match version {
                    Version::V311 => {
                        let read = v3_1_1::Publish::parse(first & 15, body).unwrap().0;
                        (read.topic_name().to_owned(), read.payload().as_slice().to_vec())
                    }
                    Version::V5 => {
                        let read = v5_0::Publish::parse(first & 15, body).unwrap().0;
                        let read_ids: Vec<u32> = read.props.iter().filter_map(|p| match p {
                            Property::SubscriptionIdentifier(id) => Some(id.val()),
                            _ => None,
                        }).collect();
                        prop_assert_eq!(&read_ids, &ids);
                        (read.topic_name().to_owned(), read.payload().as_slice().to_vec())
                    }
                };
                prop_assert_eq!(topic.as_bytes(), &sent.topic[..]);
                prop_assert_eq!(payload, &sent.payload[..]);
            }
        }
    }
}
