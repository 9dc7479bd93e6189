//! What the documents tell readers to write and to type is right: configurations, commands, options, links.

use std::fs;
use std::path::{Path, PathBuf};

use gatepost::{cli, config};

/// Every document for users.
fn documents() -> Vec<PathBuf> {
    let mut files = vec![PathBuf::from("README.md")];
    for folder in ["docs", "packaging"] {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        files.extend(entries.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    }
    files.sort();
    assert!(files.len() >= 3, "{files:?}");
    files
}

/// A part of a document in a fixed font: a fenced block, an indented line, or what stands between backticks.
struct Code {
    /// What the fence says; empty for all else.
    language: String,
    line: usize,
    text: String,
}

fn code_of(text: &str) -> Vec<Code> {
    let mut all: Vec<Code> = Vec::new();
    let mut block: Option<Code> = None;
    for (index, line) in text.lines().enumerate() {
        let fence = line.trim_start().strip_prefix("```");
        match (&mut block, fence) {
            (None, Some(language)) => {
                block = Some(Code { language: language.to_owned(), line: index + 1, text: String::new() });
            }
            (Some(_), Some(_)) => all.extend(block.take()),
            (Some(open), None) => open.text += &format!("{line}\n"),
            (None, None) => {
                let spans: Vec<&str> = if line.starts_with("    ") {
                    vec![line.trim()]
                } else {
                    line.split('`').skip(1).step_by(2).collect()
                };
                let span = |text: &str| Code { language: String::new(), line: index + 1, text: text.to_owned() };
                all.extend(spans.into_iter().map(span));
            }
        }
    }
    assert!(block.is_none(), "a fence is open at the end");
    all
}

/// A folder with the files that examples name.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (own, example) in [("localhost.pem", "server.pem"), ("localhost.key", "server.key"), ("ca.pem", "ca.pem")] {
        fs::copy(Path::new("tests/tls").join(own), folder.path().join(example)).unwrap();
    }
    for file in ["passwd", "acl"] {
        fs::write(folder.path().join(file), "").unwrap();
    }
    folder
}

#[test]
fn every_configuration_is_right() {
    let folder = folder();
    let mut count = 0;
    for document in documents() {
        for code in code_of(&fs::read_to_string(&document).unwrap()).iter().filter(|code| code.language == "toml") {
            let name = format!("{}:{}", document.display(), code.line);
            if let Err(errors) = config::parse(&code.text, &name, folder.path()) {
                panic!("{name}: {errors}");
            }
            count += 1;
        }
    }
    assert!(count >= 10, "only {count} configurations");
}

/// The paragraphs of README.Debian that are indented; those in TOML begin with a table of ours.
fn debian_examples() -> Vec<String> {
    let text = fs::read_to_string("debian/gatepost.README.Debian").unwrap();
    let paragraphs = text.split("\n\n").filter(|paragraph| paragraph.lines().all(|line| line.starts_with("    ")));
    let unindented = |paragraph: &str| paragraph.lines().map(|line| format!("{}\n", &line[4..])).collect();
    paragraphs.map(unindented).collect()
}

/// As `sudo gatepost check` reads them, which has no credentials.
#[test]
fn every_configuration_for_debian_is_right() {
    let folder = tempfile::tempdir().unwrap();
    let mut count = 0;
    let mut examples = debian_examples();
    examples.retain(|text| text.starts_with("[[") || text.starts_with("[broker"));
    let with_credential = |text: &String| text.starts_with("[broker]");
    // That one is in three paragraphs.
    let at = examples.iter().position(with_credential).unwrap();
    examples.push(examples[at..at + 3].concat());
    for text in &examples {
        let file = folder.path().join("gatepost.toml");
        fs::write(&file, text.replace("/etc/gatepost/passwd", "passwd")).unwrap();
        fs::write(folder.path().join("passwd"), "").unwrap();
        if let Err(errors) = config::inspect(Some(&file)) {
            panic!("{text}{errors}");
        }
        count += 1;
    }
    assert!(count >= 5, "only {count} configurations");
}

#[test]
fn every_command_and_option_is_there() {
    let mut command = cli::command();
    command.build();
    let mut count = 0;
    for document in documents() {
        for code in code_of(&fs::read_to_string(&document).unwrap()) {
            for line in code.text.lines() {
                let place = format!("{}:{}: {line}", document.display(), code.line);
                count += line.split("gatepost ").skip(1).filter(|rest| check(&command, rest, &place)).count();
            }
        }
    }
    for line in debian_examples().iter().flat_map(|text| text.lines()) {
        count += line.split("gatepost ").skip(1).filter(|rest| check(&command, rest, line)).count();
    }
    assert!(count >= 20, "only {count} commands");
}

/// `rest` is what follows `gatepost `; whether that is one of its commands.
fn check(command: &clap::Command, rest: &str, place: &str) -> bool {
    let mut words = rest.split([' ', '|', ';', '&', '`', ')', ',']).take_while(|word| *word != "#");
    let Some(name) = words.next().filter(|word| word.starts_with(|c: char| c.is_ascii_lowercase())) else {
        return false;
    };
    let Some(sub) = command.find_subcommand(name) else {
        // `systemctl restart gatepost && …`, `-o gatepost -g gatepost`
        assert!(!place.contains(&format!("`gatepost {name}")), "no command {name}: {place}");
        return false;
    };
    for word in words {
        let word = word.trim_matches(['[', ']']);
        let known = match (word.strip_prefix("--"), word.strip_prefix('-')) {
            (Some(long), _) => sub.get_arguments().any(|arg| arg.get_long() == Some(long)),
            (None, Some(short)) if short.len() == 1 => {
                sub.get_arguments().any(|arg| arg.get_short() == short.chars().next())
            }
            _ => true,
        };
        assert!(known, "`gatepost {name}` has no {word}: {place}");
    }
    true
}

#[test]
fn every_link_into_the_repository_leads_somewhere() {
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            assert!(document.parent().unwrap().join(target).exists(), "{}: {link}", document.display());
        }
    }
}

#[test]
fn every_key_in_the_tables_is_known() {
    let shipped = fs::read_to_string("config/gatepost.toml").unwrap();
    let known = |key: &str| shipped.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).any(|word| word == key);
    for document in documents().iter().filter(|path| path.starts_with("docs")) {
        let text = fs::read_to_string(document).unwrap();
        let mut inside = false;
        let mut count = 0;
        for line in text.lines() {
            inside = (inside && line.starts_with('|'))
                || (line.starts_with("| ") && line.ends_with("| gatepost.toml |"))
                || (line.starts_with("| ") && line.ends_with("| in gatepost.toml |"));
            let Some(ours) = line.strip_suffix('|').filter(|_| inside).and_then(|line| line.rsplit("| ").next()) else {
                continue;
            };
            for span in ours.split('`').skip(1).step_by(2) {
                for (key, _) in span.split(", ").filter_map(|part| part.split_once(" = ")) {
                    let key = key.rsplit(['{', ' ']).next().unwrap();
                    assert!(known(key), "{}: no key `{key}`: {line}", document.display());
                    count += 1;
                }
            }
        }
        assert!(count >= 8, "{}: only {count} keys in its tables", document.display());
    }
}

/// What is between quotes in the code of a source file, without its tests.
fn strings(text: &str) -> Vec<String> {
    let code = text.split("#[cfg(test)]").next().unwrap();
    let code: Vec<&str> = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let literal = regex::Regex::new(r#""((?:[^"\\]|\\.|\\\n)*)""#).unwrap();
    let gap = regex::Regex::new(r"\\\n\s*").unwrap();
    let plain = |text: &str| gap.replace_all(text, "").replace("\\\"", "\"").replace("\\n", "\n").replace("\\\\", "\\");
    literal.captures_iter(&code.join("\n").replace("'\"'", "' '")).map(|found| plain(&found[1])).collect()
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    let (folders, files): (Vec<_>, Vec<_>) = entries.into_iter().partition(|path| path.is_dir());
    let is_code =
        |path: &PathBuf| path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs");
    files.into_iter().filter(is_code).chain(folders.iter().flat_map(|folder| sources(folder))).collect()
}

/// Hints and advice are pasted: a `key = value` in them is TOML and a key of ours, and no table's header stands on a line
/// with a key.
#[test]
fn what_messages_say_to_write_is_toml() {
    let shipped = fs::read_to_string("config/gatepost.toml").unwrap();
    let words: Vec<&str> = shipped.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).collect();
    let pair =
        regex::Regex::new(r#"(?:^|[^-.\w$])([a-z_]+) += +("[^"]*"|true\b|false\b|[0-9]+\b|\{ [^{}]* \}|\[[^\[\]]*\])"#)
            .unwrap();
    let on_one_line = regex::Regex::new(r"\[[a-z_.{}]+\]\]? +[a-z_]+ = ").unwrap();
    let (mut count, mut wrong) = (0, Vec::new());
    for file in sources(Path::new("src")) {
        for text in strings(&fs::read_to_string(&file).unwrap()) {
            // In a format string braces are doubled, and what is in single ones is something else each time.
            let text = text.replace("{{", "{").replace("}}", "}");
            let place = format!("{}: {text}", file.display());
            if on_one_line.is_match(&text) {
                wrong.push(format!("a table and its key on one line in {place}"));
            }
            for found in pair.captures_iter(&text) {
                let (key, value) = (&found[1], &found[2]);
                if value.contains('…') {
                    continue;
                }
                count += 1;
                let is_toml = toml::from_str::<toml::Table>(&format!("{key} = {value}")).is_ok();
                if !is_toml || !words.contains(&key) {
                    wrong.push(format!("{key} = {value} in {place}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count >= 20, "only {count} values");
}
