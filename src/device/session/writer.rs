//! The way down: commands from the queue onto the wire.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncWriteExt;
use tokio::time::{sleep, timeout};

use super::{End, link_error};
use crate::device::outbox::Outbox;
use crate::device::{Device, Pending};
use crate::framing::Codec;
use crate::stats::DropReason;
use crate::transport::WriteHalf;

/// Commands are gathered into one write up to this size.
const WRITE_SIZE: usize = 16 * 1024;
/// A write that the device has not taken after this long is worth a line in the log.
const STALL_WARNING: Duration = Duration::from_secs(10);

/// Writes until a write fails, or the gateway stops and the queue is empty.
pub(super) async fn write_commands(mut write: WriteHalf, device: &Device, outbox: &Outbox) -> End {
    let codec = Codec::new(&device.config.framing);
    let drops = &device.state.stats.dropped;
    let gap = device.config.write_gap;
    let mut bytes = BytesMut::new();
    loop {
        let Some(first) = outbox.next(&device.stop.drain, drops).await else {
            // Waits until the driver has sent what it was given; closing would throw that away.
            return write.shutdown().await.map_or_else(link_error, |()| End::Stopped);
        };
        let mut pending = Pending::new(device, DropReason::WriteFailed);
        pending.count += encode(&codec, first, &mut bytes, device, outbox);
        while gap.is_zero() && bytes.len() < WRITE_SIZE {
            let Some(next) = outbox.try_next(drops) else { break };
            pending.count += encode(&codec, next, &mut bytes, device, outbox);
        }
        if let Err(error) = write_all(&mut write, &bytes, device).await {
            return link_error(error);
        }
        device.state.stats.bytes_out.add(bytes.len() as u64);
        device.state.stats.frames_out.add(pending.settle());
        bytes.clear();
        if !gap.is_zero() {
            sleep(gap).await;
        }
    }
}

/// Appends `frame` to `bytes`; returns how many frames were added.
fn encode(codec: &Codec, frame: Bytes, bytes: &mut BytesMut, device: &Device, outbox: &Outbox) -> u64 {
    match codec.encode(&frame, bytes) {
        Ok(()) => {
            outbox.remember_written(frame);
            1
        }
        Err(error) => {
            device.count_drop(error.reason(), 1, Some(&error.to_string()));
            0
        }
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
