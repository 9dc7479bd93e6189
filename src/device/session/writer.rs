//! The way down: commands from the queue onto the wire.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;
use tokio::time::{sleep, timeout};

use super::{End, Link, link_error};
use crate::device::outcome::Outcome;
use crate::device::queue::Outgoing;
use crate::device::watch::What;
use crate::framing::Codec;
use crate::stats::DropReason;
use crate::transport::WriteHalf;

/// Commands are gathered into one write up to so many bytes.
const WRITE_SIZE: usize = 16 * 1024;
/// The same in frames, which are kept until they are written.
const WRITE_FRAMES: usize = 256;
/// A write that the device has not taken after this long is worth a line in the log.
const STALL_WARNING: Duration = Duration::from_secs(10);

/// Writes until a write fails, or the link is to end and the queue is empty.
pub(super) async fn write_commands(mut write: WriteHalf, link: &Link<'_>) -> End {
    let codec = Codec::new(&link.device.config.framing);
    let losses = link.device.losses();
    let gap = link.device.config.write_gap;
    let mut batch = Batch::new(link);
    loop {
        let Some(first) = link.outbox.next(&link.drain, losses).await else {
            // Waits until the driver has sent what it was given; closing would throw that away.
            return write.shutdown().await.map_or_else(link_error, |()| End::Stopped);
        };
        batch.begin();
        batch.add(first, &codec);
        while gap.is_zero() && batch.has_room() {
            let Some(next) = link.outbox.try_next(losses) else { break };
            batch.add(next, &codec);
        }
        if let Err(error) = batch.write(&mut write).await {
            return link_error(error);
        }
        if !gap.is_zero() {
            sleep(gap).await;
        }
    }
}

/// Frames of one write.
///
/// When it is dropped with frames that were not written whole, these are counted, and who waits for them is told. But
/// those that nothing was written of go back to the queue if it was the time to stop that was over.
struct Batch<'a> {
    link: &'a Link<'a>,
    bytes: BytesMut,
    /// So many of them the kernel has taken.
    taken: usize,
    /// So many make the frames that it has taken whole.
    whole: usize,
    /// The other frames, and where in `bytes` each ends.
    frames: VecDeque<(Outgoing, usize)>,
    has_failed: bool,
}

impl<'a> Batch<'a> {
    fn new(link: &'a Link<'a>) -> Batch<'a> {
        Batch { link, bytes: BytesMut::new(), taken: 0, whole: 0, frames: VecDeque::new(), has_failed: false }
    }

    /// Another one, when all has been written.
    fn begin(&mut self) {
        self.bytes.clear();
        (self.taken, self.whole) = (0, 0);
    }

    fn has_room(&self) -> bool {
        self.bytes.len() < WRITE_SIZE && self.frames.len() < WRITE_FRAMES
    }

    /// Adds `outgoing`, if the framing can carry it.
    fn add(&mut self, outgoing: Outgoing, codec: &Codec) {
        match codec.encode(&outgoing.frame, &mut self.bytes) {
            Ok(()) => {
                self.link.outbox.remember_written(&outgoing.frame);
                self.frames.push_back((outgoing, self.bytes.len()));
            }
            Err(error) => {
                self.link.device.count_drop(error.reason(), 1, Some(&error.to_string()));
                tell(self.link, outgoing, Outcome::Dropped(error.reason()));
            }
        }
    }

    /// Writes all of it, saying once when the device does not take it.
    async fn write(&mut self, write: &mut WriteHalf) -> io::Result<()> {
        let device = self.link.device.name();
        let writing = self.write_all(write);
        tokio::pin!(writing);
        if let Ok(written) = timeout(STALL_WARNING, &mut writing).await {
            return written;
        }
        tracing::warn!(device, waited = ?STALL_WARNING,
            "the device takes no data; commands wait in the queue. hint: check flow control and whether the device is stuck");
        writing.await
    }

    async fn write_all(&mut self, write: &mut WriteHalf) -> io::Result<()> {
        self.settle();
        while self.taken < self.bytes.len() {
            let written = match write.write(&self.bytes[self.taken..]).await {
                Ok(0) => Err(io::ErrorKind::WriteZero.into()),
                written => written,
            };
            self.has_failed = written.is_err();
            let taken = written?;
            self.taken += taken;
            self.link.device.state.stats.bytes_out.add(taken as u64);
            self.settle();
        }
        Ok(())
    }

    /// Counts the frames that the kernel has taken whole.
    fn settle(&mut self) {
        let whole = self.frames.partition_point(|(_, end)| *end <= self.taken);
        self.link.device.state.stats.frames_out.add(whole as u64);
        for (outgoing, end) in self.frames.drain(..whole) {
            self.whole = end;
            tell(self.link, outgoing, Outcome::Written);
        }
    }
}

/// Tells who waits for `outgoing`, and who watches.
fn tell(link: &Link<'_>, outgoing: Outgoing, outcome: Outcome) {
    let Outgoing { frame, on_outcome, .. } = outgoing;
    let dropped = match outcome {
        Outcome::Written => None,
        Outcome::Dropped(reason) => Some(reason),
    };
    link.device.watch.tell(|| What::Out { frame, peer: link.peer, dropped });
    if let Some(on_outcome) = on_outcome {
        on_outcome.tell(outcome);
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        let Link { device, outbox, drain, .. } = self.link;
        let mut unwritten = std::mem::take(&mut self.frames).into_iter().map(|(outgoing, _)| outgoing);
        let goes_back = drain.is_cancelled() && !self.has_failed;
        let lost = if goes_back { usize::from(self.taken > self.whole) } else { unwritten.len() };
        device.count_drop(DropReason::WriteFailed, lost as u64, None);
        for outgoing in unwritten.by_ref().take(lost) {
            tell(self.link, outgoing, Outcome::Dropped(DropReason::WriteFailed));
        }
        if unwritten.len() > 0 {
            outbox.put_back(unwritten, device.losses());
            device.leave_late();
        }
    }
}
