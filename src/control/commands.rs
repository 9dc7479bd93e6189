//! What the requests do.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::timeout;

use super::protocol::{Answer, Code, Data, Refusal, Request, time};
use crate::config::{SerialPort, Transport, nearest};
use crate::device::Device;
use crate::device::outcome::Outcome;
use crate::gateway::{Gateway, ReloadError};
use crate::stats::DropReason;

/// How long a device has to close; it takes about a second if it is stuck.
const RELEASE_TIME: Duration = Duration::from_secs(10);

/// Does what `request` asks, except for `monitor`. Dropped before its end it stops waiting; what was begun goes on.
pub(super) async fn answer(gateway: &Arc<Gateway>, request: Request) -> Answer {
    let done = match request {
        Request::Status => Ok(status(gateway)),
        Request::Monitor { .. } => Err(refusal(Code::BadRequest, "`monitor` is not answered here")),
        Request::Send { device, peer, frame } => send(gateway, &device, peer, &frame).await,
        Request::Release { device, for_ms } => release(gateway, &device, for_ms).await,
        Request::Acquire { device: name } => {
            device(gateway, &name).map(|device| json!({ "acquired": device.acquire() }))
        }
        Request::Reload => reload(gateway).await,
    };
    done.map_or_else(Answer::Error, Answer::Ok)
}

/// The device of that name.
pub(super) fn device(gateway: &Gateway, name: &str) -> Result<Arc<Device>, Refusal> {
    gateway.device(name).ok_or_else(|| {
        let devices = gateway.devices();
        let known: Vec<&str> = devices.iter().map(|device| device.name()).collect();
        let hint = match (nearest(name, known.iter().copied()), known.is_empty()) {
            (Some(near), _) => format!("did you mean {near}?"),
            (None, true) => "this gateway has no devices".to_owned(),
            (None, false) => format!("the devices are: {}", known.join(", ")),
        };
        refusal(Code::UnknownDevice, format!("no device is named {name:?}\nhint: {hint}"))
    })
}

fn refusal(code: Code, message: impl Into<String>) -> Refusal {
    Refusal { code, message: message.into() }
}

fn status(gateway: &Gateway) -> Value {
    let devices: Vec<Value> = gateway.devices().iter().map(|device| device_status(device)).collect();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
        "devices": devices,
        "broker": gateway.broker().figures(),
    })
}

fn device_status(device: &Device) -> Value {
    let (kind, address) = place(&device.config().transport);
    let mut status = json!({
        "name": device.name(),
        "kind": kind,
        "address": address,
        "state": device.state(),
        "since": device.since().map(time),
    });
    if let Some(peers) = device.peers() {
        status["peers"] = peers.into();
    }
    if let (Value::Object(status), Value::Object(stats)) = (&mut status, device.stats_json()) {
        status.extend(stats);
    }
    status
}

fn place(transport: &Transport) -> (&'static str, String) {
    match transport {
        Transport::Serial(serial) => match &serial.port {
            SerialPort::Path(path) => ("serial", path.display().to_string()),
            SerialPort::Usb { vendor, product, serial } => {
                let serial = serial.as_ref().map(|serial| format!(":{serial}")).unwrap_or_default();
                ("serial", format!("usb:{vendor:04x}:{product:04x}{serial}"))
            }
        },
        Transport::Tcp(tcp) => ("tcp", tcp.connect.clone()),
        Transport::TcpServer(server) => ("tcp_server", server.listen.clone()),
    }
}

async fn send(gateway: &Gateway, name: &str, peer: Option<String>, frame: &Data) -> Result<Value, Refusal> {
    let device = device(gateway, name)?;
    let Some(frame) = frame.bytes() else {
        return Err(refusal(Code::BadRequest, "`hex` has two hexadecimal digits for each byte, and nothing else"));
    };
    if peer.is_some() && !matches!(device.config().transport, Transport::TcpServer(_)) {
        return Err(refusal(Code::BadRequest, format!("{name} is no tcp_server and has no peers")));
    }
    let named_peer = peer.is_some();
    let mut outcomes = device.send(frame, peer);
    let (mut written, mut dropped) = (0u64, BTreeMap::new());
    while let Some(outcome) = outcomes.next().await {
        match outcome {
            Outcome::Written => written += 1,
            Outcome::Dropped(reason) => *dropped.entry(reason).or_insert(0u64) += 1,
        }
    }
    match dropped.keys().next() {
        Some(&reason) if written == 0 => Err(refusal(Code::NotWritten, why_not(name, reason, named_peer))),
        None if written == 0 => {
            Err(refusal(Code::NotWritten, format!("the frame was not written: {name} was stopped meanwhile")))
        }
        _ => {
            let dropped: BTreeMap<&str, u64> = dropped.iter().map(|(reason, n)| (reason.as_str(), *n)).collect();
            Ok(json!({ "written": written, "dropped": dropped }))
        }
    }
}

fn why_not(device: &str, reason: DropReason, named_peer: bool) -> String {
    let why = match reason {
        DropReason::Offline => format!("{device} is offline\nhint: `gatepost status` shows why"),
        DropReason::NoPeer if !named_peer => format!("nobody is connected to {device}"),
        DropReason::NoPeer => format!("nobody is connected to {device} under that name"),
        DropReason::BadFrame => "the device's framing cannot carry it".to_owned(),
        DropReason::TooLong => "it is longer than the `max_length` of the device's framing".to_owned(),
        DropReason::QueueFull => format!("newer commands filled the queue of {device}"),
        DropReason::WriteFailed => format!("the link to {device} failed"),
        DropReason::Stopped => format!("{device} was stopped meanwhile"),
        other => other.as_str().to_owned(),
    };
    format!("the frame was not written: {why}")
}

async fn release(gateway: &Gateway, name: &str, for_ms: Option<u64>) -> Result<Value, Refusal> {
    let device = device(gateway, name)?;
    match timeout(RELEASE_TIME, device.release(for_ms.map(Duration::from_millis))).await {
        Ok(true) => Ok(json!({})),
        Ok(false) => Err(refusal(Code::Failed, format!("{name} was taken back meanwhile"))),
        Err(_) => {
            Err(refusal(Code::Failed, format!("{name} is released, but has not closed yet; it hangs in its driver")))
        }
    }
}

async fn reload(gateway: &Arc<Gateway>) -> Result<Value, Refusal> {
    match gateway.reload().await {
        Ok(summary) => Ok(json!({
            "summary": summary.to_string(),
            "changes": summary.changes,
            "needs_restart": summary.needs_restart,
            "warnings": summary.warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
        })),
        Err(error) => {
            let code = match error {
                ReloadError::Busy { .. } | ReloadError::Stopping => Code::Unavailable,
                _ if error.is_config() => Code::Config,
                _ => Code::Failed,
            };
            Err(refusal(code, error.to_string()))
        }
    }
}
