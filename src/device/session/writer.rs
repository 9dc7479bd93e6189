//! The way down: commands from the queue onto the wire.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;
use tokio::time::{sleep, timeout};

use super::{End, Link, link_error};
use crate::device::queue::Outgoing;
use crate::device::receipt::Fate;
use crate::device::watch::What;
use crate::device::{Device, Pending};
use crate::framing::Codec;
use crate::stats::DropReason;
use crate::transport::WriteHalf;

/// Commands are gathered into one write up to this size.
const WRITE_SIZE: usize = 16 * 1024;
/// A write that the device has not taken after this long is worth a line in the log.
const STALL_WARNING: Duration = Duration::from_secs(10);

/// Writes until a write fails, or the link is to end and the queue is empty.
pub(super) async fn write_commands(mut write: WriteHalf, link: &Link<'_>) -> End {
    let Link { device, outbox, .. } = *link;
    let codec = Codec::new(&device.config.framing);
    let losses = device.losses();
    let gap = device.config.write_gap;
    let mut bytes = BytesMut::new();
    loop {
        let Some(first) = outbox.next(&link.drain, losses).await else {
            // Waits until the driver has sent what it was given; closing would throw that away.
            return write.shutdown().await.map_or_else(link_error, |()| End::Stopped);
        };
        let mut batch = Batch::new(device, link.peer);
        batch.add(first, &codec, &mut bytes, link);
        while gap.is_zero() && bytes.len() < WRITE_SIZE {
            let Some(next) = outbox.try_next(losses) else { break };
            batch.add(next, &codec, &mut bytes, link);
        }
        if let Err(error) = write_all(&mut write, &bytes, device).await {
            return link_error(error);
        }
        device.state.stats.bytes_out.add(bytes.len() as u64);
        batch.written();
        bytes.clear();
        if !gap.is_zero() {
            sleep(gap).await;
        }
    }
}

/// Frames of one write. Those that are not written when it is dropped are counted, and who waits for them is told.
struct Batch<'a> {
    pending: Pending<'a>,
    peer: Option<SocketAddr>,
    /// The frames that somebody waits for or watches; empty otherwise.
    followed: Vec<Outgoing>,
}

impl<'a> Batch<'a> {
    fn new(device: &'a Device, peer: Option<SocketAddr>) -> Batch<'a> {
        Batch { pending: Pending::new(device, DropReason::WriteFailed), peer, followed: Vec::new() }
    }

    /// Appends `outgoing` to `bytes`, if the framing can carry it.
    fn add(&mut self, outgoing: Outgoing, codec: &Codec, bytes: &mut BytesMut, link: &Link<'_>) {
        let device = self.pending.device;
        match codec.encode(&outgoing.frame, bytes) {
            Ok(()) => {
                self.pending.count += 1;
                link.outbox.remember_written(&outgoing.frame);
                if outgoing.receipt.is_some() || device.watch.is_watched() {
                    self.followed.push(outgoing);
                }
            }
            Err(error) => {
                device.count_drop(error.reason(), 1, Some(&error.to_string()));
                self.tell(outgoing, Fate::Dropped(error.reason()));
            }
        }
    }

    fn written(&mut self) {
        let written = self.pending.settle();
        self.pending.device.state.stats.frames_out.add(written);
        self.tell_all(Fate::Written);
    }

    fn tell_all(&mut self, fate: Fate) {
        for outgoing in std::mem::take(&mut self.followed) {
            self.tell(outgoing, fate);
        }
    }

    fn tell(&self, outgoing: Outgoing, fate: Fate) {
        let Outgoing { frame, receipt } = outgoing;
        let dropped = match fate {
            Fate::Written => None,
            Fate::Dropped(reason) => Some(reason),
        };
        self.pending.device.watch.tell(|| What::Out { frame, peer: self.peer, dropped });
        if let Some(receipt) = receipt {
            receipt.tell(fate);
        }
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        self.tell_all(Fate::Dropped(self.pending.reason));
    }
}

/// Writes all of `bytes`, saying once when the device does not take them.
async fn write_all(write: &mut WriteHalf, bytes: &[u8], device: &Device) -> io::Result<()> {
    let writing = write.write_all(bytes);
    tokio::pin!(writing);
    if let Ok(written) = timeout(STALL_WARNING, &mut writing).await {
        return written;
    }
    tracing::warn!(device = device.name(), waited = ?STALL_WARNING,
        "the device takes no data; commands wait in the queue. hint: check flow control and whether the device is stuck");
    writing.await
}
