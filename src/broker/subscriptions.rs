//! The subscriptions of one session. Pure.

use std::collections::{BTreeMap, HashMap};

use foldhash::fast::RandomState;

use super::levels::{self, Key};
use super::message::Message;
use super::packet::SubscriptionIds;
use crate::qos::Qos;
use crate::topic::TopicFilter;

/// Subscription options (MQTT 5.0, section 3.8.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubscriptionOptions {
    /// Maximum QoS.
    pub qos: Qos,
    /// Whether the session's own messages are left out.
    pub no_local: bool,
    /// Whether live messages keep the RETAIN flag they were published with.
    pub retain_as_published: bool,
    /// When retained messages are sent.
    pub retain_handling: RetainHandling,
}

/// When retained messages are sent (MQTT 5.0, section 3.8.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RetainHandling {
    /// At every SUBSCRIBE.
    #[default]
    Always,
    /// When the subscription did not exist before.
    IfNew,
    /// Never.
    Never,
}

impl From<Qos> for SubscriptionOptions {
    fn from(qos: Qos) -> SubscriptionOptions {
        SubscriptionOptions { qos, ..SubscriptionOptions::default() }
    }
}

/// One subscription as it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Subscription {
    /// Its options.
    pub options: SubscriptionOptions,
    /// Its subscription identifier.
    pub id: Option<u32>,
    /// Version of the retained snapshot sent for it: a live retained message up to this version was in there, or was
    /// replaced before, and is not matched. 0: no snapshot was sent.
    pub retained_floor: u64,
}

/// What the matching subscriptions say together about one message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Match {
    /// The highest maximum QoS [MQTT-3.3.4-2], not yet lowered to the publisher's.
    pub qos: Qos,
    /// Whether one of them asked for the RETAIN flag as published.
    pub retain_as_published: bool,
    /// The identifiers of all that have one [MQTT-3.3.4-3].
    pub ids: SubscriptionIds,
}

/// All subscriptions of one session, by filter.
#[derive(Debug)]
pub struct Subscriptions {
    /// Without wildcards.
    exact: HashMap<TopicFilter, Subscription, RandomState>,
    /// With wildcards.
    wild: BTreeMap<Key, (TopicFilter, Subscription)>,
}

impl Subscriptions {
    /// None.
    pub fn new() -> Subscriptions {
        Subscriptions { exact: HashMap::default(), wild: BTreeMap::new() }
    }

    /// Adds a subscription or replaces the one with the same filter [MQTT-3.8.4-3]; says whether there was one.
    pub fn insert(&mut self, filter: TopicFilter, subscription: Subscription) -> bool {
        if filter.has_wildcards() {
            self.wild.insert(Key::new(filter.as_str()), (filter, subscription)).is_some()
        } else {
            self.exact.insert(filter, subscription).is_some()
        }
    }

    /// Removes the subscription with this very filter; says whether there was one.
    pub fn remove(&mut self, filter: &TopicFilter) -> bool {
        if filter.has_wildcards() {
            return self.wild.remove(&Key::new(filter.as_str())).is_some();
        }
        let existed = self.exact.remove(filter).is_some();
        if self.exact.len() * 4 < self.exact.capacity() {
            self.exact.shrink_to_fit();
        }
        existed
    }

    /// The subscription with this very filter.
    pub fn get(&self, filter: &TopicFilter) -> Option<&Subscription> {
        if filter.has_wildcards() {
            self.wild.get(&Key::new(filter.as_str())).map(|(_, subscription)| subscription)
        } else {
            self.exact.get(filter)
        }
    }

    /// Whether `message` is for the session `own`, and how.
    pub fn matches(&self, message: &Message, own: u64) -> Option<Match> {
        let topic = message.topic();
        let mut found = None;
        if let Some(subscription) = self.exact.get(topic) {
            subscription.apply(message, own, &mut found);
        }
        if self.wild.len() <= levels::FEW {
            for (filter, subscription) in self.wild.values() {
                if filter.matches(topic) {
                    subscription.apply(message, own, &mut found);
                }
            }
        } else {
            levels::filters_matching(&self.wild, topic, |(_, subscription)| {
                subscription.apply(message, own, &mut found)
            });
        }
        found
    }

    /// All subscriptions, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&TopicFilter, &Subscription)> {
        self.exact.iter().chain(self.wild.values().map(|(filter, subscription)| (filter, subscription)))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.exact.len() + self.wild.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Default for Subscriptions {
    fn default() -> Subscriptions {
        Subscriptions::new()
    }
}

impl Subscription {
    /// Adds what this subscription, whose filter matches, says about `message`.
    fn apply(&self, message: &Message, own: u64, found: &mut Option<Match>) {
        let version = message.retained_version();
        let own_message = self.options.no_local && message.origin() == own;
        if own_message || (version != 0 && version <= self.retained_floor) {
            return;
        }
        let found = found.get_or_insert_with(Match::default);
        found.qos = found.qos.max(self.options.qos);
        found.retain_as_published |= self.options.retain_as_published;
        if let Some(id) = self.id {
            found.ids.push(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::message::{Draft, Envelope};
    use proptest::prelude::*;

    fn message(topic: &str, origin: u64, retained_version: u64) -> Message {
        let retain = retained_version > 0;
        let draft =
            Draft { topic, payload: b"", qos: Qos::AtLeastOnce, retain, origin, expires: None, properties: b"" };
        Message::decode(Envelope::new(&draft).seal(0, retained_version)).unwrap()
    }

    fn filter(text: &str) -> TopicFilter {
        TopicFilter::new(text).unwrap()
    }

    fn with(options: SubscriptionOptions, id: Option<u32>) -> Subscription {
        Subscription { options, id, retained_floor: 0 }
    }

    #[test]
    fn overlapping_subscriptions_make_one_match() {
        let mut subscriptions = Subscriptions::new();
        let published = SubscriptionOptions { retain_as_published: true, ..Qos::AtMostOnce.into() };
        assert!(!subscriptions.insert(filter("a/b"), with(Qos::AtLeastOnce.into(), Some(1))));
        subscriptions.insert(filter("a/+"), with(Qos::ExactlyOnce.into(), None));
        subscriptions.insert(filter("#"), with(published, Some(3)));
        subscriptions.insert(filter("c"), with(Qos::ExactlyOnce.into(), Some(4)));
        let found = subscriptions.matches(&message("a/b", 1, 0), 2).unwrap();
        assert_eq!((found.qos, found.retain_as_published), (Qos::ExactlyOnce, true));
        assert_eq!(found.ids.iter().collect::<Vec<_>>(), [1, 3]);
        assert_eq!(subscriptions.matches(&message("$SYS/a", 1, 0), 2), None);
    }

    #[test]
    fn no_local_leaves_out_the_sessions_own_messages() {
        let mut subscriptions = Subscriptions::new();
        let options = SubscriptionOptions { no_local: true, ..Qos::AtLeastOnce.into() };
        subscriptions.insert(filter("a/#"), with(options, Some(1)));
        assert_eq!(subscriptions.matches(&message("a", 7, 0), 7), None);
        assert!(subscriptions.matches(&message("a", 8, 0), 7).is_some());
        subscriptions.insert(filter("a"), with(Qos::AtMostOnce.into(), None));
        let found = subscriptions.matches(&message("a", 7, 0), 7).unwrap();
        assert_eq!((found.qos, found.ids), (Qos::AtMostOnce, SubscriptionIds::default()));
    }

    #[test]
    fn what_was_in_the_snapshot_does_not_come_again() {
        let mut subscriptions = Subscriptions::new();
        let subscription = Subscription { retained_floor: 5, ..Subscription::default() };
        subscriptions.insert(filter("a"), subscription);
        assert_eq!(subscriptions.matches(&message("a", 1, 5), 2), None);
        assert!(subscriptions.matches(&message("a", 1, 6), 2).is_some());
        assert!(subscriptions.matches(&message("a", 1, 0), 2).is_some());
    }

    #[test]
    fn a_filter_is_there_once() {
        let mut subscriptions = Subscriptions::new();
        for text in ["a/b", "a/#", "#", "$SYS/#"] {
            assert!(!subscriptions.insert(filter(text), Subscription::default()));
            assert!(subscriptions.insert(filter(text), Subscription::default()));
        }
        assert_eq!(subscriptions.len(), 4);
        for text in ["#", "a/#", "$SYS/#"] {
            assert!(subscriptions.remove(&filter(text)) && !subscriptions.remove(&filter(text)));
        }
        assert_eq!(subscriptions.iter().map(|(filter, _)| filter.as_str()).collect::<Vec<_>>(), ["a/b"]);
        assert!(subscriptions.remove(&filter("a/b")) && subscriptions.is_empty());
    }

    proptest! {
        /// Few and many: both ways to search.
        #[test]
        fn it_finds_what_a_walk_through_all_filters_finds(
            texts in prop::collection::btree_set("[ab+]{1}(/[ab+]){0,3}(/#)?|#", 0..3 * levels::FEW),
            removed in prop::collection::btree_set("[ab+]{1}(/[ab+]){0,3}(/#)?|#", 0..levels::FEW),
            topic in "[ab/$]{1,7}",
        ) {
            let mut subscriptions = Subscriptions::new();
            for (id, text) in texts.iter().enumerate() {
                subscriptions.insert(filter(text), with(Qos::AtMostOnce.into(), Some(id as u32)));
            }
            for text in &removed {
                prop_assert_eq!(subscriptions.remove(&filter(text)), texts.contains(text));
            }
            let found = subscriptions.matches(&message(&topic, 1, 0), 2);
            let mut ids: Vec<u32> = found.map(|found| found.ids.iter().collect()).unwrap_or_default();
            ids.sort_unstable();
            let all = texts.iter().enumerate().filter(|(_, text)| !removed.contains(*text) && filter(text).matches(&topic));
            prop_assert_eq!(ids, all.map(|(id, _)| id as u32).collect::<Vec<_>>());
            prop_assert_eq!(subscriptions.len(), texts.difference(&removed).count());
        }
    }
}
