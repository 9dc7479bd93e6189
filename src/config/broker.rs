//! `[broker]` and its listeners.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::access;
use super::address;
use super::error::Fault;
use super::reader::Table;
use super::reader::Value;
use super::source::Place;
use super::tls::ServerTls;
use crate::qos::Qos;

/// `[broker]`
#[derive(Clone, Debug, PartialEq)]
pub struct Broker {
    /// Network connections at once, over all listeners.
    pub max_connections: usize,
    /// Of them, those from one IP address.
    pub max_connections_per_address: usize,
    /// Bytes of one MQTT packet, header included.
    pub max_packet_size: usize,
    /// QoS 1 and 2 messages on the way to one client, 1 to 65535.
    pub max_inflight: u16,
    /// `None`: no limit.
    pub max_keepalive: Option<Duration>,
    /// `max_qos`
    pub max_qos: Qos,
    /// Whether retained messages are offered.
    pub retained: bool,
    /// Bytes of one message's payload.
    pub max_payload_size: usize,
    /// Whether a client may leave its id to the broker.
    pub allow_empty_client_id: bool,
    /// Messages queued for one session beyond those in flight.
    pub max_queued: usize,
    /// Bytes queued for one session.
    pub max_queued_bytes: usize,
    /// What goes when the queue is full.
    pub queue_full: QueueFull,
    /// Cap on session expiry intervals.
    pub session_expiry_limit: Duration,
    /// Topics with a retained message.
    pub max_retained: usize,
    /// Where state goes to disk; `None`: `persistence = false`.
    pub database: Option<PathBuf>,
    /// Interval of `$SYS`; `None`: off.
    pub sys_interval: Option<Duration>,
    /// `user:hash` lines; readable when it was looked for.
    pub password_file: Option<PathBuf>,
    /// Who may do what, in mosquitto's format; readable when it was looked for. `None`: everybody everything.
    pub acl_file: Option<PathBuf>,
    /// Network listeners; defaults filled in.
    pub listeners: Vec<Listener>,
}

/// Which message a full queue gives up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueFull {
    /// The one that waited longest.
    DropOldest,
    /// The one that just came.
    DropNewest,
}

/// `[[broker.listener]]`, or one of the two defaults.
#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    /// Resolved at bind time: `host:port`; port 0 is any free port. Or `unix:` and an absolute path.
    pub address: String,
    /// TLS, if it is spoken here.
    pub tls: Option<ServerTls>,
    /// Whether MQTT comes in WebSocket frames.
    pub websocket: bool,
    /// Whether clients without a user name are let in.
    pub allow_anonymous: bool,
    /// Connections at once on this listener.
    pub max_connections: usize,
    /// A default listener on `[::1]`, which a machine without IPv6 may lack.
    pub optional: bool,
}

impl Listener {
    /// The path of a unix socket.
    pub fn unix_path(&self) -> Option<&Path> {
        self.address.strip_prefix("unix:").map(Path::new)
    }

    /// The scheme under which clients know what is spoken here.
    pub fn scheme(&self) -> &'static str {
        match (self.websocket, &self.tls) {
            (false, None) => "mqtt",
            (false, Some(_)) => "mqtts",
            (true, None) => "ws",
            (true, Some(_)) => "wss",
        }
    }
}

/// `queue_full`, by word.
pub(super) const QUEUE_FULL: &[(&str, QueueFull)] =
    &[("drop_oldest", QueueFull::DropOldest), ("drop_newest", QueueFull::DropNewest)];

/// `max_qos` and `qos`, as numbers.
pub(super) fn qos(value: &Value<'_>) -> Option<Qos> {
    Qos::from_u8(value.integer(0..=2)?)
}

/// The longest packet MQTT can express [MQTT-2.1.4]: 268,435,455 bytes after a header of 5.
const MAX_PACKET: u64 = 268_435_460;
/// Most entries of any table of the broker.
const MAX_ENTRIES: i64 = 100_000_000;
/// Keep-alive is a 16-bit number of seconds.
const MAX_KEEPALIVE: Duration = Duration::from_secs(u16::MAX as u64);
/// Of `sockaddr_un`, without the NUL at the end (unix(7)).
pub const MAX_SOCKET_PATH: usize = 107;
/// Session expiry is a 32-bit number of seconds.
const MAX_EXPIRY: Duration = Duration::from_secs(u32::MAX as u64);

/// The two listeners without any configuration: this machine only.
const DEFAULT_LISTENERS: [(&str, bool); 2] = [("127.0.0.1:1883", false), ("[::1]:1883", true)];

impl Broker {
    /// `max_packet_size` if it is not set.
    pub const MAX_PACKET_SIZE: usize = 1 << 20;
    /// `max_inflight` if it is not set.
    pub const MAX_INFLIGHT: u16 = 32;

    /// Reads `[broker]`, whose database stands in `state_dir`; also returns the place of each configured listener's address.
    pub(super) fn read(mut table: Table<'_>, state_dir: &Path) -> (Broker, Vec<Place>) {
        let one_up = 1..=MAX_ENTRIES;
        let mut number = |key, default| table.get(key).and_then(|v| v.integer(one_up.clone())).unwrap_or(default);
        let (max_connections, max_queued) = (number("max_connections", 1024), number("max_queued", 10_000));
        let max_retained = number("max_retained", 100_000);
        let max_connections_per_address = number("max_connections_per_address", max_connections);
        let max_inflight = table.get("max_inflight").and_then(|v| v.integer(1..=65_535));
        let mut size = |key, range| table.get(key).and_then(|v: Value<'_>| v.size(range));
        let max_packet_size = size("max_packet_size", 16..=MAX_PACKET);
        let max_payload_size = size("max_payload_size", 1..=MAX_PACKET);
        let max_queued_bytes = size("max_queued_bytes", 1..=1 << 40);
        let mut flag = |key| table.get(key).and_then(|v: Value<'_>| v.boolean());
        let (retained, allow_empty_client_id) = (flag("retained"), flag("allow_empty_client_id"));
        let mut broker = Broker {
            max_connections,
            max_connections_per_address,
            max_packet_size: max_packet_size.unwrap_or(Broker::MAX_PACKET_SIZE),
            max_inflight: max_inflight.unwrap_or(Broker::MAX_INFLIGHT),
            max_keepalive: table.get("max_keepalive").and_then(keepalive),
            max_qos: table.get("max_qos").and_then(|v| qos(&v)).unwrap_or(Qos::ExactlyOnce),
            retained: retained.unwrap_or(true),
            max_payload_size: max_payload_size.unwrap_or(1 << 20),
            allow_empty_client_id: allow_empty_client_id.unwrap_or(true),
            max_queued,
            max_queued_bytes: max_queued_bytes.unwrap_or(16 << 20),
            queue_full: table.get("queue_full").and_then(|v| v.choice(QUEUE_FULL)).unwrap_or(QueueFull::DropOldest),
            session_expiry_limit: table
                .get("session_expiry_limit")
                .and_then(|v| v.duration(Duration::ZERO..=MAX_EXPIRY))
                .unwrap_or(Duration::from_secs(7 * 24 * 3600)),
            max_retained,
            database: database(&mut table, state_dir),
            sys_interval: table
                .get("sys_interval")
                .map_or(Some(Some(Duration::from_secs(10))), |v| {
                    v.optional_duration(Duration::from_millis(100)..=MAX_EXPIRY)
                })
                .flatten(),
            password_file: table.get("password_file").and_then(|v| access::password_file(&v)),
            acl_file: None,
            listeners: Vec::new(),
        };
        let acl_file = table.get("acl_file");
        broker.acl_file = acl_file.as_ref().and_then(access::file);
        let places = broker.read_listeners(&mut table);
        if let Some(acl_file) = acl_file.filter(|_| broker.password_file.is_none()) {
            access::warn_of_claims(&acl_file, &broker.listeners);
        }
        table.finish();
        (broker, places)
    }

    fn read_listeners(&mut self, table: &mut Table<'_>) -> Vec<Place> {
        let configured = table.get("listener");
        let anonymous = table.get("allow_anonymous").and_then(|value| value.boolean());
        let anonymous = anonymous.unwrap_or(configured.is_none());
        let Some(configured) = configured else {
            let default = |(address, optional): (&str, bool)| Listener {
                address: address.to_owned(),
                tls: None,
                websocket: false,
                allow_anonymous: anonymous,
                max_connections: self.max_connections,
                optional,
            };
            self.listeners = DEFAULT_LISTENERS.map(default).into();
            return Vec::new();
        };
        let mut places = Vec::new();
        for table in configured.tables().unwrap_or_default() {
            if let Some((listener, place)) = self.read_listener(table, anonymous) {
                self.listeners.push(listener);
                places.push(place);
            }
        }
        places
    }

    fn read_listener(&self, mut table: Table<'_>, anonymous: bool) -> Option<(Listener, Place)> {
        let address = table.require("address");
        let allow_anonymous = table.get("allow_anonymous").and_then(|v| v.boolean()).unwrap_or(anonymous);
        let max_connections = table.get("max_connections").and_then(|v| v.integer(1..=MAX_ENTRIES));
        let tls = table.get("tls");
        let checked = tls.as_ref().and_then(ServerTls::read);
        let websocket = table.get("websocket").and_then(|v| v.boolean()).unwrap_or(false);
        table.finish();
        let value = address?;
        let address = read_address(&value)?;
        if tls.is_some() && checked.is_none() {
            return None;
        }
        access::warn_of_listener(&value, self, allow_anonymous, address::is_local(&address), checked.as_ref());
        let max_connections = max_connections.unwrap_or(self.max_connections);
        let listener = Listener { address, tls: checked, websocket, allow_anonymous, max_connections, optional: false };
        Some((listener, value.place()))
    }
}

/// `host:port`, or `unix:` and a path, which is made absolute.
fn read_address(value: &Value<'_>) -> Option<String> {
    let Some(path) = value.string()?.strip_prefix("unix:") else {
        return value.parsed(|text| address::host_port(text, true));
    };
    if path.is_empty() {
        let fault = Fault::new("the path of the socket is empty");
        return value.fail(fault.hint("write for example \"unix:/run/gatepost/mqtt.sock\""));
    }
    Some(format!("unix:{}", bindable(value, value.relative(path))?.display()))
}

/// The path of a unix socket, absolute.
pub(super) fn socket_path(value: &Value<'_>) -> Option<PathBuf> {
    bindable(value, value.path()?)
}

/// `path`, if a unix socket can have it.
fn bindable(value: &Value<'_>, path: PathBuf) -> Option<PathBuf> {
    let bytes = path.as_os_str().as_encoded_bytes();
    if bytes.len() > MAX_SOCKET_PATH || bytes.contains(&0) {
        let fault = Fault::new(format!("the path of a unix socket has at most {MAX_SOCKET_PATH} bytes, and no NUL"));
        return value.fail(fault.hint(format!("{} has {}", path.display(), bytes.len())));
    }
    Some(path)
}

fn keepalive(value: Value<'_>) -> Option<Duration> {
    let duration = value.optional_duration(Duration::from_secs(1)..=MAX_KEEPALIVE)??;
    if duration.subsec_nanos() != 0 {
        return value.fail(Fault::new("MQTT counts keep-alive in whole seconds"));
    }
    Some(duration)
}

/// `persistence`, on by default.
fn database(table: &mut Table<'_>, state_dir: &Path) -> Option<PathBuf> {
    let on = table.get("persistence").and_then(|value| value.boolean()).unwrap_or(true);
    on.then(|| state_dir.join("broker.db"))
}
