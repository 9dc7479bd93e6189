//! What the files say, before any of it is checked: one merged tree in which every key and value knows its place.

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{Cause, Report};
use super::source::{Place, Source};

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Value {
    pub(super) place: Place,
    pub(super) kind: Kind,
}

/// What a value is.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    String(String),
    /// `None`: does not fit 64 bits.
    Integer(Option<i64>),
    Boolean(bool),
    Array(Vec<Value>),
    Table(Table),
    /// A float or a date, which no key takes: its TOML name.
    Other(&'static str),
}

/// A table, by key.
#[derive(Clone, Debug)]
pub(super) struct Table {
    pub(super) entries: BTreeMap<String, Entry>,
    /// Written `{…}`: one value, which another file cannot add to.
    inline: bool,
}

/// A key of a table and its value.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: Place,
    pub(super) value: Value,
}

impl Table {
    /// A table without keys.
    pub(super) const fn new() -> Table {
        Table { entries: BTreeMap::new(), inline: false }
    }
}

impl Kind {
    /// With its article, for messages.
    pub(super) fn describe(&self) -> &'static str {
        match self {
            Kind::String(_) => "a string",
            Kind::Integer(_) => "a number",
            Kind::Boolean(_) => "a boolean",
            Kind::Array(_) => "an array",
            Kind::Table(_) => "a table",
            Kind::Other("float") => "a number with a fraction",
            Kind::Other(_) => "a date",
        }
    }

    /// `[[…]]` headers, whose tables another file may add to.
    fn is_array_of_tables(&self, place: Place) -> bool {
        match self {
            // An array written in brackets begins before its first element.
            Kind::Array(items) => {
                items.first().is_some_and(|item| matches!(item.kind, Kind::Table(_)) && item.place.start == place.start)
            }
            _ => false,
        }
    }
}

/// Parses source number `file`; its errors of syntax, `most` at most, go to `reports`. What could be read is returned
/// all the same.
pub(super) fn parse(file: usize, source: &Source, most: usize, reports: &mut Vec<Report>) -> Table {
    let text = source.text.strip_prefix('\u{feff}').unwrap_or(&source.text);
    let shift = source.text.len() - text.len();
    let (document, errors) = DeTable::parse_recoverable(text);
    let converter = Converter { file, shift, text };
    let table = converter.table(document.get_ref(), false);
    for error in errors.into_iter().take(most) {
        let span = error.span().unwrap_or(text.len()..text.len());
        let key = key_around(text, span.start);
        let mut report = Report::new(converter.place(span.clone()), key, format!("not TOML: {}", error.message()));
        report.cause = Cause::Syntax;
        if error.message() == "duplicate key" {
            report.message = format!("`{}` is set twice", text.get(span.clone()).unwrap_or_default());
            if let Some(first) = first_of_duplicate(text, &table, span.start, shift) {
                report = report.note("first set at", Some(Place { file, ..first }));
            }
        }
        reports.push(report);
    }
    table
}

/// Adds what `from` says to `into`; a key that both set is an error which names both places.
pub(super) fn merge(into: &mut Table, from: Table, path: &str, reports: &mut Vec<Report>) {
    for (name, entry) in from.entries {
        let Some(first) = into.entries.get_mut(&name) else {
            into.entries.insert(name, entry);
            continue;
        };
        let path = join(path, &name);
        let both_open = first.value.kind.is_array_of_tables(first.value.place)
            && entry.value.kind.is_array_of_tables(entry.value.place);
        match (&mut first.value.kind, entry.value.kind) {
            (Kind::Table(a), Kind::Table(b)) if !a.inline && !b.inline => merge(a, b, &path, reports),
            (Kind::Array(a), Kind::Array(b)) if both_open => a.extend(b),
            _ => reports.push(
                Report::new(entry.key, path.clone(), format!("`{path}` is set twice"))
                    .note("first set at", Some(first.key)),
            ),
        }
    }
}

/// `path.name`, the name quoted if it is not a bare key.
pub(super) fn join(path: &str, name: &str) -> String {
    let bare = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
    let name = if bare { name.to_owned() } else { format!("{name:?}") };
    if path.is_empty() { name } else { format!("{path}.{name}") }
}

struct Converter<'a> {
    file: usize,
    shift: usize,
    text: &'a str,
}

impl Converter<'_> {
    fn place(&self, span: std::ops::Range<usize>) -> Place {
        Place { file: self.file, start: span.start + self.shift, end: span.end + self.shift }
    }

    fn table(&self, table: &DeTable<'_>, inline: bool) -> Table {
        let entry = |(key, value): (&Spanned<_>, &Spanned<_>)| {
            let name: &std::borrow::Cow<'_, str> = key.get_ref();
            (name.to_string(), Entry { key: self.place(key.span()), value: self.value(value) })
        };
        Table { entries: table.iter().map(entry).collect(), inline }
    }

    fn value(&self, value: &Spanned<DeValue<'_>>) -> Value {
        let kind = match value.get_ref() {
            DeValue::String(text) => Kind::String(text.to_string()),
            DeValue::Integer(number) => Kind::Integer(i64::from_str_radix(number.as_str(), number.radix()).ok()),
            DeValue::Boolean(flag) => Kind::Boolean(*flag),
            DeValue::Array(items) => Kind::Array(items.iter().map(|item| self.value(item)).collect()),
            DeValue::Table(table) => {
                let inline = self.text.get(value.span().start..).is_some_and(|rest| rest.starts_with('{'));
                Kind::Table(self.table(table, inline))
            }
            other => Kind::Other(other.type_str()),
        };
        Value { place: self.place(value.span()), kind }
    }
}

/// The path of the key on the line of byte `offset`, as far as the text tells: the header above it and what stands
/// before `=`.
fn key_around(text: &str, offset: usize) -> String {
    let mut header = "";
    let mut offset_of_line = 0;
    for line in text.split_inclusive('\n') {
        let content = line.split('#').next().unwrap_or_default().trim();
        if offset < offset_of_line + line.len() || offset_of_line + line.len() == text.len() {
            let key = content.split_once('=').map_or("", |(key, _)| key.trim());
            let separator = if header.is_empty() || key.is_empty() { "" } else { "." };
            return if is_header(content) { bare(content).to_owned() } else { format!("{header}{separator}{key}") };
        }
        if is_header(content) {
            header = bare(content);
        }
        offset_of_line += line.len();
    }
    String::new()
}

fn is_header(line: &str) -> bool {
    line.starts_with('[')
}

fn bare(header: &str) -> &str {
    header.trim_matches(['[', ']']).trim()
}

/// Where the key at byte `again` was set before: an equal `[header]`, or the last equal key above it.
fn first_of_duplicate(text: &str, table: &Table, again: usize, shift: usize) -> Option<Place> {
    let line_start = text[..again].rfind('\n').map_or(0, |newline| newline + 1);
    let header = text[line_start..].lines().next().unwrap_or_default().split('#').next().unwrap_or_default().trim();
    if is_header(header) {
        let mut offset = 0;
        for line in text[..line_start].split_inclusive('\n') {
            let found = line.split('#').next().unwrap_or_default().trim();
            if found == header {
                let start = offset + (line.len() - line.trim_start().len()) + shift;
                return Some(Place { file: 0, start, end: start + found.len() });
            }
            offset += line.len();
        }
    }
    let name: String = text[again..].chars().take_while(|c| c.is_alphanumeric() || matches!(c, '_' | '-')).collect();
    let mut found = None;
    last_key_before(table, &name, again + shift, &mut found);
    found
}

fn last_key_before(table: &Table, name: &str, limit: usize, found: &mut Option<Place>) {
    for (key, entry) in &table.entries {
        if key == name && entry.key.start < limit && found.is_none_or(|found| found.start < entry.key.start) {
            *found = Some(entry.key);
        }
        let tables: Vec<&Table> = match &entry.value.kind {
            Kind::Table(inner) => vec![inner],
            Kind::Array(items) => items
                .iter()
                .filter_map(|item| match &item.kind {
                    Kind::Table(inner) => Some(inner),
                    _ => None,
                })
                .collect(),
            _ => Vec::new(),
        };
        for inner in tables {
            last_key_before(inner, name, limit, found);
        }
    }
}
