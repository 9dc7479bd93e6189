//! The way up: bytes to frames, frames to the rules.

use std::io;

use bytes::BytesMut;
use tokio::io::AsyncReadExt;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{End, Link, before, link_error};
use crate::device::forced_end;
use crate::device::watch::{Made, What};
use crate::framing::{Codec, Decoded};
use crate::stats::DropReason;
use crate::transport::ReadHalf;

/// Room for one read at first, and at most; it grows while the device fills it.
const READ_SIZE: std::ops::RangeInclusive<usize> = 4 * 1024..=64 * 1024;

/// Reads one link.
pub(super) struct Reader<'a> {
    read: ReadHalf,
    link: &'a Link<'a>,
    codec: Codec,
    buffer: BytesMut,
    /// The codec is at work: if it panics, nothing can be said of what is in the buffer.
    is_decoding: bool,
}

impl<'a> Reader<'a> {
    /// Nothing has been read yet.
    pub(super) fn new(read: ReadHalf, link: &'a Link<'a>) -> Reader<'a> {
        let codec = Codec::new(&link.device.config.framing);
        Reader { read, link, codec, buffer: BytesMut::new(), is_decoding: false }
    }

    /// Passes frames on until the link ends, or until `halt`: then [`End::Stopped`], with no whole frame left behind.
    pub(super) async fn pump(&mut self, halt: &CancellationToken) -> End {
        let mut last_read = Instant::now();
        let mut room = *READ_SIZE.start();
        loop {
            let gap_ends = self.codec.gap().filter(|_| !self.buffer.is_empty()).map(|gap| last_read + gap);
            let idle_ends = self.link.idle.map(|idle| last_read + idle);
            self.buffer.reserve(room);
            let read = tokio::select! {
                biased;
                () = halt.cancelled() => return End::Stopped,
                read = before(gap_ends.into_iter().chain(idle_ends).min(), self.read.read_buf(&mut self.buffer)) => read,
            };
            match read {
                Some(Ok(0)) => return End::Unplugged,
                Some(Ok(n)) => {
                    last_read = Instant::now();
                    self.link.device.state.stats.bytes_in.add(n as u64);
                    if n >= room {
                        room = (room * 2).min(*READ_SIZE.end());
                    }
                    while let Some(decoded) = self.decode() {
                        self.take(decoded).await;
                    }
                }
                Some(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Some(Err(error)) => return link_error(error),
                None if gap_ends.is_some_and(|at| Instant::now() >= at) => {
                    while let Some(decoded) = self.codec.decode_gap(&mut self.buffer) {
                        self.take(decoded).await;
                    }
                }
                None => return End::Idle(self.link.idle.unwrap_or_default()),
            }
        }
    }

    fn decode(&mut self) -> Option<Decoded> {
        self.is_decoding = true;
        let decoded = self.codec.decode(&mut self.buffer);
        self.is_decoding = false;
        decoded
    }

    async fn take(&mut self, decoded: Decoded) {
        let Link { device, peer, .. } = *self.link;
        match decoded {
            Decoded::Frame(frame) => {
                device.state.stats.frames_in.increment();
                if self.link.outbox.is_echo(&frame) {
                    let reason = DropReason::Echo;
                    device.state.stats.dropped.count(reason);
                    device.watch.tell(|| What::In { frame, peer, made: vec![Made::Dropped { reason, detail: None }] });
                    return;
                }
                device.uplink.take(device, &frame, peer).await;
            }
            Decoded::Dropped { reason, count } => self.discarded(reason, count),
        }
    }

    fn discarded(&self, reason: DropReason, count: u64) {
        self.link.device.count_drop(reason, count, None);
        self.link.device.watch.tell(|| What::Discarded { reason, count });
    }
}

/// Counts what is left when the link has ended. Whole frames are left only if it ended by force.
impl Drop for Reader<'_> {
    fn drop(&mut self) {
        if self.is_decoding {
            return;
        }
        while let Some(decoded) = self.decode() {
            match decoded {
                Decoded::Frame(_) => {
                    self.link.device.state.stats.frames_in.increment();
                    self.discarded(forced_end(), 1);
                }
                Decoded::Dropped { reason, count } => self.discarded(reason, count),
            }
        }
        while let Some(decoded) = self.codec.decode_end(&mut self.buffer) {
            if let Decoded::Dropped { reason, count } = decoded {
                self.discarded(reason, count);
            }
        }
    }
}
