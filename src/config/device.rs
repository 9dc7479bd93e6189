//! `[device.NAME]`

use std::time::Duration;

use bytes::Bytes;

use super::error::{Cause, Report};
use super::framing::Framing;
use super::gateway::Gateway;
use super::loops;
use super::placeholders::{Peer, Scope};
use super::publish::{self, PublishRule};
use super::reader::Table;
use super::reader::{self, Value};
use super::reconnect::Reconnect;
use super::serial::Serial;
use super::subscribe::{self, SubscribeRule};
use super::tcp::{Tcp, TcpServer};
use super::units::MAX_WAIT;
use super::unsupported;

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

/// `queue = {…}`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandQueue {
    /// At least 1; the oldest goes when it is full.
    pub max: usize,
    /// Whether commands are kept while the device is offline.
    pub keep_while_offline: bool,
}

/// `echo`, by word: whether echoes are dropped.
pub(super) const ECHO: &[(&str, bool)] = &[("keep", false), ("drop", true)];
/// `while_offline`, by word: whether commands are kept.
pub(super) const WHILE_OFFLINE: &[(&str, bool)] = &[("drop", false), ("keep", true)];

const TRANSPORTS: [&str; 5] = ["serial", "tcp", "tcp_server", "udp", "exec"];

/// A device that was read, and what later checks need.
pub(super) struct Checked<'a> {
    pub(super) device: Device,
    pub(super) enabled: bool,
    /// The serial port or the address to listen on, which no other may use.
    pub(super) endpoint: Option<Value<'a>>,
}

/// Reads every `[device.NAME]` that has a usable name and transport.
pub(super) fn read_all<'a>(value: Option<Value<'a>>, gateway: &Gateway) -> Vec<Checked<'a>> {
    let Some(table) = value.as_ref().and_then(Value::table) else { return Vec::new() };
    let mut devices = Vec::new();
    for (name, value) in table.named() {
        if let Err(fault) = reader::name(name) {
            let report = Report::new(value.key, value.path.clone(), fault.message);
            value.context.push(report.hint(fault.hint.unwrap_or_default()));
        }
        devices.extend(read(name, &value, gateway));
    }
    devices
}

fn read<'a>(name: &str, value: &Value<'a>, gateway: &Gateway) -> Option<Checked<'a>> {
    let mut table = value.table()?;
    let enabled = table.get("enabled").and_then(|v| v.boolean()).unwrap_or(true);
    let (transport, endpoint) = read_transport(&mut table, value).unzip();
    let peer = match &transport {
        Some(Transport::Tcp(_)) => Peer::One,
        Some(Transport::TcpServer(_)) => Peer::Many,
        Some(Transport::Serial(_)) => Peer::None,
        // It is wrong or missing: what it would allow is not reported.
        None => Peer::Many,
    };
    let scope = Scope { gateway: &gateway.name, root: &gateway.topic, device: name, peer };
    let publish = table.get("publish").map(|v| publish::read_all(&v, scope)).unwrap_or_default();
    let subscribe = table.get("subscribe").map(|v| subscribe::read_all(&v, scope)).unwrap_or_default();
    let allow_loop = table.get("allow_loop").and_then(|v| v.boolean()).unwrap_or(false);
    if !allow_loop {
        loops::report(scope, &publish, &subscribe);
    }
    let framing = table.get("framing").and_then(|v| Framing::read(&v)).unwrap_or_default();
    let reconnect = table.get("reconnect").map(|v| Reconnect::read(&v)).unwrap_or_default();
    let queue = table.get("queue").map(|v| read_queue(&v)).unwrap_or_default();
    let duration = Duration::from_millis(1)..=MAX_WAIT;
    let idle_timeout = table.get("idle_timeout").and_then(|v| v.optional_duration(duration)).flatten();
    let drop_echo = table.get("echo").and_then(|v| v.choice(ECHO)).unwrap_or(false);
    let write_gap = table.get("write_gap").and_then(|v| v.duration(Duration::ZERO..=MAX_WAIT)).unwrap_or_default();
    let on_connect = table.get("on_connect").and_then(|v| v.array()).unwrap_or_default();
    let on_connect = on_connect.iter().filter_map(Value::bytes).collect();
    unsupported::device(&mut table);
    table.finish();
    let device = Device {
        name: name.to_owned(),
        transport: transport?,
        framing,
        reconnect,
        idle_timeout,
        queue,
        allow_loop,
        drop_echo,
        write_gap,
        on_connect,
        publish: publish.into_iter().map(|(rule, _)| rule).collect(),
        subscribe: subscribe.into_iter().map(|(rule, _)| rule).collect(),
    };
    Some(Checked { device, enabled, endpoint: endpoint.flatten() })
}

/// Reads the one transport of a device, and the value that names what only one device can have.
fn read_transport<'a>(table: &mut Table<'a>, device: &Value<'a>) -> Option<(Transport, Option<Value<'a>>)> {
    let mut given: Vec<(&str, Value<'a>)> =
        TRANSPORTS.into_iter().filter_map(|key| Some((key, table.get(key)?))).collect();
    given.sort_by_key(|(_, value)| value.key);
    let read: Vec<_> = given.iter().map(|(key, value)| read_one(key, value)).collect();
    let Some((_, first)) = given.first() else {
        let message = format!("device `{}` has no transport", device.path.rsplit('.').next().unwrap_or_default());
        device.context.push(
            device.error(message).caused_by(Cause::Missing).hint(format!("add one of: {}", TRANSPORTS.join(", "))),
        );
        return None;
    };
    for (key, value) in &given[1..] {
        let message = format!("a device has exactly one transport: `{key}` is the second");
        let report = Report::new(value.key, value.path.clone(), message);
        value.context.push(report.note("the first is at", Some(first.key)));
    }
    read.into_iter().next().flatten()
}

fn read_one<'a>(key: &str, value: &Value<'a>) -> Option<(Transport, Option<Value<'a>>)> {
    match key {
        "serial" => Serial::read(value).map(|(serial, port)| (Transport::Serial(serial), Some(port))),
        "tcp" => Tcp::read(value).map(|tcp| (Transport::Tcp(tcp), None)),
        "tcp_server" => TcpServer::read(value).map(|(server, listen)| (Transport::TcpServer(server), Some(listen))),
        "udp" => {
            unsupported::udp(value);
            None
        }
        _ => {
            unsupported::exec(value);
            None
        }
    }
}

impl Default for CommandQueue {
    fn default() -> CommandQueue {
        CommandQueue { max: 1000, keep_while_offline: false }
    }
}

fn read_queue(value: &Value<'_>) -> CommandQueue {
    let default = CommandQueue::default();
    let Some(mut table) = value.table() else { return default };
    let max = table.get("max").and_then(|v| v.integer(1..=1_000_000)).unwrap_or(default.max);
    let keep_while_offline = table.get("while_offline").and_then(|v| v.choice(WHILE_OFFLINE)).unwrap_or(false);
    table.finish();
    CommandQueue { max, keep_while_offline }
}
