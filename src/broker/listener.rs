//! Listeners: sockets that wait for clients, and what is spoken on them.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::connection::{self, Accepted};
use super::error::StartError;
use super::listener_terms::ListenerTerms;
use crate::config;
use crate::log_limit::LogLimit;
use crate::net::limits::Exceeded;
use crate::net::socket::{ACCEPT_PAUSE, ServerSocket, is_of_the_connection, is_without_ipv6};
use crate::net::stream::{Peer, Stream};
use crate::net::tls::server::Tls;

/// A listener of the configuration: its sockets, and what is spoken on them.
#[derive(Debug)]
pub struct Listener {
    settings: config::Listener,
    only_v6: bool,
    terms: watch::Sender<Arc<ListenerTerms>>,
    /// One for each address that the name stands for.
    bound: Vec<BoundListener>,
}

/// One address of a listener: its socket, until its task has that.
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
    stop: CancellationToken,
}

/// `[::]` leaves IPv4 to `0.0.0.0` on the same port: they are meant to stand side by side.
pub fn is_only_v6(listener: &config::Listener, all: &[config::Listener]) -> bool {
    let Some(port) = listener.address.strip_prefix("[::]:") else { return false };
    all.iter().any(|other| other.address.strip_prefix("0.0.0.0:") == Some(port))
}

impl Listener {
    /// Binds all addresses of `settings`.
    pub async fn bind(settings: &config::Listener, only_v6: bool) -> Result<Listener, StartError> {
        let terms = watch::Sender::new(Arc::new(ListenerTerms::new(settings, tls_of(settings)?)));
        let bound = bind(settings, only_v6).await?;
        Ok(Listener { settings: settings.clone(), only_v6, terms, bound })
    }

    /// Accepts clients from now on.
    pub fn open(&mut self, context: &Arc<connection::Context>) {
        let scheme = self.settings.scheme();
        for bound in &mut self.bound {
            let Some(socket) = bound.socket.take() else { continue };
            tracing::info!(address = %bound.address, scheme, "listening for MQTT clients");
            let stop = context.shutdown.stop.child_token();
            let address = bound.address.clone();
            let acceptor = Acceptor { socket, address, terms: self.terms.subscribe(), stop: stop.clone() };
            bound.task = Some(Accepting { task: context.shutdown.tasks.spawn(run(context.clone(), acceptor)), stop });
        }
    }

    /// Closes the sockets, and returns when their addresses are free. Clients that are there stay.
    pub async fn close(&mut self) {
        for bound in &mut self.bound {
            bound.socket = None;
            if let Some(Accepting { task, stop }) = bound.task.take() {
                stop.cancel();
                // Only a panic can be an error, and that is logged where it happens.
                let _ = task.await;
            }
        }
    }

    /// Takes the addresses again that [`Listener::close`] gave up.
    pub async fn bind_again(&mut self) -> Result<(), StartError> {
        self.bound = bind(&self.settings, self.only_v6).await?;
        Ok(())
    }

    /// Speaks what `settings` say from now on, at the same addresses. Clients that came in under terms that are no more
    /// lose their connection.
    pub fn change(&mut self, settings: &config::Listener, tls: Option<Tls>) {
        let terms = self.terms.borrow().clone();
        if settings.scheme() == self.settings.scheme() {
            if let (Some(old), Some(new)) = (&terms.tls, tls) {
                old.replace(new);
            }
            terms.set(settings.allow_anonymous, settings.max_connections);
        } else {
            self.terms.send_replace(Arc::new(ListenerTerms::new(settings, tls)));
            terms.closed.cancel();
        }
        self.settings = settings.clone();
    }

    /// Tells its clients that they have to go; [`Sessions::recheck`](super::session::Sessions::recheck) makes them see it.
    pub fn close_connections(&self) {
        self.terms.borrow().closed.cancel();
    }

    /// As configured.
    pub fn settings(&self) -> &config::Listener {
        &self.settings
    }

    /// Where its sockets are.
    pub fn addresses(&self) -> impl Iterator<Item = &Peer> {
        self.bound.iter().map(|bound| &bound.address)
    }
}

/// One for each address. None on a machine without IPv6 for a listener that may do without.
async fn bind(listener: &config::Listener, only_v6: bool) -> Result<Vec<BoundListener>, StartError> {
    match bind_all(listener, only_v6).await {
        Ok(bound) => Ok(bound),
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

/// TLS as `listener` has it, if it has; reads the files.
pub fn tls_of(listener: &config::Listener) -> Result<Option<Tls>, StartError> {
    let tls = listener.tls.as_ref().map(Tls::new).transpose();
    tls.map_err(|source| StartError::Tls { address: listener.address.clone(), source })
}

/// One socket, in its task.
struct Acceptor {
    socket: ServerSocket,
    address: Peer,
    terms: watch::Receiver<Arc<ListenerTerms>>,
    stop: CancellationToken,
}

/// Accepts connections until the listener is closed. All that takes time happens in a task for each of them.
async fn run(context: Arc<connection::Context>, acceptor: Acceptor) {
    let address = &acceptor.address;
    let mut accept_log = LogLimit::default();
    let mut limit_log = LogLimit::default();
    loop {
        let accepted = tokio::select! {
            accepted = acceptor.socket.accept() => accepted,
            () = acceptor.stop.cancelled() => return,
        };
        match accepted {
            Ok((stream, peer)) => match admit(&context, &acceptor, stream, &peer).await {
                Ok(accepted) => drop(context.shutdown.tasks.spawn(connection::run(context.clone(), accepted))),
                Err(exceeded) => {
                    context.stats.over_limit.increment();
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
                    () = acceptor.stop.cancelled() => return,
                }
            }
        }
    }
}

async fn admit(
    context: &connection::Context,
    acceptor: &Acceptor,
    stream: Stream,
    peer: &Peer,
) -> Result<Accepted, Exceeded> {
    context.stats.sockets.increment();
    let listener = acceptor.terms.borrow().clone();
    let permits = context.limits.admit(&listener.limit, peer.ip()).await?;
    Ok(Accepted { stream, peer: peer.clone(), listener, permits })
}
