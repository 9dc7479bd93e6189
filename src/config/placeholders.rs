//! Which placeholders the templates of a publish rule can have.

use std::collections::BTreeSet;

use super::error::{Fault, nearest};
use super::parse::Parse;
use crate::template::{Piece, Template};
use crate::topic::{TopicName, is_closed_to_devices};

/// What a rule may name.
#[derive(Clone, Copy)]
pub(super) struct Scope<'a> {
    pub(super) gateway: &'a str,
    /// Root of the gateway's own topics.
    pub(super) root: &'a TopicName,
    pub(super) device: &'a str,
    pub(super) peer: Peer,
}

/// Whether a device has peers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    /// No address at all.
    None,
    /// One, that of the far end.
    One,
    /// Each connection its own.
    Many,
}

/// Which fields a rule can have.
pub(super) enum Fields {
    /// Named groups and columns.
    Known(BTreeSet<String>),
    /// Whatever the frame brings.
    Any,
}

impl Fields {
    pub(super) fn of(pattern: Option<&regex::bytes::Regex>, parse: Option<&Parse>) -> Fields {
        let mut names: BTreeSet<String> =
            pattern.iter().flat_map(|p| p.capture_names().flatten()).map(str::to_owned).collect();
        match parse {
            Some(Parse::Json | Parse::KeyValue { .. }) => return Fields::Any,
            Some(Parse::Csv { names: columns, .. }) => {
                names.extend(columns.iter().filter(|column| !column.is_empty()).cloned());
            }
            Some(Parse::None) | None => {}
        }
        Fields::Known(names)
    }

    pub(super) fn none(&self) -> bool {
        matches!(self, Fields::Known(names) if names.is_empty())
    }
}

/// A topic whose placeholders are known, and which is a topic name whatever they become. That it is one of the gateway's
/// own is refused here if that does not depend on the frame.
pub(super) fn check_topic(text: &str, scope: Scope<'_>, fields: &Fields) -> Result<Template, Fault> {
    let template = Template::parse(text);
    check_placeholders(&template, scope, fields)?;
    check_braces(text, &template)?;
    let stand_in = |piece: &Piece| match piece {
        Piece::Literal(literal) => literal.clone(),
        Piece::Placeholder { .. } => "x".to_owned(),
    };
    let topic: String = template.pieces().iter().map(stand_in).collect();
    if topic.starts_with('$') {
        let fault = Fault::new("topics that begin with $ belong to the broker").at(0..1);
        return Err(fault.hint("begin it with another character"));
    }
    TopicName::new(topic).map_err(|error| Fault::new(error.to_string()))?;
    let (start, is_whole) = known_start(&template, scope);
    if is_closed_to_devices(&start, scope.root) && (is_whole || start != scope.root.as_str()) {
        let fault =
            Fault::new(format!("the gateway's own topics lie below `{}`: no device publishes there", scope.root));
        return Err(fault.hint("choose another topic, or another root for the gateway's with `[gateway] topic`"));
    }
    Ok(template)
}

/// What the topic begins with whatever the frame is, and whether that is all of it.
fn known_start(template: &Template, scope: Scope<'_>) -> (String, bool) {
    let mut start = String::new();
    for piece in template.pieces() {
        match piece {
            Piece::Literal(literal) => start.push_str(literal),
            Piece::Placeholder { name, .. } if name == "gateway" => start.push_str(scope.gateway),
            Piece::Placeholder { name, .. } if name == "device" => start.push_str(scope.device),
            Piece::Placeholder { .. } => return (start, false),
        }
    }
    (start, true)
}

/// In a topic a `{` that begins no placeholder is a slip, unless it is doubled.
pub(super) fn check_braces(text: &str, template: &Template) -> Result<(), Fault> {
    let literal = |piece: &Piece| match piece {
        Piece::Literal(literal) => literal.matches('{').count(),
        Piece::Placeholder { .. } => 0,
    };
    let open: usize = template.pieces().iter().map(literal).sum();
    if open > text.matches("{{").count() {
        let hint = "a placeholder is a name in braces, {name}; write {{ for a brace";
        return Err(Fault::new("`{` begins no placeholder").hint(hint));
    }
    Ok(())
}

pub(super) fn check_placeholders(template: &Template, scope: Scope<'_>, fields: &Fields) -> Result<(), Fault> {
    for (name, argument) in template.placeholders() {
        if let Some(argument) = argument {
            let fault = Fault::new(format!("`{{{name}}}` takes no argument"));
            return Err(locate(fault, template, &format!("{{{name}:{argument}}}")));
        }
        check_placeholder(name, scope, fields).map_err(|fault| locate(fault, template, &format!("{{{name}}}")))?;
    }
    Ok(())
}

fn check_placeholder(name: &str, scope: Scope<'_>, fields: &Fields) -> Result<(), Fault> {
    let own: &[&str] =
        if scope.peer == Peer::None { &["gateway", "device"] } else { &["gateway", "device", "peer", "peer_ip"] };
    let known = own.contains(&name)
        || match fields {
            Fields::Any => !matches!(name, "peer" | "peer_ip"),
            Fields::Known(names) => names.contains(name),
        };
    if known {
        return Ok(());
    }
    if matches!(name, "peer" | "peer_ip") {
        return Err(Fault::new(format!("`{{{name}}}` needs a peer: only tcp and tcp_server devices have one")));
    }
    let fault = Fault::new(format!("unknown placeholder `{{{name}}}`"));
    let names = match fields {
        Fields::Known(names) => names.iter().map(String::as_str).collect(),
        Fields::Any => Vec::new(),
    };
    let words = || own.iter().copied().chain(names.iter().copied());
    Err(match nearest(name, words()) {
        Some(near) => fault.hint(format!("did you mean `{{{near}}}`?")),
        None => {
            let words: Vec<String> = words().map(|word| format!("{{{word}}}")).collect();
            fault.hint(format!("known here: {}", words.join(", ")))
        }
    })
}

/// Marks `part` in the text of `template`.
pub(super) fn locate(fault: Fault, template: &Template, part: &str) -> Fault {
    match template.source().find(part) {
        Some(start) => fault.at(start..start + part.len()),
        None => fault,
    }
}
