//! `fixed`: every frame has the same length, its checksum included.

use bytes::BytesMut;

use super::{EncodeError, Found};

/// Frames of one length. There is nothing to find the beat by: a lost byte shifts all that follows until the link is
/// opened again, unless a checksum tells. The config's `length`, not `max_length`, is the bound.
#[derive(Debug)]
pub(super) struct Fixed {
    length: usize,
}

impl Fixed {
    /// `length` is at least 1.
    pub(super) fn new(length: usize) -> Fixed {
        Fixed { length: length.max(1) }
    }

    pub(super) fn decode(&mut self, buffer: &mut BytesMut) -> Option<Found> {
        (buffer.len() >= self.length).then(|| Found::Body(buffer.split_to(self.length)))
    }

    pub(super) fn encode(&self, frame: &[u8], trailer: &[u8], out: &mut BytesMut) -> Result<(), EncodeError> {
        let length = frame.len() + trailer.len();
        if length != self.length {
            return Err(EncodeError::Length { length, expected: self.length });
        }
        out.reserve(length);
        out.extend_from_slice(frame);
        out.extend_from_slice(trailer);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Checksum, Framing, FramingKind};
    use crate::framing::tests::{Wire, encoded, framing};
    use crate::framing::{Codec, EncodeError};

    #[test]
    fn the_length_has_the_checksum_in_it() {
        let framing = Framing { checksum: Some(Checksum::Sum8), ..framing(FramingKind::Fixed { length: 4 }) };
        assert_eq!(encoded(&framing, &[1, 2, 3]), [1, 2, 3, 6][..]);
        let mut wire = Wire::new(&framing);
        wire.read(&[1, 2, 3, 6, 4, 5]).read(&[6, 15]);
        assert_eq!(wire.frames, [vec![1, 2, 3], vec![4, 5, 6]]);
        let refused = Codec::new(&framing).encode(&[1, 2, 3, 6], &mut Default::default());
        assert_eq!(refused, Err(EncodeError::Length { length: 5, expected: 4 }));
    }

    #[test]
    fn the_length_is_its_own_bound() {
        let framing = framing(FramingKind::Fixed { length: 1000 });
        let mut wire = Wire::new(&framing);
        wire.read(&encoded(&framing, &[7; 1000]));
        assert_eq!(wire.frames, [vec![7; 1000]]);
    }
}
