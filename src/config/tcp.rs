//! `tcp = {…}` and `tcp_server = {…}`

use std::time::Duration;

use super::address::{self, Network};
use super::reader::Table;
use super::reader::Value;
use super::tls;
use super::units::MAX_WAIT;

/// `tcp = {…}`
#[derive(Clone, Debug, PartialEq)]
pub struct Tcp {
    /// `host:port`; resolved at each attempt, each address tried.
    pub connect: String,
    /// For one attempt, name resolution included.
    pub connect_timeout: Duration,
    /// Silence before keep-alive probes; with it half-open links are found. `None`: off.
    pub keepalive: Option<Duration>,
}

/// `tcp_server = {…}`
#[derive(Clone, Debug, PartialEq)]
pub struct TcpServer {
    /// `host:port`; port 0 is any free port.
    pub listen: String,
    /// Peers at once; one more is refused and counted.
    pub max_connections: usize,
    /// Peers let in; empty: all.
    pub allow: Vec<Network>,
    /// A peer that sent nothing for so long is closed. `None`: never.
    pub idle_timeout: Option<Duration>,
    /// As for [`Tcp`].
    pub keepalive: Option<Duration>,
}

/// Keep-alive probes go out after whole seconds, 32,767 at most (tcp(7), TCP_KEEPIDLE).
const MAX_KEEPALIVE: Duration = Duration::from_secs(32_767);

impl Tcp {
    pub(super) fn read(value: &Value<'_>) -> Option<Tcp> {
        let mut table = value.table()?;
        let connect = table.require("connect").and_then(|v| v.parsed(|text| address::host_port(text, false)));
        let timeout = table.get("connect_timeout").and_then(|v| v.duration(Duration::from_millis(1)..=MAX_WAIT));
        let keepalive = keepalive(&mut table);
        if let Some(tls) = table.get("tls") {
            tls::client(&tls);
        }
        table.finish();
        Some(Tcp { connect: connect?, connect_timeout: timeout.unwrap_or(Duration::from_secs(10)), keepalive })
    }
}

impl TcpServer {
    /// Reads `tcp_server`; also returns the value of `listen`.
    pub(super) fn read<'a>(value: &Value<'a>) -> Option<(TcpServer, Value<'a>)> {
        let mut table = value.table()?;
        let listen_value = table.require("listen");
        let listen = listen_value.as_ref().and_then(|v| v.parsed(|text| address::host_port(text, true)));
        let max_connections = table.get("max_connections").and_then(|v| v.integer(1..=65_535)).unwrap_or(64);
        let allow = table.get("allow").and_then(|v| v.array()).unwrap_or_default();
        let allow = allow.iter().filter_map(|v| v.parsed(address::network)).collect();
        let idle_timeout =
            table.get("idle_timeout").and_then(|v| v.optional_duration(Duration::from_millis(1)..=MAX_WAIT)).flatten();
        let keepalive = keepalive(&mut table);
        if let Some(tls) = table.get("tls") {
            tls::server(&tls);
        }
        table.finish();
        let server = TcpServer { listen: listen?, max_connections, allow, idle_timeout, keepalive };
        Some((server, listen_value?))
    }
}

fn keepalive(table: &mut Table<'_>) -> Option<Duration> {
    match table.get("keepalive") {
        None => Some(Duration::from_secs(30)),
        Some(value) => value.optional_duration(Duration::from_secs(1)..=MAX_KEEPALIVE).flatten(),
    }
}
