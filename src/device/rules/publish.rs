//! From frame to publications: the `[[device.NAME.publish]]` rules of one device.

use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;

use super::compose::{Composition, Origin, Source, push_level};
use super::fields::Extractor;
use super::limit::{Limit, Limits};
use super::payload::{Form, envelope};
use super::{Now, Outcome, Publication};
use crate::config::{Device, Gateway, PublishRule};
use crate::log_limit::excerpt;
use crate::qos::Qos;
use crate::stats::DropReason;
use crate::topic::{TopicName, is_closed_to_devices};

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
    /// Root of the gateway's own topics, where no rule publishes.
    root: TopicName,
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
    /// The rules of `device`, which belongs to `gateway`.
    pub fn new(device: &Device, gateway: &Gateway) -> PublishRules {
        let origin = Origin { gateway: gateway.name.clone(), device: device.name.clone() };
        let root = gateway.topic.clone();
        let rules = device.publish.iter().map(|rule| Rule::new(rule, &origin, &root)).collect();
        PublishRules { rules, memory: Memory { origin, root, limits: Limits::default(), sequence: 0 } }
    }

    /// The rules of `device` from now on; what is remembered stays, and what waits is published when its time has come.
    pub fn change(&mut self, device: &Device, gateway: &Gateway) {
        self.rules = PublishRules::new(device, gateway).rules;
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
    fn new(rule: &PublishRule, origin: &Origin, root: &TopicName) -> Rule {
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
            topic: match composition.fixed().map(|text| device_topic(text.to_owned(), root)) {
                Some(Ok(topic)) => Topic::Fixed(topic),
                // A fixed text that is not to be published to is told of at each frame, as a composed one is.
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
    fn topic(&self, source: &Source<'_>, root: &TopicName) -> Result<TopicName, Refusal> {
        match &self.topic {
            Topic::Fixed(topic) => Ok(topic.clone()),
            Topic::Composed(composition) => {
                device_topic(composition.render_topic(source).map_err(|missing| missing.refusal("topic"))?, root)
            }
        }
    }
}

impl Passage<'_> {
    fn publish(&self, memory: &mut Memory, out: &mut Vec<Outcome>) -> Result<(), Refusal> {
        let topic = self.output.topic(self.source, &memory.root)?;
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
            match device_topic(text, &memory.root) {
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

/// `text` as a topic that a device publishes to, on a gateway whose own topics are `root` and what is below.
fn device_topic(text: String, root: &TopicName) -> Result<TopicName, Refusal> {
    let topic = TopicName::new(text).map_err(|error| (DropReason::BadTopic, error.to_string()))?;
    if !is_closed_to_devices(topic.as_str(), root) {
        return Ok(topic);
    }
    let owner = if topic.as_str().starts_with('$') { "broker" } else { "gateway" };
    Err((DropReason::Reserved, format!("the topic {:?} is the {owner}'s own", excerpt(topic.as_str()))))
}

#[cfg(test)]
mod tests;
