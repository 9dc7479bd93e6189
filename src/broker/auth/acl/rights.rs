//! What one client may do, ready to be asked for each message.

use std::collections::{BTreeMap, HashMap};
use std::ops::{BitOr, BitOrAssign};
use std::sync::Arc;

use foldhash::fast::RandomState;

use crate::broker::levels::{self, Key};
use crate::topic::TopicFilter;

/// Up to so many filters with wildcards it is faster to try them all.
const FEW: usize = 8;

/// What the rules for a topic say, all of them together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Grant(u8);

/// Rules in no order: those that match a topic are summed up.
#[derive(Debug, Default)]
pub struct RuleSet {
    /// Without wildcards.
    exact: HashMap<TopicFilter, Grant, RandomState>,
    /// With wildcards.
    wild: BTreeMap<Key, (TopicFilter, Grant)>,
}

/// What one client may do.
#[derive(Debug)]
pub struct Rights {
    /// From its `topic` lines; they decide first.
    own: Arc<RuleSet>,
    /// From the patterns, with its names in them.
    patterns: RuleSet,
}

impl Grant {
    /// Messages may be sent to the client.
    pub const READ: Grant = Grant(1);
    /// The client may publish.
    pub const WRITE: Grant = Grant(2);
    /// Both.
    pub const READ_WRITE: Grant = Grant(3);
    /// Neither, whatever else is said.
    pub const DENY: Grant = Grant(4);

    fn has(self, other: Grant) -> bool {
        self.0 & other.0 == other.0
    }
}

impl BitOr for Grant {
    type Output = Grant;

    fn bitor(self, other: Grant) -> Grant {
        Grant(self.0 | other.0)
    }
}

impl BitOrAssign for Grant {
    fn bitor_assign(&mut self, other: Grant) {
        *self = *self | other;
    }
}

impl RuleSet {
    /// Adds a rule.
    pub fn add(&mut self, filter: TopicFilter, grant: Grant) {
        if filter.as_str().contains(['+', '#']) {
            let key = Key::new(filter.as_str());
            self.wild.entry(key).or_insert_with(|| (filter, Grant::default())).1 |= grant;
        } else {
            *self.exact.entry(filter).or_default() |= grant;
        }
    }

    /// How many filters there are.
    pub fn len(&self) -> usize {
        self.exact.len() + self.wild.len()
    }

    fn of(&self, topic: &str) -> Grant {
        let mut sum = self.exact.get(topic).copied().unwrap_or_default();
        if self.wild.len() <= FEW {
            for (filter, grant) in self.wild.values() {
                if filter.matches(topic) {
                    sum |= *grant;
                }
            }
        } else {
            levels::filters_matching(&self.wild, topic, |(_, grant)| sum |= *grant);
        }
        sum
    }

    /// `None`: the rules say nothing about it.
    fn decide(&self, topic: &str, wanted: Grant) -> Option<bool> {
        match self.of(topic) {
            grant if grant.has(Grant::DENY) => Some(false),
            grant if grant.has(wanted) => Some(true),
            _ => None,
        }
    }

    fn filters(&self, wanted: Grant) -> impl Iterator<Item = &TopicFilter> {
        let exact = self.exact.iter().map(|(filter, grant)| (filter, *grant));
        let all = exact.chain(self.wild.values().map(|(filter, grant)| (filter, *grant)));
        all.filter(move |(_, grant)| grant.has(wanted)).map(|(filter, _)| filter)
    }

    fn denies_all_of(&self, filter: &TopicFilter) -> bool {
        self.filters(Grant::DENY).any(|denied| denied.covers(filter))
    }
}

impl Rights {
    /// `own` decides before `patterns`.
    pub fn new(own: Arc<RuleSet>, patterns: RuleSet) -> Rights {
        Rights { own, patterns }
    }

    /// Whether messages on `topic` may be sent to the client.
    pub fn may_read(&self, topic: &str) -> bool {
        self.may(topic, Grant::READ)
    }

    /// Whether the client may publish to `topic`.
    pub fn may_write(&self, topic: &str) -> bool {
        self.may(topic, Grant::WRITE)
    }

    fn may(&self, topic: &str, wanted: Grant) -> bool {
        self.own.decide(topic, wanted).or_else(|| self.patterns.decide(topic, wanted)).unwrap_or(false)
    }

    /// Whether a subscription to `filter` can bring anything: there is a topic in it that may be read. Of a filter that
    /// can, what may not be read is left out when it is delivered.
    pub fn may_subscribe(&self, filter: &TopicFilter) -> bool {
        if !filter.as_str().contains(['+', '#']) {
            return self.may_read(filter.as_str());
        }
        if self.own.denies_all_of(filter) {
            return false;
        }
        let readable = |allowed: &TopicFilter| allowed.overlaps(filter) && !self.own.denies_all_of(allowed);
        if self.own.filters(Grant::READ).any(readable) {
            return true;
        }
        !self.patterns.denies_all_of(filter)
            && self
                .patterns
                .filters(Grant::READ)
                .any(|allowed| readable(allowed) && !self.patterns.denies_all_of(allowed))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn filter(text: &str) -> TopicFilter {
        TopicFilter::new(text).unwrap()
    }

    fn set(rules: &[(&str, Grant)]) -> RuleSet {
        let mut set = RuleSet::default();
        rules.iter().for_each(|(text, grant)| set.add(filter(text), *grant));
        set
    }

    #[test]
    fn a_subscription_needs_a_topic_that_may_be_read() {
        let own = [
            ("#", Grant::READ_WRITE),
            ("test/nosubscribe", Grant::DENY),
            ("secret/#", Grant::DENY),
            ("secret/open", Grant::READ),
        ];
        let rights = Rights::new(Arc::new(set(&own)), RuleSet::default());
        for good in ["#", "+/+", "test/+", "test/#", "test/nosubscribe/x", "+/nosubscribe"] {
            assert!(rights.may_subscribe(&filter(good)), "{good}");
        }
        for bad in ["test/nosubscribe", "secret/#", "secret/+", "secret/open", "secret", "secret/+/x/#", "$SYS/#"] {
            assert!(!rights.may_subscribe(&filter(bad)), "{bad}");
        }
        let own = set(&[("a/#", Grant::READ), ("b/+", Grant::WRITE), ("d/#", Grant::DENY)]);
        let patterns = set(&[("c/me/#", Grant::READ), ("c/me/no", Grant::DENY), ("d/me", Grant::READ)]);
        let rights = Rights::new(Arc::new(own), patterns);
        for good in ["#", "a/x", "a", "+/x", "c/#", "c/me/+"] {
            assert!(rights.may_subscribe(&filter(good)), "{good}");
        }
        for bad in ["b/#", "b/x", "d/#", "d/+", "c/me/no", "x/#", "c/you/#"] {
            assert!(!rights.may_subscribe(&filter(bad)), "{bad}");
        }
    }

    #[test]
    fn a_rule_for_all_but_dollar_topics_is_none_for_dollar_topics() {
        let rights = Rights::new(Arc::new(set(&[("#", Grant::READ)])), RuleSet::default());
        assert!(rights.may_read("a") && !rights.may_read("$SYS/a") && !rights.may_subscribe(&filter("$SYS/+")));
    }

    fn rules() -> impl Strategy<Value = Vec<(String, u8)>> {
        prop::collection::vec(("[ab+]{1}(/[ab+]){0,3}(/#)?|#", 1u8..8), 0..3 * FEW)
    }

    proptest! {
        /// Few and many rules, both ways to look them up, against a walk in mosquitto's order.
        #[test]
        fn rules_decide_as_a_walk_through_all_of_them_does(
            own in rules(), patterns in rules(), topic in "[ab](/[ab]){0,3}", sub in "[ab+]{1}(/[ab+]){0,3}(/#)?|#",
        ) {
            let build = |rules: &[(String, u8)]| {
                let mut set = RuleSet::default();
                rules.iter().for_each(|(text, grant)| set.add(filter(text), Grant(*grant)));
                set
            };
            let rights = Rights::new(Arc::new(build(&own)), build(&patterns));
            let walk = |wanted: u8| {
                for stage in [&own, &patterns] {
                    let matching = |bit: u8| {
                        stage.iter().any(|(text, grant)| grant & bit != 0 && filter(text).matches(&topic))
                    };
                    if matching(4) {
                        return false;
                    }
                    if matching(wanted) {
                        return true;
                    }
                }
                false
            };
            prop_assert_eq!(rights.may_read(&topic), walk(1));
            prop_assert_eq!(rights.may_write(&topic), walk(2));
            // What is readable can be subscribed to, by every filter it matches.
            let sub = filter(&sub);
            if rights.may_read(&topic) && sub.matches(&topic) {
                prop_assert!(rights.may_subscribe(&sub));
            }
        }
    }
}
