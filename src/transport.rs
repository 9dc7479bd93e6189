//! Byte streams from wires: serial ports, TCP hosts, and the peers of a TCP server.
//!
//! A read of 0 bytes means that the other side closed, or that the cable was pulled; so does an error that
//! [`is_unplugged`] knows. Drop the stream then and open it again; reading on would spin. `flush` does nothing, as every
//! write goes to the kernel at once; `shutdown` of the write half waits until a serial port has sent what it was given
//! (bound it with a time-out), and closes a TCP stream that way. What a serial port has not sent when it is dropped is
//! thrown away, so that closing never waits for a stuck device.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use crate::config::Transport;

pub mod ports;
pub mod probe;
pub mod serial;
pub mod tcp;
pub mod tcp_server;

/// An open link, both ways.
#[derive(Debug)]
pub enum Stream {
    /// A serial port.
    Serial(serial::Port),
    /// A TCP connection, whoever began it.
    Tcp(TcpStream),
}

/// The half of a [`Stream`] that reads.
#[derive(Debug)]
pub enum ReadHalf {
    /// Shared under a lock that is held for one system call, which at the speed of a serial port is nothing.
    Serial(tokio::io::ReadHalf<serial::Port>),
    /// Without a lock.
    Tcp(OwnedReadHalf),
}

/// The half of a [`Stream`] that writes.
#[derive(Debug)]
pub enum WriteHalf {
    /// As [`ReadHalf::Serial`].
    Serial(tokio::io::WriteHalf<serial::Port>),
    /// Without a lock. Dropping it ends the stream for the peer.
    Tcp(OwnedWriteHalf),
}

/// What [`open`] opened.
#[derive(Debug)]
pub struct Opened {
    /// The link.
    pub stream: Stream,
    /// The other end, for TCP.
    pub peer: Option<SocketAddr>,
    /// What was opened, for logs: a path, or host and address.
    pub place: String,
    /// What the driver would not do as asked, a sentence each.
    pub warnings: Vec<String>,
}

/// Why a link could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A serial port.
    #[error(transparent)]
    Serial(#[from] serial::SerialError),
    /// A TCP host.
    #[error(transparent)]
    Tcp(#[from] tcp::ConnectError),
    /// `tcp_server` waits for its peers; see [`tcp_server::bind`].
    #[error("cannot open {listen}: a tcp_server is bound, not opened")]
    Server {
        /// `listen`
        listen: String,
    },
}

/// Opens a serial port or connects to a host, once.
///
/// # Errors
/// What went wrong, with a hint. Trying again later may help with all of them.
pub async fn open(transport: &Transport) -> Result<Opened, OpenError> {
    match transport {
        Transport::Serial(serial) => Ok(serial::open(serial).await?),
        Transport::Tcp(tcp) => Ok(tcp::open(tcp).await?),
        Transport::TcpServer(server) => Err(OpenError::Server { listen: server.listen.clone() }),
    }
}

/// Whether an error of reading or writing means that the other side is gone: the cable was pulled, or the peer closed.
pub fn is_unplugged(error: &io::Error) -> bool {
    const GONE: [Errno; 6] = [Errno::IO, Errno::PIPE, Errno::NXIO, Errno::NODEV, Errno::CONNRESET, Errno::CONNABORTED];
    Errno::from_io_error(error).is_some_and(|errno| GONE.contains(&errno))
}

impl Stream {
    /// Two halves that can go to two tasks.
    pub fn into_split(self) -> (ReadHalf, WriteHalf) {
        match self {
            Stream::Serial(port) => {
                let (read, write) = tokio::io::split(port);
                (ReadHalf::Serial(read), WriteHalf::Serial(write))
            }
            Stream::Tcp(stream) => {
                let (read, write) = stream.into_split();
                (ReadHalf::Tcp(read), WriteHalf::Tcp(write))
            }
        }
    }
}

macro_rules! delegate_read {
    ($half:ident) => {
        impl AsyncRead for $half {
            fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() {
                    $half::Serial(port) => Pin::new(port).poll_read(cx, buffer),
                    $half::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
                }
            }
        }
    };
}

macro_rules! delegate_write {
    ($half:ident) => {
        impl AsyncWrite for $half {
            fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
                match self.get_mut() {
                    $half::Serial(port) => Pin::new(port).poll_write(cx, bytes),
                    $half::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
                }
            }

            fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() {
                    $half::Serial(port) => Pin::new(port).poll_flush(cx),
                    $half::Tcp(stream) => Pin::new(stream).poll_flush(cx),
                }
            }

            fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() {
                    $half::Serial(port) => Pin::new(port).poll_shutdown(cx),
                    $half::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
                }
            }
        }
    };
}

delegate_read!(Stream);
delegate_read!(ReadHalf);
delegate_write!(Stream);
delegate_write!(WriteHalf);
