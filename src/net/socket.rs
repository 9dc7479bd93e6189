//! Sockets that clients connect to: TCP and unix.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::Mode;
use rustix::io::Errno;
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, UnixListener};

use super::stream::{Peer, Stream};

/// Connections that the kernel may hold before they are accepted.
const BACKLOG: i32 = 1024;

/// Finds clients that vanished, also where the protocol has no keep-alive.
const KEEPALIVE_TIME: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// How long to wait after accept failed for want of descriptors or memory: the socket stays readable, so to accept
/// again at once would be a busy loop.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(250);

/// Who may connect to a unix socket: the gateway's user and group.
const UNIX_MODE: u32 = 0o660;

/// A bound socket.
#[derive(Debug)]
pub enum ServerSocket {
    /// TCP.
    Tcp(TcpListener),
    /// A unix socket.
    Unix(UnixSocket),
}

/// A unix socket, whose file goes with it.
#[derive(Debug)]
pub struct UnixSocket {
    listener: UnixListener,
    path: Arc<Path>,
    /// Device and inode of the file: another's file of that name stays.
    file: (u64, u64),
}

impl ServerSocket {
    /// Binds every address that `address` stands for: `unix:` and a path, or `host:port`, which is resolved now.
    ///
    /// # Errors
    /// The name has no address, or one of them cannot be bound; then none is.
    pub async fn bind(address: &str, only_v6: bool) -> io::Result<Vec<ServerSocket>> {
        match address.strip_prefix("unix:") {
            Some(path) => Ok(vec![ServerSocket::bind_unix(Path::new(path))?]),
            None => {
                let addresses = tokio::net::lookup_host(address).await?;
                addresses.map(|address| ServerSocket::bind_tcp(address, only_v6)).collect()
            }
        }
    }

    /// Binds `address`. `only_v6`: leave IPv4 to another socket.
    pub fn bind_tcp(address: SocketAddr, only_v6: bool) -> io::Result<ServerSocket> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_reuse_address(true)?;
        if only_v6 {
            socket.set_only_v6(true)?;
        }
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(ServerSocket::Tcp(TcpListener::from_std(socket.into())?))
    }

    /// Makes a unix socket of mode 0660. A socket that nobody listens on any more is replaced; one that somebody
    /// listens on is `AddrInUse`, and any other file stays.
    pub fn bind_unix(path: &Path) -> io::Result<ServerSocket> {
        remove_stale(path)?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        // The file is made with these rights, less the umask; so there is no moment at which others may connect.
        rustix::fs::fchmod(&socket, Mode::from_raw_mode(UNIX_MODE))?;
        socket.bind(&SockAddr::unix(path)?).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                let what =
                    format!("{error}; hint: make its directory first, or let systemd: RuntimeDirectory=gatepost");
                io::Error::new(error.kind(), what)
            }
            _ => error,
        })?;
        let metadata = std::fs::symlink_metadata(path)?;
        let file = (metadata.dev(), metadata.ino());
        std::fs::set_permissions(path, PermissionsExt::from_mode(UNIX_MODE))?;
        socket.listen(BACKLOG)?;
        let listener = UnixListener::from_std(socket.into())?;
        Ok(ServerSocket::Unix(UnixSocket { listener, path: path.into(), file }))
    }

    /// Where it is, with the port that the kernel chose.
    pub fn address(&self) -> io::Result<Peer> {
        match self {
            ServerSocket::Tcp(listener) => listener.local_addr().map(Peer::Ip),
            ServerSocket::Unix(socket) => Ok(Peer::Unix(socket.path.clone())),
        }
    }

    /// The next client. Cancel safe.
    pub async fn accept(&self) -> io::Result<(Stream, Peer)> {
        match self {
            ServerSocket::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_TIME).with_interval(KEEPALIVE_INTERVAL);
                // A socket that does not take an option is closed already, which its first read will tell.
                let _ = stream.set_nodelay(true);
                let _ = SockRef::from(&stream).set_tcp_keepalive(&keepalive);
                Ok((Stream::Tcp(stream), Peer::Ip(peer)))
            }
            ServerSocket::Unix(socket) => {
                let (stream, _) = socket.listener.accept().await?;
                Ok((Stream::Unix(stream), Peer::Unix(socket.path.clone())))
            }
        }
    }
}

/// Whether accept failed because of the one connection, which is gone then (accept(2)).
pub fn is_of_the_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Whether an address was not bound because this machine has no IPv6.
pub fn is_without_ipv6(error: &io::Error) -> bool {
    let without = [Errno::ADDRNOTAVAIL, Errno::AFNOSUPPORT].map(Errno::raw_os_error);
    error.raw_os_error().is_some_and(|errno| without.contains(&errno))
}

/// Removes the socket of a gateway that was killed.
fn remove_stale(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            let what = "a file of that name is there, and it is no socket";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
        }
        Ok(_) => {}
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        let path = PathBuf::from(&*self.path);
        let is_own = std::fs::symlink_metadata(&path).is_ok_and(|file| (file.dev(), file.ino()) == self.file);
        if is_own {
            if let Err(error) = std::fs::remove_file(&path) {
                tracing::warn!(path = %path.display(), %error, "cannot remove the unix socket");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[tokio::test]
    async fn a_unix_socket_is_for_user_and_group_and_goes_with_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mqtt.sock");
        let socket = ServerSocket::bind_unix(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        assert_eq!(socket.address().unwrap().to_string(), format!("unix:{}", path.display()));
        let _client = UnixStream::connect(&path).unwrap();
        assert!(matches!(socket.accept().await.unwrap(), (Stream::Unix(_), Peer::Unix(_))));
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn only_a_dead_socket_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mqtt.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let socket = ServerSocket::bind_unix(&path).unwrap();
        assert_eq!(ServerSocket::bind_unix(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);

        // The file of a newer owner stays.
        std::fs::remove_file(&path).unwrap();
        let newer = ServerSocket::bind_unix(&path).unwrap();
        drop(socket);
        assert!(path.exists());
        drop(newer);

        std::fs::write(&path, "precious").unwrap();
        assert_eq!(ServerSocket::bind_unix(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
        let error = ServerSocket::bind_unix(&folder.path().join("no/such/mqtt.sock")).unwrap_err();
        assert!(error.to_string().contains("make its directory"), "{error}");
    }
}
