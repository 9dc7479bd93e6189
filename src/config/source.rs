//! The files that were read, and places in them.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, OnceLock};

use regex::Regex;

/// A stretch of bytes in one of the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// Index into the list of sources.
    pub(super) file: usize,
    /// First byte.
    pub(super) start: usize,
    /// One past the last byte.
    pub(super) end: usize,
}

/// A line of a file with a part of it marked. Secrets in it are masked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excerpt {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// The line, or what stands around the mark if it is long.
    pub text: String,
    /// Characters of `text` before the mark.
    pub indent: usize,
    /// Characters marked, at least 1.
    pub mark: usize,
}

/// One file.
pub(super) struct Source {
    /// As it is shown in messages.
    pub(super) name: String,
    /// What relative paths in it are relative to.
    pub(super) base: PathBuf,
    /// What it says.
    pub(super) text: String,
    /// Where its lines begin.
    lines: Vec<usize>,
    /// Where secrets stand in it; looked for when a line is shown.
    secrets: OnceLock<Vec<Range<usize>>>,
}

/// Widest excerpt of a line that is shown, in characters.
const WIDEST: usize = 160;
/// How much of a longer line stands before the marked part.
const LEAD: usize = 40;

impl Source {
    pub(super) fn new(name: impl Into<String>, base: impl Into<PathBuf>, text: impl Into<String>) -> Source {
        let text = text.into();
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(newline, _)| newline + 1)).collect();
        Source { name: name.into(), base: base.into(), text, lines, secrets: OnceLock::new() }
    }

    /// The line of byte `offset`, from 1.
    pub(super) fn line(&self, offset: usize) -> usize {
        self.lines.partition_point(|start| *start <= offset)
    }

    /// Line and column of byte `offset`, both from 1; columns count characters.
    pub(super) fn position(&self, offset: usize) -> (usize, usize) {
        let (offset, line) = (self.boundary(offset), self.line(offset));
        (line, self.text[self.lines[line - 1]..offset].chars().count() + 1)
    }

    /// The line at `place` with the place marked and secrets masked; of a long line what stands around the place.
    pub(super) fn excerpt(&self, place: Place) -> Excerpt {
        let start = self.boundary(place.start);
        let (line, column) = self.position(start);
        let line_start = self.lines[line - 1];
        let line_end = self.text[start..].find('\n').map_or(self.text.len(), |newline| start + newline);
        let end = self.boundary(place.end).clamp(start, line_end);
        let window = window(&self.text, line_start..line_end, start);
        let mut excerpt = Excerpt { line, column, text: String::new(), indent: 0, mark: 0 };
        if window.start > line_start {
            excerpt.text.push('…');
            excerpt.indent = 1;
        }
        for (offset, shown) in self.masked(window.clone()) {
            let width = shown.chars().count();
            excerpt.indent += if offset < start { width } else { 0 };
            excerpt.mark += if (start..end).contains(&offset) { width } else { 0 };
            excerpt.text.push_str(&shown);
        }
        if window.end < line_end {
            excerpt.text.push('…');
        }
        // An empty place, and one within a secret, is marked all the same.
        excerpt.mark = excerpt.mark.max(1);
        excerpt
    }

    /// The characters of `part` as they are shown, each with its offset: tabs as spaces, control characters as U+FFFD,
    /// and a secret as `***`.
    fn masked(&self, part: Range<usize>) -> Vec<(usize, String)> {
        let secrets = self.secrets.get_or_init(|| secrets(&self.text));
        let near: Vec<&Range<usize>> =
            secrets.iter().filter(|secret| secret.start < part.end && part.start < secret.end).collect();
        let mut shown = Vec::new();
        let mut masked_until = 0;
        for (offset, character) in self.text[part.clone()].char_indices() {
            let offset = part.start + offset;
            if offset < masked_until {
                continue;
            }
            if let Some(secret) = near.iter().find(|secret| secret.contains(&offset)) {
                masked_until = secret.end;
                shown.push((offset, "***".to_owned()));
                continue;
            }
            shown.push(match character {
                '\t' => (offset, "    ".to_owned()),
                '\r' => (offset, String::new()),
                c if c.is_control() => (offset, char::REPLACEMENT_CHARACTER.to_string()),
                c => (offset, c.to_string()),
            });
        }
        shown
    }

    fn boundary(&self, offset: usize) -> usize {
        let mut offset = offset.min(self.text.len());
        while !self.text.is_char_boundary(offset) {
            offset -= 1;
        }
        offset
    }
}

/// Reads a file of at most `limit` bytes.
pub(super) fn read_bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is larger than {limit} bytes")));
    }
    Ok(bytes)
}

/// Where secrets stand in `text`. Works on the text and not on the parsed file, since errors of syntax and misspelt
/// keys show lines too.
fn secrets(text: &str) -> Vec<Range<usize>> {
    static PATTERN: LazyLock<Regex> = LazyLock::new(|| {
        let key = r#"(?:["']?[\w-]*(?:pas|psw|pwd|tok|tkn|secr)[\w-]*|\bkey)["']?"#;
        let string =
            r#""""[\s\S]*?(?:"""|\z)|'''[\s\S]*?(?:'''|\z)|"(?:\\.|[^"\\\n])*|'[^'\n]*|\[[^\]]*|[^\s{"'\[=:][^\n,}]*"#;
        let in_url = r"://([^/@\s]*)@";
        // The pattern is fixed; the tests run it.
        let pattern = format!(r"(?im)(?:{key}[ \t]*[=:]\s*|^[ \t]*{key}[ \t]+)({string})|{in_url}");
        Regex::new(&pattern).expect("a valid pattern")
    });
    let named = |text: &str| text.to_ascii_lowercase().contains("_file");
    PATTERN
        .captures_iter(text)
        .filter_map(|found| {
            let secret = found.get(1).or_else(|| found.get(2))?;
            let key = &text[found.get(0)?.start()..secret.start()];
            let quotes = secret.as_str().len() - secret.as_str().trim_start_matches(['"', '\'']).len();
            (!named(key)).then(|| secret.start() + quotes..secret.end())
        })
        .filter(|range| !range.is_empty())
        .collect()
}

/// The part of a long `line` that is shown: it begins a little before `start`.
fn window(text: &str, line: Range<usize>, start: usize) -> Range<usize> {
    let content = &text[line.clone()];
    if content.chars().nth(WIDEST).is_none() {
        return line;
    }
    let before = &text[line.start..start];
    let first = before.char_indices().rev().nth(LEAD).map_or(line.start, |(offset, _)| line.start + offset);
    let end = text[first..line.end].char_indices().nth(WIDEST).map_or(line.end, |(offset, _)| first + offset);
    first..end
}

#[cfg(test)]
mod tests {
    use super::*;

    fn excerpt(text: &str, marked: &str) -> Excerpt {
        let source = Source::new("f", PathBuf::new(), text);
        let start = text.find(marked).unwrap();
        source.excerpt(Place { file: 0, start, end: start + marked.len() })
    }

    #[test]
    fn lines_and_columns_count_characters() {
        let shown = excerpt("a = 1\nö = \"ü\" # x\n", "\"ü\"");
        assert_eq!((shown.line, shown.column, shown.indent, shown.mark), (2, 5, 4, 3));
        assert_eq!(shown.text, "ö = \"ü\" # x");
    }

    #[test]
    fn secrets_are_not_shown() {
        for (text, marked) in [
            ("x = { password = \"hunter2\", usr = 1 }", "usr"),
            ("x = { pasword = 'hunter2', usr = 1 }", "usr"),
            ("tls = { cert = \"usr\", key = \"hunter2\" }", "usr"),
            ("\"token\" = \"hunter2", "token"),
            ("token = hunter2", "token"),
            ("password hunter2", "password"),
            ("password: 'hunter2'", "password"),
            ("password =\n\"hunter2\" # usr", "usr"),
            ("password = [\"hunter2\"] # usr", "usr"),
            ("password = \"\"\"\nhunter2\nhunter2\"\"\" # usr", "usr"),
            ("url = \"mqtt://me:hunter2@host\" # usr", "usr"),
            ("password = \"a\\\"hunter2\" # usr", "usr"),
        ] {
            let shown = excerpt(text, marked);
            assert!(shown.text.contains("***") && !shown.text.contains("hunter2"), "{}", shown.text);
        }
        assert_eq!(excerpt("password_file = \"passwd\"", "passwd\"").text, "password_file = \"passwd\"");
        assert_eq!(
            excerpt("password = { file = \"a.pass\" } # passwd too", "file").text,
            "password = { file = \"a.pass\" } # passwd too"
        );
    }

    #[test]
    fn long_lines_are_cut_around_the_mark() {
        let text = format!("{}KEY{}", "a".repeat(5000), "b".repeat(5000));
        let shown = excerpt(&text, "KEY");
        assert_eq!(shown.column, 5001);
        let marked: String = shown.text.chars().skip(shown.indent).take(shown.mark).collect();
        assert_eq!(marked, "KEY");
        assert!(shown.text.chars().count() < 200);
    }

    #[test]
    fn control_characters_are_replaced() {
        let shown = excerpt("\tx\u{1b}[31m = 1\r\n", "= 1");
        assert_eq!(shown.text, "    x\u{fffd}[31m = 1");
    }
}
