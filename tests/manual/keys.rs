//! gatepost.toml(5) and `config/gatepost.toml` name every key that the program knows.
//!
//! A key that is not known, put into a table, is answered with those that are.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use gatepost::config;

const STRANGER: &str = "zzzzzzzzzzzz";

/// What `config/gatepost.toml` cannot have beside its other examples.
const MORE: &str = r#"
[device.lines]
framing = { type = "lines" }
[device.delimited]
framing = { type = "delimited" }
[device.fixed]
framing = { type = "fixed" }
[device.length]
framing = { type = "length_prefixed" }
[device.marks]
framing = { type = "start_end" }
[device.gap]
framing = { type = "idle_gap" }
[device.slip]
framing = { type = "slip" }
[device.cobs]
framing = { type = "cobs" }
[device.chunks]
framing = { type = "chunks" }
[[device.chunks.publish]]
parse = { csv = ["a"] }
"#;

/// A table and a key in it: `device.arduino.serial` and `baud`.
type Key = (String, String);

/// `config/gatepost.toml` without the `#` before its examples.
fn shipped() -> String {
    let text = fs::read_to_string("config/gatepost.toml").unwrap();
    let lines = text.lines().map(|line| match line.strip_prefix('#') {
        Some(example) if !example.is_empty() && !example.starts_with(' ') => example,
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// A stranger in every table of `text`.
fn with_strangers(text: &str) -> String {
    let mut out = format!("{STRANGER} = 1\n");
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        out += &line.replace("{ ", &format!("{{ {STRANGER} = 1, "));
        if line.starts_with('[') {
            out += &format!("\n{STRANGER} = 1");
        }
        out.push('\n');
    }
    out
}

fn known() -> BTreeSet<Key> {
    let text = with_strangers(&(shipped() + MORE));
    let errors = config::parse(&text, "strangers.toml", Path::new("/")).unwrap_err();
    let mut known = BTreeSet::new();
    for error in errors.all() {
        let Some(keys) = error.hint.as_ref().and_then(|hint| hint.strip_prefix("known keys here: ")) else { continue };
        let table = error.key.trim_end_matches(STRANGER).trim_end_matches('.').to_owned();
        known.extend(keys.split(", ").map(|key| (table.clone(), key.to_owned())));
    }
    known
}

/// The heading in gatepost.toml(5) below which the keys of `table` stand.
fn heading(table: &str, key: &str) -> &'static str {
    if ["credential", "env", "file", "hex"].contains(&key) {
        return "FORMAT";
    }
    let mut parts = table.split('.').map(|part| part.split('[').next().unwrap());
    match (parts.next(), parts.next(), parts.next()) {
        (Some("gateway"), ..) => "[gateway]",
        (Some("log"), ..) => "[log]",
        (Some("broker"), None, _) => "[broker]",
        (Some("broker"), ..) => "[[broker.listener]]",
        (Some("device"), _, Some("serial")) => "SERIAL",
        (Some("device"), _, Some("tcp")) => "TCP",
        (Some("device"), _, Some("tcp_server")) => "TCP_SERVER",
        (Some("device"), _, Some("framing")) => "FRAMING",
        (Some("device"), _, Some("publish")) => "[[device.NAME.publish]]",
        (Some("device"), _, Some("subscribe")) => "[[device.NAME.subscribe]]",
        (Some("device"), ..) => "[device.NAME]",
        _ => "NOT IN THIS VERSION",
    }
}

/// What stands below a heading of a man page, up to the next one.
fn section<'a>(page: &'a str, heading: &str) -> &'a str {
    let start = [".SS", ".SH"].iter().find_map(|request| page.split_once(&format!("{request} {heading}\n")));
    start.unwrap_or_else(|| panic!("no {heading}")).1.split("\n.S").next().unwrap()
}

fn has_word(text: &str, word: &str) -> bool {
    text.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_')).any(|found| found == word)
}

#[test]
fn the_strangers_find_the_tables() {
    let known = known();
    for (table, key) in [
        ("", "broker"),
        ("broker", "max_queued"),
        ("broker.listener[2].tls", "identity"),
        ("device.arduino.serial", "hangup"),
        ("device.gap.framing", "gap"),
        ("device.chunks.publish[0].parse", "separator"),
        ("bridge.cloud.spool", "replay_rate"),
    ] {
        assert!(known.contains(&(table.to_owned(), key.to_owned())), "{table}.{key} is not in {known:#?}");
    }
}

#[test]
fn the_manual_explains_every_key() {
    let page = fs::read_to_string("packaging/man/gatepost.toml.5").unwrap();
    let page = page.replace("\\-", "-");
    let later = section(&page, "NOT IN THIS VERSION").replace("\\fB", " ").replace("\\fP", " ");
    let missing: Vec<Key> = known()
        .into_iter()
        .filter(|(table, _)| !table.is_empty() && table != "device" && table != "bridge")
        .filter(|(table, key)| {
            let own = section(&page, heading(table, key));
            let entry = own.contains(&format!("\\fB{key}\\fP = "));
            let in_entry = own.contains(&format!(" {key} = ")) || own.contains(&format!("\\fB{key}\\fP"));
            !(entry || in_entry || has_word(&later, key))
        })
        .collect();
    assert_eq!(missing, [], "gatepost.toml(5) does not name them");
}

#[test]
fn the_shipped_file_shows_every_key() {
    let text = fs::read_to_string("config/gatepost.toml").unwrap();
    let missing: Vec<Key> = known().into_iter().filter(|(_, key)| !has_word(&text, key)).collect();
    assert_eq!(missing, [], "config/gatepost.toml does not show them");
}
