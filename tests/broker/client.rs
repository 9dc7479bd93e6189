//! A client that sends exactly the bytes a test wants, and a broker to send them to.

use std::net::SocketAddr;
use std::time::Duration;

use gatepost::broker::Broker;
use gatepost::config::{self, Listener, QueueFull};
use gatepost::qos::Qos;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Long enough for any machine; a test that waits so long has failed.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How long to wait for what must not come.
pub const QUIET: Duration = Duration::from_millis(200);

pub fn settings() -> config::Broker {
    config::Broker {
        max_connections: 100,
        max_connections_per_address: 100,
        max_packet_size: 1 << 20,
        max_inflight: 32,
        max_keepalive: None,
        max_qos: Qos::ExactlyOnce,
        retained: true,
        max_payload_size: 1 << 20,
        allow_empty_client_id: true,
        max_queued: 10_000,
        max_queued_bytes: 16 << 20,
        queue_full: QueueFull::DropOldest,
        session_expiry_limit: Duration::from_secs(7 * 24 * 3600),
        max_retained: 100_000,
        database: None,
        sys_interval: None,
        password_file: None,
        acl_file: None,
        listeners: vec![listener("127.0.0.1:0")],
    }
}

pub fn listener(address: &str) -> Listener {
    Listener {
        address: address.into(),
        tls: None,
        websocket: false,
        allow_anonymous: true,
        max_connections: 100,
        optional: false,
    }
}

pub async fn start(settings: config::Broker) -> Broker {
    Broker::start(&settings).await.expect("a broker on a free port")
}

pub async fn broker() -> Broker {
    start(settings()).await
}

/// A packet: its first byte and what follows the remaining length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet(pub u8, pub Vec<u8>);

impl Packet {
    pub fn kind(&self) -> u8 {
        self.0 >> 4
    }
}

/// A PUBLISH, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    pub dup: bool,
    pub qos: u8,
    pub retain: bool,
    pub id: u16,
    pub topic: String,
    pub properties: Vec<u8>,
    pub payload: Vec<u8>,
}

pub fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u16).to_be_bytes()[..], text.as_bytes()].concat()
}

pub fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    let mut rest = body.len();
    loop {
        bytes.push((rest & 0x7F) as u8 | if rest > 0x7F { 0x80 } else { 0 });
        rest >>= 7;
        if rest == 0 {
            break;
        }
    }
    bytes.extend_from_slice(body);
    bytes
}

/// What a CONNECT says.
#[derive(Clone, Debug)]
pub struct Connect {
    pub v5: bool,
    pub id: &'static str,
    pub clean: bool,
    pub keep_alive: u16,
    /// Encoded, without their length.
    pub properties: Vec<u8>,
    pub will: Option<Will>,
    pub username: Option<&'static str>,
    pub password: Option<&'static str>,
}

#[derive(Clone, Debug)]
pub struct Will {
    pub topic: &'static str,
    pub payload: &'static [u8],
    pub qos: u8,
    pub retain: bool,
    pub properties: Vec<u8>,
}

impl Connect {
    pub fn v3(id: &'static str) -> Connect {
        Connect {
            v5: false,
            id,
            clean: true,
            keep_alive: 0,
            properties: Vec::new(),
            will: None,
            username: None,
            password: None,
        }
    }

    pub fn v5(id: &'static str) -> Connect {
        Connect { v5: true, ..Connect::v3(id) }
    }

    pub fn user(self, username: &'static str, password: &'static str) -> Connect {
        Connect { username: Some(username), password: Some(password), ..self }
    }

    pub fn kept(self) -> Connect {
        let properties = [&[0x11][..], &1000u32.to_be_bytes()].concat();
        Connect { clean: false, properties: if self.v5 { properties } else { Vec::new() }, ..self }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let will = self.will.as_ref();
        let will_flags = will.map_or(0, |will| 4 | (will.qos << 3) | if will.retain { 0x20 } else { 0 });
        let login_flags =
            if self.username.is_some() { 0x80 } else { 0 } | if self.password.is_some() { 0x40 } else { 0 };
        let flags = (u8::from(self.clean) << 1) | will_flags | login_flags;
        let mut body = [string("MQTT"), vec![if self.v5 { 5 } else { 4 }, flags]];
        let [name, rest] = &mut body;
        rest.extend(self.keep_alive.to_be_bytes());
        let block = |properties: &[u8]| {
            if self.v5 { [&[properties.len() as u8][..], properties].concat() } else { Vec::new() }
        };
        rest.extend(block(&self.properties));
        rest.extend(string(self.id));
        if let Some(will) = will {
            rest.extend(block(&will.properties));
            rest.extend(string(will.topic));
            rest.extend((will.payload.len() as u16).to_be_bytes());
            rest.extend(will.payload);
        }
        for text in self.username.iter().chain(&self.password) {
            rest.extend(string(text));
        }
        packet(0x10, &[&name[..], rest].concat())
    }
}

/// Whatever carries a client's bytes.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// The client.
pub struct Client {
    stream: Box<dyn Stream>,
    v5: bool,
}

impl Client {
    pub async fn open(address: SocketAddr) -> Client {
        Client::over(TcpStream::connect(address).await.unwrap())
    }

    pub fn over(stream: impl Stream + 'static) -> Client {
        Client { stream: Box::new(stream), v5: false }
    }

    /// Connects and returns the CONNACK too.
    pub async fn connack(broker: &Broker, connect: &Connect) -> (Client, Packet) {
        Client::connack_at(broker.local_addrs()[0], connect).await
    }

    /// The same with any broker.
    pub async fn connack_at(address: SocketAddr, connect: &Connect) -> (Client, Packet) {
        let mut client = Client::open(address).await;
        let connack = client.start(connect).await;
        (client, connack)
    }

    /// Sends CONNECT and returns the CONNACK.
    pub async fn start(&mut self, connect: &Connect) -> Packet {
        self.v5 = connect.v5;
        self.send(&connect.bytes()).await;
        let connack = self.recv().await;
        assert_eq!(connack.kind(), 2, "{connack:?}");
        connack
    }

    /// Connects and checks that the broker accepts; returns Session Present.
    pub async fn connect_as(broker: &Broker, connect: &Connect) -> (Client, bool) {
        let (client, connack) = Client::connack(broker, connect).await;
        assert_eq!(connack.1[1], 0, "{connack:?}");
        (client, connack.1[0] == 1)
    }

    pub async fn connect(broker: &Broker, connect: &Connect) -> Client {
        Client::connect_as(broker, connect).await.0
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// The next packet; `None` when the broker has closed.
    pub async fn next(&mut self) -> Option<Packet> {
        timeout(PATIENCE, self.read()).await.expect("a packet in time")
    }

    pub async fn recv(&mut self) -> Packet {
        self.next().await.expect("a packet, not the end")
    }

    async fn read(&mut self) -> Option<Packet> {
        let first = self.stream.read_u8().await.ok()?;
        let mut length = 0;
        for shift in [0, 7, 14, 21] {
            let byte = self.stream.read_u8().await.ok()?;
            length |= usize::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await.ok()?;
        Some(Packet(first, body))
    }

    pub async fn expect_nothing(&mut self) {
        if let Ok(packet) = timeout(QUIET, self.read()).await {
            panic!("{packet:?} came, and nothing should have");
        }
    }

    /// The broker closes, in MQTT 5 after DISCONNECT with this reason, in words too or not.
    pub async fn expect_end(&mut self, reason: u8) {
        if self.v5 {
            let Packet(first, body) = self.recv().await;
            assert_eq!((first, body[0]), (0xE0, reason));
        }
        assert_eq!(self.next().await, None);
    }

    pub async fn subscribe(&mut self, id: u16, filter: &str, options: u8) -> u8 {
        self.subscribe_with(id, &[], filter, options).await
    }

    pub async fn subscribe_with(&mut self, id: u16, properties: &[u8], filter: &str, options: u8) -> u8 {
        let mut body = id.to_be_bytes().to_vec();
        if self.v5 {
            body.push(properties.len() as u8);
            body.extend_from_slice(properties);
        }
        body.extend(string(filter));
        body.push(options);
        self.send(&packet(0x82, &body)).await;
        let suback = self.recv().await;
        assert_eq!((suback.0, &suback.1[..2]), (0x90, &id.to_be_bytes()[..]), "{suback:?}");
        *suback.1.last().unwrap()
    }

    pub async fn unsubscribe(&mut self, id: u16, filter: &str) -> Packet {
        let properties: &[u8] = if self.v5 { &[0] } else { &[] };
        self.send(&packet(0xA2, &[&id.to_be_bytes()[..], properties, &string(filter)].concat())).await;
        self.recv().await
    }

    /// Sends a PUBLISH; `flags` as in the fixed header.
    pub async fn publish(&mut self, flags: u8, id: u16, topic: &str, payload: &[u8]) {
        self.publish_with(flags, id, topic, &[], payload).await;
    }

    pub async fn publish_with(&mut self, flags: u8, id: u16, topic: &str, properties: &[u8], payload: &[u8]) {
        let mut body = string(topic);
        if flags & 6 != 0 {
            body.extend(id.to_be_bytes());
        }
        if self.v5 {
            body.push(properties.len() as u8);
            body.extend_from_slice(properties);
        }
        body.extend_from_slice(payload);
        self.send(&packet(0x30 | flags, &body)).await;
    }

    /// Publishes with QoS 1 and waits for PUBACK.
    pub async fn publish_acked(&mut self, topic: &str, payload: &[u8]) {
        self.publish(2, 77, topic, payload).await;
        let puback = self.recv().await;
        // MQTT 5 clients are told when nobody subscribes.
        assert!([&[0, 77][..], &[0, 77, 0x10]].contains(&&puback.1[..]) && puback.0 == 0x40, "{puback:?}");
    }

    /// Waits until everything sent before has been handled.
    pub async fn ping(&mut self) {
        self.send(&[0xC0, 0]).await;
        assert_eq!(self.recv().await, Packet(0xD0, vec![]));
    }

    pub async fn ack(&mut self, first: u8, id: u16) {
        self.send(&packet(first, &id.to_be_bytes())).await;
    }

    pub async fn disconnect(&mut self) {
        self.send(&[0xE0, 0]).await;
        assert_eq!(self.next().await, None);
    }

    pub async fn recv_publish(&mut self) -> Publish {
        let packet = self.recv().await;
        assert_eq!(packet.kind(), 3, "{packet:?}");
        let Packet(first, body) = packet;
        let qos = (first >> 1) & 3;
        let length = usize::from(u16::from_be_bytes([body[0], body[1]]));
        let (topic, mut rest) = body[2..].split_at(length);
        let mut id = 0;
        if qos > 0 {
            id = u16::from_be_bytes([rest[0], rest[1]]);
            rest = &rest[2..];
        }
        let mut properties = Vec::new();
        if self.v5 {
            let length = usize::from(rest[0]);
            assert!(length < 0x80, "tests use short properties");
            properties = rest[1..1 + length].to_vec();
            rest = &rest[1 + length..];
        }
        let topic = String::from_utf8(topic.to_vec()).unwrap();
        Publish { dup: first & 8 != 0, qos, retain: first & 1 != 0, id, topic, properties, payload: rest.to_vec() }
    }

    /// The payload of the next PUBLISH, which is acknowledged if it is QoS 1.
    pub async fn payload(&mut self) -> Vec<u8> {
        let publish = self.recv_publish().await;
        if publish.qos == 1 {
            self.ack(0x40, publish.id).await;
        }
        publish.payload
    }
}
