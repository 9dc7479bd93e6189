//! Whether a device would hear itself.

use super::placeholders::Scope;
use super::publish::PublishRule;
use super::reader::Value;
use super::subscribe::SubscribeRule;
use crate::template::{Piece, Template};

/// Stands for what a placeholder becomes: anything but a `/`. No topic contains it [MQTT-4.7.3-2].
const ANYTHING: char = '\0';

/// Reports each subscribe filter that can match a topic the same device publishes to.
pub(super) fn report(scope: Scope<'_>, publish: &[(PublishRule, Value<'_>)], subscribe: &[(SubscribeRule, Value<'_>)]) {
    for (rule, filter) in subscribe {
        let looping = publish.iter().find(|(publish, _)| {
            let mut topic = outline(&publish.topic, scope);
            if publish.each_field {
                topic.extend(['/', ANYTHING]);
            }
            may_match(rule.filter.as_str(), &topic)
        });
        if let Some((_, topic)) = looping {
            let report = filter.error("the device would get back what it publishes");
            let report = report.note("it publishes at", Some(topic.place()));
            filter.context.push(report.hint("use another topic, or set allow_loop = true if this is meant"));
        }
    }
}

/// The topic with gateway and device filled in and [`ANYTHING`] for the other placeholders.
fn outline(topic: &Template, scope: Scope<'_>) -> String {
    let mut outline = String::new();
    for piece in topic.pieces() {
        match piece {
            Piece::Literal(literal) => outline.push_str(literal),
            Piece::Placeholder { name, .. } if name == "gateway" => outline.push_str(scope.gateway),
            Piece::Placeholder { name, .. } if name == "device" => outline.push_str(scope.device),
            Piece::Placeholder { .. } => outline.push(ANYTHING),
        }
    }
    outline
}

/// Whether `filter` matches some topic of the form `outline`.
fn may_match(filter: &str, outline: &str) -> bool {
    if outline.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut levels = outline.split('/');
    for wanted in filter.split('/') {
        if wanted == "#" {
            return true;
        }
        match levels.next() {
            Some(level) if wanted == "+" || level_may_be(level, wanted) => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

/// Whether the level can become `wanted`: its fixed parts stand in `wanted`, in order, the ends at the ends.
fn level_may_be(level: &str, wanted: &str) -> bool {
    let Some((first, rest)) = level.split_once(ANYTHING) else { return level == wanted };
    let (middle, last) = rest.rsplit_once(ANYTHING).unwrap_or(("", rest));
    let Some(inner) = wanted.strip_prefix(first).and_then(|wanted| wanted.strip_suffix(last)) else { return false };
    let mut inner = inner;
    for part in middle.split(ANYTHING) {
        match inner.find(part) {
            Some(at) => inner = &inner[at + part.len()..],
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::topic::TopicFilter;

    #[test]
    fn filters_that_hear_the_device_are_found() {
        for (filter, outline, expected) in [
            ("a/set", "a/state", false),
            ("a/#", "a/state", true),
            ("a/+", "a/\0", true),
            ("a/set", "a/\0", true),
            ("a/set", "a/s\0t", true),
            ("a/set", "a/s\0x", false),
            ("a/set", "a/set\0set", false),
            ("a/set", "a/\0/b", false),
            ("#", "\0", true),
            ("+", "a/b", false),
            ("scanners/+/display", "scanners/\0/code", false),
            ("a/bcd", "a/\0b\0d\0", true),
            ("a/bdc", "a/\0c\0d\0", false),
        ] {
            assert_eq!(may_match(filter, outline), expected, "{filter} against {outline:?}");
        }
    }

    proptest! {
        /// What the broker would deliver is always found.
        #[test]
        fn no_loop_escapes(filter in "([ab+]{1}(/[ab+]{1}){0,2}(/#)?)", outline in "[ab\0]{1,3}(/[ab\0]{1,3}){0,2}", value in "[ab]{0,2}") {
            let topic = outline.replace(ANYTHING, &value);
            let filter = TopicFilter::new(filter).unwrap();
            if !topic.is_empty() && filter.matches(&topic) {
                prop_assert!(may_match(filter.as_str(), &outline));
            }
        }
    }
}
