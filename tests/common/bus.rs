//! What the tests of the bus share.

use gatepost::broker::bus::{Bus, Reader};
use gatepost::broker::message::{Draft, Envelope};
use gatepost::qos::Qos;
use gatepost::topic::TopicFilter;

pub fn filter(text: &str) -> TopicFilter {
    TopicFilter::new(text).unwrap()
}

/// A reader of `filters`.
pub fn reader(bus: &Bus, filters: &[&str]) -> Reader {
    let mut reader = bus.reader();
    filters.iter().for_each(|text| reader.subscribe(&filter(text)));
    reader
}

/// A message of QoS 1.
pub fn message<'a>(topic: &'a str, payload: &'a [u8]) -> Draft<'a> {
    let qos = Qos::AtLeastOnce;
    Draft { topic, payload, qos, retain: false, origin: 1, expires: None, properties: b"" }
}

pub fn retained(topic: &str, payload: &str) -> Envelope {
    Envelope::new(&Draft { retain: true, ..message(topic, payload.as_bytes()) })
}
