//! Rules with the contract's defaults, for tests, benches and the fuzz target, which say only what they change.

use std::time::Duration;

use bytes::Bytes;

use crate::config::{
    CommandPayload, CommandQueue, Device, Framing, FramingKind, Gateway, Parse, Payload, PublishRule, Reconnect,
    SubscribeRule, Tcp, Transport,
};
use crate::qos::Qos;
use crate::template::Template;
use crate::topic::{TopicFilter, TopicName};

/// A gateway named `hut`.
pub fn gateway() -> Gateway {
    Gateway {
        name: "hut".to_owned(),
        state_dir: "/nonexistent".into(),
        topic: TopicName::new("gatepost/hut").expect("a valid topic"),
        control: None,
    }
}

/// A device named `board` with these rules.
pub fn device(publish: Vec<PublishRule>, subscribe: Vec<SubscribeRule>) -> Device {
    Device {
        name: "board".to_owned(),
        transport: Transport::Tcp(Tcp {
            connect: "127.0.0.1:1".to_owned(),
            connect_timeout: Duration::from_secs(10),
            keepalive: None,
        }),
        framing: Framing {
            kind: FramingKind::Lines { terminator: Bytes::from_static(b"\n"), keep_empty: false },
            max_length: 65_536,
            checksum: None,
        },
        reconnect: Reconnect { min: Duration::from_millis(500), max: Duration::from_secs(30) },
        idle_timeout: None,
        queue: CommandQueue { max: 1000, keep_while_offline: false },
        allow_loop: false,
        drop_echo: false,
        write_gap: Duration::ZERO,
        on_connect: Vec::new(),
        publish,
        subscribe,
    }
}

/// `[[device.board.publish]]` with `topic` alone.
pub fn publish(topic: &str) -> PublishRule {
    PublishRule {
        pattern: None,
        parse: Parse::None,
        topic: Template::parse(topic),
        payload: Payload::Raw,
        each_field: false,
        qos: Qos::AtLeastOnce,
        retain: false,
        on_change: false,
        min_interval: Duration::ZERO,
        continues: false,
    }
}

/// The same with `match`.
pub fn matching(pattern: &str, topic: &str) -> PublishRule {
    let pattern = regex::bytes::Regex::new(pattern).expect("the pattern is the test's own");
    PublishRule { pattern: Some(pattern), ..publish(topic) }
}

/// `[[device.board.subscribe]]` with `topic` and `write`; a level `{peer}` becomes the peer level.
pub fn subscribe(topic: &str, write: &str) -> SubscribeRule {
    SubscribeRule {
        topic: topic.to_owned(),
        filter: TopicFilter::new(topic.replace("{peer}", "+")).expect("the filter is the test's own"),
        peer_level: topic.split('/').position(|level| level == "{peer}"),
        write: Template::parse(write),
        payload: CommandPayload::Raw,
        qos: Qos::AtLeastOnce,
        accept_retained: false,
        max_age: None,
    }
}
