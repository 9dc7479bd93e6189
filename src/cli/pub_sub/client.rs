//! One MQTT connection, the same for both protocol versions: rumqttc's two event loops behind one face.

use std::time::Duration;

use bytes::Bytes;
use rumqttc::Outgoing;
use rumqttc::v5::mqttbytes::v5::PublishProperties;

use super::options::{ConnectOptions, Version};
use crate::cli::output;

mod error;
mod v311;
mod v5;

use error::Cause;
pub use error::ClientError;

/// The largest packet MQTT allows: 1 byte, 4 bytes of length, 256 MiB - 1.
const MAX_PACKET_BYTES: u32 = 268_435_455 + 5;

/// A broker that has not answered CONNECT by then will not.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a broker may take to close after our DISCONNECT.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// Messages waiting to be sent or to be acknowledged, as with mosquitto's clients. mosquitto 2.0 acknowledges the
/// 21st QoS 2 message in flight from an MQTT 3.1.1 client and then drops it.
pub const MAX_INFLIGHT: u16 = 20;

/// A message that came.
#[derive(Clone, Debug, Default)]
pub struct Message {
    /// MQTT 5 promises UTF-8; a broker may break its promise.
    pub topic: Bytes,
    /// Any bytes.
    pub payload: Bytes,
    /// 0 to 2.
    pub qos: u8,
    /// Whether the broker had it in store.
    pub retain: bool,
    /// Whether it may have come before.
    pub dup: bool,
    /// 0 with QoS 0.
    pub packet_id: u16,
    /// MQTT 5 only, and only if there are any.
    pub properties: Option<Box<PublishProperties>>,
}

/// What happened on the connection.
#[derive(Debug)]
pub enum Event {
    /// CONNACK: in.
    Connected,
    /// PUBLISH
    Message(Message),
    /// PUBREL for a QoS 2 message; PUBCOMP has been sent.
    Released(u16),
    /// SUBACK: a code for each filter; 128 and above are refusals.
    Subscribed(u16, Vec<u8>),
    /// PUBREC with its reason code; 128 and above end the exchange.
    Received(u16, u8),
    /// PUBACK with its reason code.
    Acknowledged(u16, u8),
    /// PUBCOMP
    Completed(u16),
    /// PINGRESP
    Alive,
    /// A packet of ours is on the wire.
    Sent(Outgoing),
    /// A packet that is none of our business.
    Other,
}

/// A message to publish.
#[derive(Clone, Debug)]
pub struct Outbound {
    /// Checked topic name.
    pub topic: String,
    /// Any bytes.
    pub payload: Bytes,
    /// 0 to 2.
    pub qos: u8,
    /// Whether the broker keeps it.
    pub retain: bool,
}

/// A connection, from CONNECT to DISCONNECT. It does not reconnect: a new one is made.
pub struct Client {
    link: Link,
    address: String,
    /// `-d`: the name to print packets under.
    log: Option<String>,
    connected: bool,
}

enum Link {
    V311(Box<v311::Link>),
    V5(Box<v5::Link>),
}

macro_rules! on_link {
    ($client:expr, $link:ident => $body:expr) => {
        match $client {
            Link::V311($link) => $body,
            Link::V5($link) => $body,
        }
    };
}

impl Client {
    /// Connects. The error says what stood in the way.
    pub async fn connect(options: &ConnectOptions) -> Result<Client, ClientError> {
        let transport = match &options.tls {
            None => rumqttc::Transport::tcp(),
            Some(tls) => {
                let config = tls.client_config().map_err(ClientError::TlsFiles)?;
                rumqttc::Transport::tls_with_config(rumqttc::TlsConfiguration::Rustls(config))
            }
        };
        let link = match options.version {
            Version::V311 => Link::V311(Box::new(v311::Link::new(options, transport))),
            Version::V5 => Link::V5(Box::new(v5::Link::new(options, transport))),
        };
        let name = if options.client_id.is_empty() { "(null)" } else { &options.client_id };
        let mut client = Client {
            link,
            address: format!("{}:{}", host_for_url(&options.host), options.port),
            log: options.debug.then(|| name.to_owned()),
            connected: false,
        };
        client.print("sending CONNECT");
        match tokio::time::timeout(CONNECT_TIMEOUT, client.next()).await {
            Err(_) => Err(ClientError::NoAnswer(client.address)),
            Ok(Err(error)) => Err(error),
            Ok(Ok(_)) => Ok(client),
        }
    }

    /// The next event. Not to be dropped half-way but at the end.
    pub async fn next(&mut self) -> Result<Event, ClientError> {
        match on_link!(&mut self.link, link => link.next().await) {
            Ok(event) => {
                self.connected |= matches!(event, Event::Connected);
                self.print_event(&event);
                Ok(event)
            }
            Err(cause) => {
                if let Cause::Refused(code) = &cause {
                    self.print(&format!("received CONNACK ({code})"));
                }
                Err(cause.describe(&self.address, self.connected))
            }
        }
    }

    /// Whether [`Client::next`] would return at once. When it would not is the time to flush.
    pub fn has_more(&self) -> bool {
        on_link!(&self.link, link => link.has_more())
    }

    /// Sends SUBSCRIBE.
    pub fn subscribe(&mut self, filters: &[String], qos: u8) {
        on_link!(&mut self.link, link => link.subscribe(filters, qos));
        for filter in filters {
            self.print(&format!("sending SUBSCRIBE (Mid: 1, Topic: {filter}, QoS: {qos}, Options: 0x00)"));
        }
    }

    /// Sends PUBACK or PUBREC. Only sessions that are kept are acknowledged by hand, so that what was not printed
    /// comes again; elsewhere this does nothing.
    pub fn acknowledge(&mut self, message: &Message) {
        on_link!(&mut self.link, link => link.acknowledge(message));
    }

    /// A handle to publish with while [`Client::next`] is under way.
    pub fn publisher(&self) -> Publisher {
        match &self.link {
            Link::V311(link) => Publisher::V311(link.sender.clone()),
            Link::V5(link) => Publisher::V5(link.sender.clone()),
        }
    }

    /// Sends DISCONNECT and waits a little for the broker to close, so that nothing on the way is lost to a reset.
    pub async fn disconnect(mut self) {
        self.print("sending DISCONNECT");
        self.log = None;
        on_link!(&mut self.link, link => link.disconnect());
        // Either the connection closes, as it should, or the time is up: the command is done in both cases.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, async { while self.next().await.is_ok() {} }).await;
    }

    /// `-d`: notes that `message` is on the wire.
    pub fn print_publish(&self, number: u64, message: &Outbound) {
        let Outbound { topic, payload, qos, retain } = message;
        let (retain, bytes) = (u8::from(*retain), payload.len());
        self.print(&format!("sending PUBLISH (d0, q{qos}, r{retain}, m{number}, '{topic}', ... ({bytes} bytes))"));
    }

    fn print(&self, line: &str) {
        if let Some(name) = &self.log {
            output::note(&format!("Client {name} {line}"));
        }
    }

    /// The packet log, line for line that of mosquitto's clients, which print it on stdout too.
    fn print_event(&self, event: &Event) {
        if self.log.is_none() {
            return;
        }
        match event {
            Event::Connected => self.print("received CONNACK (0)"),
            Event::Message(message) => self.print(&format!(
                "received PUBLISH (d{}, q{}, r{}, m{}, '{}', ... ({} bytes))",
                u8::from(message.dup),
                message.qos,
                u8::from(message.retain),
                message.packet_id,
                String::from_utf8_lossy(&message.topic),
                message.payload.len(),
            )),
            Event::Released(id) => self.print(&format!("received PUBREL (Mid: {id})")),
            Event::Subscribed(id, codes) => {
                self.print("received SUBACK");
                let codes: Vec<String> = codes.iter().map(u8::to_string).collect();
                output::note(&format!("Subscribed (mid: {id}): {}", codes.join(", ")));
            }
            Event::Received(id, _) => self.print(&format!("received PUBREC (Mid: {id})")),
            Event::Acknowledged(id, code) => self.print(&format!("received PUBACK (Mid: {id}, RC:{code})")),
            Event::Completed(id) => self.print(&format!("received PUBCOMP (Mid: {id}, RC:0)")),
            Event::Alive => self.print("received PINGRESP"),
            Event::Sent(Outgoing::PubAck(id)) => self.print(&format!("sending PUBACK (m{id}, rc0)")),
            Event::Sent(Outgoing::PubRec(id)) => self.print(&format!("sending PUBREC (m{id}, rc0)")),
            Event::Sent(Outgoing::PubRel(id)) => self.print(&format!("sending PUBREL (m{id})")),
            Event::Sent(Outgoing::PubComp(id)) => self.print(&format!("sending PUBCOMP (m{id})")),
            Event::Sent(Outgoing::PingReq) => self.print("sending PINGREQ"),
            Event::Sent(_) | Event::Other => {}
        }
    }
}

/// Publishes through a [`Client`]. No more than [`MAX_INFLIGHT`] messages may be under way.
pub enum Publisher {
    /// MQTT 3.1.1
    V311(rumqttc::AsyncClient),
    /// MQTT 5
    V5(rumqttc::v5::AsyncClient),
}

impl Publisher {
    /// Hands the message over; [`Event::Sent`] says when it is on the wire.
    pub async fn publish(&self, message: Outbound) {
        let Outbound { topic, payload, qos, retain } = message;
        // The channel has room for all that may be under way, and is closed only when the client is gone, which
        // the caller learns from the client.
        match self {
            Publisher::V311(sender) => {
                let _ = sender.publish_bytes(topic, v311::qos(qos), retain, payload).await;
            }
            Publisher::V5(sender) => {
                let _ = sender.publish_bytes(topic, v5::qos(qos), retain, payload).await;
            }
        }
    }
}

/// IPv6 addresses stand in brackets before a port.
fn host_for_url(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}
