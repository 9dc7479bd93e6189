//! SUBSCRIBE, UNSUBSCRIBE and the answers to them.

use bytes::{BufMut, BytesMut};

use super::property::{self, Holders, Property, Value, id};
use super::read::Reader;
use super::{PacketError, Reason, Recipient, Version};
use crate::qos::Qos;

/// SUBSCRIBE.
#[derive(Debug, PartialEq, Eq)]
pub struct Subscribe {
    /// Packet identifier, not 0.
    pub id: u16,
    /// At least one.
    pub entries: Vec<SubscribeEntry>,
    /// Subscription identifier, not 0.
    pub subscription_id: Option<u32>,
}

/// One filter of a SUBSCRIBE, not yet checked to be a topic filter.
#[derive(Debug, PartialEq, Eq)]
pub struct SubscribeEntry {
    /// The filter, not empty.
    pub filter: String,
    /// Maximum QoS.
    pub qos: Qos,
    /// No Local.
    pub no_local: bool,
    /// Retain As Published.
    pub retain_as_published: bool,
    /// Retain Handling, 0 to 2.
    pub retain_handling: u8,
}

impl Subscribe {
    pub(super) fn parse(version: Version, body: &[u8]) -> Result<Subscribe, PacketError> {
        let mut reader = Reader::new(body);
        let id = packet_id(&mut reader)?;
        let mut subscription_id = None;
        if version == Version::V5 {
            property::read(&mut reader, Holders::SUBSCRIBE, |property| {
                if let Property { id: id::SUBSCRIPTION_IDENTIFIER, value: Value::Number(id), .. } = property {
                    subscription_id = Some(id);
                }
                Ok(())
            })?;
        }
        let mut entries = Vec::new();
        while !reader.is_empty() {
            entries.push(SubscribeEntry::parse(version, &mut reader)?);
        }
        if entries.is_empty() {
            return Err(PacketError::malformed("SUBSCRIBE without a filter [MQTT-3.8.3-2]"));
        }
        Ok(Subscribe { id, entries, subscription_id })
    }
}

impl SubscribeEntry {
    fn parse(version: Version, reader: &mut Reader<'_>) -> Result<SubscribeEntry, PacketError> {
        let filter = filter(reader)?;
        let options = reader.byte()?;
        // The bits that MQTT 5 gives meaning to are reserved before.
        let reserved = if version == Version::V5 { 0xC0 } else { 0xFC };
        let retain_handling = (options >> 4) & 3;
        let qos = Qos::from_u8(options & 3).filter(|_| options & reserved == 0 && retain_handling < 3);
        Ok(SubscribeEntry {
            filter,
            qos: qos.ok_or(PacketError::malformed("subscription options that MQTT does not know [MQTT-3.8.3-5]"))?,
            no_local: options & 4 != 0,
            retain_as_published: options & 8 != 0,
            retain_handling,
        })
    }
}

/// UNSUBSCRIBE.
#[derive(Debug, PartialEq, Eq)]
pub struct Unsubscribe {
    /// Packet identifier, not 0.
    pub id: u16,
    /// At least one.
    pub filters: Vec<String>,
}

impl Unsubscribe {
    pub(super) fn parse(version: Version, body: &[u8]) -> Result<Unsubscribe, PacketError> {
        let mut reader = Reader::new(body);
        let id = packet_id(&mut reader)?;
        if version == Version::V5 {
            property::read(&mut reader, Holders::UNSUBSCRIBE, |_| Ok(()))?;
        }
        let mut filters = Vec::new();
        while !reader.is_empty() {
            filters.push(filter(&mut reader)?);
        }
        if filters.is_empty() {
            return Err(PacketError::malformed("UNSUBSCRIBE without a filter [MQTT-3.10.3-2]"));
        }
        Ok(Unsubscribe { id, filters })
    }
}

/// The packet identifier; 0 counts as malformed here, as with mosquitto.
fn packet_id(reader: &mut Reader<'_>) -> Result<u16, PacketError> {
    reader.id().map_err(|error| PacketError { reason: Reason::MALFORMED_PACKET, ..error })
}

fn filter(reader: &mut Reader<'_>) -> Result<String, PacketError> {
    match reader.name()? {
        "" => Err(PacketError::malformed("an empty topic filter [MQTT-4.7.3-1]")),
        filter => Ok(filter.to_owned()),
    }
}

/// Whether a SUBACK or UNSUBACK for so many filters is no larger than the client takes [MQTT-3.1.2-24].
pub fn check_answer(recipient: &Recipient, filters: usize) -> Result<(), PacketError> {
    // Type, two lengths of up to four bytes, packet identifier; a little more than MQTT 3 needs.
    if recipient.maximum_packet_size < 8 + filters {
        let what = "more filters than an answer within the client's maximum packet size has room for";
        return Err(PacketError { reason: Reason::PACKET_TOO_LARGE, what });
    }
    Ok(())
}

/// Appends a SUBACK with one code for each filter, in order [MQTT-3.8.4-6]. 3.1.1 knows one failure, 3.1 none: its client
/// is told QoS 0.
pub fn write_suback(out: &mut BytesMut, recipient: &Recipient, id: u16, codes: &[Reason]) {
    let failure = match recipient.version {
        Version::V5 => return write_codes(out, recipient, (0x90, id), codes),
        Version::V311 => 0x80,
        Version::V31 => 0,
    };
    out.put_u8(0x90);
    property::put_variable(out, 2 + codes.len());
    out.put_u16(id);
    out.extend(codes.iter().map(|code| if code.is_error() { failure } else { code.0 }));
}

/// Appends an UNSUBACK; MQTT 3 has no codes in it.
pub fn write_unsuback(out: &mut BytesMut, recipient: &Recipient, id: u16, codes: &[Reason]) {
    if recipient.version == Version::V5 {
        return write_codes(out, recipient, (0xB0, id), codes);
    }
    out.put_slice(&[0xB0, 2]);
    out.put_u16(id);
}

/// The reason string, if any, is about the first filter that was refused.
fn write_codes(out: &mut BytesMut, recipient: &Recipient, (first, id): (u8, u16), codes: &[Reason]) {
    let refused = codes.iter().find(|code| code.is_error());
    let words = |&code: &Reason| recipient.words(code, code.text(), 5 + codes.len());
    let properties = refused.map(words).unwrap_or_default();
    out.put_u8(first);
    property::put_variable(out, 2 + property::variable_size(properties.len()) + properties.len() + codes.len());
    out.put_u16(id);
    Recipient::put_properties(out, &properties);
    out.extend(codes.iter().map(|code| code.0));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Frame, Packet};
    use super::*;

    fn parse(version: Version, bytes: &[u8]) -> Result<Packet, Reason> {
        let frame = Frame::split(&mut BytesMut::from(bytes), 1 << 20).unwrap().expect("a whole packet");
        Packet::parse(version, frame).map_err(|error| error.reason)
    }

    #[test]
    fn what_mqtt_forbids_is_refused() {
        let malformed = Reason::MALFORMED_PACKET;
        let table: [(&str, Version, &[u8], Reason); 13] = [
            ("id 0", Version::V311, &[0x82, 6, 0, 0, 0, 1, b'a', 0], malformed),
            ("no filter", Version::V311, &[0x82, 2, 0, 1], malformed),
            ("no filter", Version::V5, &[0x82, 3, 0, 1, 0], malformed),
            ("no properties", Version::V5, &[0x82, 2, 0, 1], malformed),
            ("no options", Version::V311, &[0x82, 5, 0, 1, 0, 1, b'a'], malformed),
            ("QoS 3", Version::V5, &[0x82, 7, 0, 1, 0, 0, 1, b'a', 3], malformed),
            ("no local in 3.1.1", Version::V311, &[0x82, 6, 0, 1, 0, 1, b'a', 4], malformed),
            ("retain handling 3", Version::V5, &[0x82, 7, 0, 1, 0, 0, 1, b'a', 0x30], malformed),
            ("reserved option", Version::V5, &[0x82, 7, 0, 1, 0, 0, 1, b'a', 0x40], malformed),
            ("empty filter", Version::V311, &[0x82, 5, 0, 1, 0, 0, 0], malformed),
            ("subscription id 0", Version::V5, &[0x82, 9, 0, 1, 2, 0x0B, 0, 0, 1, b'a', 0], malformed),
            ("nothing to unsubscribe", Version::V311, &[0xA2, 2, 0, 1], malformed),
            ("NUL to unsubscribe", Version::V5, &[0xA2, 6, 0, 1, 0, 0, 1, 0], malformed),
        ];
        for (name, version, bytes, reason) in table {
            assert_eq!(parse(version, bytes).unwrap_err(), reason, "{name}");
        }
    }

    #[test]
    fn answers_have_the_form_of_the_version() {
        let codes = [Reason(1), Reason::TOPIC_FILTER_INVALID];
        let v5 = Recipient::of(Version::V5);
        let curious = Recipient { problem_information: Some(true), ..v5 };
        let (v311, v31) = (Recipient::of(Version::V311), Recipient::of(Version::V31));
        let answer = |write: fn(&mut BytesMut, &Recipient, u16, &[Reason]), recipient| {
            let mut out = BytesMut::new();
            write(&mut out, recipient, 9, &codes);
            out.to_vec()
        };
        assert_eq!(answer(write_suback, &v31), [0x90, 4, 0, 9, 1, 0]);
        assert_eq!(answer(write_suback, &v311), [0x90, 4, 0, 9, 1, 0x80]);
        assert_eq!(answer(write_suback, &v5), [0x90, 5, 0, 9, 0, 1, 0x8F]);
        assert_eq!(answer(write_unsuback, &v311), [0xB0, 2, 0, 9]);
        assert_eq!(answer(write_unsuback, &v5), [0xB0, 5, 0, 9, 0, 1, 0x8F]);
        assert_eq!(answer(write_suback, &curious), b"\x90\x1C\0\x09\x17\x1F\0\x14topic filter invalid\x01\x8F");
    }

    #[test]
    fn answers_are_no_larger_than_the_client_takes() {
        for filters in [1, 120, 16_380] {
            let size = |recipient: &Recipient| {
                let mut out = BytesMut::new();
                write_suback(&mut out, recipient, 9, &vec![Reason(0); filters]);
                out.len()
            };
            let v5 = Recipient::of(Version::V5);
            assert!(check_answer(&v5, filters).is_ok());
            assert!(check_answer(&Recipient { maximum_packet_size: size(&v5) - 1, ..v5 }, filters).is_err());
        }
    }

    prop_compose! {
        fn any_entry(v5: bool)(filter in "[^\\p{Cc}\\p{Noncharacter_Code_Point}]{1,20}", qos in 0u8..3,
            flags in 0u8..4, retain_handling in 0u8..3) -> SubscribeEntry {
            let (flags, retain_handling) = if v5 { (flags, retain_handling) } else { (0, 0) };
            SubscribeEntry {
                filter,
                qos: Qos::from_u8(qos).unwrap(),
                no_local: flags & 1 != 0,
                retain_as_published: flags & 2 != 0,
                retain_handling,
            }
        }
    }

    proptest! {
        #[test]
        fn requests_are_read(id in 1u16.., own in proptest::option::of(1u32..268_435_455),
            v5 in proptest::collection::vec(any_entry(true), 1..5), v3 in proptest::collection::vec(any_entry(false), 1..5)) {
            for (version, entries, subscription_id) in [(Version::V5, v5, own), (Version::V311, v3, None)] {
                prop_assume!(entries.iter().all(|entry| super::super::read::check_name(entry.filter.as_bytes()).is_ok()));
                let mut head = BytesMut::new();
                head.put_u16(id);
                if version == Version::V5 {
                    let mut properties = BytesMut::new();
                    if let Some(own) = subscription_id {
                        properties.put_u8(id::SUBSCRIPTION_IDENTIFIER);
                        property::put_variable(&mut properties, own as usize);
                    }
                    Recipient::put_properties(&mut head, &properties);
                }
                let (mut subscribe, mut unsubscribe) = (head.clone(), head);
                for entry in &entries {
                    subscribe.put_u16(entry.filter.len() as u16);
                    subscribe.put_slice(entry.filter.as_bytes());
                    let flags = (u8::from(entry.no_local) << 2) | (u8::from(entry.retain_as_published) << 3);
                    subscribe.put_u8(entry.qos as u8 | flags | (entry.retain_handling << 4));
                    unsubscribe.put_u16(entry.filter.len() as u16);
                    unsubscribe.put_slice(entry.filter.as_bytes());
                }
                let filters: Vec<String> = entries.iter().map(|entry| entry.filter.clone()).collect();
                let whole = |first: u8, body: &[u8]| {
                    let mut bytes = BytesMut::from(&[first][..]);
                    property::put_variable(&mut bytes, body.len());
                    bytes.put_slice(body);
                    bytes
                };
                match parse(version, &whole(0x82, &subscribe)) {
                    Ok(Packet::Subscribe(read)) => prop_assert_eq!(read, Subscribe { id, entries, subscription_id }),
                    other => prop_assert!(false, "{:?}", other),
                }
                match (subscription_id, parse(version, &whole(0xA2, &unsubscribe))) {
                    (None, Ok(Packet::Unsubscribe(read))) => prop_assert_eq!(read, Unsubscribe { id, filters }),
                    (Some(_), Err(Reason::MALFORMED_PACKET)) => {}
                    other => prop_assert!(false, "{:?}", other),
                }
            }
        }
    }
}
