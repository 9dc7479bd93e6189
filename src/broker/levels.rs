//! Topics and filters in the order of their levels, and leaps through a sorted map of them.
//!
//! A key is the text with `/` as byte 0, which no topic holds [MQTT-4.7.3-2]: then the order of bytes is that of levels,
//! and all that is below a level stands together right behind it. Looking for what matches, one goes through the keys in
//! order, and where one does not match, leaps to the lowest key behind it that could.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::ops::Bound;

use crate::topic::TopicFilter;

/// Up to so many filters with wildcards it is faster to try them all than to leap.
pub(super) const FEW: usize = 8;

/// A topic or a filter, ordered by levels.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key(Box<[u8]>);

/// What one key says about the way through the map.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// It matches; the next one may.
    Match,
    /// It does not; nothing does before the key that was written down.
    Leap,
    /// Neither it nor anything behind it matches.
    End,
}

impl Key {
    /// The key of a valid topic or filter.
    pub(super) fn new(text: &str) -> Key {
        Key(text.bytes().map(|byte| if byte == b'/' { 0 } else { byte }).collect())
    }

    /// Its length in bytes, that of the text.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

/// Calls `found` for each entry of `topics` that `filter` matches.
pub(super) fn topics_matching<'a, V>(
    topics: &'a BTreeMap<Key, V>,
    filter: &TopicFilter,
    found: impl FnMut(&'a Key, &'a V),
) {
    let filter: Vec<&[u8]> = filter.as_str().split('/').map(str::as_bytes).collect();
    // No topic before the levels without wildcards matches.
    let literal = filter.iter().take_while(|level| !matches!(**level, b"+" | b"#")).count();
    leap_through(topics, filter[..literal].join(&0), |topic, next| topic_step(&filter, topic, next), found);
}

/// Calls `found` for each entry of `filters` that matches `topic`.
pub(super) fn filters_matching<'a, V>(filters: &'a BTreeMap<Key, V>, topic: &str, mut found: impl FnMut(&'a V)) {
    leap_through(filters, Vec::new(), |filter, next| filter_step(filter, topic, next), |_, value| found(value));
}

fn leap_through<'a, V>(
    map: &'a BTreeMap<Key, V>,
    mut start: Vec<u8>,
    step: impl Fn(&[u8], &mut Vec<u8>) -> Step,
    mut found: impl FnMut(&'a Key, &'a V),
) {
    let mut next = Vec::new();
    'leap: loop {
        for (key, value) in map.range::<[u8], _>((Bound::Included(start.as_slice()), Bound::Unbounded)) {
            match step(&key.0, &mut next) {
                Step::Match => found(key, value),
                Step::Leap => {
                    std::mem::swap(&mut start, &mut next);
                    continue 'leap;
                }
                Step::End => return,
            }
        }
        return;
    }
}

/// The step at `topic` for the levels of a filter.
fn topic_step(filter: &[&[u8]], topic: &[u8], next: &mut Vec<u8>) -> Step {
    // The end of the last level that a `+` took: another one may stand there.
    let mut other = None;
    let mut end = 0;
    let mut levels = topic.split(|&byte| byte == 0);
    for (depth, &wanted) in filter.iter().enumerate() {
        if depth == 0 && topic.first() == Some(&b'$') && matches!(wanted, b"+" | b"#") {
            // Wildcards do not match what begins with `$` [MQTT-4.7.2-1]; `%` is the next character.
            return leap(next, &[], b"%");
        }
        if wanted == b"#" {
            return Step::Match;
        }
        let Some(level) = levels.next() else {
            // Too short: what matches is below it.
            let below: &[u8] = if wanted == b"+" { b"" } else { wanted };
            let step = leap(next, topic, b"\0");
            next.extend_from_slice(below);
            return step;
        };
        let start = if depth == 0 { 0 } else { end + 1 };
        end = start + level.len();
        if wanted == b"+" {
            other = Some(end);
        } else if level < wanted {
            return leap(next, &topic[..start], wanted);
        } else if level > wanted {
            return other.map_or(Step::End, |end| leap(next, &topic[..end], b"\x01"));
        }
    }
    match (levels.next(), other) {
        (None, _) => Step::Match,
        (Some(_), Some(end)) => leap(next, &topic[..end], b"\x01"),
        (Some(_), None) => Step::End,
    }
}

/// The step at `filter` for a topic. At each level a matching filter has `#`, `+` or the topic's own text.
fn filter_step(filter: &[u8], topic: &str, next: &mut Vec<u8>) -> Step {
    // The last level in which a higher text would do, and that text.
    let mut other: Option<(usize, &[u8])> = None;
    let mut wanted = topic.split('/').map(str::as_bytes);
    let mut start = 0;
    for (depth, level) in filter.split(|&byte| byte == 0).enumerate() {
        let wanted = wanted.next();
        // Wildcards do not match what begins with `$` [MQTT-4.7.2-1].
        let wildcards = depth > 0 || !topic.starts_with('$');
        if wildcards && level == b"#" {
            return Step::Match;
        }
        let matches = wanted == Some(level) || (wildcards && wanted.is_some() && level == b"+");
        let higher = lowest_above(level, wildcards, wanted);
        match (matches, higher.map(|text| (start, text)).or(other)) {
            (true, higher) => other = higher,
            (false, Some((start, text))) => return leap(next, &filter[..start], text),
            (false, None) => return Step::End,
        }
        start += level.len() + 1;
    }
    match wanted.next() {
        None => Step::Match,
        Some(_) => leap(next, filter, b"\0"),
    }
}

/// The lowest text above `level` that a filter for a topic with the level `wanted` may have there.
fn lowest_above<'a>(level: &[u8], wildcards: bool, wanted: Option<&'a [u8]>) -> Option<&'a [u8]> {
    let hash: Option<&[u8]> = wildcards.then_some(b"#");
    let plus: Option<&[u8]> = (wildcards && wanted.is_some()).then_some(b"+");
    [hash, plus, wanted].into_iter().flatten().filter(|&text| text > level).min()
}

fn leap(next: &mut Vec<u8>, stem: &[u8], text: &[u8]) -> Step {
    next.clear();
    next.extend_from_slice(stem);
    next.extend_from_slice(text);
    Step::Leap
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn keys<'a>(texts: impl IntoIterator<Item = &'a String>) -> BTreeMap<Key, &'a str> {
        texts.into_iter().map(|text| (Key::new(text), text.as_str())).collect()
    }

    /// Topics of few letters, among them some that sort around the wildcards and the separator.
    const TOPIC: &str = "[$!ab*~/\u{1}]{1,7}";

    fn filters() -> impl Strategy<Value = String> {
        prop::collection::vec(
            prop_oneof![Just("+"), Just("a"), Just("b"), Just(""), Just("$"), Just("!"), Just("~")],
            1..5,
        )
        .prop_flat_map(|levels| {
            let text = levels.join("/");
            prop_oneof![Just(text.clone()), Just(format!("{text}/#")), Just("#".to_owned())]
        })
        .prop_filter("a filter is not empty", |text| !text.is_empty())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn a_filter_finds_the_topics_it_matches(topics in prop::collection::btree_set(TOPIC, 0..60), filter in filters()) {
            let filter = TopicFilter::new(filter).unwrap();
            let map = keys(&topics);
            let mut found = Vec::new();
            topics_matching(&map, &filter, |_, &topic| found.push(topic));
            let mut expected: Vec<_> = topics.iter().map(String::as_str).filter(|topic| filter.matches(topic)).collect();
            expected.sort_by_key(|topic| Key::new(topic));
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn a_topic_finds_the_filters_that_match_it(filters in prop::collection::btree_set(filters(), 0..60), topic in TOPIC) {
            let map = keys(&filters);
            let mut found = Vec::new();
            filters_matching(&map, &topic, |&filter| found.push(filter));
            found.sort_unstable();
            let matches = |filter: &&str| TopicFilter::new(*filter).unwrap().matches(&topic);
            let expected: Vec<_> = filters.iter().map(String::as_str).filter(matches).collect();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn as_many_levels_as_there_may_be_are_just_text() {
        let topic = "a/".repeat(200) + "a";
        let map = keys([&topic]);
        let mut found = 0;
        for filter in ["#".to_owned(), "+/".repeat(200) + "+", "a/".repeat(199) + "#", topic.clone()] {
            topics_matching(&map, &TopicFilter::new(filter).unwrap(), |_, _| found += 1);
        }
        assert_eq!(found, 4);
        filters_matching(&keys([&("+/".repeat(200) + "#")]), &topic, |_| found += 1);
        assert_eq!(found, 5);
    }

    #[test]
    fn only_matching_branches_are_walked() {
        let topics: Vec<String> =
            (0..100).flat_map(|i| (0..100).map(move |j| format!("site{i}/dev{j}/temp"))).collect();
        let map = keys(&topics);
        let steps = std::cell::Cell::new(0);
        let filter: Vec<&[u8]> = vec![b"+", b"dev7", b"temp"];
        let mut found = 0;
        let counted = |topic: &[u8], next: &mut Vec<u8>| {
            steps.set(steps.get() + 1);
            topic_step(&filter, topic, next)
        };
        leap_through(&map, Vec::new(), counted, |_, _| found += 1);
        assert_eq!(found, 100);
        assert!(steps.get() <= 400, "{} steps for 100 matches among 10 000 topics", steps.get());
    }

    #[test]
    fn filters_that_do_not_match_are_not_walked() {
        let filters: Vec<String> = (0..2500)
            .flat_map(|i| {
                ["dev/{}/+", "+/{}/state", "+/+/{}", "dev/+/{}/#"].map(|text| text.replace("{}", &i.to_string()))
            })
            .collect();
        let map = keys(&filters);
        let steps = std::cell::Cell::new(0);
        let counted = |filter: &[u8], next: &mut Vec<u8>| {
            steps.set(steps.get() + 1);
            filter_step(filter, "dev/1234/state", next)
        };
        let mut found = 0;
        leap_through(&map, Vec::new(), counted, |_, _| found += 1);
        assert_eq!(found, 2, "dev/1234/+ and +/1234/state");
        assert!(steps.get() <= 20, "{} steps for 2 matches among 10 000 filters", steps.get());
    }
}
