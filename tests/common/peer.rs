//! A client that keeps what MQTT wants a client to keep over its connections, and ends them at any moment.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use fastrand::Rng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::wire::{self, Connect, Publish};

/// Long enough for any machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Between attempts while the broker is away.
const RETRY: Duration = Duration::from_millis(10);

/// QoS 1 and 2 messages on the way to the broker.
const WINDOW: usize = 10;

/// The broker's port, which changes when it is started anew.
pub type Port = Arc<AtomicU16>;

/// A socket and what was read from it.
pub struct Link {
    stream: TcpStream,
    input: BytesMut,
}

impl Link {
    pub async fn open(port: &Port) -> io::Result<Link> {
        let stream = TcpStream::connect(("127.0.0.1", port.load(Ordering::SeqCst))).await?;
        stream.set_nodelay(true)?;
        Ok(Link { stream, input: BytesMut::new() })
    }

    /// Sends CONNECT; true when the broker accepts and knows the session, false when it accepts.
    pub async fn connect(port: &Port, connect: &Connect) -> io::Result<(Link, bool)> {
        let mut link = Link::open(port).await?;
        let mut output = BytesMut::new();
        wire::connect(&mut output, connect);
        link.send(&output).await?;
        let (first, body) = link.next().await?;
        if (first, body[1]) != (0x20, 0) {
            return Err(io::Error::other(format!("refused: {body:?}")));
        }
        Ok((link, body[0] == 1))
    }

    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        timeout(PATIENCE, self.stream.write_all(bytes)).await?
    }

    /// The next packet. Cancel safe.
    pub async fn next(&mut self) -> io::Result<(u8, Bytes)> {
        loop {
            if let Some(packet) = wire::split(&mut self.input) {
                return Ok(packet);
            }
            if timeout(PATIENCE, self.stream.read_buf(&mut self.input)).await?? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Reads until the broker closes.
    pub async fn until_closed(mut self) {
        while self.next().await.is_ok() {}
    }

    /// Ends it with RST, which throws away what either side has not read.
    pub fn abort(self) {
        let _ = socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
    }
}

/// A message of ours that is not done with.
enum Pending {
    Publish(Publish),
    /// QoS 2, after PUBREC.
    Release(u16),
}

impl Pending {
    fn id(&self) -> u16 {
        match self {
            Pending::Publish(publish) => publish.id,
            Pending::Release(id) => *id,
        }
    }
}

/// The client.
pub struct Peer {
    port: Port,
    connect: Connect,
    rng: Rng,
    link: Option<Link>,
    /// Whether the broker has ever accepted it.
    known: bool,
    pending: VecDeque<Pending>,
    last_id: u16,
    /// QoS 2 messages of the broker that are not released.
    received: HashSet<u16>,
    /// What came, each QoS 2 message once.
    pub got: Vec<Publish>,
}

impl Peer {
    /// A client whose session outlasts its connections.
    pub fn new(port: &Port, id: String, rng: Rng) -> Peer {
        let v5 = id.bytes().last().is_some_and(|byte| byte % 2 == 1);
        Peer {
            port: port.clone(),
            connect: Connect { v5, id, clean: false, expiry: 1000, will: None },
            rng,
            link: None,
            known: false,
            pending: VecDeque::new(),
            last_id: 0,
            received: HashSet::new(),
            got: Vec::new(),
        }
    }

    /// Connects, if it is not connected, and sends again what was not acknowledged.
    pub async fn be_connected(&mut self) {
        while self.link.is_none() {
            let Ok((link, present)) = Link::connect(&self.port, &self.connect).await else {
                tokio::time::sleep(RETRY).await;
                continue;
            };
            assert!(present || !self.known, "the broker has forgotten the session of {}", self.connect.id);
            self.known = true;
            self.link = Some(link);
            let mut output = BytesMut::new();
            for pending in &self.pending {
                match pending {
                    Pending::Publish(publish) => {
                        wire::publish(&mut output, self.connect.v5, &Publish { dup: true, ..publish.clone() });
                    }
                    Pending::Release(id) => wire::ack(&mut output, 0x62, *id),
                }
            }
            self.send(&output).await;
        }
    }

    async fn send(&mut self, bytes: &[u8]) {
        if let Some(link) = &mut self.link {
            if link.send(bytes).await.is_err() {
                self.link = None;
            }
        }
    }

    /// Handles what comes within `limit`. Returns at the first packet, or when the connection has ended.
    pub async fn listen(&mut self, limit: Duration) -> Option<u8> {
        let link = self.link.as_mut()?;
        let (first, body) = match timeout(limit, link.next()).await {
            Err(_) => return None,
            Ok(Err(_)) => {
                self.link = None;
                return None;
            }
            Ok(Ok(packet)) => packet,
        };
        let id = || u16::from_be_bytes([body[0], body[1]]);
        let mut output = BytesMut::new();
        match first >> 4 {
            3 => {
                let publish = wire::parse_publish(self.connect.v5, first, body);
                let (qos, id) = (publish.qos, publish.id);
                if qos < 2 || self.received.insert(id) {
                    self.got.push(publish);
                }
                match qos {
                    0 => {}
                    1 => wire::ack(&mut output, 0x40, id),
                    _ => wire::ack(&mut output, 0x50, id),
                }
            }
            4 | 7 => self.pending.retain(|pending| pending.id() != id()),
            5 => {
                for pending in self.pending.iter_mut().filter(|pending| pending.id() == id()) {
                    *pending = Pending::Release(id());
                }
                wire::ack(&mut output, 0x62, id());
            }
            6 => {
                self.received.remove(&id());
                wire::ack(&mut output, 0x70, id());
            }
            _ => {}
        }
        self.send(&output).await;
        Some(first)
    }

    /// Publishes; QoS 1 and 2 when there is room in the window.
    pub async fn publish(&mut self, qos: u8, retain: bool, topic: &str, number: u64) {
        while qos > 0 && self.pending.len() >= WINDOW {
            self.be_connected().await;
            self.listen(PATIENCE).await;
        }
        let mut id = 0;
        if qos > 0 {
            loop {
                self.last_id = self.last_id % 1000 + 1;
                id = self.last_id;
                if self.pending.iter().all(|pending| pending.id() != id) {
                    break;
                }
            }
        }
        let payload = Bytes::from(number.to_string());
        let publish = Publish { dup: false, qos, retain, id, topic: topic.to_owned(), payload };
        let mut output = BytesMut::new();
        wire::publish(&mut output, self.connect.v5, &publish);
        if qos > 0 {
            self.pending.push_back(Pending::Publish(publish));
        }
        self.send(&output).await;
    }

    /// Waits until all that was published is acknowledged.
    pub async fn settle(&mut self) {
        while !self.pending.is_empty() {
            self.be_connected().await;
            self.listen(PATIENCE).await;
        }
    }

    /// Subscribes and waits for SUBACK.
    pub async fn subscribe(&mut self, filters: &[(&str, u8)]) {
        let mut output = BytesMut::new();
        wire::subscribe(&mut output, self.connect.v5, 1, filters);
        loop {
            self.be_connected().await;
            self.send(&output).await;
            while self.link.is_some() {
                if self.listen(PATIENCE).await.is_some_and(|first| first >> 4 == 9) {
                    return;
                }
            }
        }
    }

    /// Ends the connection in one of the ways in which connections end.
    pub async fn vanish(&mut self) {
        let half_a_packet: &[u8] = &[0x32, 100, 0, 5, b'c', b'h'];
        match self.rng.u8(0..4) {
            0 => self.send(&[0xe0, 0]).await,
            1 => {
                let length = self.rng.usize(1..half_a_packet.len());
                self.send(&half_a_packet[..length]).await;
            }
            2 => {
                if let Some(link) = self.link.take() {
                    link.abort();
                }
            }
            _ => {}
        }
        self.link = None;
    }

    /// Waits until the broker has sent all it had for us before.
    pub async fn ping(&mut self) {
        loop {
            self.be_connected().await;
            self.send(&[0xc0, 0]).await;
            while self.link.is_some() {
                if self.listen(PATIENCE).await == Some(0xd0) {
                    return;
                }
            }
        }
    }

    /// Ends the session.
    pub async fn end(mut self) -> Vec<Publish> {
        self.link = None;
        let connect = Connect { clean: true, expiry: 0, ..self.connect };
        let (mut link, _) = Link::connect(&self.port, &connect).await.expect("a session can be ended");
        link.send(&[0xe0, 0]).await.unwrap();
        link.until_closed().await;
        self.got
    }
}
