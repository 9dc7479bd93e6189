//! `length_prefixed`: a count, then so many bytes.

use bytes::{Buf, BytesMut};

use super::{EncodeError, Found};
use crate::config::Endian;

/// Frames with a count before each. Nothing but the counts says where a frame begins: a frame whose count is too large
/// is skipped by that count, which after garbage can be far, and ends with the link at the latest; a count that
/// `adjust` makes negative is skipped alone.
#[derive(Debug)]
pub(super) struct LengthPrefixed {
    width: u8,
    endian: Endian,
    adjust: i64,
    limit: usize,
    /// What is still to be thrown away of a frame that was too long.
    skip: u64,
}

impl LengthPrefixed {
    /// `width` is 1 to 8.
    pub(super) fn new(width: u8, endian: Endian, adjust: i64, limit: usize) -> LengthPrefixed {
        LengthPrefixed { width: width.clamp(1, 8), endian, adjust, limit, skip: 0 }
    }

    pub(super) fn decode(&mut self, buffer: &mut BytesMut) -> Option<Found> {
        self.discard(buffer);
        let width = usize::from(self.width);
        if buffer.len() < width {
            return None;
        }
        let length = i128::from(self.count(&buffer[..width])) + i128::from(self.adjust);
        let Ok(length) = u64::try_from(length.min(u64::MAX.into())) else {
            buffer.advance(width);
            return Some(Found::BAD_FRAME);
        };
        let length = match usize::try_from(length) {
            Ok(length) if length <= self.limit => length,
            _ => {
                buffer.advance(width);
                self.skip = length;
                self.discard(buffer);
                return Some(Found::TOO_LONG);
            }
        };
        if buffer.len() - width < length {
            return None;
        }
        buffer.advance(width);
        Some(Found::Body(buffer.split_to(length)))
    }

    pub(super) fn end(&mut self, buffer: &BytesMut) -> Option<Found> {
        self.skip = 0;
        (!buffer.is_empty()).then_some(Found::PARTIAL)
    }

    pub(super) fn encode(&self, frame: &[u8], trailer: &[u8], out: &mut BytesMut) -> Result<(), EncodeError> {
        let width = usize::from(self.width);
        let length = frame.len() + trailer.len();
        // Both fit: a length is at most isize::MAX.
        let count = length as i128 - i128::from(self.adjust);
        let representable = u64::try_from(count).ok().filter(|count| width == 8 || count >> (8 * width) == 0);
        let Some(representable) = representable else {
            return Err(EncodeError::Count { length, count, width: self.width });
        };
        out.reserve(width + length);
        match self.endian {
            Endian::Big => out.extend_from_slice(&representable.to_be_bytes()[8 - width..]),
            Endian::Little => out.extend_from_slice(&representable.to_le_bytes()[..width]),
        }
        out.extend_from_slice(frame);
        out.extend_from_slice(trailer);
        Ok(())
    }

    fn discard(&mut self, buffer: &mut BytesMut) {
        // At most the buffer's length, so it fits.
        let now = self.skip.min(buffer.len() as u64) as usize;
        buffer.advance(now);
        self.skip -= now as u64;
    }

    fn count(&self, bytes: &[u8]) -> u64 {
        let join = |count: u64, &byte: &u8| count << 8 | u64::from(byte);
        match self.endian {
            Endian::Big => bytes.iter().fold(0, join),
            Endian::Little => bytes.iter().rev().fold(0, join),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Checksum, Endian, Framing, FramingKind};
    use crate::framing::tests::{Wire, encoded, framing};
    use crate::framing::{Codec, EncodeError};
    use crate::stats::DropReason;

    fn prefixed(width: u8, endian: Endian, adjust: i64) -> Framing {
        framing(FramingKind::LengthPrefixed { width, endian, adjust })
    }

    #[test]
    fn counts_in_both_orders_and_all_widths() {
        for (width, big, little) in [
            (1, &[2][..], &[2][..]),
            (2, &[0, 2], &[2, 0]),
            (3, &[0, 0, 2], &[2, 0, 0]),
            (4, &[0, 0, 0, 2], &[2, 0, 0, 0]),
            (8, &[0, 0, 0, 0, 0, 0, 0, 2], &[2, 0, 0, 0, 0, 0, 0, 0]),
        ] {
            for (endian, count) in [(Endian::Big, big), (Endian::Little, little)] {
                let framing = prefixed(width, endian, 0);
                assert_eq!(encoded(&framing, b"hi"), [count, b"hi"].concat()[..]);
                let mut wire = Wire::new(&framing);
                wire.read(count).read(b"hi");
                assert_eq!(wire.frames, ["hi"]);
            }
        }
    }

    #[test]
    fn adjust_is_added_when_reading() {
        // The count has its own two bytes in it.
        let framing = prefixed(2, Endian::Big, -2);
        assert_eq!(encoded(&framing, b"abc"), b"\x00\x05abc"[..]);
        let mut wire = Wire::new(&framing);
        wire.read(b"\x00\x05abc\x00\x02\x00\x01\x00\x03d");
        assert_eq!(wire.frames, ["abc", "", "d"]);
        assert_eq!(wire.count(DropReason::BadFrame), 1);
    }

    #[test]
    fn the_count_has_the_checksum_in_it() {
        let framing = Framing { checksum: Some(Checksum::Xor8), ..prefixed(1, Endian::Big, 0) };
        assert_eq!(encoded(&framing, b"ab"), b"\x03ab\x03"[..]);
    }

    #[test]
    fn a_count_over_the_maximum_is_skipped_by_its_count() {
        let framing = Framing { max_length: 4, ..prefixed(1, Endian::Big, 0) };
        let mut wire = Wire::new(&framing);
        wire.read(b"\x0612").read(b"345").read(b"6\x04good").end();
        assert_eq!(wire.frames, ["good"]);
        assert_eq!(wire.count(DropReason::TooLong), 1);
        wire.read(b"\xff123").end();
        assert_eq!(wire.count(DropReason::TooLong), 2);
        assert_eq!(wire.count(DropReason::Partial), 0);
    }

    #[test]
    fn the_largest_counts_do_not_overflow() {
        for adjust in [i64::MIN, -1, 0, 1, i64::MAX] {
            let mut wire = Wire::new(&prefixed(8, Endian::Big, adjust));
            wire.read(&[0xff; 8]).read(&[0; 100]).end();
            assert_eq!(wire.count(DropReason::TooLong), 1);
        }
    }

    #[test]
    fn a_count_that_does_not_fit_is_refused() {
        let framing = Framing { max_length: 1000, ..prefixed(1, Endian::Big, 0) };
        let refused = Codec::new(&framing).encode(&[0; 256], &mut Default::default());
        assert_eq!(refused, Err(EncodeError::Count { length: 256, count: 256, width: 1 }));
        let refused = Codec::new(&prefixed(1, Endian::Big, 3)).encode(b"ab", &mut Default::default());
        assert_eq!(refused, Err(EncodeError::Count { length: 2, count: -1, width: 1 }));
    }
}
