//! Serial ports: ptys, socat's cables, pyserial on the far end.

use std::time::Duration;

use tempfile::TempDir;

use crate::common::{Gateway, Mqtt, Port, Process, all_bytes, program, python, wait_until};

const STATUS: &str = "gatepost/test/device/+/status";

fn arduino(port: &str) -> String {
    format!(
        r#"
[device.arduino]
serial = {{ port = "{port}", baud = 9600 }}
reconnect = {{ min = "20ms", max = "100ms" }}
publish = "greenhouse/arduino"
subscribe = "greenhouse/arduino/set"
"#
    )
}

fn online(watch: &Mqtt, device: &str) {
    watch.expect(&format!("gatepost/test/device/{device}/status"), "online");
}

fn offline(watch: &Mqtt, device: &str) {
    watch.expect(&format!("gatepost/test/device/{device}/status"), "offline");
}

#[test]
fn lines_become_messages_and_messages_become_lines() {
    let dir = TempDir::new().unwrap();
    let port = Port::plugged(dir.path(), "ttyUSB0");
    let gateway = Gateway::start_in(dir, &arduino(port.path()));
    let watch = Mqtt::subscriber(gateway.port(), STATUS);
    online(&watch, "arduino");
    let lines = Mqtt::subscriber(gateway.port(), "greenhouse/#");

    port.write("T=21.5 H=40\r\nsecond\n\nthird ");
    port.write("half\r\n");
    for expected in ["T=21.5 H=40", "second", "third half"] {
        let message = lines.receive();
        assert_eq!((message.topic.as_str(), message.text().as_str()), ("greenhouse/arduino", expected));
        assert_eq!((message.qos, message.retain), (1, false));
    }
    lines.publish("greenhouse/arduino/set", "LED 1", 1);
    assert_eq!(port.read(6), b"LED 1\n");
}

#[test]
fn every_byte_passes_unchanged_both_ways() {
    let dir = TempDir::new().unwrap();
    let names = ["fixed", "slip", "length_prefixed", "cobs"];
    let keys = ["length = 256", "", "width = 2", ""];
    let ports = names.map(|name| Port::plugged(dir.path(), name));
    let mut config = String::new();
    for ((name, keys), port) in names.iter().zip(keys).zip(&ports) {
        let comma = if keys.is_empty() { "" } else { ", " };
        config += &format!(
            r#"
[device.{name}]
serial = {{ port = "{}", baud = 115200 }}
framing = {{ type = "{name}"{comma}{keys} }}
publish = "up/{{device}}"
subscribe = "down/{{device}}"
"#,
            port.path()
        );
    }
    let gateway = Gateway::start_in(dir, &config);
    let mqtt = Mqtt::subscriber(gateway.port(), STATUS);
    let mut missing = names.to_vec();
    while !missing.is_empty() {
        let status = mqtt.receive();
        missing.retain(|name| status.text() != "online" || !status.topic.ends_with(&format!("/{name}/status")));
    }
    mqtt.subscribe("up/#", 2);
    let frame = all_bytes();
    for (name, port) in names.iter().zip(&ports) {
        let encoded = encode(name, &frame);
        port.write(&encoded);
        let message = mqtt.expect(&format!("up/{name}"), &frame);
        assert_eq!(message.payload, frame);
        mqtt.publish(&format!("down/{name}"), frame.clone(), 2);
        assert_eq!(port.read(encoded.len()), encoded, "{name}");
    }
}

/// The frame as it travels, in the words of the framings' own definitions.
fn encode(framing: &str, frame: &[u8]) -> Vec<u8> {
    match framing {
        "fixed" => frame.to_vec(),
        "length_prefixed" => [&u16::try_from(frame.len()).unwrap().to_be_bytes(), frame].concat(),
        "slip" => {
            let mut bytes = vec![0xc0];
            for &byte in frame {
                match byte {
                    0xc0 => bytes.extend([0xdb, 0xdc]),
                    0xdb => bytes.extend([0xdb, 0xdd]),
                    _ => bytes.push(byte),
                }
            }
            bytes.push(0xc0);
            bytes
        }
        "cobs" => {
            let mut bytes = vec![0; cobs::max_encoding_length(frame.len()) + 1];
            let length = cobs::encode(frame, &mut bytes);
            bytes.truncate(length + 1);
            bytes
        }
        _ => unreachable!(),
    }
}

#[test]
fn a_port_that_is_missing_at_start_comes_later_and_harms_nobody() {
    let dir = TempDir::new().unwrap();
    let other = Port::plugged(dir.path(), "other");
    let mut port = Port::absent(dir.path(), "ttyUSB0");
    let other_device = arduino(other.path()).replace("arduino", "other");
    let mut gateway = Gateway::start_in(dir, &(arduino(port.path()) + &other_device));
    let watch = Mqtt::subscriber(gateway.port(), STATUS);
    online(&watch, "other");
    gateway.process().find("ttyUSB0");

    let lines = Mqtt::subscriber(gateway.port(), "greenhouse/#");
    other.write("still here\n");
    lines.expect("greenhouse/other", "still here");
    port.plug();
    online(&watch, "arduino");
    port.write("hello\n");
    lines.expect("greenhouse/arduino", "hello");
}

#[test]
fn unplugging_is_told_replugging_is_found_and_others_do_not_notice() {
    let dir = TempDir::new().unwrap();
    let mut port = Port::plugged(dir.path(), "ttyUSB0");
    let other = Port::plugged(dir.path(), "other");
    let other_device = arduino(other.path()).replace("arduino", "other");
    let gateway = Gateway::start_in(dir, &(arduino(port.path()) + &other_device));
    let watch = Mqtt::subscriber(gateway.port(), "gatepost/test/device/arduino/status");
    let watch_other = Mqtt::subscriber(gateway.port(), "gatepost/test/device/other/status");
    online(&watch_other, "other");
    let lines = Mqtt::subscriber(gateway.port(), "greenhouse/#");
    for round in 0..5 {
        online(&watch, "arduino");
        port.write(format!("line {round}\npartial"));
        lines.expect("greenhouse/arduino", format!("line {round}"));
        port.unplug();
        offline(&watch, "arduino");
        let late = Mqtt::subscriber(gateway.port(), STATUS);
        let retained = late.expect("gatepost/test/device/arduino/status", "offline");
        assert!(retained.retain, "status is retained");
        other.write(format!("other {round}\n"));
        lines.expect("greenhouse/other", format!("other {round}"));
        port.plug();
    }
    online(&watch, "arduino");
    let status = watch_other.next_message(Duration::from_millis(200));
    assert_eq!(status, None, "the other device was disturbed");
    let ledger = gateway.ledger("arduino");
    assert_eq!((ledger.count("published"), ledger.count("reconnects")), (5, 5));
    assert_eq!(ledger.dropped_at_all(), ledger.dropped("partial"), "{ledger:?}");
    gateway.ledger("other").expect_nothing_dropped();
}

#[test]
fn commands_for_an_absent_device_are_dropped_or_kept_as_the_config_says() {
    let dir = TempDir::new().unwrap();
    let mut dropping = Port::absent(dir.path(), "dropping");
    let mut keeping = Port::absent(dir.path(), "keeping");
    let config = arduino(dropping.path()).replace("arduino", "dropping")
        + &arduino(keeping.path()).replace("arduino", "keeping")
        + "queue = { max = 2, while_offline = \"keep\" }\n";
    let gateway = Gateway::start_in(dir, &config);
    let mqtt = Mqtt::subscriber(gateway.port(), STATUS);
    for command in ["one", "two", "three"] {
        mqtt.publish("greenhouse/dropping/set", command, 1);
        mqtt.publish("greenhouse/keeping/set", command, 1);
    }
    dropping.plug();
    keeping.plug();
    assert_eq!(keeping.read_until(b"three\n"), b"two\nthree\n", "the oldest goes when the queue is full");
    online(&mqtt, "dropping");
    mqtt.publish("greenhouse/dropping/set", "now", 1);
    assert_eq!(dropping.read_until(b"\n"), b"now\n");
    let (dropping, keeping) = (gateway.ledger("dropping"), gateway.ledger("keeping"));
    assert_eq!((dropping.count("commands"), dropping.count("written"), dropping.dropped("offline")), (4, 1, 3));
    assert_eq!((keeping.count("commands"), keeping.count("written"), keeping.dropped("queue_full")), (3, 2, 1));
}

#[test]
fn a_command_that_is_also_retained_reaches_a_device_that_listens_now() {
    let dir = TempDir::new().unwrap();
    let port = Port::plugged(dir.path(), "ttyUSB0");
    let gateway = Gateway::start_in(dir, &arduino(port.path()));
    let mqtt = Mqtt::subscriber(gateway.port(), STATUS);
    online(&mqtt, "arduino");
    mqtt.retain("greenhouse/arduino/set", "ON");
    assert_eq!(port.read(3), b"ON\n");
}

/// socat's two named ends of one cable.
fn cable(dir: &std::path::Path) -> Process {
    let end = |name: &str| format!("PTY,link={},rawer", dir.join(name).display());
    let cable = program("socat", &["-d", "-d", &end("device"), &end("peer")]);
    cable.find("starting data transfer loop");
    cable
}

#[test]
#[ignore = "needs socat and Python"]
fn pyserial_reads_and_writes_the_far_end() {
    let dir = TempDir::new().unwrap();
    let _cable = cable(dir.path());
    let device = dir.path().join("device");
    let peer = dir.path().join("peer");
    let gateway = Gateway::start_in(dir, &arduino(device.to_str().unwrap()));
    let mqtt = Mqtt::subscriber(gateway.port(), STATUS);
    online(&mqtt, "arduino");
    mqtt.subscribe("greenhouse/#", 1);

    let mut board = python("board.py", &[peer.to_str().unwrap()]);
    board.expect("open");
    board.send("T=21.5 H=40");
    mqtt.expect("greenhouse/arduino", "T=21.5 H=40");
    mqtt.publish("greenhouse/arduino/set", "LED 1", 1);
    board.expect("got LED 1");
    mqtt.expect("greenhouse/arduino", "led is on");
    board.succeed();
}

#[test]
#[ignore = "needs socat and Python"]
fn pyserial_speaks_a_binary_protocol() {
    let dir = TempDir::new().unwrap();
    let _cable = cable(dir.path());
    let device = dir.path().join("device");
    let peer = dir.path().join("peer");
    let config =
        arduino(device.to_str().unwrap()) + "framing = { type = \"length_prefixed\", width = 2, endian = \"big\" }\n";
    let gateway = Gateway::start_in(dir, &config);
    let mqtt = Mqtt::subscriber(gateway.port(), STATUS);
    online(&mqtt, "arduino");
    mqtt.subscribe("greenhouse/arduino", 1);

    let mut board = python("binary_board.py", &[peer.to_str().unwrap()]);
    board.expect("open");
    mqtt.expect("greenhouse/arduino", all_bytes());
    mqtt.publish("greenhouse/arduino/set", all_bytes(), 1);
    board.expect(&format!("frame {}", hex::encode(all_bytes())));
    let reversed: Vec<u8> = all_bytes().into_iter().rev().collect();
    mqtt.expect("greenhouse/arduino", reversed);
    board.succeed();
}

#[test]
#[ignore = "needs socat"]
fn socat_is_unplugged_and_plugged_in_again() {
    let dir = TempDir::new().unwrap();
    let mut socat = cable(dir.path());
    let device = dir.path().join("device");
    let peer = dir.path().join("peer");
    let other = Port::plugged(dir.path(), "other");
    let config = arduino(device.to_str().unwrap()) + &arduino(other.path()).replace("arduino", "other");
    let folder = dir.path().to_path_buf();
    let gateway = Gateway::start_in(dir, &config);
    let watch = Mqtt::subscriber(gateway.port(), "gatepost/test/device/arduino/status");
    let lines = Mqtt::subscriber(gateway.port(), "greenhouse/#");
    for round in 0..3 {
        online(&watch, "arduino");
        std::fs::write(&peer, format!("round {round}\r\n")).unwrap();
        lines.expect("greenhouse/arduino", format!("round {round}"));
        socat.signal(rustix::process::Signal::TERM);
        socat.wait(crate::common::DEADLINE);
        offline(&watch, "arduino");
        wait_until("socat's link to go", || !device.exists());
        other.write("undisturbed\n");
        lines.expect("greenhouse/other", "undisturbed");
        socat = cable(&folder);
    }
    online(&watch, "arduino");
    gateway.ledger("arduino").expect_nothing_dropped();
    gateway.ledger("other").expect_nothing_dropped();
}
