//! The way up: bytes to frames, frames to the rules.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncReadExt;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{End, before, link_error};
use crate::device::Device;
use crate::device::outbox::Outbox;
use crate::framing::{Codec, Decoded};
use crate::stats::DropReason;
use crate::transport::ReadHalf;

/// Room for one read at first, and at most; it grows while the device fills it.
const READ_SIZE: std::ops::RangeInclusive<usize> = 4 * 1024..=64 * 1024;

/// Reads one link.
pub(super) struct Reader<'a> {
    read: ReadHalf,
    peer: Option<SocketAddr>,
    idle: Option<Duration>,
    device: &'a Device,
    outbox: &'a Outbox,
    codec: Codec,
    buffer: BytesMut,
}

impl<'a> Reader<'a> {
    /// Nothing has been read yet.
    pub(super) fn new(
        read: ReadHalf,
        peer: Option<SocketAddr>,
        idle: Option<Duration>,
        device: &'a Device,
        outbox: &'a Outbox,
    ) -> Reader<'a> {
        let codec = Codec::new(&device.config.framing);
        Reader { read, peer, idle, device, outbox, codec, buffer: BytesMut::new() }
    }

    /// Passes frames on until the link ends, or until `halt`: then [`End::Stopped`], with no whole frame left behind.
    pub(super) async fn pump(&mut self, halt: &CancellationToken) -> End {
        let mut last_read = Instant::now();
        let mut room = *READ_SIZE.start();
        loop {
            let gap_ends = self.codec.gap().filter(|_| !self.buffer.is_empty()).map(|gap| last_read + gap);
            let idle_ends = self.idle.map(|idle| last_read + idle);
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
                    self.device.state.stats.bytes_in.add(n as u64);
                    if n >= room {
                        room = (room * 2).min(*READ_SIZE.end());
                    }
                    while let Some(decoded) = self.codec.decode(&mut self.buffer) {
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
                None => return End::Idle(self.idle.unwrap_or_default()),
            }
        }
    }

    async fn take(&mut self, decoded: Decoded) {
        match decoded {
            Decoded::Frame(frame) => {
                self.device.state.stats.frames_in.increment();
                if self.outbox.is_echo(&frame) {
                    self.device.state.stats.dropped.count(DropReason::Echo);
                    return;
                }
                self.device.uplink.take(self.device, &frame, self.peer).await;
            }
            Decoded::Dropped { reason, count } => self.device.count_drop(reason, count, None),
        }
    }

    /// Counts what is left when the link has ended.
    pub(super) fn finish(mut self) {
        while let Some(decoded) = self.codec.decode_end(&mut self.buffer) {
            if let Decoded::Dropped { reason, count } = decoded {
                self.device.count_drop(reason, count, None);
            }
        }
    }
}
