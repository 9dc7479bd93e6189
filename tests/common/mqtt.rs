//! A rumqttc client for tests: connect, subscribe, publish, wait for a message.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rumqttc::{Client, Event, LastWill, MqttOptions, Packet, QoS};

use super::DEADLINE;

/// An MQTT 3.1.1 client. Dropping it disconnects.
pub struct Mqtt {
    client: Client,
    events: Receiver<Happened>,
    /// Messages that came while something else was waited for.
    early: RefCell<VecDeque<Received>>,
    pump: Option<JoinHandle<()>>,
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    pub topic: String,
    pub payload: Vec<u8>,
    pub qos: u8,
    pub retain: bool,
}

impl Received {
    /// The payload as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.payload).into_owned()
    }
}

enum Happened {
    Connected { session_present: bool },
    Subscribed,
    Acknowledged,
    Message(Received),
    Ended(String),
}

impl Mqtt {
    /// A clean session with an id of its own.
    pub fn connect(port: u16) -> Mqtt {
        let id = format!("test-{:?}-{}", std::thread::current().id(), fastrand::u32(..));
        Mqtt::connect_with(port, &id, true, None).0
    }

    /// Returns whether a session was present, too.
    pub fn connect_with(port: u16, id: &str, clean: bool, will: Option<LastWill>) -> (Mqtt, bool) {
        let mut options = MqttOptions::new(id, "127.0.0.1", port);
        options.set_keep_alive(Duration::from_secs(60)).set_clean_session(clean);
        options.set_max_packet_size(4 << 20, 4 << 20).set_inflight(100);
        if let Some(will) = will {
            options.set_last_will(will);
        }
        let (client, mut connection) = Client::new(options, 1000);
        let (sender, events) = channel();
        let pump = std::thread::spawn(move || {
            for event in connection.iter() {
                if !forward(event, &sender) {
                    break;
                }
            }
        });
        let mqtt = Mqtt { client, events, early: RefCell::default(), pump: Some(pump) };
        let present = match mqtt.wait("CONNACK", |event| matches!(event, Happened::Connected { .. })) {
            Happened::Connected { session_present } => session_present,
            _ => unreachable!(),
        };
        (mqtt, present)
    }

    /// Connects and subscribes at QoS 1.
    pub fn subscriber(port: u16, filter: &str) -> Mqtt {
        let mqtt = Mqtt::connect(port);
        mqtt.subscribe(filter, 1);
        mqtt
    }

    /// Returns after SUBACK.
    pub fn subscribe(&self, filter: &str, qos: u8) {
        self.client.subscribe(filter, rumqttc::qos(qos).unwrap()).unwrap();
        self.wait("SUBACK", |event| matches!(event, Happened::Subscribed));
    }

    /// Returns after PUBACK (QoS 1) or PUBCOMP (QoS 2).
    pub fn publish(&self, topic: &str, payload: impl Into<Vec<u8>>, qos: u8) {
        self.publish_with(topic, payload, qos, false);
    }

    /// As [`Mqtt::publish`], with the retain flag.
    pub fn retain(&self, topic: &str, payload: impl Into<Vec<u8>>) {
        self.publish_with(topic, payload, 1, true);
    }

    fn publish_with(&self, topic: &str, payload: impl Into<Vec<u8>>, qos: u8, retain: bool) {
        let level: QoS = rumqttc::qos(qos).unwrap();
        self.client.publish(topic, level, retain, payload.into()).unwrap();
        if qos > 0 {
            self.wait("PUBACK or PUBCOMP", |event| matches!(event, Happened::Acknowledged));
        }
    }

    /// The next message.
    pub fn receive(&self) -> Received {
        self.next_message(DEADLINE).expect("a message")
    }

    /// Skips messages until one is on `topic` with `payload`.
    pub fn expect(&self, topic: &str, payload: impl AsRef<[u8]>) -> Received {
        let mut skipped = Vec::new();
        let start = Instant::now();
        while start.elapsed() < DEADLINE {
            match self.next_message(DEADLINE.saturating_sub(start.elapsed())) {
                Some(message) if message.topic == topic && message.payload == payload.as_ref() => return message,
                Some(message) => skipped.push(format!("{} {}", message.topic, message.text())),
                None => break,
            }
        }
        panic!("no {:?} on {topic}; got {skipped:#?}", String::from_utf8_lossy(payload.as_ref()));
    }

    /// The next message within `limit`, if one comes and the connection stays.
    pub fn next_message(&self, limit: Duration) -> Option<Received> {
        if let Some(message) = self.early.borrow_mut().pop_front() {
            return Some(message);
        }
        let start = Instant::now();
        loop {
            match self.events.recv_timeout(limit.saturating_sub(start.elapsed())) {
                Ok(Happened::Message(message)) => return Some(message),
                Ok(Happened::Ended(_)) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// The next event that is `wanted`; messages before it are kept for later.
    fn wait(&self, what: &str, wanted: impl Fn(&Happened) -> bool) -> Happened {
        let start = Instant::now();
        loop {
            match self.events.recv_timeout(DEADLINE.saturating_sub(start.elapsed())) {
                Ok(event) if wanted(&event) => return event,
                Ok(Happened::Message(message)) => self.early.borrow_mut().push_back(message),
                Ok(Happened::Ended(why)) => panic!("connection ended before {what}: {why}"),
                Ok(_) => {}
                Err(error) => panic!("no {what}: {error}"),
            }
        }
    }
}

impl Drop for Mqtt {
    fn drop(&mut self) {
        let _ = self.client.try_disconnect();
        if let Some(pump) = self.pump.take() {
            let _ = pump.join();
        }
    }
}

/// False when the connection is over.
fn forward(event: Result<Event, rumqttc::ConnectionError>, sender: &Sender<Happened>) -> bool {
    let happened = match event {
        Ok(Event::Incoming(Packet::ConnAck(ack))) => Happened::Connected { session_present: ack.session_present },
        Ok(Event::Incoming(Packet::SubAck(_))) => Happened::Subscribed,
        Ok(Event::Incoming(Packet::PubAck(_) | Packet::PubComp(_))) => Happened::Acknowledged,
        Ok(Event::Incoming(Packet::Publish(publish))) => Happened::Message(Received {
            topic: publish.topic,
            payload: publish.payload.to_vec(),
            qos: publish.qos as u8,
            retain: publish.retain,
        }),
        Ok(_) => return true,
        Err(error) => Happened::Ended(error.to_string()),
    };
    let ended = matches!(happened, Happened::Ended(_));
    sender.send(happened).is_ok() && !ended
}
