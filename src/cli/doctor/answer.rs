//! Whether something answers to MQTT's CONNECT.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// How long a broker may take to answer.
const ANSWER_TIME: Duration = Duration::from_secs(1);

/// Where a socket that listens everywhere is reached from here.
pub fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// What a CONNECT got.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// CONNACK with this code; a refusal is an answer too.
    Connack(u8),
    /// No CONNECT was sent, as this is spoken there.
    NotAsked(&'static str),
    /// Something else: TLS, HTTP, or none of the kind.
    Other,
    /// Nothing.
    None(io::ErrorKind),
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Answer::Connack(0) => f.write_str("CONNECT is accepted"),
            Answer::Connack(code) => write!(f, "CONNECT without a user is refused with code {code}"),
            Answer::NotAsked(scheme) => write!(f, "{scheme}, which is not tried"),
            Answer::Other => f.write_str("what answers is not MQTT"),
            Answer::None(io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                write!(f, "no answer to CONNECT within {ANSWER_TIME:?}")
            }
            Answer::None(kind) => write!(f, "no answer to CONNECT: {kind}"),
        }
    }
}

/// CONNECT of MQTT 3.1.1: clean session, keep-alive 10 s, no client id [MQTT-3.1.3-6].
const CONNECT: [u8; 14] = [0x10, 12, 0, 4, b'M', b'Q', b'T', b'T', 4, 0x02, 0, 10, 0, 0];
const DISCONNECT: [u8; 2] = [0xE0, 0];

/// Sends CONNECT to `address`.
pub fn ask(address: SocketAddr) -> Answer {
    let exchange = || {
        let mut stream = TcpStream::connect_timeout(&address, ANSWER_TIME)?;
        stream.set_read_timeout(Some(ANSWER_TIME))?;
        stream.write_all(&CONNECT)?;
        let mut connack = [0; 4];
        stream.read_exact(&mut connack)?;
        // The answer is here; what becomes of the connection matters no more.
        let _ = stream.write_all(&DISCONNECT);
        Ok(connack)
    };
    match exchange() {
        Ok([0x20, 2, _, code]) => Answer::Connack(code),
        Ok(_) => Answer::Other,
        Err(error) => io::Error::kind(&error).into(),
    }
}

impl From<io::ErrorKind> for Answer {
    fn from(kind: io::ErrorKind) -> Answer {
        Answer::None(kind)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// A listener that answers with `bytes`.
    fn answering(bytes: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.read_exact(&mut [0; CONNECT.len()]).unwrap();
            stream.write_all(bytes).unwrap();
        });
        address
    }

    #[test]
    fn answers_are_told_apart() {
        assert_eq!(ask(answering(&[0x20, 2, 0, 0])), Answer::Connack(0));
        assert_eq!(ask(answering(&[0x20, 2, 0, 5])), Answer::Connack(5));
        assert_eq!(ask(answering(b"HTTP/1.1 400")), Answer::Other);
        assert!(matches!(ask(answering(&[])), Answer::None(_)));
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let answer = ask(silent.local_addr().unwrap());
        assert!(answer.to_string().contains("within 1s"), "{answer}");
    }
}
