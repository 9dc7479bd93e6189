//! A command's man page, from its definition for clap and the paragraphs of its `--help`.

use std::fmt::Write as _;

use clap::{Arg, Command};

/// A synopsis with more options than this says `[OPTION]...`.
const MOST_IN_SYNOPSIS: usize = 6;

/// The page of `command`, which is built; `see_also` are pages such as `mosquitto_sub(1)`.
pub fn render(command: &Command, see_also: &[String]) -> String {
    let page = command.get_display_name().unwrap();
    let about = command.get_about().unwrap().to_string();
    let help = Help::parse(&command.get_after_help().unwrap().to_string());
    let mut out = format!(
        ".\\\" Made from the program's --help by tests/manual; not to be edited.\n\
        .TH {} 1 \"\" gatepost \"User Commands\"\n.SH NAME\n",
        page.to_uppercase()
    );
    let name = about.trim_end_matches('.');
    let (first, rest) = name.split_at(1);
    writeln!(out, "{} \\- {}{}", escape(page), first.to_lowercase(), escape(rest)).unwrap();
    synopsis(&mut out, command);
    out += ".SH DESCRIPTION\n";
    match command.get_long_about() {
        Some(long) => long.to_string().split("\n\n").skip(1).for_each(|paragraph| prose(&mut out, paragraph)),
        None => prose(&mut out, &sentence(&about)),
    }
    help.description.iter().for_each(|paragraph| prose(&mut out, paragraph));
    arguments(&mut out, command);
    if !help.examples.is_empty() {
        writeln!(out, ".SH EXAMPLES\n.EX\n{}\n.EE", escape_lines(&help.examples)).unwrap();
    }
    exit_status(&mut out, &help.exit_codes);
    out += ".SH SEE ALSO\n";
    let pages: Vec<String> = see_also.iter().map(|page| reference(page)).collect();
    out + &pages.join(",\n") + "\n"
}

/// What stands below the options in `--help`.
struct Help {
    description: Vec<String>,
    examples: String,
    exit_codes: String,
}

impl Help {
    fn parse(text: &str) -> Help {
        let mut help = Help { description: Vec::new(), examples: String::new(), exit_codes: String::new() };
        for paragraph in text.split("\n\n") {
            if let Some(examples) = paragraph.strip_prefix("Examples:\n") {
                assert!(help.examples.is_empty(), "examples in two places:\n{text}");
                let lines = examples.lines().map(|line| line.strip_prefix("  ").expect("an indented example"));
                help.examples = lines.collect::<Vec<_>>().join("\n");
            } else if let Some(codes) = paragraph.strip_prefix("Exit codes: ") {
                help.exit_codes = codes.replace('\n', " ").trim_end_matches('.').to_owned();
            } else {
                help.description.push(paragraph.to_owned());
            }
        }
        assert!(!help.examples.is_empty() && !help.exit_codes.is_empty(), "no examples or no exit codes:\n{text}");
        help
    }
}

fn synopsis(out: &mut String, command: &Command) {
    let shown = || command.get_arguments().filter(|arg| !arg.is_hide_set() && !is_help(arg));
    let options: Vec<&Arg> = shown().filter(|arg| !arg.is_positional()).collect();
    let mut words = vec![bold(command.get_bin_name().unwrap())];
    if options.len() > MOST_IN_SYNOPSIS {
        words.push(format!("[{}]...", italic("OPTION")));
    } else {
        words.extend(options.iter().map(|option| format!("[{}]", flag(option, option.get_long().is_none()))));
    }
    for positional in shown().filter(|arg| arg.is_positional()) {
        let many = if positional.get_num_args().unwrap().max_values() > 1 { "..." } else { "" };
        words.push(italic(&value_name(positional)) + many);
    }
    writeln!(out, ".SH SYNOPSIS\n{}", words.join("\n")).unwrap();
}

fn arguments(out: &mut String, command: &Command) {
    let (positional, options): (Vec<&Arg>, Vec<&Arg>) =
        command.get_arguments().filter(|arg| !arg.is_hide_set()).partition(|arg| arg.is_positional());
    if !positional.is_empty() {
        *out += ".SH ARGUMENTS\n";
    }
    for arg in positional {
        writeln!(out, ".TP\n{}\n{}", italic(&value_name(arg)), inline(&explained(arg))).unwrap();
    }
    *out += ".SH OPTIONS\n";
    for arg in options {
        let flags: Vec<String> = [(arg.get_short().is_some(), true), (arg.get_long().is_some(), false)]
            .iter()
            .filter(|(there, _)| *there)
            .map(|(_, short)| flag(arg, *short))
            .collect();
        writeln!(out, ".TP\n{}\n{}", flags.join(", "), inline(&explained(arg))).unwrap();
    }
}

/// `-c FILE` or `--config FILE`.
fn flag(arg: &Arg, short: bool) -> String {
    let name = match (short, arg.get_short(), arg.get_long()) {
        (true, Some(short), _) => format!("-{short}"),
        (_, _, Some(long)) => format!("--{long}"),
        _ => panic!("{arg} has no name"),
    };
    let range = arg.get_num_args().unwrap();
    match (range.takes_values(), range.min_values()) {
        (false, _) => bold(&name),
        (true, 0) => format!("{} [{}]", bold(&name), italic(&value_name(arg))),
        (true, _) => format!("{} {}", bold(&name), italic(&value_name(arg))),
    }
}

/// The help as sentences; `[default: x]`, written or clap's own, becomes one of them.
fn explained(arg: &Arg) -> String {
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let (what, default) = match help.split_once(" [default: ") {
        Some((what, default)) => (what.to_owned(), Some(default.trim_end_matches(']').to_owned())),
        None => {
            let values: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
            let shown = arg.get_num_args().unwrap().takes_values() && !values.is_empty();
            (help, shown.then(|| values.join(" ")))
        }
    };
    match default {
        Some(default) => format!("{} Default: {}", sentence(&what), sentence(&default)),
        None => sentence(&what),
    }
}

/// `0 written; 1 not written; the broker's code if …`
fn exit_status(out: &mut String, codes: &str) {
    let mut entries: Vec<(String, String)> = Vec::new();
    for code in codes.split("; ") {
        entries.push(match code.split_once(' ') {
            Some((number, what)) if number.parse::<u8>().is_ok() => (number.to_owned(), sentence(&capital(what))),
            None => (code.to_owned(), "All went well.".to_owned()),
            Some(_) => ("other".to_owned(), sentence(&capital(code))),
        });
    }
    if entries.iter().all(|(code, _)| code != "2") {
        entries.push(("2".to_owned(), "The arguments are wrong.".to_owned()));
    }
    entries.sort_by_key(|(code, _)| code.parse().unwrap_or(u32::MAX));
    *out += ".SH EXIT STATUS\n";
    for (code, what) in entries {
        writeln!(out, ".TP\n{}\n{}", bold(&code), inline(&what)).unwrap();
    }
}

/// Lines that begin with two spaces are a term and, after more spaces, what it means; others are filled.
fn prose(out: &mut String, paragraph: &str) {
    let mut in_list = true; // so that the first line begins a paragraph
    for line in paragraph.lines() {
        if line.starts_with("   ") {
            writeln!(out, "{}", inline(line.trim())).unwrap();
        } else if let Some(entry) = line.strip_prefix("  ") {
            let (term, meaning) = entry.split_once("  ").expect("a term and its meaning");
            writeln!(out, ".TP\n{}\n{}", bold(term), inline(meaning.trim())).unwrap();
            in_list = true;
        } else {
            if in_list && !out.ends_with("DESCRIPTION\n") {
                *out += ".PP\n";
            }
            in_list = false;
            writeln!(out, "{}", inline(line)).unwrap();
        }
    }
}

fn is_help(arg: &Arg) -> bool {
    arg.get_long() == Some("help")
}

fn value_name(arg: &Arg) -> String {
    arg.get_value_names().expect("clap derives one").iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn sentence(text: &str) -> String {
    if text.ends_with(['.', '…']) { text.to_owned() } else { format!("{text}.") }
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// `gatepost.toml(5)`
pub fn reference(page: &str) -> String {
    let (name, section) = page.split_once('(').expect("a section in parentheses");
    format!(".BR {} ({section}", escape(name))
}

/// Text to be filled: what stands between backticks, and words that are options, become bold.
fn inline(text: &str) -> String {
    let mut out = String::new();
    for (index, part) in text.split('`').enumerate() {
        if index % 2 == 1 {
            out += &bold(part);
            continue;
        }
        let words = part.split(' ').map(|word| {
            let name = word.trim_end_matches([',', '.', ';', ':', ')']);
            let option = name.strip_prefix("--").or(name.strip_prefix('-'));
            match option {
                Some(rest) if rest.starts_with(char::is_alphabetic) => bold(name) + &escape(&word[name.len()..]),
                _ => escape(word),
            }
        });
        out += &words.collect::<Vec<_>>().join(" ");
    }
    escape_start(&out)
}

fn bold(text: &str) -> String {
    format!("\\fB{}\\fP", escape(text))
}

fn italic(text: &str) -> String {
    format!("\\fI{}\\fP", escape(text))
}

fn escape_lines(text: &str) -> String {
    text.lines().map(|line| escape_start(&escape(line))).collect::<Vec<_>>().join("\n")
}

/// A line that begins with a dot is no request.
fn escape_start(line: &str) -> String {
    if line.starts_with('.') { format!("\\&{line}") } else { line.to_owned() }
}

/// Signs that roff would take for its own, or print as the typographer's.
fn escape(text: &str) -> String {
    let mut out = String::new();
    for letter in text.chars() {
        match letter {
            '\\' => out += "\\e",
            '-' => out += "\\-",
            '\'' => out += "\\(aq",
            '`' => out += "\\(ga",
            '^' => out += "\\(ha",
            '~' => out += "\\(ti",
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roff_is_not_spoken_by_accident() {
        assert_eq!(inline(".5 `a-b`, --hex: \\x02 it's"), "\\&.5 \\fBa\\-b\\fP, \\fB\\-\\-hex\\fP: \\ex02 it\\(aqs");
    }
}
