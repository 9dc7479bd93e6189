//! What the tests of the bus share.

use gatepost::broker::lane::LaneSet;
use gatepost::broker::message::{Draft, Envelope};
use gatepost::qos::Qos;
use gatepost::topic::TopicFilter;

pub fn filter(text: &str) -> TopicFilter {
    TopicFilter::new(text).unwrap()
}

pub fn lanes(text: &str) -> LaneSet {
    LaneSet::of(&filter(text))
}

/// A message of QoS 1.
pub fn message<'a>(topic: &'a str, payload: &'a [u8]) -> Draft<'a> {
    let qos = Qos::AtLeastOnce;
    Draft { topic, payload, qos, retain: false, origin: 1, expires: None, properties: b"" }
}

pub fn retained(topic: &str, payload: &str) -> Envelope {
    Envelope::new(&Draft { retain: true, ..message(topic, payload.as_bytes()) })
}
