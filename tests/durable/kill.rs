//! kill -9 and stops at random moments under load: what was acknowledged arrives, QoS 2 never twice, each topic in order.
//!
//! The clients keep their own state over connections as MQTT asks of them, so that whatever is wrong is the broker's.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use crate::client::{Connect, Packet, packet, string};
use crate::world::{How, World};

/// Kills, and stops, unless `GATEPOST_KILLS` says otherwise; `./test` asks for 200 of each.
const KILLS: usize = 40;
/// Messages that the publisher has on the way.
const WINDOW: usize = 20;
/// Topics of each QoS.
const TOPICS: usize = 4;
/// Silence after which nothing more comes from a gateway that lives.
pub const QUIET: Duration = Duration::from_millis(1500);

/// Message numbers by topic.
type Numbers = BTreeMap<String, Vec<u32>>;

/// One connection, read by a task of its own.
pub struct Link {
    output: OwnedWriteHalf,
    pub packets: mpsc::Receiver<Packet>,
}

impl Link {
    /// Connects; `None` when the gateway is gone, or stops. Says whether there was a session.
    pub async fn open(address: SocketAddr, connect: &Connect) -> Option<(Link, bool)> {
        let stream = TcpStream::connect(address).await.ok()?;
        stream.set_nodelay(true).ok()?;
        let (input, mut output) = stream.into_split();
        output.write_all(&connect.bytes()).await.ok()?;
        let (sender, mut packets) = mpsc::channel(1000);
        tokio::spawn(read(input, sender));
        let Packet(first, body) = packets.recv().await?;
        if body[1] == if connect.v5 { 0x8B } else { 3 } {
            return None;
        }
        assert_eq!((first, body[1]), (0x20, 0), "CONNACK");
        Some((Link { output, packets }, body[0] == 1))
    }

    /// Fails when the gateway is gone, which reading notices too.
    pub async fn send(&mut self, bytes: &[u8]) {
        let _ = self.output.write_all(bytes).await;
    }

    pub async fn ack(&mut self, first: u8, id: u16) {
        self.send(&packet(first, &id.to_be_bytes())).await;
    }

    /// Sends DISCONNECT and waits for the end of the connection.
    pub async fn end(mut self) {
        self.send(&[0xE0, 0]).await;
        while self.packets.recv().await.is_some() {}
    }
}

async fn read(mut input: OwnedReadHalf, packets: mpsc::Sender<Packet>) {
    loop {
        let Ok(first) = input.read_u8().await else { return };
        let mut length = 0;
        for shift in [0, 7, 14, 21] {
            let Ok(byte) = input.read_u8().await else { return };
            length |= usize::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let mut body = vec![0; length];
        if input.read_exact(&mut body).await.is_err() || packets.send(Packet(first, body)).await.is_err() {
            return;
        }
    }
}

/// A client with its own stored state.
trait Peer: Send + 'static {
    fn connect(&self) -> Connect;
    /// A connection begins.
    async fn begin(&mut self, link: &mut Link, present: bool);
    /// A packet came.
    async fn take(&mut self, link: &mut Link, packet: Packet);
    /// Before it waits for the next one; false: it needs nothing more.
    async fn go_on(&mut self, link: &mut Link) -> bool;
}

/// Lets `peer` talk over connections of these lengths, and a last one that stays, until the gateway is gone.
async fn drive<P: Peer>(mut peer: P, address: SocketAddr, lengths: Vec<Duration>, quiet: Duration) -> P {
    let forever = std::iter::once(Duration::from_secs(3600));
    for length in lengths.into_iter().chain(forever) {
        let until = Instant::now() + length;
        let Some((mut link, present)) = Link::open(address, &peer.connect()).await else { return peer };
        peer.begin(&mut link, present).await;
        loop {
            if !peer.go_on(&mut link).await {
                return peer;
            }
            let left = until.saturating_duration_since(Instant::now());
            match timeout(left.min(quiet), link.packets.recv()).await {
                Ok(Some(packet)) => peer.take(&mut link, packet).await,
                Ok(None) => return peer,
                Err(_) if left <= quiet => break,
                Err(_) => return peer,
            }
        }
    }
    peer
}

/// A message on its way to the broker.
struct Sent {
    id: u16,
    topic: String,
    number: u32,
    qos: u8,
    released: bool,
}

#[derive(Default)]
struct Publisher {
    sent: VecDeque<Sent>,
    last_id: u16,
    count: usize,
    next: Numbers,
    acknowledged: Numbers,
    /// No new messages.
    is_ending: bool,
}

impl Publisher {
    async fn publish(&mut self, link: &mut Link) {
        let qos = 1 + (self.count % 2) as u8;
        let topic = format!("k/{qos}/{}", self.count / 2 % TOPICS);
        self.count += 1;
        self.last_id = if self.last_id == u16::MAX { 1 } else { self.last_id + 1 };
        let numbers = self.next.entry(topic.clone()).or_default();
        let number = numbers.len() as u32;
        numbers.push(number);
        let sent = Sent { id: self.last_id, topic, number, qos, released: false };
        send_publish(link, &sent, false).await;
        self.sent.push_back(sent);
    }

    fn find(&mut self, id: u16) -> Option<&mut Sent> {
        self.sent.iter_mut().find(|sent| sent.id == id)
    }
}

async fn send_publish(link: &mut Link, sent: &Sent, dup: bool) {
    let body = [string(&sent.topic), sent.id.to_be_bytes().into(), sent.number.to_string().into_bytes()].concat();
    link.send(&packet(0x30 | sent.qos << 1 | u8::from(dup) << 3, &body)).await;
}

impl Peer for Publisher {
    fn connect(&self) -> Connect {
        Connect::v3("publisher").kept()
    }

    async fn begin(&mut self, link: &mut Link, present: bool) {
        assert!(present || self.acknowledged.is_empty(), "the publisher's session is gone");
        for sent in &self.sent {
            if sent.released {
                link.ack(0x62, sent.id).await;
            } else {
                send_publish(link, sent, true).await;
            }
        }
    }

    async fn take(&mut self, link: &mut Link, Packet(first, body): Packet) {
        let id = u16::from_be_bytes([body[0], body[1]]);
        let Some(sent) = self.find(id) else { return };
        match (first, sent.released) {
            (0x40, _) | (0x50, false) => {
                sent.released = true;
                let (topic, number) = (sent.topic.clone(), sent.number);
                self.acknowledged.entry(topic).or_default().push(number);
            }
            _ => {}
        }
        match first {
            0x50 => link.ack(0x62, id).await,
            0x40 | 0x70 => self.sent.retain(|sent| sent.id != id),
            _ => panic!("{first:x} {body:?}"),
        }
    }

    async fn go_on(&mut self, link: &mut Link) -> bool {
        while !self.is_ending && self.sent.len() < WINDOW {
            self.publish(link).await;
        }
        !self.is_ending || !self.sent.is_empty()
    }
}

struct Subscriber {
    id: &'static str,
    filter: &'static str,
    qos: u8,
    subscribed: bool,
    /// QoS 2 messages that are not released.
    received: HashSet<u16>,
    came: Numbers,
}

impl Subscriber {
    fn new(id: &'static str, filter: &'static str, qos: u8) -> Subscriber {
        Subscriber { id, filter, qos, subscribed: false, received: HashSet::new(), came: Numbers::new() }
    }

    /// Of the group, by MQTT 5.
    fn is_member(&self) -> bool {
        self.filter.starts_with("$share/")
    }

    /// The numbers of `topic` are those that were acknowledged, and in order; `exactly`: no one twice.
    fn check(&self, topic: &str, acknowledged: &[u32], exactly: bool) {
        let came = self.came.get(topic).map_or(&[][..], Vec::as_slice);
        let (mut highest, mut seen) = (None, HashSet::new());
        for &number in came {
            let is_new = seen.insert(number);
            assert!(is_new || !exactly, "{}: {topic} {number} came twice", self.id);
            assert!(!is_new || highest < Some(number), "{}: {topic} {number} came after {highest:?}", self.id);
            highest = highest.max(Some(number));
        }
        let lost: Vec<_> = acknowledged.iter().filter(|number| !seen.contains(number)).collect();
        assert!(lost.is_empty(), "{}: {topic} {lost:?} were lost, of {}", self.id, acknowledged.len());
    }
}

impl Peer for Subscriber {
    fn connect(&self) -> Connect {
        if !self.is_member() {
            return Connect::v3(self.id).kept();
        }
        // Few at once, so that others wait and move to the other member when this one goes.
        let mut connect = Connect::v5(self.id).kept();
        connect.properties.extend([0x21, 0, 3]);
        connect
    }

    async fn begin(&mut self, link: &mut Link, present: bool) {
        assert!(present || !self.subscribed, "the session of {} is gone", self.id);
        if !self.subscribed {
            let head = if self.is_member() { &[0, 1, 0][..] } else { &[0, 1] };
            link.send(&packet(0x82, &[head, &string(self.filter), &[self.qos]].concat())).await;
        }
    }

    async fn take(&mut self, link: &mut Link, Packet(first, body): Packet) {
        if first & 0xF0 == 0x30 {
            let (topic, rest) = body[2..].split_at(usize::from(u16::from_be_bytes([body[0], body[1]])));
            let (id, payload) = rest.split_at(2);
            let id = u16::from_be_bytes([id[0], id[1]]);
            let exactly_once = first & 6 == 4;
            if !exactly_once || self.received.insert(id) {
                // No message has properties.
                let payload = if self.is_member() { &payload[1..] } else { payload };
                let number = std::str::from_utf8(payload).unwrap().parse().unwrap();
                self.came.entry(String::from_utf8(topic.to_vec()).unwrap()).or_default().push(number);
            }
            return link.ack(if exactly_once { 0x50 } else { 0x40 }, id).await;
        }
        match first {
            0x90 => self.subscribed = true,
            0x62 => {
                let id = u16::from_be_bytes([body[0], body[1]]);
                self.received.remove(&id);
                link.ack(0x70, id).await;
            }
            // The gateway stops.
            0xE0 if body[0] == 0x8B => {}
            _ => panic!("{first:x} {body:?}"),
        }
    }

    async fn go_on(&mut self, _link: &mut Link) -> bool {
        true
    }
}

/// How long a client's connections last before the one that stays: mostly there is only that.
fn lengths() -> Vec<Duration> {
    let length = |_| Duration::from_millis(fastrand::u64(0..40));
    if fastrand::u8(..) < 64 { (0..fastrand::usize(1..4)).map(length).collect() } else { Vec::new() }
}

/// How often a gateway ends in a test.
pub fn kills() -> usize {
    std::env::var("GATEPOST_KILLS").map_or(KILLS, |text| text.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_kill_9_at_any_moment() {
    survive(How::Killed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_a_stop_at_any_moment() {
    survive(How::Stopped).await;
}

async fn survive(how: How) {
    let kills = kills();
    let mut world = World::start();
    let mut publisher = Publisher::default();
    let mut subscribers = vec![
        Subscriber::new("exact", "k/#", 2),
        Subscriber::new("least", "k/#", 1),
        Subscriber::new("late", "k/2/+", 2),
        Subscriber::new("one of two", "$share/g/k/#", 2),
        Subscriber::new("the other", "$share/g/k/#", 2),
    ];
    for subscriber in &mut subscribers {
        // From the first message on.
        let (mut link, present) = Link::open(world.address(), &subscriber.connect()).await.unwrap();
        subscriber.begin(&mut link, present).await;
        let suback = link.packets.recv().await.unwrap();
        subscriber.take(&mut link, suback).await;
    }
    for _ in 0..kills {
        let address = world.address();
        let publishing = tokio::spawn(drive(publisher, address, lengths(), QUIET * 4));
        // In one round in eight a subscriber does not come at all.
        let (online, offline): (Vec<_>, Vec<_>) = subscribers.into_iter().partition(|_| fastrand::u8(..) >= 32);
        let forever = Duration::from_secs(3600);
        let reading: Vec<_> =
            online.into_iter().map(|one| tokio::spawn(drive(one, address, lengths(), forever))).collect();
        sleep(Duration::from_millis(fastrand::u64(1..200))).await;
        let dir = world.end(how);
        publisher = publishing.await.unwrap();
        subscribers = offline;
        for one in reading {
            subscribers.push(one.await.unwrap());
        }
        world = World::start_in(dir);
    }
    publisher.is_ending = true;
    let address = world.address();
    let reading: Vec<_> =
        subscribers.into_iter().map(|one| tokio::spawn(drive(one, address, Vec::new(), QUIET))).collect();
    publisher = drive(publisher, address, Vec::new(), QUIET).await;
    // Counted since the last kill.
    let figures = world.gateway().status()["broker"].clone();
    assert_eq!((&figures["dropped"]["queue_full"], &figures["dropped"]["lost"]), (&Value::Null, &Value::Null));
    assert_eq!((&figures["store"]["dropped"], &figures["store"]["failures"]), (&0.into(), &0.into()));
    assert!(publisher.sent.is_empty(), "{} messages were never acknowledged", publisher.sent.len());
    let total: usize = publisher.acknowledged.values().map(Vec::len).sum();
    println!("{kills} times {how:?}, {total} messages");
    assert!(total > kills * WINDOW, "{total} messages are no load");
    let mut members = Vec::new();
    for one in reading {
        let subscriber = one.await.unwrap();
        if subscriber.is_member() {
            members.push(subscriber.came);
            continue;
        }
        for (topic, acknowledged) in &publisher.acknowledged {
            let exactly_once = topic.starts_with("k/2/");
            if exactly_once || subscriber.filter == "k/#" {
                subscriber.check(topic, acknowledged, exactly_once && subscriber.qos == 2);
            }
        }
    }
    check_group(&members, &publisher.acknowledged);
}

/// The members together have got all that was acknowledged; QoS 2 exactly once.
fn check_group(members: &[Numbers], acknowledged: &Numbers) {
    for (topic, acknowledged) in acknowledged {
        let came = members.iter().filter_map(|came| came.get(topic)).flatten();
        let mut seen = HashSet::new();
        for number in came {
            assert!(seen.insert(number) || !topic.starts_with("k/2/"), "the group: {topic} {number} came twice");
        }
        let lost: Vec<_> = acknowledged.iter().filter(|number| !seen.contains(number)).collect();
        assert!(lost.is_empty(), "the group: {topic} {lost:?} were lost, of {}", acknowledged.len());
    }
}
