//! Acknowledgements, SUBSCRIBE, UNSUBSCRIBE, DISCONNECT and the answers to them.

use bytes::{BufMut, BytesMut};
use mqtt_protocol_core::mqtt::packet::{Property, RetainHandling, SubEntry, v3_1_1, v5_0};

use super::publish::put_variable_length;
use super::{Packet, PacketError, Reason, Version, parse_exact};
use crate::qos::Qos;

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
    /// [`Reason::SUCCESS`] in 3.1.1.
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
        let (Some(&[high, low]), rest) = (body.first_chunk(), body.get(2..).unwrap_or_default()) else {
            return Err(PacketError::malformed("packet identifier missing"));
        };
        if !rest.is_empty() {
            match (version, kind) {
                (Version::V311, _) => return Err(PacketError::malformed("bytes after the end of the packet")),
                (_, AckKind::Puback) => parse_exact(body, v5_0::Puback::parse).map(drop)?,
                (_, AckKind::Pubrec) => parse_exact(body, v5_0::Pubrec::parse).map(drop)?,
                (_, AckKind::Pubrel) => parse_exact(body, v5_0::Pubrel::parse).map(drop)?,
                (_, AckKind::Pubcomp) => parse_exact(body, v5_0::Pubcomp::parse).map(drop)?,
            }
        }
        let id = checked_id(u16::from_be_bytes([high, low]))?;
        Ok(Ack { kind, id, reason: rest.first().map_or(Reason::SUCCESS, |&code| Reason(code)) })
    }
}

/// SUBSCRIBE.
#[derive(Debug)]
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
    /// The filter.
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
        match version {
            Version::V311 => {
                let packet = parse_exact(body, v3_1_1::Subscribe::parse)?;
                // The five bits that MQTT 5 gives meaning to are reserved in 3.1.1 [MQTT-3.8.3-4].
                if packet.entries().iter().any(|entry| entry.sub_opts().to_buffer()[0] > 2) {
                    return Err(PacketError::malformed("reserved bits of a requested QoS [MQTT-3.8.3-4]"));
                }
                let entries = packet.entries().iter().map(SubscribeEntry::new).collect();
                Ok(Subscribe { id: checked_id(packet.packet_id())?, entries, subscription_id: None })
            }
            Version::V5 => {
                let packet = parse_exact(body, v5_0::Subscribe::parse)?;
                let subscription_id = packet.props().iter().find_map(|property| match property {
                    Property::SubscriptionIdentifier(id) => Some(id.val()),
                    _ => None,
                });
                let entries = packet.entries().iter().map(SubscribeEntry::new).collect();
                Ok(Subscribe { id: checked_id(packet.packet_id())?, entries, subscription_id })
            }
        }
    }
}

impl SubscribeEntry {
    fn new(entry: &SubEntry) -> SubscribeEntry {
        let options = entry.sub_opts();
        SubscribeEntry {
            filter: entry.topic_filter().to_owned(),
            qos: Qos::from_u8(options.qos() as u8).unwrap_or_default(),
            no_local: options.nl(),
            retain_as_published: options.rap(),
            retain_handling: match options.rh() {
                RetainHandling::SendRetained => 0,
                RetainHandling::SendRetainedIfNotExists => 1,
                RetainHandling::DoNotSendRetained => 2,
            },
        }
    }
}

/// UNSUBSCRIBE.
#[derive(Debug)]
pub struct Unsubscribe {
    /// Packet identifier, not 0.
    pub id: u16,
    /// At least one.
    pub filters: Vec<String>,
}

impl Unsubscribe {
    pub(super) fn parse(version: Version, body: &[u8]) -> Result<Unsubscribe, PacketError> {
        let (id, entries) = match version {
            Version::V311 => {
                let packet = parse_exact(body, v3_1_1::Unsubscribe::parse)?;
                (packet.packet_id(), packet.entries().clone())
            }
            Version::V5 => {
                let packet = parse_exact(body, v5_0::Unsubscribe::parse)?;
                (packet.packet_id(), packet.entries().clone())
            }
        };
        let filters = entries.iter().map(|entry| entry.as_str().to_owned()).collect();
        Ok(Unsubscribe { id: checked_id(id)?, filters })
    }
}

pub(super) fn parse_disconnect(version: Version, body: &[u8]) -> Result<Packet, PacketError> {
    if version == Version::V311 {
        return match body {
            [] => Ok(Packet::Disconnect { reason: Reason::SUCCESS, session_expiry: None }),
            _ => Err(PacketError::malformed("bytes after the end of the packet")),
        };
    }
    let packet = parse_exact(body, v5_0::Disconnect::parse)?;
    let session_expiry = packet.props().iter().flatten().find_map(|property| match property {
        Property::SessionExpiryInterval(interval) => Some(interval.val()),
        _ => None,
    });
    let reason = packet.reason_code().map_or(Reason::SUCCESS, |code| Reason(code as u8));
    Ok(Packet::Disconnect { reason, session_expiry })
}

fn checked_id(id: u16) -> Result<u16, PacketError> {
    match id {
        0 => Err(PacketError::protocol("packet identifier 0 [MQTT-2.2.1-3]")),
        id => Ok(id),
    }
}

/// Appends an acknowledgement; 3.1.1 and success have no reason code.
pub fn write_ack(out: &mut BytesMut, version: Version, ack: Ack) {
    let flags = if ack.kind == AckKind::Pubrel { 2 } else { 0 };
    let with_reason = version == Version::V5 && ack.reason != Reason::SUCCESS;
    out.put_u8(((ack.kind as u8) << 4) | flags);
    out.put_u8(if with_reason { 3 } else { 2 });
    out.put_u16(ack.id);
    if with_reason {
        out.put_u8(ack.reason.0);
    }
}

/// Appends a SUBACK with one code for each filter, in order [MQTT-3.8.4-6].
pub fn write_suback(out: &mut BytesMut, version: Version, id: u16, codes: &[Reason]) {
    let v311 = |code: Reason| if code.is_error() { 0x80 } else { code.0 };
    let properties: &[u8] = if version == Version::V5 { &[0] } else { &[] };
    out.put_u8(0x90);
    put_variable_length(out, 2 + properties.len() + codes.len());
    out.put_u16(id);
    out.put_slice(properties);
    out.extend(codes.iter().map(|&code| if version == Version::V5 { code.0 } else { v311(code) }));
}

/// Appends an UNSUBACK; 3.1.1 has no codes in it.
pub fn write_unsuback(out: &mut BytesMut, version: Version, id: u16, codes: &[Reason]) {
    out.put_u8(0xB0);
    match version {
        Version::V311 => {
            out.put_u8(2);
            out.put_u16(id);
        }
        Version::V5 => {
            put_variable_length(out, 3 + codes.len());
            out.put_u16(id);
            out.put_u8(0);
            out.extend(codes.iter().map(|code| code.0));
        }
    }
}

/// Appends a PINGRESP.
pub fn write_pingresp(out: &mut BytesMut) {
    out.put_slice(&[0xD0, 0]);
}

/// Appends a DISCONNECT of MQTT 5; 3.1.1 servers cannot send one.
pub fn write_disconnect(out: &mut BytesMut, version: Version, reason: Reason) {
    if version == Version::V5 {
        out.put_slice(&[0xE0, 1, reason.0]);
    }
}

#[cfg(test)]
mod tests {
    use super::super::Frame;
    use super::*;

    fn parse(version: Version, bytes: &[u8]) -> Result<Packet, PacketError> {
        Packet::parse(version, Frame::split(&mut BytesMut::from(bytes), 1000).unwrap().expect("a whole packet"))
    }

    #[test]
    fn acknowledgements_come_back() {
        for kind in [AckKind::Puback, AckKind::Pubrec, AckKind::Pubrel, AckKind::Pubcomp] {
            for version in [Version::V311, Version::V5] {
                let mut out = BytesMut::new();
                let ack = Ack { kind, id: 0x1234, reason: Reason::SUCCESS };
                write_ack(&mut out, version, ack);
                assert!(matches!(parse(version, &out), Ok(Packet::Ack(read)) if read == ack));
            }
        }
        let mut out = BytesMut::new();
        let ack = Ack { kind: AckKind::Pubcomp, id: 1, reason: Reason::PACKET_ID_NOT_FOUND };
        write_ack(&mut out, Version::V5, ack);
        assert!(matches!(parse(Version::V5, &out), Ok(Packet::Ack(read)) if read == ack));
    }

    #[test]
    fn packet_identifier_zero_is_refused() {
        let packets: [&[u8]; 3] = [&[0x40, 2, 0, 0], &[0x82, 6, 0, 0, 0, 1, b'a', 0], &[0xA2, 5, 0, 0, 0, 1, b'a']];
        for bytes in packets {
            assert!(parse(Version::V311, bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn subscribe_is_read() {
        let bytes = [0x82, 9, 0, 7, 2, 0x0B, 5, 0, 1, b'#', 0x2E];
        let Ok(Packet::Subscribe(packet)) = parse(Version::V5, &bytes) else { panic!() };
        let entry = SubscribeEntry {
            filter: "#".into(),
            qos: Qos::ExactlyOnce,
            no_local: true,
            retain_as_published: true,
            retain_handling: 2,
        };
        assert_eq!((packet.id, packet.subscription_id, packet.entries), (7, Some(5), vec![entry]));
    }

    #[test]
    fn reserved_bits_and_empty_payloads_are_refused() {
        assert!(parse(Version::V311, &[0x82, 6, 0, 1, 0, 1, b'a', 4]).is_err());
        assert!(parse(Version::V5, &[0x82, 7, 0, 1, 0, 0, 1, b'a', 0x30]).is_err());
        assert!(parse(Version::V311, &[0x82, 2, 0, 1]).is_err());
        assert!(parse(Version::V311, &[0xA2, 2, 0, 1]).is_err());
        assert!(parse(Version::V5, &[0x82, 9, 0, 1, 2, 0x0B, 0, 0, 1, b'a', 0]).is_err(), "subscription identifier 0");
    }

    #[test]
    fn suback_of_3_1_1_knows_one_failure() {
        let codes = [Reason(1), Reason::TOPIC_FILTER_INVALID];
        let mut out = BytesMut::new();
        write_suback(&mut out, Version::V311, 9, &codes);
        assert_eq!(&out[..], &[0x90, 4, 0, 9, 1, 0x80]);
        out.clear();
        write_suback(&mut out, Version::V5, 9, &codes);
        assert_eq!(&out[..], &[0x90, 5, 0, 9, 0, 1, 0x8F]);
    }
}
