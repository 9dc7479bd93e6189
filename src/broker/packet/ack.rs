//! PUBACK, PUBREC, PUBREL and PUBCOMP, both ways.

use bytes::{BufMut, BytesMut};

use super::property::{self, Holders};
use super::read::Reader;
use super::{PacketError, Reason, Recipient, Version};

/// Which acknowledgement; the value is the packet type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum AckKind {
    Puback = 4,
    Pubrec = 5,
    Pubrel = 6,
    Pubcomp = 7,
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// Which of them.
    pub kind: AckKind,
    /// Packet identifier, not 0.
    pub id: u16,
    /// [`Reason::SUCCESS`] in MQTT 3.
    pub reason: Reason,
}

impl Ack {
    pub(super) fn parse(version: Version, kind: u8, body: &[u8]) -> Result<Ack, PacketError> {
        let kind = match kind {
            4 => AckKind::Puback,
            5 => AckKind::Pubrec,
            6 => AckKind::Pubrel,
            _ => AckKind::Pubcomp,
        };
        let mut reader = Reader::new(body);
        let id = reader.id()?;
        let mut reason = Reason::SUCCESS;
        if version == Version::V5 && !reader.is_empty() {
            reason = Reason(reader.byte()?);
            if !kind.reasons().contains(&reason.0) {
                return Err(PacketError::protocol("a reason code that this packet does not know"));
            }
            if !reader.is_empty() {
                property::read(&mut reader, Holders::of(kind as u8), |_| Ok(()))?;
            }
        }
        reader.end()?;
        Ok(Ack { kind, id, reason })
    }
}

impl AckKind {
    /// The reason codes it may have (MQTT 5.0, sections 3.4.2.1, 3.5.2.1, 3.6.2.1, 3.7.2.1).
    fn reasons(self) -> &'static [u8] {
        match self {
            AckKind::Puback | AckKind::Pubrec => &[0, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99],
            AckKind::Pubrel | AckKind::Pubcomp => &[0, 0x92],
        }
    }
}

/// Appends an acknowledgement; MQTT 3 and success have no reason code.
pub fn write_ack(out: &mut BytesMut, recipient: &Recipient, ack: Ack) {
    let flags = if ack.kind == AckKind::Pubrel { 2 } else { 0 };
    out.put_u8(((ack.kind as u8) << 4) | flags);
    if recipient.version != Version::V5 || ack.reason == Reason::SUCCESS {
        out.put_u8(2);
        return out.put_u16(ack.id);
    }
    let properties = recipient.words(ack.reason, ack.reason.text(), 6);
    if properties.is_empty() {
        out.put_u8(3);
        out.put_u16(ack.id);
        return out.put_u8(ack.reason.0);
    }
    property::put_variable(out, 3 + property::variable_size(properties.len()) + properties.len());
    out.put_u16(ack.id);
    out.put_u8(ack.reason.0);
    Recipient::put_properties(out, &properties);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Frame, Packet};
    use super::*;

    const KINDS: [AckKind; 4] = [AckKind::Puback, AckKind::Pubrec, AckKind::Pubrel, AckKind::Pubcomp];

    fn parse(version: Version, bytes: &[u8]) -> Result<Ack, Reason> {
        let frame = Frame::split(&mut BytesMut::from(bytes), 1000).unwrap().expect("a whole packet");
        match Packet::parse(version, frame).map_err(|error| error.reason)? {
            Packet::Ack(ack) => Ok(ack),
            other => panic!("{other:?}"),
        }
    }

    proptest! {
        #[test]
        fn acknowledgements_come_back(kind in 0usize..4, id in 1u16.., reason in 0usize..9, words: Option<bool>) {
            let kind = KINDS[kind];
            let codes = kind.reasons();
            let ack = Ack { kind, id, reason: Reason(codes[reason % codes.len()]) };
            let recipient = Recipient { problem_information: words, ..Recipient::of(Version::V5) };
            let mut out = BytesMut::new();
            write_ack(&mut out, &recipient, ack);
            prop_assert_eq!(parse(Version::V5, &out), Ok(ack));
            out.clear();
            write_ack(&mut out, &Recipient::of(Version::V311), ack);
            prop_assert_eq!(parse(Version::V311, &out), Ok(Ack { reason: Reason::SUCCESS, ..ack }));
        }
    }

    #[test]
    fn what_mqtt_forbids_is_refused() {
        let table: [(&str, &[u8], Reason); 7] = [
            ("id 0", &[0x40, 3, 0, 0, 0], Reason::PROTOCOL_ERROR),
            ("no id", &[0x40, 1, 0], Reason::MALFORMED_PACKET),
            ("unknown reason", &[0x40, 3, 0, 1, 0xFF], Reason::PROTOCOL_ERROR),
            ("reason of another", &[0x62, 3, 0, 1, 0x10], Reason::PROTOCOL_ERROR),
            ("properties cut short", &[0x40, 4, 0, 1, 0, 1], Reason::MALFORMED_PACKET),
            ("more after the properties", &[0x40, 5, 0, 1, 0, 0, 0], Reason::MALFORMED_PACKET),
            ("a property of CONNECT", &[0x40, 7, 0, 1, 0, 3, 0x21, 0, 1], Reason::PROTOCOL_ERROR),
        ];
        for (name, bytes, reason) in table {
            assert_eq!(parse(Version::V5, bytes), Err(reason), "{name}");
        }
        assert_eq!(parse(Version::V311, &[0x40, 3, 0, 1, 0]), Err(Reason::MALFORMED_PACKET));
        assert_eq!(parse(Version::V5, b"\x50\x08\0\x01\x80\x04\x1F\0\x01x").unwrap().reason, Reason(0x80));
    }
}
