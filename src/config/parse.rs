//! `parse` of a publish rule: fields from a frame.

use super::error::Fault;
use super::raw::Kind;
use super::reader::{Value, pick};

/// `parse`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parse {
    /// Fields come from the pattern's named groups only.
    None,
    /// A JSON object's members (nested ones as `a.b`).
    Json,
    /// Comma-separated values in the order of `names`.
    Csv {
        /// Field names; an empty name skips a column.
        names: Vec<String>,
        /// One byte.
        separator: u8,
    },
    /// `key=value` pairs.
    KeyValue {
        /// Between key and value; not empty.
        assign: String,
        /// Between pairs; not empty.
        separator: String,
    },
}

impl Parse {
    pub(super) fn read(value: &Value<'_>) -> Option<Parse> {
        let Kind::Table(_) = value.raw.kind else {
            return value.parsed(|text| match text {
                "csv" => Err(Fault::new("`csv` needs names for its columns").hint("write { csv = [\"a\", \"b\"] }")),
                "key_value" => Err(Fault::new("`key_value` needs its separator")
                    .hint("write { key_value = \"=\", separator = \" \" }")),
                text => pick(text, &[("none", Parse::None), ("json", Parse::Json)])
                    .map_err(|fault| fault.hint("write \"none\", \"json\", { csv = […] } or { key_value = \"=\" }")),
            });
        };
        let mut table = value.table()?;
        let (csv, key_value, separator) = (table.get("csv"), table.get("key_value"), table.get("separator"));
        table.finish();
        match (csv, key_value) {
            (Some(csv), None) => {
                let names = column_names(&csv);
                let separator = separator.map_or(Some(b','), |v| v.parsed(one_byte));
                Some(Parse::Csv { names: names?, separator: separator? })
            }
            (None, Some(key_value)) => {
                let assign = key_value.parsed(some_text);
                let separator = separator.map_or(Some(" ".to_owned()), |v| v.parsed(some_text));
                let (assign, separator) = (assign?, separator?);
                if assign == separator {
                    return value.fail(Fault::new("`key_value` and `separator` cannot be the same"));
                }
                Some(Parse::KeyValue { assign, separator })
            }
            _ => value.fail(Fault::new("expected exactly one of `csv` and `key_value`")),
        }
    }
}

fn column_names(value: &Value<'_>) -> Option<Vec<String>> {
    let mut names: Vec<String> = Vec::new();
    let mut good = true;
    for value in value.array()? {
        let name = value.parsed(|text| match text {
            text if !text.is_empty() && names.iter().any(|name| name == text) => {
                Err(Fault::new(format!("the column `{text}` is named twice")))
            }
            text => Ok(text.to_owned()),
        });
        good &= name.is_some();
        names.extend(name);
    }
    if good && names.iter().all(String::is_empty) {
        return value.fail(Fault::new("no column has a name"));
    }
    good.then_some(names)
}

fn one_byte(text: &str) -> Result<u8, Fault> {
    match text.as_bytes() {
        [byte] if !matches!(byte, b'"' | b'\r' | b'\n') => Ok(*byte),
        _ => Err(Fault::new("the separator must be one ASCII character, and no quote or line end")),
    }
}

fn some_text(text: &str) -> Result<String, Fault> {
    if text.is_empty() { Err(Fault::new("must not be empty")) } else { Ok(text.to_owned()) }
}
