//! Which files make up a configuration.

use std::io;
use std::path::{Path, PathBuf};

use super::error::{ConfigErrors, Diagnostic, Severity};
use super::source::{self, Excerpt, Source};

/// Most bytes of one file.
const MAX_BYTES: u64 = 1024 * 1024;

const NOT_THERE: &str = "name the file with -c FILE";
const NOT_THERE_NOW: &str = "it is a link to nothing (remove it), or was removed just now (try again)";

/// Reads `path`, then `conf.d/*.toml` beside it in the order of their names.
pub(super) fn read(path: &Path) -> Result<(Vec<Source>, Vec<PathBuf>), ConfigErrors> {
    let directory = path.parent().unwrap_or(Path::new("")).join("conf.d");
    let mut files = vec![path.to_owned()];
    let mut errors = Vec::new();
    match drop_ins(&directory) {
        Ok(found) => files.extend(found),
        Err(error) => errors.push(unreadable(&directory, &error, NOT_THERE_NOW)),
    }
    let mut sources = Vec::new();
    for (number, file) in files.iter().enumerate() {
        match read_one(file, if number == 0 { NOT_THERE } else { NOT_THERE_NOW }) {
            Ok(source) => sources.push(source),
            Err(error) => errors.push(*error),
        }
    }
    if errors.is_empty() { Ok((sources, files)) } else { Err(ConfigErrors::new(errors, false)) }
}

/// `*.toml` in `directory` by name; hidden files are an editor's business. No directory, no drop-ins.
fn drop_ins(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        let path = entry.path();
        if !hidden && path.extension().is_some_and(|extension| extension == "toml") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// `missing`: what to do if there is no such file.
fn read_one(path: &Path, missing: &str) -> Result<Source, Box<Diagnostic>> {
    let unreadable = |error| Box::new(unreadable(path, &error, missing));
    let bytes = source::read_bounded(path, MAX_BYTES).map_err(unreadable)?;
    let parent = path.parent().unwrap_or(Path::new(""));
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let base = std::path::absolute(parent).map_err(unreadable)?;
    let name = path.display().to_string();
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Source::new(name, base, text)),
        Err(error) => Err(not_utf8(name, base, &error).into()),
    }
}

fn not_utf8(name: String, base: PathBuf, error: &std::string::FromUtf8Error) -> Diagnostic {
    let start = error.utf8_error().valid_up_to();
    let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
    let source = Source::new(name, base, text);
    let place = source::Place { file: 0, start, end: start + char::REPLACEMENT_CHARACTER.len_utf8() };
    let hint = "save the file as UTF-8; write other bytes as { hex = \"…\" }";
    self::error(
        source.name.clone(),
        "the file is not UTF-8".to_owned(),
        Some(source.excerpt(place)),
        Some(hint.to_owned()),
    )
}

fn unreadable(path: &Path, error: &io::Error, missing: &str) -> Diagnostic {
    let hint = match error.kind() {
        io::ErrorKind::NotFound => Some(missing.to_owned()),
        io::ErrorKind::PermissionDenied => Some("the user that gatepost runs as must be allowed to read it".to_owned()),
        _ => None,
    };
    let name = path.display().to_string();
    self::error(name.clone(), format!("cannot read {name}: {error}"), None, hint)
}

fn error(file: String, message: String, excerpt: Option<Excerpt>, hint: Option<String>) -> Diagnostic {
    let (severity, key, notes) = (Severity::Error, String::new(), Vec::new());
    Diagnostic { severity, message, file, excerpt, key, notes, hint }
}
