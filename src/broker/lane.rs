//! Lanes: the fixed set of topics that the router sees instead of the clients' own.
//!
//! The router keeps a log for every filter and an entry for every topic it ever met, for ever; so it is shown neither.
//! A topic is hashed onto one of 64 lanes, by its first level (the row) and by the whole of it (the place in the row);
//! all topics that begin with `$` share one lane more. A filter without wildcards needs one lane, one with a literal
//! first level its row, one with a leading wildcard all 64. Lanes do not overlap, so nothing arrives twice.

use foldhash::fast::FixedState;
use std::hash::BuildHasher;

use crate::topic::TopicFilter;

const ROWS: u64 = 8;
const ROW: u64 = 8;
const DOLLAR: u8 = (ROWS * ROW) as u8;

/// How many lanes there are.
pub const LANES: usize = DOLLAR as usize + 1;

/// One lane, 0 to [`LANES`] - 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lane(u8);

/// A set of lanes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaneSet(u128);

impl Lane {
    /// The lane that messages on `topic` travel.
    pub fn of(topic: &str) -> Lane {
        if topic.starts_with('$') {
            return Lane::system();
        }
        let first = topic.split('/').next().unwrap_or_default();
        Lane((hash(first) % ROWS * ROW + hash(topic) % ROW) as u8)
    }

    /// The lane of all topics that begin with `$`.
    pub fn system() -> Lane {
        Lane(DOLLAR)
    }

    /// Every lane, in order.
    pub fn all() -> [Lane; LANES] {
        std::array::from_fn(|index| Lane(index as u8))
    }

    /// The lane numbered `index`, if there is one.
    pub fn from_index(index: usize) -> Option<Lane> {
        (index < LANES).then_some(Lane(index as u8))
    }

    /// The number of this lane.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl LaneSet {
    /// No lane.
    pub const EMPTY: LaneSet = LaneSet(0);

    /// The lanes on which a message that `filter` matches may travel.
    pub fn of(filter: &TopicFilter) -> LaneSet {
        let text = filter.as_str();
        let first = text.split('/').next().unwrap_or_default();
        if text.starts_with('$') {
            LaneSet(1 << DOLLAR)
        } else if first == "+" || first == "#" {
            LaneSet((1 << DOLLAR) - 1)
        } else if text.contains(['+', '#']) {
            LaneSet(((1 << ROW) - 1) << (hash(first) % ROWS * ROW))
        } else {
            LaneSet(1 << Lane::of(text).0)
        }
    }

    /// Whether `lane` is in the set.
    pub fn contains(self, lane: Lane) -> bool {
        self.0 & (1 << lane.0) != 0
    }

    /// Puts `lane` into the set.
    pub fn insert(&mut self, lane: Lane) {
        self.0 |= 1 << lane.0;
    }

    /// Takes `lane` out of the set.
    pub fn remove(&mut self, lane: Lane) {
        self.0 &= !(1 << lane.0);
    }

    /// The lanes that are in `self` or in `other`.
    #[must_use]
    pub fn union(self, other: LaneSet) -> LaneSet {
        LaneSet(self.0 | other.0)
    }

    /// The lanes that are in `self` and not in `other`.
    #[must_use]
    pub fn difference(self, other: LaneSet) -> LaneSet {
        LaneSet(self.0 & !other.0)
    }

    /// Whether there is no lane in the set.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many lanes are in the set.
    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// The lanes, in order.
    pub fn iter(self) -> impl Iterator<Item = Lane> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let lowest = rest.trailing_zeros();
            rest &= rest.checked_sub(1)?;
            Some(Lane(lowest as u8))
        })
    }
}

/// The same for the same text in every run; an adversary who fills one lane slows that lane alone.
fn hash(text: &str) -> u64 {
    FixedState::with_seed(0).hash_one(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn filter(text: &str) -> TopicFilter {
        TopicFilter::new(text).unwrap()
    }

    #[test]
    fn a_filter_needs_as_few_lanes_as_its_wildcards_allow() {
        for (text, lanes) in [("a/b", 1), ("a/+", 8), ("a/#", 8), ("#", 64), ("+/b", 64), ("/a/+", 8)] {
            assert_eq!(LaneSet::of(&filter(text)).len(), lanes, "{text}");
        }
        assert_eq!(LaneSet::of(&filter("$SYS/#")), LaneSet::of(&filter("$SYS/broker/uptime")));
        assert!(!LaneSet::of(&filter("#")).contains(Lane::of("$SYS/broker/uptime")));
    }

    #[test]
    fn a_set_of_lanes_is_a_set() {
        let all = LaneSet::of(&filter("#")).union(LaneSet::of(&filter("$SYS/#")));
        assert_eq!(all.iter().map(Lane::index).collect::<Vec<_>>(), (0..LANES).collect::<Vec<_>>());
        let mut set = LaneSet::EMPTY;
        assert!(set.is_empty() && set.iter().next().is_none());
        set.insert(Lane::of("a"));
        assert_eq!(set, LaneSet::of(&filter("a")));
        assert!(set.difference(all).is_empty());
        set.remove(Lane::of("a"));
        assert!(set.is_empty());
    }

    proptest! {
        #[test]
        fn every_topic_a_filter_matches_travels_on_its_lanes(topic in "[$ab/]{1,8}", text in "[$ab+#/]{1,8}") {
            let Ok(filter) = TopicFilter::new(text) else { return Ok(()) };
            if filter.matches(&topic) {
                prop_assert!(LaneSet::of(&filter).contains(Lane::of(&topic)));
            }
        }
    }
}
