//! Reading the fields of a packet, and what a string must be (MQTT 5.0, section 1.5).

use super::PacketError;
use crate::topic::{TopicError, TopicName, first_unfit};

/// What is left of a packet's body. Every read is bounded by it: a field that ends after the packet is malformed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader(bytes)
    }

    pub(super) fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// What is not read yet.
    pub(super) fn rest(self) -> &'a [u8] {
        self.0
    }

    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], PacketError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(CUT_SHORT)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn byte(&mut self) -> Result<u8, PacketError> {
        self.chunk().map(|[byte]| byte)
    }

    /// Two byte integer.
    pub(super) fn two(&mut self) -> Result<u16, PacketError> {
        self.chunk().map(u16::from_be_bytes)
    }

    /// Four byte integer.
    pub(super) fn four(&mut self) -> Result<u32, PacketError> {
        self.chunk().map(u32::from_be_bytes)
    }

    /// Variable byte integer, of the least number of bytes [MQTT-1.5.5-1].
    pub(super) fn variable(&mut self) -> Result<u32, PacketError> {
        let mut value = 0;
        for index in 0..4 {
            let byte = self.byte()?;
            value |= u32::from(byte & 0x7F) << (7 * index);
            if byte & 0x80 == 0 {
                return match byte {
                    0 if index > 0 => {
                        Err(PacketError::malformed("an integer of more bytes than it needs [MQTT-1.5.5-1]"))
                    }
                    _ => Ok(value),
                };
            }
        }
        Err(PacketError::malformed("a variable byte integer of more than four bytes"))
    }

    /// Binary data, or the bytes of a string.
    pub(super) fn binary(&mut self) -> Result<&'a [u8], PacketError> {
        let length = self.two()?;
        self.take(length.into())
    }

    /// A string.
    pub(super) fn text(&mut self) -> Result<&'a str, PacketError> {
        let bytes = self.binary()?;
        let text = utf8(bytes)?;
        if memchr::memchr(0, bytes).is_some() {
            return Err(PacketError::malformed("U+0000 in a string [MQTT-1.5.4-2]"));
        }
        Ok(text)
    }

    /// A string that names something; see [`check_name`].
    pub(super) fn name(&mut self) -> Result<&'a str, PacketError> {
        check_name(self.binary()?)
    }

    /// Packet identifier [MQTT-2.2.1-3].
    pub(super) fn id(&mut self) -> Result<u16, PacketError> {
        match self.two()? {
            0 => Err(PacketError::protocol("packet identifier 0 [MQTT-2.2.1-3]")),
            id => Ok(id),
        }
    }

    /// The end of the packet must be here.
    pub(super) fn end(self) -> Result<(), PacketError> {
        match self.0 {
            [] => Ok(()),
            _ => Err(PacketError::malformed("bytes after the end of the packet")),
        }
    }

    fn chunk<const N: usize>(&mut self) -> Result<[u8; N], PacketError> {
        let (chunk, rest) = self.0.split_first_chunk().ok_or(CUT_SHORT)?;
        self.0 = rest;
        Ok(*chunk)
    }
}

const CUT_SHORT: PacketError = PacketError::malformed("a field that ends after the packet");

/// Checks the name of a client or a user, or what is to be sent to others as it came: besides U+0000, control characters
/// and what is no character make a packet malformed there; see [`is_unfit`](crate::topic::is_unfit).
pub(super) fn check_name(bytes: &[u8]) -> Result<&str, PacketError> {
    let text = utf8(bytes)?;
    match first_unfit(text) {
        None => Ok(text),
        Some(_) => Err(PacketError::malformed(UNFIT)),
    }
}

/// Checks a topic name [MQTT-3.3.2-2, MQTT-4.7.3-1].
pub(super) fn check_topic_name(bytes: &[u8]) -> Result<&str, PacketError> {
    let text = utf8(bytes)?;
    match TopicName::check(text) {
        Ok(()) => Ok(text),
        Err(error) => Err(PacketError::malformed(match error {
            TopicError::Empty => "an empty topic name [MQTT-4.7.3-1]",
            TopicError::WildcardInName => "a wildcard in a topic name [MQTT-3.3.2-2]",
            TopicError::TooDeep => "a topic of more than 201 levels",
            _ => UNFIT,
        })),
    }
}

const UNFIT: &str = "U+0000, a control character or a noncharacter in a name [MQTT-1.5.4-2]";

fn utf8(bytes: &[u8]) -> Result<&str, PacketError> {
    std::str::from_utf8(bytes).map_err(|_| PacketError::malformed("a string that is not UTF-8 [MQTT-1.5.4-1]"))
}

#[cfg(test)]
mod tests {
    use super::super::Reason;
    use super::*;

    #[test]
    fn integers_have_one_form() {
        let read = |bytes: &[u8]| Reader::new(bytes).variable();
        for (bytes, value) in [
            (&[0][..], 0),
            (&[0x7F], 127),
            (&[0x80, 1], 128),
            (&[0xFF, 0x7F], 16_383),
            (&[0x80, 0x80, 1], 16_384),
            (&[0xFF, 0xFF, 0xFF, 0x7F], 268_435_455),
        ] {
            assert_eq!(read(bytes), Ok(value));
        }
        for bytes in [&[][..], &[0x80], &[0x80, 0], &[0xFF, 0x80, 0], &[0x80, 0x80, 0x80, 0x80, 1]] {
            assert_eq!(read(bytes).unwrap_err().reason, Reason::MALFORMED_PACKET, "{bytes:?}");
        }
    }

    #[test]
    fn fields_end_with_the_packet() {
        assert_eq!(Reader::new(b"\0\x02ab").text(), Ok("ab"));
        for bytes in [&b""[..], b"\0", b"\0\x03ab"] {
            assert!(Reader::new(bytes).binary().is_err(), "{bytes:?}");
        }
        assert!(Reader::new(&[1]).two().is_err() && Reader::new(&[1, 2, 3]).four().is_err());
        assert!(Reader::new(&[]).end().is_ok() && Reader::new(&[0]).end().is_err());
    }

    #[test]
    fn names_are_printable() {
        for name in ["", "a b/c", "Aä𪛔", "\u{200B}", "\u{FFFD}"] {
            assert_eq!(check_name(name.as_bytes()), Ok(name));
        }
        for name in ["\0", "a\u{1}", "\u{1F}", "\u{7F}", "ä\u{9F}", "\u{FDD0}", "\u{FFFF}", "\u{1FFFE}"] {
            assert_eq!(check_name(name.as_bytes()).unwrap_err().reason, Reason::MALFORMED_PACKET, "{name:?}");
        }
        assert!(check_name(b"\xED\xA0\x80").is_err(), "a surrogate");
        assert!(check_topic_name(b"a\t").is_err() && check_topic_name("/".repeat(201).as_bytes()).is_err());
        assert!(check_topic_name(b"a/+").is_err() && check_topic_name(b"#").is_err() && check_topic_name(b"").is_err());
        assert_eq!(Reader::new(b"\0\x01\t").text(), Ok("\t"));
        assert!(Reader::new(b"\0\x01\0").text().is_err());
    }
}
