//! From the raw tree to checked values, collecting errors on the way.
//!
//! A [`Table`] hands out its values by key and at the end reports the keys nobody asked for. A [`Value`] turns itself
//! into what the caller wants; if it cannot, it reports why and returns `None`, and the caller goes on with a stand-in,
//! so that one run finds every error.

use std::cell::RefCell;
use std::collections::BTreeSet;

use super::environment::Environment;
use super::error::{Cause, Diagnostic, Report, Severity, nearest};
use super::raw;
use super::source::{Place, Source};

mod value;

pub(super) use value::{MAX_NAME, Value, name, pick, word_for};

/// What all readers share.
pub(super) struct Context {
    pub(super) sources: Vec<Source>,
    pub(super) environment: Environment,
    pub(super) reports: RefCell<Vec<Report>>,
}

/// What reading came to.
pub(super) struct Outcome {
    pub(super) errors: Vec<Diagnostic>,
    pub(super) warnings: Vec<Diagnostic>,
    /// Whether `errors` is cut short.
    pub(super) more: bool,
}

impl Context {
    pub(super) fn new(sources: Vec<Source>, environment: Environment) -> Context {
        Context { sources, environment, reports: RefCell::default() }
    }

    /// Errors and warnings, sorted by place, at most `most` of each, and whether there were more. Where the `syntax` is wrong, what was read is too:
    /// errors on the same lines and keys that seem to be missing in such a file are not reported.
    pub(super) fn into_diagnostics(self, syntax: Vec<Report>, most: usize) -> Outcome {
        let Context { sources, reports, .. } = self;
        let line = |place: Place| (place.file, sources[place.file].line(place.start));
        let broken: BTreeSet<(usize, usize)> = syntax.iter().map(|report| line(report.place)).collect();
        let broken_files: BTreeSet<usize> =
            syntax.iter().filter(|r| r.cause == Cause::Syntax).map(|r| r.place.file).collect();
        let follows = |report: &Report| {
            broken.contains(&line(report.place))
                || (report.cause == Cause::Missing && broken_files.contains(&report.place.file))
        };
        let mut all: Vec<Report> = reports.into_inner().into_iter().filter(|report| !follows(report)).collect();
        all.extend(syntax);
        all.sort_by_key(|report| report.place);
        all.dedup_by(|a, b| a.place == b.place && a.message == b.message);
        let (errors, warnings): (Vec<_>, Vec<_>) = all.into_iter().partition(|r| r.severity == Severity::Error);
        let resolve = |reports: Vec<Report>| reports.into_iter().take(most).map(|r| r.resolve(&sources)).collect();
        let more = errors.len() > most;
        Outcome { errors: resolve(errors), warnings: resolve(warnings), more }
    }

    pub(super) fn push(&self, report: Report) {
        self.reports.borrow_mut().push(report);
    }
}

/// A table being read.
pub(super) struct Table<'a> {
    context: &'a Context,
    entries: Entries<'a>,
    /// Where the table begins, for what is missing in it.
    pub(super) place: Place,
    pub(super) path: String,
    asked: Vec<&'static str>,
}

enum Entries<'a> {
    Written(&'a raw::Table),
    /// The short form of a table: the one value it stands for.
    Short(&'static str, Value<'a>),
}

impl<'a> Table<'a> {
    pub(super) fn new(context: &'a Context, raw: &'a raw::Table, place: Place, path: String) -> Table<'a> {
        Table { context, entries: Entries::Written(raw), place, path, asked: Vec::new() }
    }

    /// The table for which `value` alone is the short form.
    pub(super) fn short(key: &'static str, value: Value<'a>) -> Table<'a> {
        let (context, place, path) = (value.context, value.place(), value.path.clone());
        Table { context, entries: Entries::Short(key, value), place, path, asked: Vec::new() }
    }

    /// The value of `key`, if it is set.
    pub(super) fn get(&mut self, key: &'static str) -> Option<Value<'a>> {
        self.know(&[key]);
        self.value_of(key)
    }

    /// The table at `key`; an empty one if it is not set.
    pub(super) fn section(&mut self, key: &'static str) -> Table<'a> {
        static EMPTY: raw::Table = raw::Table::new();
        let table = self.get(key).and_then(|value| value.table());
        table.unwrap_or_else(|| Table::new(self.context, &EMPTY, self.place, key.to_owned()))
    }

    /// The value of `key`, if it is set, without saying that the key belongs here.
    pub(super) fn peek(&self, key: &str) -> Option<Value<'a>> {
        self.value_of(key)
    }

    /// The value of `key`, which must be set.
    pub(super) fn require(&mut self, key: &'static str) -> Option<Value<'a>> {
        let value = self.get(key);
        if value.is_none() {
            let message = format!("missing key `{key}`");
            let path = raw::join(&self.path, key);
            self.context.push(Report::new(self.place, path, message).caused_by(Cause::Missing));
        }
        value
    }

    /// Names keys that are known though nobody reads them.
    pub(super) fn know(&mut self, keys: &[&'static str]) {
        self.asked.extend(keys);
    }

    /// Every key and its value, for tables of named things.
    pub(super) fn named(&self) -> Vec<(&'a str, Value<'a>)> {
        match &self.entries {
            Entries::Written(raw) => raw.entries.keys().filter_map(|k| Some((k.as_str(), self.value_of(k)?))).collect(),
            Entries::Short(..) => Vec::new(),
        }
    }

    /// Reports keys that nobody asked for.
    pub(super) fn finish(self) {
        let mut known: Vec<&str> = Vec::new();
        for key in &self.asked {
            if !known.contains(key) {
                known.push(key);
            }
        }
        for (name, value) in self.named() {
            if known.contains(&name) {
                continue;
            }
            let report = Report::new(value.key, value.path.clone(), format!("unknown key `{name}`"));
            self.context.push(match nearest(name, known.iter().copied()) {
                Some(near) => report.hint(format!("did you mean `{near}`?")),
                None => report.hint(format!("known keys here: {}", known.join(", "))),
            });
        }
    }

    fn value_of(&self, key: &str) -> Option<Value<'a>> {
        match &self.entries {
            Entries::Written(raw) => raw.entries.get(key).map(|entry| Value {
                context: self.context,
                key: entry.key,
                raw: &entry.value,
                path: raw::join(&self.path, key),
            }),
            Entries::Short(name, value) => (*name == key).then(|| value.clone()),
        }
    }
}
