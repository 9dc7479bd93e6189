//! How messages, sessions and subscriptions look on disk. Pure.
//!
//! Every value begins with a check sum over itself and the key it stands under, for SQLite has none: what the disk made
//! of it is found. Numbers are little-endian; lengths and intervals are variable (7 bits a byte, the lowest first).

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crc::{CRC_32_ISCSI, Crc};

use super::change::{RowId, SessionId, SessionRecord, StoredMessage, StoredSubscription};
use crate::broker::message::{Draft, Envelope, Message};
use crate::broker::packet::SubscriptionIds;
use crate::broker::packet::are_forwardable;
use crate::broker::session_expiry::SessionExpiry;
use crate::broker::subscriptions::{RetainHandling, SubscriptionOptions};
use crate::qos::Qos;
use crate::topic::TopicName;

pub(super) use will::{decode_will, will};

mod will;

const CRC32: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);
/// Bytes of the check sum.
const SUM: usize = 4;

/// The two clocks at one moment: deadlines are monotonic in memory and wall-clock on disk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    pub(super) now: Instant,
    /// Milliseconds since 1970.
    pub(super) wall: u64,
}

/// What stands on disk is not what was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Damage {
    #[error("its check sum is wrong")]
    Sum,
    #[error("it cannot be read")]
    Form,
    /// It is what was written, by a version that took this topic for a topic name, or its properties for ones to send on.
    #[error("{0:?} is no topic name, or its message has properties that are not sent on")]
    Unfit(Arc<str>),
}

/// How far a row came, without its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Queued,
    Sent(u16),
    Released(u16),
}

impl Clock {
    /// Both clocks now.
    pub(super) fn read() -> Clock {
        Clock { now: Instant::now(), wall: millis(SystemTime::now()) }
    }
}

/// Milliseconds since 1970; 0 before.
fn millis(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

// --- messages

const RETAIN: u8 = 1 << 2;
const EXPIRES: u8 = 1 << 3;
const OUTGOING_RETAIN: u8 = 1 << 4;
const OUTGOING_QOS: u32 = 5;
const MORE: u8 = 1 << 7;

/// A retained message, without its topic, which is its key.
pub(super) fn retained(message: &Message, clock: Clock) -> Vec<u8> {
    let mut out = Output::new(message.payload_bytes().len() + message.properties().len() + 32);
    out.byte(message_flags(message));
    out.rest_of_message(message, clock);
    out.sealed(&[message.topic().as_bytes()])
}

/// The reverse of [`retained`].
pub(super) fn decode_retained(topic: &str, bytes: &[u8], clock: Clock) -> Result<Message, Damage> {
    let mut input = Input::open(bytes, &[topic.as_bytes()])?;
    let flags = input.byte()?;
    input.message(topic, flags, clock)
}

/// A row of a queue.
pub(super) fn queued(row: RowId, session: SessionId, outgoing: &StoredMessage, clock: Clock) -> Vec<u8> {
    let StoredMessage { message, qos, retain, ids, share } = outgoing;
    let more = share.is_some() || ids.iter().next().is_some();
    let mut out = Output::new(message.size() + 32);
    out.byte(
        message_flags(message)
            | if *retain { OUTGOING_RETAIN } else { 0 }
            | (*qos as u8) << OUTGOING_QOS
            | if more { MORE } else { 0 },
    );
    out.text(message.topic());
    if more {
        out.number(ids.iter().count() as u64);
        ids.iter().for_each(|id| out.number(id.into()));
        out.text(share.as_deref().unwrap_or_default());
    }
    out.rest_of_message(message, clock);
    out.sealed(&[&row.get().to_le_bytes(), &session.get().to_le_bytes()])
}

/// The reverse of [`queued`].
pub(super) fn decode_queued(
    row: RowId,
    session: SessionId,
    bytes: &[u8],
    clock: Clock,
) -> Result<StoredMessage, Damage> {
    let mut input = Input::open(bytes, &[&row.get().to_le_bytes(), &session.get().to_le_bytes()])?;
    let flags = input.byte()?;
    let topic = input.text()?;
    let (mut ids, mut share) = (SubscriptionIds::default(), None);
    if flags & MORE != 0 {
        let count = input.number()?;
        ids = (0..count).map(|_| input.small()).collect::<Result<SubscriptionIds, Damage>>()?;
        share = Some(input.text()?).filter(|share| !share.is_empty()).map(Arc::from);
    }
    let qos = Qos::from_u8((flags >> OUTGOING_QOS) & 3).ok_or(Damage::Form)?;
    let message = input.message(topic, flags, clock)?;
    Ok(StoredMessage { message, qos, retain: flags & OUTGOING_RETAIN != 0, ids, share })
}

fn message_flags(message: &Message) -> u8 {
    message.qos() as u8
        | if message.retain() { RETAIN } else { 0 }
        | if message.expires().is_some() { EXPIRES } else { 0 }
}

// --- numbers with a check sum in them

/// What a row's stage is on disk: always 6 bytes, so that another one is written over it in place, message untouched.
pub(super) fn stage(row: RowId, session: SessionId, stage: Stage) -> i64 {
    let (phase, packet_id) = match stage {
        Stage::Queued => (0u64, 0),
        Stage::Sent(packet_id) => (1, packet_id),
        Stage::Released(packet_id) => (2, packet_id),
    };
    let value = phase << 16 | u64::from(packet_id);
    // 46 bits at most; the highest makes it 6 bytes long.
    (1 << 45 | (sum_of(&[row.get(), session.get(), value]) & 0xFF_FFFF) << 20 | value) as i64
}

/// The reverse of [`stage`].
pub(super) fn decode_stage(row: RowId, session: SessionId, number: i64) -> Result<Stage, Damage> {
    let packet_id = (number & 0xFFFF) as u16;
    let found = match (number >> 16) & 0xF {
        0 => Stage::Queued,
        1 => Stage::Sent(packet_id),
        _ => Stage::Released(packet_id),
    };
    if stage(row, session, found) == number { Ok(found) } else { Err(Damage::Sum) }
}

/// The key of a received identifier, and the check sum that stands beside it.
pub(super) fn received(session: SessionId, packet_id: u16) -> (i64, i64) {
    let key = session.get() << 16 | u64::from(packet_id);
    (key as i64, sum_of(&[key]) as i64)
}

/// The reverse of [`received`].
pub(super) fn decode_received(key: i64, sum: i64) -> Result<(SessionId, u16), Damage> {
    if sum != sum_of(&[key as u64]) as i64 {
        return Err(Damage::Sum);
    }
    Ok((SessionId(key as u64 >> 16), key as u16))
}

fn sum_of(numbers: &[u64]) -> u64 {
    let mut digest = CRC32.digest();
    numbers.iter().for_each(|number| digest.update(&number.to_le_bytes()));
    digest.finalize().into()
}

// --- sessions

const NEVER: u8 = 1;
const ENDED: u8 = 2;
const NAMED: u8 = 4;

/// A session's client id and record.
pub(super) fn session(session: SessionId, client_id: &str, record: &SessionRecord) -> Vec<u8> {
    let mut out = Output::new(client_id.len() + 32);
    out.record(record);
    out.text(client_id);
    out.sealed(&[&session.get().to_le_bytes()])
}

/// The reverse of [`session`].
pub(super) fn decode_session(session: SessionId, bytes: &[u8]) -> Result<(Arc<str>, SessionRecord), Damage> {
    let mut input = Input::open(bytes, &[&session.get().to_le_bytes()])?;
    let record = input.record()?;
    Ok((Arc::from(input.text()?), record))
}

/// A subscription without its filter, which is its key.
pub(super) fn subscription(session: SessionId, subscription: &StoredSubscription) -> Vec<u8> {
    let StoredSubscription { filter, options, id } = subscription;
    let mut out = Output::new(16);
    // As in SUBSCRIBE (MQTT 5.0, section 3.8.3.1).
    let handling = match options.retain_handling {
        RetainHandling::Always => 0,
        RetainHandling::IfNew => 1,
        RetainHandling::Never => 2,
    };
    out.byte(
        options.qos as u8
            | u8::from(options.no_local) << 2
            | u8::from(options.retain_as_published) << 3
            | handling << 4,
    );
    out.number(id.unwrap_or(0).into());
    out.sealed(&[&session.get().to_le_bytes(), filter.as_bytes()])
}

/// The reverse of [`subscription`].
pub(super) fn decode_subscription(
    session: SessionId,
    filter: &str,
    bytes: &[u8],
) -> Result<StoredSubscription, Damage> {
    let mut input = Input::open(bytes, &[&session.get().to_le_bytes(), filter.as_bytes()])?;
    let flags = input.byte()?;
    let retain_handling = match flags >> 4 {
        0 => RetainHandling::Always,
        1 => RetainHandling::IfNew,
        2 => RetainHandling::Never,
        _ => return Err(Damage::Form),
    };
    let options = SubscriptionOptions {
        qos: Qos::from_u8(flags & 3).ok_or(Damage::Form)?,
        no_local: flags & 4 != 0,
        retain_as_published: flags & 8 != 0,
        retain_handling,
    };
    let id = Some(input.small::<u32>()?).filter(|&id| id != 0);
    Ok(StoredSubscription { filter: filter.into(), options, id })
}

// --- bytes

struct Output(Vec<u8>);

impl Output {
    fn new(capacity: usize) -> Output {
        let mut bytes = Vec::with_capacity(SUM + capacity);
        bytes.extend_from_slice(&[0; SUM]);
        Output(bytes)
    }

    fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.byte(number as u8 | 0x80);
            number >>= 7;
        }
        self.byte(number as u8);
    }

    fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.0.extend_from_slice(text.as_bytes());
    }

    fn record(&mut self, record: &SessionRecord) {
        let SessionRecord { expiry, username, ended_at } = record;
        let never = if *expiry == SessionExpiry::Never { NEVER } else { 0 };
        let ended = if ended_at.is_some() { ENDED } else { 0 };
        self.byte(never | ended | if username.is_some() { NAMED } else { 0 });
        if let SessionExpiry::After(after) = expiry {
            self.number(after.as_secs());
        }
        if let Some(time) = ended_at {
            self.number(millis(*time));
        }
        if let Some(username) = username {
            self.text(username);
        }
    }

    /// Expiry, properties, payload.
    fn rest_of_message(&mut self, message: &Message, clock: Clock) {
        if let Some(expires) = message.expires() {
            let left = expires.saturating_duration_since(clock.now).as_millis() as u64;
            self.number(clock.wall.saturating_add(left));
            self.number(left);
        }
        self.number(message.properties().len() as u64);
        self.0.extend_from_slice(message.properties());
        self.0.extend_from_slice(message.payload_bytes());
    }

    fn sealed(mut self, key: &[&[u8]]) -> Vec<u8> {
        let sum = sum(key, &self.0[SUM..]);
        self.0[..SUM].copy_from_slice(&sum);
        self.0
    }
}

fn sum(key: &[&[u8]], value: &[u8]) -> [u8; SUM] {
    let mut digest = CRC32.digest();
    key.iter().for_each(|part| digest.update(part));
    digest.update(value);
    digest.finalize().to_le_bytes()
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn open(bytes: &'a [u8], key: &[&[u8]]) -> Result<Input<'a>, Damage> {
        let (stored, value) = bytes.split_first_chunk::<SUM>().ok_or(Damage::Form)?;
        if *stored == sum(key, value) { Ok(Input(value)) } else { Err(Damage::Sum) }
    }

    fn byte(&mut self) -> Result<u8, Damage> {
        let (&byte, rest) = self.0.split_first().ok_or(Damage::Form)?;
        self.0 = rest;
        Ok(byte)
    }

    fn number(&mut self) -> Result<u64, Damage> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Damage::Form)
    }

    fn small<T: TryFrom<u64>>(&mut self) -> Result<T, Damage> {
        T::try_from(self.number()?).map_err(|_| Damage::Form)
    }

    fn bytes(&mut self) -> Result<&'a [u8], Damage> {
        let length = self.small()?;
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(Damage::Form)?;
        self.0 = rest;
        Ok(bytes)
    }

    fn text(&mut self) -> Result<&'a str, Damage> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Damage::Form)
    }

    fn record(&mut self) -> Result<SessionRecord, Damage> {
        let flags = self.byte()?;
        let expiry = match flags & NEVER {
            0 => SessionExpiry::After(Duration::from_secs(self.small::<u32>()?.into())),
            _ => SessionExpiry::Never,
        };
        let mut ended_at = None;
        if flags & ENDED != 0 {
            let millis = Duration::from_millis(self.number()?);
            ended_at = Some(UNIX_EPOCH.checked_add(millis).ok_or(Damage::Form)?);
        }
        let username = if flags & NAMED != 0 { Some(Arc::from(self.text()?)) } else { None };
        Ok(SessionRecord { expiry, username, ended_at })
    }

    /// What is left of it is the message.
    fn message(mut self, topic: &str, flags: u8, clock: Clock) -> Result<Message, Damage> {
        let expires = if flags & EXPIRES != 0 {
            let (deadline, interval) = (self.number()?, self.number()?);
            let left = deadline.saturating_sub(clock.wall).min(interval);
            Some(clock.now.checked_add(Duration::from_millis(left)).ok_or(Damage::Form)?)
        } else {
            None
        };
        let properties = self.bytes()?;
        if TopicName::check(topic).is_err() || !are_forwardable(properties) {
            return Err(Damage::Unfit(topic.into()));
        }
        let draft = Draft {
            topic,
            payload: self.0,
            qos: Qos::from_u8(flags & 3).ok_or(Damage::Form)?,
            retain: flags & RETAIN != 0,
            origin: 0,
            expires,
            properties,
        };
        Message::decode(Envelope::new(&draft).seal(0, 0)).map_err(|_| Damage::Form)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::num::NonZeroU64;

    use super::super::change::WillId;
    use super::super::fixture::{clock, draft_message, outgoing, record, stored_subscription, stored_will};
    use super::*;

    #[test]
    fn what_would_not_be_taken_today_is_told_from_damage() {
        let decode = |topic: &str, properties: &[u8]| {
            let (payload, qos) = (b"x", Qos::AtLeastOnce);
            let draft = Draft { topic, payload, qos, retain: true, origin: 0, expires: None, properties };
            let message = Message::decode(Envelope::new(&draft).seal(0, 0)).unwrap();
            decode_retained(topic, &retained(&message, clock(0)), clock(0)).map(|message| message.topic().to_owned())
        };
        let unfit = |topic: &str| Err(Damage::Unfit(topic.into()));
        assert_eq!(decode("a/b", b"\x26\0\x01k\0\x01v\x03\0\x01t"), Ok("a/b".to_owned()));
        for topic in ["a\u{1b}", "a\u{9b}", "\u{ffff}", "a/+", "", &"/".repeat(201)] {
            assert_eq!(decode(topic, b""), unfit(topic));
        }
        for properties in [&b"\x26\0\x01k\0\x01\n"[..], b"\x03\0\x01\t", b"\x08\0\x01\x07", b"\x08", b"\x02\0\0\0\x01"]
        {
            assert_eq!(decode("a/b", properties), unfit("a/b"), "{properties:?}");
        }
    }

    const DAY: u64 = 24 * 3600 * 1000;

    fn row(number: u64) -> RowId {
        RowId(NonZeroU64::new(number).unwrap())
    }

    proptest! {
        #[test]
        fn what_is_decoded_is_what_was_encoded(
            outgoing in outgoing(), number in 1..u64::MAX, id in 0..1u64 << 47, packet_id: u16,
            record in record(), client_id in "\\PC{0,30}", sub in stored_subscription(),
            stored in stored_will(),
        ) {
            let (session_id, row) = (SessionId(id), row(number));
            let bytes = queued(row, session_id, &outgoing, clock(0));
            prop_assert_eq!(decode_queued(row, session_id, &bytes, clock(0)).unwrap(), outgoing.clone());
            let message = &outgoing.message;
            let bytes = retained(message, clock(0));
            prop_assert_eq!(&decode_retained(message.topic(), &bytes, clock(0)).unwrap(), message);
            for wanted in [Stage::Queued, Stage::Sent(packet_id), Stage::Released(packet_id)] {
                let number = stage(row, session_id, wanted);
                prop_assert!((1 << 32..1 << 47).contains(&number), "always six bytes");
                prop_assert_eq!(decode_stage(row, session_id, number), Ok(wanted));
                prop_assert!(decode_stage(row, session_id, number ^ 1 << (packet_id % 47)).is_err());
            }
            let (key, sum) = received(session_id, packet_id);
            prop_assert_eq!(decode_received(key, sum), Ok((session_id, packet_id)));
            let will_id = WillId(id);
            prop_assert_eq!(decode_will(will_id, &will(will_id, &stored)).unwrap(), stored);
            let bytes = session(session_id, &client_id, &record);
            prop_assert_eq!(decode_session(session_id, &bytes), Ok((Arc::from(client_id), record)));
            let bytes = subscription(session_id, &sub);
            prop_assert_eq!(decode_subscription(session_id, &sub.filter, &bytes), Ok(sub));
        }

        #[test]
        fn a_flipped_bit_is_found(outgoing in outgoing(), at: prop::sample::Index, bit in 0u8..8) {
            let mut bytes = queued(row(1), SessionId(1), &outgoing, clock(0));
            prop_assert!(decode_queued(row(2), SessionId(1), &bytes, clock(0)).is_err());
            prop_assert!(decode_queued(row(1), SessionId(2), &bytes, clock(0)).is_err());
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert_eq!(decode_queued(row(1), SessionId(1), &bytes, clock(0)), Err(Damage::Sum));
        }

        /// Also with the right check sum.
        #[test]
        fn no_bytes_make_it_panic(mut bytes: Vec<u8>, seal: bool) {
            let key: [&[u8]; 1] = [&1u64.to_le_bytes()];
            if seal && bytes.len() >= SUM {
                let sum = sum(&key, &bytes[SUM..]);
                bytes[..SUM].copy_from_slice(&sum);
            }
            let _ = decode_session(SessionId(1), &bytes);
            let _ = decode_will(WillId(1), &bytes);
            let _ = decode_subscription(SessionId(1), "", &bytes);
            if let Ok(input) = Input::open(&bytes, &key) {
                let _ = Input(input.0).message("a", EXPIRES, clock(0));
                let _ = Input(input.0).text();
            }
        }
    }

    /// How much is left of an expiry interval, `written` with 60 s left at a day after 1970, and read then.
    fn left(read_at: u64) -> u128 {
        let expires = Some(clock(DAY).now + Duration::from_secs(60));
        let message = draft_message("a", b"1", Qos::AtLeastOnce, expires);
        let bytes = retained(&message, clock(DAY));
        let found = decode_retained("a", &bytes, clock(read_at)).unwrap();
        found.expires().unwrap().duration_since(clock(read_at).now).as_millis()
    }

    #[test]
    fn time_goes_on_while_the_gateway_is_down() {
        assert_eq!(left(DAY), 60_000);
        assert_eq!(left(DAY + 20_000), 40_000);
        assert_eq!(left(DAY + 90_000), 0);
    }

    #[test]
    fn a_clock_that_was_set_back_prolongs_nothing() {
        assert_eq!(left(DAY - 1000), 60_000);
        assert_eq!(left(0), 60_000);
    }

    #[test]
    fn a_small_message_takes_few_bytes_beyond_its_own() {
        let message = draft_message("a/b", b"12345", Qos::AtLeastOnce, None);
        assert_eq!(retained(&message, clock(0)).len(), 5 + 6);
    }
}
