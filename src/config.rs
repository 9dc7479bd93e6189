//! The configuration, validated: after [`load`] nothing that must be there is missing, topics and filters are
//! parsed, durations and sizes are typed. `raw` is what the file says, `error` how it is refused.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;

use crate::qos::Qos;
use crate::template::Template;
use crate::topic::{TopicFilter, TopicName};

/// Everything `gatepost.toml` and its drop-ins say, with defaults filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `[gateway]`
    pub gateway: Gateway,
    /// `[log]`
    pub log: Log,
    /// `[broker]`
    pub broker: Broker,
    /// `[device.*]` with `enabled = true`, by name.
    pub devices: BTreeMap<String, Device>,
}

/// `[gateway]`
#[derive(Clone, Debug, PartialEq)]
pub struct Gateway {
    /// `[A-Za-z0-9_-]{1,64}`; by default made from the host name.
    pub name: String,
    /// Where state is kept. Not created by loading the config.
    pub state_dir: PathBuf,
    /// Root of the gateway's own topics, with `{gateway}` filled in.
    pub topic: TopicName,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// A level or an `EnvFilter` directive string, checked.
    pub level: String,
    /// `format`
    pub format: LogFormat,
}

/// `[log] format`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// journald under systemd, else pretty on a terminal, else plain.
    Auto,
    /// Colours, for people.
    Pretty,
    /// The same without colours.
    Plain,
    /// One JSON object a line.
    Json,
    /// Structured journald records.
    Journald,
}

/// `[broker]`
#[derive(Clone, Debug, PartialEq)]
pub struct Broker {
    /// Network connections at once, over all listeners.
    pub max_connections: usize,
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
    /// Whether state goes to disk.
    pub persistence: bool,
    /// Interval of `$SYS`; `None`: off.
    pub sys_interval: Option<Duration>,
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
    /// Resolved at bind time: `host:port`; port 0 is any free port.
    pub address: String,
    /// Whether clients without a user name are let in.
    pub allow_anonymous: bool,
    /// Connections at once on this listener.
    pub max_connections: usize,
    /// A default listener on `[::1]`, which a machine without IPv6 may lack.
    pub optional: bool,
}

/// `[device.NAME]`
#[derive(Clone, Debug, PartialEq)]
pub struct Device {
    /// `[A-Za-z0-9_-]{1,64}`
    pub name: String,
    /// What the bytes travel on.
    pub transport: Transport,
    /// How bytes become frames.
    pub framing: Framing,
    /// Backoff between attempts to open.
    pub reconnect: Reconnect,
    /// Nothing received for so long: close and reopen. `None`: never.
    pub idle_timeout: Option<Duration>,
    /// Commands that wait for the device.
    pub queue: CommandQueue,
    /// Whether a subscribe filter may match a topic the device publishes to.
    pub allow_loop: bool,
    /// `echo = "drop"`: frames equal to the one just written are dropped.
    pub drop_echo: bool,
    /// Least time between two frames written.
    pub write_gap: Duration,
    /// Raw bytes written after each open.
    pub on_connect: Vec<Bytes>,
    /// Frame to topic, in order.
    pub publish: Vec<PublishRule>,
    /// Topic to frame.
    pub subscribe: Vec<SubscribeRule>,
}

/// The transport of a device.
#[derive(Clone, Debug, PartialEq)]
pub enum Transport {
    /// `serial = {…}`
    Serial(Serial),
    /// `tcp = {…}`
    Tcp(Tcp),
    /// `tcp_server = {…}`
    TcpServer(TcpServer),
}

/// `serial = {…}`
#[derive(Clone, Debug, PartialEq)]
pub struct Serial {
    /// Which port.
    pub port: SerialPort,
    /// Bits per second.
    pub baud: u32,
    /// 5 to 8.
    pub data_bits: u8,
    /// `parity`
    pub parity: Parity,
    /// 1 or 2.
    pub stop_bits: u8,
    /// `flow_control`
    pub flow_control: FlowControl,
    /// Lock the port against other programs (TIOCEXCL and flock).
    pub exclusive: bool,
    /// `dtr`
    pub dtr: ControlLine,
    /// `rts`
    pub rts: ControlLine,
    /// After opening wait so long and drop what arrives.
    pub settle: Duration,
    /// Whether closing lowers DTR (HUPCL).
    pub hangup: bool,
}

/// `serial.port`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SerialPort {
    /// A path, absolute after loading.
    Path(PathBuf),
    /// `usb:VVVV:PPPP[:SERIAL]`
    Usb {
        /// Vendor id.
        vendor: u16,
        /// Product id.
        product: u16,
        /// Serial number, if one of several equal devices is meant.
        serial: Option<String>,
    },
}

/// `parity`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Parity {
    None,
    Even,
    Odd,
}

/// `flow_control`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowControl {
    /// None.
    None,
    /// XON/XOFF.
    Software,
    /// RTS/CTS.
    Hardware,
}

/// `dtr` and `rts`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlLine {
    /// Raise after opening.
    On,
    /// Lower after opening.
    Off,
    /// Leave as opening left it.
    Keep,
}

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

/// An address block, `192.168.1.0/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// Its first address.
    pub address: std::net::IpAddr,
    /// How many leading bits count.
    pub prefix: u8,
}

impl Network {
    /// Whether `peer` is in the block; an IPv4-mapped IPv6 address counts as IPv4.
    pub fn contains(&self, peer: SocketAddr) -> bool {
        use std::net::IpAddr;
        let bits = |ip: IpAddr| match ip.to_canonical() {
            IpAddr::V4(v4) => (u128::from(v4.to_bits()) << 96, true),
            IpAddr::V6(v6) => (v6.to_bits(), false),
        };
        let ((block, block_v4), (peer, peer_v4)) = (bits(self.address), bits(peer.ip()));
        block_v4 == peer_v4 && (self.prefix == 0 || (block ^ peer) >> (128 - u32::from(self.prefix)) == 0)
    }
}

/// `framing = {…}`
#[derive(Clone, Debug, PartialEq)]
pub struct Framing {
    /// `type` and the keys that are its own.
    pub kind: FramingKind,
    /// Longest frame in bytes, after the checksum is removed and before it is added.
    pub max_length: usize,
    /// `checksum`
    pub checksum: Option<Checksum>,
}

/// `framing.type`. `lines` is [`FramingKind::Lines`] and not a `Delimited`, for its treatment of CR.
#[derive(Clone, Debug, PartialEq)]
pub enum FramingKind {
    /// Up to the terminator; one CR before it is removed.
    Lines {
        /// Written and looked for; not empty.
        terminator: Bytes,
        /// Whether an empty line is a frame.
        keep_empty: bool,
    },
    /// Up to the delimiter.
    Delimited {
        /// Not empty.
        delimiter: Bytes,
        /// Whether an empty frame counts.
        keep_empty: bool,
    },
    /// So many bytes.
    Fixed {
        /// At least 1.
        length: usize,
    },
    /// A count, then so many bytes.
    LengthPrefixed {
        /// Bytes of the count: 1, 2, 3, 4 or 8.
        width: u8,
        /// Byte order of the count.
        endian: Endian,
        /// Added to the count that was read to get the frame's length; subtracted when writing.
        adjust: i64,
    },
    /// Between two marks.
    StartEnd {
        /// Not empty.
        start: Bytes,
        /// Not empty.
        end: Bytes,
    },
    /// Until nothing came for so long.
    IdleGap {
        /// Above zero.
        gap: Duration,
    },
    /// RFC 1055.
    Slip,
    /// Consistent overhead byte stuffing, 0x00 between frames.
    Cobs,
    /// Whatever one read returns.
    Chunks,
}

/// Byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Endian {
    Big,
    Little,
}

/// `checksum`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// CRC-16/MODBUS, low byte first on the wire.
    Crc16Modbus,
    /// CRC-16/IBM-3740 ("CCITT-FALSE"), high byte first.
    Crc16Ccitt,
    /// CRC-32/ISO-HDLC, high byte first.
    Crc32,
    /// Exclusive or of all bytes.
    Xor8,
    /// Sum of all bytes modulo 256.
    Sum8,
    /// NMEA 0183: `*` and two hexadecimal digits, exclusive or of what stands between `$` or `!` and `*`.
    Nmea,
}

/// `reconnect = {…}`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reconnect {
    /// First delay.
    pub min: Duration,
    /// Longest delay; a link that was up for so long resets the backoff.
    pub max: Duration,
}

/// `queue = {…}`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandQueue {
    /// At least 1; the oldest goes when it is full.
    pub max: usize,
    /// Whether commands are kept while the device is offline.
    pub keep_while_offline: bool,
}

/// `[[device.NAME.publish]]`
#[derive(Clone, Debug)]
pub struct PublishRule {
    /// Over the frame's bytes; `None` matches every frame.
    pub pattern: Option<regex::bytes::Regex>,
    /// `parse`
    pub parse: Parse,
    /// Placeholders checked: gateway, device, peer, peer_ip, or a field.
    pub topic: Template,
    /// `payload` or `template`
    pub payload: Payload,
    /// One message per field on `{topic}/{field}`.
    pub each_field: bool,
    /// `qos`
    pub qos: Qos,
    /// `retain`
    pub retain: bool,
    /// Only when the payload differs from the last on that topic.
    pub on_change: bool,
    /// At most one per interval and topic; zero: no limit.
    pub min_interval: Duration,
    /// Whether later rules see the frame too.
    pub continues: bool,
}

impl PartialEq for PublishRule {
    fn eq(&self, other: &PublishRule) -> bool {
        let key = |rule: &PublishRule| {
            (
                rule.pattern.as_ref().map(|p| p.as_str().to_owned()),
                rule.each_field,
                rule.qos,
                rule.retain,
                rule.on_change,
            )
        };
        key(self) == key(other)
            && self.parse == other.parse
            && self.topic == other.topic
            && self.payload == other.payload
            && self.min_interval == other.min_interval
            && self.continues == other.continues
    }
}

/// `parse`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parse {
    /// Fields come from the pattern's named groups only.
    None,
    /// A JSON object's members (nested ones as `a.b`).
    Json,
    /// Comma-separated values in the order of `names`.
    Csv {
        /// Field names; an empty name skips a column.
        names: Vec<String>,
        /// One byte.
        separator: u8,
    },
    /// `key=value` pairs.
    KeyValue {
        /// Between key and value; not empty.
        assign: String,
        /// Between pairs; not empty.
        separator: String,
    },
}

/// `payload` or `template`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// The frame's bytes.
    Raw,
    /// As text; invalid UTF-8 becomes U+FFFD.
    Text,
    /// Lower-case hexadecimal.
    Hex,
    /// Standard alphabet with padding (RFC 4648).
    Base64,
    /// JSON object of the fields.
    Fields,
    /// JSON object with time, sequence number, origin, frame and fields.
    Envelope,
    /// `template`
    Template(Template),
}

/// `[[device.NAME.subscribe]]`
#[derive(Clone, Debug, PartialEq)]
pub struct SubscribeRule {
    /// As written; may hold `{gateway}`, `{device}` and, for `tcp_server`, one level `{peer}`.
    pub topic: String,
    /// `topic` with gateway and device filled in and `{peer}` as `+`.
    pub filter: TopicFilter,
    /// Index of the level that is `{peer}`.
    pub peer_level: Option<usize>,
    /// Placeholders checked: payload, topic, topic:N, json:/pointer, gateway, device.
    pub write: Template,
    /// How the payload is read before it is rendered.
    pub payload: CommandPayload,
    /// `qos`
    pub qos: Qos,
    /// `retained = "accept"`
    pub accept_retained: bool,
    /// Commands that waited longer are dropped. `None`: no limit.
    pub max_age: Option<Duration>,
}

/// `payload` of a subscribe rule
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandPayload {
    /// The bytes as they came.
    Raw,
    /// Hexadecimal digits; white space between bytes is allowed.
    Hex,
    /// RFC 4648, with or without padding.
    Base64,
}
