//! TCP devices: one that listens, and many that connect.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use crate::common::{DEADLINE, Gateway, Mqtt, Process, python};

const LIGHT_STATUS: &str = "gatepost/test/device/light/status";

fn light_config(port: u16) -> String {
    format!(
        r#"
[device.light]
tcp = {{ connect = "127.0.0.1:{port}" }}
reconnect = {{ min = "20ms", max = "100ms" }}
publish = "smarthome/lights/office/state"
subscribe = "smarthome/lights/office"
"#
    )
}

/// tests/python/light.py and its port.
fn light() -> (Process, u16) {
    let mut light = python("light.py", &[]);
    let line = light.expect("listening on");
    let port = line.rsplit(' ').next().unwrap().parse().unwrap();
    (light, port)
}

#[test]
fn a_light_over_tcp_is_switched_and_tells_its_state() {
    let light = TcpListener::bind("127.0.0.1:0").unwrap();
    let gateway = Gateway::start(&light_config(light.local_addr().unwrap().port()));
    let (mut link, _) = light.accept().unwrap();
    link.set_read_timeout(Some(DEADLINE)).unwrap();
    let mqtt = Mqtt::subscriber(gateway.port(), LIGHT_STATUS);
    mqtt.expect(LIGHT_STATUS, "online");
    mqtt.subscribe("smarthome/lights/office/state", 1);

    mqtt.publish("smarthome/lights/office", "ON", 0);
    let mut command = [0; 3];
    link.read_exact(&mut command).unwrap();
    assert_eq!(&command, b"ON\n");
    link.write_all(b"ON\r\n").unwrap();
    mqtt.expect("smarthome/lights/office/state", "ON");
}

#[test]
#[ignore = "needs Python"]
fn a_host_that_goes_down_resets_or_comes_back_is_followed() {
    let (mut light, port) = light();
    let gateway = Gateway::start(&light_config(port));
    let mqtt = Mqtt::subscriber(gateway.port(), LIGHT_STATUS);
    mqtt.subscribe("smarthome/lights/office/state", 1);
    for (round, way) in ["close", "reset", "stop"].into_iter().enumerate() {
        mqtt.expect(LIGHT_STATUS, "online");
        light.expect("connected from");
        light.send(&format!("say round {round}"));
        mqtt.expect("smarthome/lights/office/state", format!("round {round}"));
        light.send("half an unfinished line");
        light.send(way);
        mqtt.expect(LIGHT_STATUS, "offline");
    }
    light.expect("did stop");
    light.send("start");
    mqtt.expect(LIGHT_STATUS, "online");
    light.expect("connected from");
    mqtt.publish("smarthome/lights/office", "OFF", 1);
    light.expect("got OFF");
    mqtt.expect("smarthome/lights/office/state", "OFF");
    let ledger = gateway.ledger("light");
    assert_eq!((ledger.count("commands"), ledger.count("written"), ledger.count("reconnects")), (1, 1, 3));
    assert_eq!(ledger.dropped_at_all(), ledger.dropped("partial"), "{ledger:?}");
}

#[test]
#[ignore = "needs Python"]
fn a_host_that_is_down_at_start_is_found_when_it_comes() {
    let reserved = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = reserved.local_addr().unwrap().port();
    drop(reserved);
    let mut gateway = Gateway::start(&light_config(port));
    let watch = Mqtt::subscriber(gateway.port(), LIGHT_STATUS);
    gateway.process().find(&port.to_string());
    let mut light = python("light.py", &[&port.to_string()]);
    watch.expect(LIGHT_STATUS, "online");
    light.expect("connected from");
}

#[test]
#[ignore = "needs Python"]
fn a_host_that_falls_silent_is_connected_again() {
    let (mut light, port) = light();
    let gateway = Gateway::start(&(light_config(port) + "idle_timeout = \"500ms\"\n"));
    let watch = Mqtt::subscriber(gateway.port(), LIGHT_STATUS);
    watch.expect(LIGHT_STATUS, "online");
    watch.expect(LIGHT_STATUS, "offline");
    watch.expect(LIGHT_STATUS, "online");
    light.expect("connected from");
    light.expect("end of stream");
    light.expect("connected from");
}

const SCANNERS: &str = r#"
[device.scanners]
tcp_server = { listen = "127.0.0.1:0", max_connections = 64 }
publish = "scanners/{peer}/code"
subscribe = "scanners/{peer}/display"
"#;

/// A scanner, and its `{peer}`.
struct Scanner {
    stream: BufReader<TcpStream>,
    peer: String,
}

impl Scanner {
    fn connect(gateway: &Gateway) -> Scanner {
        let stream = TcpStream::connect(("127.0.0.1", gateway.device_port("scanners"))).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let peer = format!("127.0.0.1_{}", stream.local_addr().unwrap().port());
        Scanner { stream: BufReader::new(stream), peer }
    }

    fn scan(&mut self, code: &str) {
        self.stream.get_mut().write_all(format!("{code}\r\n").as_bytes()).unwrap();
    }

    fn read_line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        line
    }

    fn topic(&self, leaf: &str) -> String {
        format!("scanners/{}/{leaf}", self.peer)
    }
}

#[test]
fn each_peer_has_its_topics_and_all_reaches_every_one() {
    let gateway = Gateway::start(SCANNERS);
    let mqtt = Mqtt::subscriber(gateway.port(), "scanners/+/code");
    let mut scanners: Vec<Scanner> = (0..3).map(|_| Scanner::connect(&gateway)).collect();
    for (i, scanner) in scanners.iter_mut().enumerate() {
        scanner.scan(&format!("400638133393{i}"));
        mqtt.expect(&scanner.topic("code"), format!("400638133393{i}"));
    }
    mqtt.publish(&scanners[1].topic("display"), "only you", 1);
    mqtt.publish("scanners/all/display", "everybody", 1);
    assert_eq!(scanners[1].read_line(), "only you\n");
    for scanner in &mut scanners {
        assert_eq!(scanner.read_line(), "everybody\n");
    }
}

#[test]
fn sixty_four_peers_come_and_go_and_the_next_one_is_refused() {
    let gateway = Gateway::start(SCANNERS);
    let mqtt = Mqtt::subscriber(gateway.port(), "scanners/+/code");
    for round in 0..3 {
        let mut scanners: Vec<Scanner> = (0..64).map(|_| admitted(&gateway, &mqtt)).collect();
        for (i, scanner) in scanners.iter_mut().enumerate() {
            scanner.scan(&format!("{round}-{i}"));
        }
        let mut expected: Vec<(String, String)> =
            scanners.iter().enumerate().map(|(i, s)| (s.topic("code"), format!("{round}-{i}"))).collect();
        let mut got: Vec<(String, String)> =
            expected.iter().map(|_| mqtt.receive()).map(|m| (m.topic.clone(), m.text())).collect();
        expected.sort();
        got.sort();
        assert_eq!(got, expected);
        assert_eq!(Scanner::connect(&gateway).read_line(), "", "one more than max_connections is closed");
    }
    let ledger = gateway.ledger("scanners");
    assert_eq!(ledger.count("published"), 2 * 3 * 64, "`hello` and a number of each");
    assert!(ledger.count("refused_peers") >= 3);
    ledger.expect_nothing_dropped();
}

/// A scanner whose first code arrived: until the gateway has seen the ends of those before, there may be no place.
fn admitted(gateway: &Gateway, mqtt: &Mqtt) -> Scanner {
    loop {
        let mut scanner = Scanner::connect(gateway);
        scanner.scan("hello");
        if let Some(message) = mqtt.next_message(Duration::from_millis(500)) {
            assert_eq!(message.topic, scanner.topic("code"));
            return scanner;
        }
    }
}

#[test]
#[ignore = "needs Python"]
fn python_scanners_connect_send_and_leave() {
    let gateway = Gateway::start(SCANNERS);
    let mqtt = Mqtt::subscriber(gateway.port(), "scanners/+/code");
    let port = gateway.device_port("scanners").to_string();
    let mut scanners: Vec<Process> = Vec::new();
    for i in 0..3 {
        let mut scanner = python("scanner.py", &[&port, &format!("code-{i}")]);
        let own = scanner.expect("port ");
        let topic = format!("scanners/127.0.0.1_{}/code", own.trim_start_matches("port "));
        mqtt.expect(&topic, format!("code-{i}"));
        mqtt.publish(&topic.replace("/code", "/display"), format!("thanks {i}"), 1);
        scanner.expect(&format!("got thanks {i}"));
        scanners.push(scanner);
    }
    mqtt.publish("scanners/all/display", "BYE", 1);
    for scanner in scanners {
        assert!(scanner.succeed().iter().any(|line| line == "left"));
    }
}
