//! Reloads that restart a device amid commands: each is written once and in order, or it is counted.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use tempfile::TempDir;

use crate::common::{Gateway, Mqtt, Port, wait_until};

const FLIPS: usize = 50;
const AUTHORS: usize = 4;
/// Numbers that an author has, at most.
const MOST: usize = 20_000;
const STATUS: &str = "gatepost/test/device/board/status";

/// A TCP device that writes down what it is sent, one connection after the other: the kernel hands them out in the order
/// in which they were made, however late this comes to take them. (Of two devices nobody could tell who was first.)
struct FarEnd {
    port: u16,
    thread: JoinHandle<Vec<Numbered>>,
}

impl FarEnd {
    fn start() -> FarEnd {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let thread = std::thread::spawn(move || {
            let mut heard = Vec::new();
            loop {
                match std::io::read_to_string(listener.accept().unwrap().0).unwrap() {
                    text if text == "end" => return heard,
                    text => heard.extend(numbers(&text)),
                }
            }
        });
        FarEnd { port, thread }
    }

    /// What it was sent, when the gateway has closed all connections.
    fn heard(self) -> Vec<Numbered> {
        TcpStream::connect(("127.0.0.1", self.port)).unwrap().write_all(b"end").unwrap();
        self.thread.join().unwrap()
    }
}

/// Who published a command, and the number that it had there.
type Numbered = (usize, u64);

fn numbers(text: &str) -> Vec<Numbered> {
    let numbered = text.lines().map(|line| line.split_once(' ').unwrap());
    numbered.map(|(author, number)| (author.parse().unwrap(), number.parse().unwrap())).collect()
}

/// Clients that publish numbers from 0 on, each when the one before is acknowledged.
struct Authors {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<u64>>,
}

impl Authors {
    fn start(port: u16) -> Authors {
        let stop = Arc::new(AtomicBool::new(false));
        let start = |author| {
            let stop = stop.clone();
            std::thread::spawn(move || {
                let mqtt = Mqtt::connect(port);
                let numbers = (0..MOST).take_while(|_| !stop.load(Ordering::Relaxed));
                numbers.inspect(|number| mqtt.publish("board/set", format!("{author} {number}"), 1)).count() as u64
            })
        };
        Authors { threads: (0..AUTHORS).map(start).collect(), stop }
    }

    /// How many numbers each has published.
    fn stop(self) -> Vec<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    }
}

/// Two versions of a device. The first lines are of its transport; `keys` stand in both.
struct Versions {
    transports: [String; 2],
    keys: &'static str,
}

impl Versions {
    fn text(&self, version: usize) -> String {
        let Versions { transports, keys } = self;
        format!(
            "[broker]\npersistence = false\n[device.board]\n{}\nsubscribe = \"board/set\"\n{keys}\n",
            transports[version % 2]
        )
    }

    /// Goes back and forth between the two while numbers are published. Returns the gateway, when nothing waits any more,
    /// and how many numbers each author had.
    fn flip(&self, dir: TempDir) -> (Gateway, Vec<u64>) {
        let mut gateway = Gateway::start_in(dir, &self.text(0));
        let status = Mqtt::subscriber(gateway.port(), STATUS);
        status.expect(STATUS, "online");
        let authors = Authors::start(gateway.port());
        for flip in 1..=FLIPS {
            gateway.write(&self.text(flip));
            assert!(gateway.reload().contains("device board restarted"));
            // Now and then it is restarted before it has opened its link.
            if flip % 3 > 0 {
                status.expect(STATUS, "offline");
                status.expect(STATUS, "online");
            }
        }
        let sent = authors.stop();
        wait_until("nothing to wait", || gateway.ledger("board").count("queued") == 0);
        let ledger = gateway.ledger("board");
        assert_eq!(ledger.count("commands"), sent.iter().sum::<u64>(), "{ledger:?}");
        (gateway, sent)
    }
}

/// Two ways to the same device.
fn tcp(far_end: &FarEnd) -> [String; 2] {
    ["9s", "10s"]
        .map(|timeout| format!("tcp = {{ connect = \"127.0.0.1:{}\", connect_timeout = \"{timeout}\" }}", far_end.port))
}

/// The numbers of each author, as they came.
fn by_author(heard: &[Numbered]) -> Vec<Vec<u64>> {
    let of = |author| heard.iter().filter(|(from, _)| *from == author).map(|(_, number)| *number).collect();
    (0..AUTHORS).map(of).collect()
}

fn expect_all(heard: &[Numbered], sent: &[u64]) {
    for (author, (heard, &sent)) in by_author(heard).iter().zip(sent).enumerate() {
        let wanted: Vec<u64> = (0..sent).collect();
        let same = heard.iter().zip(&wanted).take_while(|(heard, wanted)| heard == wanted).count();
        let around = |numbers: &[u64]| numbers[same.saturating_sub(2)..].iter().take(8).copied().collect::<Vec<_>>();
        assert!(
            *heard == wanted,
            "author {author}: lost, repeated or out of order: {} came of {sent}; at {same} came {:?} instead of {:?}",
            heard.len(),
            around(heard),
            around(&wanted)
        );
    }
}

/// There is room for all that the authors have, should the wire not be read for a while.
const KEEP: &str = "queue = { max = 100000, while_offline = \"keep\" }";

#[test]
fn a_queue_that_keeps_commands_keeps_them_through_restarts() {
    let far_end = FarEnd::start();
    let versions = Versions { transports: tcp(&far_end), keys: KEEP };
    let (gateway, sent) = versions.flip(TempDir::new().unwrap());
    gateway.ledger("board").expect_nothing_dropped();
    gateway.terminate();
    expect_all(&far_end.heard(), &sent);
}

#[test]
fn a_queue_that_keeps_nothing_counts_what_comes_between() {
    let far_end = FarEnd::start();
    // More comes than is written, so each stop takes a while.
    let keys = "queue = { max = 20 }\nwrite_gap = \"1ms\"";
    let versions = Versions { transports: tcp(&far_end), keys };
    let (gateway, sent) = versions.flip(TempDir::new().unwrap());
    let ledger = gateway.ledger("board");
    let dropped = ledger.dropped("offline") + ledger.dropped("queue_full");
    assert_eq!(ledger.count("written") + dropped, sent.iter().sum::<u64>(), "{ledger:?}");
    gateway.terminate();
    let heard = far_end.heard();
    assert_eq!(heard.len() as u64, ledger.count("written"));
    for numbers in by_author(&heard) {
        assert!(numbers.is_sorted_by(|a, b| a < b), "repeated or out of order: {numbers:?}");
    }
}

fn two_speeds(port: &Port) -> Versions {
    let serial = |baud: u32| format!("serial = {{ port = \"{}\", baud = {baud} }}", port.path());
    Versions { transports: [serial(9600), serial(115_200)], keys: KEEP }
}

#[test]
fn another_baud_rate_loses_no_command() {
    let dir = TempDir::new().unwrap();
    let port = Port::plugged(dir.path(), "ttyUSB0");
    let versions = two_speeds(&port);
    // Read as it comes: a pty holds little.
    let device = std::thread::spawn(move || port.read_all(b"end\n"));
    let (gateway, sent) = versions.flip(dir);
    gateway.ledger("board").expect_nothing_dropped();
    Mqtt::connect(gateway.port()).publish("board/set", "end", 1);
    let heard = String::from_utf8(device.join().unwrap()).unwrap();
    expect_all(&numbers(heard.strip_suffix("end\n").unwrap()), &sent);
    gateway.terminate();
}

#[test]
fn what_a_device_does_not_take_in_time_the_next_one_writes() {
    let dir = TempDir::new().unwrap();
    let port = Port::plugged(dir.path(), "ttyUSB0");
    let versions = two_speeds(&port);
    let mut gateway = Gateway::start_in(dir, &versions.text(0));
    let client = Mqtt::connect(gateway.port());
    // More than the pty takes, and more than is gathered into one write.
    for number in 0..500 {
        client.publish("board/set", format!("{number:0100}"), 1);
    }
    wait_until("a part to be written", || gateway.device_status("board")["bytes_out"] != 0);
    gateway.write(&versions.text(1));
    assert!(gateway.reload().contains("device board restarted"));
    client.publish("board/set", "end", 1);
    let heard = String::from_utf8(port.read_all(b"end\n")).unwrap();
    wait_until("all to be written", || gateway.ledger("board").count("queued") == 0);
    let ledger = gateway.ledger("board");
    // Of one a part had been written: the next begins in the middle of its line.
    let whole = heard.lines().filter_map(|line| line.get(line.len().saturating_sub(100)..)?.parse().ok());
    let whole: Vec<u64> = whole.collect();
    assert_eq!(ledger.count("written"), whole.len() as u64 + 1, "{ledger:?}");
    assert_eq!(ledger.dropped_at_all(), 500 - whole.len() as u64, "{ledger:?}");
    assert!(whole.len() >= 499 && whole.is_sorted_by(|a, b| a < b), "lost, repeated or out of order: {whole:?}");
    gateway.terminate();
}
