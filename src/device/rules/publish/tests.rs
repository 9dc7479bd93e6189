//! Rules, frame by frame.

use std::time::{Duration, SystemTime};

use proptest::prelude::*;

use super::*;
use crate::config::{Parse, Payload};
use crate::device::rules::fixture::{device, gateway, matching, publish};
use crate::template::Template;

fn rules(rules: Vec<PublishRule>) -> PublishRules {
    PublishRules::new(&device(rules, Vec::new()), &gateway())
}

fn now() -> Now {
    Now { instant: Instant::now(), wall: SystemTime::UNIX_EPOCH }
}

/// `topic=payload` of each publication, the reason of each drop.
fn applied(rules: &mut PublishRules, frame: &[u8], peer: Option<&str>) -> Vec<String> {
    let mut out = Vec::new();
    let peer = peer.map(|peer| peer.parse().unwrap());
    rules.apply(&Bytes::copy_from_slice(frame), peer, now(), &mut out);
    let name = |outcome| match outcome {
        Outcome::Publish(message) => format!("{}={}", message.topic, String::from_utf8_lossy(&message.payload)),
        Outcome::Dropped { reason, .. } => reason.as_str().to_owned(),
    };
    out.into_iter().map(name).collect()
}

fn once(rule: PublishRule, frame: &str) -> Vec<String> {
    applied(&mut rules(vec![rule]), frame.as_bytes(), None)
}

#[test]
fn the_first_rule_that_matches_takes_the_frame() {
    let mut rules = rules(vec![matching("^a", "1"), matching("b", "2"), matching("^ab", "3")]);
    assert_eq!(applied(&mut rules, b"ab", None), ["1=ab"]);
    assert_eq!(applied(&mut rules, b"xb\xff", None), ["2=xb\u{fffd}"]);
    assert_eq!(applied(&mut rules, b"x", None), ["no_rule"]);
}

#[test]
fn continue_lets_later_rules_see_the_frame() {
    let go_on = |rule: PublishRule| PublishRule { continues: true, ..rule };
    let json = PublishRule { parse: Parse::Json, ..publish("json") };
    let mut rules = rules(vec![go_on(matching("a", "1")), go_on(json), matching("b", "2")]);
    assert_eq!(applied(&mut rules, b"ab", None), ["1=ab", "parse", "2=ab"]);
    assert_eq!(applied(&mut rules, b"{}a", None), ["1={}a", "parse"]);
}

#[test]
fn a_rule_that_cannot_publish_drops_the_frame_with_the_reason() {
    let json = PublishRule { parse: Parse::Json, ..publish("json") };
    assert_eq!(applied(&mut rules(vec![json, publish("rest")]), b"x", None), ["parse"]);
    assert_eq!(once(publish("{peer}"), "x"), ["missing_field"]);
    assert_eq!(once(matching("x(?<id>y)?", "{id}"), "x"), ["missing_field"]);
    assert_eq!(once(publish(""), "x"), ["bad_topic"]);
    assert_eq!(once(matching("^(?<all>.*)$", "t/{all}"), &"x".repeat(65_535)), ["bad_topic"]);
}

#[test]
fn topics_are_made_from_the_frame() {
    let rule = matching("^(?<id>[^ ]*) (?<state>.*)$", "{gateway}/{device}/{peer}/{peer_ip}/{id}");
    let rule = PublishRule { payload: Payload::Template(Template::parse("{state}")), ..rule };
    let out = applied(&mut rules(vec![rule]), b"lamp/1 on", Some("[fe80::1]:7"));
    assert_eq!(out, ["hut/board/fe80::1_7/fe80::1/lamp_1=on"]);
}

#[test]
fn no_frame_publishes_to_topics_of_the_broker_or_the_gateway() {
    let all = "(?s)^(?<all>.*)$";
    for (topic, frame) in [
        ("{all}", "$SYS"),
        ("{all}/x", "$SYS"),
        ("{all}/broker/uptime", "$SYS"),
        ("{all}/hut", "gatepost"),
        ("{all}/hut/status", "gatepost"),
        ("{all}/{gateway}/device/{device}/status", "gatepost"),
        ("gatepost/{all}/", "hut"),
        ("gatepost/{gateway}/{all}", "x"),
        ("gatepost/hut", "x"),
        ("$share/g/{all}", "x"),
    ] {
        assert_eq!(once(matching(all, topic), frame), ["reserved"], "{topic} {frame}");
    }
    let out = once(matching(all, "{all}/hut"), "gatepost2");
    assert_eq!(out, ["gatepost2/hut=gatepost2"]);
    assert_eq!(once(matching(all, "{all}/hut2"), "gatepost"), ["gatepost/hut2=gatepost"]);
    let each = |topic| PublishRule { parse: Parse::Json, each_field: true, ..publish(topic) };
    assert_eq!(once(each("gatepost"), r#"{"hut":1,"hut/":2,"x":3}"#), ["reserved", "gatepost/hut_=2", "gatepost/x=3"]);
    assert_eq!(once(each("$x"), r#"{"a":1,"b":2}"#), ["reserved"]);
    for (frame, owner) in [("$SYS", "is the broker's own"), ("gatepost/hut", "is the gateway's own")] {
        let mut out = Vec::new();
        let topic = if frame == "$SYS" { "{all}/x" } else { "gatepost/{all}" };
        let frame = Bytes::from_static(frame.trim_start_matches("gatepost/").as_bytes());
        rules(vec![matching(all, topic)]).apply(&frame, None, now(), &mut out);
        assert!(
            matches!(&out[..], [Outcome::Dropped { detail: Some(detail), .. }] if detail.ends_with(owner)),
            "{out:?}"
        );
    }
    let mut out = Vec::new();
    let long = "$".to_owned() + &"x".repeat(60_000);
    rules(vec![matching(all, "{all}")]).apply(&Bytes::from(long), None, now(), &mut out);
    assert!(matches!(&out[..], [Outcome::Dropped { detail: Some(detail), .. }] if detail.len() < 400), "{out:?}");
}

#[test]
fn qos_and_retain_are_the_rules() {
    let rule = PublishRule { qos: Qos::ExactlyOnce, retain: true, ..publish("t") };
    let mut out = Vec::new();
    rules(vec![rule]).apply(&Bytes::from_static(b"x"), None, now(), &mut out);
    let topic = TopicName::new("t").unwrap();
    let payload = Bytes::from_static(b"x");
    assert_eq!(out, [Outcome::Publish(Publication { topic, payload, qos: Qos::ExactlyOnce, retain: true })]);
}

#[test]
fn a_raw_frame_on_a_fixed_topic_is_passed_on_by_reference() {
    let mut rules = rules(vec![publish("{gateway}/{device}")]);
    let (frame, mut out) = (Bytes::from((0..=255).collect::<Vec<u8>>()), Vec::new());
    rules.apply(&frame, None, now(), &mut out);
    rules.apply(&frame, None, now(), &mut out);
    let [Outcome::Publish(first), Outcome::Publish(second)] = &out[..] else { panic!("{out:?}") };
    assert_eq!(first.payload, frame);
    assert_eq!(first.payload.as_ptr(), frame.as_ptr());
    assert_eq!(first.topic.as_str().as_ptr(), second.topic.as_str().as_ptr());
}

#[test]
fn each_field_has_a_message_of_its_own() {
    let rule = PublishRule { parse: Parse::Json, each_field: true, ..publish("s") };
    let frame = r#"{"t":21.50,"a":{"b":"x y"},"on":true,"+/#":null,"":[1]}"#;
    assert_eq!(once(rule.clone(), frame), ["s/t=21.50", "s/a.b=x y", "s/on=true", "s/___=null", "s/_=[1]"]);
    assert_eq!(once(rule, "{}"), ["missing_field"]);
}

#[test]
fn envelopes_are_numbered_and_compared_by_their_frame() {
    let rule = PublishRule { payload: Payload::Envelope, on_change: true, ..publish("t") };
    let mut rules = rules(vec![rule]);
    let envelope = |number, text| {
        let time = "1970-01-01T00:00:00.000Z";
        format!(r#"t={{"time":"{time}","seq":{number},"gateway":"hut","device":"board","text":"{text}"}}"#)
    };
    assert_eq!(applied(&mut rules, b"a", None), [envelope(1, "a")]);
    assert_eq!(applied(&mut rules, b"a", None), ["unchanged"]);
    assert_eq!(applied(&mut rules, b"b", None), [envelope(2, "b")]);
}

#[test]
fn rules_share_what_is_last_on_a_topic() {
    let state = |pattern, payload| PublishRule {
        payload: Payload::Template(Template::parse(payload)),
        on_change: true,
        ..matching(pattern, "lamp")
    };
    let mut rules = rules(vec![state("on", "1"), state("off", "0")]);
    let out: Vec<_> = ["on", "off", "on", "on"].iter().flat_map(|f| applied(&mut rules, f.as_bytes(), None)).collect();
    assert_eq!(out, ["lamp=1", "lamp=0", "lamp=1", "unchanged"]);
}

#[test]
fn held_back_messages_come_when_due_or_at_the_stop() {
    let interval = Duration::from_secs(5);
    let mut rules = rules(vec![PublishRule { min_interval: interval, ..publish("t") }]);
    let (start, mut out) = (now(), Vec::new());
    for frame in ["1", "2", "3"] {
        rules.apply(&Bytes::from(frame), None, start, &mut out);
    }
    assert_eq!(out.len(), 2, "one published, one superseded");
    assert_eq!(rules.next_due(), Some(start.instant + interval));
    out.clear();
    rules.flush(start, &mut out);
    assert!(matches!(&out[..], [Outcome::Publish(message)] if message.payload == "3"));
    assert_eq!(rules.next_due(), None);
}

/// Rules of every kind, none of which keeps a frame from the others.
fn every_kind() -> Vec<PublishRule> {
    let names = vec!["a".to_owned(), String::new(), "b".to_owned()];
    let parses = [
        Parse::None,
        Parse::Json,
        Parse::Csv { names, separator: b',' },
        Parse::KeyValue { assign: "=".to_owned(), separator: " ".to_owned() },
    ];
    let template = Payload::Template(Template::parse("{a}{payload}{peer}"));
    let payloads =
        [Payload::Raw, Payload::Text, Payload::Hex, Payload::Base64, Payload::Fields, Payload::Envelope, template];
    let base = PublishRule { continues: true, ..matching(r"(?s-u)^(?<g>.*?)(?<a>[0-9]*)$", "{g}/{a}") };
    let mut rules = Vec::new();
    for parse in &parses {
        for payload in &payloads {
            let rule = PublishRule { parse: parse.clone(), ..base.clone() };
            rules.push(PublishRule { payload: payload.clone(), on_change: true, ..rule.clone() });
            rules.push(PublishRule { each_field: true, min_interval: Duration::from_secs(1), ..rule });
        }
    }
    rules
}

/// Whether libmosquitto takes a PUBLISH to `topic`, read from its source anew: what it validates as UTF-8, and no
/// wildcard.
fn libmosquitto_takes(topic: &str) -> bool {
    let takes = |c: char| {
        let c = u32::from(c);
        !(c <= 0x1F || (0x7F..=0x9F).contains(&c) || (0xFDD0..=0xFDEF).contains(&c) || c & 0xFFFF >= 0xFFFE)
    };
    (1..=65_535).contains(&topic.len()) && topic.chars().all(|c| takes(c) && c != '+' && c != '#')
}

proptest! {
    #[test]
    fn whatever_comes_every_topic_is_one(
        frame in prop_oneof![
            any::<Vec<u8>>(),
            any::<String>().prop_map(String::into_bytes),
            "[\\x00-\\x20\\x7f-\\u{a0}$+#/={}\":,\u{fdd0}\u{fdef}\u{ffff}\u{1fffe}a-c]{0,40}".prop_map(String::into_bytes),
            "(\\$SYS|gatepost|hut|\\$share)[=/ ](hut|x|status)?".prop_map(String::into_bytes),
        ],
    ) {
        let whole = PublishRule { continues: true, ..matching("(?s-u)^(?<all>.*)$", "{all}") };
        let topics = ["{all}", "{all}/hut", "{all}/value", "x{all}", "a/{all}/b", "{all}{all}"];
        let mut all: Vec<_> = topics.map(|topic| PublishRule { topic: Template::parse(topic), ..whole.clone() }).into();
        all.extend(every_kind());
        let (mut out, mut rules) = (Vec::new(), rules(all));
        rules.apply(&Bytes::from(frame), None, now(), &mut out);
        rules.flush(now(), &mut out);
        for outcome in out {
            let Outcome::Publish(message) = outcome else { continue };
            let topic = message.topic.as_str();
            prop_assert!(TopicName::check(topic).is_ok() && libmosquitto_takes(topic), "{topic:?}");
            prop_assert!(!topic.starts_with('$') && topic != "gatepost/hut" && !topic.starts_with("gatepost/hut/"));
        }
    }

    #[test]
    fn raw_frames_pass_as_they_are(frame: Vec<u8>) {
        let mut out = Vec::new();
        let wrapped = Payload::Template(Template::parse("<{payload}>"));
        let first = PublishRule { continues: true, ..publish("raw") };
        let frame = Bytes::from(frame);
        rules(vec![first, PublishRule { payload: wrapped, ..publish("wrapped") }]).apply(&frame, None, now(), &mut out);
        let [Outcome::Publish(raw), Outcome::Publish(wrapped)] = &out[..] else { panic!("{out:?}") };
        prop_assert_eq!(&raw.payload, &frame);
        prop_assert_eq!(&wrapped.payload[1..frame.len() + 1], &frame[..]);
    }

    #[test]
    fn nothing_panics_and_json_is_json(
        frame in prop_oneof![any::<Vec<u8>>(), "[\\[\\]{}\":,0-9a=\\\\ ]{0,40}".prop_map(String::into_bytes)],
    ) {
        let mut out = Vec::new();
        let mut rules = rules(every_kind());
        rules.apply(&Bytes::from(frame.clone()), "[::1]:1".parse().ok(), now(), &mut out);
        rules.flush(now(), &mut out);
        prop_assert!(out.len() >= every_kind().len());

        let mut out = Vec::new();
        for rule in every_kind() {
            let payload = if rule.each_field { Payload::Fields } else { Payload::Envelope };
            let rule = PublishRule { payload, each_field: false, ..rule };
            self::rules(vec![rule]).apply(&Bytes::from(frame.clone()), None, now(), &mut out);
        }
        for outcome in out {
            if let Outcome::Publish(message) = outcome {
                let parsed: Result<serde_json::Value, _> = serde_json::from_slice(&message.payload);
                prop_assert!(parsed.is_ok(), "{:?}", message.payload);
            }
        }
    }
}
