//! From frame to publications: the `[[device.NAME.publish]]` rules of one device.

use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;

use super::compose::{Composition, Origin, Source, push_level};
use super::fields::Extractor;
use super::limit::{Limit, Limits};
use super::payload::{Form, envelope};
use super::{Now, Outcome, Publication};
use crate::config::{Device, PublishRule};
use crate::qos::Qos;
use crate::stats::DropReason;
use crate::topic::TopicName;

/// The publish rules of one device, and what they remember: the envelope's sequence number, and per topic what
/// `on_change` and `min_interval` need (4096 topics at most; the one quiet longest is forgotten).
///
/// The first rule whose pattern matches takes the frame; one with `continue` lets the rules after it see the frame too.
/// A rule that took a frame and could not make a message of it drops it, it does not pass it on.
#[derive(Debug)]
pub struct PublishRules {
    rules: Vec<Rule>,
    memory: Memory,
}

/// What outlives a frame.
#[derive(Debug)]
struct Memory {
    origin: Origin,
    limits: Limits,
    /// Envelopes made so far.
    sequence: u64,
}

#[derive(Debug)]
struct Rule {
    extractor: Extractor,
    output: Output,
    continues: bool,
}

/// What a rule makes of a frame it took.
#[derive(Debug)]
struct Output {
    topic: Topic,
    content: Content,
    qos: Qos,
    retain: bool,
    limit: Limit,
}

#[derive(Debug)]
enum Topic {
    /// No placeholder changes from frame to frame: built once.
    Fixed(TopicName),
    Composed(Composition),
}

#[derive(Debug)]
enum Content {
    Form(Form),
    Envelope,
    EachField,
}

/// One frame on its way through a rule.
struct Passage<'a> {
    output: &'a Output,
    source: &'a Source<'a>,
    now: Now,
}

/// Why a rule makes no message of a frame it took.
type Refusal = (DropReason, String);

impl PublishRules {
    /// The rules of `device`, on the gateway of that name.
    pub fn new(device: &Device, gateway_name: &str) -> PublishRules {
        let origin = Origin { gateway: gateway_name.to_owned(), device: device.name.clone() };
        let rules = device.publish.iter().map(|rule| Rule::new(rule, &origin)).collect();
        PublishRules { rules, memory: Memory { origin, limits: Limits::default(), sequence: 0 } }
    }

    /// The rules of `device` from now on; what is remembered stays, and what waits is published when its time has come.
    pub fn change(&mut self, device: &Device, gateway_name: &str) {
        self.rules = PublishRules::new(device, gateway_name).rules;
    }

    /// Appends to `out` what becomes of `frame`: publications in the order of the rules, and each drop. A message that
    /// `min_interval` holds back appears in neither; [`PublishRules::due`] brings it, or the drop when a newer one
    /// takes its place.
    pub fn apply(&mut self, frame: &Bytes, peer: Option<SocketAddr>, now: Now, out: &mut Vec<Outcome>) {
        let mut taken = false;
        for rule in &mut self.rules {
            match rule.extractor.extract(frame) {
                Ok(None) => continue,
                Err(detail) => out.push(Outcome::Dropped { reason: DropReason::Parse, detail: Some(detail) }),
                Ok(Some(fields)) => {
                    let source = Source { frame, peer, fields: &fields };
                    let passage = Passage { output: &rule.output, source: &source, now };
                    if let Err((reason, detail)) = passage.publish(&mut self.memory, out) {
                        out.push(Outcome::Dropped { reason, detail: Some(detail) });
                    }
                }
            }
            taken = true;
            if !rule.continues {
                return;
            }
        }
        if !taken {
            out.push(Outcome::Dropped { reason: DropReason::NoRule, detail: None });
        }
    }

    /// When [`PublishRules::due`] has something to publish; `None` while nothing is held back.
    pub fn next_due(&self) -> Option<Instant> {
        self.memory.limits.next_due()
    }

    /// Publishes what `min_interval` held back until `now`.
    pub fn due(&mut self, now: Now, out: &mut Vec<Outcome>) {
        self.memory.limits.due(now.instant, out);
    }

    /// Publishes all that `min_interval` holds back, so that a stop does not lose the newest values.
    pub fn flush(&mut self, now: Now, out: &mut Vec<Outcome>) {
        self.memory.limits.flush(now.instant, out);
    }
}

impl Rule {
    fn new(rule: &PublishRule, origin: &Origin) -> Rule {
        let composition = Composition::topic(&rule.topic, origin);
        let content = match Form::new(&rule.payload, origin) {
            _ if rule.each_field => Content::EachField,
            Some(form) => Content::Form(form),
            None => Content::Envelope,
        };
        let content_wants_fields = match &content {
            Content::Form(form) => form.wants_fields(),
            Content::Envelope | Content::EachField => true,
        };
        let extractor = Extractor::new(rule, composition.wants_fields() || content_wants_fields);
        let output = Output {
            topic: match composition.fixed().map(TopicName::new) {
                Some(Ok(topic)) => Topic::Fixed(topic),
                // A fixed text that is no topic name is told of at each frame, as a composed one is.
                _ => Topic::Composed(composition),
            },
            content,
            qos: rule.qos,
            retain: rule.retain,
            limit: Limit { on_change: rule.on_change, min_interval: rule.min_interval },
        };
        Rule { extractor, output, continues: rule.continues }
    }
}

impl Output {
    fn topic(&self, source: &Source<'_>) -> Result<TopicName, Refusal> {
        match &self.topic {
            Topic::Fixed(topic) => Ok(topic.clone()),
            Topic::Composed(composition) => {
                topic_name(composition.render_topic(source).map_err(|missing| missing.refusal("topic"))?)
            }
        }
    }
}

impl Passage<'_> {
    fn publish(&self, memory: &mut Memory, out: &mut Vec<Outcome>) -> Result<(), Refusal> {
        let topic = self.output.topic(self.source)?;
        match &self.output.content {
            Content::Form(form) => {
                let payload = form.render(self.source).map_err(|missing| missing.refusal("payload"))?;
                self.offer(topic, payload, memory, out);
            }
            Content::Envelope => self.offer_envelope(topic, memory, out),
            Content::EachField => self.offer_fields(&topic, memory, out)?,
        }
        Ok(())
    }

    fn offer(&self, topic: TopicName, payload: Bytes, memory: &mut Memory, out: &mut Vec<Outcome>) {
        if self.output.limit.on_change && memory.limits.is_unchanged(&topic, &payload, out) {
            return;
        }
        let content = payload.clone();
        self.pass(topic, payload, &content, memory, out);
    }

    /// No two envelopes are equal, so `on_change` compares the frames in them; and one that is not sent takes no number,
    /// so that a gap in the numbers is a loss.
    fn offer_envelope(&self, topic: TopicName, memory: &mut Memory, out: &mut Vec<Outcome>) {
        let frame = self.source.frame;
        if self.output.limit.on_change && memory.limits.is_unchanged(&topic, frame, out) {
            return;
        }
        memory.sequence += 1;
        let payload = envelope(self.source, &memory.origin, memory.sequence, self.now.wall);
        self.pass(topic, payload, frame, memory, out);
    }

    /// One message a field, on a topic one level down; a nested field `a.b` is one level, `a.b`.
    fn offer_fields(&self, topic: &TopicName, memory: &mut Memory, out: &mut Vec<Outcome>) -> Result<(), Refusal> {
        if self.source.fields.is_empty() {
            return Err((DropReason::MissingField, "each_field: the frame has no fields".to_owned()));
        }
        for (name, value) in self.source.fields.iter() {
            let mut text = format!("{topic}/");
            push_level(&mut text, name.as_bytes());
            match topic_name(text) {
                Ok(topic) => self.offer(topic, value.bare().clone(), memory, out),
                Err((reason, detail)) => out.push(Outcome::Dropped { reason, detail: Some(detail) }),
            }
        }
        Ok(())
    }

    fn pass(&self, topic: TopicName, payload: Bytes, content: &[u8], memory: &mut Memory, out: &mut Vec<Outcome>) {
        let publication = Publication { topic, payload, qos: self.output.qos, retain: self.output.retain };
        memory.limits.offer(publication, content, self.output.limit, self.now.instant, out);
    }
}

fn topic_name(text: String) -> Result<TopicName, Refusal> {
    TopicName::new(text).map_err(|error| (DropReason::BadTopic, error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use proptest::prelude::*;

    use super::super::fixture::{device, matching, publish};
    use super::*;
    use crate::config::{Parse, Payload};
    use crate::template::Template;

    fn rules(rules: Vec<PublishRule>) -> PublishRules {
        PublishRules::new(&device(rules, Vec::new()), "hut")
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
        let out: Vec<_> =
            ["on", "off", "on", "on"].iter().flat_map(|f| applied(&mut rules, f.as_bytes(), None)).collect();
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

    proptest! {
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
}
