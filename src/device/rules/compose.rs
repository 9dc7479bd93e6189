//! Templates of publish rules, compiled: what is known beforehand is text, the rest is looked up frame by frame.
//!
//! `{gateway}`, `{device}`, `{peer}` and `{peer_ip}` always mean what they say here, even when a frame has a field of
//! that name. In a payload `{payload}` is the field of that name, and without one the frame.

use std::net::SocketAddr;

use bytes::Bytes;

use super::fields::Fields;
use super::peer_name;
use crate::stats::DropReason;
use crate::template::{Piece, Template};
use crate::topic::is_unfit;

/// Where a device's frames come from.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    pub(super) gateway: String,
    pub(super) device: String,
}

/// One frame and what is known of it.
pub(super) struct Source<'a> {
    pub(super) frame: &'a Bytes,
    pub(super) peer: Option<SocketAddr>,
    pub(super) fields: &'a Fields<'a>,
}

/// A placeholder that the frame has nothing for, by name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Missing(String);

impl Missing {
    /// As a drop; `template` is `topic` or `payload`.
    pub(super) fn refusal(self, template: &str) -> (DropReason, String) {
        (DropReason::MissingField, format!("{template}: the frame has nothing for {{{}}}", self.0))
    }
}

/// A compiled template.
#[derive(Debug)]
pub(super) struct Composition(Vec<Part>);

#[derive(Debug)]
enum Part {
    Literal(String),
    Peer,
    PeerIp,
    /// `{payload}` in a payload.
    Frame,
    Field(String),
}

impl Composition {
    /// A topic's template.
    pub(super) fn topic(template: &Template, origin: &Origin) -> Composition {
        Composition::new(template, origin, |name| Part::Field(name.to_owned()))
    }

    /// A payload's template.
    pub(super) fn payload(template: &Template, origin: &Origin) -> Composition {
        Composition::new(template, origin, |name| match name {
            "payload" => Part::Frame,
            field => Part::Field(field.to_owned()),
        })
    }

    fn new(template: &Template, origin: &Origin, other: impl Fn(&str) -> Part) -> Composition {
        let mut parts: Vec<Part> = Vec::new();
        for piece in template.pieces() {
            let part = match piece {
                Piece::Literal(text) => Part::Literal(text.clone()),
                Piece::Placeholder { name, argument: None } => match name.as_str() {
                    "gateway" => Part::Literal(origin.gateway.clone()),
                    "device" => Part::Literal(origin.device.clone()),
                    "peer" => Part::Peer,
                    "peer_ip" => Part::PeerIp,
                    name => other(name),
                },
                Piece::Placeholder { name, argument: Some(argument) } => Part::Field(format!("{name}:{argument}")),
            };
            match (parts.last_mut(), part) {
                (Some(Part::Literal(before)), Part::Literal(text)) => before.push_str(&text),
                (_, part) => parts.push(part),
            }
        }
        Composition(parts)
    }

    /// The text, if it is the same for every frame.
    pub(super) fn fixed(&self) -> Option<&str> {
        match self.0.as_slice() {
            [] => Some(""),
            [Part::Literal(text)] => Some(text),
            _ => None,
        }
    }

    /// Whether fields of the frame are needed.
    pub(super) fn wants_fields(&self) -> bool {
        self.0.iter().any(|part| matches!(part, Part::Field(_) | Part::Frame))
    }

    /// A payload: values as they are, byte by byte. A template of one placeholder copies nothing.
    pub(super) fn render_payload(&self, source: &Source<'_>) -> Result<Bytes, Missing> {
        if let [part] = self.0.as_slice() {
            return part.value(source);
        }
        let mut payload = Vec::new();
        for part in &self.0 {
            match part {
                Part::Literal(text) => payload.extend_from_slice(text.as_bytes()),
                part => payload.extend_from_slice(&part.value(source)?),
            }
        }
        Ok(payload.into())
    }

    /// A topic: values made fit for topic levels.
    pub(super) fn render_topic(&self, source: &Source<'_>) -> Result<String, Missing> {
        let mut topic = String::new();
        for part in &self.0 {
            match part {
                Part::Literal(text) => topic.push_str(text),
                part => push_level(&mut topic, &part.value(source)?),
            }
        }
        Ok(topic)
    }
}

impl Part {
    fn value(&self, source: &Source<'_>) -> Result<Bytes, Missing> {
        match self {
            Part::Literal(text) => Ok(Bytes::copy_from_slice(text.as_bytes())),
            Part::Peer => source.peer.map(|peer| peer_name(peer).into()).ok_or_else(|| Missing("peer".to_owned())),
            Part::PeerIp => match source.peer {
                Some(peer) => Ok(peer.ip().to_canonical().to_string().into()),
                None => Err(Missing("peer_ip".to_owned())),
            },
            Part::Frame => Ok(source.fields.get("payload").map_or(source.frame, |value| value.bare()).clone()),
            Part::Field(name) => match source.fields.get(name) {
                Some(value) => Ok(value.bare().clone()),
                None => Err(Missing(name.clone())),
            },
        }
    }
}

/// Appends `value` as a part of one topic level: `+`, `#`, `/`, control characters and noncharacters become `_`, invalid
/// UTF-8 becomes U+FFFD, and an empty value is `_`, since an empty level is hardly what a rule meant.
pub(super) fn push_level(topic: &mut String, value: &[u8]) {
    if value.is_empty() {
        topic.push('_');
    }
    let text = String::from_utf8_lossy(value);
    topic.extend(text.chars().map(|c| if matches!(c, '+' | '#' | '/') || is_unfit(c) { '_' } else { c }));
}

#[cfg(test)]
mod tests {
    use super::super::fields::Extractor;
    use super::super::fixture::matching;
    use super::*;

    fn origin() -> Origin {
        Origin { gateway: "hut".to_owned(), device: "board".to_owned() }
    }

    /// Topic and payload of `template` for a frame `name=value`, from a peer.
    fn render(template: &str, frame: &'static [u8]) -> (Result<String, Missing>, Result<Bytes, Missing>) {
        let (template, frame) = (Template::parse(template), Bytes::from_static(frame));
        let mut extractor = Extractor::new(&matching("(?s-u)^(?<name>.*?)=(?<value>.*)$", "t"), true);
        let fields = extractor.extract(&frame).unwrap().unwrap();
        let source = Source { frame: &frame, peer: "[::ffff:10.0.0.1]:9".parse().ok(), fields: &fields };
        let topic = Composition::topic(&template, &origin()).render_topic(&source);
        (topic, Composition::payload(&template, &origin()).render_payload(&source))
    }

    #[test]
    fn placeholders_are_filled_in() {
        let (topic, payload) = render("{gateway}/{device}/{peer}/{peer_ip}/{name}/{value}", b"a=b");
        assert_eq!(topic.unwrap(), "hut/board/10.0.0.1_9/10.0.0.1/a/b");
        assert_eq!(payload.unwrap(), "hut/board/10.0.0.1_9/10.0.0.1/a/b");
    }

    #[test]
    fn topics_are_cleaned_and_payloads_are_not() {
        let (topic, payload) = render("x/{value}/{name}", b"=a+b#c/d\0\xff");
        assert_eq!(topic.unwrap(), "x/a_b_c_d_\u{fffd}/_");
        assert_eq!(payload.unwrap(), &b"x/a+b#c/d\0\xff/"[..]);
        let (topic, payload) =
            render("{value}/{name}", "\u{9b}=\u{1b}[2J\t\u{7f}\u{85}\u{fdd0}\u{1ffff}\u{a0}".as_bytes());
        assert_eq!(topic.unwrap(), "_[2J_____\u{a0}/_");
        assert_eq!(payload.unwrap(), "\u{1b}[2J\t\u{7f}\u{85}\u{fdd0}\u{1ffff}\u{a0}/\u{9b}");
    }

    #[test]
    fn the_payload_placeholder_is_the_frame_in_payloads_only() {
        let (topic, payload) = render("<{payload}>", b"\xff=\0");
        assert_eq!(topic, Err(Missing("payload".to_owned())));
        assert_eq!(payload.unwrap(), &b"<\xff=\0>"[..]);
    }

    #[test]
    fn what_is_missing_is_named() {
        for template in ["{nothing}", "a{nothing}"] {
            assert_eq!(
                render(template, b"a=b"),
                (Err(Missing("nothing".to_owned())), Err(Missing("nothing".to_owned())))
            );
        }
        assert_eq!(render("{name:2}", b"a=b").1, Err(Missing("name:2".to_owned())));
    }

    #[test]
    fn text_known_beforehand_is_fixed() {
        let fixed = |text| Composition::topic(&Template::parse(text), &origin()).fixed().map(str::to_owned);
        assert_eq!(fixed("a/{gateway}/{device}/{{x}").as_deref(), Some("a/hut/board/{x}"));
        assert_eq!(fixed("").as_deref(), Some(""));
        assert_eq!(fixed("a/{peer}"), None);
    }
}
