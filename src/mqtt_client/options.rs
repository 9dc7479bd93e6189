//! What to connect to, and as whom.

use bytes::Bytes;

use crate::net::tls::client::ClientTls;
use crate::topic::TopicName;

/// What to connect to, and as whom.
pub struct ConnectOptions {
    /// Host name or address, IPv6 without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Protocol version.
    pub version: Version,
    /// Empty: the broker chooses.
    pub client_id: String,
    /// User name and password; either may be empty.
    pub credentials: Option<(String, String)>,
    /// Seconds, 5 to 65535.
    pub keepalive: u16,
    /// Whether the broker forgets the session.
    pub clean: bool,
    /// MQTT 5 session expiry in seconds; `u32::MAX`: never.
    pub session_expiry: u32,
    /// Published by the broker when this client is lost.
    pub will: Option<Will>,
    /// `None`: plain TCP.
    pub tls: Option<ClientTls>,
    /// Gets a line for each packet that is sent or received, as mosquitto's clients print it with `-d`.
    pub packet_log: Option<fn(&str)>,
}

/// MQTT versions that are spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// 3.1.1
    V311,
    /// 5.0
    V5,
}

/// A last will.
#[derive(Clone, Debug, PartialEq)]
pub struct Will {
    /// Where it is published.
    pub topic: TopicName,
    /// What.
    pub payload: Bytes,
    /// 0 to 2.
    pub qos: u8,
    /// Whether it is retained.
    pub retain: bool,
}
