//! SIGHUP: another configuration while everything runs.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::common::{DEADLINE, Gateway, LISTENER, Mqtt, Port, wait_until};

const STATUS: &str = "gatepost/test/device/+/status";

fn status(device: &str) -> String {
    format!("gatepost/test/device/{device}/status")
}

fn tcp(name: &str, port: u16, keys: &str) -> String {
    format!("[device.{name}]\ntcp = {{ connect = \"127.0.0.1:{port}\" }}\n{keys}\n")
}

/// A TCP device that sends a numbered line with its time each 2 ms.
struct Ticker {
    port: u16,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Ticker {
    fn start(began: Instant) -> Ticker {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let (mut link, _) = listener.accept().unwrap();
            link.set_nodelay(true).unwrap();
            let mut number = 0;
            while !stopped.load(Ordering::Relaxed) {
                link.write_all(format!("{number} {}\n", began.elapsed().as_micros()).as_bytes()).unwrap();
                number += 1;
                std::thread::sleep(Duration::from_millis(2));
            }
            link.write_all(b"end\n").unwrap();
            // Until the gateway stops: closing would be a disconnect of its own.
            let _ = link.read(&mut [0]);
            number
        });
        Ticker { port, stop, thread }
    }

    fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Collects what one or both of two topics bring until `end`; returns when each line came, and the topics it came on.
fn collect(port: u16, filter: &str, began: Instant) -> JoinHandle<Vec<(u64, Duration, String)>> {
    let mqtt = Mqtt::subscriber(port, filter);
    std::thread::spawn(move || {
        let mut lines = Vec::new();
        loop {
            let message = mqtt.receive();
            let came = began.elapsed();
            let text = message.text();
            let Some((number, sent)) = text.split_once(' ') else { return lines };
            let sent = Duration::from_micros(sent.parse().unwrap());
            lines.push((number.parse().unwrap(), came.saturating_sub(sent), message.topic));
        }
    })
}

/// Reloads a few times under load; returns the longest delay of a line of the device that never changes.
fn reload_under_load() -> Duration {
    let began = Instant::now();
    let (calm, ruled, moved) = (Ticker::start(began), Ticker::start(began), TcpListener::bind("127.0.0.1:0").unwrap());
    let config = |round: usize| {
        let topic = ["old", "new"][round % 2];
        let listener = if round % 3 == 1 { "[[broker.listener]]\naddress = \"unix:other.sock\"\n" } else { "" };
        let gap = 1 + round;
        let moved = moved.local_addr().unwrap().port();
        format!(
            "{listener}{}{}{}",
            tcp("calm", calm.port, "publish = \"calm\""),
            tcp("ruled", ruled.port, &format!("publish = \"ruled/{topic}\"\nsubscribe = \"{topic}/set\"")),
            tcp("moved", moved, &format!("publish = \"moved\"\nwrite_gap = \"{gap}ms\"")),
        )
    };
    let mut gateway = Gateway::start(&config(0));
    let watch = Mqtt::subscriber(gateway.port(), STATUS);
    watch.expect(&status("moved"), "online");
    let changed = Mqtt::subscriber(gateway.port(), "ruled/+");
    let lines = [collect(gateway.port(), "calm", began), collect(gateway.port(), "ruled/+", began)];
    for round in 1..=6 {
        gateway.write(&config(round));
        let said = gateway.reload();
        for part in ["configuration reloaded", "device moved restarted", "rules of device ruled changed"] {
            assert!(said.contains(part), "{part:?} is missing in {said}");
        }
        assert!(!said.contains("calm"), "{said}");
        watch.expect(&status("moved"), "offline");
        watch.expect(&status("moved"), "online");
        let topic = ["ruled/old", "ruled/new"][round % 2];
        while changed.receive().topic != topic {}
    }
    calm.stop();
    ruled.stop();
    let [calm_lines, ruled_lines] = lines.map(|lines| lines.join().unwrap());
    for (lines, name) in [(&calm_lines, "calm"), (&ruled_lines, "ruled")] {
        let first = lines[0].0;
        let numbers: Vec<u64> = lines.iter().map(|(number, ..)| *number).collect();
        let expected: Vec<u64> = (first..first + numbers.len() as u64).collect();
        assert_eq!(numbers, expected, "{name}: lost, repeated or out of order");
    }
    let topics: Vec<&str> = ruled_lines.iter().map(|(.., topic)| topic.as_str()).collect();
    let changes = topics.windows(2).filter(|pair| pair[0] != pair[1]).count();
    assert_eq!(changes, 6, "each reload takes effect at one line");
    for name in ["calm", "ruled", "moved"] {
        gateway.ledger(name).expect_nothing_dropped();
    }
    gateway.terminate();
    assert_eq!(calm.thread.join().unwrap(), calm_lines.last().unwrap().0 + 1);
    assert_eq!(ruled.thread.join().unwrap(), ruled_lines.last().unwrap().0 + 1);
    calm_lines.iter().map(|(_, delay, _)| *delay).max().unwrap()
}

#[test]
fn no_line_is_lost_through_reloads() {
    let longest = reload_under_load();
    println!("longest delay of a device that does not change: {longest:?}");
}

#[test]
#[ignore = "takes a machine that has nothing else to do"]
fn no_line_is_held_up_through_reloads() {
    // The machine may stop for a moment once, and once more; what a reload holds up, it holds up each time.
    let delays = [(); 3].map(|()| reload_under_load());
    assert!(delays.iter().any(|delay| *delay < Duration::from_millis(50)), "{delays:?}");
}

#[test]
fn commands_go_by_the_new_rules_and_the_link_stays() {
    let device = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = device.local_addr().unwrap().port();
    let config = |keys: &str| tcp("board", port, keys);
    let mut gateway = Gateway::start(&config("subscribe = \"board/set\""));
    let (link, _) = device.accept().unwrap();
    link.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut lines = BufReader::new(link).lines();
    let mqtt = Mqtt::subscriber(gateway.port(), &status("board"));
    mqtt.expect(&status("board"), "online");
    mqtt.publish("board/set", "1", 1);
    assert_eq!(lines.next().unwrap().unwrap(), "1");
    mqtt.retain("board/kept", "from before");
    gateway.write(&config(
        "[[device.board.subscribe]]\ntopic = \"board/+\"\nwrite = \"<{payload}>\"\nretained = \"accept\"\n",
    ));
    assert!(gateway.reload().contains("rules of device board changed"));
    assert_eq!(lines.next().unwrap().unwrap(), "<from before>");
    mqtt.publish("board/set", "2", 1);
    mqtt.publish("board/other", "3", 1);
    assert_eq!(lines.next().unwrap().unwrap(), "<2>");
    assert_eq!(lines.next().unwrap().unwrap(), "<3>");
    gateway.write(&config("publish = \"board/out\""));
    gateway.reload();
    mqtt.publish("board/set", "nobody", 1);
    gateway.write(&config("subscribe = \"board/+\""));
    gateway.reload();
    mqtt.publish("board/set", "4", 1);
    assert_eq!(lines.next().unwrap().unwrap(), "4");
    assert_eq!(mqtt.next_message(Duration::ZERO), None, "never offline");
}

#[test]
fn a_device_that_is_restarted_goes_on_counting() {
    let device = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = device.local_addr().unwrap().port();
    let config = |keys: &str| tcp("board", port, &format!("publish = \"a\"\nsubscribe = \"b\"\n{keys}"));
    let mut gateway = Gateway::start(&config(""));
    let mqtt = Mqtt::subscriber(gateway.port(), "a");
    for (round, keys) in ["write_gap = \"1ms\"", "write_gap = \"2ms\"", ""].iter().enumerate() {
        let (mut link, _) = device.accept().unwrap();
        link.write_all(b"line\nunfinished").unwrap();
        mqtt.expect("a", "line");
        mqtt.publish("b", "command", 1);
        link.read_exact(&mut [0; 8]).unwrap();
        gateway.write(&config(keys));
        gateway.reload();
        let (ledger, count) = (gateway.ledger("board"), round as u64 + 1);
        assert_eq!((ledger.count("published"), ledger.count("written")), (count, count));
        assert_eq!((ledger.dropped("partial"), ledger.dropped_at_all()), (count, count));
    }
}

#[test]
fn a_wrong_file_changes_nothing_and_says_why() {
    let dir = TempDir::new().unwrap();
    let port = Port::plugged(dir.path(), "ttyUSB0");
    let device = format!("[device.board]\nserial = {{ port = \"{}\", baud = 9600 }}\npublish = \"a\"\n", port.path());
    let mut gateway = Gateway::start_in(dir, &device);
    let mqtt = Mqtt::subscriber(gateway.port(), STATUS);
    mqtt.expect(&status("board"), "online");
    mqtt.subscribe("a", 1);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let taken = TcpListener::bind(taken).unwrap();
    let address = taken.local_addr().unwrap();
    let not_free = format!("[[broker.listener]]\naddress = \"{address}\"\n");
    for (config, parts) in [
        (device.replace("baud", "bawd"), &["ERROR", "gatepost.toml:", "bawd", "baud"][..]),
        (format!("{device}\n[[["), &["ERROR", "gatepost.toml:"]),
        (format!("{not_free}[device.more]\ntcp = {{ connect = \"x:1\" }}\npublish = \"b\"\n"), &["ERROR", "in use"]),
    ] {
        gateway.write(&config);
        assert!(gateway.reload().contains("not reloaded"), "{config}");
        gateway.find_log(parts);
        port.write("still here\n");
        mqtt.expect("a", "still here");
    }
    std::fs::remove_file(gateway.dir().join("gatepost.toml")).unwrap();
    assert!(gateway.reload().contains("not reloaded"));
    gateway.write(&device);
    assert!(gateway.reload().contains("configuration reloaded"));
    port.write("and here\n");
    mqtt.expect("a", "and here");
    assert_eq!(mqtt.next_message(Duration::ZERO), None, "never offline");
    gateway.terminate();
}

#[test]
fn a_file_that_does_not_answer_keeps_no_gateway_from_stopping() {
    let mut gateway = Gateway::start("");
    let file = gateway.dir().join("gatepost.toml");
    std::fs::remove_file(&file).unwrap();
    rustix::fs::mknodat(CWD, &file, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    gateway.process().signal(Signal::HUP);
    // Nothing is ever written: as a file on a disk that hangs.
    let mut writer = None;
    wait_until("the reload reads the file", || {
        writer = rustix::fs::open(&file, OFlags::WRONLY | OFlags::NONBLOCK, Mode::empty()).ok();
        writer.is_some()
    });
    assert_eq!(gateway.status()["devices"], serde_json::json!([]), "all else goes on");
    let log = gateway.terminate();
    assert!(log.iter().any(|line| line.contains("not reloaded")), "{log:#?}");
}

#[test]
fn what_cannot_change_is_named_and_the_rest_is_applied() {
    let mut gateway = Gateway::start("");
    let config = |head: &str| format!("[gateway]\nname = \"test\"\n{head}{LISTENER}");
    let text = config("state_dir = \"elsewhere\"\n[log]\nlevel = \"debug\"\nformat = \"plain\"\n");
    std::fs::write(gateway.dir().join("gatepost.toml"), text).unwrap();
    assert!(gateway.reload().contains("[log] level"));
    gateway.find_log(&["WARN", "[gateway] state_dir", "restart"]);
    drop(TcpStream::connect(("127.0.0.1", gateway.port())).unwrap());
    gateway.find_log(&["DEBUG", "connection closed"]);
    gateway.terminate();
}

#[test]
fn a_level_that_the_environment_overrides_is_said_to_be() {
    let mut gateway = Gateway::start_after(TempDir::new().unwrap(), "export GATEPOST_LOG=info");
    gateway.write("[log]\nlevel = \"debug\"\nformat = \"plain\"\n");
    assert!(gateway.reload().contains("[log] level, but $GATEPOST_LOG overrides it"));
    let blank = Gateway::start_after(TempDir::new().unwrap(), "export GATEPOST_LOG=' '");
    blank.terminate();
    gateway.terminate();
}

/// The retained topics of the gateway's own: status with its payload, stats without.
fn topics(port: u16) -> BTreeMap<String, String> {
    let mqtt = Mqtt::subscriber(port, "gatepost/#");
    mqtt.publish("gatepost/marker", "", 1);
    let mut topics = BTreeMap::new();
    loop {
        let message = mqtt.receive();
        if message.topic == "gatepost/marker" {
            return topics;
        }
        let is_status = message.topic.ends_with("/status");
        topics.insert(message.topic.clone(), if is_status { message.text() } else { String::new() });
    }
}

/// The schemes of the ports that a process listens on.
fn listening_sockets(pid: u32) -> usize {
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let sockets: Vec<String> = fds
        .filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok())
        .filter_map(|link| link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']').map(str::to_owned))
        .collect();
    let tcp = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let is_listening = |line: &&str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.get(3) == Some(&"0A") && words.get(9).is_some_and(|inode| sockets.iter().any(|own| own == inode))
    };
    tcp.lines().filter(is_listening).count()
}

#[test]
fn a_then_b_leaves_what_starting_with_b_gives() {
    let far_end = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = far_end.local_addr().unwrap().port();
    let listener = |more: &str| format!("{LISTENER}{more}");
    let a = format!(
        "{}{}{}{}{}",
        listener(""),
        listener("websocket = true\n"),
        tcp("gone", port, "publish = \"gone\""),
        tcp("moved", port, "publish = \"moved\""),
        tcp("ruled", port, "publish = \"ruled\"")
    );
    let b = format!(
        "{}{}{}{}[device.server]\ntcp_server = {{ listen = \"127.0.0.1:0\" }}\npublish = \"server\"\n",
        listener(""),
        listener("max_connections = 5\n"),
        tcp("moved", port, "publish = \"moved\"\nframing = \"slip\""),
        tcp("ruled", port, "publish = \"other\"")
    );
    let mut reloaded = Gateway::start_with(TempDir::new().unwrap(), &a);
    let watch = Mqtt::subscriber(reloaded.port(), STATUS);
    ["gone", "moved", "ruled"].iter().for_each(|device| drop(watch.expect(&status(device), "online")));
    reloaded.write_with(&b);
    reloaded.reload();
    watch.expect(&status("gone"), "offline");
    watch.expect(&status("server"), "online");
    let mut fresh = Gateway::start_with(TempDir::new().unwrap(), &b);
    for gateway in [&reloaded, &fresh] {
        wait_until("every device to be online", || !topics(gateway.port()).values().any(|state| state == "offline"));
    }
    assert_eq!(topics(reloaded.port()), topics(fresh.port()));
    assert_eq!(listening_sockets(reloaded.id()), listening_sockets(fresh.id()));
    // What is in force does not differ from the file in anything.
    for gateway in [&mut reloaded, &mut fresh] {
        assert!(gateway.reload().contains("nothing has changed"));
    }
    reloaded.terminate();
    fresh.terminate();
}
