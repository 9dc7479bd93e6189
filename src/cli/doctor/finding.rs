//! What the doctor says: findings, as text and as JSON.

use std::fmt::Write as _;

use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It does not work so.
    Problem,
    /// It works, but probably not as meant, or not for long.
    Warning,
    /// It is well, or nothing is known against it.
    Fine,
}

/// One thing that was looked at. Its fields are the keys of the JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is about: `device arduino`, `broker`, `clock`.
    pub subject: String,
    /// What is so, in a sentence.
    pub what: String,
    /// Why it matters; may be empty, and may have several lines.
    pub why: String,
    /// What to do, a command or a line of configuration each.
    pub fix: Vec<String>,
}

impl Finding {
    /// Something that does not work.
    pub fn problem(subject: &str, what: impl Into<String>) -> Finding {
        Finding::new(Severity::Problem, subject, what)
    }

    /// Something doubtful.
    pub fn warning(subject: &str, what: impl Into<String>) -> Finding {
        Finding::new(Severity::Warning, subject, what)
    }

    /// Something that is well.
    pub fn fine(subject: &str, what: impl Into<String>) -> Finding {
        Finding::new(Severity::Fine, subject, what)
    }

    fn new(severity: Severity, subject: &str, what: impl Into<String>) -> Finding {
        Finding { severity, subject: subject.to_owned(), what: what.into(), why: String::new(), fix: Vec::new() }
    }

    /// Says why it matters.
    pub fn why(mut self, why: impl Into<String>) -> Finding {
        self.why = why.into();
        self
    }

    /// Says what to do; several times for several steps. The same twice is one.
    pub fn fix(mut self, fix: impl Into<String>) -> Finding {
        let fix = fix.into();
        if !self.fix.contains(&fix) {
            self.fix.push(fix);
        }
        self
    }
}

/// Everything, the worst last, where a terminal shows it; a line at the end sums up.
pub fn text(findings: &[Finding]) -> String {
    let mut text = String::new();
    let mut sorted: Vec<&Finding> = findings.iter().collect();
    sorted.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    for finding in sorted {
        let label = match finding.severity {
            Severity::Problem => "problem",
            Severity::Warning => "warning",
            Severity::Fine => "ok",
        };
        if finding.severity != Severity::Fine && !text.is_empty() {
            text.push('\n');
        }
        let _ = writeln!(text, "{label}: {}: {}", finding.subject, finding.what);
        indent(&mut text, "  ", &finding.why);
        for fix in &finding.fix {
            indent(&mut text, "  → ", fix);
        }
    }
    let _ = writeln!(text, "\n{}", summary(findings));
    text
}

/// Adds the lines, those after the first below its text; empty ones stay empty.
fn indent(text: &mut String, lead: &str, lines: &str) {
    let width = lead.chars().count();
    for (at, line) in lines.trim_end().lines().enumerate() {
        let lead = if at == 0 { lead.to_owned() } else { " ".repeat(width) };
        let _ = writeln!(text, "{}", format!("{lead}{line}").trim_end());
    }
}

/// `1 problem, 2 warnings`
fn summary(findings: &[Finding]) -> String {
    let count = |severity, name: &str| {
        let number = findings.iter().filter(|finding| finding.severity == severity).count();
        (number > 0).then(|| format!("{number} {name}{}", if number == 1 { "" } else { "s" }))
    };
    let parts = [count(Severity::Problem, "problem"), count(Severity::Warning, "warning")];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() { "nothing is wrong".to_owned() } else { parts.join(", ") }
}

/// `{"problems": N, "warnings": N, "findings": [...]}`, the findings in the order in which they were made.
pub fn json(findings: &[Finding]) -> String {
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let value = serde_json::json!({
        "problems": count(Severity::Problem),
        "warnings": count(Severity::Warning),
        "findings": findings,
    });
    format!("{value:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings() -> Vec<Finding> {
        vec![
            Finding::problem("device a", "/dev/ttyUSB0 is missing").why("It is not plugged in.").fix("gatepost ports"),
            Finding::fine("clock", "it is right"),
            Finding::warning("broker", "this machine only").fix("[broker]\n\nlistener = []"),
        ]
    }

    #[test]
    fn the_text_ends_with_the_worst() {
        assert_eq!(
            text(&findings()),
            "\
ok: clock: it is right

warning: broker: this machine only
  → [broker]

    listener = []

problem: device a: /dev/ttyUSB0 is missing
  It is not plugged in.
  → gatepost ports

1 problem, 1 warning
"
        );
        assert_eq!(text(&[]), "\nnothing is wrong\n");
    }

    #[test]
    fn the_json_counts() {
        let value: serde_json::Value = serde_json::from_str(&json(&findings())).unwrap();
        assert_eq!(value["problems"], 1);
        assert_eq!(value["warnings"], 1);
        assert_eq!(value["findings"][2]["severity"], "warning");
        assert_eq!(value["findings"][0]["fix"], serde_json::json!(["gatepost ports"]));
    }
}
