//! Frames from bytes, and bytes from frames. A [`Codec`] knows no wire and no clock: bytes that were read are put at
//! the back of a buffer, frames are taken off its front.
//!
//! The checksum, where there is one, stands inside the framing: it belongs to the bytes that `fixed` and
//! `length_prefixed` count, stands before the end mark or delimiter, and is encoded with the frame by SLIP and COBS.
//! `max_length` counts without it.

use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::config::{Framing, FramingKind};
use crate::stats::DropReason;

mod checksum;
mod chunks;
mod cobs;
mod delimited;
mod fixed;
mod idle_gap;
mod length_prefixed;
mod scan;
mod slip;
mod start_end;

use checksum::Trailer;

/// What [`Codec::decode`] took off the front of the buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// A frame, its checksum checked and removed.
    Frame(Bytes),
    /// Something that is not passed on.
    Dropped {
        /// Why.
        reason: DropReason,
        /// Frames; bytes for [`DropReason::OutsideFrame`].
        count: u64,
    },
}

/// Why a frame cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// Over `max_length`.
    #[error("cannot write a frame of {length} bytes: `max_length` is {max}")]
    TooLong {
        /// Bytes of the frame.
        length: usize,
        /// `max_length`
        max: usize,
    },
    /// `fixed`: not that long, checksum included.
    #[error("cannot write a frame of {length} bytes, checksum included: every frame of this device has {expected}")]
    Length {
        /// Bytes of the frame with its checksum.
        length: usize,
        /// `length`
        expected: usize,
    },
    /// `length_prefixed`: the count, less `adjust`, is negative or does not fit in `width` bytes.
    #[error(
        "cannot write a frame of {length} bytes, checksum included: its count {count} does not fit in {width} bytes"
    )]
    Count {
        /// Bytes of the frame with its checksum.
        length: usize,
        /// `length` less `adjust`.
        count: i128,
        /// `width`
        width: u8,
    },
}

impl EncodeError {
    /// What the frame is counted under.
    pub fn reason(&self) -> DropReason {
        match self {
            EncodeError::TooLong { .. } => DropReason::TooLong,
            EncodeError::Length { .. } | EncodeError::Count { .. } => DropReason::BadFrame,
        }
    }
}

/// The framing of one connection, both ways.
///
/// Decoding keeps a position in the buffer, so one codec goes with one buffer: between calls bytes may only be put at
/// its back. After each read call [`decode`](Codec::decode) until it returns `None`. What is then left in the buffer is
/// at most a small multiple of `max_length`, whatever came (for `fixed`: less than `length`).
#[derive(Debug)]
pub struct Codec {
    kind: Kind,
    checksum: Option<crate::config::Checksum>,
    max_length: usize,
}

#[derive(Debug)]
enum Kind {
    Delimited(delimited::Delimited),
    Fixed(fixed::Fixed),
    LengthPrefixed(length_prefixed::LengthPrefixed),
    StartEnd(Box<start_end::StartEnd>),
    IdleGap(idle_gap::IdleGap),
    Slip(slip::Slip),
    Cobs(cobs::Cobs),
    Chunks(chunks::Chunks),
}

/// What a framing found, its checksum still on.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Body(BytesMut),
    Dropped(DropReason, u64),
}

impl Found {
    const TOO_LONG: Found = Found::Dropped(DropReason::TooLong, 1);
    const PARTIAL: Found = Found::Dropped(DropReason::Partial, 1);
    const BAD_FRAME: Found = Found::Dropped(DropReason::BadFrame, 1);
}

impl Codec {
    /// A codec at the start of a connection.
    pub fn new(framing: &Framing) -> Codec {
        let limit = framing.max_length.saturating_add(framing.checksum.map_or(0, checksum::width));
        let kind = match &framing.kind {
            FramingKind::Lines { terminator, keep_empty } => {
                Kind::Delimited(delimited::Delimited::lines(terminator, *keep_empty, limit))
            }
            FramingKind::Delimited { delimiter, keep_empty } => {
                Kind::Delimited(delimited::Delimited::new(delimiter, *keep_empty, limit))
            }
            FramingKind::Fixed { length } => Kind::Fixed(fixed::Fixed::new(*length)),
            FramingKind::LengthPrefixed { width, endian, adjust } => {
                Kind::LengthPrefixed(length_prefixed::LengthPrefixed::new(*width, *endian, *adjust, limit))
            }
            FramingKind::StartEnd { start, end } => {
                Kind::StartEnd(Box::new(start_end::StartEnd::new(start, end, limit)))
            }
            FramingKind::IdleGap { gap } => Kind::IdleGap(idle_gap::IdleGap::new(*gap, limit)),
            FramingKind::Slip => Kind::Slip(slip::Slip::new(limit)),
            FramingKind::Cobs => Kind::Cobs(cobs::Cobs::new(limit)),
            FramingKind::Chunks => Kind::Chunks(chunks::Chunks::new(limit)),
        };
        Codec { kind, checksum: framing.checksum, max_length: framing.max_length }
    }

    /// Takes the next frame, or the next thing to be counted, off the front of `buffer`. `None`: more bytes are needed.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Option<Decoded> {
        let found = match &mut self.kind {
            Kind::Delimited(framing) => framing.decode(buffer),
            Kind::Fixed(framing) => framing.decode(buffer),
            Kind::LengthPrefixed(framing) => framing.decode(buffer),
            Kind::StartEnd(framing) => framing.decode(buffer),
            Kind::IdleGap(framing) => framing.decode(buffer),
            Kind::Slip(framing) => framing.decode(buffer),
            Kind::Cobs(framing) => framing.decode(buffer),
            Kind::Chunks(framing) => framing.decode(buffer),
        };
        found.map(|found| self.finish(found))
    }

    /// The link ended, and [`decode`](Codec::decode) has returned `None`: what is unfinished is dropped as
    /// [`DropReason::Partial`] (an `idle_gap` frame too, as nobody knows whether more of it would have come). The
    /// buffer is empty afterwards and the codec is as new.
    pub fn decode_end(&mut self, buffer: &mut BytesMut) -> Option<Decoded> {
        let found = match &mut self.kind {
            Kind::Delimited(framing) => framing.end(buffer),
            Kind::Fixed(_) | Kind::Chunks(_) => (!buffer.is_empty()).then_some(Found::PARTIAL),
            Kind::LengthPrefixed(framing) => framing.end(buffer),
            Kind::StartEnd(framing) => framing.end(buffer),
            Kind::IdleGap(framing) => framing.end(buffer),
            Kind::Slip(framing) => framing.end(buffer),
            Kind::Cobs(framing) => framing.end(buffer),
        };
        buffer.clear();
        found.map(|found| self.finish(found))
    }

    /// `idle_gap`: the silence that ends a frame, to be waited for as long as the buffer is not empty.
    pub fn gap(&self) -> Option<Duration> {
        match &self.kind {
            Kind::IdleGap(framing) => Some(framing.gap()),
            _ => None,
        }
    }

    /// Nothing came for the [`gap`](Codec::gap): takes the frame that it ended. Other framings return `None`.
    pub fn decode_gap(&mut self, buffer: &mut BytesMut) -> Option<Decoded> {
        match &mut self.kind {
            Kind::IdleGap(framing) => framing.decode_gap(buffer).map(|found| self.finish(found)),
            _ => None,
        }
    }

    /// Appends `frame`, with its checksum, to `out` as it goes over the wire. A frame that holds the delimiter or end
    /// mark is written as it is: who sends "a\nb" to a device of lines means two lines.
    ///
    /// # Errors
    /// The framing cannot carry the frame. `out` is then as it was.
    pub fn encode(&self, frame: &[u8], out: &mut BytesMut) -> Result<(), EncodeError> {
        let counted = !matches!(self.kind, Kind::Fixed(_));
        if counted && frame.len() > self.max_length {
            return Err(EncodeError::TooLong { length: frame.len(), max: self.max_length });
        }
        let trailer = self.checksum.map_or(Trailer::EMPTY, |checksum| checksum::of(checksum, frame));
        match &self.kind {
            Kind::Delimited(framing) => framing.encode(frame, trailer.as_ref(), out),
            Kind::Fixed(framing) => return framing.encode(frame, trailer.as_ref(), out),
            Kind::LengthPrefixed(framing) => return framing.encode(frame, trailer.as_ref(), out),
            Kind::StartEnd(framing) => framing.encode(frame, trailer.as_ref(), out),
            Kind::Slip(_) => slip::encode(frame, trailer.as_ref(), out),
            Kind::Cobs(_) => cobs::encode(frame, trailer.as_ref(), out),
            Kind::IdleGap(_) | Kind::Chunks(_) => {
                out.extend_from_slice(frame);
                out.extend_from_slice(trailer.as_ref());
            }
        }
        Ok(())
    }

    fn finish(&self, found: Found) -> Decoded {
        match found {
            Found::Dropped(reason, count) => Decoded::Dropped { reason, count },
            Found::Body(mut body) => match self.checksum {
                Some(checksum) if !checksum::check_and_remove(checksum, &mut body) => {
                    Decoded::Dropped { reason: DropReason::Checksum, count: 1 }
                }
                _ => Decoded::Frame(body.freeze()),
            },
        }
    }
}

#[cfg(test)]
mod tests;
