//! Retained messages, complete, indexed by the levels of their topics. Pure.
//!
//! The topics stand in one sorted map, in the order of their levels: a topic, then all below it, then its next sibling.
//! A filter's matches are found by leaping: where a topic does not match, the next one that could is known. So `+` and
//! `#` walk only matching branches, a topic of 30 000 levels takes no more than its text, and nothing recurses.

use std::collections::BTreeMap;
use std::time::Instant;

use super::levels::{self, Key};
use super::message::Message;
use crate::topic::{TopicFilter, is_reserved};

/// The retained message of every topic that has one.
#[derive(Debug)]
pub struct Retained {
    max: usize,
    messages: BTreeMap<Key, Message>,
    /// Of these below `$SYS`: the broker's own, which are few and do not count.
    reserved: usize,
    /// Keys and envelopes.
    bytes: usize,
    /// Of the last change.
    version: u64,
    /// No message expires before.
    next_expiry: Option<Instant>,
    /// Expired since [`Retained::take_expired`].
    expired: Vec<Message>,
}

/// What a filter finds.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The messages, by topic.
    pub messages: Vec<Message>,
    /// The store's version when it was taken, for [`Subscription::retained_floor`](super::subscriptions::Subscription).
    pub version: u64,
}

/// What became of a message published with RETAIN 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Retention {
    /// It is the topic's retained message now.
    Stored(Message),
    /// Its payload was empty: the topic has none now [MQTT-3.3.1-6, MQTT-3.3.1-7].
    Deleted,
    /// The store was full; the topic has none. Delivered all the same, and counted.
    Refused,
}

impl Retained {
    /// An empty store for at most `max` topics.
    pub fn new(max: usize) -> Retained {
        let (messages, expired) = (BTreeMap::new(), Vec::new());
        Retained { max, messages, reserved: 0, bytes: 0, version: 0, next_expiry: None, expired }
    }

    /// For at most `max` topics from now on; those that are there stay.
    pub fn set_max(&mut self, max: usize) {
        self.max = max;
    }

    /// The version for a message on `topic`, which is then sealed with it and given to [`Retained::update`]; `None` if
    /// the store is full. Changes nothing, except that expired messages make room.
    pub fn admit(&mut self, topic: &str, deletes: bool, now: Instant) -> Option<u64> {
        let fits = |store: &Retained| store.len() < store.max || store.messages.contains_key(&Key::new(topic));
        if !deletes && !is_reserved(topic) && !fits(self) {
            self.remove_expired(now);
            if !fits(self) {
                return None;
            }
        }
        Some(self.version + 1)
    }

    /// Makes `message` its topic's retained one, or with an empty payload deletes that.
    pub fn update(&mut self, message: Message) -> Retention {
        self.version = self.version.max(message.retained_version());
        let key = Key::new(message.topic());
        if message.payload_bytes().is_empty() {
            if let Some(old) = self.messages.remove(&key) {
                self.bytes -= cost(&key, &old);
                self.reserved -= usize::from(is_reserved(old.topic()));
            }
            return Retention::Deleted;
        }
        if let Some(expiry) = message.expires() {
            self.next_expiry = Some(self.next_expiry.map_or(expiry, |next| next.min(expiry)));
        }
        match self.messages.get(&key) {
            Some(old) => self.bytes -= cost(&key, old),
            None => self.reserved += usize::from(is_reserved(message.topic())),
        }
        self.bytes += cost(&key, &message);
        self.messages.insert(key, message.clone());
        Retention::Stored(message)
    }

    /// What any of `filters` matches at `now`.
    pub fn snapshot<'a>(&mut self, filters: impl IntoIterator<Item = &'a TopicFilter>, now: Instant) -> Snapshot {
        self.remove_expired(now);
        let mut found = Vec::new();
        let mut searches = 0;
        for filter in filters {
            searches += 1;
            levels::topics_matching(&self.messages, filter, |key, message| found.push((key, message)));
        }
        if searches > 1 {
            found.sort_unstable_by_key(|&(key, _)| key);
            found.dedup_by_key(|&mut (key, _)| key);
        }
        Snapshot { messages: found.into_iter().map(|(_, message)| message.clone()).collect(), version: self.version }
    }

    /// The messages that were found to be expired since the last call. To be called after each other.
    pub fn take_expired(&mut self) -> Vec<Message> {
        std::mem::take(&mut self.expired)
    }

    /// All messages, by topic; expired ones may be among them.
    pub fn iter(&self) -> impl Iterator<Item = &Message> {
        self.messages.values()
    }

    /// How many topics outside `$SYS` have a retained message; expired ones may be among them.
    pub fn len(&self) -> usize {
        self.messages.len() - self.reserved
    }

    /// Whether no topic outside `$SYS` has one.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What they take, in bytes: topics, payloads, properties and envelopes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Looks through all messages, but only when one must have expired since the last time.
    fn remove_expired(&mut self, now: Instant) {
        if self.next_expiry.is_none_or(|next| next > now) {
            return;
        }
        self.messages.retain(|key, message| {
            let expired = message.expires().is_some_and(|expiry| expiry <= now);
            if expired {
                self.bytes -= cost(key, message);
                self.expired.push(message.clone());
                self.reserved -= usize::from(is_reserved(message.topic()));
            }
            !expired
        });
        self.next_expiry = self.messages.values().filter_map(Message::expires).min();
    }
}

fn cost(key: &Key, message: &Message) -> usize {
    if is_reserved(message.topic()) { 0 } else { key.len() + message.size() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::message::{Draft, Envelope};
    use crate::qos::Qos;
    use proptest::prelude::*;
    use std::time::Duration;

    fn publish(store: &mut Retained, topic: &str, payload: &str) -> Option<Retention> {
        publish_expiring(store, topic, payload, None)
    }

    fn publish_expiring(
        store: &mut Retained,
        topic: &str,
        payload: &str,
        expires: Option<Instant>,
    ) -> Option<Retention> {
        let (payload, qos) = (payload.as_bytes(), Qos::AtLeastOnce);
        let draft = Draft { topic, payload, qos, retain: true, origin: 1, expires, properties: &[] };
        let version = store.admit(topic, payload.is_empty(), Instant::now())?;
        Some(store.update(Message::decode(Envelope::new(&draft).seal(0, version)).unwrap()))
    }

    fn topics(store: &mut Retained, filter: &str) -> Vec<String> {
        let filter = TopicFilter::new(filter).unwrap();
        let found = store.snapshot([&filter], Instant::now()).messages;
        found.iter().map(|message| message.topic().to_owned()).collect()
    }

    #[test]
    fn a_topic_has_one_message_until_an_empty_one_deletes_it() {
        let mut store = Retained::new(10);
        publish(&mut store, "a/b", "1");
        publish(&mut store, "a/b", "2");
        let snapshot = store.snapshot([&TopicFilter::new("a/+").unwrap()], Instant::now());
        assert_eq!(snapshot.messages.len(), 1);
        assert_eq!(snapshot.messages[0].payload_bytes(), b"2");
        assert_eq!(snapshot.messages[0].retained_version(), snapshot.version);
        assert_eq!(publish(&mut store, "a/b", ""), Some(Retention::Deleted));
        assert_eq!((store.len(), store.bytes()), (0, 0));
        let after = store.snapshot([&TopicFilter::new("#").unwrap()], Instant::now());
        assert!(after.messages.is_empty() && after.version > snapshot.version);
    }

    #[test]
    fn a_full_store_takes_known_topics_and_deletions_only() {
        let mut store = Retained::new(2);
        publish(&mut store, "a", "1");
        publish(&mut store, "b", "1");
        assert_eq!(publish(&mut store, "c", "1"), None);
        assert!(matches!(publish(&mut store, "a", "2"), Some(Retention::Stored(_))));
        assert_eq!(publish(&mut store, "c", ""), Some(Retention::Deleted));
        publish(&mut store, "a", "");
        assert!(publish(&mut store, "c", "1").is_some());
        assert_eq!(topics(&mut store, "#"), ["b", "c"]);
    }

    #[test]
    fn what_the_broker_says_about_itself_takes_no_room() {
        let mut store = Retained::new(1);
        publish(&mut store, "a", "1");
        let size = (store.len(), store.bytes());
        for (topic, payload) in [("$SYS/a", "1"), ("$SYS/b", "1"), ("$SYS/a", "22")] {
            assert!(matches!(publish(&mut store, topic, payload), Some(Retention::Stored(_))));
        }
        assert_eq!(publish(&mut store, "$a", "1"), None);
        publish(&mut store, "$SYS/b", "");
        assert_eq!((store.len(), store.bytes()), size);
        assert_eq!(topics(&mut store, "$SYS/#"), ["$SYS/a"]);
    }

    #[test]
    fn expired_messages_are_not_found_and_make_room() {
        let mut store = Retained::new(2);
        let now = Instant::now();
        let (soon, late) = (now + Duration::from_secs(5), now + Duration::from_secs(9));
        publish_expiring(&mut store, "short", "1", Some(soon));
        publish_expiring(&mut store, "long", "1", Some(late));
        let all = TopicFilter::new("#").unwrap();
        assert_eq!(store.snapshot([&all], now).messages.len(), 2);
        assert_eq!(store.admit("new", false, now), None);
        assert!(store.admit("new", false, soon).is_some());
        assert_eq!(store.len(), 1);
        assert_eq!(store.snapshot([&all], late).messages.len(), 0);
        assert_eq!((store.len(), store.bytes()), (0, 0));
    }

    #[test]
    fn snapshots_are_in_the_order_of_levels() {
        let mut store = Retained::new(10);
        for topic in ["a", "a!", "a/b", "a/b/c", "$SYS/x", "b", "/"] {
            publish(&mut store, topic, "1");
        }
        assert_eq!(topics(&mut store, "#"), ["/", "a", "a/b", "a/b/c", "a!", "b"]);
        assert_eq!(topics(&mut store, "$SYS/#"), ["$SYS/x"]);
        assert_eq!(topics(&mut store, "a/#"), ["a", "a/b", "a/b/c"]);
        let filters = ["a/b/c", "a/#", "+", "a/b"].map(|text| TopicFilter::new(text).unwrap());
        let found = store.snapshot(&filters, Instant::now()).messages;
        assert_eq!(found.iter().map(Message::topic).collect::<Vec<_>>(), ["a", "a/b", "a/b/c", "a!", "b"]);
    }

    proptest! {
        #[test]
        fn it_is_a_map_from_topic_to_message(
            changes in prop::collection::vec(("[ab/]{1,4}", "[xy]{0,1}"), 0..60),
            filter in "[ab+]{1}(/[ab+]){0,2}(/#)?",
        ) {
            let mut store = Retained::new(1000);
            let mut naive = BTreeMap::new();
            for (topic, payload) in &changes {
                publish(&mut store, topic, payload);
                if payload.is_empty() { naive.remove(topic); } else { naive.insert(topic, payload); }
            }
            let filter = TopicFilter::new(filter).unwrap();
            let found = store.snapshot([&filter], Instant::now()).messages;
            let text = |message: &Message| (message.topic().to_owned(), String::from_utf8(message.payload().to_vec()).unwrap());
            let found: BTreeMap<_, _> = found.iter().map(text).collect();
            naive.retain(|topic, _| filter.matches(topic));
            prop_assert_eq!(found.iter().collect::<BTreeMap<_, _>>(), naive);
            let size = store.messages.iter().map(|(key, message)| cost(key, message)).sum::<usize>();
            prop_assert_eq!(store.bytes(), size);
        }
    }
}
