//! Listeners: sockets that wait for clients, and what is spoken on them.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use tokio::sync::Semaphore;

use super::connection::{self, Accepted};
use super::limits::{self, Exceeded};
use super::socket::ServerSocket;
use super::stream::{Peer, Stream};
use super::tls::Tls;
use super::{Shared, StartError};
use crate::config;
use crate::log_limit::LogLimit;

/// After accept failed for want of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(250);

/// One bound address.
#[derive(Debug)]
pub struct Listener {
    socket: ServerSocket,
    /// The address, with the port that the kernel chose for port 0.
    pub address: Peer,
    entrance: Arc<Entrance>,
}

/// What every client of a listener finds there; one for all the addresses of a name.
#[derive(Debug)]
pub struct Entrance {
    /// As configured.
    pub address: String,
    /// TLS, if it is spoken.
    pub tls: Option<Tls>,
    /// Whether MQTT comes in WebSocket frames.
    pub websocket: bool,
    /// Whether clients are let in without a user name that was proved.
    pub allow_anonymous: bool,
    permits: Arc<Semaphore>,
}

/// Binds every listener, each to all the addresses its name stands for.
pub async fn bind_all(listeners: &[config::Listener]) -> Result<Vec<Listener>, StartError> {
    let mut bound = Vec::new();
    for listener in listeners {
        // "0.0.0.0" and "[::]" on one port are meant to stand side by side.
        let shares_port =
            |other: &config::Listener| other.address.strip_prefix("0.0.0.0:") == listener.address.strip_prefix("[::]:");
        let only_v6 = listener.address.starts_with("[::]:") && listeners.iter().any(shares_port);
        let entrance = Arc::new(Entrance::new(listener)?);
        match bind(listener, only_v6).await {
            Ok(sockets) => bound.extend(sockets.into_iter().map(|(socket, address)| {
                tracing::info!(%address, scheme = listener.scheme(), "listening for MQTT clients");
                Listener { socket, address, entrance: entrance.clone() }
            })),
            Err(error) if listener.optional && is_without_ipv6(&error) => {
                tracing::warn!(address = listener.address, %error, "this machine has no IPv6; going on without");
            }
            Err(source) => return Err(StartError::bind(&listener.address, source)),
        }
    }
    Ok(bound)
}

async fn bind(listener: &config::Listener, only_v6: bool) -> io::Result<Vec<(ServerSocket, Peer)>> {
    let sockets = match listener.unix_path() {
        Some(path) => vec![ServerSocket::bind_unix(path)?],
        None => {
            let addresses = tokio::net::lookup_host(&listener.address).await?;
            addresses.map(|address| ServerSocket::bind_tcp(address, only_v6)).collect::<io::Result<_>>()?
        }
    };
    let with_address = |socket: ServerSocket| {
        let address = socket.address()?;
        Ok((socket, address))
    };
    sockets.into_iter().map(with_address).collect()
}

fn is_without_ipv6(error: &io::Error) -> bool {
    let without = [Errno::ADDRNOTAVAIL, Errno::AFNOSUPPORT].map(Errno::raw_os_error);
    error.raw_os_error().is_some_and(|errno| without.contains(&errno))
}

impl Entrance {
    fn new(listener: &config::Listener) -> Result<Entrance, StartError> {
        let tls = listener.tls.as_ref().map(Tls::new).transpose();
        Ok(Entrance {
            tls: tls.map_err(|source| StartError::Tls { address: listener.address.clone(), source })?,
            address: listener.address.clone(),
            websocket: listener.websocket,
            allow_anonymous: listener.allow_anonymous,
            permits: limits::semaphore(listener.max_connections),
        })
    }
}

impl Listener {
    /// What clients find here.
    pub fn entrance(&self) -> &Arc<Entrance> {
        &self.entrance
    }
}

/// Accepts connections until the broker stops. All that takes time happens in a task for each of them.
pub async fn run(shared: Arc<Shared>, listener: Listener) {
    let address = &listener.address;
    let mut accept_log = LogLimit::default();
    let mut limit_log = LogLimit::default();
    loop {
        let accepted = tokio::select! {
            accepted = listener.socket.accept() => accepted,
            () = shared.stop.cancelled() => return,
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
                // The listener stays readable: without a pause this would be a busy loop.
                tokio::select! {
                    () = tokio::time::sleep(PAUSE) => {}
                    () = shared.stop.cancelled() => return,
                }
            }
        }
    }
}

/// Whether accept failed because of the one connection, which is gone then (accept(2)).
fn is_of_the_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

async fn admit(shared: &Shared, listener: &Listener, stream: Stream, peer: &Peer) -> Result<Accepted, Exceeded> {
    shared.stats.sockets.increment();
    let permits = shared.limits.admit(&listener.entrance.permits, peer.ip()).await?;
    Ok(Accepted { stream, peer: peer.clone(), entrance: listener.entrance.clone(), permits })
}
