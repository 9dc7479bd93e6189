//! What the tests of the store put into it.

use std::sync::OnceLock;
use std::time::{Duration, Instant, UNIX_EPOCH};

use proptest::prelude::*;

use bytes::Bytes;

use super::change::{SessionRecord, StoredMessage, StoredSubscription, StoredWill};
use super::encode::Clock;
use crate::broker::message::{Draft, Envelope, Message};
use crate::broker::packet::WillRequest;
use crate::broker::session_expiry::SessionExpiry;
use crate::broker::subscriptions::{RetainHandling, SubscriptionOptions};
use crate::qos::Qos;

/// One moment, and `wall` milliseconds since 1970.
pub(super) fn clock(wall: u64) -> Clock {
    static NOW: OnceLock<Instant> = OnceLock::new();
    Clock { now: *NOW.get_or_init(Instant::now), wall }
}

pub(super) fn draft_message(topic: &str, payload: &[u8], qos: Qos, expires: Option<Instant>) -> Message {
    let draft = Draft { topic, payload, qos, retain: true, origin: 0, expires, properties: b"" };
    Message::decode(Envelope::new(&draft).seal(0, 0)).unwrap()
}

pub(super) fn stored(topic: &str, payload: &[u8]) -> StoredMessage {
    let (message, qos) = (draft_message(topic, payload, Qos::ExactlyOnce, None), Qos::ExactlyOnce);
    StoredMessage { message, qos, retain: false, ids: [].into_iter().collect(), share: None }
}

pub(super) fn connected() -> SessionRecord {
    SessionRecord { expiry: SessionExpiry::Never, username: None, ended_at: None }
}

pub(super) fn qos() -> impl Strategy<Value = Qos> {
    prop_oneof![Just(Qos::AtMostOnce), Just(Qos::AtLeastOnce), Just(Qos::ExactlyOnce)]
}

fn message() -> impl Strategy<Value = Message> {
    let topic = "[^+#\\p{C}]{1,20}";
    let bytes = || prop::collection::vec(any::<u8>(), 0..60);
    // Correlation data, or none.
    let properties = bytes().prop_map(|data| match data.len() as u8 {
        0 => data,
        length => [&[9, 0, length][..], &data].concat(),
    });
    (topic, bytes(), properties, qos(), any::<bool>(), prop::option::of(0u64..1 << 40)).prop_map(
        |(topic, payload, properties, qos, retain, expires)| {
            let expires = expires.map(|millis| clock(0).now + Duration::from_millis(millis));
            let draft =
                Draft { topic: &topic, payload: &payload, qos, retain, origin: 0, expires, properties: &properties };
            Message::decode(Envelope::new(&draft).seal(0, 0)).unwrap()
        },
    )
}

pub(super) fn outgoing() -> impl Strategy<Value = StoredMessage> {
    let ids = prop::collection::vec(1u32..268_435_456, 0..4);
    let share = prop::option::of("[a-z/]{1,9}");
    (message(), qos(), any::<bool>(), ids, share).prop_map(|(message, qos, retain, ids, share)| StoredMessage {
        message,
        qos,
        retain,
        ids: ids.into_iter().collect(),
        share: share.map(Into::into),
    })
}

pub(super) fn record() -> impl Strategy<Value = SessionRecord> {
    let expiry = prop::option::of(any::<u32>());
    (expiry, prop::option::of("\\PC{0,9}"), prop::option::of(0u64..1 << 45)).prop_map(|(expiry, username, ended_at)| {
        SessionRecord {
            expiry: expiry
                .map_or(SessionExpiry::Never, |seconds| SessionExpiry::After(Duration::from_secs(seconds.into()))),
            username: username.map(Into::into),
            ended_at: ended_at.map(|millis| UNIX_EPOCH + Duration::from_millis(millis)),
        }
    })
}

pub(super) fn stored_subscription() -> impl Strategy<Value = StoredSubscription> {
    let handling = prop_oneof![Just(RetainHandling::Always), Just(RetainHandling::IfNew), Just(RetainHandling::Never)];
    let id = prop::option::of(1u32..268_435_456);
    ("\\PC{1,20}", qos(), any::<bool>(), any::<bool>(), handling, id).prop_map(
        |(filter, qos, no_local, retain_as_published, retain_handling, id)| StoredSubscription {
            filter: filter.into(),
            options: SubscriptionOptions { qos, no_local, retain_as_published, retain_handling },
            id,
        },
    )
}

pub(super) fn will(client_id: &str, payload: &[u8]) -> StoredWill {
    let request = WillRequest {
        topic: "will".into(),
        payload: Bytes::copy_from_slice(payload),
        qos: Qos::AtLeastOnce,
        retain: true,
        properties: Bytes::new(),
        expiry: None,
        delay: 0,
    };
    let (username, silence, ended_at) = Default::default();
    let expiry = SessionExpiry::After(Duration::ZERO);
    StoredWill { client_id: client_id.into(), username, request, expiry, silence, ended_at }
}

pub(super) fn stored_will() -> impl Strategy<Value = StoredWill> {
    let request = (outgoing(), prop::option::of(any::<u32>()), any::<u32>()).prop_map(|(outgoing, expiry, delay)| {
        let message = outgoing.message;
        WillRequest {
            topic: message.topic().to_owned(),
            payload: Bytes::copy_from_slice(message.payload_bytes()),
            qos: outgoing.qos,
            retain: outgoing.retain,
            properties: Bytes::copy_from_slice(message.properties()),
            expiry,
            delay,
        }
    });
    let silence = prop::option::of((1u64..100_000_000).prop_map(Duration::from_millis));
    ("\\PC{0,30}", record(), request, silence).prop_map(|(client_id, record, request, silence)| {
        let SessionRecord { expiry, username, ended_at } = record;
        StoredWill { client_id: client_id.into(), username, request, expiry, silence, ended_at }
    })
}
