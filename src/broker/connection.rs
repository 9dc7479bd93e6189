//! A new connection, until its CONNECT is read and handed to a session.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use parking_lot::Mutex;
use tokio::io::AsyncReadExt;

use super::admission;
use super::admission::Terms;
use super::auth::{Auth, Credentials, Login, Presence};
use super::listener_terms::ListenerTerms;
use super::packet::{Connack, Connect, ConnectError, Frame, PacketError, Reason, Recipient};
use super::session::{Attach, Sessions, close};
use super::settings::Settings;
use super::shutdown::Shutdown;
use super::stats::BrokerStats;
use crate::config;
use crate::log_limit::{LogLimit, excerpt};
use crate::net::limits::{Limits, Permits};
use crate::net::stream::{Peer, Stream};
use crate::net::tls::server::{self as tls, Failed};
use crate::net::websocket::WebSocket;
use crate::net::websocket::handshake::{self, Endpoint, HandshakeError};

/// How long a client may take to send CONNECT.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Most CONNECT packets fit.
const FIRST_READ: usize = 512;

/// Bytes of the longest CONNECT: it is read before anybody is known. A will and a client identifier of the greatest
/// length fit.
const MAX_CONNECT: usize = 160 * 1024;

/// MQTT over WebSocket (MQTT 5.0, section 6). The sub-protocol is `mqtt` [MQTT-6.0.0-3]; clients of version 3.1 use the
/// second.
const WEBSOCKET: Endpoint = Endpoint {
    paths: &["/", "/mqtt"],
    protocols: &["mqtt", "mqttv3.1"],
    not_found: "MQTT over WebSocket has the paths / and /mqtt",
    no_upgrade: "this is MQTT over WebSocket, version 13, and no web page",
    no_protocol: "the WebSocket sub-protocol is mqtt",
};

/// What connections have in hand until their CONNECT is accepted.
#[derive(Debug)]
pub struct Context {
    /// For new connections.
    pub settings: Arc<Settings>,
    /// Who may log in.
    pub auth: Arc<Auth>,
    /// Where a connection goes.
    pub sessions: Arc<Sessions>,
    /// The broker's counters.
    pub stats: Arc<BrokerStats>,
    /// Connections over all listeners, and from one address.
    pub limits: Limits,
    /// Refused connections are logged once a minute for each cause.
    pub refusals: Mutex<HashMap<&'static str, LogLimit>>,
    /// The same for handshakes of TLS and WebSocket.
    pub failed_handshakes: Mutex<HashMap<&'static str, LogLimit>>,
    /// How far a stop has come.
    pub shutdown: Arc<Shutdown>,
}

/// A connection as its listener hands it over.
#[derive(Debug)]
pub struct Accepted {
    /// The socket.
    pub stream: Stream,
    /// The other end.
    pub peer: Peer,
    /// The terms of that listener.
    pub listener: Arc<ListenerTerms>,
    /// What it counts against.
    pub permits: Permits,
}

/// A connection whose CONNECT is read, or something in its place.
struct Opened {
    stream: Stream,
    /// The user that the client proved to be.
    identity: Option<String>,
    input: BytesMut,
    first: Result<Frame, ConnectError>,
}

/// Reads CONNECT and hands the connection to its session, or refuses it.
pub async fn run(context: Arc<Context>, accepted: Accepted) {
    let Accepted { stream, peer, listener, permits } = accepted;
    let settings = context.settings.get();
    let max_packet = settings.max_packet_size.min(MAX_CONNECT);
    let opened = tokio::select! {
        opened = tokio::time::timeout(CONNECT_TIMEOUT, open(&context, &listener, stream, max_packet)) => opened.ok(),
        () = listener.closed.cancelled() => None,
        () = context.shutdown.stop.cancelled() => None,
    };
    let opened = match opened {
        Some(Ok(opened)) => opened,
        Some(Err(closed)) => return give_up(&context, &peer, closed).await,
        None => {
            context.stats.abandoned.increment();
            tracing::debug!(%peer, "closed before CONNECT was complete");
            return;
        }
    };
    let Opened { stream, identity, input, first } = opened;
    let connect = match first.and_then(|frame| Connect::parse(&frame)) {
        Ok(connect) => connect,
        Err(ConnectError { version, error }) => {
            // What is not a CONNECT is closed without an answer, which MQTT leaves open [MQTT-3.1.4-1] and mosquitto does.
            let answered = error.reason == Reason::UNSUPPORTED_PROTOCOL_VERSION;
            let recipient = version.filter(|_| answered).map(Recipient::of);
            return refuse(&context, stream, Refusal { peer: &peer, client_id: "", user: None, recipient, error })
                .await;
        }
    };
    let shown = Credentials {
        identity: identity.as_deref(),
        username: connect.username.as_deref(),
        password: connect.password.as_ref(),
        allow_anonymous: listener.allow_anonymous(),
    };
    let admitted = tokio::select! {
        admitted = admit(&context, &settings, &connect, shown) => admitted,
        () = context.shutdown.stop.cancelled() => return context.stats.abandoned.increment(),
    };
    let (terms, (login, presence)) = match admitted {
        Ok(admitted) => admitted,
        Err(error) => return refuse(&context, stream, Refusal::of(&connect, &peer, error)).await,
    };
    let attach = Attach { stream, peer, input, connect, terms, login, presence, entrance: listener, settings, permits };
    let attach = Box::new(attach);
    if let Err((reason, attach)) = context.sessions.attach(attach) {
        let error = PacketError { reason, what: "the session cannot be had now" };
        let Attach { stream, peer, connect, .. } = *attach;
        refuse(&context, stream, Refusal::of(&connect, &peer, error)).await;
    }
}

/// What is quickly seen comes first: to check a password takes time.
async fn admit(
    context: &Context,
    settings: &config::Broker,
    connect: &Connect,
    shown: Credentials<'_>,
) -> Result<(Terms, (Login, Option<Presence>)), PacketError> {
    let terms = admission::admit(connect, settings)?;
    Ok((terms, context.auth.login(shown).await?))
}

/// Why a connection ended before there was a packet.
struct Closed {
    /// What is left of it.
    stream: Stream,
    why: Why,
}

#[derive(Debug, thiserror::Error)]
enum Why {
    #[error(transparent)]
    Tls(#[from] tls::Failure),
    #[error(transparent)]
    WebSocket(#[from] HandshakeError),
    #[error("the client closed before CONNECT was complete")]
    Closed,
    #[error("the connection failed before CONNECT was complete: {0}")]
    Io(#[from] io::Error),
}

impl Why {
    /// What is logged once a minute.
    fn kind(&self) -> &'static str {
        match self {
            Why::Tls(tls::Failure::NoCertificate) => "no certificate",
            Why::Tls(tls::Failure::Certificate(_) | tls::Failure::NoName) => "certificate",
            Why::Tls(_) => "tls",
            Why::WebSocket(_) => "handshake",
            Why::Closed | Why::Io(_) => "frames",
        }
    }

    /// Whether somebody has to be told: a client that only went away is none of our business.
    fn is_refusal(&self) -> bool {
        match self {
            Why::Tls(tls::Failure::Io(_)) | Why::WebSocket(HandshakeError::Io(_)) | Why::Closed => false,
            Why::Io(error) => error.kind() == io::ErrorKind::InvalidData,
            Why::Tls(_) | Why::WebSocket(_) => true,
        }
    }
}

/// The handshakes of the listener, then the first packet.
async fn open(
    context: &Context,
    listener: &ListenerTerms,
    mut stream: Stream,
    max_packet: usize,
) -> Result<Opened, Closed> {
    let mut identity = None;
    if let Some(tls) = &listener.tls {
        (stream, identity) =
            tls.accept(stream).await.map_err(|Failed { failure, stream }| Closed { stream, why: failure.into() })?;
    }
    if listener.websocket {
        let input = match handshake::accept(&mut stream, &WEBSOCKET).await {
            Ok(input) => input,
            Err(error) => return Err(Closed { stream, why: error.into() }),
        };
        stream = Stream::WebSocket(Box::new(WebSocket::new(stream, input)));
    }
    let mut input = BytesMut::with_capacity(FIRST_READ);
    match first_frame(&mut stream, &mut input, max_packet, context).await {
        Ok(first) => Ok(Opened { stream, identity, input, first }),
        Err(why) => Err(Closed { stream, why }),
    }
}

/// The first packet.
async fn first_frame(
    stream: &mut Stream,
    input: &mut BytesMut,
    max_packet: usize,
    context: &Context,
) -> Result<Result<Frame, ConnectError>, Why> {
    loop {
        match Frame::split(input, max_packet) {
            Ok(Some(frame)) => return Ok(Ok(frame)),
            Err(error) if error.reason == Reason::PACKET_TOO_LARGE => {
                let error = PacketError { what: "CONNECT is larger than max_packet_size or 160 KiB", ..error };
                return Ok(Err(ConnectError { version: None, error }));
            }
            Err(error) => return Ok(Err(ConnectError { version: None, error })),
            Ok(None) => {}
        }
        // Whatever it is, it is not MQTT; there is no need to wait for the length it seems to announce.
        if let Some(&first) = input.first().filter(|&&first| first >> 4 != 1) {
            let error = PacketError::protocol(not_connect(first));
            return Ok(Err(ConnectError { version: None, error }));
        }
        match stream.read_buf(input).await? {
            0 => return Err(Why::Closed),
            bytes => context.stats.received.bytes.add(bytes as u64),
        }
    }
}

/// What a client means whose first byte is not that of CONNECT.
fn not_connect(first: u8) -> &'static str {
    match first {
        0x16 => "the client speaks TLS, which this listener does not; hint: `tls` in [[broker.listener]]",
        b'G' => "the client speaks HTTP, which this listener does not; hint: websocket = true in [[broker.listener]]",
        _ => "the first packet is not CONNECT [MQTT-3.1.0-1]",
    }
}

/// Ends a connection without a packet. TLS and WebSocket have said why already, or say it in closing.
async fn give_up(context: &Context, peer: &Peer, Closed { stream, why }: Closed) {
    if !why.is_refusal() {
        context.stats.abandoned.increment();
        tracing::debug!(%peer, reason = %why, "connection closed");
        return;
    }
    context.stats.refused.increment();
    if let Some(refused) = context.failed_handshakes.lock().entry(why.kind()).or_default().events(Instant::now(), 1) {
        tracing::warn!(%peer, reason = %why, refused, "connection refused");
    }
    close(stream, BytesMut::new(), context.shutdown.stop.clone()).await;
}

struct Refusal<'a> {
    peer: &'a Peer,
    client_id: &'a str,
    user: Option<&'a str>,
    /// Without one no answer can be given.
    recipient: Option<Recipient>,
    error: PacketError,
}

impl<'a> Refusal<'a> {
    fn of(connect: &'a Connect, peer: &'a Peer, error: PacketError) -> Refusal<'a> {
        let (client_id, user) = (connect.client_id.as_str(), connect.username.as_deref());
        let recipient = Some(connect.recipient()).filter(|_| error.reason != Reason::PROTOCOL_ERROR);
        Refusal { peer, client_id, user, recipient, error }
    }
}

async fn refuse(context: &Context, stream: Stream, refusal: Refusal<'_>) {
    let Refusal { peer, client_id, user, recipient, error } = refusal;
    let (client_id, user) = (excerpt(client_id), user.map(excerpt));
    context.stats.refused.increment();
    if let Some(refused) = context.refusals.lock().entry(error.what).or_default().events(Instant::now(), 1) {
        tracing::warn!(%peer, client_id, user, reason = %error, refused, "connection refused");
    }
    let mut output = BytesMut::new();
    if let Some(recipient) = recipient {
        context.stats.received.packets.increment();
        Connack::write_refusal(&mut output, &recipient, error);
        context.stats.sent.packets.add(u64::from(!output.is_empty()));
        context.stats.sent.bytes.add(output.len() as u64);
    }
    close(stream, output, context.shutdown.stop.clone()).await;
}
