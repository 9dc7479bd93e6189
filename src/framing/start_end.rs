//! `start_end`: frames between two marks.

use bytes::{Buf, Bytes, BytesMut};
use memchr::memmem::Finder;

use super::Found;
use super::scan::{Scan, Step};
use crate::stats::DropReason;

/// Frames between a start and an end mark. What stands outside is discarded and counted in bytes. Inside a frame a
/// further start mark is data; the frame ends at the first end mark. Where both marks are the same, a frame of no bytes
/// is taken for the end of one frame and the start of the next, so that a lost mark does not turn inside out for ever.
#[derive(Debug)]
pub(super) struct StartEnd {
    start: Finder<'static>,
    end: Bytes,
    body: Scan,
    inside: bool,
}

impl StartEnd {
    /// Neither mark is empty.
    pub(super) fn new(start: &Bytes, end: &Bytes, limit: usize) -> StartEnd {
        StartEnd {
            start: Finder::new(start).into_owned(),
            end: end.clone(),
            body: Scan::new(end, limit),
            inside: false,
        }
    }

    pub(super) fn decode(&mut self, buffer: &mut BytesMut) -> Option<Found> {
        loop {
            if !self.inside {
                match self.find_start(buffer) {
                    0 => {}
                    outside => return Some(Found::Dropped(DropReason::OutsideFrame, outside)),
                }
                if !self.inside {
                    return None;
                }
            }
            match self.body.step(buffer)? {
                Step::Body(body) if body.is_empty() && self.start.needle() == self.end => {}
                Step::Body(body) => {
                    self.inside = false;
                    return Some(Found::Body(body));
                }
                Step::TooLong => {
                    self.inside = self.body.is_discarding();
                    return Some(Found::TOO_LONG);
                }
                Step::Discarded => self.inside = false,
            }
        }
    }

    pub(super) fn end(&mut self, buffer: &BytesMut) -> Option<Found> {
        let counted = self.body.is_discarding();
        self.body.end(buffer);
        match (std::mem::take(&mut self.inside), buffer.len() as u64) {
            (true, _) => (!counted).then_some(Found::PARTIAL),
            (false, 0) => None,
            (false, outside) => Some(Found::Dropped(DropReason::OutsideFrame, outside)),
        }
    }

    pub(super) fn encode(&self, frame: &[u8], trailer: &[u8], out: &mut BytesMut) {
        let start = self.start.needle();
        out.reserve(start.len() + frame.len() + trailer.len() + self.end.len());
        out.extend_from_slice(start);
        out.extend_from_slice(frame);
        out.extend_from_slice(trailer);
        out.extend_from_slice(&self.end);
    }

    /// Goes inside if a start mark stands at the front. Otherwise throws away what cannot be of one: so many bytes.
    fn find_start(&mut self, buffer: &mut BytesMut) -> u64 {
        let start = self.start.needle().len();
        let outside = match self.start.find(buffer) {
            Some(outside) => outside,
            // The last bytes may be the first of a start mark.
            None => buffer.len().saturating_sub(start - 1),
        };
        self.inside = outside == 0 && buffer.len() >= start;
        buffer.advance(if self.inside { start } else { outside });
        outside as u64
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use crate::config::{Framing, FramingKind};
    use crate::framing::tests::{Wire, encoded, framing};
    use crate::stats::DropReason;

    fn start_end(start: &'static [u8], end: &'static [u8]) -> Framing {
        framing(FramingKind::StartEnd { start: Bytes::from_static(start), end: Bytes::from_static(end) })
    }

    #[test]
    fn what_stands_outside_is_counted_in_bytes() {
        let framing = start_end(b"\x02", b"\x03");
        assert_eq!(encoded(&framing, b"on"), b"\x02on\x03"[..]);
        let mut wire = Wire::new(&framing);
        wire.read(b"noise\x03\x02on\x03\r").read(b"\n\x02a\x02b\x03\x02\x03tail").end();
        assert_eq!(wire.frames, ["on", "a\x02b", ""]);
        assert_eq!(wire.count(DropReason::OutsideFrame), 6 + 2 + 4);
    }

    #[test]
    fn a_frame_too_long_ends_at_its_end_mark() {
        let framing = Framing { max_length: 4, ..start_end(b"<<", b">>") };
        let mut wire = Wire::new(&framing);
        wire.read(b"<<123456>").read(b"7").read(b">").read(b">x<<good>>").end();
        assert_eq!(wire.frames, ["good"]);
        assert_eq!(wire.count(DropReason::TooLong), 1);
        assert_eq!(wire.count(DropReason::OutsideFrame), 1);
    }

    #[test]
    fn equal_marks_find_the_beat_again() {
        let mut wire = Wire::new(&start_end(b"~", b"~"));
        wire.read(b"lost~~one~~two~").end();
        assert_eq!(wire.frames, ["one", "two"]);
        assert_eq!(wire.count(DropReason::OutsideFrame), 4);
    }

    #[test]
    fn a_split_start_mark_is_not_lost() {
        let mut wire = Wire::new(&start_end(b"<<", b">>"));
        wire.read(b"a<").read(b"<b>").read(b"><").end();
        assert_eq!(wire.frames, ["b"]);
        assert_eq!(wire.count(DropReason::OutsideFrame), 2);
    }
}
