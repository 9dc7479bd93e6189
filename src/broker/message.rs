//! Messages and the envelope they travel in: one allocation from the publisher to every subscriber.
//!
//! ```text
//! 0      qos (bits 0-1), flags below         16  origin, u64
//! 1      0                                   24  expiry, u64: 0 never
//! 2      length of the topic, u16            32  retained version, u64
//! 4      length of the properties, u32       40  topic, properties, payload
//! 8      position, u64
//! ```
//! All numbers are little-endian. The envelope never leaves the process.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::qos::Qos;

const HEADER: usize = 40;

/// Flags in the first byte.
const RETAIN: u8 = 4;
const GATED: u8 = 8;
const VOLATILE: u8 = 16;
const FLAGS: u8 = 3 | RETAIN | GATED | VOLATILE;

/// How long a change may wait for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// Somebody waits for it: written as soon as the disk can.
    Urgent,
    /// Nobody waits: at most a second, so that what comes often is written together. Its ticket is done at once.
    Lazy,
}

/// What a publisher has to say, borrowed; [`Envelope::new`] copies it once.
#[derive(Clone, Copy, Debug)]
pub struct Draft<'a> {
    /// A valid topic name [MQTT-3.3.2-1, MQTT-3.3.2-2]; the caller has checked it.
    pub topic: &'a str,
    /// Any bytes.
    pub payload: &'a [u8],
    /// The publisher's QoS.
    pub qos: Qos,
    /// The RETAIN flag as the publisher set it.
    pub retain: bool,
    /// The session it comes from, for No Local; see [`Bus::session_number`](super::bus::Bus::session_number).
    pub origin: u64,
    /// When it ceases to be of interest (message expiry interval).
    pub expires: Option<Instant>,
    /// MQTT 5 properties to hand on, encoded as on the wire without their length: payload format indicator, content
    /// type, response topic, correlation data, user properties. Message expiry is not among them.
    pub properties: &'a [u8],
}

/// A message on its way to the bus: encoded, without its number there.
#[derive(Debug)]
pub struct Envelope {
    bytes: Vec<u8>,
    topic_end: usize,
    payload_start: usize,
    urgency: Urgency,
}

/// A message as the bus delivers it. Cheap to clone: all clones share the one allocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    bytes: Bytes,
    topic_end: usize,
    payload_start: usize,
}

/// Why bytes are not an envelope. Only a bug can make one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Shorter than its header says.
    #[error("the envelope is cut short")]
    Short,
    /// QoS 3 or an unknown flag.
    #[error("the envelope has unknown flags")]
    Flags,
    /// A topic that is not UTF-8.
    #[error("the topic in the envelope is not UTF-8")]
    Topic,
}

impl Envelope {
    /// Encodes `draft`. A topic of more than 65535 bytes is cut there; valid names are not longer.
    pub fn new(draft: &Draft<'_>) -> Envelope {
        let topic = &draft.topic.as_bytes()[..draft.topic.len().min(usize::from(u16::MAX))];
        let topic_end = HEADER + topic.len();
        let payload_start = topic_end + draft.properties.len();
        let mut bytes = Vec::with_capacity(payload_start + draft.payload.len());
        bytes.extend_from_slice(&[draft.qos as u8 | if draft.retain { RETAIN } else { 0 }, 0]);
        bytes.extend_from_slice(&(topic.len() as u16).to_le_bytes());
        bytes.extend_from_slice(&(draft.properties.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(&draft.origin.to_le_bytes());
        bytes.extend_from_slice(&draft.expires.map_or(0, ticks).to_le_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(topic);
        bytes.extend_from_slice(draft.properties);
        bytes.extend_from_slice(draft.payload);
        let urgency = if draft.qos > Qos::AtMostOnce { Urgency::Urgent } else { Urgency::Lazy };
        Envelope { bytes, topic_end, payload_start, urgency }
    }

    /// Durable readers keep it from their clients until its packet identifier is on disk: exactly once [MQTT-4.3.3-10].
    #[must_use]
    pub fn gated(mut self) -> Envelope {
        self.bytes[0] |= GATED;
        self
    }

    /// If it is retained, nobody waits for the disk.
    #[must_use]
    pub fn lazy(mut self) -> Envelope {
        self.urgency = Urgency::Lazy;
        self
    }

    /// If it is retained, it is not for the disk: it says what is so while the gateway runs.
    #[must_use]
    pub fn volatile(mut self) -> Envelope {
        self.bytes[0] |= VOLATILE;
        self
    }

    /// How long the disk may take to have it, if it is retained. QoS 0 has time, for it is not acknowledged.
    pub(super) fn urgency(&self) -> Urgency {
        self.urgency
    }

    /// The publisher's QoS.
    pub fn qos(&self) -> Qos {
        Qos::from_u8(self.bytes[0] & 3).unwrap_or_default()
    }

    /// Its size in bytes, header, topic and properties included.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// The topic name.
    pub fn topic(&self) -> &str {
        std::str::from_utf8(&self.bytes[HEADER..self.topic_end]).unwrap_or_default()
    }

    /// The payload.
    pub fn payload(&self) -> &[u8] {
        &self.bytes[self.payload_start..]
    }

    /// The RETAIN flag.
    pub fn retain(&self) -> bool {
        self.bytes[0] & RETAIN != 0
    }

    /// Closes it: `position` is its number on the bus, `retained_version` as in [`Message::retained_version`].
    pub(super) fn seal(mut self, position: u64, retained_version: u64) -> Bytes {
        self.bytes[8..16].copy_from_slice(&position.to_le_bytes());
        self.bytes[32..40].copy_from_slice(&retained_version.to_le_bytes());
        Bytes::from(self.bytes)
    }
}

impl Message {
    /// Takes an envelope apart without copying.
    pub fn decode(bytes: Bytes) -> Result<Message, EnvelopeError> {
        let header: &[u8; HEADER] = bytes.first_chunk().ok_or(EnvelopeError::Short)?;
        if header[0] & 3 == 3 || header[0] & !FLAGS != 0 || header[1] != 0 {
            return Err(EnvelopeError::Flags);
        }
        let topic_end = HEADER + usize::from(u16::from_le_bytes([header[2], header[3]]));
        let properties = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
        let payload_start = topic_end.checked_add(properties).ok_or(EnvelopeError::Short)?;
        if payload_start > bytes.len() {
            return Err(EnvelopeError::Short);
        }
        std::str::from_utf8(&bytes[HEADER..topic_end]).map_err(|_| EnvelopeError::Topic)?;
        Ok(Message { bytes, topic_end, payload_start })
    }

    /// The topic name.
    pub fn topic(&self) -> &str {
        // Checked by `decode`; to check again costs some nanoseconds, to keep a `str` beside its bytes would need unsafe code.
        std::str::from_utf8(&self.bytes[HEADER..self.topic_end]).unwrap_or_default()
    }

    /// The payload, in the same allocation.
    pub fn payload(&self) -> Bytes {
        self.bytes.slice(self.payload_start..)
    }

    /// The payload, borrowed.
    pub fn payload_bytes(&self) -> &[u8] {
        &self.bytes[self.payload_start..]
    }

    /// The MQTT 5 properties that go with it; see [`Draft::properties`].
    pub fn properties(&self) -> &[u8] {
        &self.bytes[self.topic_end..self.payload_start]
    }

    /// The publisher's QoS.
    pub fn qos(&self) -> Qos {
        Qos::from_u8(self.bytes[0] & 3).unwrap_or_default()
    }

    /// The RETAIN flag as the publisher set it.
    pub fn retain(&self) -> bool {
        self.bytes[0] & RETAIN != 0
    }

    /// See [`Envelope::gated`].
    pub fn is_gated(&self) -> bool {
        self.bytes[0] & GATED != 0
    }

    /// See [`Envelope::volatile`].
    pub fn is_volatile(&self) -> bool {
        self.bytes[0] & VOLATILE != 0
    }

    /// The session it comes from.
    pub fn origin(&self) -> u64 {
        self.number(16)
    }

    /// When it ceases to be of interest.
    pub fn expires(&self) -> Option<Instant> {
        instant(self.number(24))
    }

    /// The version that the retained store gave it; 0: it was not retained.
    pub fn retained_version(&self) -> u64 {
        self.number(32)
    }

    /// Its size in bytes, envelope included: what it costs to keep.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Its number on the bus, from 1; 0: nobody read it.
    pub(super) fn position(&self) -> u64 {
        self.number(8)
    }

    fn number(&self, at: usize) -> u64 {
        let mut number = [0; 8];
        number.copy_from_slice(&self.bytes[at..at + 8]);
        u64::from_le_bytes(number)
    }
}

/// Where the expiry times in envelopes count from.
fn epoch() -> Instant {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    *EPOCH.get_or_init(Instant::now)
}

/// Nanoseconds since [`epoch`], plus one; a time before it counts as the epoch.
fn ticks(instant: Instant) -> u64 {
    u64::try_from(instant.saturating_duration_since(epoch()).as_nanos())
        .map_or(u64::MAX, |ticks| ticks.saturating_add(1))
}

fn instant(ticks: u64) -> Option<Instant> {
    epoch().checked_add(Duration::from_nanos(ticks.checked_sub(1)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn qos() -> impl Strategy<Value = Qos> {
        prop_oneof![Just(Qos::AtMostOnce), Just(Qos::AtLeastOnce), Just(Qos::ExactlyOnce)]
    }

    fn draft<'a>(topic: &'a str, payload: &'a [u8]) -> Draft<'a> {
        Draft { topic, payload, qos: Qos::AtMostOnce, retain: false, origin: 1, expires: None, properties: b"p" }
    }

    proptest! {
        #[test]
        fn a_message_comes_out_as_it_went_in(
            topic in "\\PC{1,40}", payload: Vec<u8>, properties in prop::collection::vec(any::<u8>(), 0..40), qos in qos(),
            retain: bool, origin: u64, expires in prop::option::of(0u64..1 << 40), position: u64, version: u64,
        ) {
            let expires = expires.map(|nanoseconds| epoch() + Duration::from_nanos(nanoseconds));
            let draft = Draft { topic: &topic, payload: &payload, qos, retain, origin, expires, properties: &properties };
            let envelope = Envelope::new(&draft);
            prop_assert_eq!((envelope.topic(), envelope.payload(), envelope.retain()), (topic.as_str(), &payload[..], retain));
            prop_assert_eq!(envelope.qos(), qos);
            let size = envelope.size();
            let message = Message::decode(envelope.seal(position, version)).unwrap();
            prop_assert_eq!((message.topic(), message.payload_bytes()), (topic.as_str(), &payload[..]));
            prop_assert_eq!(&message.payload()[..], &payload[..]);
            prop_assert_eq!(message.properties(), &properties[..]);
            prop_assert_eq!((message.qos(), message.retain(), message.origin()), (qos, retain, origin));
            prop_assert_eq!((message.expires(), message.position(), message.retained_version()), (expires, position, version));
            prop_assert_eq!(message.size(), size);
        }

        #[test]
        fn no_bytes_make_decode_panic(bytes: Vec<u8>) {
            let _ = Message::decode(Bytes::from(bytes));
        }

        #[test]
        fn no_damaged_envelope_makes_decode_panic(at in 0usize..HEADER + 6, value: u8, len in 0usize..HEADER + 7) {
            let mut bytes = Envelope::new(&draft("\u{fc}", b"pay")).seal(1, 1).to_vec();
            bytes[at] = value;
            bytes.truncate(len);
            if let Ok(message) = Message::decode(Bytes::from(bytes)) {
                let _ = (message.topic(), message.payload(), message.properties(), message.expires());
            }
        }
    }

    #[test]
    fn what_is_not_an_envelope_is_refused() {
        let good = Envelope::new(&draft("\u{fc}", b"")).seal(0, 0).to_vec();
        let damaged = |at: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[at] = value;
            Message::decode(Bytes::from(bytes)).unwrap_err()
        };
        assert_eq!(damaged(0, 3), EnvelopeError::Flags);
        assert_eq!(damaged(0, 32), EnvelopeError::Flags);
        assert_eq!(damaged(1, 1), EnvelopeError::Flags);
        assert_eq!(damaged(2, 3), EnvelopeError::Short);
        assert_eq!(damaged(7, 255), EnvelopeError::Short);
        assert_eq!(damaged(2, 1), EnvelopeError::Topic);
        assert_eq!(Message::decode(Bytes::from_static(b"short")), Err(EnvelopeError::Short));
    }

    #[test]
    fn topic_and_payload_share_one_allocation_with_the_envelope() {
        let bytes = Envelope::new(&draft("a", b"1")).seal(0, 0);
        let whole = bytes.as_ptr_range();
        let message = Message::decode(bytes).unwrap();
        assert!(whole.contains(&message.topic().as_ptr()) && whole.contains(&message.payload().as_ptr()));
    }
}
