//! `gatepost status`.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::client::{ANSWER_TIME, Socket};
use super::{escape, exit, output};
use crate::control::protocol::Request;
use snapshot::{Device, Snapshot};

pub(super) mod snapshot;

/// Show what the running gateway does: devices, clients, counters
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Counters run from the gateway's start. Frames in are messages published, or dropped for a reason that is given (with
several rules for one frame, once for each); commands are frames written, dropped or queued.

Examples:
  gatepost status
  gatepost status --json | jq '.devices[] | select(.state != \"online\")'

Exit codes: 0; 69 no gateway runs.")]
pub struct Args {
    /// Print all of it as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    socket: Socket,
}

/// Runs the command.
pub fn run(args: Args) -> ExitCode {
    let status = match args.socket.ask(&Request::Status, ANSWER_TIME) {
        Ok(status) => status,
        Err(failure) => return failure.report(),
    };
    let text = if args.json { json(&status) } else { table(&Snapshot::new(&status), SystemTime::now()) };
    output::print(&text, exit::OK)
}

fn json(status: &Value) -> String {
    format!("{status:#}\n")
}

/// The state for people, as of `now`.
fn table(status: &Snapshot, now: SystemTime) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "gatepost {}, pid {}, up {}, {} of memory",
        status.version,
        status.pid,
        span(Duration::from_secs(status.broker("/uptime"))),
        bytes(status.broker("/memory/current"))
    );
    broker(&mut text, status);
    if status.devices.is_empty() {
        text.push_str("\nno devices\n");
    }
    for device in &status.devices {
        text.push('\n');
        describe(&mut text, device, now);
    }
    text
}

fn broker(text: &mut String, status: &Snapshot) {
    let of = |path| status.broker(path);
    let _ = writeln!(
        text,
        "clients   {} connected, {}; {} queued, {} in flight, {} retained",
        of("/clients/connected"),
        count(of("/clients/disconnected"), "more session"),
        count(of("/queued/messages"), "message"),
        of("/inflight"),
        of("/retained/messages")
    );
    let _ = writeln!(
        text,
        "messages  {} received ({}), {} sent ({}), {} published in all{}",
        of("/received/messages"),
        bytes(of("/received/bytes")),
        of("/sent/messages"),
        bytes(of("/sent/bytes")),
        of("/published"),
        dropped("; dropped: ", &status.broker_dropped())
    );
    let disk = match (status.disk_trouble(), status.disk()) {
        (Some(trouble), _) => trouble,
        (None, Some("off")) => "off: nothing is kept over a restart".to_owned(),
        (None, Some(state)) => {
            format!("{state}; {} kept, {} written", bytes(of("/store/size")), bytes(of("/store/written")))
        }
        (None, None) => return,
    };
    let _ = writeln!(text, "disk      {disk}");
}

fn describe(text: &mut String, device: &Device, now: SystemTime) {
    let since = device.since().map(|since| format!(" for {}", span(now.duration_since(since).unwrap_or_default())));
    let peers = device.peers.map(|peers| format!(", {}", count(peers, "peer")));
    let _ = writeln!(
        text,
        "{}  {}{}{}  ({} {})",
        escape::encode(device.name.as_bytes()),
        device.state,
        since.unwrap_or_default(),
        peers.unwrap_or_default(),
        device.kind,
        device.address
    );
    let _ = writeln!(
        text,
        "  in      {} ({}), {} published",
        count(device.frames_in, "frame"),
        bytes(device.bytes_in),
        device.published
    );
    let _ = writeln!(
        text,
        "  out     {} written ({}), {}, {} queued",
        count(device.written, "frame"),
        bytes(device.bytes_out),
        count(device.commands, "command"),
        device.queued
    );
    if !device.dropped.is_empty() {
        let _ = writeln!(text, "{}", dropped("  dropped ", &device.dropped));
    }
    if device.reconnects + device.panics > 0 {
        let panics = (device.panics > 0).then(|| format!(", {}", count(device.panics, "panic")));
        let _ = writeln!(text, "  link    {}{}", count(device.reconnects, "reconnect"), panics.unwrap_or_default());
    }
    if let Some(error) = device.last_error.as_ref().filter(|error| **error != device.state) {
        // What is over says nothing of a device that works now.
        let label = if device.state == "online" { "earlier" } else { "error" };
        let _ = writeln!(text, "  {label:<7} {}", escape::encode(error.as_bytes()));
    }
}

/// `no_rule 3, parse 1`, after `label`; nothing without drops.
fn dropped(label: &str, drops: &[(String, u64)]) -> String {
    let list: Vec<String> = drops.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
    if list.is_empty() { String::new() } else { format!("{label}{}", list.join(", ")) }
}

/// `1 frame`, `2 frames`
fn count(number: u64, name: &str) -> String {
    format!("{number} {name}{}", if number == 1 { "" } else { "s" })
}

/// `3d 4h`, `5m 12s`: the two largest units.
pub(super) fn span(span: Duration) -> String {
    let whole = humantime::format_duration(Duration::from_secs(span.as_secs())).to_string();
    whole.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// `0 B`, `1.2 kB`, `340 MB`: powers of 1000.
pub(super) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if value < 9.95 { format!("{value:.1} {}", UNITS[unit]) } else { format!("{value:.0} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_table_shows_what_there_is() {
        let status = json!({
            "version": "1.2.3", "pid": 7,
            "broker": {
                "uptime": 90_061, "clients": {"connected": 2, "disconnected": 1}, "dropped": {"queue_full": 4},
                "received": {"messages": 10, "bytes": 1500}, "memory": {"current": 20_000_000},
                "store": {"state": "stalled", "error": "the disk has not answered for 12 s"},
            },
            "devices": [
                {"name": "board", "kind": "serial", "address": "/dev/ttyUSB0", "state": "online",
                 "since": "1970-01-01T00:00:00.000Z", "bytes_in": 99, "frames_in": 9, "published": 7,
                 "dropped": {"no_rule": 2}, "written": 1, "commands": 3, "queued": 2, "reconnects": 1,
                 "last_error": "unplugged\u{1b}[2J"},
                {"name": "light", "kind": "tcp", "address": "10.0.0.1:1", "state": "released", "since": null, "last_error": "released"},
            ],
        });
        let text = table(&Snapshot::new(&status), SystemTime::UNIX_EPOCH + Duration::from_secs(61));
        let expected = "\
gatepost 1.2.3, pid 7, up 1day 1h, 20 MB of memory
clients   2 connected, 1 more session; 0 messages queued, 0 in flight, 0 retained
messages  10 received (1.5 kB), 0 sent (0 B), 0 published in all; dropped: queue_full 4
disk      stalled: the disk has not answered for 12 s

board  online for 1m 1s  (serial /dev/ttyUSB0)
  in      9 frames (99 B), 7 published
  out     1 frame written (0 B), 3 commands, 2 queued
  dropped no_rule 2
  link    1 reconnect
  earlier unplugged\\x1b[2J

light  released  (tcp 10.0.0.1:1)
  in      0 frames (0 B), 0 published
  out     0 frames written (0 B), 0 commands, 0 queued
";
        assert_eq!(text, expected);
        assert!(table(&Snapshot::new(&json!({})), SystemTime::now()).ends_with("no devices\n"));
    }

    #[test]
    fn sizes_have_two_digits_at_least() {
        for (size, text) in
            [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (9_960, "10 kB"), (999_600, "1.0 MB"), (u64::MAX, "18 EB")]
        {
            assert_eq!(bytes(size), text);
        }
        assert_eq!(span(Duration::from_secs(3 * 3600 + 62)), "3h 1m");
    }
}
