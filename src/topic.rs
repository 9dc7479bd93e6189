//! Topic names and topic filters (MQTT 5.0, section 4.7): what they are, for clients, devices and the command line alike.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// Longest topic in bytes: MQTT strings carry a 16-bit length.
pub const MAX_TOPIC_BYTES: usize = 65_535;

/// Most `/` in a topic: mosquitto takes more for an attack.
const MAX_SEPARATORS: usize = 200;

/// Why a string is not a topic name or a topic filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// Zero bytes [MQTT-4.7.3-1].
    #[error("a topic cannot be empty")]
    Empty,
    /// More than [`MAX_TOPIC_BYTES`] [MQTT-4.7.3-3].
    #[error("a topic cannot be longer than 65535 bytes")]
    TooLong,
    /// U+0000 [MQTT-4.7.3-2].
    #[error("a topic cannot contain the NUL character")]
    Nul,
    /// U+0001 to U+001F, U+007F to U+009F; see [`is_unfit`].
    #[error("a topic cannot contain control characters: there is U+{:04X}", u32::from(*.0))]
    Control(char),
    /// A noncharacter; see [`is_unfit`].
    #[error("a topic cannot contain U+{:04X}, which is no character", u32::from(*.0))]
    Noncharacter(char),
    /// More than 201 levels.
    #[error("a topic cannot have more than 201 levels")]
    TooDeep,
    /// `+` or `#` in a name [MQTT-4.7.0-1].
    #[error("a topic name cannot contain the wildcards + and #")]
    WildcardInName,
    /// `#` not as the last whole level [MQTT-4.7.1-1].
    #[error("# must be the last level of a filter and stand alone in it")]
    MisplacedHash,
    /// `+` together with other characters in a level [MQTT-4.7.1-2].
    #[error("+ must stand alone in its level")]
    MisplacedPlus,
}

/// A topic name: no wildcards, 1 to 65535 bytes, at most 201 levels, every character fit for one. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicName(Arc<str>);

/// A topic filter: a topic name in which whole levels may be `+` and the last may be `#`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicFilter(Arc<str>);

impl TopicName {
    /// Checks `name`; see [`TopicName::check`].
    pub fn new(name: impl Into<Arc<str>>) -> Result<TopicName, TopicError> {
        let name = name.into();
        TopicName::check(&name)?;
        Ok(TopicName(name))
    }

    /// Whether `name` is a topic name [MQTT-1.5.4-2, MQTT-4.7.0-1, MQTT-4.7.3-1 to -3].
    pub fn check(name: &str) -> Result<(), TopicError> {
        check_common(name)?;
        match memchr::memchr2(b'+', b'#', name.as_bytes()) {
            Some(_) => Err(TopicError::WildcardInName),
            None => Ok(()),
        }
    }

    /// Whether `topic` is this one or below it.
    pub fn holds(&self, topic: &str) -> bool {
        topic.strip_prefix(&*self.0).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TopicFilter {
    /// Checks `filter` [MQTT-1.5.4-2, MQTT-4.7.1-1, MQTT-4.7.1-2, MQTT-4.7.3-1 to -3]. A `$share/…` filter is not taken apart here.
    pub fn new(filter: impl Into<Arc<str>>) -> Result<TopicFilter, TopicError> {
        let filter = filter.into();
        check_common(&filter)?;
        let mut levels = filter.split('/').peekable();
        while let Some(level) = levels.next() {
            if level.contains('#') && (level.len() > 1 || levels.peek().is_some()) {
                return Err(TopicError::MisplacedHash);
            }
            if level.contains('+') && level.len() > 1 {
                return Err(TopicError::MisplacedPlus);
            }
        }
        Ok(TopicFilter(filter))
    }

    /// The filter as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether any level is `+` or `#`.
    pub fn has_wildcards(&self) -> bool {
        self.0.contains(['+', '#'])
    }

    /// Whether `topic` matches. A leading wildcard does not match topics that begin with `$` [MQTT-4.7.2-1].
    pub fn matches(&self, topic: &str) -> bool {
        let (filter, topic) = (self.0.as_bytes(), topic.as_bytes());
        if topic.first() == Some(&b'$') && matches!(filter.first(), Some(b'+' | b'#')) {
            return false;
        }
        // A valid filter has wildcards as whole levels only, so that bytes can be compared without looking for levels.
        let mut at = 0;
        for (index, wanted) in filter.iter().enumerate() {
            match wanted {
                b'#' => return true,
                b'+' => at += topic[at..].iter().take_while(|byte| **byte != b'/').count(),
                _ if topic.get(at) == Some(wanted) => at += 1,
                // `a/#` matches `a` too.
                _ => return at == topic.len() && filter[index..] == *b"/#",
            }
        }
        at == topic.len()
    }

    /// Whether every topic that matches `other` matches this one too. (`+/#` is not known to cover `#`.)
    pub fn covers(&self, other: &TopicFilter) -> bool {
        if other.0.starts_with('$') && self.0.starts_with(['+', '#']) {
            return false;
        }
        let mut levels = other.0.split('/');
        for wanted in self.0.split('/') {
            if wanted == "#" {
                return true;
            }
            match levels.next() {
                Some(level) if wanted == level || (wanted == "+" && level != "#") => {}
                _ => return false,
            }
        }
        levels.next().is_none()
    }

    /// Whether some topic matches both filters.
    pub fn overlaps(&self, other: &TopicFilter) -> bool {
        let leading = |filter: &TopicFilter| filter.0.starts_with(['+', '#']);
        if (leading(self) && other.0.starts_with('$')) || (leading(other) && self.0.starts_with('$')) {
            return false;
        }
        let (mut a, mut b) = (self.0.split('/'), other.0.split('/'));
        loop {
            match (a.next(), b.next()) {
                (Some("#"), _) | (_, Some("#")) => return true,
                (Some(x), Some(y)) if x == y || x == "+" || y == "+" => {}
                (None, None) => return true,
                _ => return false,
            }
        }
    }
}

impl From<&TopicName> for TopicFilter {
    fn from(name: &TopicName) -> TopicFilter {
        TopicFilter(name.0.clone())
    }
}

/// For look-ups by text.
impl Borrow<str> for TopicFilter {
    fn borrow(&self) -> &str {
        &self.0
    }
}

fn check_common(text: &str) -> Result<(), TopicError> {
    match text {
        "" => Err(TopicError::Empty),
        _ if text.len() > MAX_TOPIC_BYTES => Err(TopicError::TooLong),
        _ if is_too_deep(text) => Err(TopicError::TooDeep),
        _ => match first_unfit(text) {
            None => Ok(()),
            Some('\0') => Err(TopicError::Nul),
            Some(c) if c.is_control() => Err(TopicError::Control(c)),
            Some(c) => Err(TopicError::Noncharacter(c)),
        },
    }
}

/// Whether only the broker publishes there. Bridges of mosquitto say on `$SYS/broker/connection/NAME/state` whether
/// they are connected.
pub fn is_reserved(topic: &str) -> bool {
    let of_bridge = |topic: &str| {
        let name = topic.strip_prefix("$SYS/broker/connection/").and_then(|rest| rest.strip_suffix("/state"));
        name.is_some_and(|name| !name.contains('/'))
    };
    topic == "$SYS" || (topic.starts_with("$SYS/") && !of_bridge(topic)) || topic.starts_with("$share/")
}

/// Whether no device publishes to `topic`: the broker's topics begin with `$`, those of the gateway lie at and below `root`.
pub fn is_closed_to_devices(topic: &str, root: &TopicName) -> bool {
    topic.starts_with('$') || root.holds(topic)
}

/// Whether a topic or a filter has more levels than are served.
pub fn is_too_deep(topic: &str) -> bool {
    topic.len() > MAX_SEPARATORS && memchr::memchr_iter(b'/', topic.as_bytes()).count() > MAX_SEPARATORS
}

/// Whether `c` cannot stand in a topic, nor in the name of a client or a user: control characters (U+0000 to U+001F,
/// U+007F to U+009F) and noncharacters (U+FDD0 to U+FDEF, and the last two of each plane).
///
/// Section 1.5.4 forbids U+0000 only, and says of the others that they should not be sent and may be refused. mosquitto
/// refuses them, and so do clients made with its library: each that is sent one closes its connection.
pub fn is_unfit(c: char) -> bool {
    c.is_control() || matches!(u32::from(c), 0xFDD0..=0xFDEF) || u32::from(c) & 0xFFFE == 0xFFFE
}

/// The first character of `text` that [`is_unfit`].
pub fn first_unfit(text: &str) -> Option<char> {
    let plain = text.bytes().all(|byte| (b' '..0x7F).contains(&byte));
    if plain { None } else { text.chars().find(|&c| is_unfit(c)) }
}

macro_rules! text_traits {
    ($($type:ty),*) => {$(
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    )*};
}
text_traits!(TopicName, TopicFilter);

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(text: &str) -> TopicFilter {
        TopicFilter::new(text).unwrap()
    }

    #[test]
    fn names_are_checked() {
        assert!(TopicName::new("smarthome/lights/office").is_ok());
        assert!(TopicName::new("/").is_ok());
        assert_eq!(TopicName::new(""), Err(TopicError::Empty));
        assert_eq!(TopicName::new("a/+"), Err(TopicError::WildcardInName));
        assert_eq!(TopicName::new("a\0"), Err(TopicError::Nul));
        assert_eq!(TopicName::new("a".repeat(65_536)), Err(TopicError::TooLong));
        assert!(TopicName::new("a".repeat(65_535)).is_ok());
        assert!(TopicName::new("/".repeat(200)).is_ok());
        assert_eq!(TopicName::new("/".repeat(201)), Err(TopicError::TooDeep));
        assert_eq!(TopicFilter::new("/".repeat(201)), Err(TopicError::TooDeep));
    }

    #[test]
    fn names_and_filters_have_no_control_characters_and_no_noncharacters() {
        for good in ["a b", "\u{a0}", "Aä𪛔", "\u{200b}\u{202e}\u{feff}", "\u{fffd}", "\u{fdcf}\u{fdf0}", "\u{ffff0}"]
        {
            assert!(TopicName::new(good).is_ok() && TopicFilter::new(good).is_ok(), "{good:?}");
        }
        for bad in ['\u{1}', '\t', '\n', '\u{1b}', '\u{1f}', '\u{7f}', '\u{80}', '\u{9b}', '\u{9f}'] {
            assert_eq!(TopicName::new(format!("a{bad}")), Err(TopicError::Control(bad)));
            assert_eq!(TopicFilter::new(format!("{bad}/#")), Err(TopicError::Control(bad)));
        }
        for bad in ['\u{fdd0}', '\u{fdef}', '\u{fffe}', '\u{ffff}', '\u{1fffe}', '\u{10ffff}'] {
            assert_eq!(TopicName::new(format!("ä{bad}/")), Err(TopicError::Noncharacter(bad)));
            assert_eq!(TopicFilter::new(format!("+/{bad}")), Err(TopicError::Noncharacter(bad)));
        }
        let shown = |text: &str| TopicName::new(text).unwrap_err().to_string();
        assert_eq!(shown("a\u{1b}"), "a topic cannot contain control characters: there is U+001B");
        assert_eq!(shown("\u{1fffe}"), "a topic cannot contain U+1FFFE, which is no character");
    }

    #[test]
    fn a_topic_holds_itself_and_what_is_below() {
        let root = TopicName::new("gatepost/hut").unwrap();
        for (topic, expected) in [
            ("gatepost/hut", true),
            ("gatepost/hut/", true),
            ("gatepost/hut/device/x/status", true),
            ("gatepost/hut2", false),
            ("gatepost", false),
            ("Gatepost/hut", false),
            ("/gatepost/hut", false),
        ] {
            assert_eq!(root.holds(topic), expected, "{topic}");
        }
    }

    #[test]
    fn filters_are_checked() {
        for good in ["#", "+", "+/a/#", "/", "a//b", "sport/+/player1"] {
            assert!(TopicFilter::new(good).is_ok(), "{good}");
        }
        for bad in ["a/#/b", "a#", "#/a"] {
            assert_eq!(TopicFilter::new(bad), Err(TopicError::MisplacedHash), "{bad}");
        }
        assert_eq!(TopicFilter::new("a+/b"), Err(TopicError::MisplacedPlus));
    }

    #[test]
    fn matching_follows_section_4_7() {
        let table = [
            ("sport/tennis/player1/#", "sport/tennis/player1", true),
            ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true),
            ("sport/#", "sport", true),
            ("sport/tennis/+", "sport/tennis/player1/ranking", false),
            ("sport/+", "sport", false),
            ("sport/+", "sport/", true),
            ("+/+", "/finance", true),
            ("/+", "/finance", true),
            ("+", "/finance", false),
            ("#", "$SYS/a", false),
            ("+/a", "$SYS/a", false),
            ("$SYS/#", "$SYS/a", true),
            ("a", "a/", false),
        ];
        for (f, t, expected) in table {
            assert_eq!(filter(f).matches(t), expected, "{f} against {t}");
        }
    }

    #[test]
    fn a_filter_covers_what_is_narrower() {
        let table = [
            ("#", "a/+/#", true),
            ("#", "#", true),
            ("a/#", "a", true),
            ("a/#", "a/#", true),
            ("a/+", "a/b", true),
            ("a/+", "a/+", true),
            ("a/+", "a/#", false),
            ("a/b", "a/+", false),
            ("+/b", "a/#", false),
            ("a", "a/b", false),
            ("a/b", "a", false),
            ("#", "$SYS/a", false),
            ("$SYS/#", "$SYS/+/b", true),
        ];
        for (wide, narrow, expected) in table {
            assert_eq!(filter(wide).covers(&filter(narrow)), expected, "{wide} {narrow}");
        }
    }

    #[test]
    fn overlap_is_symmetric() {
        let table = [
            ("a/+", "+/b", true),
            ("a/#", "a", true),
            ("a/b", "a/c", false),
            ("#", "$SYS/x", false),
            ("+", "a/b", false),
            ("a/+/c", "a/b/#", true),
        ];
        for (a, b, expected) in table {
            assert_eq!(filter(a).overlaps(&filter(b)), expected, "{a} {b}");
            assert_eq!(filter(b).overlaps(&filter(a)), expected, "{b} {a}");
        }
    }
}
