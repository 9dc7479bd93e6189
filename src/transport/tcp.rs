//! A TCP host that is connected to.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout_at};

use super::{Opened, Stream};
use crate::config::Tcp;

/// Keep-alive probes after the silence, and how many of them go unanswered.
const PROBE_INTERVAL: Duration = Duration::from_secs(3);
const PROBES: u32 = 3;

/// Why a host could not be connected to.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The name has no address.
    #[error("cannot connect to {host}: {reason}; hint: check the name and the name server, or give the IP address")]
    Name {
        /// As configured.
        host: String,
        /// What the resolver says.
        reason: String,
    },
    /// The name server did not answer.
    #[error(
        "cannot connect to {host}: its name was not found within {after:?} (connect_timeout); hint: check the name server, or give the IP address"
    )]
    NameTimeout {
        /// As configured.
        host: String,
        /// `connect_timeout`
        after: Duration,
    },
    /// No address could be connected to.
    #[error("cannot connect to {host}: {reasons}; hint: {hint}")]
    Refused {
        /// As configured.
        host: String,
        /// Each address that was tried, and why it failed.
        reasons: String,
        /// What to do about the last of them.
        hint: &'static str,
    },
}

/// Connects, once. The name is resolved anew, and each of its addresses is tried in the resolver's order; of the time
/// that is left each gets an equal share, so that a dead one leaves some to the next.
///
/// # Errors
/// What failed, for each address.
pub async fn open(config: &Tcp) -> Result<Opened, ConnectError> {
    let host = || config.connect.clone();
    let deadline = Instant::now() + config.connect_timeout;
    let addresses: Vec<SocketAddr> = match timeout_at(deadline, lookup_host(&config.connect)).await {
        Ok(Ok(addresses)) => addresses.collect(),
        Ok(Err(error)) => return Err(ConnectError::Name { host: host(), reason: error.to_string() }),
        Err(_) => return Err(ConnectError::NameTimeout { host: host(), after: config.connect_timeout }),
    };
    let mut reasons = Vec::new();
    let mut last = io::ErrorKind::NotFound;
    for (tried, &address) in addresses.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        // At least 1, so the division is sound.
        let untried = u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        match connect(address, left / untried).await.and_then(|stream| tuned(stream, config.keepalive)) {
            Ok(stream) => return Ok(opened(config, stream, address)),
            Err(error) => {
                last = error.kind();
                reasons.push(format!("{address}: {}", describe(&error)));
            }
        }
    }
    if reasons.is_empty() {
        return Err(ConnectError::Name { host: host(), reason: "the name has no address".into() });
    }
    Err(ConnectError::Refused { host: host(), reasons: reasons.join(", "), hint: hint(last) })
}

/// NODELAY, and keep-alive such that a peer that is gone is found about `keepalive` and some seconds after it fell
/// silent: by unanswered probes on an idle link, by TCP_USER_TIMEOUT when something was sent (the kernel would go on
/// for a quarter of an hour). `None` leaves the kernel's defaults, under which an idle link is never found dead.
pub(super) fn tuned(stream: TcpStream, keepalive: Option<Duration>) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    if let Some(keepalive) = keepalive {
        // The kernel takes whole seconds, 1 to 32767.
        let idle = Duration::from_secs(keepalive.as_secs().saturating_add(u64::from(keepalive.subsec_nanos() > 0)))
            .clamp(Duration::from_secs(1), Duration::from_secs(32767));
        let probes = TcpKeepalive::new().with_time(idle).with_interval(PROBE_INTERVAL).with_retries(PROBES);
        let socket = SockRef::from(&stream);
        socket.set_tcp_keepalive(&probes)?;
        socket.set_tcp_user_timeout(Some(idle + PROBE_INTERVAL * PROBES))?;
    }
    Ok(stream)
}

fn opened(config: &Tcp, stream: TcpStream, address: SocketAddr) -> Opened {
    let place = match address.to_string() {
        same if same == config.connect => same,
        address => format!("{} ({address})", config.connect),
    };
    Opened { stream: Stream::Tcp(stream), peer: Some(address), place, warnings: Vec::new() }
}

async fn connect(address: SocketAddr, within: Duration) -> io::Result<TcpStream> {
    let stream = match timeout_at(Instant::now() + within, TcpStream::connect(address)).await {
        Ok(connected) => connected?,
        Err(_) => return Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer for {within:.1?}"))),
    };
    // A local port to which nobody listens may be given to the connection itself, which then talks to itself.
    if stream.local_addr().ok() == Some(address) {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    Ok(stream)
}

fn describe(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".into(),
        io::ErrorKind::HostUnreachable => "no route to the host".into(),
        io::ErrorKind::NetworkUnreachable => "no route to its network".into(),
        _ => error.to_string(),
    }
}

fn hint(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::ConnectionRefused => {
            "the host answers, but nothing listens on that port: check the port, and that the device's server is on"
        }
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            "check the address, the cable or WLAN, and the route"
        }
        io::ErrorKind::TimedOut => "check that the device is on, its address, and firewalls on the way",
        _ => "check the address, and the network of this machine",
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpSocket};

    use super::*;
    use crate::transport::is_unplugged;

    fn to(connect: impl ToString) -> Tcp {
        let connect_timeout = Duration::from_secs(5);
        Tcp { connect: connect.to_string(), connect_timeout, keepalive: Some(Duration::from_millis(29_500)) }
    }

    #[tokio::test]
    async fn a_half_open_link_is_looked_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let opened = open(&to(listener.local_addr().unwrap())).await.unwrap();
        assert_eq!(opened.peer, Some(listener.local_addr().unwrap()));
        assert_eq!(opened.place, listener.local_addr().unwrap().to_string());
        let Stream::Tcp(stream) = opened.stream else { panic!("a TCP stream") };
        let socket = SockRef::from(&stream);
        assert!(stream.nodelay().unwrap());
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(30));
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(3));
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 3);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(39)));

        for (keepalive, idle) in [(Duration::from_nanos(1), 1), (Duration::MAX, 32767)] {
            let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let stream = tuned(stream, Some(keepalive)).unwrap();
            assert_eq!(SockRef::from(&stream).tcp_keepalive_time().unwrap(), Duration::from_secs(idle));
        }
    }

    #[tokio::test]
    async fn names_are_resolved_and_every_address_is_tried() {
        // Of the addresses of localhost only this one is listened on.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let name = format!("localhost:{}", address.port());
        let opened = open(&to(&name)).await.unwrap();
        assert_eq!(opened.peer, Some(address));
        assert_eq!(opened.place, format!("{name} ({address})"));
    }

    #[tokio::test]
    async fn failures_say_what_failed() {
        // Nobody listens there, and nobody else can.
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = socket.local_addr().unwrap();
        let error = open(&to(address)).await.unwrap_err().to_string();
        let expected = format!("cannot connect to {address}: {address}: connection refused; hint: the host answers");
        assert!(error.starts_with(&expected), "{error}");

        let error = open(&to("no-such-host.invalid:1")).await.unwrap_err();
        assert!(matches!(error, ConnectError::Name { .. }), "{error}");

        let hurried = Tcp { connect_timeout: Duration::ZERO, ..to("no-such-host.invalid:1") };
        let error = open(&hurried).await.unwrap_err();
        assert!(matches!(error, ConnectError::Name { .. } | ConnectError::NameTimeout { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_host_that_does_not_answer_times_out() {
        // A full backlog: the kernel drops what would begin another connection.
        let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        full.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        full.listen(0).unwrap();
        let address = full.local_addr().unwrap().as_socket().unwrap();
        let _first = std::net::TcpStream::connect(address).unwrap();
        let hurried = Tcp { connect_timeout: Duration::from_millis(300), ..to(address) };
        let began = Instant::now();
        let error = open(&hurried).await.unwrap_err().to_string();
        assert!(error.contains("no answer for 300.0ms; hint: check that the device is on"), "{error}");
        assert!(began.elapsed() < Duration::from_secs(3));
    }

    #[tokio::test]
    async fn the_end_of_a_connection_is_seen() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (mut read, mut write) = open(&to(listener.local_addr().unwrap())).await.unwrap().stream.into_split();
        let (far, _) = listener.accept().await.unwrap();
        drop(far);
        assert_eq!(read.read(&mut [0; 16]).await.unwrap(), 0);
        // The first write brings the reset, a later one sees it.
        let error = loop {
            if let Err(error) = write.write_all(b"gone").await {
                break error;
            }
            tokio::task::yield_now().await;
        };
        assert!(is_unplugged(&error), "{error}");
    }

    /// A host on a network of its own, which can be cut. One that a killed test left behind has another address.
    struct FarHost(String);

    impl FarHost {
        /// Ours and its own, of 198.18.0.0/15 (RFC 2544).
        fn addresses() -> [Ipv4Addr; 2] {
            let network = u32::from(Ipv4Addr::new(198, 18, 0, 0)) + std::process::id() % (1 << 15) * 4;
            [network + 1, network + 2].map(Ipv4Addr::from)
        }

        fn new() -> FarHost {
            let host = FarHost(format!("gp{}", std::process::id()));
            let (name, [near, far]) = (&host.0, FarHost::addresses());
            ip(&format!("netns add {name}"));
            ip(&format!("link add {name}a type veth peer name {name}b netns {name}"));
            ip(&format!("address add {near}/30 dev {name}a"));
            ip(&format!("link set {name}a up"));
            ip(&format!("-n {name} address add {far}/30 dev {name}b"));
            ip(&format!("-n {name} link set {name}b up"));
            host
        }

        fn cut(&self) {
            ip(&format!("-n {0} link set {0}b down", self.0));
        }

        fn mend(&self) {
            ip(&format!("-n {0} link set {0}b up", self.0));
        }
    }

    impl Drop for FarHost {
        fn drop(&mut self) {
            ip(&format!("netns delete {}", self.0));
        }
    }

    fn ip(arguments: &str) {
        let status = std::process::Command::new("ip").args(arguments.split(' ')).status().unwrap();
        assert!(status.success(), "ip {arguments}");
    }

    #[tokio::test]
    #[ignore = "needs root, iproute2 and socat"]
    async fn a_host_that_vanishes_is_found() {
        let far = FarHost::new();
        let address = FarHost::addresses()[1];
        let host = Tcp { keepalive: Some(Duration::from_secs(2)), ..to(format!("{address}:4000")) };
        for writes in [false, true] {
            let _server = tokio::process::Command::new("ip")
                .args(["netns", "exec", &far.0, "socat", "TCP-LISTEN:4000,reuseaddr", "PIPE"])
                .kill_on_drop(true)
                .spawn()
                .unwrap();
            let start = Instant::now();
            let mut stream = loop {
                match open(&host).await {
                    Ok(opened) => break opened.stream,
                    Err(error) => assert!(start.elapsed() < Duration::from_secs(20), "{error}"),
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            };
            let mut echo = [0; 5];
            stream.write_all(b"hello").await.unwrap();
            stream.read_exact(&mut echo).await.unwrap();
            far.cut();
            let began = Instant::now();
            if writes {
                stream.write_all(b"lost").await.unwrap();
            }
            let error = stream.read(&mut echo).await.unwrap_err();
            // Two seconds, and three probes three seconds apart.
            assert!(began.elapsed() < Duration::from_secs(15), "{error} after {:?}", began.elapsed());
            far.mend();
        }
    }
}
