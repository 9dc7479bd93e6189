//! `idle_gap`: a frame ends when nothing came for so long. The clock is the caller's.

use std::time::Duration;

use bytes::BytesMut;

use super::Found;

/// Frames between silences.
#[derive(Debug)]
pub(super) struct IdleGap {
    gap: Duration,
    limit: usize,
    /// The frame was too long and has been counted; it goes away up to the gap. One byte of it stays in the buffer, so
    /// that the caller goes on waiting for the gap.
    discarding: bool,
}

impl IdleGap {
    pub(super) fn new(gap: Duration, limit: usize) -> IdleGap {
        IdleGap { gap, limit, discarding: false }
    }

    pub(super) fn gap(&self) -> Duration {
        self.gap
    }

    /// Never a frame: that takes silence.
    pub(super) fn decode(&mut self, buffer: &mut BytesMut) -> Option<Found> {
        let too_long = !self.discarding && buffer.len() > self.limit;
        self.discarding |= too_long;
        if self.discarding {
            buffer.truncate(1);
        }
        too_long.then_some(Found::TOO_LONG)
    }

    pub(super) fn decode_gap(&mut self, buffer: &mut BytesMut) -> Option<Found> {
        let frame = buffer.split();
        (!std::mem::take(&mut self.discarding) && !frame.is_empty()).then_some(Found::Body(frame))
    }

    pub(super) fn end(&mut self, buffer: &BytesMut) -> Option<Found> {
        (!std::mem::take(&mut self.discarding) && !buffer.is_empty()).then_some(Found::PARTIAL)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::config::{Framing, FramingKind};
    use crate::framing::Codec;
    use crate::framing::tests::{Wire, framing};
    use crate::stats::DropReason;

    fn idle_gap() -> Framing {
        framing(FramingKind::IdleGap { gap: Duration::from_millis(5) })
    }

    #[test]
    fn silence_ends_a_frame() {
        assert_eq!(Codec::new(&idle_gap()).gap(), Some(Duration::from_millis(5)));
        let mut wire = Wire::new(&idle_gap());
        wire.read(b"ab").read(b"c").gap().gap().read(b"d").gap();
        assert_eq!(wire.frames, ["abc", "d"]);
    }

    #[test]
    fn too_long_is_thrown_away_up_to_the_gap() {
        let framing = Framing { max_length: 4, ..idle_gap() };
        let mut wire = Wire::new(&framing);
        wire.read(b"12345").read(b"67").read(b"8901").gap().read(b"1234").gap();
        assert_eq!(wire.frames, ["1234"]);
        assert_eq!(wire.count(DropReason::TooLong), 1);
    }
}
