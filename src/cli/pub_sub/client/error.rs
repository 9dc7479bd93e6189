//! What can go wrong on a connection, told so that a person can act on it.

use std::io;

use super::CONNECT_TIMEOUT;
use crate::net::tls::client::ClientTlsError;

/// Why there is no connection, or no longer one.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// CONNACK with a code other than 0.
    #[error("{address} refused the connection: {} (code {code})\nhint: {}", reason(*code), hint(*code))]
    Refused {
        /// `host:port`
        address: String,
        /// MQTT 3.1.1: 1 to 5; MQTT 5: 128 and above.
        code: u8,
    },
    /// No TCP or TLS connection.
    #[error("cannot connect to {address}: {cause}\nhint: {}", io_hint(cause))]
    Unreachable {
        /// `host:port`
        address: String,
        /// What the system or TLS said.
        cause: io::Error,
    },
    /// A certificate or key file is wrong.
    #[error("TLS: {0}")]
    TlsFiles(ClientTlsError),
    /// Connected on TCP, but no CONNACK in time.
    #[error(
        "{0} did not answer within {seconds} s\nhint: is it an MQTT broker, and is -p right?",
        seconds = CONNECT_TIMEOUT.as_secs()
    )]
    NoAnswer(String),
    /// Closed before CONNACK.
    #[error(
        "{0} closed the connection instead of answering\n\
         hint: the port may speak TLS (--cafile) or another MQTT version (-V)"
    )]
    Closed(String),
    /// Lost after CONNACK.
    #[error("the connection to {address} was lost: {cause}")]
    Lost {
        /// `host:port`
        address: String,
        /// What was seen last.
        cause: String,
    },
}

/// What a link says of its end, before the address is known.
#[derive(Debug)]
pub(super) enum Cause {
    Refused(u8),
    Io(io::Error),
    Closed,
    Timeout,
    Other(String),
}

impl Cause {
    pub(super) fn describe(self, address: &str, connected: bool) -> ClientError {
        let address = address.to_owned();
        match self {
            Cause::Refused(code) => ClientError::Refused { address, code },
            Cause::Io(cause) if !connected => ClientError::Unreachable { address, cause },
            Cause::Closed if !connected => ClientError::Closed(address),
            Cause::Timeout if !connected => ClientError::NoAnswer(address),
            Cause::Io(cause) => ClientError::Lost { address, cause: cause.to_string() },
            Cause::Closed => ClientError::Lost { address, cause: "closed by the broker".to_owned() },
            Cause::Timeout => ClientError::Lost { address, cause: "no answer".to_owned() },
            Cause::Other(cause) if connected => ClientError::Lost { address, cause },
            Cause::Other(cause) => ClientError::Unreachable { address, cause: io::Error::other(cause) },
        }
    }
}

/// CONNACK return codes (MQTT 3.1.1, table 3.1) and reason codes (MQTT 5.0, table 3-1).
fn reason(code: u8) -> &'static str {
    match code {
        1 | 132 => "it does not speak this MQTT version",
        2 | 133 => "it does not accept this client id",
        3 | 136 => "it is not available",
        4 | 134 => "bad user name or password",
        5 | 135 => "not authorised",
        129 => "malformed packet",
        130 => "protocol error",
        137 => "it is busy",
        138 => "this client is banned",
        140 => "bad authentication method",
        144 => "it does not accept the will's topic",
        149 => "packet too large",
        151 => "quota exceeded",
        153 => "the will's payload is not of the format it claims",
        154 => "it keeps no retained messages, and the will asks for one",
        155 => "it does not support the will's quality of service",
        156 | 157 => "it says to use another server",
        159 => "too many connections in a short time",
        _ => "it gives no reason",
    }
}

fn hint(code: u8) -> &'static str {
    match code {
        1 | 132 => "try another version with -V",
        2 | 133 => "give another client id with -i",
        4 | 5 | 134 | 135 => "check -u and -P, and what the broker allows this user",
        144 | 154 | 155 => "check the --will options",
        _ => "the broker's log says more",
    }
}

fn io_hint(error: &io::Error) -> &'static str {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match (tls, error.kind()) {
        (Some(rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer)), _) => {
            "name the certificate of the authority that signed the broker's with --cafile"
        }
        (Some(rustls::Error::InvalidCertificate(_)), _) => {
            "check the broker's certificate; --insecure only ignores the host name in it"
        }
        (Some(_), _) => "is it a TLS port, and does the broker want a certificate (--cert, --key)?",
        (None, io::ErrorKind::ConnectionRefused) => {
            "no broker listens there; check -h and -p (`gatepost run` starts one)"
        }
        (None, _) => "check -h and -p and the network",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_to_do() {
        let text = Cause::Refused(5).describe("host:1883", false).to_string();
        assert_eq!(
            text,
            "host:1883 refused the connection: not authorised (code 5)\n\
             hint: check -u and -P, and what the broker allows this user"
        );
        let refused = Cause::Io(io::ErrorKind::ConnectionRefused.into());
        assert!(refused.describe("h:1", false).to_string().contains("no broker listens there"));
        assert!(matches!(Cause::Closed.describe("h:1", true), ClientError::Lost { .. }));
    }
}
