//! Values of a table, and what they can be turned into.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;

use super::{Context, Table};
use crate::config::error::{Fault, Report, nearest};
use crate::config::raw::{self, Kind};
use crate::config::secret::Secret;
use crate::config::source::Place;
use crate::config::units;

/// A value being read.
#[derive(Clone)]
pub(in crate::config) struct Value<'a> {
    pub(in crate::config) context: &'a Context,
    /// Where its key stands.
    pub(in crate::config) key: Place,
    pub(in crate::config) raw: &'a raw::Value,
    pub(in crate::config) path: String,
}

impl<'a> Value<'a> {
    pub(in crate::config) fn place(&self) -> Place {
        self.raw.place
    }

    /// An error at this value, to be completed and pushed.
    pub(in crate::config) fn error(&self, message: impl Into<String>) -> Report {
        Report::new(self.place(), self.path.clone(), message)
    }

    /// Reports an error at this value.
    pub(in crate::config) fn fail<T>(&self, fault: Fault) -> Option<T> {
        let mut report = self.error(fault.message);
        report.hint = fault.hint;
        if let Some(range) = fault.range {
            report.place = self.within(range);
        }
        self.context.push(report);
        None
    }

    /// Notes that `what` is not looked at, if it `is_withheld` from this process.
    pub(in crate::config) fn note_if(&self, is_withheld: bool, what: &str) {
        if is_withheld {
            let report = self.error(format!("{what} is not checked here: only the service is given it"));
            self.context.push(report.hint("the service checks it when it starts, and when it reloads").noted());
        }
    }

    /// The key and its value are right, but only a later version acts on them.
    pub(in crate::config) fn refuse(&self) {
        self.refuse_as(&self.name());
    }

    /// [`Value::refuse`], by another name than that of the key.
    pub(in crate::config) fn refuse_as(&self, what: &str) {
        let message = format!("{what} is not supported in this version");
        let report = Report::new(self.key, self.path.clone(), message);
        self.context.push(report.hint("remove it, or wait for a version that has it"));
    }

    fn wrong_type<T>(&self, expected: &str) -> Option<T> {
        let found = self.raw.kind.describe();
        self.fail(Fault::new(format!("expected {expected}, found {found}")))
    }

    fn out_of_range<T>(&self, low: impl Display, between: &str, high: impl Display) -> Option<T> {
        let from = if between == "or" { "" } else { "from " };
        self.fail(Fault::new(format!("{} must be {from}{low} {between} {high}", self.name())))
    }

    /// The last part of the path, quoted for messages.
    fn name(&self) -> String {
        format!("`{}`", self.path.rsplit('.').next().unwrap_or(&self.path))
    }

    /// Any text.
    pub(in crate::config) fn string(&self) -> Option<&'a str> {
        match &self.raw.kind {
            Kind::String(text) => Some(text),
            _ => self.wrong_type("a string"),
        }
    }

    /// A text that `parse` understands.
    pub(in crate::config) fn parsed<T>(&self, parse: impl FnOnce(&str) -> Result<T, Fault>) -> Option<T> {
        parse(self.string()?).map_or_else(|fault| self.fail(fault), Some)
    }

    pub(in crate::config) fn boolean(&self) -> Option<bool> {
        match &self.raw.kind {
            Kind::Boolean(flag) => Some(*flag),
            Kind::String(text) if text == "true" || text == "false" => {
                self.fail(Fault::new("expected a boolean, found a string").hint(format!("write {text} without quotes")))
            }
            _ => self.wrong_type("true or false"),
        }
    }

    /// A number in `range`.
    pub(in crate::config) fn integer<T: TryFrom<i64>>(&self, range: RangeInclusive<i64>) -> Option<T> {
        let number = match &self.raw.kind {
            Kind::Integer(number) => *number,
            Kind::String(text) if text.parse::<i64>().is_ok() => {
                let fault = Fault::new("expected a number, found a string");
                return self.fail(fault.hint(format!("write {text} without quotes")));
            }
            _ => return self.wrong_type("a number"),
        };
        let checked = number.filter(|number| range.contains(number)).and_then(|number| T::try_from(number).ok());
        checked.or_else(|| {
            let (low, high) = range.into_inner();
            let between = if high - low == 1 { "or" } else { "to" };
            self.out_of_range(low, between, high)
        })
    }

    /// One of a few words.
    pub(in crate::config) fn choice<T: Clone>(&self, choices: &[(&'static str, T)]) -> Option<T> {
        self.parsed(|text| pick(text, choices))
    }

    /// A duration in `range`.
    pub(in crate::config) fn duration(&self, range: RangeInclusive<Duration>) -> Option<Duration> {
        if let Kind::Integer(number) = self.raw.kind {
            let number = number.unwrap_or_default().unsigned_abs();
            let fault = Fault::new("a duration is a string with a unit, not a number");
            return self.fail(fault.hint(format!("write \"{number}s\" or \"{number}ms\"")));
        }
        let duration = self.parsed(units::duration)?;
        if range.contains(&duration) {
            return Some(duration);
        }
        self.out_of_range(units::show_duration(*range.start()), "to", units::show_duration(*range.end()))
    }

    /// A duration for which `"0s"` means that there is none.
    pub(in crate::config) fn optional_duration(&self, range: RangeInclusive<Duration>) -> Option<Option<Duration>> {
        let duration = self.duration(Duration::ZERO..=*range.end())?;
        if duration.is_zero() {
            return Some(None);
        }
        if duration >= *range.start() {
            return Some(Some(duration));
        }
        let least = units::show_duration(*range.start());
        self.fail(Fault::new(format!("{} must be at least {least}, or \"0s\" for none", self.name())))
    }

    /// A size in bytes in `range`.
    pub(in crate::config) fn size(&self, range: RangeInclusive<u64>) -> Option<usize> {
        if let Kind::Integer(number) = self.raw.kind {
            let number = number.unwrap_or_default().unsigned_abs();
            let fault = Fault::new("a size is a string with a unit, not a number");
            return self.fail(fault.hint(format!("write \"{number}B\" or \"{number}KiB\"")));
        }
        let size = self.parsed(units::size)?;
        if range.contains(&size) {
            return usize::try_from(size).ok();
        }
        self.out_of_range(units::show_size(*range.start()), "to", units::show_size(*range.end()))
    }

    /// Bytes: a string, or `{ hex = "…" }`.
    pub(in crate::config) fn bytes(&self) -> Option<Bytes> {
        match &self.raw.kind {
            Kind::String(text) => Some(Bytes::copy_from_slice(text.as_bytes())),
            Kind::Table(_) => {
                let mut table = self.table()?;
                let bytes = table.require("hex").and_then(|value| value.parsed(units::hex));
                table.finish();
                bytes
            }
            _ => self.wrong_type("a string or { hex = \"…\" }"),
        }
    }

    /// At least one byte.
    pub(in crate::config) fn some_bytes(&self) -> Option<Bytes> {
        let bytes = self.bytes()?;
        if bytes.is_empty() { self.fail(Fault::new(format!("{} must not be empty", self.name()))) } else { Some(bytes) }
    }

    /// A path, absolute; a relative one begins at the directory of the file that names it.
    pub(in crate::config) fn path(&self) -> Option<PathBuf> {
        let text = self.parsed(|text| match text {
            "" => Err(Fault::new("the path is empty")),
            text if text.contains('\0') => Err(Fault::new("a path cannot contain the NUL character")),
            text => Ok(text.to_owned()),
        })?;
        Some(self.relative(&text))
    }

    /// A path of this value; a relative one begins at the directory of the file that names it.
    pub(in crate::config) fn relative(&self, path: &str) -> PathBuf {
        self.context.sources[self.place().file].base.join(path)
    }

    /// A secret: a string, `{ file = … }`, `{ credential = … }` or `{ env = … }`.
    pub(in crate::config) fn secret(&self) -> Option<Secret> {
        let Kind::Table(_) = &self.raw.kind else {
            return match &self.raw.kind {
                Kind::String(text) => Some(Secret::new(text.as_str())),
                _ => self.wrong_type("a string, { file = \"…\" }, { credential = \"…\" } or { env = \"…\" }"),
            };
        };
        let mut table = self.table()?;
        let given: Vec<_> =
            ["file", "credential", "env"].into_iter().filter_map(|key| Some((key, table.get(key)?))).collect();
        table.finish();
        let [(key, value)] = &given[..] else {
            return self.fail(Fault::new("expected exactly one of `file`, `credential`, `env`"));
        };
        let environment = &self.context.environment;
        let secret = match *key {
            "file" => Secret::from_file(&value.path()?),
            "credential" => Secret::from_credential(value.string()?, environment)
                .inspect(|secret| value.note_if(secret.is_withheld(), "the credential")),
            _ => Secret::from_variable(value.string()?, environment),
        };
        secret.map_or_else(|message| value.fail(Fault::new(message)), Some)
    }

    pub(in crate::config) fn table(&self) -> Option<Table<'a>> {
        match &self.raw.kind {
            Kind::Table(table) => {
                // A table that only dotted keys or headers of its children make stands where its name does.
                Some(Table::new(self.context, table, self.place(), self.path.clone()))
            }
            _ => self.wrong_type("a table"),
        }
    }

    pub(in crate::config) fn array(&self) -> Option<Vec<Value<'a>>> {
        let Kind::Array(items) = &self.raw.kind else {
            return self.wrong_type("an array");
        };
        let item = |(index, raw): (usize, &'a raw::Value)| Value {
            context: self.context,
            key: raw.place,
            raw,
            path: format!("{}[{index}]", self.path),
        };
        Some(items.iter().enumerate().map(item).collect())
    }

    /// `[[…]]`: an array of tables.
    pub(in crate::config) fn tables(&self) -> Option<Vec<Table<'a>>> {
        if let Kind::Table(_) = self.raw.kind {
            let fault = Fault::new("expected an array of tables, found a table");
            return self.fail(fault.hint(format!("write [[{}]]", self.path)));
        }
        Some(self.array()?.iter().filter_map(Value::table).collect())
    }

    /// The place of bytes `range` of this string; of the whole value if escapes are in the way.
    pub(in crate::config) fn within(&self, range: std::ops::Range<usize>) -> Place {
        let place = self.place();
        let Kind::String(text) = &self.raw.kind else { return place };
        let written = self.context.sources[place.file].text.get(place.start + 1..place.end.saturating_sub(1));
        if written == Some(text) && range.end <= text.len() {
            return Place { start: place.start + 1 + range.start, end: place.start + 1 + range.end, ..place };
        }
        place
    }
}

/// Looks `text` up in `choices`.
pub(in crate::config) fn pick<T: Clone>(text: &str, choices: &[(&'static str, T)]) -> Result<T, Fault> {
    if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text) {
        return Ok(value.clone());
    }
    let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
    let fault = Fault::new(format!("unknown value \"{text}\", expected one of: {}", words.join(", ")));
    Err(match nearest(text, words) {
        Some(near) => fault.hint(format!("did you mean \"{near}\"?")),
        None => fault,
    })
}

/// The word for `value` in `choices`.
pub(in crate::config) fn word_for<T: PartialEq>(value: &T, choices: &[(&'static str, T)]) -> &'static str {
    // Every value of the type stands in its table.
    choices.iter().find(|(_, candidate)| candidate == value).map_or("", |(word, _)| word)
}

/// Bytes of a gateway's, device's or bridge's name.
pub(in crate::config) const MAX_NAME: usize = 64;

/// Checks the name of a device, a bridge or a gateway.
pub(in crate::config) fn name(text: &str) -> Result<String, Fault> {
    let good = (1..=MAX_NAME).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    if good {
        return Ok(text.to_owned());
    }
    Err(Fault::new(format!("`{text}` is not a name")).hint("a name is 1 to 64 of the characters A-Z a-z 0-9 _ -"))
}
