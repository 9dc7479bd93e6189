//! One link to a device, from open to end: frames up, commands down, each on its own.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use super::Device;
use super::outbox::Outbox;
use crate::config::Transport;
use crate::stats::DropReason;
use crate::transport::Stream;
use reader::Reader;
use writer::write_commands;

mod reader;
mod writer;

/// How long a release of the device waits for commands that are queued.
pub const RELEASE_TIME: Duration = Duration::from_secs(1);

/// What a session works with, beside its stream.
#[derive(Debug)]
pub struct Link<'a> {
    /// Whose it is.
    pub device: &'a Device,
    /// The other end, for TCP.
    pub peer: Option<SocketAddr>,
    /// Its commands.
    pub outbox: &'a Outbox,
    /// How long nothing may come.
    pub idle: Option<Duration>,
    /// Cancelled when the link is to end: no new frames, what is queued is still written.
    pub drain: CancellationToken,
}

/// Why a link ended.
#[derive(Debug)]
pub enum End {
    /// The gateway stops, or the device was released; what was queued has been written.
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
pub async fn prepare(stream: &mut Stream, device: &Device, drain: &CancellationToken) -> Result<(), End> {
    tokio::select! {
        prepared = settle_and_greet(stream, device) => prepared,
        () = drain.cancelled() => Err(End::Stopped),
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

/// Runs both pumps until the link ends or is to end.
///
/// Neither pump is dropped while it holds frames that nobody has counted: when writing fails, reading ends after the
/// frames it has; when reading ends, what was being written is counted.
pub async fn run(stream: Stream, link: &Link<'_>) -> End {
    let (read, write) = stream.into_split();
    let halt = link.drain.child_token();
    let mut reader = Reader::new(read, link);
    let writing = async {
        tokio::select! {
            end = write_commands(write, link) => end,
            () = time_is_over(link) => End::Stopped,
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
    match (read, written) {
        // Reading was told to end, by the gateway or because writing had.
        (End::Stopped, Some(end)) => end,
        (End::Stopped, None) => writing.await,
        (end, _) => end,
    }
}

/// Resolves when what is queued waits no longer.
async fn time_is_over(link: &Link<'_>) {
    let released = async {
        link.drain.cancelled().await;
        // A gateway that stops has its own time.
        match link.device.hold.is_released() {
            true => sleep(RELEASE_TIME).await,
            false => std::future::pending().await,
        }
    };
    tokio::select! {
        () = link.device.stop.now.cancelled() => {}
        () = released => {}
    }
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
