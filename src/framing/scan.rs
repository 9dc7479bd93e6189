//! Looking for a mark that ends a frame, without looking at a byte twice and without keeping what is too long.

use bytes::{Buf, BytesMut};
use memchr::memmem::Finder;

use super::Found;

/// One thing that a scan came upon.
#[derive(Debug)]
pub(super) enum Step {
    /// A body, without its mark.
    Body(BytesMut),
    /// A body over the limit: it ended here, or [`Step::Discarded`] comes at its end.
    TooLong,
    /// The mark behind a body that was counted as too long before.
    Discarded,
}

/// Takes bodies that end in a mark off a buffer.
#[derive(Debug)]
pub(super) struct Scan {
    mark: Finder<'static>,
    /// Longest body in bytes.
    limit: usize,
    /// Where the search goes on: no mark begins before.
    from: usize,
    /// The body was too long and has been counted; it goes away up to its mark.
    discarding: bool,
}

impl Scan {
    /// `mark` is not empty.
    pub(super) fn new(mark: &[u8], limit: usize) -> Scan {
        Scan { mark: Finder::new(mark).into_owned(), limit, from: 0, discarding: false }
    }

    /// The next body, without its mark, or that it was too long. `None`: more bytes are needed.
    pub(super) fn next(&mut self, buffer: &mut BytesMut) -> Option<Found> {
        loop {
            match self.step(buffer)? {
                Step::Body(body) => return Some(Found::Body(body)),
                Step::TooLong => return Some(Found::TOO_LONG),
                Step::Discarded => {}
            }
        }
    }

    /// As [`next`](Scan::next), and tells of the end of what was too long.
    pub(super) fn step(&mut self, buffer: &mut BytesMut) -> Option<Step> {
        let Some(found) = self.mark.find(&buffer[self.from..]) else {
            return self.discard(buffer);
        };
        let length = self.from + found;
        self.from = 0;
        let mut body = buffer.split_to(length + self.mark.needle().len());
        body.truncate(length);
        Some(if std::mem::take(&mut self.discarding) {
            Step::Discarded
        } else if length > self.limit {
            Step::TooLong
        } else {
            Step::Body(body)
        })
    }

    /// Whether what was too long is still being thrown away.
    pub(super) fn is_discarding(&self) -> bool {
        self.discarding
    }

    /// The link ended: `buffer` holds an unfinished body, unless that has been counted. As new afterwards.
    pub(super) fn end(&mut self, buffer: &BytesMut) -> Option<Found> {
        self.from = 0;
        let counted = std::mem::take(&mut self.discarding);
        (!counted && !buffer.is_empty()).then_some(Found::PARTIAL)
    }

    /// There is no whole mark in `buffer`.
    fn discard(&mut self, buffer: &mut BytesMut) -> Option<Step> {
        // The last bytes may be the first of a mark.
        let searched = buffer.len().saturating_sub(self.mark.needle().len() - 1);
        let too_long = !self.discarding && searched > self.limit;
        self.discarding |= too_long;
        if self.discarding {
            buffer.advance(searched);
            self.from = 0;
        } else {
            self.from = searched;
        }
        too_long.then_some(Step::TooLong)
    }
}
