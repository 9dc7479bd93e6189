//! `chunks`: whatever one read returns.

use bytes::BytesMut;

use super::Found;

/// No framing at all. A read never counts as longer than `max_length`: what is more comes as further frames, as if the
/// wire had been read in smaller pieces.
#[derive(Debug)]
pub(super) struct Chunks {
    limit: usize,
}

impl Chunks {
    pub(super) fn new(limit: usize) -> Chunks {
        Chunks { limit: limit.max(1) }
    }

    pub(super) fn decode(&mut self, buffer: &mut BytesMut) -> Option<Found> {
        (!buffer.is_empty()).then(|| Found::Body(buffer.split_to(buffer.len().min(self.limit))))
    }
}
