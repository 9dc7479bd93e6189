//! `[[device.NAME.publish]]`: from frame to topic.

use std::time::Duration;

use super::broker;
use super::error::{Fault, Report};
use super::parse::Parse;
use super::placeholders::{Fields, Scope, check_placeholders, check_topic};
use super::raw::Kind;
use super::reader::{Table, Value};
use super::units::MAX_WAIT;
use crate::qos::Qos;
use crate::template::Template;

/// `[[device.NAME.publish]]`
#[derive(Clone, Debug)]
pub struct PublishRule {
    /// Over the frame's bytes; `None` matches every frame.
    pub pattern: Option<regex::bytes::Regex>,
    /// `parse`
    pub parse: Parse,
    /// Placeholders checked: gateway, device, peer, peer_ip, or a field.
    pub topic: Template,
    /// `payload` or `template`
    pub payload: Payload,
    /// One message per field on `{topic}/{field}`.
    pub each_field: bool,
    /// `qos`
    pub qos: Qos,
    /// `retain`
    pub retain: bool,
    /// Only when the payload differs from the last on that topic.
    pub on_change: bool,
    /// At most one per interval and topic; zero: no limit.
    pub min_interval: Duration,
    /// Whether later rules see the frame too.
    pub continues: bool,
}

impl PartialEq for PublishRule {
    fn eq(&self, other: &PublishRule) -> bool {
        let key = |rule: &PublishRule| {
            (
                rule.pattern.as_ref().map(|p| p.as_str().to_owned()),
                rule.each_field,
                rule.qos,
                rule.retain,
                rule.on_change,
            )
        };
        key(self) == key(other)
            && self.parse == other.parse
            && self.topic == other.topic
            && self.payload == other.payload
            && self.min_interval == other.min_interval
            && self.continues == other.continues
    }
}

/// `payload` or `template`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// The frame's bytes.
    Raw,
    /// As text; invalid UTF-8 becomes U+FFFD.
    Text,
    /// Lower-case hexadecimal.
    Hex,
    /// Standard alphabet with padding (RFC 4648).
    Base64,
    /// JSON object of the fields.
    Fields,
    /// JSON object with time, sequence number, origin, frame and fields.
    Envelope,
    /// `template`
    Template(Template),
}

/// `payload`, by word.
pub(super) const PAYLOADS: &[(&str, Payload)] = &[
    ("raw", Payload::Raw),
    ("text", Payload::Text),
    ("hex", Payload::Hex),
    ("base64", Payload::Base64),
    ("fields", Payload::Fields),
    ("envelope", Payload::Envelope),
];

/// Reads `publish`: a topic, or an array of tables. With each rule the value that names its topic.
pub(super) fn read_all<'a>(value: &Value<'a>, scope: Scope<'_>) -> Vec<(PublishRule, Value<'a>)> {
    let tables = match value.raw.kind {
        Kind::String(_) => vec![Table::short("topic", value.clone())],
        _ => value.tables().unwrap_or_default(),
    };
    let mut rules: Vec<(PublishRule, Value<'a>)> = Vec::new();
    let mut taken: Option<Value<'a>> = None;
    for table in tables {
        let Some((rule, topic)) = PublishRule::read(table, scope) else { continue };
        if let Some(taken) = &taken {
            let report = topic.error("this rule is never reached: an earlier one takes every frame");
            topic.context.push(
                report
                    .warning()
                    .note("it is at", Some(taken.place()))
                    .hint("`continue = true` there lets later rules see the frame"),
            );
        }
        if rule.pattern.is_none() && rule.parse == Parse::None && !rule.continues && taken.is_none() {
            taken = Some(topic.clone());
        }
        rules.push((rule, topic));
    }
    rules
}

impl PublishRule {
    fn read<'a>(mut table: Table<'a>, scope: Scope<'_>) -> Option<(PublishRule, Value<'a>)> {
        let pattern = table.get("match").map(|v| pattern(&v));
        let parse = table.get("parse").map(|v| Parse::read(&v));
        let fields = match (&pattern, &parse) {
            // What is wrong could have brought any field.
            (Some(None), _) | (_, Some(None)) => Fields::Any,
            _ => Fields::of(pattern.as_ref().and_then(Option::as_ref), parse.as_ref().and_then(Option::as_ref)),
        };
        let topic_value = table.require("topic");
        let topic = topic_value.as_ref().and_then(|v| v.parsed(|text| check_topic(text, scope, &fields)));
        let payload = read_payload(&mut table, scope, &fields);
        let flag = |table: &mut Table<'_>, key| table.get(key).and_then(|v| v.boolean()).unwrap_or(false);
        let each_field = table.get("each_field").filter(|v| v.boolean() == Some(true));
        if let Some(value) = each_field.as_ref().filter(|_| fields.none()) {
            no_fields(value, "each_field");
        }
        let rule = PublishRule {
            pattern: pattern.flatten(),
            parse: parse.flatten().unwrap_or(Parse::None),
            topic: topic.clone().unwrap_or_else(|| Template::parse("")),
            payload,
            each_field: each_field.is_some(),
            qos: table.get("qos").and_then(|v| broker::qos(&v)).unwrap_or(Qos::AtLeastOnce),
            retain: flag(&mut table, "retain"),
            on_change: flag(&mut table, "on_change"),
            min_interval: table
                .get("min_interval")
                .and_then(|v| v.duration(Duration::ZERO..=MAX_WAIT))
                .unwrap_or(Duration::ZERO),
            continues: flag(&mut table, "continue"),
        };
        table.finish();
        topic.and(Some(rule)).zip(topic_value)
    }
}

fn no_fields(value: &Value<'_>, what: &str) {
    let report = value.error(format!("`{what}` needs fields, and this rule has none"));
    value.context.push(report.hint("name groups in `match`, (?<name>…), or set `parse`"));
}

fn read_payload(table: &mut Table<'_>, scope: Scope<'_>, fields: &Fields) -> Payload {
    let (payload_value, template_value) = (table.get("payload"), table.get("template"));
    let payload = payload_value.as_ref().and_then(|v| v.choice(PAYLOADS));
    if let (Some(value), Some(Payload::Fields), true) = (&payload_value, &payload, fields.none()) {
        no_fields(value, "fields");
    }
    let template = template_value.as_ref().and_then(|v| {
        v.parsed(|text| {
            let template = Template::parse(text);
            check_placeholders(&template, scope, fields)?;
            Ok(template)
        })
    });
    if let (Some(payload), Some(template)) = (&payload_value, &template_value) {
        let report =
            Report::new(template.key, template.path.clone(), "`template` stands instead of `payload`, not beside it");
        template.context.push(report.note("`payload` is at", Some(payload.key)));
    }
    template.map(Payload::Template).or(payload).unwrap_or(Payload::Raw)
}

/// Compiles `match`.
pub(super) fn pattern(value: &Value<'_>) -> Option<regex::bytes::Regex> {
    value.parsed(|text| {
        regex::bytes::Regex::new(text).map_err(|error| match &error {
            regex::Error::Syntax(report) => regex_fault(text, report),
            regex::Error::CompiledTooBig(_) => Fault::new("the regular expression is too large when compiled"),
            _ => Fault::new(format!("not a regular expression: {error}")),
        })
    })
}

/// Takes message and place from the report of the regex crate, which shows the pattern with carets below it.
fn regex_fault(pattern: &str, report: &str) -> Fault {
    let last = report.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or(report);
    let fault = Fault::new(format!("not a regular expression: {}", last.trim().trim_start_matches("error: ")));
    let mut lines = report.lines().skip_while(|line| line.strip_prefix("    ") != Some(pattern)).skip(1);
    let Some(carets) = lines.next().filter(|line| line.trim_start().starts_with('^')) else { return fault };
    let column = carets.len() - carets.trim_start().len() - 4;
    match pattern.char_indices().nth(column) {
        Some((start, c)) => fault.at(start..start + c.len_utf8()),
        None => fault,
    }
}
