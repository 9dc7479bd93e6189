//! The fields of a frame: named groups of the rule's pattern, then what `parse` finds, one ordered set.
//!
//! A name that comes twice keeps its first place and its last value.
//!
//! - `json`: the members of an object; those of nested objects as `a.b`, up to 16 levels. Arrays, empty
//!   objects and what lies deeper stay JSON text. Anything but an object is refused.
//! - `csv`: one record (RFC 4180, quotes included); blanks around an unquoted value do not count. Columns beyond the
//!   names are ignored; names beyond the columns are missing fields.
//! - `key_value`: pairs, blanks around keys and values do not count; what holds no `assign` is passed over, and a frame
//!   without any pair is refused.

use std::borrow::Cow;

use bytes::Bytes;
use csv_core::{ReadFieldResult, Reader, ReaderBuilder};
use memchr::memmem;
use serde_json::value::RawValue;

use super::json;
use crate::config::{Parse, PublishRule};

/// Levels of nested JSON objects that are taken apart.
const MAX_DEPTH: usize = 16;

/// Fields of one frame; more are refused.
const MAX_FIELDS: usize = 1024;

/// A field's value. All are slices of the frame where that can be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// Bytes that are a number if they look like one.
    Plain(Bytes),
    /// A JSON string's text: a string whatever it looks like.
    Text(Bytes),
    /// A JSON value as it was written: a finite number, true, false, null, an array or an object.
    Json(Bytes),
}

impl Value {
    /// The value by itself, as it stands in a topic, a template or a message of its own.
    pub(super) fn bare(&self) -> &Bytes {
        match self {
            Value::Plain(bytes) | Value::Text(bytes) | Value::Json(bytes) => bytes,
        }
    }

    /// Appends the value as JSON.
    pub(super) fn push_json(&self, out: &mut Vec<u8>) {
        match self {
            Value::Json(json) => out.extend_from_slice(json),
            Value::Plain(bytes) if json::is_number(bytes) => out.extend_from_slice(bytes),
            Value::Plain(bytes) | Value::Text(bytes) => json::push_string(out, bytes),
        }
    }
}

/// The fields of one frame, in order, names unique.
#[derive(Debug, Default)]
pub(super) struct Fields<'a>(Vec<(Cow<'a, str>, Value)>);

impl<'a> Fields<'a> {
    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, value)| (name.as_ref(), value))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn set(&mut self, name: impl Into<Cow<'a, str>>, value: Value) -> Result<(), String> {
        let name = name.into();
        if let Some((_, known)) = self.0.iter_mut().find(|(known, _)| *known == name) {
            *known = value;
        } else if self.0.len() == MAX_FIELDS {
            return Err(format!("more than {MAX_FIELDS} fields"));
        } else {
            self.0.push((name, value));
        }
        Ok(())
    }
}

/// How a rule decides on a frame and takes it apart.
#[derive(Debug)]
pub(super) struct Extractor {
    pattern: Option<regex::bytes::Regex>,
    /// Index and name of each named group; empty when the rule has no use for fields.
    groups: Vec<(usize, String)>,
    parse: Parser,
}

#[derive(Debug)]
enum Parser {
    None,
    Json,
    Csv { names: Vec<String>, separator: u8, reader: Box<Reader> },
    KeyValue { assign: String, separator: String },
}

impl Extractor {
    /// The first half of `rule`. Without `wants_fields` groups are not captured, which is much cheaper.
    pub(super) fn new(rule: &PublishRule, wants_fields: bool) -> Extractor {
        let named = |pattern: &regex::bytes::Regex| {
            let names = pattern.capture_names().enumerate();
            names.filter_map(|(index, name)| Some((index, name?.to_owned()))).collect()
        };
        let parse = match rule.parse.clone() {
            Parse::None => Parser::None,
            Parse::Json => Parser::Json,
            Parse::Csv { names, separator } => {
                let reader = Box::new(ReaderBuilder::new().delimiter(separator).build());
                Parser::Csv { names, separator, reader }
            }
            Parse::KeyValue { assign, separator } => Parser::KeyValue { assign, separator },
        };
        let groups = rule.pattern.as_ref().filter(|_| wants_fields).map_or_else(Vec::new, named);
        Extractor { pattern: rule.pattern.clone(), groups, parse }
    }

    /// The frame's fields, `None` when the pattern does not match, or why the frame could not be parsed.
    pub(super) fn extract(&mut self, frame: &Bytes) -> Result<Option<Fields<'_>>, String> {
        let mut fields = Fields::default();
        if let Some(pattern) = &self.pattern {
            if self.groups.is_empty() {
                if !pattern.is_match(frame) {
                    return Ok(None);
                }
            } else {
                let Some(captures) = pattern.captures(frame) else { return Ok(None) };
                for (index, name) in &self.groups {
                    if let Some(group) = captures.get(*index) {
                        fields.set(name.as_str(), Value::Plain(frame.slice(group.range())))?;
                    }
                }
            }
        }
        match &mut self.parse {
            Parser::None => {}
            Parser::Json => {
                let document = json::parse(frame).map_err(|error| format!("not JSON: {error}"))?;
                parse_json(frame, document, "", 1, &mut fields)?;
            }
            Parser::Csv { names, separator, reader } => {
                parse_csv(frame, names, *separator, reader, &mut fields)?;
            }
            Parser::KeyValue { assign, separator } => {
                parse_key_value(frame, assign.as_bytes(), separator.as_bytes(), &mut fields)?;
            }
        }
        Ok(Some(fields))
    }
}

fn parse_json(
    frame: &Bytes,
    object: &RawValue,
    prefix: &str,
    depth: usize,
    fields: &mut Fields<'_>,
) -> Result<(), String> {
    if !object.get().starts_with('{') {
        return Err("the JSON is not an object".to_owned());
    }
    for (name, value) in json::members(object).map_err(|error| format!("not JSON: {error}"))? {
        let name = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
        let text = value.get().as_bytes();
        let slice = || frame.slice_ref(text);
        match text.first() {
            Some(b'{') if depth < MAX_DEPTH && text[1..].trim_ascii_start() != b"}" => {
                parse_json(frame, value, &name, depth + 1, fields)?;
            }
            Some(b'"') => {
                let text = serde_json::from_str::<&str>(value.get()).map(|plain| frame.slice_ref(plain.as_bytes()));
                let text = match text {
                    Ok(plain) => plain,
                    // An escape: the text is not a slice of the frame.
                    Err(_) => {
                        json::string(value).map_err(|error| format!("not JSON: {error}"))?.unwrap_or_default().into()
                    }
                };
                fields.set(name, Value::Text(text))?;
            }
            Some(b'-' | b'0'..=b'9') if !json::is_number(text) => fields.set(name, Value::Text(slice()))?,
            _ => fields.set(name, Value::Json(slice()))?,
        }
    }
    Ok(())
}

fn parse_csv<'a>(
    frame: &Bytes,
    names: &'a [String],
    separator: u8,
    reader: &mut Reader,
    fields: &mut Fields<'a>,
) -> Result<(), String> {
    reader.reset();
    // Unquoting only ever shortens; the byte more is for csv-core, which wants room even when it has nothing to write.
    let mut output = vec![0; frame.len() + 1];
    let (mut input, mut filled, mut spans) = (&frame[..], 0, Vec::new());
    while spans.len() < names.len() {
        while input.first().is_some_and(|&b| matches!(b, b' ' | b'\t') && b != separator) {
            input = &input[1..];
        }
        let (quoted, start) = (input.first() == Some(&b'"'), filled);
        let record_end = loop {
            let (result, read, written) = reader.read_field(input, &mut output[filled..]);
            (input, filled) = (&input[read..], filled + written);
            match result {
                // Once more with no input, which is how csv-core is told of the end.
                ReadFieldResult::InputEmpty => {}
                ReadFieldResult::Field { record_end } => break Some(record_end),
                ReadFieldResult::End | ReadFieldResult::OutputFull => break None,
            }
        };
        let Some(record_end) = record_end else { break };
        let end = if quoted { filled } else { start + output[start..filled].trim_ascii_end().len() };
        spans.push(start..end);
        if record_end {
            break;
        }
    }
    if spans.is_empty() && !names.is_empty() {
        return Err("no CSV record".to_owned());
    }
    let output = Bytes::from(output);
    for (name, span) in names.iter().zip(spans).filter(|(name, _)| !name.is_empty()) {
        fields.set(name.as_str(), Value::Plain(output.slice(span)))?;
    }
    Ok(())
}

fn parse_key_value(frame: &Bytes, assign: &[u8], separator: &[u8], fields: &mut Fields<'_>) -> Result<(), String> {
    let (mut rest, mut found) = (&frame[..], false);
    while !rest.is_empty() {
        let (pair, after) = split_once(rest, separator).unwrap_or((rest, &[]));
        rest = after;
        let Some((key, value)) = split_once(pair, assign) else { continue };
        let key = String::from_utf8_lossy(key.trim_ascii());
        if !key.is_empty() {
            found = true;
            fields.set(key.into_owned(), Value::Plain(frame.slice_ref(value.trim_ascii())))?;
        }
    }
    if found { Ok(()) } else { Err("no key and value in it".to_owned()) }
}

fn split_once<'a>(text: &'a [u8], needle: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    memmem::find(text, needle).map(|at| (&text[..at], &text[at + needle.len()..]))
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{matching, publish};
    use super::*;

    /// The fields as the JSON text of each, or the error.
    fn fields(rule: &PublishRule, frame: &str) -> Result<Option<Vec<(String, String)>>, String> {
        let mut extractor = Extractor::new(rule, true);
        let fields = extractor.extract(&Bytes::copy_from_slice(frame.as_bytes()))?;
        Ok(fields.map(|fields| {
            let json = |value: &Value| {
                let mut out = Vec::new();
                value.push_json(&mut out);
                String::from_utf8(out).unwrap()
            };
            fields.iter().map(|(name, value)| (name.to_owned(), json(value))).collect()
        }))
    }

    fn assert_fields(rule: &PublishRule, frame: &str, expected: &[(&str, &str)]) {
        let expected = expected.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        assert_eq!(fields(rule, frame), Ok(Some(expected)), "{frame}");
    }

    fn parsing(parse: Parse) -> PublishRule {
        PublishRule { parse, ..publish("t") }
    }

    fn csv(names: &[&str], separator: u8) -> PublishRule {
        parsing(Parse::Csv { names: names.iter().map(|&name| name.to_owned()).collect(), separator })
    }

    fn key_value(assign: &str, separator: &str) -> PublishRule {
        parsing(Parse::KeyValue { assign: assign.to_owned(), separator: separator.to_owned() })
    }

    #[test]
    fn named_groups_are_fields_and_absent_ones_are_not() {
        let rule = matching(r"^T=(?<temp>[-0-9.]+)( H=(?<hum>\S+))?$", "t");
        assert_fields(&rule, "T=21.50 H=007", &[("temp", "21.50"), ("hum", r#""007""#)]);
        assert_fields(&rule, "T=-3", &[("temp", "-3")]);
        assert_eq!(fields(&rule, "noise"), Ok(None));
    }

    #[test]
    fn json_keeps_types_and_the_way_numbers_are_written() {
        let frame = r#" {"a":{"b":21.50,"c":{}},"s":"12","e":"\u00e9\n","t":true,"n":null,"l":[1, 2],"big":12345678901234567890123,"huge":1e400,"a.b":2} "#;
        let expected = [
            ("a.b", "2"),
            ("a.c", "{}"),
            ("s", r#""12""#),
            ("e", "\"é\\n\""),
            ("t", "true"),
            ("n", "null"),
            ("l", "[1, 2]"),
            ("big", "12345678901234567890123"),
            ("huge", r#""1e400""#),
        ];
        assert_fields(&parsing(Parse::Json), frame, &expected);
    }

    #[test]
    fn json_that_is_no_object_is_refused() {
        for frame in ["", "{", "[1]", "1", r#""x""#, r#"{"a":1} x"#, r#"{"a":"\ud800"}"#, "{\"a\":01}", "null"] {
            assert!(fields(&parsing(Parse::Json), frame).is_err(), "{frame}");
        }
        assert!(Extractor::new(&parsing(Parse::Json), true).extract(&Bytes::from_static(b"{\"a\":\"\xff\"}")).is_err());
    }

    #[test]
    fn deep_json_stays_text_below_the_last_level() {
        let frame = format!("{}1{}", r#"{"a":"#.repeat(40), "}".repeat(40));
        let found = fields(&parsing(Parse::Json), &frame).unwrap().unwrap();
        assert_eq!(found[0].0.matches('a').count(), MAX_DEPTH);
        assert_eq!(found[0].1, format!("{}1{}", r#"{"a":"#.repeat(24), "}".repeat(24)));
        let very_deep = "{\"a\":".repeat(20_000);
        assert!(fields(&parsing(Parse::Json), &very_deep).is_err());
    }

    #[test]
    fn csv_follows_rfc_4180_and_forgives_blanks() {
        let rule = csv(&["a", "", "c"], b',');
        assert_fields(&rule, r#"1,skipped,"x ""y"", z ""#, &[("a", "1"), ("c", r#""x \"y\", z ""#)]);
        assert_fields(&rule, "21.5 , x,\t60", &[("a", "21.5"), ("c", "60")]);
        assert_fields(&rule, "1,2,3,4", &[("a", "1"), ("c", "3")]);
        assert_fields(&rule, "1", &[("a", "1")]);
        assert_fields(&rule, ",,", &[("a", r#""""#), ("c", r#""""#)]);
        assert_fields(&csv(&["a", "b"], b'\t'), "1\t2", &[("a", "1"), ("b", "2")]);
        assert_fields(&csv(&["a", "b"], b' '), "1 2", &[("a", "1"), ("b", "2")]);
        assert!(fields(&rule, "").is_err());
    }

    #[test]
    fn key_value_takes_pairs_and_passes_over_the_rest() {
        assert_fields(
            &key_value("=", " "),
            "OK T=1.5  H=a=b E= =x",
            &[("T", "1.5"), ("H", r#""a=b""#), ("E", r#""""#)],
        );
        assert_fields(&key_value(": ", ","), "t: 1, h: 2", &[("t", "1"), ("h", "2")]);
        assert!(fields(&key_value("=", " "), "nothing here").is_err());
    }

    #[test]
    fn a_later_value_takes_the_place_of_an_earlier_one() {
        let rule = PublishRule { parse: key_value("=", " ").parse, ..matching("^(?<t>.)(?<u>.)", "t") };
        assert_fields(&rule, "t=9", &[("t", "9"), ("u", r#""=""#)]);
    }

    #[test]
    fn too_many_fields_are_refused() {
        let frame = |count: usize| (0..count).map(|n| format!("k{n}={n} ")).collect::<String>();
        assert!(fields(&key_value("=", " "), &frame(MAX_FIELDS)).is_ok());
        assert!(fields(&key_value("=", " "), &frame(MAX_FIELDS + 1)).is_err());
    }

    #[test]
    fn values_are_slices_of_the_frame() {
        let frame = Bytes::from_static(br#"{"name":"value"}"#);
        let rule = parsing(Parse::Json);
        let mut extractor = Extractor::new(&rule, true);
        let fields = extractor.extract(&frame).unwrap().unwrap();
        assert_eq!(fields.get("name").unwrap().bare().as_ptr(), frame[9..].as_ptr());
    }
}
