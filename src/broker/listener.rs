//! Listeners: sockets that wait for clients, and what is spoken on them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::connection::{self, Accepted};
use super::{Shared, StartError};
use crate::config;
use crate::log_limit::LogLimit;
use crate::net::limits::{Exceeded, Limit};
use crate::net::socket::{ACCEPT_PAUSE, ServerSocket, is_of_the_connection, is_without_ipv6};
use crate::net::stream::{Peer, Stream};
use crate::net::tls::server::Tls;

/// A listener of the configuration: its sockets, and what is spoken on them.
#[derive(Debug)]
pub struct Door {
    settings: config::Listener,
    only_v6: bool,
    entrance: watch::Sender<Arc<Entrance>>,
    /// One for each address that the name stands for.
    sockets: Vec<BoundListener>,
}

/// A socket, until its task has it.
#[derive(Debug)]
struct BoundListener {
    /// With the port that the kernel chose for port 0.
    address: Peer,
    socket: Option<ServerSocket>,
    task: Option<Accepting>,
}

/// The task that accepts at one socket.
#[derive(Debug)]
struct Accepting {
    task: JoinHandle<()>,
    shut: CancellationToken,
}

/// What every client of a listener finds there.
#[derive(Debug)]
pub struct Entrance {
    /// TLS, if it is spoken.
    pub tls: Option<Tls>,
    /// Whether MQTT comes in WebSocket frames.
    pub websocket: bool,
    allow_anonymous: AtomicBool,
    limit: Arc<Limit>,
    /// Cancelled when the listener is removed, or speaks something else from now on.
    pub closed: CancellationToken,
}

/// `[::]` leaves IPv4 to `0.0.0.0` on the same port: they are meant to stand side by side.
pub fn is_only_v6(listener: &config::Listener, all: &[config::Listener]) -> bool {
    let Some(port) = listener.address.strip_prefix("[::]:") else { return false };
    all.iter().any(|other| other.address.strip_prefix("0.0.0.0:") == Some(port))
}

impl Door {
    /// Binds all addresses of `settings`.
    pub async fn bind(settings: &config::Listener, only_v6: bool) -> Result<Door, StartError> {
        let entrance = watch::Sender::new(Arc::new(Entrance::new(settings)?));
        let sockets = bind(settings, only_v6).await?;
        Ok(Door { settings: settings.clone(), only_v6, entrance, sockets })
    }

    /// Accepts clients from now on.
    pub fn open(&mut self, shared: &Arc<Shared>) {
        let scheme = self.settings.scheme();
        for bound in &mut self.sockets {
            let Some(socket) = bound.socket.take() else { continue };
            tracing::info!(address = %bound.address, scheme, "listening for MQTT clients");
            let shut = shared.stop.child_token();
            let address = bound.address.clone();
            let listener = Listener { socket, address, entrance: self.entrance.subscribe(), shut: shut.clone() };
            bound.task = Some(Accepting { task: shared.tasks.spawn(run(shared.clone(), listener)), shut });
        }
    }

    /// Closes the sockets, and returns when their addresses are free. Clients that are there stay.
    pub async fn shut(&mut self) {
        for bound in &mut self.sockets {
            bound.socket = None;
            if let Some(Accepting { task, shut }) = bound.task.take() {
                shut.cancel();
                // Only a panic can be an error, and that is logged where it happens.
                let _ = task.await;
            }
        }
    }

    /// Takes the addresses again that [`Door::shut`] gave up.
    pub async fn bind_again(&mut self) -> Result<(), StartError> {
        self.sockets = bind(&self.settings, self.only_v6).await?;
        Ok(())
    }

    /// Speaks what `settings` say from now on, at the same addresses. Clients that came in under terms that are no more
    /// lose their connection.
    pub fn change(&mut self, settings: &config::Listener, tls: Option<Tls>) {
        let entrance = self.entrance.borrow().clone();
        if settings.scheme() == self.settings.scheme() {
            if let (Some(old), Some(new)) = (&entrance.tls, tls) {
                old.replace(new);
            }
            entrance.allow_anonymous.store(settings.allow_anonymous, Relaxed);
            entrance.limit.resize(settings.max_connections);
        } else {
            self.entrance.send_replace(Arc::new(Entrance::with(settings, tls)));
            entrance.closed.cancel();
        }
        self.settings = settings.clone();
    }

    /// Tells its clients that they have to go; [`Sessions::look`](super::sessions::Sessions::look) makes them see it.
    pub fn dismiss(&self) {
        self.entrance.borrow().closed.cancel();
    }

    /// As configured.
    pub fn settings(&self) -> &config::Listener {
        &self.settings
    }

    /// Where its sockets are.
    pub fn addresses(&self) -> impl Iterator<Item = &Peer> {
        self.sockets.iter().map(|bound| &bound.address)
    }
}

/// One for each address. None on a machine without IPv6 for a listener that may do without.
async fn bind(listener: &config::Listener, only_v6: bool) -> Result<Vec<BoundListener>, StartError> {
    match bind_all(listener, only_v6).await {
        Ok(sockets) => Ok(sockets),
        Err(error) if listener.optional && is_without_ipv6(&error) => {
            tracing::warn!(address = listener.address, %error, "this machine has no IPv6; going on without");
            Ok(Vec::new())
        }
        Err(source) => Err(StartError::bind(&listener.address, source)),
    }
}

async fn bind_all(listener: &config::Listener, only_v6: bool) -> io::Result<Vec<BoundListener>> {
    ServerSocket::bind(&listener.address, only_v6).await?.into_iter().map(BoundListener::new).collect()
}

impl BoundListener {
    fn new(socket: ServerSocket) -> io::Result<BoundListener> {
        Ok(BoundListener { address: socket.address()?, socket: Some(socket), task: None })
    }
}

impl Entrance {
    fn new(listener: &config::Listener) -> Result<Entrance, StartError> {
        Ok(Entrance::with(listener, tls_of(listener)?))
    }

    fn with(listener: &config::Listener, tls: Option<Tls>) -> Entrance {
        Entrance {
            tls,
            websocket: listener.websocket,
            allow_anonymous: AtomicBool::new(listener.allow_anonymous),
            limit: Limit::new(listener.max_connections),
            closed: CancellationToken::new(),
        }
    }

    /// Whether clients are let in without a user name that was proved.
    pub fn allow_anonymous(&self) -> bool {
        self.allow_anonymous.load(Relaxed)
    }
}

/// TLS as `listener` has it, if it has; reads the files.
pub fn tls_of(listener: &config::Listener) -> Result<Option<Tls>, StartError> {
    let tls = listener.tls.as_ref().map(Tls::new).transpose();
    tls.map_err(|source| StartError::Tls { address: listener.address.clone(), source })
}

/// One socket, in its task.
struct Listener {
    socket: ServerSocket,
    address: Peer,
    entrance: watch::Receiver<Arc<Entrance>>,
    shut: CancellationToken,
}

/// Accepts connections until the listener is shut. All that takes time happens in a task for each of them.
async fn run(shared: Arc<Shared>, listener: Listener) {
    let address = &listener.address;
    let mut accept_log = LogLimit::default();
    let mut limit_log = LogLimit::default();
    loop {
        let accepted = tokio::select! {
            accepted = listener.socket.accept() => accepted,
            () = listener.shut.cancelled() => return,
        };
        match accepted {
            Ok((stream, peer)) => match admit(&shared, &listener, stream, &peer).await {
                Ok(accepted) => drop(shared.tasks.spawn(connection::run(shared.clone(), accepted))),
                Err(exceeded) => {
                    shared.stats.over_limit.increment();
                    if let Some(refused) = limit_log.events(Instant::now(), 1) {
                        tracing::warn!(%address, %peer, refused, "connection refused: {exceeded}");
                    }
                }
            },
            Err(error) if is_of_the_connection(&error) => {}
            Err(error) => {
                if let Some(times) = accept_log.events(Instant::now(), 1) {
                    tracing::error!(%address, %error, times, "cannot accept connections; hint: raise the limit of open files");
                }
                tokio::select! {
                    () = tokio::time::sleep(ACCEPT_PAUSE) => {}
                    () = listener.shut.cancelled() => return,
                }
            }
        }
    }
}

async fn admit(shared: &Shared, listener: &Listener, stream: Stream, peer: &Peer) -> Result<Accepted, Exceeded> {
    shared.stats.sockets.increment();
    let entrance = listener.entrance.borrow().clone();
    let permits = shared.limits.admit(&entrance.limit, peer.ip()).await?;
    Ok(Accepted { stream, peer: peer.clone(), entrance, permits })
}
