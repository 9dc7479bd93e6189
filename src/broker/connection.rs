//! A new connection, until its CONNECT is read and handed to a session.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::packet::{Connack, Connect, ConnectError, Frame, PacketError, Version};
use super::session::{Attach, Permits, close};
use super::{Shared, admission};

/// How long a client may take to send CONNECT.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Most CONNECT packets fit.
const FIRST_READ: usize = 512;

/// A connection as its listener hands it over.
#[derive(Debug)]
pub struct Accepted {
    /// The socket.
    pub stream: TcpStream,
    /// The other end.
    pub peer: SocketAddr,
    /// Whether the listener lets clients in without a user name that was proved.
    pub allow_anonymous: bool,
    /// What it counts against.
    pub permits: Permits,
}

/// Reads CONNECT and hands the connection to its session, or refuses it.
pub async fn run(shared: Arc<Shared>, accepted: Accepted) {
    let Accepted { mut stream, peer, allow_anonymous, permits } = accepted;
    let mut input = BytesMut::with_capacity(FIRST_READ);
    let first = tokio::select! {
        first = tokio::time::timeout(CONNECT_TIMEOUT, first_frame(&mut stream, &mut input, &shared)) => first,
        () = shared.stop.cancelled() => return,
    };
    let Ok(Some(first)) = first else {
        tracing::debug!(%peer, "closed before CONNECT was complete");
        return;
    };
    let connect = match first.and_then(|frame| Connect::parse(&frame)) {
        Ok(connect) => connect,
        Err(ConnectError { version, error }) => {
            return refuse(&shared, stream, Refusal { peer, client_id: "", version, error }).await;
        }
    };
    let terms = match admission::admit(&connect, &shared.settings, allow_anonymous) {
        Ok(terms) => terms,
        Err(error) => {
            let version = Some(connect.version);
            return refuse(&shared, stream, Refusal { peer, client_id: &connect.client_id, version, error }).await;
        }
    };
    let attach = Box::new(Attach { stream, peer, input, connect, terms, permits });
    if let Err((reason, attach)) = shared.sessions.attach(&shared, attach) {
        let error = PacketError { reason, what: "the session cannot be had now" };
        let Attach { stream, connect, .. } = *attach;
        let version = Some(connect.version);
        refuse(&shared, stream, Refusal { peer, client_id: &connect.client_id, version, error }).await;
    }
}

/// The first packet; `None` when the client closed before it was whole.
async fn first_frame(
    stream: &mut TcpStream,
    input: &mut BytesMut,
    shared: &Shared,
) -> Option<Result<Frame, ConnectError>> {
    loop {
        match Frame::split(input, shared.settings.max_packet_size) {
            Ok(Some(frame)) => return Some(Ok(frame)),
            Err(error) => return Some(Err(ConnectError { version: None, error })),
            Ok(None) => {}
        }
        // Whatever it is, it is not MQTT; there is no need to wait for the length it seems to announce.
        if input.first().is_some_and(|&first| first != 0x10) {
            let error = PacketError::protocol("the first packet is not CONNECT [MQTT-3.1.0-1]");
            return Some(Err(ConnectError { version: None, error }));
        }
        match stream.read_buf(input).await {
            Ok(0) | Err(_) => return None,
            Ok(bytes) => shared.stats.received.bytes.add(bytes as u64),
        }
    }
}

struct Refusal<'a> {
    peer: SocketAddr,
    client_id: &'a str,
    version: Option<Version>,
    error: PacketError,
}

async fn refuse(shared: &Shared, stream: TcpStream, refusal: Refusal<'_>) {
    let Refusal { peer, client_id, version, error } = refusal;
    shared.stats.refused.increment();
    if let Some(refused) = shared.refusals.lock().entry(error.reason.0).or_default().events(Instant::now(), 1) {
        tracing::warn!(%peer, client_id, reason = %error, refused, "connection refused");
    }
    let mut output = BytesMut::new();
    if let Some(version) = version {
        shared.stats.received.packets.increment();
        Connack::write_refusal(&mut output, version, error.reason);
        shared.stats.sent.packets.add(u64::from(!output.is_empty()));
        shared.stats.sent.bytes.add(output.len() as u64);
    }
    close(stream, output).await;
}
