//! Starting, refusing to start, and stopping.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::common::{Gateway, LISTENER, Ledger, Mqtt, Port, RawSubscriber, gatepost, wait_until};

fn run(command: &mut Command) -> (i32, String) {
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

fn run_config(dir: &TempDir, config: &str) -> (i32, String) {
    let file = dir.path().join("gatepost.toml");
    std::fs::write(&file, config).unwrap();
    run(&mut gatepost(&["run", "-c", file.to_str().unwrap()]))
}

#[test]
fn a_second_gateway_on_the_port_exits_71_and_says_who_may_be_there() {
    let first = Gateway::start("");
    let address = format!("127.0.0.1:{}", first.port());
    let config = format!("[[broker.listener]]\naddress = \"{address}\"\nallow_anonymous = true\n");
    let (code, text) = run_config(&TempDir::new().unwrap(), &config);
    assert_eq!(code, 71, "{text}");
    for part in [address.as_str(), "in use", "gatepost", "mosquitto"] {
        assert!(text.contains(part), "{part:?} is missing in: {text}");
    }
    Mqtt::connect(first.port());
}

#[test]
fn a_wrong_config_exits_78_with_all_errors_and_touches_nothing() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let config = format!(
        "[[broker.listener]]\naddress = \"127.0.0.1:{port}\"\n\n[device.a]\nserial = {{ port = \"/dev/null\", bawd = 9600 }}\n\
         publish = \"a/#\"\n"
    );
    let (code, text) = run_config(&TempDir::new().unwrap(), &config);
    assert_eq!(code, 78, "the config is refused before a port is tried: {text}");
    for part in ["gatepost.toml:5:", "bawd", "baud", "gatepost.toml:6:", "a/#"] {
        assert!(text.contains(part), "{part:?} is missing in: {text}");
    }
}

#[test]
fn a_config_that_is_not_there_exits_78() {
    let (code, text) = run(&mut gatepost(&["run", "-c", "/nowhere/gatepost.toml"]));
    assert_eq!(code, 78, "{text}");
    assert!(text.contains("/nowhere/gatepost.toml"), "{text}");
}

#[test]
fn a_start_that_waits_for_a_file_can_be_stopped() {
    let dir = TempDir::new().unwrap();
    let users = dir.path().join("users");
    rustix::fs::mknodat(CWD, &users, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let config = format!("[broker]\npassword_file = \"users\"\n{LISTENER}");
    let mut process = Gateway::spawn(dir.path(), &config);
    // Nothing is ever written: as a file on a disk that hangs.
    let mut writer = None;
    wait_until("it reads the file", || {
        writer = rustix::fs::open(&users, OFlags::WRONLY | OFlags::NONBLOCK, Mode::empty()).ok();
        writer.is_some()
    });
    process.signal(Signal::TERM);
    assert_eq!(process.wait(Duration::from_secs(5)).code(), Some(0), "{:#?}", process.lines());
}

#[test]
fn a_clean_stop_says_offline_to_everybody() {
    for signal in [Signal::TERM, Signal::INT] {
        let dir = TempDir::new().unwrap();
        let port = Port::plugged(dir.path(), "ttyUSB0");
        let config =
            format!("[device.board]\nserial = {{ port = \"{}\", baud = 9600 }}\npublish = \"a\"\n", port.path());
        let gateway = Gateway::start_in(dir, &config);
        let watch = Mqtt::subscriber(gateway.port(), "gatepost/test/#");
        watch.expect("gatepost/test/device/board/status", "online");
        let late = Mqtt::subscriber(gateway.port(), "gatepost/test/status").receive();
        assert_eq!((late.text().as_str(), late.retain), ("online", true));
        let raw = RawSubscriber::new(gateway.port(), "gatepost/test/#");
        gateway.stop_with(signal);
        let last = raw.until_closed();
        for topic in ["gatepost/test/device/board/status", "gatepost/test/status"] {
            let offline = (topic.to_owned(), "offline".to_owned());
            assert!(last.contains(&offline), "{topic} after {signal:?}: {last:#?}");
        }
    }
}

/// Packets, until the gateway closes.
fn read_to_end(mut stream: TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn clients_that_are_idle_do_not_hold_up_a_stop() {
    let gateway = Gateway::start("");
    let connect = |n: u8| {
        let mut stream = TcpStream::connect(("127.0.0.1", gateway.port())).unwrap();
        let v5 = n % 2 == 0;
        let head = if v5 { &b"\x10\x0e\0\x04MQTT\x05\x02\0\0\0"[..] } else { b"\x10\x0d\0\x04MQTT\x04\x02\0\0" };
        stream.write_all(&[head, &[0, 1, n]].concat()).unwrap();
        let mut connack = [0; 4];
        stream.read_exact(&mut connack).unwrap();
        let mut properties = vec![0; usize::from(connack[1]) - 2];
        stream.read_exact(&mut properties).unwrap();
        (stream, v5)
    };
    let clients: Vec<_> = (b'A'..b'a').map(connect).collect();
    let began = Instant::now();
    let log = gateway.terminate();
    let took = began.elapsed();
    assert!(!log.iter().any(|line| line.contains(" WARN ")), "{log:#?}");
    assert!(took < Duration::from_millis(800), "{took:?}");
    for (stream, v5) in clients {
        assert_eq!(read_to_end(stream), if v5 { &[0xE0, 1, 0x8B][..] } else { &[] });
    }
}

/// A board that is online and gets what is published on `a`, and a client that has seen it come.
fn board_with_commands() -> (Port, Gateway, Mqtt) {
    let dir = TempDir::new().unwrap();
    let port = Port::plugged(dir.path(), "ttyUSB0");
    let config = format!("[device.board]\nserial = {{ port = \"{}\", baud = 9600 }}\nsubscribe = \"a\"\n", port.path());
    let gateway = Gateway::start_in(dir, &config);
    let mqtt = Mqtt::subscriber(gateway.port(), "gatepost/test/device/board/status");
    mqtt.expect("gatepost/test/device/board/status", "online");
    (port, gateway, mqtt)
}

/// As a lamp's switch might: what a client leaves behind is a command.
#[test]
fn wills_of_clients_are_commands_for_devices_at_a_stop() {
    let (port, gateway, _mqtt) = board_with_commands();
    let mut client = TcpStream::connect(("127.0.0.1", gateway.port())).unwrap();
    client.write_all(b"\x10\x15\0\x04MQTT\x04\x0e\0\0\0\x01w\0\x01a\0\x03OFF").unwrap();
    let mut connack = [0; 4];
    client.read_exact(&mut connack).unwrap();
    gateway.terminate();
    assert_eq!(port.read(4), b"OFF\n");
}

#[test]
fn a_stuck_device_does_not_keep_the_gateway() {
    let dir = TempDir::new().unwrap();
    let stuck = Port::plugged(dir.path(), "stuck");
    let config = format!(
        "[device.stuck]\nserial = {{ port = \"{}\", baud = 9600 }}\nsubscribe = \"stuck/set\"\npublish = \"stuck/out\"\n",
        stuck.path()
    );
    let gateway = Gateway::start_in(dir, &config);
    let mqtt = Mqtt::subscriber(gateway.port(), "gatepost/test/device/+/status");
    mqtt.expect("gatepost/test/device/stuck/status", "online");
    for _ in 0..200 {
        mqtt.publish("stuck/set", vec![b'x'; 1000], 1);
    }
    let raw = RawSubscriber::new(gateway.port(), "gatepost/test/device/stuck/+");
    let log = gateway.terminate();
    let last = raw.until_closed();
    assert!(last.contains(&("gatepost/test/device/stuck/status".to_owned(), "offline".to_owned())), "{log:#?}");
    let ledger = last_stats(&last);
    assert!(ledger.adds_up() && ledger.count("commands") == 200, "{ledger:?}");
}

/// What the device counted, from the last of its stats.
fn last_stats(messages: &[(String, String)]) -> Ledger {
    let (_, stats) =
        messages.iter().rfind(|(topic, _)| topic.ends_with("/stats")).expect("stats are published at the end");
    Ledger::new(serde_json::from_str(stats).unwrap())
}

#[test]
fn commands_published_before_the_stop_are_written() {
    let (port, gateway, mqtt) = board_with_commands();
    let raw = RawSubscriber::new(gateway.port(), "gatepost/test/device/board/stats");
    for _ in 0..999 {
        mqtt.publish("a", "command", 0);
    }
    mqtt.publish("a", "command", 1);
    let device = std::thread::spawn(move || {
        port.read(8 * 1000);
        port
    });
    gateway.terminate();
    device.join().unwrap();
    let ledger = last_stats(&raw.until_closed());
    ledger.expect_nothing_dropped();
    assert_eq!(ledger.count("written"), 1000);
}

#[test]
fn lines_read_before_the_stop_are_delivered() {
    let dir = TempDir::new().unwrap();
    let port = Port::plugged(dir.path(), "ttyUSB0");
    let config = format!("[device.board]\nserial = {{ port = \"{}\", baud = 9600 }}\npublish = \"a\"\n", port.path());
    let gateway = Gateway::start_in(dir, &config);
    let mqtt = Mqtt::subscriber(gateway.port(), "gatepost/test/device/+/status");
    mqtt.expect("gatepost/test/device/board/status", "online");
    mqtt.subscribe("a", 1);
    let raw = RawSubscriber::new(gateway.port(), "a");
    let stats = RawSubscriber::new(gateway.port(), "gatepost/test/device/board/stats");
    for i in 0..100 {
        port.write(format!("{i}\n"));
    }
    mqtt.expect("a", "49");
    gateway.terminate();
    let numbers: Vec<u32> = raw.until_closed().iter().map(|(_, payload)| payload.parse().unwrap()).collect();
    assert!(numbers.len() >= 50, "the first 50 were published before the stop: {numbers:?}");
    assert!(numbers.iter().copied().eq(0..numbers.len() as u32), "a gap or a repetition: {numbers:?}");
    let ledger = last_stats(&stats.until_closed());
    assert!(ledger.adds_up() && ledger.count("published") == numbers.len() as u64, "{ledger:?}");
}

#[test]
fn kill_9_and_start_again_on_the_same_port() {
    let gateway = Gateway::start("");
    let port = gateway.port();
    let client = Mqtt::connect(port);
    let dir = gateway.kill9();
    let config = format!("[[broker.listener]]\naddress = \"127.0.0.1:{port}\"\nallow_anonymous = true\n");
    let again = Gateway::start_with(dir, &config);
    assert_eq!(again.port(), port);
    Mqtt::connect(port).publish("alive", "yes", 2);
    drop(client);
}

#[test]
fn sighup_and_sigusr1_do_not_end_it() {
    let mut gateway = Gateway::start("");
    for signal in [Signal::HUP, Signal::USR1] {
        gateway.process().signal(signal);
        Mqtt::connect(gateway.port()).publish("alive", "yes", 1);
    }
    gateway.process().find_all(&["broker stats", r#""connected":"#, r#""store":{"state":"healthy""#]);
    gateway.terminate();
}

/// A gateway whose log nobody reads, with a unix socket for clients.
fn with_a_log_that_nobody_reads(dir: &Path) -> Child {
    let config =
        "[gateway]\nstate_dir = \"state\"\n[[broker.listener]]\naddress = \"unix:mqtt.sock\"\nallow_anonymous = true\n";
    std::fs::write(dir.join("gatepost.toml"), config.replace("unix:", &format!("unix:{}/", dir.display()))).unwrap();
    let mut command = gatepost(&["run", "-c", dir.join("gatepost.toml").to_str().unwrap()]);
    let gateway = command.env("GATEPOST_LOG", "info").stderr(Stdio::piped()).spawn().unwrap();
    rustix::pipe::fcntl_setpipe_size(gateway.stderr.as_ref().unwrap(), 4096).unwrap();
    wait_until("the broker listens", || UnixStream::connect(dir.join("mqtt.sock")).is_ok());
    gateway
}

/// A client comes and goes, which makes two lines of the log.
fn come_and_go(dir: &Path) {
    let mut client = UnixStream::connect(dir.join("mqtt.sock")).unwrap();
    client.write_all(b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01c\xe0\x00").unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"\x20\x02\x00\x00");
}

fn stop(gateway: &mut Child) {
    kill_process(Pid::from_child(gateway), Signal::TERM).unwrap();
    let mut code = None;
    wait_until("it ends", || {
        code = gateway.try_wait().unwrap().map(|status| status.code());
        code.is_some()
    });
    assert_eq!(code, Some(Some(0)));
}

#[test]
fn a_log_that_nobody_reads_holds_up_nothing() {
    let dir = TempDir::new().unwrap();
    let mut gateway = with_a_log_that_nobody_reads(dir.path());
    (0..1000).for_each(|_| come_and_go(dir.path()));
    stop(&mut gateway);
}

#[test]
fn lines_of_the_log_that_were_lost_are_told_of() {
    let dir = TempDir::new().unwrap();
    let mut gateway = with_a_log_that_nobody_reads(dir.path());
    (0..1000).for_each(|_| come_and_go(dir.path()));
    let mut log = BufReader::new(gateway.stderr.take().unwrap()).lines().map(Result::unwrap);
    let told = log.find(|line| line.contains("lines of the log were lost")).unwrap();
    assert!(told.contains(" WARN ") && told.contains("lines="), "{told}");
    std::thread::spawn(move || log.for_each(drop));
    stop(&mut gateway);
}
