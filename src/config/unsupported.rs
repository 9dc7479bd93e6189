//! What the contract has and this version has not: checked like everything else, then refused where it stands.

use std::time::Duration;

use super::address;
use super::broker;
use super::error::Fault;
use super::gateway::{Gateway, check_gateway_template};
use super::publish;
use super::reader::{self, Table, Value};
use super::reconnect::Reconnect;
use super::tls;
use super::units::MAX_WAIT;
use crate::topic::{TopicFilter, TopicName};

/// Top-level tables.
pub(super) fn read(root: &mut Table<'_>, gateway: &Gateway) {
    if let Some(value) = root.get("bridge") {
        for (name, bridge) in value.table().iter().flat_map(Table::named) {
            if let Err(fault) = reader::name(name) {
                bridge.fail::<()>(fault);
            }
            read_bridge(&bridge, gateway);
            bridge.refuse_as("`bridge`");
        }
    }
    if let Some(value) = root.get("http") {
        read_http(&value);
        value.refuse();
    }
    let mut table = root.section("home_assistant");
    if let Some(enabled) = table.get("enabled") {
        if enabled.boolean() == Some(true) {
            enabled.refuse_as("`home_assistant`");
        }
    }
    table.get("prefix").and_then(|v| v.parsed(topic_name));
    table.finish();
}

/// `request`, `poll` and `entity` of a device.
pub(super) fn device(table: &mut Table<'_>) {
    for (key, read) in [("request", read_request as fn(Table<'_>)), ("poll", read_poll), ("entity", read_entity)] {
        let Some(value) = table.get(key) else { continue };
        for table in value.tables().unwrap_or_default() {
            read(table);
        }
        value.refuse();
    }
}

/// `udp = {…}`
pub(super) fn udp(value: &Value<'_>) {
    let Some(mut table) = value.table() else { return };
    table.require("listen").and_then(|v| v.parsed(|text| address::host_port(text, true)));
    table.get("peer").and_then(|v| v.parsed(|text| address::host_port(text, false)));
    table.finish();
    value.refuse();
}

/// `exec = {…}`
pub(super) fn exec(value: &Value<'_>) {
    let Some(mut table) = value.table() else { return };
    if let Some(command) = table.require("command") {
        let words = command.array();
        if words.as_ref().is_some_and(Vec::is_empty) {
            command.fail::<()>(Fault::new("the command is empty"));
        }
        for word in words.unwrap_or_default() {
            word.string();
        }
    }
    table.finish();
    value.refuse();
}

fn read_bridge(value: &Value<'_>, gateway: &Gateway) {
    let Some(mut table) = value.table() else { return };
    table.require("url").and_then(|v| v.parsed(broker_url));
    table.get("version").and_then(|v| v.integer::<u8>(4..=5));
    if let Some(client_id) = table.get("client_id") {
        check_gateway_template(&client_id, gateway);
    }
    table.get("username").and_then(|v| v.string());
    table.get("password").and_then(|v| v.secret());
    if let Some(tls) = table.get("tls") {
        tls::read_client(&tls);
    }
    table.get("keepalive").and_then(|v| v.optional_duration(Duration::from_secs(1)..=Duration::from_secs(65_535)));
    if let Some(reconnect) = table.get("reconnect") {
        Reconnect::read(&reconnect);
    }
    if let Some(spool) = table.get("spool").and_then(|v| v.table()) {
        read_spool(spool);
    }
    for topic in table.get("topic").and_then(|v| v.tables()).unwrap_or_default() {
        read_bridge_topic(topic);
    }
    table.finish();
}

fn read_spool(mut table: Table<'_>) {
    table.get("max_size").and_then(|v| v.size(1..=1 << 50));
    table.get("full").and_then(|v| v.choice(broker::QUEUE_FULL));
    table.get("max_age").and_then(|v| v.duration(Duration::ZERO..=MAX_WAIT));
    table.get("replay_rate").and_then(|v| v.integer::<u32>(0..=i64::from(u32::MAX)));
    table.finish();
}

fn read_bridge_topic(mut table: Table<'_>) {
    table.require("filter").and_then(|v| v.parsed(topic_filter));
    table.get("direction").and_then(|v| v.choice(&[("out", ()), ("in", ()), ("both", ())]));
    table.get("qos").and_then(|v| broker::qos(&v));
    for key in ["local_prefix", "remote_prefix"] {
        table.get(key).and_then(|v| v.parsed(prefix));
    }
    table.finish();
}

fn read_http(value: &Value<'_>) {
    let Some(mut table) = value.table() else { return };
    let listen = table.get("listen");
    let address = listen.as_ref().and_then(|v| v.parsed(|text| address::host_port(text, true)));
    let token = table.get("token");
    token.as_ref().and_then(Value::secret);
    if let (Some(listen), Some(address), None) = (&listen, address, &token) {
        if !address::is_loopback(&address) {
            listen.fail::<()>(Fault::new("other machines reach this address: `token` is required"));
        }
    }
    table.finish();
}

fn read_request(mut table: Table<'_>) {
    table.require("topic").and_then(|v| v.parsed(topic_filter));
    table.get("reply").and_then(|v| v.parsed(topic_name));
    table.get("until").and_then(|v| publish::pattern(&v));
    table.get("timeout").and_then(|v| v.duration(Duration::from_millis(1)..=MAX_WAIT));
    table.finish();
}

fn read_poll(mut table: Table<'_>) {
    table.require("write").and_then(|v| v.bytes());
    table.require("every").and_then(|v| v.duration(Duration::from_millis(1)..=MAX_WAIT));
    table.finish();
}

/// The contract leaves the keys of an entity open.
fn read_entity(mut table: Table<'_>) {
    for key in ["name", "component", "field", "value_template", "device_class", "unit", "state_class"] {
        table.get(key).and_then(|v| v.string());
    }
    table.get("command_topic").and_then(|v| v.parsed(topic_name));
}

fn broker_url(text: &str) -> Result<(), Fault> {
    let example = "write for example \"mqtts://mqtt.example.com:8883\"";
    let (scheme, rest) =
        text.split_once("://").ok_or_else(|| Fault::new("not the address of a broker").hint(example))?;
    if !["mqtt", "mqtts", "ws", "wss"].contains(&scheme) {
        return Err(
            Fault::new(format!("unknown scheme `{scheme}`, expected one of: mqtt, mqtts, ws, wss")).hint(example)
        );
    }
    if rest.contains('@') {
        return Err(Fault::new("user and password do not stand in the address").hint("use `username` and `password`"));
    }
    let host = rest.split('/').next().unwrap_or_default();
    let no_port = !host.contains(':') || host.ends_with(']');
    let with_port = if no_port { format!("{host}:1883") } else { host.to_owned() };
    address::host_port(&with_port, false).map(drop)
}

fn topic_name(text: &str) -> Result<(), Fault> {
    TopicName::new(text).map(drop).map_err(|error| Fault::new(error.to_string()))
}

fn topic_filter(text: &str) -> Result<(), Fault> {
    TopicFilter::new(text).map(drop).map_err(|error| Fault::new(error.to_string()))
}

fn prefix(text: &str) -> Result<(), Fault> {
    if text.is_empty() { Ok(()) } else { topic_name(text) }
}
