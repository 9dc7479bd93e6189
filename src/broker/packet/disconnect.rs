//! DISCONNECT, both ways, and PINGRESP.

use bytes::{BufMut, BytesMut};

use super::property::{self, Holders, Property, Value, id};
use super::read::Reader;
use super::{Packet, PacketError, Reason, Recipient, Version};

/// Any reason code is taken: the client is gone, and what is not 0 has its will published.
pub(super) fn parse_disconnect(version: Version, body: &[u8]) -> Result<Packet, PacketError> {
    let mut reader = Reader::new(body);
    let (mut reason, mut session_expiry) = (Reason::SUCCESS, None);
    if version == Version::V5 && !reader.is_empty() {
        reason = Reason(reader.byte()?);
        if !reader.is_empty() {
            property::read(&mut reader, Holders::DISCONNECT, |property| {
                if let Property { id: id::SESSION_EXPIRY_INTERVAL, value: Value::Number(seconds), .. } = property {
                    session_expiry = Some(seconds);
                }
                Ok(())
            })?;
        }
    }
    reader.end()?;
    Ok(Packet::Disconnect { reason, session_expiry })
}

/// Appends a DISCONNECT of MQTT 5, with `words` about it if the client may have them; in MQTT 3 servers cannot send one.
pub fn write_disconnect(out: &mut BytesMut, recipient: &Recipient, reason: Reason, words: &str) {
    if recipient.version != Version::V5 || recipient.maximum_packet_size < 3 {
        return;
    }
    let properties = recipient.words(reason, words, 4);
    if properties.is_empty() {
        return out.put_slice(&[0xE0, 1, reason.0]);
    }
    out.put_u8(0xE0);
    property::put_variable(out, 1 + property::variable_size(properties.len()) + properties.len());
    out.put_u8(reason.0);
    Recipient::put_properties(out, &properties);
}

/// Appends a PINGRESP.
pub fn write_pingresp(out: &mut BytesMut) {
    out.put_slice(&[0xD0, 0]);
}

#[cfg(test)]
mod tests {
    use super::super::Frame;
    use super::*;

    fn parse(version: Version, bytes: &[u8]) -> Result<(Reason, Option<u32>), Reason> {
        let frame = Frame::split(&mut BytesMut::from(bytes), 1000).unwrap().expect("a whole packet");
        match Packet::parse(version, frame).map_err(|error| error.reason)? {
            Packet::Disconnect { reason, session_expiry } => Ok((reason, session_expiry)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn disconnect_is_read() {
        assert_eq!(parse(Version::V311, &[0xE0, 0]), Ok((Reason::SUCCESS, None)));
        assert_eq!(parse(Version::V5, &[0xE0, 0]), Ok((Reason::SUCCESS, None)));
        assert_eq!(parse(Version::V5, &[0xE0, 1, 4]), Ok((Reason(4), None)));
        assert_eq!(parse(Version::V5, &[0xE0, 7, 0, 5, 0x11, 0, 0, 0, 9]), Ok((Reason::SUCCESS, Some(9))));
        assert_eq!(parse(Version::V311, &[0xE0, 1, 0]), Err(Reason::MALFORMED_PACKET));
        assert_eq!(parse(Version::V5, &[0xE0, 4, 0, 2, 0x11, 0]), Err(Reason::MALFORMED_PACKET));
        assert_eq!(parse(Version::V5, &[0xE0, 5, 0, 3, 0x21, 0, 1]), Err(Reason::PROTOCOL_ERROR));
    }

    #[test]
    fn disconnect_is_written_for_the_client() {
        let written = |recipient: Recipient, reason| {
            let mut out = BytesMut::new();
            write_disconnect(&mut out, &recipient, reason, "why");
            out.to_vec()
        };
        let v5 = Recipient::of(Version::V5);
        assert_eq!(written(v5, Reason::PROTOCOL_ERROR), [0xE0, 1, 0x82]);
        let told = written(Recipient { problem_information: Some(true), ..v5 }, Reason::QUOTA_EXCEEDED);
        assert_eq!(told, b"\xE0\x08\x97\x06\x1F\0\x03why");
        assert_eq!(parse(Version::V5, &told), Ok((Reason::QUOTA_EXCEEDED, None)));
        assert_eq!(written(Recipient { maximum_packet_size: 2, ..v5 }, Reason::QUOTA_EXCEEDED), b"");
        assert_eq!(written(Recipient::of(Version::V311), Reason::QUOTA_EXCEEDED), b"");
    }
}
