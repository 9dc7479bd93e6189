//! `cobs`: consistent overhead byte stuffing (Cheshire and Baker, 1999), 0x00 behind each frame.

use bytes::BytesMut;
use cobs::CobsEncoder;

use super::Found;
use super::scan::Scan;

/// Frames without a zero byte, and zeros between them. Zeros in a row are skipped; the frame of no bytes is 0x01 0x00.
#[derive(Debug)]
pub(super) struct Cobs {
    scan: Scan,
    limit: usize,
}

impl Cobs {
    pub(super) fn new(limit: usize) -> Cobs {
        Cobs { scan: Scan::new(&[0], limit.saturating_add(limit / 254 + 1)), limit }
    }

    pub(super) fn decode(&mut self, buffer: &mut BytesMut) -> Option<Found> {
        loop {
            let mut body = match self.scan.next(buffer)? {
                Found::Body(body) if body.is_empty() => continue,
                Found::Body(body) => body,
                dropped => return Some(dropped),
            };
            let Ok(length) = cobs::decode_in_place(&mut body) else { return Some(Found::BAD_FRAME) };
            body.truncate(length);
            return Some(if length > self.limit { Found::TOO_LONG } else { Found::Body(body) });
        }
    }

    pub(super) fn end(&mut self, buffer: &BytesMut) -> Option<Found> {
        self.scan.end(buffer)
    }
}

/// The encoded bytes and a zero.
pub(super) fn encode(frame: &[u8], trailer: &[u8], out: &mut BytesMut) {
    let before = out.len();
    out.resize(before + cobs::max_encoding_length(frame.len() + trailer.len()), 0);
    let mut encoder = CobsEncoder::new(&mut out[before..]);
    let pushed = [frame, trailer].into_iter().filter(|part| !part.is_empty()).try_for_each(|part| encoder.push(part));
    debug_assert!(pushed.is_ok(), "there is room for the longest encoding");
    // The encoder makes no code byte where there is nothing to encode.
    let encoded = encoder.finalize();
    out.truncate(before + encoded);
    out.extend_from_slice(if encoded == 0 { &[1, 0] } else { &[0] });
}

#[cfg(test)]
mod tests {
    use crate::config::FramingKind;
    use crate::framing::tests::{Wire, encoded, framing};
    use crate::stats::DropReason;

    #[test]
    fn encodes_as_the_paper_does() {
        let framing = crate::config::Framing { max_length: 1000, ..framing(FramingKind::Cobs) };
        for (frame, wire) in [
            (vec![], vec![1, 0]),
            (vec![0], vec![1, 1, 0]),
            (vec![0x11, 0x22, 0, 0x33], vec![3, 0x11, 0x22, 2, 0x33, 0]),
            ([7; 254].to_vec(), [&[0xff][..], &[7; 254], &[0]].concat()),
            ([7; 255].to_vec(), [&[0xff][..], &[7; 254], &[2, 7, 0]].concat()),
        ] {
            assert_eq!(encoded(&framing, &frame), wire[..]);
            let mut decoded = Wire::new(&framing);
            decoded.read(&wire).end();
            assert_eq!(decoded.frames, [frame]);
        }
    }

    #[test]
    fn a_bad_code_costs_its_frame_only() {
        let mut wire = Wire::new(&framing(FramingKind::Cobs));
        wire.read(&[9, 1, 2, 0, 0, 2, b'a', 0]).end();
        assert_eq!(wire.frames, ["a"]);
        assert_eq!(wire.count(DropReason::BadFrame), 1);
    }
}
