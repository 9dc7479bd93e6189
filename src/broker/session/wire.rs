//! The connected side of a session: the socket, its buffers, and what lasts as long as the connection.

use std::collections::{HashMap, HashSet};
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::Attach;
use super::liveness::Liveness;
use crate::broker::admission::TOPIC_ALIAS_MAXIMUM;
use crate::broker::auth::Presence;
use crate::broker::bus::Room;
use crate::broker::message::Envelope;
use crate::broker::packet::{PacketError, Reason, Recipient, Version, WillRequest};
use crate::broker::session_expiry::SessionExpiry;
use crate::broker::stats::Counted;
use crate::net::limits::Permits;
use crate::net::stream::{Peer, Stream};

/// Above it no more messages are encoded.
const OUTPUT_ENOUGH: usize = 64 * 1024;

/// Above it nothing is read that would be answered.
const OUTPUT_FULL: usize = 256 * 1024;

/// Room for output that a connection keeps when it has nothing to say.
const OUTPUT_KEPT: usize = 16 * 1024;

const LEAST_READ: usize = 2 * 1024;
const LARGEST_READ: usize = 64 * 1024;

/// How long a connection that is being closed may take to read what was sent last.
const LINGER: Duration = Duration::from_secs(2);

/// The same when the gateway stops.
const STOP_LINGER: Duration = Duration::from_millis(200);

/// A client that sends nothing for so long, when the gateway stops, is not waited for.
const QUIET: Duration = Duration::from_millis(20);

/// One connection.
#[derive(Debug)]
pub struct Wire {
    pub version: Version,
    pub peer: Peer,
    pub input: BytesMut,
    pub output: BytesMut,
    pub session_expiry: SessionExpiry,
    pub will: Option<WillRequest>,
    /// Whose answers these are.
    pub recipient: Recipient,
    /// Another broker's bridge; see [`Connect::is_bridge`](crate::broker::packet::Connect::is_bridge).
    pub is_bridge: bool,
    /// A message the bus has no room for; nothing is read before it has.
    pub held: Option<Held>,
    /// So many answers wait for the disk that nothing is read that would need another.
    pub is_paused: bool,
    pub aliases: Aliases,
    /// QoS 2 messages, not released yet, that came a second time on this connection.
    pub repeated: HashSet<u16>,
    pub liveness: Liveness,
    stream: Stream,
    /// The stream may hold what was written.
    unflushed: bool,
    /// Reading comes first the next time.
    has_just_written: bool,
    read_size: usize,
    permits: Permits,
    _presence: Option<Presence>,
    _connected: Counted,
}

/// A message that waits for the bus, and the acknowledgement it gets then.
#[derive(Debug)]
pub struct Held {
    pub envelope: Envelope,
    pub id: u16,
    pub room: Room,
}

/// What [`Wire::io`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Io {
    /// So many bytes came; 0: the client closed.
    Read(usize),
    /// So many bytes went.
    Wrote(usize),
}

/// Topic aliases, both ways (MQTT 5.0, section 3.3.2.3.4).
#[derive(Debug, Default)]
pub struct Aliases {
    incoming: Vec<Bytes>,
    outgoing: HashMap<Box<str>, u16>,
    outgoing_maximum: u16,
}

impl Aliases {
    /// The topic of a PUBLISH that came with `alias`; `topic` is empty when the alias stands for it.
    pub fn resolve(&mut self, topic: Bytes, alias: u16) -> Result<Bytes, PacketError> {
        let invalid = |what| PacketError { reason: Reason::TOPIC_ALIAS_INVALID, what };
        if alias == 0 || alias > TOPIC_ALIAS_MAXIMUM {
            return Err(invalid("topic alias 0 or above the maximum [MQTT-3.3.2-8, MQTT-3.3.2-9]"));
        }
        let index = usize::from(alias) - 1;
        if topic.is_empty() {
            let known = self.incoming.get(index).filter(|known| !known.is_empty());
            return known.cloned().ok_or(PacketError::protocol("a topic alias that was never set"));
        }
        if self.incoming.len() <= index {
            self.incoming.resize(index + 1, Bytes::new());
        }
        // A copy: the slice would keep the whole read buffer alive.
        self.incoming[index] = Bytes::copy_from_slice(&topic);
        Ok(topic)
    }

    /// The alias for a PUBLISH to the client, and whether the client knows it already.
    pub fn outgoing(&self, topic: &str) -> Option<(u16, bool)> {
        if self.outgoing_maximum == 0 {
            return None;
        }
        match self.outgoing.get(topic) {
            Some(&alias) => Some((alias, true)),
            None if self.outgoing.len() < usize::from(self.outgoing_maximum) => {
                Some((self.outgoing.len() as u16 + 1, false))
            }
            None => None,
        }
    }

    /// The client has been told `alias`.
    pub fn told(&mut self, topic: &str, alias: u16) {
        self.outgoing.insert(topic.into(), alias);
    }
}

impl Wire {
    pub fn new(attach: Attach, connected: Counted, now: Instant) -> Wire {
        let Attach { stream, peer, input, connect, terms, permits, presence, .. } = attach;
        let outgoing_maximum = connect.topic_alias_maximum.min(TOPIC_ALIAS_MAXIMUM);
        Wire {
            version: connect.version,
            peer,
            input,
            output: BytesMut::new(),
            session_expiry: terms.session_expiry,
            recipient: connect.recipient(),
            is_bridge: connect.is_bridge,
            will: connect.will,
            held: None,
            is_paused: false,
            aliases: Aliases { outgoing_maximum, ..Aliases::default() },
            repeated: HashSet::new(),
            liveness: Liveness::new(terms.silence, now),
            stream,
            unflushed: false,
            has_just_written: false,
            read_size: LEAST_READ,
            permits,
            _presence: presence,
            _connected: connected,
        }
    }

    /// Whether more messages may be encoded.
    pub fn takes_messages(&self) -> bool {
        self.output.len() < OUTPUT_ENOUGH
    }

    /// Whether the client's packets may be handled.
    pub fn takes_packets(&self) -> bool {
        self.held.is_none() && !self.is_paused && self.output.len() < OUTPUT_FULL
    }

    /// Whether all output has left for the kernel.
    pub fn has_written(&self) -> bool {
        self.output.is_empty() && !self.unflushed
    }

    /// Writes what there is to write and, if packets may be handled, reads; returns at the first progress. Cancel safe.
    pub async fn io(&mut self, now: Instant) -> io::Result<Io> {
        let reads = self.takes_packets();
        if !reads {
            // What stands in the way is not the client's silence.
            self.liveness.heard(now);
        }
        poll_fn(|cx| {
            // In turn: who writes without end hears nothing.
            if reads && std::mem::take(&mut self.has_just_written) {
                if let Poll::Ready(read) = self.poll_read(cx)? {
                    return Poll::Ready(Ok(Io::Read(read)));
                }
            }
            if !self.output.is_empty() {
                if let Poll::Ready(written) = self.poll_write(cx)? {
                    self.has_just_written = true;
                    // The time when it was called may be long ago.
                    self.liveness.wrote(Instant::now(), !self.has_written());
                    return Poll::Ready(Ok(Io::Wrote(written)));
                }
                self.liveness.stalled(now);
            } else if self.unflushed {
                match self.poll_flush(cx)? {
                    Poll::Ready(()) => self.liveness.wrote(Instant::now(), false),
                    Poll::Pending => self.liveness.stalled(now),
                }
            }
            if reads { self.poll_read(cx).map_ok(Io::Read) } else { Poll::Pending }
        })
        .await
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.input.is_empty() && self.input.capacity() > 4 * self.read_size {
            // Left from a burst.
            self.input = BytesMut::new();
        }
        let read = ready!(match self.read_size {
            LEAST_READ => self.poll_read_little(cx),
            _ => self.poll_read_much(cx),
        })?;
        self.read_size = if read >= self.read_size { self.read_size * 4 } else { LEAST_READ }.min(LARGEST_READ);
        self.liveness.received(Instant::now(), read);
        Poll::Ready(Ok(read))
    }

    /// By way of the stack: a client that says nothing, which most do most of the time, has no buffer.
    fn poll_read_little(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut bytes = [MaybeUninit::uninit(); LEAST_READ];
        let mut bytes = ReadBuf::uninit(&mut bytes);
        let read = Pin::new(&mut self.stream).poll_read(cx, &mut bytes);
        if read.is_pending() && self.input.is_empty() {
            self.input = BytesMut::new();
        }
        ready!(read)?;
        self.input.extend_from_slice(bytes.filled());
        Poll::Ready(Ok(bytes.filled().len()))
    }

    fn poll_read_much(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.input.reserve(self.read_size);
        let mut limited = (&mut self.stream).take(self.read_size as u64);
        pin!(limited.read_buf(&mut self.input)).poll(cx)
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.output))?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.output.advance(written);
        self.unflushed = self.stream.buffers();
        if self.output.is_empty() && self.output.capacity() > 2 * OUTPUT_KEPT {
            self.output = BytesMut::with_capacity(OUTPUT_KEPT);
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.unflushed = false;
        Poll::Ready(Ok(()))
    }

    /// Ends the connection; see [`close`].
    pub fn close(self, stop: CancellationToken) -> impl Future<Output = ()> + use<> {
        let Wire { stream, output, permits, .. } = self;
        async move {
            close(stream, output, stop).await;
            drop(permits);
        }
    }
}

/// Sends what is left, then waits for the client to close, so that a reset by unread input does not overtake the last
/// packet. Bounded in time; once `stop` is cancelled more tightly, and a client that sends nothing is not waited for:
/// it has nothing to reset.
pub async fn close(mut stream: Stream, output: BytesMut, stop: CancellationToken) {
    let stopped = async |then| {
        stop.cancelled().await;
        sleep(then).await;
    };
    let goodbye = async {
        stream.write_all(&output).await?;
        stream.shutdown().await?;
        let mut rest = [0; 4096];
        loop {
            tokio::select! {
                read = stream.read(&mut rest) => if read? == 0 { return io::Result::Ok(()) },
                () = stopped(QUIET) => return Ok(()),
            }
        }
    };
    // A client that is gone or does not listen cannot be told more.
    tokio::select! {
        _ = goodbye => {}
        () = stopped(STOP_LINGER) => {}
        () = sleep(LINGER) => {}
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::broker::stats::BrokerStats;
    use crate::net::limits::{Limit, Limits};

    async fn wire() -> (Wire, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let permits = Limits::new(1, 1).admit(&Limit::new(1), None).await.unwrap();
        let wire = Wire {
            version: Version::V5,
            peer: Peer::Ip(address),
            input: BytesMut::new(),
            output: BytesMut::new(),
            session_expiry: SessionExpiry::Never,
            recipient: Recipient::of(Version::V5),
            is_bridge: false,
            will: None,
            held: None,
            is_paused: false,
            aliases: Aliases::default(),
            repeated: HashSet::new(),
            liveness: Liveness::new(None, Instant::now()),
            stream: Stream::Tcp(accepted.unwrap().0),
            unflushed: false,
            has_just_written: false,
            read_size: LEAST_READ,
            permits,
            _presence: None,
            _connected: BrokerStats::default().connected.count(),
        };
        (wire, client.unwrap())
    }

    #[tokio::test]
    async fn a_client_is_heard_while_there_is_always_more_to_write() {
        let (mut wire, mut client) = wire().await;
        client.write_all(&[0xC0, 0]).await.unwrap();
        let mut came = Vec::new();
        while came.last() != Some(&Io::Read(2)) {
            assert!(came.len() < 1000, "{came:?}");
            wire.output.extend_from_slice(&[0; 100]);
            came.push(wire.io(Instant::now()).await.unwrap());
            // The client takes all of it.
            if let Some(Io::Wrote(bytes)) = came.last() {
                client.read_exact(&mut vec![0; *bytes]).await.unwrap();
            }
        }
    }
}
