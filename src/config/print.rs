//! A configuration as TOML.

use std::fmt::Display;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;

use super::broker::{Broker, QUEUE_FULL};
use super::device::{Device, ECHO, Transport, WHILE_OFFLINE};
use super::framing::{CHECKSUMS, ENDIANS, Framing, FramingKind};
use super::gateway::LOG_FORMATS;
use super::parse::Parse;
use super::publish::{PAYLOADS, Payload, PublishRule};
use super::reader::word_for;
use super::secret::{Secret, Source};
use super::serial::{CONTROL_LINES, FLOW_CONTROLS, PARITIES, Serial, SerialPort};
use super::subscribe::{COMMAND_PAYLOADS, RETAINED, SubscribeRule};
use super::tcp::{Tcp, TcpServer};
use super::tls::{IDENTITIES, PrivateKey, ServerTls};
use super::{Config, units};

/// The whole of `config`.
pub(super) fn config(config: &Config) -> String {
    let mut out = Printer::default();
    out.header("[gateway]");
    out.key("name", quote(&config.gateway.name));
    out.key("state_dir", path(&config.gateway.state_dir));
    match &config.gateway.control {
        Some(control) => out.key("control", path(control)),
        None => out.comment("no control socket: neither $RUNTIME_DIRECTORY nor $XDG_RUNTIME_DIR is set"),
    }
    out.key("topic", quote(&config.gateway.topic.as_str().replace('{', "{{")));
    out.header("[log]");
    out.key("level", quote(&config.log.level));
    out.key("format", word(&config.log.format, LOG_FORMATS));
    broker(&mut out, &config.broker);
    for device in config.devices.values() {
        print_device(&mut out, device);
    }
    out.text
}

#[derive(Default)]
struct Printer {
    text: String,
}

impl Printer {
    fn header(&mut self, header: &str) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        self.text.push_str(header);
        self.text.push('\n');
    }

    fn key(&mut self, key: &str, value: impl Display) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "{key} = {value}");
    }

    fn comment(&mut self, text: &str) {
        let _ = writeln!(self.text, "# {text}");
    }
}

fn broker(out: &mut Printer, broker: &Broker) {
    out.header("[broker]");
    out.key("max_connections", broker.max_connections);
    out.key("max_connections_per_address", broker.max_connections_per_address);
    out.key("max_packet_size", size(broker.max_packet_size));
    out.key("max_inflight", broker.max_inflight);
    out.key("max_keepalive", optional(broker.max_keepalive));
    out.key("max_qos", broker.max_qos as u8);
    out.key("retained", broker.retained);
    out.key("max_payload_size", size(broker.max_payload_size));
    out.key("allow_empty_client_id", broker.allow_empty_client_id);
    out.key("max_queued", broker.max_queued);
    out.key("max_queued_bytes", size(broker.max_queued_bytes));
    out.key("queue_full", word(&broker.queue_full, QUEUE_FULL));
    out.key("session_expiry_limit", duration(broker.session_expiry_limit));
    out.key("max_retained", broker.max_retained);
    out.key("persistence", broker.database.is_some());
    out.key("sys_interval", optional(broker.sys_interval));
    for (key, file) in [("password_file", &broker.password_file), ("acl_file", &broker.acl_file)] {
        if let Some(file) = file {
            out.key(key, path(file));
        }
    }
    if broker.listeners.is_empty() {
        out.key("listener", "[]");
    }
    for listener in &broker.listeners {
        out.header("[[broker.listener]]");
        if listener.optional {
            out.comment("skipped on a machine without IPv6");
        }
        out.key("address", quote(&listener.address));
        if let Some(tls) = &listener.tls {
            out.key("tls", server_tls(tls));
        }
        out.key("websocket", listener.websocket);
        out.key("allow_anonymous", listener.allow_anonymous);
        out.key("max_connections", listener.max_connections);
    }
}

fn server_tls(tls: &ServerTls) -> String {
    let key = match &tls.key {
        PrivateKey::File(file) => path(file),
        PrivateKey::Secret(key) => secret(key),
    };
    let mut keys = vec![("cert", path(&tls.cert)), ("key", key)];
    keys.extend(tls.client_ca.as_deref().map(|file| ("client_ca", path(file))));
    keys.extend(tls.identity.as_ref().map(|identity| ("identity", word(identity, IDENTITIES))));
    inline(&keys)
}

fn print_device(out: &mut Printer, device: &Device) {
    out.header(&format!("[device.{}]", device.name));
    match &device.transport {
        Transport::Serial(serial) => out.key("serial", print_serial(serial)),
        Transport::Tcp(tcp) => out.key("tcp", print_tcp(tcp)),
        Transport::TcpServer(server) => out.key("tcp_server", print_tcp_server(server)),
    }
    out.key("framing", framing(&device.framing));
    let reconnect = device.reconnect;
    out.key("reconnect", format!("{{ min = {}, max = {} }}", duration(reconnect.min), duration(reconnect.max)));
    out.key("idle_timeout", optional(device.idle_timeout));
    let while_offline = word(&device.queue.keep_while_offline, WHILE_OFFLINE);
    out.key("queue", format!("{{ max = {}, while_offline = {while_offline} }}", device.queue.max));
    out.key("allow_loop", device.allow_loop);
    out.key("echo", word(&device.drop_echo, ECHO));
    out.key("write_gap", duration(device.write_gap));
    out.key("on_connect", list(device.on_connect.iter().map(bytes)));
    for rule in &device.publish {
        out.header(&format!("[[device.{}.publish]]", device.name));
        publish_rule(out, rule);
    }
    for rule in &device.subscribe {
        out.header(&format!("[[device.{}.subscribe]]", device.name));
        subscribe_rule(out, rule);
    }
}

fn print_serial(serial: &Serial) -> String {
    let port = match &serial.port {
        SerialPort::Path(port) => path(port),
        SerialPort::Usb { vendor, product, serial } => {
            let serial = serial.as_ref().map_or(String::new(), |serial| format!(":{serial}"));
            quote(&format!("usb:{vendor:04x}:{product:04x}{serial}"))
        }
    };
    inline(&[
        ("port", port),
        ("baud", serial.baud.to_string()),
        ("data_bits", serial.data_bits.to_string()),
        ("parity", word(&serial.parity, PARITIES)),
        ("stop_bits", serial.stop_bits.to_string()),
        ("flow_control", word(&serial.flow_control, FLOW_CONTROLS)),
        ("exclusive", serial.exclusive.to_string()),
        ("dtr", word(&serial.dtr, CONTROL_LINES)),
        ("rts", word(&serial.rts, CONTROL_LINES)),
        ("settle", duration(serial.settle)),
        ("hangup", serial.hangup.to_string()),
    ])
}

fn print_tcp(tcp: &Tcp) -> String {
    inline(&[
        ("connect", quote(&tcp.connect)),
        ("connect_timeout", duration(tcp.connect_timeout)),
        ("keepalive", optional(tcp.keepalive)),
    ])
}

fn print_tcp_server(server: &TcpServer) -> String {
    let allow = server.allow.iter().map(|network| quote(&format!("{}/{}", network.address, network.prefix)));
    inline(&[
        ("listen", quote(&server.listen)),
        ("max_connections", server.max_connections.to_string()),
        ("allow", list(allow)),
        ("idle_timeout", optional(server.idle_timeout)),
        ("keepalive", optional(server.keepalive)),
    ])
}

fn framing(framing: &Framing) -> String {
    let (name, mut keys) = match &framing.kind {
        FramingKind::Lines { terminator, keep_empty } => {
            ("lines", vec![("terminator", bytes(terminator)), ("keep_empty", keep_empty.to_string())])
        }
        FramingKind::Delimited { delimiter, keep_empty } => {
            ("delimited", vec![("delimiter", bytes(delimiter)), ("keep_empty", keep_empty.to_string())])
        }
        FramingKind::Fixed { length } => ("fixed", vec![("length", length.to_string())]),
        FramingKind::LengthPrefixed { width, endian, adjust } => (
            "length_prefixed",
            vec![("width", width.to_string()), ("endian", word(endian, ENDIANS)), ("adjust", adjust.to_string())],
        ),
        FramingKind::StartEnd { start, end } => ("start_end", vec![("start", bytes(start)), ("end", bytes(end))]),
        FramingKind::IdleGap { gap } => ("idle_gap", vec![("gap", duration(*gap))]),
        FramingKind::Slip => ("slip", Vec::new()),
        FramingKind::Cobs => ("cobs", Vec::new()),
        FramingKind::Chunks => ("chunks", Vec::new()),
    };
    keys.insert(0, ("type", quote(name)));
    if !matches!(framing.kind, FramingKind::Fixed { .. }) {
        keys.push(("max_length", size(framing.max_length)));
    }
    if let Some(checksum) = &framing.checksum {
        keys.push(("checksum", word(checksum, CHECKSUMS)));
    }
    inline(&keys)
}

fn publish_rule(out: &mut Printer, rule: &PublishRule) {
    if let Some(pattern) = &rule.pattern {
        out.key("match", quote(pattern.as_str()));
    }
    let parse = match &rule.parse {
        Parse::None => quote("none"),
        Parse::Json => quote("json"),
        Parse::Csv { names, separator } => inline(&[
            ("csv", list(names.iter().map(|name| quote(name)))),
            ("separator", quote(&char::from(*separator).to_string())),
        ]),
        Parse::KeyValue { assign, separator } => {
            inline(&[("key_value", quote(assign)), ("separator", quote(separator))])
        }
    };
    out.key("parse", parse);
    out.key("topic", quote(rule.topic.source()));
    match &rule.payload {
        Payload::Template(template) => out.key("template", quote(template.source())),
        payload => out.key("payload", word(payload, PAYLOADS)),
    }
    out.key("each_field", rule.each_field);
    out.key("qos", rule.qos as u8);
    out.key("retain", rule.retain);
    out.key("on_change", rule.on_change);
    out.key("min_interval", duration(rule.min_interval));
    out.key("continue", rule.continues);
}

fn subscribe_rule(out: &mut Printer, rule: &SubscribeRule) {
    out.key("topic", quote(&rule.topic));
    out.key("write", quote(rule.write.source()));
    out.key("payload", word(&rule.payload, COMMAND_PAYLOADS));
    out.key("qos", rule.qos as u8);
    out.key("retained", word(&rule.accept_retained, RETAINED));
    out.key("max_age", optional(rule.max_age));
}

/// From where it comes; itself it is masked.
fn secret(secret: &Secret) -> String {
    match secret.source() {
        Source::Inline => quote(&secret.to_string()),
        Source::File(file) => inline(&[("file", path(file))]),
        Source::Credential(name) | Source::Withheld(name) => inline(&[("credential", quote(name))]),
        Source::Variable(name) => inline(&[("env", quote(name))]),
    }
}

fn inline(keys: &[(&str, String)]) -> String {
    let keys: Vec<String> = keys.iter().map(|(key, value)| format!("{key} = {value}")).collect();
    format!("{{ {} }}", keys.join(", "))
}

fn list(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(", "))
}

fn word<T: PartialEq>(value: &T, choices: &[(&'static str, T)]) -> String {
    quote(word_for(value, choices))
}

fn duration(duration: Duration) -> String {
    quote(&units::show_duration(duration))
}

fn optional(value: Option<Duration>) -> String {
    duration(value.unwrap_or_default())
}

fn size(bytes: usize) -> String {
    quote(&units::show_size(bytes as u64))
}

fn path(path: &Path) -> String {
    quote(&path.to_string_lossy())
}

/// A string if the bytes are one, else hexadecimal.
fn bytes(bytes: &Bytes) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => quote(text),
        Err(_) => format!("{{ hex = {} }}", quote(&hex::encode(bytes))),
    }
}

/// A TOML string: literal where that spares escapes, as in regular expressions.
fn quote(text: &str) -> String {
    let literal = text.contains(['\\', '"']) && !text.contains('\'') && !text.chars().any(char::is_control);
    if literal {
        return format!("'{text}'");
    }
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
