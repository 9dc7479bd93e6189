//! A TCP socket that devices connect to.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rustix::io::Errno;
use tokio::net::{TcpListener, TcpSocket, TcpStream, lookup_host};
use tokio::time::sleep;

use super::Stream;
use super::tcp::tuned;
use crate::config::{Network, TcpServer};
use crate::stats::Counter;

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;
/// Between attempts to accept while descriptors or memory are short.
const SHORTAGE_DELAY: Duration = Duration::from_millis(250);

/// Why an address could not be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {listen}: {}; hint: {}", describe(source), hint(source))]
pub struct BindError {
    /// `listen`
    pub listen: String,
    /// What the system says.
    pub source: io::Error,
}

/// A listening socket.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    allow: Vec<Network>,
    keepalive: Option<Duration>,
}

/// Listens on the first address of `listen` that takes it.
///
/// # Errors
/// The name has no address, or none of its addresses could be bound; the last error is told.
pub async fn bind(config: &TcpServer) -> Result<Listener, BindError> {
    let refused = |source| BindError { listen: config.listen.clone(), source };
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in lookup_host(&config.listen).await.map_err(refused)? {
        match listen(address) {
            Ok(socket) => {
                let address = socket.local_addr().map_err(refused)?;
                let (allow, keepalive) = (config.allow.clone(), config.keepalive);
                return Ok(Listener { socket, address, allow, keepalive });
            }
            Err(error) => last = error,
        }
    }
    Err(refused(last))
}

impl Listener {
    /// The next peer that `allow` lets in. Others are closed and counted in `refused`. A lack of descriptors or memory is waited out.
    /// Safe to cancel. An IPv4 peer of an IPv6 socket has its IPv4 address.
    pub async fn accept(&self, refused: &Counter) -> (Stream, SocketAddr) {
        let mut short = false;
        loop {
            match self.socket.accept().await {
                Ok((stream, peer)) => {
                    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                    if let Some(stream) = self.admit(stream, peer, refused) {
                        return (Stream::Tcp(stream), peer);
                    }
                }
                Err(error) if is_shortage(&error) => {
                    if !std::mem::replace(&mut short, true) {
                        tracing::warn!(
                            address = %self.address, %error,
                            "connections wait; hint: raise LimitNOFILE= of the service, or ulimit -n"
                        );
                    }
                    sleep(SHORTAGE_DELAY).await;
                }
                // That connection ended before it was accepted (ECONNABORTED and what accept(2) lists beside it).
                Err(error) => tracing::debug!(address = %self.address, %error, "a connection was lost before accept"),
            }
        }
    }

    /// Where it listens; the port is a real one.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    fn admit(&self, stream: TcpStream, peer: SocketAddr, refused: &Counter) -> Option<TcpStream> {
        if !self.allow.is_empty() && !self.allow.iter().any(|network| network.contains(peer)) {
            refused.increment();
            tracing::debug!(address = %self.address, %peer, "refused: not in `allow`");
            return None;
        }
        // Fails only for a connection that has ended.
        tuned(stream, self.keepalive).ok()
    }
}

/// With SO_REUSEADDR, so that a restart does not wait for the old connections.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn is_shortage(error: &io::Error) -> bool {
    let shortages = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    Errno::from_io_error(error).is_some_and(|errno| shortages.contains(&errno))
}

fn describe(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "another program listens there".into(),
        io::ErrorKind::AddrNotAvailable => "this machine has no such address".into(),
        _ => error.to_string(),
    }
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "`ss -ltnp` shows who it is; stop it, or choose another port",
        io::ErrorKind::AddrNotAvailable => "`ip address` shows what it has; 0.0.0.0 and [::] are all of them",
        io::ErrorKind::PermissionDenied => "ports below 1024 need root or CAP_NET_BIND_SERVICE: choose a higher one",
        _ => "check `listen`",
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn on(listen: &str) -> TcpServer {
        TcpServer {
            listen: listen.into(),
            max_connections: 64,
            allow: Vec::new(),
            idle_timeout: None,
            keepalive: Some(Duration::from_secs(30)),
        }
    }

    #[tokio::test]
    async fn peers_come_and_go() {
        let refused = Counter::default();
        let listener = bind(&on("localhost:0")).await.unwrap();
        assert_ne!(listener.local_addr().port(), 0);
        for _ in 0..3 {
            let mut far = TcpStream::connect(listener.local_addr()).await.unwrap();
            let (mut near, peer) = listener.accept(&refused).await;
            assert_eq!(peer, far.local_addr().unwrap());
            far.write_all(b"4006381333931\n").await.unwrap();
            let mut code = [0; 14];
            near.read_exact(&mut code).await.unwrap();
            assert_eq!(&code, b"4006381333931\n");
        }
        assert_eq!(refused.get(), 0);
    }

    #[tokio::test]
    async fn an_ipv4_peer_of_an_ipv6_socket_is_an_ipv4_peer() {
        let Ok(listener) = bind(&on("[::]:0")).await else { return eprintln!("this machine has no IPv6") };
        let far = TcpStream::connect(("127.0.0.1", listener.local_addr().port())).await.unwrap();
        let refused = Counter::default();
        let (_near, peer) = listener.accept(&refused).await;
        assert_eq!(peer, far.local_addr().unwrap());
    }

    #[tokio::test]
    async fn who_is_not_allowed_is_closed_and_counted() {
        let network = |address: &str, prefix| Network { address: address.parse().unwrap(), prefix };
        let allow = vec![network("10.0.0.0", 8), network("127.0.0.2", 32)];
        let listener = bind(&TcpServer { allow, ..on("127.0.0.1:0") }).await.unwrap();
        let from = |address: [u8; 4]| {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind((address, 0).into()).unwrap();
            socket.connect(listener.local_addr())
        };
        let mut kept_out = from([127, 0, 0, 1]).await.unwrap();
        let let_in = from([127, 0, 0, 2]).await.unwrap();
        let refused = Counter::default();
        let (_near, peer) = listener.accept(&refused).await;
        assert_eq!(peer, let_in.local_addr().unwrap());
        assert_eq!(refused.get(), 1);
        assert_eq!(kept_out.read(&mut [0; 1]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn what_cannot_be_bound_says_why() {
        let first = bind(&on("127.0.0.1:0")).await.unwrap();
        let taken = first.local_addr().to_string();
        let error = bind(&on(&taken)).await.unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("cannot listen on {taken}: another program listens there; hint: ")),
            "{error}"
        );
        let error = bind(&on("192.0.2.1:0")).await.unwrap_err().to_string();
        assert!(error.contains("this machine has no such address"), "{error}");
        assert!(bind(&on("no-such-host.invalid:0")).await.is_err());
    }
}
