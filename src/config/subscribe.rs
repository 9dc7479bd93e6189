//! `[[device.NAME.subscribe]]`: from topic to frame.

use std::time::Duration;

use super::broker;
use super::error::{Fault, nearest};
use super::placeholders::{Peer, Scope, check_braces, locate};
use super::raw::Kind;
use super::reader::{Table, Value};
use super::units::MAX_WAIT;
use crate::qos::Qos;
use crate::template::{Piece, Template};
use crate::topic::TopicFilter;

/// `[[device.NAME.subscribe]]`
#[derive(Clone, Debug, PartialEq)]
pub struct SubscribeRule {
    /// As written; may hold `{gateway}`, `{device}` and, for `tcp_server`, one level `{peer}`.
    pub topic: String,
    /// `topic` with gateway and device filled in and `{peer}` as `+`.
    pub filter: TopicFilter,
    /// Index of the level that is `{peer}`.
    pub peer_level: Option<usize>,
    /// Placeholders checked: payload, topic, topic:N, json:/pointer, gateway, device.
    pub write: Template,
    /// How the payload is read before it is rendered.
    pub payload: CommandPayload,
    /// `qos`
    pub qos: Qos,
    /// `retained = "accept"`
    pub accept_retained: bool,
    /// Commands that waited longer are dropped. `None`: no limit.
    pub max_age: Option<Duration>,
}

/// `payload` of a subscribe rule
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandPayload {
    /// The bytes as they came.
    Raw,
    /// Hexadecimal digits; white space between bytes is allowed.
    Hex,
    /// RFC 4648, with or without padding.
    Base64,
}

/// `payload`, by word.
pub(super) const COMMAND_PAYLOADS: &[(&str, CommandPayload)] =
    &[("raw", CommandPayload::Raw), ("hex", CommandPayload::Hex), ("base64", CommandPayload::Base64)];
/// `retained`, by word: whether retained commands are accepted.
pub(super) const RETAINED: &[(&str, bool)] = &[("ignore", false), ("accept", true)];

/// Reads `subscribe`: a filter, or an array of tables. With each rule the value that names its filter.
pub(super) fn read_all<'a>(value: &Value<'a>, scope: Scope<'_>) -> Vec<(SubscribeRule, Value<'a>)> {
    let tables = match value.raw.kind {
        Kind::String(_) => vec![Table::short("topic", value.clone())],
        _ => value.tables().unwrap_or_default(),
    };
    tables.into_iter().filter_map(|table| SubscribeRule::read(table, scope)).collect()
}

/// A filter with gateway and device filled in.
struct Filter {
    filter: TopicFilter,
    peer_level: Option<usize>,
}

impl SubscribeRule {
    fn read<'a>(mut table: Table<'a>, scope: Scope<'_>) -> Option<(SubscribeRule, Value<'a>)> {
        let topic = table.require("topic");
        let filter = topic.as_ref().and_then(|v| v.parsed(|text| Filter::parse(text, scope)));
        let write = table.get("write").map(|v| v.parsed(|text| check_write(text, filter.as_ref())));
        let payload = table.get("payload").and_then(|v| v.choice(COMMAND_PAYLOADS)).unwrap_or(CommandPayload::Raw);
        let qos = table.get("qos").and_then(|v| broker::qos(&v)).unwrap_or(Qos::AtLeastOnce);
        let accept_retained = table.get("retained").and_then(|v| v.choice(RETAINED)).unwrap_or(false);
        let max_age = Duration::from_millis(1)..=MAX_WAIT;
        let max_age = table.get("max_age").and_then(|v| v.optional_duration(max_age)).flatten();
        table.finish();
        let (topic, Filter { filter, peer_level }) = topic.zip(filter)?;
        let rule = SubscribeRule {
            topic: topic.string()?.to_owned(),
            filter,
            peer_level,
            write: write.flatten().unwrap_or_else(|| Template::parse("{payload}")),
            payload,
            qos,
            accept_retained,
            max_age,
        };
        Some((rule, topic))
    }
}

impl Filter {
    fn parse(text: &str, scope: Scope<'_>) -> Result<Filter, Fault> {
        let template = Template::parse(text);
        check_braces(text, &template)?;
        let mut filter = String::new();
        let mut peer_level = None;
        for (index, piece) in template.pieces().iter().enumerate() {
            match piece {
                Piece::Literal(literal) => filter.push_str(literal),
                Piece::Placeholder { name, argument: None } if name == "gateway" => filter.push_str(scope.gateway),
                Piece::Placeholder { name, argument: None } if name == "device" => filter.push_str(scope.device),
                Piece::Placeholder { name, argument: None } if name == "peer" => {
                    let alone = filter.is_empty() || filter.ends_with('/');
                    let next = template.pieces().get(index + 1);
                    let ends = next.is_none_or(|next| matches!(next, Piece::Literal(text) if text.starts_with('/')));
                    check_peer(scope, alone && ends, peer_level).map_err(|fault| locate(fault, &template, "{peer}"))?;
                    peer_level = Some(filter.matches('/').count());
                    filter.push('+');
                }
                Piece::Placeholder { name, argument } => {
                    let part = argument.as_ref().map_or(format!("{{{name}}}"), |arg| format!("{{{name}:{arg}}}"));
                    let fault = Fault::new(format!("unknown placeholder `{part}`"));
                    let fault = match nearest(name, ["gateway", "device", "peer"]) {
                        Some(near) => fault.hint(format!("did you mean `{{{near}}}`?")),
                        None => fault.hint("known here: {gateway}, {device}, and {peer} for tcp_server"),
                    };
                    return Err(locate(fault, &template, &part));
                }
            }
        }
        if filter == "$share" || filter.starts_with("$share/") {
            return Err(Fault::new("a device cannot use a shared subscription").hint("subscribe without $share/NAME/"));
        }
        let filter = TopicFilter::new(filter).map_err(|error| Fault::new(error.to_string()))?;
        Ok(Filter { filter, peer_level })
    }

    /// How many levels a matching topic has; `None` if `#` leaves that open.
    fn levels(&self) -> Option<usize> {
        let filter = self.filter.as_str();
        (!filter.ends_with('#')).then(|| filter.split('/').count())
    }
}

fn check_peer(scope: Scope<'_>, whole_level: bool, earlier: Option<usize>) -> Result<(), Fault> {
    if scope.peer != Peer::Many {
        return Err(Fault::new("`{peer}` in a filter needs a tcp_server device"));
    }
    if !whole_level {
        return Err(Fault::new("`{peer}` must be a whole level of the filter")
            .hint("write for example \"scanners/{peer}/display\""));
    }
    match earlier {
        Some(_) => Err(Fault::new("`{peer}` can stand in a filter only once")),
        None => Ok(()),
    }
}

/// Checks the placeholders of `write`.
fn check_write(text: &str, filter: Option<&Filter>) -> Result<Template, Fault> {
    let template = Template::parse(text);
    for (name, argument) in template.placeholders() {
        check_write_placeholder(name, argument, filter).map_err(|fault| {
            let part = argument.map_or(format!("{{{name}}}"), |argument| format!("{{{name}:{argument}}}"));
            locate(fault, &template, &part)
        })?;
    }
    Ok(template)
}

fn check_write_placeholder(name: &str, argument: Option<&str>, filter: Option<&Filter>) -> Result<(), Fault> {
    match (name, argument) {
        ("payload" | "topic" | "gateway" | "device", None) => Ok(()),
        ("topic", Some(level)) => {
            let number = level.parse::<usize>().ok().filter(|number| *number >= 1);
            let number = number.ok_or_else(|| {
                Fault::new(format!("`{level}` is not a level")).hint("levels are counted from 1: {topic:1}")
            })?;
            match filter.and_then(Filter::levels) {
                Some(levels) if number > levels => {
                    Err(Fault::new(format!("there is no level {number}: topics of this filter have {levels}")))
                }
                _ => Ok(()),
            }
        }
        ("json", Some(pointer)) if pointer.is_empty() || pointer.starts_with('/') => Ok(()),
        ("json", _) => {
            Err(Fault::new("`{json}` needs a JSON pointer (RFC 6901)").hint("write for example {json:/light/on}"))
        }
        ("payload" | "gateway" | "device", Some(_)) => Err(Fault::new(format!("`{{{name}}}` takes no argument"))),
        _ => {
            let fault = Fault::new(format!("unknown placeholder `{{{name}}}`"));
            Err(match nearest(name, ["payload", "topic", "json", "gateway", "device"]) {
                Some(near) => fault.hint(format!("did you mean `{{{near}}}`?")),
                None => fault.hint(
                    "known here: {payload}, {topic}, {topic:N}, {json:/pointer}, {gateway}, {device}; {{ is a brace",
                ),
            })
        }
    }
}
