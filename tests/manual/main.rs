//! The man pages and the completions in `packaging/` are those of the program.
//!
//! The commands' pages and the completions are made from the definitions for clap. After a change that is meant,
//! `GATEPOST_BLESS=1 cargo test --test manual` writes them anew: read the diff. gatepost(1) and gatepost.toml(5) are
//! written by hand; here is tested that they leave nothing out.

mod keys;
mod page;

use std::fs;
use std::path::Path;
use std::process::Command as Program;

use clap::Command;
use clap_complete::Shell;
use gatepost::cli;

const PAGES: &str = "packaging/man";
const COMPLETIONS: &str = "packaging/completions";

/// The file is as it was `made`; blessed, it becomes so.
fn compare(file: &Path, made: &str) -> bool {
    let same = fs::read_to_string(file).is_ok_and(|found| found == made);
    let bless = !same && std::env::var_os("GATEPOST_BLESS").is_some();
    if bless {
        fs::write(file, made).unwrap();
    }
    same || bless
}

fn files_in(folder: &str) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn command() -> Command {
    let mut command = cli::command();
    command.build();
    command
}

/// The pages that the reader of a command's page may want next.
fn see_also(name: &str) -> Vec<String> {
    let own: &[&str] = match name {
        "acquire" => &["gatepost-release"],
        "check" | "reload" => &["gatepost-check", "gatepost-reload", "gatepost-route", "gatepost-doctor"],
        "demo" => &["gatepost-sub", "gatepost-pub"],
        "doctor" => &["gatepost-check", "gatepost-ports", "gatepost-status"],
        "monitor" => &["gatepost-route", "gatepost-send", "gatepost-status"],
        "ports" => &["gatepost-doctor"],
        "pub" => &["gatepost-sub"],
        "release" => &["gatepost-acquire"],
        "route" => &["gatepost-check", "gatepost-monitor"],
        "run" => &["gatepost-check", "gatepost-reload", "gatepost-status"],
        "send" => &["gatepost-monitor"],
        "status" => &["gatepost-top", "gatepost-monitor"],
        "sub" => &["gatepost-pub"],
        "top" => &["gatepost-status"],
        _ => &[],
    };
    let foreign: &[&str] = match name {
        "pub" => &["mosquitto_pub(1)", "mqtt(7)"],
        "sub" => &["mosquitto_sub(1)", "mqtt(7)"],
        "passwd" => &["mosquitto_passwd(1)"],
        "run" => &["systemctl(1)"],
        _ => &[],
    };
    let mut pages = vec!["gatepost(1)".to_owned()];
    pages.extend(own.iter().filter(|page| **page != format!("gatepost-{name}")).map(|page| format!("{page}(1)")));
    pages.push("gatepost.toml(5)".to_owned());
    pages.extend(foreign.iter().map(ToString::to_string));
    pages
}

#[test]
fn each_command_has_the_page_of_its_help() {
    let command = command();
    let mut pages = vec!["gatepost.1".to_owned(), "gatepost.toml.5".to_owned()];
    let mut old = Vec::new();
    for sub in command.get_subcommands() {
        assert!(!sub.is_hide_set() && !sub.has_subcommands(), "{} has no page", sub.get_name());
        let name = format!("{}.1", sub.get_display_name().unwrap());
        if !compare(&Path::new(PAGES).join(&name), &page::render(sub, &see_also(sub.get_name()))) {
            old.push(name.clone());
        }
        pages.push(name);
    }
    pages.sort();
    assert_eq!(old, [""; 0], "not what --help says: bless them");
    assert_eq!(files_in(PAGES), pages);
}

#[test]
fn the_completions_are_those_of_the_options() {
    // The names under which the shells look for them.
    let shells = [(Shell::Bash, "gatepost"), (Shell::Fish, "gatepost.fish"), (Shell::Zsh, "_gatepost")];
    let mut old = Vec::new();
    for (shell, name) in shells {
        let mut made = Vec::new();
        clap_complete::generate(shell, &mut cli::command(), "gatepost", &mut made);
        if !compare(&Path::new(COMPLETIONS).join(name), &String::from_utf8(made).unwrap()) {
            old.push(name);
        }
    }
    assert_eq!(old, [""; 0], "not what the options are: bless them");
    assert_eq!(files_in(COMPLETIONS), ["_gatepost", "gatepost", "gatepost.fish"]);
}

/// What bash offers after `words`, the last of which is being typed.
fn offered(words: &[&str]) -> Vec<String> {
    let line: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    let script = format!(
        "source {COMPLETIONS}/gatepost; COMP_WORDS=({}); COMP_CWORD={}; \
         _gatepost gatepost '{}' '{}'; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        line.join(" "),
        words.len() - 1,
        words[words.len() - 1],
        words[words.len() - 2],
    );
    let output = Program::new("bash").args(["--norc", "-c", &script]).output().unwrap();
    let mut words: Vec<String> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    words.sort();
    words
}

#[test]
fn bash_completes_commands_options_and_files() {
    let commands = offered(&["gatepost", ""]);
    for sub in command().get_subcommands() {
        assert!(commands.contains(&sub.get_name().to_owned()), "{commands:?}");
    }
    assert_eq!(offered(&["gatepost", "re"]), ["release", "reload"]);
    assert_eq!(offered(&["gatepost", "monitor", "--h"]), ["--help", "--hex"]);
    assert_eq!(offered(&["gatepost", "check", "-c", "Carg"]), ["Cargo.lock", "Cargo.toml"]);
}

#[test]
fn the_overview_names_every_command() {
    let text = fs::read_to_string(format!("{PAGES}/gatepost.1")).unwrap();
    for sub in command().get_subcommands() {
        let reference = page::reference(&format!("{}(1)", sub.get_display_name().unwrap()));
        assert!(text.contains(&reference), "gatepost.1 has no {reference}");
        let name = sub.get_name();
        let section = text.split(".SH COMMANDS").nth(1).unwrap().split("\n.SH").next().unwrap();
        let entry = section
            .lines()
            .any(|line| line.starts_with(".B") && line.replace([',', '"'], " ").split(' ').any(|word| word == name));
        assert!(entry, "gatepost.1 does not explain {name}");
    }
}
