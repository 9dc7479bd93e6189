//! MQTT clients: the one that sends commands, a storm that comes and goes, and those whose sessions are kept.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use fastrand::Rng;
use tokio::time::timeout;

use super::stage::{Stage, pause};
use crate::common::DEADLINE;
use crate::common::peer::{Link, Peer};
use crate::common::wire::{self, Connect, Publish};

/// Sends numbered commands to the devices.
pub struct Commander {
    peer: Peer,
    /// To which devices.
    targets: &'static [&'static str],
    /// By topic.
    pub sent: BTreeMap<String, u64>,
    /// Published below `$SYS`, which nobody may.
    pub refused: u64,
}

impl Commander {
    pub fn new(stage: &Stage, rng: Rng, targets: &'static [&'static str]) -> Commander {
        let peer = Peer::new(&stage.port, "commander-1".to_owned(), rng);
        Commander { peer, targets, sent: BTreeMap::new(), refused: 0 }
    }

    pub async fn round(mut self, stage: Stage, mut rng: Rng) -> Commander {
        while stage.goes_on() {
            self.peer.be_connected().await;
            let target = rng.choice(self.targets).unwrap();
            let topic = format!("soak/down/{target}");
            let number = self.sent.entry(topic.clone()).or_default();
            self.peer.publish(rng.u8(0..3), false, &topic, *number).await;
            *number += 1;
            if rng.u8(0..50) == 0 {
                self.peer.publish(1, false, "$SYS/not/yours", 0).await;
                self.refused += 1;
            }
            if rng.u8(0..8) == 0 {
                let wait = Duration::from_millis(rng.u64(0..10));
                self.peer.listen(wait).await;
            }
        }
        self.peer.settle().await;
        self.peer.ping().await;
        self
    }

    /// Commands sent to `device`.
    pub fn sent_to(&self, device: &str) -> u64 {
        self.sent.get(&format!("soak/down/{device}")).copied().unwrap_or_default()
    }
}

/// What a client of the storm did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Storm {
    pub connections: u64,
    pub acknowledged: u64,
}

impl std::ops::AddAssign for Storm {
    fn add_assign(&mut self, other: Storm) {
        self.connections += other.connections;
        self.acknowledged += other.acknowledged;
    }
}

/// Connects, publishes, and goes, again and again; what was acknowledged must have been seen.
pub async fn storm(stage: Stage, mut rng: Rng, name: String) -> Storm {
    let mut storm = Storm::default();
    let mut promised = Vec::new();
    while stage.goes_on() {
        let id = format!("{name}-{}", storm.connections);
        let connect = Connect { v5: rng.bool(), id: id.clone(), clean: true, expiry: 0, will: None };
        let topic = format!("soak/storm/{id}");
        storm.connections += 1;
        let (mut link, _) = Link::connect(&stage.port, &connect).await.expect("there is room for all");
        if let Some(count) = visit(&mut link, &connect, &mut rng, &topic).await {
            storm.acknowledged += count;
            promised.push((topic, count));
            link.send(&[0xe0, 0]).await.unwrap();
            link.until_closed().await;
        } else if rng.bool() {
            link.abort();
        }
        pause(&mut rng, Duration::from_millis(400)).await;
    }
    for (topic, count) in promised {
        stage.until_seen(&topic, count).await;
    }
    storm
}

/// Publishes a few messages; returns how many, all of them acknowledged, or nothing if it does not wait for that.
async fn visit(link: &mut Link, connect: &Connect, rng: &mut Rng, topic: &str) -> Option<u64> {
    let (qos, count) = (rng.u8(0..3), rng.u16(0..8));
    let mut bytes = BytesMut::new();
    if rng.bool() {
        wire::subscribe(&mut bytes, connect.v5, 1, &[(topic, rng.u8(0..3)), ("soak/up/torn", 0)]);
    }
    for id in 1..=count {
        let payload = Bytes::from((id - 1).to_string());
        let publish = Publish { dup: false, qos, retain: false, id, topic: topic.to_owned(), payload };
        wire::publish(&mut bytes, connect.v5, &publish);
    }
    bytes.extend_from_slice(&[0xc0, 0]);
    link.send(&bytes).await.ok()?;
    if rng.bool() {
        return None;
    }
    let (mut open, mut pong) = (if qos == 0 { 0 } else { count }, false);
    while open > 0 || !pong {
        let (first, body) = timeout(DEADLINE, link.next()).await.unwrap().unwrap();
        let mut answer = BytesMut::new();
        let id = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
        match first >> 4 {
            3 if first & 6 != 0 => {
                let topic = usize::from(id(0));
                wire::ack(&mut answer, if first & 4 == 0 { 0x40 } else { 0x50 }, id(2 + topic));
            }
            4 | 7 => open -= 1,
            5 => wire::ack(&mut answer, 0x62, id(0)),
            6 => wire::ack(&mut answer, 0x70, id(0)),
            13 => pong = true,
            _ => {}
        }
        link.send(&answer).await.ok()?;
    }
    Some(count.into())
}

/// Publishes what those with kept sessions read.
pub struct Author {
    peer: Peer,
    topics: [String; 2],
    pub written: [u64; 2],
}

impl Author {
    pub fn new(stage: &Stage, rng: Rng, index: usize) -> Author {
        let peer = Peer::new(&stage.port, format!("author-{index}"), rng);
        Author { peer, topics: [1, 2].map(|qos| format!("soak/kept/{index}/{qos}")), written: [0; 2] }
    }

    pub async fn round(mut self, stage: Stage, mut rng: Rng) -> Author {
        while stage.goes_on() {
            self.peer.be_connected().await;
            for _ in 0..rng.u8(1..100) {
                let at = rng.usize(0..2);
                self.peer.publish(at as u8 + 1, false, &self.topics[at], self.written[at]).await;
                self.written[at] += 1;
            }
            pause(&mut rng, Duration::from_millis(40)).await;
        }
        self.peer.settle().await;
        self
    }

    /// Each topic, and how many messages it has had.
    pub fn topics(&self) -> impl Iterator<Item = (String, u64)> {
        self.topics.clone().into_iter().zip(self.written)
    }
}

/// Reads it all, with breaks that are longer than its queue.
pub struct Keeper {
    peer: Peer,
    /// By topic: what comes next.
    next: BTreeMap<String, u64>,
    /// Messages that did not come.
    pub missed: u64,
    pub breaks: u64,
}

impl Keeper {
    pub async fn new(stage: &Stage, rng: Rng, index: usize) -> Keeper {
        let mut peer = Peer::new(&stage.port, format!("keeper-{index}"), rng);
        peer.subscribe(&[("soak/kept/#", 2)]).await;
        Keeper { peer, next: BTreeMap::new(), missed: 0, breaks: 0 }
    }

    pub async fn round(mut self, stage: Stage, mut rng: Rng) -> Keeper {
        while stage.goes_on() {
            self.peer.be_connected().await;
            let until = Instant::now() + Duration::from_millis(rng.u64(0..1500));
            while stage.goes_on() && Instant::now() < until {
                self.listen(Duration::from_millis(20)).await;
            }
            self.peer.vanish().await;
            self.breaks += 1;
            pause(&mut rng, Duration::from_secs(5)).await;
        }
        self
    }

    /// Reads until the last message of each of `topics` has come.
    pub async fn settle(mut self, topics: Vec<(String, u64)>) -> Keeper {
        let start = Instant::now();
        while topics.iter().any(|(topic, count)| self.next.get(topic).copied().unwrap_or_default() < *count) {
            assert!(start.elapsed() < DEADLINE, "{topics:?} have not come to their ends: {:?}", self.next);
            self.peer.be_connected().await;
            self.listen(Duration::from_millis(100)).await;
        }
        // What it has not acknowledged yet, it does now.
        self.peer.ping().await;
        self
    }

    async fn listen(&mut self, limit: Duration) {
        self.peer.listen(limit).await;
        for publish in self.peer.got.drain(..) {
            let number: u64 = std::str::from_utf8(&publish.payload).unwrap().parse().unwrap();
            let next = self.next.entry(publish.topic.clone()).or_default();
            if number < *next {
                assert!(publish.qos == 1 && publish.dup, "{} {number} came twice", publish.topic);
                continue;
            }
            self.missed += number - *next;
            *next = number + 1;
        }
    }
}
