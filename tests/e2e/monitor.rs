//! `gatepost monitor`: the end of every command is seen.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{DEADLINE, Gateway, Mqtt, Port, Process, wait_until};

fn config(port: &Port, while_offline: &str) -> String {
    format!(
        "[device.board]\nserial = {{ port = \"{}\", baud = 115200 }}\nreconnect = {{ min = \"20ms\", max = \"50ms\" }}\n\
         queue = {{ max = 2, while_offline = \"{while_offline}\" }}\n\
         [[device.board.subscribe]]\ntopic = \"board/set\"\n\
         [[device.board.subscribe]]\ntopic = \"board/soon\"\nmax_age = \"1ms\"\n",
        port.path()
    )
}

/// The line after the one that says that `frame` left.
fn end_of(monitor: &Process, frame: &str) -> String {
    let out = format!(" out       {frame}");
    monitor.find(&out);
    let mut next = None;
    wait_until(&out, || {
        let lines = monitor.lines();
        next = lines.iter().position(|line| line.ends_with(&out)).and_then(|at| lines.get(at + 1).cloned());
        next.is_some()
    });
    next.unwrap().trim().to_owned()
}

#[test]
fn every_command_is_seen_to_its_end() {
    let dir = TempDir::new().unwrap();
    let mut port = Port::absent(dir.path(), "ttyUSB0");
    let mut gateway = Gateway::start_in(dir, &config(&port, "keep"));
    let mut monitor = Process::spawn(gateway.command("monitor", &["board"]));
    let mqtt = Mqtt::connect(gateway.port());
    wait_until("the first line", || {
        mqtt.publish("board/set", "0", 1);
        monitor.lines().iter().any(|line| line.contains("board/set 0"))
    });
    for frame in ["A", "B", "C"] {
        mqtt.publish("board/set", frame, 1);
    }
    monitor.expect("command   board/set C");
    monitor.expect("queued    C");
    monitor.expect("out       A");
    monitor.expect("dropped   queue_full");
    mqtt.publish("board/soon", "D", 1);
    assert_eq!(end_of(&monitor, "B"), "dropped   queue_full");
    port.plug();
    assert_eq!(port.read_until(b"\n"), b"C\n");
    assert_eq!(end_of(&monitor, "D"), "dropped   expired");
    monitor.find(" out       C");
    port.unplug();
    wait_until("offline", || gateway.device_status("board")["state"] == "offline");
    mqtt.publish("board/set", "E", 1);
    monitor.find("queued    E");
    gateway.write(&config(&port, "drop"));
    gateway.reload();
    assert_eq!(end_of(&monitor, "E"), "dropped   offline");
    mqtt.publish("board/set", "F", 1);
    assert_eq!(end_of(&monitor, "F"), "dropped   offline");
    gateway.terminate();
    monitor.expect("the gateway has stopped");
    let lines = monitor.lines();
    // The first ones may have come before anybody watched.
    for frame in ["A", "B", "C", "D", "E", "F"] {
        let count = |word: &str| lines.iter().filter(|line| line.ends_with(&format!(" {word:<9} {frame}"))).count();
        assert_eq!((count("queued"), count("out")), (1, 1), "{frame} has one end: {lines:#?}");
    }
}

#[test]
fn who_is_too_slow_for_the_ends_of_commands_is_told_how_many_were_missed() {
    const COMMANDS: u64 = 5000;
    let gateway = Gateway::start("[device.away]\ntcp = { connect = \"127.0.0.1:1\" }\nsubscribe = \"away/set\"\n");
    let mut stream = UnixStream::connect(gateway.control()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(format!("{}\n", json!({"command": "monitor", "device": "away"})).as_bytes()).unwrap();
    let mut lines = BufReader::new(stream).lines().map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
    assert_eq!(lines.next().unwrap(), json!({"ok": {}}));
    let mqtt = Mqtt::connect(gateway.port());
    let payload = "x".repeat(500);
    for _ in 1..COMMANDS {
        mqtt.publish("away/set", &*payload, 0);
    }
    mqtt.publish("away/set", &*payload, 1);
    wait_until("all of them", || gateway.device_status("away")["commands"] == COMMANDS);
    assert_eq!(gateway.device_status("away")["dropped"], json!({"offline": COMMANDS}));
    let (mut commands, mut shown, mut missed) = (0, 0, 0);
    while shown + missed < COMMANDS || commands < COMMANDS {
        let line = lines.next().unwrap();
        match line["event"].as_str() {
            Some("command") => commands += 1,
            Some("out") => {
                assert_eq!(line["dropped"], "offline");
                shown += 1;
            }
            Some("missed") => {
                missed += line["frames_out"].as_u64().unwrap();
                commands += line["others"].as_u64().unwrap();
            }
            _ => {}
        }
    }
    assert!(missed > 0, "the watcher was fast enough");
    assert_eq!((shown + missed, commands), (COMMANDS, COMMANDS));
}
