//! What can go wrong on a connection.

use std::io;

use super::CONNECT_TIMEOUT;
use crate::net::tls::client::ClientTlsError;

/// Why there is no connection, or no longer one.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// CONNACK with a code other than 0.
    #[error("{address} refused the connection: {} (code {code})", reason(*code))]
    Refused {
        /// `host:port`
        address: String,
        /// MQTT 3.1.1: 1 to 5; MQTT 5: 128 and above.
        code: u8,
    },
    /// No TCP or TLS connection.
    #[error("cannot connect to {address}: {cause}")]
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
    #[error("{0} did not answer within {seconds} s", seconds = CONNECT_TIMEOUT.as_secs())]
    NoAnswer(String),
    /// Closed before CONNACK.
    #[error("{0} closed the connection instead of answering")]
    Closed(String),
    /// Something came before CONNACK that is no MQTT packet.
    #[error("what {0} answered is not MQTT")]
    NotMqtt(String),
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
    /// Bytes came that are none of MQTT.
    NotMqtt(String),
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
            Cause::NotMqtt(_) if !connected => ClientError::NotMqtt(address),
            Cause::NotMqtt(cause) => ClientError::Lost { address, cause },
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_happened() {
        let text = Cause::Refused(5).describe("host:1883", false).to_string();
        assert_eq!(text, "host:1883 refused the connection: not authorised (code 5)");
        assert!(matches!(Cause::Closed.describe("h:1", true), ClientError::Lost { .. }));
    }
}
