//! From message to frames: the `[[device.NAME.subscribe]]` rules of one device.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;

use super::json;
use crate::config::{CommandPayload, Device, SubscribeRule};
use crate::qos::Qos;
use crate::stats::DropReason;
use crate::template::{Piece, Template};
use crate::topic::TopicFilter;

/// The standard alphabet (RFC 4648), with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The peer level that means every connection.
const ALL_PEERS: &str = "all";

/// A frame for the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// What to write, before framing.
    pub frame: Bytes,
    /// To which connection.
    pub target: Target,
    /// Dropped when it waited longer. `None`: no limit.
    pub max_age: Option<Duration>,
}

/// Which connections of a device a command is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Every one. A device that is one link has only this.
    All,
    /// The one with this [`peer_name`](super::peer_name).
    Peer(String),
}

/// What became of a message under one rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandOutcome {
    /// A frame to queue.
    Command(Command),
    /// A message that goes no further under this rule.
    Dropped {
        /// Why, for the counter.
        reason: DropReason,
        /// Why, for people, where the reason alone does not say it.
        detail: Option<String>,
    },
}

/// The subscribe rules of one device.
#[derive(Debug)]
pub struct CommandRules {
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    filter: TopicFilter,
    qos: Qos,
    peer_level: Option<usize>,
    accept_retained: bool,
    payload: CommandPayload,
    write: Vec<Part>,
    max_age: Option<Duration>,
}

#[derive(Debug)]
enum Part {
    Literal(String),
    Payload,
    Topic,
    /// From 0.
    Level(usize),
    /// A JSON pointer.
    Json(String),
    /// A placeholder that the config check lets nobody write.
    Unknown(String),
}

impl CommandRules {
    /// The rules of `device`, on the gateway of that name.
    pub fn new(device: &Device, gateway_name: &str) -> CommandRules {
        let rules = device.subscribe.iter().map(|rule| Rule::new(rule, &device.name, gateway_name)).collect();
        CommandRules { rules }
    }

    /// What to subscribe to; of equal filters the highest QoS.
    pub fn filters(&self) -> Vec<(TopicFilter, Qos)> {
        let mut filters = BTreeMap::new();
        for rule in &self.rules {
            let qos = filters.entry(rule.filter.clone()).or_insert(rule.qos);
            *qos = rule.qos.max(*qos);
        }
        filters.into_iter().collect()
    }

    /// Appends to `out` what each rule whose filter matches makes of a message, in the order of the rules. `retain` is
    /// set on a message that the broker had kept from before the subscription.
    pub fn render(&self, topic: &str, payload: &Bytes, retain: bool, out: &mut Vec<CommandOutcome>) {
        for rule in self.rules.iter().filter(|rule| rule.filter.matches(topic)) {
            if retain && !rule.accept_retained {
                out.push(CommandOutcome::Dropped { reason: DropReason::Retained, detail: None });
                continue;
            }
            out.push(match rule.frame(topic, payload) {
                Ok(frame) => {
                    CommandOutcome::Command(Command { frame, target: rule.target(topic), max_age: rule.max_age })
                }
                Err(detail) => CommandOutcome::Dropped { reason: DropReason::Render, detail: Some(detail) },
            });
        }
    }
}

impl Rule {
    fn new(rule: &SubscribeRule, device: &str, gateway: &str) -> Rule {
        Rule {
            filter: rule.filter.clone(),
            qos: rule.qos,
            peer_level: rule.peer_level,
            accept_retained: rule.accept_retained,
            payload: rule.payload,
            write: parts(&rule.write, device, gateway),
            max_age: rule.max_age,
        }
    }

    fn target(&self, topic: &str) -> Target {
        match self.peer_level.and_then(|level| topic.split('/').nth(level)) {
            None | Some(ALL_PEERS) => Target::All,
            Some(peer) => Target::Peer(peer.to_owned()),
        }
    }

    /// The frame, or why there is none. `{payload}` alone is the payload itself.
    fn frame(&self, topic: &str, payload: &Bytes) -> Result<Bytes, String> {
        let payload = decode(self.payload, payload)?;
        if let [Part::Payload] = self.write.as_slice() {
            return Ok(payload);
        }
        let mut frame = Vec::with_capacity(payload.len() + 32);
        for part in &self.write {
            match part {
                Part::Literal(text) => frame.extend_from_slice(text.as_bytes()),
                Part::Payload => frame.extend_from_slice(&payload),
                Part::Topic => frame.extend_from_slice(topic.as_bytes()),
                Part::Level(level) => match topic.split('/').nth(*level) {
                    Some(text) => frame.extend_from_slice(text.as_bytes()),
                    None => return Err(format!("the topic has no level {}", level + 1)),
                },
                Part::Json(pointer) => push_json(&mut frame, &payload, pointer)?,
                Part::Unknown(name) => return Err(format!("{{{name}}} is no placeholder of write")),
            }
        }
        Ok(frame.into())
    }
}

fn parts(template: &Template, device: &str, gateway: &str) -> Vec<Part> {
    let part = |piece: &Piece| match piece {
        Piece::Literal(text) => Part::Literal(text.clone()),
        Piece::Placeholder { name, argument } => match (name.as_str(), argument.as_deref()) {
            ("payload", None) => Part::Payload,
            ("topic", None) => Part::Topic,
            ("json", pointer) => Part::Json(pointer.unwrap_or_default().to_owned()),
            ("gateway", None) => Part::Literal(gateway.to_owned()),
            ("device", None) => Part::Literal(device.to_owned()),
            ("topic", Some(level)) => match level.parse::<usize>().ok().and_then(|level| level.checked_sub(1)) {
                Some(level) => Part::Level(level),
                None => Part::Unknown(format!("topic:{level}")),
            },
            (name, None) => Part::Unknown(name.to_owned()),
            (name, Some(argument)) => Part::Unknown(format!("{name}:{argument}")),
        },
    };
    template.pieces().iter().map(part).collect()
}

fn decode(form: CommandPayload, payload: &Bytes) -> Result<Bytes, String> {
    match form {
        CommandPayload::Raw => Ok(payload.clone()),
        CommandPayload::Hex => decode_hex(payload),
        CommandPayload::Base64 => match BASE64.decode(payload.trim_ascii()) {
            Ok(bytes) => Ok(bytes.into()),
            Err(error) => Err(format!("the payload is not base64: {error}")),
        },
    }
}

/// Pairs of digits; white space may stand between pairs, not within one.
fn decode_hex(payload: &[u8]) -> Result<Bytes, String> {
    let mut bytes = Vec::with_capacity(payload.len() / 2);
    for run in payload.split(u8::is_ascii_whitespace) {
        let run = hex::decode(run).map_err(|error| format!("the payload is not hexadecimal: {error}"))?;
        bytes.extend_from_slice(&run);
    }
    Ok(bytes.into())
}

/// Appends what `pointer` leads to: strings bare, anything else as it is written.
fn push_json(frame: &mut Vec<u8>, payload: &[u8], pointer: &str) -> Result<(), String> {
    let not_json = |error| format!("the payload is not JSON: {error}");
    let document = json::parse(payload).map_err(not_json)?;
    let value = json::resolve(document, pointer).map_err(not_json)?;
    let value = value.ok_or_else(|| format!("the payload has nothing at {pointer}"))?;
    match json::string(value).map_err(not_json)? {
        Some(text) => frame.extend_from_slice(text.as_bytes()),
        None => frame.extend_from_slice(value.get().as_bytes()),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::fixture::{device, subscribe};
    use super::*;

    fn render(rules: Vec<SubscribeRule>, topic: &str, payload: &[u8], retain: bool) -> Vec<CommandOutcome> {
        let mut out = Vec::new();
        let rules = CommandRules::new(&device(Vec::new(), rules), "hut");
        rules.render(topic, &Bytes::copy_from_slice(payload), retain, &mut out);
        out
    }

    fn frame(rule: SubscribeRule, topic: &str, payload: &[u8]) -> Result<Bytes, DropReason> {
        match render(vec![rule], topic, payload, false).as_slice() {
            [CommandOutcome::Command(command)] => Ok(command.frame.clone()),
            [CommandOutcome::Dropped { reason, .. }] => Err(*reason),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn write_templates_are_filled_in() {
        let json = br#"{"t":"a\nb","n":21.50,"o":{"x":[true]}}"#;
        type Case<'a> = (&'a str, &'a [u8], Result<&'a [u8], DropReason>);
        let table: [Case<'_>; 10] = [
            ("{payload}", b"\xff\0", Ok(b"\xff\0")),
            ("[{payload}]", b"\xff\0", Ok(b"[\xff\0]")),
            ("{topic}={payload}", b"1", Ok(b"a/b/c=1")),
            ("{topic:3} {topic:1}", b"", Ok(b"c a")),
            ("{topic:4}", b"", Err(DropReason::Render)),
            (
                "{json:/t} {json:/n} {json:/o/x/0} {json:/o}",
                json,
                Ok(br#"a
b 21.50 true {"x":[true]}"#),
            ),
            ("{json:/missing}", json, Err(DropReason::Render)),
            ("{json:/t}", b"\xff", Err(DropReason::Render)),
            ("{gateway} {device}", b"", Ok(b"hut board")),
            ("{other}", b"", Err(DropReason::Render)),
        ];
        for (write, payload, expected) in table {
            let expected = expected.map(Bytes::copy_from_slice);
            assert_eq!(frame(subscribe("a/+/c", write), "a/b/c", payload), expected, "{write}");
        }
    }

    #[test]
    fn payloads_are_decoded_first() {
        let hex = |payload: &[u8]| {
            frame(SubscribeRule { payload: CommandPayload::Hex, ..subscribe("a", "{payload}") }, "a", payload)
        };
        assert_eq!(hex(b" 01 fF\n02AA ").unwrap(), &b"\x01\xff\x02\xaa"[..]);
        assert_eq!(hex(b"").unwrap(), "");
        assert_eq!(hex(b"0 1"), Err(DropReason::Render));
        assert_eq!(hex(b"0g"), Err(DropReason::Render));
        let base64 = |payload: &[u8]| {
            frame(SubscribeRule { payload: CommandPayload::Base64, ..subscribe("a", "<{payload}>") }, "a", payload)
        };
        assert_eq!(base64(b"//8=\n").unwrap(), &b"<\xff\xff>"[..]);
        assert_eq!(base64(b"//8").unwrap(), &b"<\xff\xff>"[..]);
        assert_eq!(base64(b"_-8"), Err(DropReason::Render));
    }

    #[test]
    fn retained_messages_are_ignored_unless_accepted() {
        let accepting = SubscribeRule { accept_retained: true, ..subscribe("a", "{payload}") };
        let ignoring = subscribe("a", "{payload}");
        let out = render(vec![ignoring, accepting], "a", b"x", true);
        assert_eq!(out[0], CommandOutcome::Dropped { reason: DropReason::Retained, detail: None });
        assert!(matches!(&out[1], CommandOutcome::Command(command) if command.frame == "x"));
    }

    #[test]
    fn the_peer_level_is_the_target() {
        let target =
            |topic: &str| match render(vec![subscribe("s/{peer}/display", "{payload}")], topic, b"x", false).pop() {
                Some(CommandOutcome::Command(command)) => Some(command.target),
                _ => None,
            };
        assert_eq!(target("s/10.0.0.1_5/display"), Some(Target::Peer("10.0.0.1_5".to_owned())));
        assert_eq!(target("s/all/display"), Some(Target::All));
        assert_eq!(target("s/x/other"), None);
    }

    #[test]
    fn every_rule_that_matches_makes_a_command() {
        let rules = vec![subscribe("a/+", "1"), subscribe("b", "2"), subscribe("a/#", "3")];
        let frames: Vec<Bytes> = render(rules, "a/b", b"", false)
            .into_iter()
            .filter_map(|outcome| match outcome {
                CommandOutcome::Command(command) => Some(command.frame),
                CommandOutcome::Dropped { .. } => None,
            })
            .collect();
        assert_eq!(frames, ["1", "3"]);
    }

    #[test]
    fn equal_filters_are_subscribed_to_once_at_the_highest_qos() {
        let rule = |qos| SubscribeRule { qos, ..subscribe("a", "{payload}") };
        let rules = vec![rule(Qos::AtMostOnce), rule(Qos::ExactlyOnce), rule(Qos::AtLeastOnce), subscribe("b", "x")];
        let filters = CommandRules::new(&device(Vec::new(), rules), "hut").filters();
        let filter = |text: &str| TopicFilter::new(text).unwrap();
        assert_eq!(filters, [(filter("a"), Qos::ExactlyOnce), (filter("b"), Qos::AtLeastOnce)]);
    }

    #[test]
    fn the_payload_alone_is_passed_on_untouched() {
        let payload = Bytes::from((0..=255).collect::<Vec<u8>>());
        let mut out = Vec::new();
        CommandRules::new(&device(Vec::new(), vec![subscribe("a", "{payload}")]), "hut")
            .render("a", &payload, false, &mut out);
        let expected = Command { frame: payload.clone(), target: Target::All, max_age: None };
        assert_eq!(out, [CommandOutcome::Command(expected)]);
        assert!(matches!(&out[0], CommandOutcome::Command(command) if command.frame.as_ptr() == payload.as_ptr()));
    }

    proptest! {
        #[test]
        fn bytes_pass_as_they_are(payload: Vec<u8>) {
            prop_assert_eq!(frame(subscribe("a", "{payload}"), "a", &payload).unwrap(), payload.clone());
            let framed = [b"<", payload.as_slice(), b">"].concat();
            prop_assert_eq!(frame(subscribe("a", "<{payload}>"), "a", &payload).unwrap(), framed);
            let decoding = |payload| SubscribeRule { payload, ..subscribe("a", "{payload}") };
            let hex = hex::encode(&payload);
            prop_assert_eq!(frame(decoding(CommandPayload::Hex), "a", hex.as_bytes()).unwrap(), payload.clone());
            let base64 = BASE64.encode(&payload);
            prop_assert_eq!(frame(decoding(CommandPayload::Base64), "a", base64.as_bytes()).unwrap(), payload);
        }

        #[test]
        fn nothing_panics(topic: String, payload: Vec<u8>, pointer: String, retain: bool) {
            for form in [CommandPayload::Raw, CommandPayload::Hex, CommandPayload::Base64] {
                let write = format!("{{payload}}{{topic:2}}{{json:{pointer}}}");
                let rule = SubscribeRule { payload: form, ..subscribe("#", &write) };
                render(vec![rule], &topic, &payload, retain);
            }
        }
    }
}
