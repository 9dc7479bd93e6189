//! Properties of MQTT 5 (MQTT 5.0, section 2.2.2): one table says which there are and which packet may have them.

use bytes::{BufMut, BytesMut};

use super::PacketError;
use super::read::Reader;

macro_rules! holders {
    ($($name:ident = $bit:literal;)*) => {
        /// What has properties, each a bit; the bit of a packet is that of its type.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) struct Holders(u16);

        impl Holders {
            $(pub(super) const $name: Holders = Holders(1 << $bit);)*
        }
    };
}

holders! {
    WILL = 0;
    CONNECT = 1;
    CONNACK = 2;
    PUBLISH = 3;
    PUBACK = 4;
    PUBREC = 5;
    PUBREL = 6;
    PUBCOMP = 7;
    SUBSCRIBE = 8;
    SUBACK = 9;
    UNSUBSCRIBE = 10;
    UNSUBACK = 11;
    DISCONNECT = 14;
    AUTH = 15;
}

impl Holders {
    /// The packet of type `kind`, 1 to 15.
    pub(super) fn of(kind: u8) -> Holders {
        Holders(1 << (kind & 15))
    }

    pub(super) const fn or(self, other: Holders) -> Holders {
        Holders(self.0 | other.0)
    }
}

/// The identifiers of the properties.
#[allow(missing_docs)]
pub(super) mod id {
    pub const PAYLOAD_FORMAT_INDICATOR: u8 = 0x01;
    pub const MESSAGE_EXPIRY_INTERVAL: u8 = 0x02;
    pub const CONTENT_TYPE: u8 = 0x03;
    pub const RESPONSE_TOPIC: u8 = 0x08;
    pub const CORRELATION_DATA: u8 = 0x09;
    pub const SUBSCRIPTION_IDENTIFIER: u8 = 0x0B;
    pub const SESSION_EXPIRY_INTERVAL: u8 = 0x11;
    pub const ASSIGNED_CLIENT_IDENTIFIER: u8 = 0x12;
    pub const SERVER_KEEP_ALIVE: u8 = 0x13;
    pub const AUTHENTICATION_METHOD: u8 = 0x15;
    pub const AUTHENTICATION_DATA: u8 = 0x16;
    pub const REQUEST_PROBLEM_INFORMATION: u8 = 0x17;
    pub const WILL_DELAY_INTERVAL: u8 = 0x18;
    pub const REQUEST_RESPONSE_INFORMATION: u8 = 0x19;
    pub const RESPONSE_INFORMATION: u8 = 0x1A;
    pub const SERVER_REFERENCE: u8 = 0x1C;
    pub const REASON_STRING: u8 = 0x1F;
    pub const RECEIVE_MAXIMUM: u8 = 0x21;
    pub const TOPIC_ALIAS_MAXIMUM: u8 = 0x22;
    pub const TOPIC_ALIAS: u8 = 0x23;
    pub const MAXIMUM_QOS: u8 = 0x24;
    pub const RETAIN_AVAILABLE: u8 = 0x25;
    pub const USER_PROPERTY: u8 = 0x26;
    pub const MAXIMUM_PACKET_SIZE: u8 = 0x27;
    pub const WILDCARD_SUBSCRIPTION_AVAILABLE: u8 = 0x28;
    pub const SUBSCRIPTION_IDENTIFIER_AVAILABLE: u8 = 0x29;
    pub const SHARED_SUBSCRIPTION_AVAILABLE: u8 = 0x2A;
}

/// How a value stands on the wire, and what numbers it may be.
#[derive(Clone, Copy, Debug)]
enum Form {
    /// 0 or 1.
    Flag,
    /// At least so much.
    Two(u16),
    /// At least so much.
    Four(u32),
    /// Not 0.
    Variable,
    Binary,
    Text,
    /// Two strings; the only one that may come more than once.
    Pair,
}

#[derive(Clone, Copy, Debug)]
struct Rule {
    id: u8,
    form: Form,
    holders: Holders,
}

const MESSAGE: Holders = Holders::PUBLISH.or(Holders::WILL);
const CONNECT_BOTH: Holders = Holders::CONNECT.or(Holders::CONNACK);
const ACKS: Holders = Holders::PUBACK.or(Holders::PUBREC).or(Holders::PUBREL).or(Holders::PUBCOMP);
const REASONED: Holders =
    ACKS.or(Holders::CONNACK).or(Holders::SUBACK).or(Holders::UNSUBACK).or(Holders::DISCONNECT).or(Holders::AUTH);
const ALL: Holders = REASONED.or(MESSAGE).or(Holders::CONNECT).or(Holders::SUBSCRIBE).or(Holders::UNSUBSCRIBE);

const fn rule(id: u8, form: Form, holders: Holders) -> Rule {
    Rule { id, form, holders }
}

/// By identifier.
const RULES: [Rule; 27] = [
    rule(id::PAYLOAD_FORMAT_INDICATOR, Form::Flag, MESSAGE),
    rule(id::MESSAGE_EXPIRY_INTERVAL, Form::Four(0), MESSAGE),
    rule(id::CONTENT_TYPE, Form::Text, MESSAGE),
    rule(id::RESPONSE_TOPIC, Form::Text, MESSAGE),
    rule(id::CORRELATION_DATA, Form::Binary, MESSAGE),
    rule(id::SUBSCRIPTION_IDENTIFIER, Form::Variable, Holders::PUBLISH.or(Holders::SUBSCRIBE)),
    rule(id::SESSION_EXPIRY_INTERVAL, Form::Four(0), CONNECT_BOTH.or(Holders::DISCONNECT)),
    rule(id::ASSIGNED_CLIENT_IDENTIFIER, Form::Text, Holders::CONNACK),
    rule(id::SERVER_KEEP_ALIVE, Form::Two(0), Holders::CONNACK),
    rule(id::AUTHENTICATION_METHOD, Form::Text, CONNECT_BOTH.or(Holders::AUTH)),
    rule(id::AUTHENTICATION_DATA, Form::Binary, CONNECT_BOTH.or(Holders::AUTH)),
    rule(id::REQUEST_PROBLEM_INFORMATION, Form::Flag, Holders::CONNECT),
    rule(id::WILL_DELAY_INTERVAL, Form::Four(0), Holders::WILL),
    rule(id::REQUEST_RESPONSE_INFORMATION, Form::Flag, Holders::CONNECT),
    rule(id::RESPONSE_INFORMATION, Form::Text, Holders::CONNACK),
    rule(id::SERVER_REFERENCE, Form::Text, Holders::CONNACK.or(Holders::DISCONNECT)),
    rule(id::REASON_STRING, Form::Text, REASONED),
    rule(id::RECEIVE_MAXIMUM, Form::Two(1), CONNECT_BOTH),
    rule(id::TOPIC_ALIAS_MAXIMUM, Form::Two(0), CONNECT_BOTH),
    // Alias 0 has a reason code of its own [MQTT-3.3.2-8].
    rule(id::TOPIC_ALIAS, Form::Two(0), Holders::PUBLISH),
    rule(id::MAXIMUM_QOS, Form::Flag, Holders::CONNACK),
    rule(id::RETAIN_AVAILABLE, Form::Flag, Holders::CONNACK),
    rule(id::USER_PROPERTY, Form::Pair, ALL),
    rule(id::MAXIMUM_PACKET_SIZE, Form::Four(1), CONNECT_BOTH),
    rule(id::WILDCARD_SUBSCRIPTION_AVAILABLE, Form::Flag, Holders::CONNACK),
    rule(id::SUBSCRIPTION_IDENTIFIER_AVAILABLE, Form::Flag, Holders::CONNACK),
    rule(id::SHARED_SUBSCRIPTION_AVAILABLE, Form::Flag, Holders::CONNACK),
];

/// The value of a property.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    /// An integer of any width.
    Number(u32),
    /// Binary data.
    Binary(&'a [u8]),
    /// A string.
    Text(&'a str),
    /// A user property.
    Pair(&'a str, &'a str),
}

/// One property.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Property<'a> {
    pub(super) id: u8,
    pub(super) value: Value<'a>,
    /// As it stands on the wire.
    pub(super) raw: &'a [u8],
}

/// Reads the properties of `holder`, with their length before them, and gives each to `each`; returns all of them as
/// they stand on the wire, without the length.
///
/// One that comes twice is a protocol error; see [`next`] for the others.
pub(super) fn read<'a>(
    reader: &mut Reader<'a>,
    holder: Holders,
    mut each: impl FnMut(Property<'a>) -> Result<(), PacketError>,
) -> Result<&'a [u8], PacketError> {
    let length = reader.variable()?;
    let block = reader.take(length as usize)?;
    let mut rest = Reader::new(block);
    let mut seen = 0u64;
    while !rest.is_empty() {
        let property = next(&mut rest, holder)?;
        let bit = 1 << property.id;
        if seen & bit != 0 && property.id != id::USER_PROPERTY {
            return Err(PacketError::protocol("a property twice"));
        }
        seen |= bit;
        each(property)?;
    }
    Ok(block)
}

/// Reads one property. For a property of another packet and a number out of range section 2.2.2.2 and chapter 3 know
/// both codes, malformed packet and protocol error; the one that mosquitto sends is chosen.
pub(super) fn next<'a>(reader: &mut Reader<'a>, holder: Holders) -> Result<Property<'a>, PacketError> {
    let start = reader.rest();
    let id = reader.byte()?;
    let Ok(index) = RULES.binary_search_by_key(&id, |rule| rule.id) else {
        return Err(PacketError::malformed("an identifier of no property"));
    };
    let rule = RULES[index];
    let (value, least, most) = match rule.form {
        Form::Flag => (Value::Number(reader.byte()?.into()), 0, 1),
        Form::Two(least) => (Value::Number(reader.two()?.into()), least.into(), u32::MAX),
        Form::Four(least) => (Value::Number(reader.four()?), least, u32::MAX),
        Form::Variable => (Value::Number(reader.variable()?), 1, u32::MAX),
        Form::Binary => (Value::Binary(reader.binary()?), 0, 0),
        Form::Text => (Value::Text(text(reader, holder)?), 0, 0),
        Form::Pair => (Value::Pair(text(reader, holder)?, text(reader, holder)?), 0, 0),
    };
    if rule.holders.0 & holder.0 == 0 {
        return Err(refused(holder, "a property that does not belong to this packet"));
    }
    if matches!(value, Value::Number(number) if number < least || number > most) {
        return Err(refused(holder, "a property whose value is out of range"));
    }
    let raw = &start[..start.len() - reader.rest().len()];
    Ok(Property { id, value, raw })
}

/// A string. Those of a message go on to its readers as they came, of which some close their connection on what is not
/// fit for a name (mosquitto takes none of these either); of other packets the broker alone reads them.
fn text<'a>(reader: &mut Reader<'a>, holder: Holders) -> Result<&'a str, PacketError> {
    let goes_on = holder.0 & (Holders::PUBLISH.0 | Holders::WILL.0) != 0;
    if goes_on { reader.name() } else { reader.text() }
}

fn refused(holder: Holders, what: &'static str) -> PacketError {
    if holder.0 & (Holders::SUBSCRIBE.0 | Holders::UNSUBSCRIBE.0) != 0 {
        PacketError::malformed(what)
    } else {
        PacketError::protocol(what)
    }
}

pub(super) fn put_flag(out: &mut BytesMut, id: u8, value: bool) {
    out.put_slice(&[id, u8::from(value)]);
}

pub(super) fn put_two(out: &mut BytesMut, id: u8, value: u16) {
    out.put_u8(id);
    out.put_u16(value);
}

pub(super) fn put_four(out: &mut BytesMut, id: u8, value: u32) {
    out.put_u8(id);
    out.put_u32(value);
}

/// Appends a string, which must not be longer than 65535 bytes.
pub(super) fn put_text(out: &mut BytesMut, id: u8, text: &str) {
    debug_assert!(text.len() <= usize::from(u16::MAX));
    out.put_u8(id);
    out.put_u16(text.len() as u16);
    out.put_slice(text.as_bytes());
}

/// Bytes that [`put_text`] appends for `text`.
pub(super) fn text_size(text: &str) -> usize {
    3 + text.len()
}

/// Bytes that [`put_variable`] appends for `value`.
pub(super) fn variable_size(value: usize) -> usize {
    match value {
        0..=0x7F => 1,
        0x80..=0x3FFF => 2,
        0x4000..=0x1F_FFFF => 3,
        _ => 4,
    }
}

/// Appends `value`, at most 268 435 455, as a variable byte integer.
pub(super) fn put_variable(out: &mut BytesMut, value: usize) {
    debug_assert!(value <= 0xFFF_FFFF);
    let mut rest = value;
    while rest >= 0x80 {
        out.put_u8((rest & 0x7F) as u8 | 0x80);
        rest >>= 7;
    }
    out.put_u8(rest as u8);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Reason;
    use super::*;

    fn read_all(holder: Holders, block: &[u8]) -> Result<Vec<(u8, String)>, Reason> {
        let mut bytes = BytesMut::new();
        put_variable(&mut bytes, block.len());
        bytes.put_slice(block);
        let mut found = Vec::new();
        let mut reader = Reader::new(&bytes);
        let each = |property: Property<'_>| {
            found.push((property.id, format!("{:?}", property.value)));
            Ok(())
        };
        let raw = read(&mut reader, holder, each).map_err(|error| error.reason)?;
        assert_eq!((raw, reader.is_empty()), (block, true));
        Ok(found)
    }

    /// A value that is right for `form`.
    fn sample(form: Form) -> &'static [u8] {
        match form {
            Form::Flag | Form::Variable => &[1],
            Form::Two(_) => &[0, 1],
            Form::Four(_) => &[0, 0, 0, 1],
            Form::Binary | Form::Text => &[0, 1, b'a'],
            Form::Pair => &[0, 1, b'a', 0, 1, b'b'],
        }
    }

    #[test]
    fn every_property_belongs_to_its_packets_and_to_no_other() {
        assert!(RULES.is_sorted_by_key(|rule| rule.id));
        let counts: Vec<usize> = (0..16)
            .map(|kind| {
                let holds = |rule: &&Rule| {
                    let bytes = [&[rule.id], sample(rule.form)].concat();
                    read_all(Holders(1 << kind), &bytes).map(|found| assert_eq!(found.len(), 1)).is_ok()
                };
                RULES.iter().filter(holds).count()
            })
            .collect();
        // Will, CONNECT, CONNACK, PUBLISH, four acknowledgements, SUBSCRIBE, …: as many as section 2.2.2.2 lists.
        assert_eq!(counts, [7, 9, 17, 8, 2, 2, 2, 2, 2, 2, 1, 2, 0, 0, 4, 4]);
    }

    #[test]
    fn only_user_properties_come_twice() {
        for rule in RULES {
            let one = [&[rule.id], sample(rule.form)].concat();
            let both = read_all(rule.holders, &[&one[..], &one].concat());
            match rule.id {
                id::USER_PROPERTY => assert_eq!(both.unwrap().len(), 2),
                _ => assert_eq!(both, Err(Reason::PROTOCOL_ERROR), "{rule:?}"),
            }
        }
    }

    #[test]
    fn ranges_ends_and_strangers() {
        let table: [(Holders, &[u8], Reason); 13] = [
            (Holders::PUBLISH, &[0x01, 2], Reason::PROTOCOL_ERROR),
            (Holders::CONNECT, &[0x21, 0, 0], Reason::PROTOCOL_ERROR),
            (Holders::CONNECT, &[0x27, 0, 0, 0, 0], Reason::PROTOCOL_ERROR),
            (Holders::SUBSCRIBE, &[0x0B, 0], Reason::MALFORMED_PACKET),
            (Holders::SUBSCRIBE, &[0x0B, 0x80, 0], Reason::MALFORMED_PACKET),
            (Holders::PUBLISH, &[0x02, 0, 0, 0], Reason::MALFORMED_PACKET),
            (Holders::PUBLISH, &[0x26, 0, 1, b'k', 0, 1], Reason::MALFORMED_PACKET),
            (Holders::PUBLISH, &[0x03, 0, 1, 0], Reason::MALFORMED_PACKET),
            (Holders::PUBLISH, &[0x7F, 0], Reason::MALFORMED_PACKET),
            (Holders::PUBLISH, &[0x26, 0, 1, b'k', 0, 1, b'\n'], Reason::MALFORMED_PACKET),
            (Holders::PUBLISH, &[0x26, 0, 1, 0x1B, 0, 1, b'v'], Reason::MALFORMED_PACKET),
            (Holders::WILL, &[0x08, 0, 1, b'\t'], Reason::MALFORMED_PACKET),
            (Holders::WILL, &[0x03, 0, 2, 0xC2, 0x85], Reason::MALFORMED_PACKET),
        ];
        for (holder, block, reason) in table {
            assert_eq!(read_all(holder, block), Err(reason), "{block:?}");
        }
        for holder in [Holders::CONNECT, Holders::SUBSCRIBE, Holders::DISCONNECT] {
            assert!(read_all(holder, &[0x26, 0, 1, b'k', 0, 1, b'\n']).is_ok(), "nobody else reads it");
        }
        let cut = read(&mut Reader::new(&[2, 1]), Holders::PUBLISH, |_| Ok(())).unwrap_err();
        assert_eq!(cut.reason, Reason::MALFORMED_PACKET);
    }

    proptest! {
        #[test]
        fn integers_come_back(value in 0usize..=0xFFF_FFFF) {
            let mut out = BytesMut::new();
            put_variable(&mut out, value);
            prop_assert_eq!(out.len(), variable_size(value));
            prop_assert_eq!(Reader::new(&out).variable().unwrap() as usize, value);
        }

        #[test]
        fn what_is_written_is_read(flag: bool, two in 1u16.., four: u32, text in "[^\0]{0,300}") {
            let mut out = BytesMut::new();
            put_flag(&mut out, id::RETAIN_AVAILABLE, flag);
            put_two(&mut out, id::RECEIVE_MAXIMUM, two);
            put_four(&mut out, id::SESSION_EXPIRY_INTERVAL, four);
            let before = out.len();
            put_text(&mut out, id::REASON_STRING, &text);
            prop_assert_eq!(out.len() - before, text_size(&text));
            let expected = vec![
                (id::RETAIN_AVAILABLE, format!("{:?}", Value::Number(flag.into()))),
                (id::RECEIVE_MAXIMUM, format!("{:?}", Value::Number(two.into()))),
                (id::SESSION_EXPIRY_INTERVAL, format!("{:?}", Value::Number(four))),
                (id::REASON_STRING, format!("{:?}", Value::Text(&text))),
            ];
            prop_assert_eq!(read_all(Holders::CONNACK, &out).unwrap(), expected);
        }
    }
}
