//! Holds the layers of src/lib.rs: a file uses only lower ones. And the crates that only one file may name.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Lowest first; `a/b` stands for the modules below `a` of that name. As in the table of src/lib.rs.
const LAYERS: &[&[&str]] = &[
    &["topic", "qos", "template", "backoff", "log_limit", "stats"],
    &["transport", "framing", "net", "mqtt_client", "machine", "config", "log"],
    &["broker"],
    &["device"],
    &["gateway", "control"],
    &["cli"],
];

/// Crates, and the files that may name them.
const ONLY_IN: &[(&str, &[&str])] = &[
    ("rumqttd", &["broker/bus/router.rs"]),
    ("rumqttc", &["mqtt_client.rs", "mqtt_client/"]),
    ("tokio_rustls", &["net/stream.rs", "net/tls/"]),
    ("tokio_tungstenite", &["net/websocket/"]),
    ("ratatui", &["cli/top.rs", "cli/top/"]),
    ("tokio_serial", &["transport/serial.rs"]),
    ("rusqlite", &["broker/store/"]),
];

/// The parts of the broker: a file beside `broker.rs`, or a folder with the file of its name. Lowest first, as above.
const BROKER: &[&[&str]] = &[
    &["message", "session_expiry", "levels", "queue", "pace", "stats", "settings", "shutdown", "listener_terms"],
    &["packet"],
    &["subscriptions", "admission", "auth"],
    &["store", "retained"],
    &["bus"],
    &["local", "share", "will", "figures", "error"],
    &["session", "sys"],
    &["connection", "restore"],
    &["listener"],
    &["reload"],
];

struct Source {
    /// Below src, with `/`.
    path: String,
    text: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root.clone()];
    let mut files: Vec<PathBuf> = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
                files.push(path);
            }
        }
    }
    assert!(files.len() >= 20, "only {} source files found", files.len());
    let read = |file: PathBuf| Source {
        path: file.strip_prefix(&root).unwrap().to_str().unwrap().to_owned(),
        text: code(&std::fs::read_to_string(&file).unwrap()),
    };
    files.into_iter().map(read).collect()
}

/// The text without line comments and without its unit tests, which may use anything (as a file `tests.rs` may).
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// `broker/router.rs` is `broker::router`, `broker.rs` is `broker`.
fn module(path: &str) -> String {
    path.trim_end_matches(".rs").replace('/', "::")
}

fn layer(module: &str) -> Option<usize> {
    let top = module.split("::").next()?;
    LAYERS.iter().position(|layer| layer.contains(&top))
}

/// What the file uses of this crate, as paths from its root: `crate::…`, and `super::…` as seen from the file. The
/// groups of `use crate::a::{b, c::D}` are spelled out.
fn uses(source: &Source) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in source.text.match_indices("crate::") {
        expand(&source.text[at + "crate::".len()..], "", &mut found);
    }
    let own = module(&source.path);
    for (at, _) in source.text.match_indices("super::") {
        if source.text[..at].ends_with("super::") {
            continue;
        }
        let (mut rest, mut parent) = (&source.text[at..], own.as_str());
        while let Some(after) = rest.strip_prefix("super::") {
            (rest, parent) = (after, parent.rsplit_once("::").map_or("", |(parent, _)| parent));
        }
        let prefix = if parent.is_empty() { String::new() } else { format!("{parent}::") };
        expand(rest, &prefix, &mut found);
    }
    found
}

/// Adds the paths that `text` begins with, each after `prefix`; returns what follows them.
fn expand<'a>(text: &'a str, prefix: &str, found: &mut BTreeSet<String>) -> &'a str {
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).unwrap_or(text.len());
    let path = format!("{prefix}{}", &text[..end]);
    let mut rest = &text[end..];
    if !rest.starts_with('{') {
        found.insert(path.trim_end_matches(':').to_owned());
        return rest;
    }
    loop {
        rest = expand(rest[1..].trim_start(), &path, found).trim_start();
        // `as name`, then a comma or the end of the group.
        rest = rest.trim_start_matches(|c: char| c != ',' && c != '}');
        if !rest.starts_with(',') {
            return rest.get(1..).unwrap_or_default();
        }
        if rest[1..].trim_start().starts_with('}') {
            return &rest[1..].trim_start()[1..];
        }
    }
}

#[test]
fn groups_are_spelled_out() {
    let text = "use crate::{a::{b, c::D as E}, f};\nuse crate::g::{self, H,\n};\ncrate::i::j()".to_owned();
    let found = uses(&Source { path: String::new(), text });
    let found: Vec<&str> = found.iter().map(String::as_str).collect();
    assert_eq!(found, ["a::b", "a::c::D", "f", "g::H", "g::self", "i::j"]);
    let text = "use super::k;\nsuper::super::l::m()".to_owned();
    let found = uses(&Source { path: "x/y/z.rs".to_owned(), text });
    assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), ["x::l::m", "x::y::k"]);
}

#[test]
fn a_file_uses_only_lower_layers() {
    let mut seen = BTreeSet::new();
    for source in sources() {
        let Some(own) = layer(&module(&source.path)) else {
            assert!(["lib.rs", "main.rs"].contains(&source.path.as_str()), "{} stands in no layer", source.path);
            continue;
        };
        seen.insert(own);
        for used in uses(&source) {
            let other = layer(&used).unwrap_or_else(|| panic!("{}: crate::{used} stands in no layer", source.path));
            assert!(other <= own, "{} (layer {own}) uses crate::{used} (layer {other})", source.path);
        }
    }
    assert_eq!(seen.len(), LAYERS.len(), "every layer has files");
}

/// Within a layer modules use each other one way only. (The files below one module belong together.)
#[test]
fn modules_do_not_use_each_other_in_a_circle() {
    let top = |path: &str| path.split("::").next().unwrap_or_default().to_owned();
    let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in sources() {
        let own = top(&module(&source.path));
        let used = uses(&source).into_iter().map(|used| top(&used)).filter(|used| *used != own);
        edges.entry(own.clone()).or_default().extend(used);
    }
    no_circle(&edges);
}

fn no_circle(edges: &BTreeMap<String, BTreeSet<String>>) {
    for start in edges.keys() {
        let mut reached = BTreeSet::new();
        let mut todo: Vec<&String> = edges[start].iter().collect();
        while let Some(next) = todo.pop() {
            assert_ne!(next, start, "crate::{start} uses itself by way of others: {reached:?}");
            if reached.insert(next) {
                todo.extend(edges.get(next).into_iter().flatten());
            }
        }
    }
}

/// `broker/session/wire.rs` belongs to `session`, and so does `broker/session.rs`; `broker.rs` to none.
fn part(module: &str) -> Option<&str> {
    module.strip_prefix("broker::")?.split("::").next()
}

#[test]
fn parts_of_the_broker_use_only_lower_ones_and_no_circle() {
    let layer = |name: &str| BROKER.iter().position(|layer| layer.contains(&name));
    let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in sources() {
        let module = module(&source.path);
        let Some(own) = part(&module) else { continue };
        let own_layer = layer(own).unwrap_or_else(|| panic!("{} stands in no layer of the broker", source.path));
        for used in uses(&source) {
            let Some(other) = part(&used).filter(|other| *other != own && layer(other).is_some()) else { continue };
            let other_layer = layer(other);
            assert!(
                other_layer <= Some(own_layer),
                "{} ({own_layer}) uses broker::{other} ({other_layer:?})",
                source.path
            );
            edges.entry(own.to_owned()).or_default().insert(other.to_owned());
        }
    }
    assert_eq!(edges.get("session").map(|used| used.contains("bus")), Some(true), "the files were found");
    no_circle(&edges);
}

#[test]
fn only_one_file_names_each_foreign_engine() {
    let sources = sources();
    for (name, allowed) in ONLY_IN {
        let naming: Vec<&str> =
            sources.iter().filter(|source| names(&source.text, name)).map(|source| source.path.as_str()).collect();
        assert!(!naming.is_empty(), "nobody names {name}");
        for path in naming {
            assert!(allowed.iter().any(|allowed| path.starts_with(allowed)), "{path} names {name}");
        }
    }
}

/// Whether the crate is used: `name::` or `use name`, not as the end of a longer word.
fn names(text: &str, name: &str) -> bool {
    text.match_indices(name).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = &text[at + name.len()..];
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '"')
            && (after.starts_with("::") || after.starts_with(';'))
    })
}
