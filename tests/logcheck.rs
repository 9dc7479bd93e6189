//! `packaging/logcheck/gatepost` passes over what is said in normal life, and over nothing that is a warning or an error.

use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// What the events of a level look like: the message and, if it has fields, the first of them.
fn messages(level: &str) -> Vec<String> {
    let mut files = Vec::new();
    sources(Path::new("src"), &mut files);
    let literal = Regex::new(r#""((?:[^"\\]|\\.)*)""#).unwrap();
    let field = Regex::new(r"^\s*[%?]?(\w+)\s*[=,]").unwrap();
    let mut messages = Vec::new();
    for file in files {
        let text = fs::read_to_string(file).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        for call in code.split(&format!("tracing::{level}!(")).skip(1) {
            let call = call.split(");").next().unwrap();
            let mut strings = literal.captures_iter(call).map(|found| found.get(1).unwrap().as_str());
            // What is nothing but a placeholder could be anything.
            let Some(message) = strings.find(|text| text.contains(char::is_lowercase) && !text.starts_with('{')) else {
                continue;
            };
            let first = field.captures(call).map_or(String::new(), |found| format!(" {}=\"a\" n=1", &found[1]));
            messages.push(message.to_owned() + &first);
        }
    }
    messages
}

fn rules() -> Vec<Regex> {
    let text = fs::read_to_string("packaging/logcheck/gatepost").unwrap();
    text.lines().map(|line| Regex::new(line).unwrap()).collect()
}

/// As syslog has it, with and without precise time.
fn lines(message: &str) -> [String; 2] {
    let message = Regex::new(r"\{[^}]*\}").unwrap().replace_all(message, "x");
    ["Nov 22 04:58:11", "2026-11-22T04:58:11.446123+00:00"].map(|time| format!("{time} pi gatepost[123]: {message}"))
}

#[test]
fn normal_life_is_passed_over() {
    let rules = rules();
    let messages = messages("info");
    assert!(messages.len() >= 15, "{messages:?}");
    for line in messages.iter().flat_map(|message| lines(message)) {
        assert!(rules.iter().any(|rule| rule.is_match(&line)), "no rule for: {line}");
    }
    for rule in rules {
        let used = messages.iter().flat_map(|message| lines(message)).any(|line| rule.is_match(&line));
        assert!(used, "nothing is said that {rule} is for");
    }
}

#[test]
fn no_warning_is_passed_over() {
    let rules = rules();
    let messages: Vec<String> = ["warn", "error"].into_iter().flat_map(messages).collect();
    assert!(messages.len() >= 30, "{messages:?}");
    for line in messages.iter().flat_map(|message| lines(message)) {
        assert!(!rules.iter().any(|rule| rule.is_match(&line)), "a rule passes over: {line}");
    }
}
