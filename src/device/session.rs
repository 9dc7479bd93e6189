//! One link to a device, from open to end: frames up, commands down, each on its own.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

use super::Device;
use super::outbox::Outbox;
use crate::config::Transport;
use crate::stats::DropReason;
use crate::transport::Stream;
use reader::Reader;
use writer::write_commands;

mod reader;
mod writer;

/// Why a link ended.
#[derive(Debug)]
pub enum End {
    /// The gateway stops; what was queued has been written.
    Stopped,
    /// The other side closed, or the cable was pulled.
    Unplugged,
    /// Nothing came for `idle_timeout`.
    Idle(Duration),
    /// Reading or writing failed.
    Failed(io::Error),
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            End::Stopped => f.write_str("stopped"),
            End::Unplugged => f.write_str("unplugged or closed by the other side"),
            End::Idle(after) => write!(f, "nothing received for {after:?} (idle_timeout)"),
            End::Failed(error) => write!(f, "{error}"),
        }
    }
}

/// Waits out `settle` and writes `on_connect`; what arrives meanwhile is dropped and counted.
pub async fn prepare(stream: &mut Stream, device: &Device) -> Result<(), End> {
    tokio::select! {
        prepared = settle_and_greet(stream, device) => prepared,
        () = device.stopping() => Err(End::Stopped),
    }
}

async fn settle_and_greet(stream: &mut Stream, device: &Device) -> Result<(), End> {
    let stats = &device.state.stats;
    if let Transport::Serial(serial) = &device.config.transport {
        let until = Instant::now() + serial.settle;
        let mut scratch = [0; 512];
        while !serial.settle.is_zero() {
            let Some(read) = before(Some(until), stream.read(&mut scratch)).await else { break };
            let n = read.map_err(link_error)?;
            if n == 0 {
                return Err(End::Unplugged);
            }
            stats.bytes_in.add(n as u64);
            stats.dropped.add(DropReason::Settle, n as u64);
        }
    }
    for bytes in &device.config.on_connect {
        stream.write_all(bytes).await.map_err(link_error)?;
        stats.bytes_out.add(bytes.len() as u64);
    }
    Ok(())
}

/// Runs both pumps until the link ends or the gateway stops.
///
/// Neither pump is dropped while it holds frames that nobody has counted: when writing fails, reading ends after the
/// frames it has; when reading ends, what was being written is counted.
pub async fn run(
    stream: Stream,
    peer: Option<SocketAddr>,
    idle: Option<Duration>,
    device: &Device,
    outbox: &Outbox,
) -> End {
    let (read, write) = stream.into_split();
    let halt = device.stop.drain.child_token();
    let mut reader = Reader::new(read, peer, idle, device, outbox);
    let writing = async {
        tokio::select! {
            end = write_commands(write, device, outbox) => end,
            () = device.stop.now.cancelled() => End::Stopped,
        }
    };
    tokio::pin!(writing);
    let mut written = None;
    let read = {
        let reading = reader.pump(&halt);
        tokio::pin!(reading);
        loop {
            tokio::select! {
                end = &mut reading => break end,
                end = &mut writing, if written.is_none() => {
                    written = Some(end);
                    halt.cancel();
                }
            }
        }
    };
    let end = match (read, written) {
        // Reading was told to end, by the gateway or because writing had.
        (End::Stopped, Some(end)) => end,
        (End::Stopped, None) => writing.await,
        (end, _) => end,
    };
    reader.finish();
    end
}

/// `work`'s result, or `None` when `deadline` comes first. Without a deadline no timer is touched.
async fn before<T>(deadline: Option<Instant>, work: impl Future<Output = T>) -> Option<T> {
    match deadline {
        None => Some(work.await),
        Some(deadline) => timeout_at(deadline, work).await.ok(),
    }
}

/// What an I/O error says of the link.
fn link_error(error: io::Error) -> End {
    if crate::transport::is_unplugged(&error) { End::Unplugged } else { End::Failed(error) }
}
