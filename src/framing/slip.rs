//! `slip`: RFC 1055.

use bytes::{BufMut, BytesMut};
use memchr::{memchr, memchr2};

use super::Found;
use super::scan::Scan;

const END: u8 = 0o300;
const ESC: u8 = 0o333;
const ESC_END: u8 = 0o334;
const ESC_ESC: u8 = 0o335;

/// Frames with END around them. Frames of no bytes are skipped, as the RFC asks: END before and behind each frame makes
/// them. A frame with an ESC that escapes nothing is dropped whole, up to its END.
#[derive(Debug)]
pub(super) struct Slip {
    scan: Scan,
    limit: usize,
}

impl Slip {
    pub(super) fn new(limit: usize) -> Slip {
        // Each byte may come as two.
        Slip { scan: Scan::new(&[END], limit.saturating_mul(2)), limit }
    }

    pub(super) fn decode(&mut self, buffer: &mut BytesMut) -> Option<Found> {
        loop {
            let mut body = match self.scan.next(buffer)? {
                Found::Body(body) if body.is_empty() => continue,
                Found::Body(body) => body,
                dropped => return Some(dropped),
            };
            let Some(length) = unescape(&mut body) else { return Some(Found::BAD_FRAME) };
            body.truncate(length);
            return Some(if length > self.limit { Found::TOO_LONG } else { Found::Body(body) });
        }
    }

    pub(super) fn end(&mut self, buffer: &BytesMut) -> Option<Found> {
        self.scan.end(buffer)
    }
}

/// END, the escaped bytes, END.
pub(super) fn encode(frame: &[u8], trailer: &[u8], out: &mut BytesMut) {
    out.reserve(frame.len() + trailer.len() + 2);
    out.put_u8(END);
    escape(frame, out);
    escape(trailer, out);
    out.put_u8(END);
}

fn escape(mut bytes: &[u8], out: &mut BytesMut) {
    while let Some(at) = memchr2(END, ESC, bytes) {
        out.extend_from_slice(&bytes[..at]);
        out.extend_from_slice(&[ESC, if bytes[at] == END { ESC_END } else { ESC_ESC }]);
        bytes = &bytes[at + 1..];
    }
    out.extend_from_slice(bytes);
}

/// Unescapes in place; the length, or `None` if an ESC escapes nothing.
fn unescape(body: &mut [u8]) -> Option<usize> {
    let Some(first) = memchr(ESC, body) else { return Some(body.len()) };
    let (mut read, mut write) = (first, first);
    while read < body.len() {
        // At an ESC.
        body[write] = match *body.get(read + 1)? {
            ESC_END => END,
            ESC_ESC => ESC,
            _ => return None,
        };
        read += 2;
        write += 1;
        let plain = memchr(ESC, &body[read..]).unwrap_or(body.len() - read);
        body.copy_within(read..read + plain, write);
        read += plain;
        write += plain;
    }
    Some(write)
}

#[cfg(test)]
mod tests {
    use crate::config::FramingKind;
    use crate::framing::tests::{Wire, encoded, framing};
    use crate::stats::DropReason;

    #[test]
    fn encodes_as_the_rfc_does() {
        let framing = framing(FramingKind::Slip);
        assert_eq!(encoded(&framing, &[1, 0xc0, 2, 0xdb, 3]), [0xc0, 1, 0xdb, 0xdc, 2, 0xdb, 0xdd, 3, 0xc0][..]);
    }

    #[test]
    fn a_bad_escape_costs_its_frame_only() {
        let mut wire = Wire::new(&framing(FramingKind::Slip));
        wire.read(b"a\xdbb\xc0c\xdb\xc0\xc0\xc0d\xc0").end();
        assert_eq!(wire.frames, ["d"]);
        assert_eq!(wire.count(DropReason::BadFrame), 2);
    }
}
