//! Text with `{placeholders}`, parsed once and rendered often.

use std::fmt;

/// A parsed template.
///
/// `{name}` and `{name:argument}` are placeholders; a name begins with a letter or `_` and goes on with
/// letters, digits, `_`, `-` and `.`. `{{` is a literal `{`. Any other brace is plain text, so a template
/// may be JSON: `{"t":{temp}}`.
#[derive(Clone, PartialEq, Eq)]
pub struct Template {
    source: String,
    pieces: Vec<Piece>,
}

/// One piece of a [`Template`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Text that stands for itself.
    Literal(String),
    /// `{name}` or `{name:argument}`.
    Placeholder {
        /// What stands before the colon.
        name: String,
        /// What stands after the colon.
        argument: Option<String>,
    },
}

impl Template {
    /// Parses `source`; every text is a template.
    pub fn parse(source: &str) -> Template {
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut rest = source;
        while let Some(brace) = rest.find('{') {
            literal.push_str(&rest[..brace]);
            let after = &rest[brace + 1..];
            if let Some(stripped) = after.strip_prefix('{') {
                literal.push('{');
                rest = stripped;
            } else if let Some((placeholder, remainder)) = placeholder(after) {
                if !literal.is_empty() {
                    pieces.push(Piece::Literal(std::mem::take(&mut literal)));
                }
                pieces.push(placeholder);
                rest = remainder;
            } else {
                literal.push('{');
                rest = after;
            }
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal));
        }
        Template { source: source.to_owned(), pieces }
    }

    /// The text it was parsed from.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The pieces in order.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Names and arguments of the placeholders, in order, repeated ones repeated.
    pub fn placeholders(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Literal(_) => None,
            Piece::Placeholder { name, argument } => Some((name.as_str(), argument.as_deref())),
        })
    }
}

/// Splits `name}` or `name:argument}` off the front of what follows a brace.
fn placeholder(after: &str) -> Option<(Piece, &str)> {
    let close = after.find('}')?;
    let (inside, remainder) = (&after[..close], &after[close + 1..]);
    let (name, argument) = match inside.split_once(':') {
        Some((name, argument)) => (name, Some(argument.to_owned())),
        None => (inside, None),
    };
    let mut characters = name.chars();
    let starts_well = characters.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    let goes_on_well = characters.all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'));
    (starts_well && goes_on_well).then(|| (Piece::Placeholder { name: name.to_owned(), argument }, remainder))
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.source, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn literal(text: &str) -> Piece {
        Piece::Literal(text.to_owned())
    }

    fn named(name: &str, argument: Option<&str>) -> Piece {
        Piece::Placeholder { name: name.to_owned(), argument: argument.map(str::to_owned) }
    }

    #[test]
    fn placeholders_are_found() {
        let template = Template::parse("a/{device}/{topic:3}{json:/x/y}");
        let expected = [
            literal("a/"),
            named("device", None),
            literal("/"),
            named("topic", Some("3")),
            named("json", Some("/x/y")),
        ];
        assert_eq!(template.pieces(), expected);
    }

    #[test]
    fn json_is_plain_text() {
        let template = Template::parse(r#"{"t":{temp}}"#);
        assert_eq!(template.pieces(), [literal(r#"{"t":"#), named("temp", None), literal("}")]);
    }

    #[test]
    fn doubled_and_open_braces_are_literal() {
        assert_eq!(Template::parse("{{a} { {").pieces(), [literal("{a} { {")]);
        assert_eq!(Template::parse("").pieces(), []);
    }
}
