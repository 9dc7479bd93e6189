//! Who may read and write which topics: mosquitto's ACL file.
//!
//! `topic` lines before the first `user` line are for anonymous clients, those behind it for that user; `pattern` lines
//! are for everybody, with `%c` and `%u` for the client's id and user name. What a client's `topic` lines do not decide,
//! the patterns do; in either, `deny` goes before the rest. What nothing allows is refused.

use std::collections::HashMap;
use std::sync::Arc;

use super::file::Fault;
use crate::log_limit::excerpt;
use crate::topic::TopicFilter;
pub use rights::Rights;
use rights::{Grant, RuleSet};

mod rights;

/// An ACL file.
#[derive(Debug, Default)]
pub struct Acl {
    anonymous: Arc<RuleSet>,
    users: HashMap<Box<str>, Arc<RuleSet>>,
    /// A valid filter each, `%c` and `%u` still in it.
    patterns: Vec<(TopicFilter, Grant)>,
}

impl Acl {
    /// Reads the lines of an ACL file. A line that begins with `#` is a comment.
    pub fn parse(text: &str) -> Result<Acl, Vec<Fault>> {
        let (mut anonymous, mut users) = (RuleSet::default(), HashMap::<Box<str>, RuleSet>::new());
        let (mut patterns, mut faults) = (Vec::new(), Vec::new());
        let mut user: Option<Box<str>> = None;
        for (index, line) in text.lines().enumerate() {
            match parse_line(line.trim()) {
                Ok(Line::Nothing) => {}
                Ok(Line::User(name)) => user = Some(name.into()),
                Ok(Line::Topic(filter, grant)) => {
                    let rules = match &user {
                        Some(name) => users.entry(name.clone()).or_default(),
                        None => &mut anonymous,
                    };
                    rules.add(filter, grant);
                }
                Ok(Line::Pattern(filter, grant)) => patterns.push((filter, grant)),
                Err(problem) => faults.push(Fault { line: index + 1, problem }),
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let users = users.into_iter().map(|(name, rules)| (name, Arc::new(rules))).collect();
        Ok(Acl { anonymous: Arc::new(anonymous), users, patterns })
    }

    /// What the client may do; `user` is `None` for an anonymous one.
    pub fn rights(&self, client_id: &str, user: Option<&str>) -> Rights {
        let own = match user {
            None => self.anonymous.clone(),
            Some(name) => self.users.get(name).cloned().unwrap_or_default(),
        };
        let mut patterns = RuleSet::default();
        // Such a name would be a wildcard in the filter, and open what belongs to others.
        let is_wild = |name: &str| name.contains(['+', '#']);
        if !is_wild(client_id) && !user.is_some_and(is_wild) {
            for (pattern, grant) in &self.patterns {
                // A filter that is too long with the names in it matches nothing that can be sent.
                if let Some(Ok(filter)) = fill(pattern.as_str(), client_id, user).map(TopicFilter::new) {
                    patterns.add(filter, *grant);
                }
            }
        } else if !self.patterns.is_empty() {
            let (client_id, user) = (excerpt(client_id), user.map(excerpt));
            tracing::warn!(client_id, user, "acl_file: no pattern is for a client with + or # in its id or user name");
        }
        Rights::new(own, patterns)
    }

    /// How many rules there are.
    pub fn len(&self) -> usize {
        let users: usize = self.users.values().map(|rules| rules.len()).sum();
        self.anonymous.len() + users + self.patterns.len()
    }

    /// Whether it allows nothing at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

enum Line<'a> {
    Nothing,
    User(&'a str),
    Topic(TopicFilter, Grant),
    Pattern(TopicFilter, Grant),
}

fn parse_line(line: &str) -> Result<Line<'_>, String> {
    if line.is_empty() || line.starts_with('#') {
        return Ok(Line::Nothing);
    }
    let (word, rest) = split_word(line);
    match word {
        "user" if rest.is_empty() => Err("`user` without a name".to_owned()),
        "user" => Ok(Line::User(rest)),
        "topic" => parse_rule(rest).map(|(filter, grant)| Line::Topic(filter, grant)),
        "pattern" => parse_rule(rest).map(|(filter, grant)| Line::Pattern(filter, grant)),
        _ => Err(format!("{word:?} begins no rule; hint: a line is `topic`, `user`, `pattern` or a # comment")),
    }
}

/// `[read|write|readwrite|deny] FILTER`; a filter with spaces needs the word.
fn parse_rule(rest: &str) -> Result<(TopicFilter, Grant), String> {
    const WORDS: [(&str, Grant); 4] =
        [("read", Grant::READ), ("write", Grant::WRITE), ("readwrite", Grant::READ_WRITE), ("deny", Grant::DENY)];
    let (first, filter) = split_word(rest);
    let word = WORDS.iter().find(|(word, _)| *word == first);
    let (filter, grant) = match (word, filter) {
        (_, "") if first.is_empty() => return Err("there is no topic".to_owned()),
        (Some((word, _)), "") => {
            let hint = format!("hint: for a topic of that name write `readwrite {word}`");
            return Err(format!("there is no topic behind `{word}`; {hint}"));
        }
        (Some((_, grant)), filter) => (filter, *grant),
        (None, "") => (first, Grant::READ_WRITE),
        (None, _) => {
            let hint = "hint: the right is read, write, readwrite or deny, and must be there if the topic has spaces";
            return Err(format!("{first:?} is no right; {hint}"));
        }
    };
    match TopicFilter::new(filter) {
        Ok(filter) => Ok((filter, grant)),
        Err(error) => Err(format!("{filter:?} is no topic filter: {error}")),
    }
}

fn split_word(text: &str) -> (&str, &str) {
    let (word, rest) = text.split_once([' ', '\t']).unwrap_or((text, ""));
    (word, rest.trim_start())
}

/// Puts the names in; `None`: there is no user name for `%u`.
fn fill(pattern: &str, client_id: &str, user: Option<&str>) -> Option<String> {
    let mut filled = String::with_capacity(pattern.len() + client_id.len());
    let mut rest = pattern;
    while let Some((before, after)) = rest.split_once('%') {
        filled.push_str(before);
        rest = if let Some(after) = after.strip_prefix('c') {
            filled.push_str(client_id);
            after
        } else if let Some(after) = after.strip_prefix('u') {
            filled.push_str(user?);
            after
        } else {
            filled.push('%');
            after
        };
    }
    filled.push_str(rest);
    Some(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(text: &str) -> Acl {
        Acl::parse(text).unwrap_or_else(|faults| panic!("{faults:?}"))
    }

    const EXAMPLE: &str = "\
# for anonymous clients
topic read $SYS/#
topic readwrite topic/global/#
topic deny      topic/global/except

user ann
topic readwrite topic/ann/#
topic deny topic/ann/except
topic write a topic with spaces
user bob smith
topic plain
pattern readwrite pattern/%u/#
pattern deny pattern/%u/except
pattern read id/%c/x
pattern write 100%/%
";

    #[test]
    fn each_client_has_the_rules_that_mosquitto_gives_it() {
        let acl = acl(EXAMPLE);
        assert_eq!((acl.len(), acl.is_empty()), (11, false));
        // Client id, user name, topic, may read, may write.
        let table = [
            ("c", None, "topic/global", true, true),
            ("c", None, "topic/global/except", false, false),
            ("c", None, "topic/ann/x", false, false),
            ("c", None, "$SYS/broker/uptime", true, false),
            ("c", None, "pattern/ann", false, false),
            ("c", None, "id/c/x", true, false),
            ("c", None, "id/d/x", false, false),
            ("c", Some("ann"), "topic/global", false, false),
            ("c", Some("ann"), "$SYS/broker/uptime", false, false),
            ("c", Some("ann"), "topic/ann", true, true),
            ("c", Some("ann"), "topic/ann/except", false, false),
            ("c", Some("ann"), "a topic with spaces", false, true),
            ("c", Some("ann"), "pattern/ann/x/y", true, true),
            ("c", Some("ann"), "pattern/ann/except", false, false),
            ("c", Some("ann"), "pattern/bob", false, false),
            ("c", Some("bob smith"), "plain", true, true),
            ("c", Some("cid"), "pattern/cid/x", true, true),
            ("c", Some("cid"), "100%/%", false, true),
            ("%u", Some("x"), "id/%u/x", true, false),
            ("%u", Some("x"), "id/x/x", false, false),
        ];
        for (id, user, topic, read, write) in table {
            let rights = acl.rights(id, user);
            assert_eq!((rights.may_read(topic), rights.may_write(topic)), (read, write), "{id} {user:?} {topic}");
        }
    }

    #[test]
    fn a_name_with_wildcards_opens_nothing() {
        let acl = acl("topic open\nuser a+\ntopic mine\npattern x/%c/#\npattern y/%u\npattern z");
        for (id, user) in [("+", None), ("#", None), ("a#", Some("u")), ("c", Some("+")), ("c", Some("a/#"))] {
            let rights = acl.rights(id, user);
            for topic in ["x/a", "x/+", "y/a", "y/+", "z"] {
                assert!(!rights.may_read(topic) && !rights.may_write(topic), "{id} {user:?} {topic}");
            }
        }
        assert!(acl.rights("+", None).may_read("open") && acl.rights("c", Some("a+")).may_read("mine"));
    }

    #[test]
    fn a_topic_rule_decides_before_a_pattern() {
        let acl = acl("topic read a/x\ntopic deny b/#\npattern deny a/#\npattern readwrite b/x\npattern c/x");
        let rights = acl.rights("c", None);
        assert!(rights.may_read("a/x") && !rights.may_write("a/x"));
        assert!(!rights.may_read("b/x") && rights.may_read("c/x"));
    }

    #[test]
    fn an_empty_file_allows_nothing() {
        let acl = acl("#comment\n\n");
        assert!(acl.is_empty() && !acl.rights("c", None).may_read("a") && !acl.rights("c", Some("u")).may_write("a"));
    }

    #[test]
    fn every_wrong_line_is_named() {
        let text =
            "topic\ntopic deny\ntopic reed a\nuser\npattern a/#/b\ntopics a\n  topic read ok  \nread a\ntopic write +a";
        let faults = Acl::parse(text).unwrap_err();
        let expected = [
            (1, "no topic"),
            (2, "readwrite deny"),
            (3, "\"reed\" is no right"),
            (4, "without a name"),
            (5, "\"a/#/b\" is no topic filter"),
            (6, "\"topics\" begins no rule"),
            (8, "\"read\" begins no rule"),
            (9, "\"+a\" is no topic filter"),
        ];
        assert_eq!(faults.len(), expected.len(), "{faults:?}");
        for (fault, (line, part)) in faults.iter().zip(expected) {
            assert!(fault.line == line && fault.problem.contains(part), "{fault}");
        }
    }

    #[test]
    fn a_name_too_long_for_a_topic_matches_nothing() {
        let rights = acl("pattern %u/#").rights("c", Some(&"x".repeat(65_535)));
        assert!(!rights.may_read("x"));
    }
}
