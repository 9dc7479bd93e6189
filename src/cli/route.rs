//! `gatepost route`: what the rules of a device make of a frame or a message, without a port or a broker.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use bytes::Bytes;

use super::{escape, exit, output};
use crate::config::{Device, Loaded};
use crate::topic::TopicName;

mod report;

/// Show what a frame would publish, or what bytes a message would write
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Escapes in FRAME and PAYLOAD: \\n \\r \\t \\0 \\\\ and \\xHH for any byte; any other backslash stands for itself.
A FRAME is what the framing hands on: without its terminator, length or checksum.
Several frames are taken one after another, as if they came at the same time: on_change and min_interval apply.

Examples:
  gatepost route -c gatepost.toml --device arduino 'T=21.5 H=60'
  gatepost route -c gatepost.toml --device scanners --peer 192.168.1.7:51234 4006381333931
  gatepost route -c gatepost.toml --device meter '\\x02\\x10\\xff'
  gatepost route -c gatepost.toml --topic smarthome/lights/office ON

Exit codes: 0; 2 when nothing would be published or written; 78 when the configuration is wrong.")]
pub struct Args {
    /// The configuration [default: /etc/gatepost/gatepost.toml]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The device; with --topic every device when left out
    #[arg(long, value_name = "NAME", required_unless_present = "topic")]
    device: Option<String>,
    /// The frame's sender, for {peer} and {peer_ip}: 192.168.1.7:51234 or [fe80::1]:51234
    #[arg(long, value_name = "ADDRESS", value_parser = escape::peer, conflicts_with = "topic")]
    peer: Option<SocketAddr>,
    /// Take what follows as payloads of messages on this topic
    #[arg(long, value_parser = topic_name)]
    topic: Option<TopicName>,
    /// Frames from the device, or payloads for it
    #[arg(value_name = "FRAME", required = true, allow_negative_numbers = true)]
    input: Vec<String>,
}

/// Runs the command.
pub fn run(args: Args) -> ExitCode {
    let loaded = match super::inspect_config(args.config.as_deref()) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    let devices = match devices(&loaded, args.device.as_deref()) {
        Ok(devices) => devices,
        Err(message) => {
            output::complain(format_args!("error: {message}"));
            return ExitCode::from(exit::USAGE);
        }
    };
    let gateway = &loaded.config.gateway;
    let input: Vec<Bytes> = args.input.iter().map(|text| escape::decode(text)).collect();
    let report = match &args.topic {
        Some(topic) => report::messages(&devices, gateway, topic, &input),
        None => report::frames(&devices, gateway, args.peer, &input),
    };
    output::print(&report.text, if report.matched { exit::OK } else { exit::USAGE })
}

/// The device of that name, or all.
fn devices<'a>(loaded: &'a Loaded, name: Option<&str>) -> Result<Vec<&'a Device>, String> {
    let devices = &loaded.config.devices;
    let Some(name) = name else { return Ok(devices.values().collect()) };
    if let Some(device) = devices.get(name) {
        return Ok(vec![device]);
    }
    if loaded.disabled.iter().any(|disabled| disabled == name) {
        return Err(format!("the device {name:?} has `enabled = false`"));
    }
    let known: Vec<&str> = devices.keys().map(String::as_str).collect();
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    Err(format!("no device is named {name:?}\nhint: the devices are: {known}"))
}

fn topic_name(text: &str) -> Result<TopicName, String> {
    TopicName::new(text).map_err(|error| error.to_string())
}
