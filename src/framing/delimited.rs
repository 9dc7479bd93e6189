//! `lines` and `delimited`: a frame ends where its delimiter begins.

use bytes::{Bytes, BytesMut};

use super::Found;
use super::scan::Scan;

/// Frames with a delimiter behind each.
#[derive(Debug)]
pub(super) struct Delimited {
    scan: Scan,
    delimiter: Bytes,
    /// `lines`: one CR before the terminator is not of the frame.
    lines: bool,
    keep_empty: bool,
    limit: usize,
}

impl Delimited {
    /// `delimited`
    pub(super) fn new(delimiter: &Bytes, keep_empty: bool, limit: usize) -> Delimited {
        Delimited { scan: Scan::new(delimiter, limit), delimiter: delimiter.clone(), lines: false, keep_empty, limit }
    }

    /// `lines`
    pub(super) fn lines(terminator: &Bytes, keep_empty: bool, limit: usize) -> Delimited {
        let with_cr = limit.saturating_add(1);
        Delimited {
            scan: Scan::new(terminator, with_cr),
            delimiter: terminator.clone(),
            lines: true,
            keep_empty,
            limit,
        }
    }

    pub(super) fn decode(&mut self, buffer: &mut BytesMut) -> Option<Found> {
        loop {
            let mut body = match self.scan.next(buffer)? {
                Found::Body(body) => body,
                dropped => return Some(dropped),
            };
            if self.lines && body.last() == Some(&b'\r') {
                body.truncate(body.len() - 1);
            }
            if body.len() > self.limit {
                return Some(Found::TOO_LONG);
            }
            if !body.is_empty() || self.keep_empty {
                return Some(Found::Body(body));
            }
        }
    }

    pub(super) fn end(&mut self, buffer: &BytesMut) -> Option<Found> {
        self.scan.end(buffer)
    }

    pub(super) fn encode(&self, frame: &[u8], trailer: &[u8], out: &mut BytesMut) {
        out.reserve(frame.len() + trailer.len() + self.delimiter.len());
        out.extend_from_slice(frame);
        out.extend_from_slice(trailer);
        out.extend_from_slice(&self.delimiter);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use crate::config::{Framing, FramingKind};
    use crate::framing::tests::{Wire, encoded, framing};
    use crate::stats::DropReason;

    fn lines(keep_empty: bool) -> Framing {
        framing(FramingKind::Lines { terminator: Bytes::from_static(b"\n"), keep_empty })
    }

    #[test]
    fn lines_lose_one_cr_and_empty_ones_are_skipped() {
        let stream = b"a\r\n\r\n\nb\r\r\n\rc\nd\re\n";
        let mut wire = Wire::new(&lines(false));
        wire.read(stream).end();
        assert_eq!(wire.frames, ["a", "b\r", "\rc", "d\re"]);
        assert!(wire.dropped.is_empty());

        let mut wire = Wire::new(&lines(true));
        wire.read(stream).end();
        assert_eq!(wire.frames, ["a", "", "", "b\r", "\rc", "d\re"]);
    }

    #[test]
    fn the_longest_line_may_have_a_cr_too() {
        let framing = Framing { max_length: 3, ..lines(false) };
        let mut wire = Wire::new(&framing);
        wire.read(b"123\r").read(b"\n123\n1234\n123\r").read(b"\r\n1234\r\n456\n").end();
        assert_eq!(wire.frames, ["123", "123", "456"]);
        assert_eq!(wire.count(DropReason::TooLong), 3);
    }

    #[test]
    fn a_delimiter_of_several_bytes_may_be_split() {
        let framing =
            framing(FramingKind::Delimited { delimiter: Bytes::from_static(b"\xff\xff\xff"), keep_empty: false });
        let mut wire = Wire::new(&framing);
        wire.read(b"page\xff").read(b"\xff").read(b"\xff\x01\xff\xff\r\xff\xff\xff").end();
        assert_eq!(wire.frames, [&b"page"[..], b"\x01\xff\xff\r"]);
    }

    #[test]
    fn a_frame_that_holds_the_terminator_is_written_as_it_is() {
        assert_eq!(encoded(&lines(false), b"a\nb"), "a\nb\n");
        assert_eq!(encoded(&lines(false), b""), "\n");
    }
}
