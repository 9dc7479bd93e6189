//! How a configuration is refused: every error with its place, the line, and what to do.

use std::fmt;

use super::source::{Excerpt, Place, Source};

/// Everything that is wrong with a configuration, in the order of the files. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors {
    errors: Vec<Diagnostic>,
    more: bool,
}

impl ConfigErrors {
    /// `errors` is not empty; `more` tells that it is cut short.
    pub(super) fn new(errors: Vec<Diagnostic>, more: bool) -> ConfigErrors {
        ConfigErrors { errors, more }
    }

    /// The errors in order. A file of noise has one in each line: after 200 they are cut short.
    pub fn all(&self) -> &[Diagnostic] {
        &self.errors
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for diagnostic in &self.errors {
            writeln!(f, "{diagnostic}")?;
        }
        let count = self.errors.len();
        let more = if self.more { "more than " } else { "" };
        write!(f, "{more}{count} {} in the configuration", if count == 1 { "error" } else { "errors" })
    }
}

impl std::error::Error for ConfigErrors {}

/// One error, or one warning.
///
/// Its `Display` is that of rustc: message, `file:line:column`, the line with the place marked, the key and a hint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Whether the configuration is refused for it.
    pub severity: Severity,
    /// What is wrong, in one line.
    pub message: String,
    /// The file, as it was named.
    pub file: String,
    /// The place in the file; `None` if the file could not be read.
    pub excerpt: Option<Excerpt>,
    /// The path of the key: `device.arduino.serial.baud`; empty for an error of syntax.
    pub key: String,
    /// Further facts, one a line: the other place of two that clash.
    pub notes: Vec<String>,
    /// What to do.
    pub hint: Option<String>,
}

/// How bad a [`Diagnostic`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The configuration is refused.
    Error,
    /// It works, but probably not as meant.
    Warning,
    /// Nothing is known against it: what it names cannot be looked at from here.
    Note,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "note",
        };
        writeln!(f, "{severity}: {}", self.message)?;
        let line = self.excerpt.as_ref().map_or(String::new(), |excerpt| excerpt.line.to_string());
        let gutter = " ".repeat(line.len());
        match &self.excerpt {
            None => writeln!(f, "{gutter} --> {}", self.file)?,
            Some(excerpt) => {
                writeln!(f, "{gutter}--> {}:{}:{}", self.file, excerpt.line, excerpt.column)?;
                writeln!(f, "{gutter} |")?;
                writeln!(f, "{line} | {}", excerpt.text.trim_end())?;
                writeln!(f, "{gutter} | {}{}", " ".repeat(excerpt.indent), "^".repeat(excerpt.mark))?;
            }
        }
        if !self.key.is_empty() {
            writeln!(f, "{gutter} = key: {}", self.key)?;
        }
        for note in &self.notes {
            writeln!(f, "{gutter} = note: {note}")?;
        }
        if let Some(hint) = &self.hint {
            writeln!(f, "{gutter} = hint: {hint}")?;
        }
        Ok(())
    }
}

/// What kind of error it is, as far as others follow from it or it from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// The file is not TOML.
    Syntax,
    /// Something is not there, which an error of syntax explains too.
    Missing,
    /// Anything else.
    Other,
}

/// A [`Diagnostic`] in the making, before its place is looked up.
#[derive(Clone, Debug)]
pub(super) struct Report {
    pub(super) severity: Severity,
    pub(super) place: Place,
    pub(super) key: String,
    pub(super) message: String,
    pub(super) notes: Vec<(String, Option<Place>)>,
    pub(super) hint: Option<String>,
    pub(super) cause: Cause,
}

impl Report {
    pub(super) fn new(place: Place, key: impl Into<String>, message: impl Into<String>) -> Report {
        Report {
            severity: Severity::Error,
            place,
            key: key.into(),
            message: message.into(),
            notes: Vec::new(),
            hint: None,
            cause: Cause::Other,
        }
    }

    pub(super) fn caused_by(mut self, cause: Cause) -> Report {
        self.cause = cause;
        self
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Report {
        self.hint = Some(hint.into());
        self
    }

    /// Adds `text`, which the position of `place` follows if there is one.
    pub(super) fn note(mut self, text: impl Into<String>, place: Option<Place>) -> Report {
        self.notes.push((text.into(), place));
        self
    }

    pub(super) fn warning(mut self) -> Report {
        self.severity = Severity::Warning;
        self
    }

    pub(super) fn noted(mut self) -> Report {
        self.severity = Severity::Note;
        self
    }

    /// Looks its places up in `sources`.
    pub(super) fn resolve(self, sources: &[Source]) -> Diagnostic {
        let source = &sources[self.place.file];
        let show = |(text, place): (String, Option<Place>)| match place {
            None => text,
            Some(place) => {
                let source = &sources[place.file];
                let (line, column) = source.position(place.start);
                format!("{text} {}:{line}:{column}", source.name)
            }
        };
        Diagnostic {
            severity: self.severity,
            message: self.message,
            file: source.name.clone(),
            excerpt: Some(source.excerpt(self.place)),
            key: self.key,
            notes: self.notes.into_iter().map(show).collect(),
            hint: self.hint,
        }
    }
}

/// Why a text is not the value it should be. `range` marks the bytes of the text that are to blame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) message: String,
    pub(super) hint: Option<String>,
    pub(super) range: Option<std::ops::Range<usize>>,
}

impl Fault {
    pub(super) fn new(message: impl Into<String>) -> Fault {
        Fault { message: message.into(), hint: None, range: None }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Fault {
        self.hint = Some(hint.into());
        self
    }

    pub(super) fn at(mut self, range: std::ops::Range<usize>) -> Fault {
        self.range = Some(range);
        self
    }
}

/// The known word nearest to `word`, if one is near enough to be what was meant.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > 64 {
        return None;
    }
    let wanted = word.to_lowercase();
    known
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(&wanted, candidate), candidate))
        .filter(|(likeness, candidate)| {
            *likeness > 0.84 || strsim::osa_distance(&wanted, candidate) <= 1 + candidate.len() / 5
        })
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_finds_misspellings_and_nothing_else() {
        let known = ["baud", "parity", "data_bits", "stop_bits", "max_connections"];
        for (word, expected) in [
            ("baudrate", Some("baud")),
            ("Parity", Some("parity")),
            ("databits", Some("data_bits")),
            ("max_conections", Some("max_connections")),
            ("colour", None),
            ("x", None),
        ] {
            assert_eq!(nearest(word, known), expected, "{word}");
        }
    }
}
