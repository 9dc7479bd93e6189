//! Sockets that wait for clients.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::connection::{self, Accepted};
use super::{Shared, StartError};
use crate::config;
use crate::log_limit::LogLimit;

/// Connections that the kernel may hold before they are accepted.
const BACKLOG: i32 = 1024;

/// After accept failed for want of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(250);

/// Finds clients that vanished, also those without a keep-alive of their own.
const KEEPALIVE_TIME: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// One bound address.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    /// The address, with the port that the kernel chose for port 0.
    pub address: SocketAddr,
    allow_anonymous: bool,
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
        match bind(listener, only_v6).await {
            Ok(sockets) => bound.extend(sockets),
            Err(error) if listener.optional && is_without_ipv6(&error) => {
                tracing::warn!(address = listener.address, %error, "this machine has no IPv6; going on without");
            }
            Err(source) => return Err(StartError::bind(&listener.address, source)),
        }
    }
    Ok(bound)
}

async fn bind(listener: &config::Listener, only_v6: bool) -> io::Result<Vec<Listener>> {
    let permits = Arc::new(Semaphore::new(listener.max_connections.min(Semaphore::MAX_PERMITS)));
    let addresses = tokio::net::lookup_host(&listener.address).await?;
    let mut bound = Vec::new();
    for address in addresses {
        let socket = bind_one(address, only_v6)?;
        let address = socket.local_addr()?;
        tracing::info!(%address, "listening for MQTT clients");
        let (allow_anonymous, permits) = (listener.allow_anonymous, permits.clone());
        bound.push(Listener { socket, address, allow_anonymous, permits });
    }
    Ok(bound)
}

fn bind_one(address: SocketAddr, only_v6: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    if only_v6 {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn is_without_ipv6(error: &io::Error) -> bool {
    let without = [Errno::ADDRNOTAVAIL, Errno::AFNOSUPPORT].map(Errno::raw_os_error);
    error.raw_os_error().is_some_and(|errno| without.contains(&errno))
}

/// Accepts connections until the broker stops.
pub async fn run(shared: Arc<Shared>, listener: Listener) {
    let mut accept_log = LogLimit::default();
    let mut limit_log = LogLimit::default();
    loop {
        let accepted = tokio::select! {
            accepted = listener.socket.accept() => accepted,
            () = shared.stop.cancelled() => return,
        };
        match accepted {
            Ok((stream, peer)) => match admit(&shared, &listener, stream, peer) {
                Some(accepted) => drop(shared.tasks.spawn(connection::run(shared.clone(), accepted))),
                None => {
                    shared.stats.over_limit.increment();
                    if let Some(refused) = limit_log.events(Instant::now(), 1) {
                        let address = listener.address;
                        tracing::warn!(%address, %peer, refused, "connection refused: max_connections are there already");
                    }
                }
            },
            Err(error) if is_of_the_connection(&error) => {}
            Err(error) => {
                if let Some(times) = accept_log.events(Instant::now(), 1) {
                    let address = listener.address;
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

fn admit(shared: &Shared, listener: &Listener, stream: TcpStream, peer: SocketAddr) -> Option<Accepted> {
    shared.stats.sockets.increment();
    let broker = shared.permits.clone().try_acquire_owned().ok()?;
    let permits = [broker, listener.permits.clone().try_acquire_owned().ok()?];
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_TIME).with_interval(KEEPALIVE_INTERVAL);
    // A socket that does not take an option is closed already, which its first read will tell.
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(&stream).set_tcp_keepalive(&keepalive);
    Some(Accepted { stream, peer, allow_anonymous: listener.allow_anonymous, permits })
}
