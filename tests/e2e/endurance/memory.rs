//! A million different topics, filters and client ids leave the broker's memory where it was.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use tempfile::TempDir;

use crate::common::holdings::status_field;
use crate::common::{DEADLINE, Gateway, wait_until, wire};

/// Connections that work at the same time.
const WORKERS: u32 = 8;

/// Requests a connection sends before it waits for their answers.
const WINDOW: u32 = 100;

/// Sessions without a connection, for each of the workers.
const KEPT: usize = 16;

/// Memory that may come and go: buffers of connections that are being closed, pages the allocator has not given back.
const SLACK_KIB: u64 = 3 * 1024;

const CONFIG: &str = r#"
[log]
level = "info,gatepost::broker=warn,gatepost::broker::listener=info"
format = "plain"

[broker]
persistence = false

[[broker.listener]]
address = "127.0.0.1:0"
allow_anonymous = true
"#;

/// A blocking connection.
struct Client {
    stream: TcpStream,
    input: BytesMut,
    output: BytesMut,
}

impl Client {
    fn open(port: u16) -> Client {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        Client { stream, input: BytesMut::new(), output: BytesMut::new() }
    }

    fn connected(port: u16, id: &str) -> Client {
        let mut client = Client::open(port);
        wire::connect(&mut client.output, &connect(id));
        client.flush();
        client.expect(2);
        client
    }

    fn flush(&mut self) {
        self.stream.write_all(&self.output).unwrap();
        self.output.clear();
    }

    /// The next packet; `None` when the broker has closed.
    fn next(&mut self) -> Option<(u8, Bytes)> {
        loop {
            if let Some(packet) = wire::split(&mut self.input) {
                return Some(packet);
            }
            let mut buffer = [0; 16 * 1024];
            match self.stream.read(&mut buffer).unwrap() {
                0 => return None,
                read => self.input.extend_from_slice(&buffer[..read]),
            }
        }
    }

    /// The next packet is of this kind.
    fn expect(&mut self, kind: u8) {
        let (first, body) = self.next().expect("an answer");
        assert_eq!(first >> 4, kind, "{body:?}");
    }

    /// Waits until the broker has handled all that was sent.
    fn ping(&mut self) {
        self.output.extend_from_slice(&[0xc0, 0]);
        self.flush();
        self.expect(13);
    }
}

fn connect(id: &str) -> wire::Connect {
    wire::Connect { v5: false, id: id.to_owned(), clean: true, expiry: 0, will: None }
}

/// Splits `numbers` among the workers and runs them to the end.
fn in_parallel(port: u16, numbers: Range<u32>, work: impl Fn(u16, Range<u32>) + Sync) {
    let share = (numbers.end - numbers.start).div_ceil(WORKERS);
    std::thread::scope(|scope| {
        for worker in 0..WORKERS {
            let from = numbers.start + worker * share;
            let work = &work;
            scope.spawn(move || work(port, from..(from + share).min(numbers.end)));
        }
    });
}

/// `numbers` in pieces that are sent at once.
fn windows(numbers: Range<u32>) -> impl Iterator<Item = Range<u32>> {
    let end = numbers.end;
    numbers.step_by(WINDOW as usize).map(move |from| from..(from + WINDOW).min(end))
}

fn message(topic: String, payload: &'static [u8]) -> wire::Publish {
    let payload = Bytes::from_static(payload);
    wire::Publish { dup: false, qos: 0, retain: false, id: 0, topic, payload }
}

fn publish_topics(port: u16, numbers: Range<u32>) {
    let mut client = Client::connected(port, "");
    for window in windows(numbers) {
        for n in window {
            let publish = message(format!("{n:x}/{}/value", n % 1000), b"21.5 degrees");
            wire::publish(&mut client.output, false, &publish);
        }
        client.ping();
    }
}

/// The same while somebody subscribes to everything.
fn publish_topics_to_a_subscriber(port: u16, numbers: Range<u32>) {
    let mut subscriber = Client::connected(port, "");
    wire::subscribe(&mut subscriber.output, false, 1, &[("#", 0)]);
    subscriber.flush();
    subscriber.expect(9);
    let count = numbers.len();
    let reader = std::thread::spawn(move || (0..count).for_each(|_| subscriber.expect(3)));
    publish_topics(port, numbers);
    reader.join().unwrap();
}

/// Retains a message on each topic and deletes it.
fn retain_topics(port: u16, numbers: Range<u32>) {
    let mut client = Client::connected(port, "");
    for window in windows(numbers) {
        for n in window {
            for payload in [&b"on"[..], b""] {
                let publish = wire::Publish { retain: true, ..message(format!("{n:x}/{}/state", n % 1000), payload) };
                wire::publish(&mut client.output, false, &publish);
            }
        }
        client.ping();
    }
}

/// Subscribes to each filter, with and without wildcards and in groups, and gives it up again.
fn subscribe_filters(port: u16, numbers: Range<u32>) {
    let mut client = Client::connected(port, "");
    for window in windows(numbers) {
        let count = window.len();
        for n in window {
            let filter = match n % 8 {
                0 => format!("$share/group{n:x}/a/{n:x}"),
                1..4 => format!("a{n:x}/+/value"),
                _ => format!("a/{n:x}/value"),
            };
            wire::subscribe(&mut client.output, false, 1, &[(&filter, 1)]);
            wire::unsubscribe(&mut client.output, false, 2, &filter);
        }
        client.flush();
        (0..count).for_each(|_| {
            client.expect(9);
            client.expect(11);
        });
    }
}

/// Connects with each client id. One of 64 leaves its session with a subscription, for `KEPT` others to come, and then
/// comes back to end it.
fn connect_ids(port: u16, numbers: Range<u32>) {
    let mut kept = VecDeque::new();
    for n in numbers {
        let keeps = n % 64 == 0;
        let mut connect = connect(&format!("client-{n:x}"));
        if keeps {
            connect = wire::Connect { v5: true, expiry: 60, ..connect };
            kept.push_back(wire::Connect { clean: false, expiry: 0, ..connect.clone() });
        }
        assert!(!come_and_go(port, &connect, keeps));
        if kept.len() > KEPT {
            assert!(come_and_go(port, &kept.pop_front().unwrap(), false));
        }
    }
    kept.iter().for_each(|connect| assert!(come_and_go(port, connect, false)));
}

/// One connection, from CONNECT to DISCONNECT and the end; returns whether a session was present.
fn come_and_go(port: u16, connect: &wire::Connect, subscribes: bool) -> bool {
    let mut client = Client::open(port);
    wire::connect(&mut client.output, connect);
    if subscribes {
        wire::subscribe(&mut client.output, connect.v5, 1, &[("a/+", 1)]);
    }
    client.output.extend_from_slice(&[0xe0, 0]);
    client.flush();
    let (first, body) = client.next().expect("CONNACK");
    assert_eq!((first, body[1]), (0x20, 0), "{body:?}");
    while client.next().is_some() {}
    body[0] == 1
}

fn resident_kib(gateway: &Gateway) -> u64 {
    status_field(gateway.id(), "VmRSS:")
}

fn sockets(gateway: &Gateway) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", gateway.id())).unwrap().count()
}

type Part = (&'static str, fn(&Gateway, Range<u32>));

const PARTS: [Part; 5] = [
    ("topics, nobody subscribed", |gateway, numbers| in_parallel(gateway.port(), numbers, publish_topics)),
    ("topics, one subscribed to #", |gateway, numbers| publish_topics_to_a_subscriber(gateway.port(), numbers)),
    ("topics retained and deleted", |gateway, numbers| in_parallel(gateway.port(), numbers, retain_topics)),
    ("filters", |gateway, numbers| in_parallel(gateway.port(), numbers, subscribe_filters)),
    ("client ids", |gateway, numbers| in_parallel(gateway.port(), numbers, connect_ids)),
];

/// Runs every part once to warm up, which fills the router's log, then again with `count`.
fn memory_stays_where_it_was(warm_up: u32, count: u32) {
    let gateway = Gateway::start_with(TempDir::new().unwrap(), CONFIG);
    let idle = sockets(&gateway);
    println!("{:30} {:>9} {:>12} {:>12} {:>8}", "part", "count", "KiB before", "KiB after", "seconds");
    let run = |(name, part): Part, numbers: Range<u32>| {
        let count = numbers.len();
        let (before, start) = (resident_kib(&gateway), Instant::now());
        part(&gateway, numbers);
        wait_until("the connections to be closed", || sockets(&gateway) <= idle);
        let after = resident_kib(&gateway);
        println!("{name:30} {count:>9} {before:>12} {after:>12} {:>8.1}", start.elapsed().as_secs_f32());
        (before, after)
    };
    for part in PARTS {
        run(part, 0..warm_up);
    }
    let figures = PARTS.map(|part| (part.0, run(part, warm_up..warm_up + count)));
    for (part, (before, after)) in figures {
        assert!(after <= before + SLACK_KIB, "{part}: {before} KiB before, {after} KiB after");
    }
    gateway.terminate();
}

/// As many as there may be sockets in this process, each with a filter of another length.
const CROWD: usize = 700;

/// So many come before the broker takes them for a crowd; where the heap ends then is what it goes back to.
const SMALL: usize = 260;

#[test]
fn a_crowd_that_goes_leaves_no_memory_behind() {
    let gateway = Gateway::start_with(TempDir::new().unwrap(), CONFIG);
    let anonymous = || status_field(gateway.id(), "RssAnon:");
    let before = anonymous();
    let come = |number: usize| {
        let mut client = Client::connected(gateway.port(), &format!("crowd-{number}"));
        let filter = format!("{number}/{}", "x".repeat(if number < SMALL { 10 } else { number * 7919 % 60_000 }));
        wire::subscribe(&mut client.output, false, 1, &[(&filter, 0)]);
        client.flush();
        client.expect(9);
        client
    };
    for round in 0..3 {
        let mut crowd: Vec<Client> = (0..CROWD).map(come).collect();
        let most = anonymous() - before;
        assert!(most > 10 * 1024, "{CROWD} clients take only {most} KiB: the test says nothing");
        fastrand::shuffle(&mut crowd);
        drop(crowd);
        wait_until("the memory to be given back", || anonymous() <= before + 5 * 1024);
        println!("round {round}: {before} KiB before, {} KiB after, {most} KiB more between", anonymous());
    }
    gateway.terminate();
}

#[test]
fn many_topics_filters_and_client_ids_leave_memory_where_it_was() {
    memory_stays_where_it_was(20_000, 20_000);
}

#[test]
#[ignore = "takes long"]
fn a_million_topics_filters_and_client_ids_leave_memory_where_it_was() {
    memory_stays_where_it_was(100_000, 1_000_000);
}
