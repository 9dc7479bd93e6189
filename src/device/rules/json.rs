//! JSON read without losing how a number was written: values stay slices of the text they came in.

use std::fmt;

use serde::Deserializer as _;
use serde::de::{Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Whether `text` can stand in JSON as a number that a receiver can hold: JSON's syntax and a finite value.
/// `007`, `NaN`, `+1` and `1e400` are none.
pub(super) fn is_number(text: &[u8]) -> bool {
    let digits = |end: Option<&u8>| end.is_some_and(|b| !b.is_ascii_whitespace());
    digits(text.first()) && digits(text.last()) && serde_json::from_slice::<serde_json::Number>(text).is_ok()
}

/// Appends `bytes` to `out` as a JSON string; invalid UTF-8 becomes U+FFFD.
pub(super) fn push_string(out: &mut Vec<u8>, bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    serde_json::to_writer(out, &*text).expect("a Vec takes every byte and a str is always JSON");
}

/// The value that `json` holds, as text.
pub(super) fn parse(json: &[u8]) -> Result<&RawValue, serde_json::Error> {
    serde_json::from_slice(json)
}

/// The members of an object in order, equal names repeated.
pub(super) fn members(object: &RawValue) -> Result<Vec<(String, &RawValue)>, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(object.get());
    deserializer.deserialize_map(Members)
}

/// The text of a JSON string, `None` for any other value.
pub(super) fn string(value: &RawValue) -> Result<Option<String>, serde_json::Error> {
    if value.get().starts_with('"') { serde_json::from_str(value.get()).map(Some) } else { Ok(None) }
}

/// The value a JSON pointer (RFC 6901) leads to. Of members with equal names the last counts.
pub(super) fn resolve<'a>(document: &'a RawValue, pointer: &str) -> Result<Option<&'a RawValue>, serde_json::Error> {
    let Some(path) = pointer.strip_prefix('/') else {
        return Ok(pointer.is_empty().then_some(document));
    };
    let mut value = document;
    for token in path.split('/') {
        let next = match value.get().as_bytes().first() {
            Some(b'{') => {
                let name = token.replace("~1", "/").replace("~0", "~");
                members(value)?.into_iter().rev().find(|(member, _)| *member == name).map(|(_, value)| value)
            }
            Some(b'[') => {
                let elements: Vec<&RawValue> = serde_json::from_str(value.get())?;
                array_index(token).and_then(|index| elements.get(index).copied())
            }
            _ => None,
        };
        match next {
            Some(next) => value = next,
            None => return Ok(None),
        }
    }
    Ok(Some(value))
}

/// An array index of RFC 6901: decimal, no leading zeros.
fn array_index(token: &str) -> Option<usize> {
    let plain = token.bytes().all(|b| b.is_ascii_digit()) && (token == "0" || !token.starts_with('0'));
    if plain { token.parse().ok() } else { None }
}

/// Collects an object's members.
struct Members;

/// More members of one object than this are refused, so that a frame of nothing but members costs a bounded time.
pub(super) const MAX_MEMBERS: usize = 1024;

impl<'de> Visitor<'de> for Members {
    type Value = Vec<(String, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            if members.len() == MAX_MEMBERS {
                return Err(A::Error::custom(format_args!("more than {MAX_MEMBERS} members in one object")));
            }
            members.push(member);
        }
        Ok(members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_what_json_and_a_receiver_can_hold() {
        for number in ["0", "-0", "21.50", "-3", "1e3", "1E-400", "123456789012345678901234567890"] {
            assert!(is_number(number.as_bytes()), "{number}");
        }
        for text in
            ["", "-", "007", "+1", ".5", "5.", "NaN", "1e400", " 1", "1 ", "1\n", "0x10", "1,5", "\u{661}", "1 2"]
        {
            assert!(!is_number(text.as_bytes()), "{text:?}");
        }
    }

    #[test]
    fn pointers_follow_rfc_6901() {
        let document = br#"{"foo":["bar","baz"],"":0,"a/b":1,"m~n":8,"deep":{"x":[{"y":21.50}]},"twice":1,"twice":2}"#;
        let document = parse(document).unwrap();
        let table = [
            ("/foo", Some(r#"["bar","baz"]"#)),
            ("/foo/0", Some(r#""bar""#)),
            ("/foo/00", None),
            ("/foo/+1", None),
            ("/foo/-", None),
            ("/foo/2", None),
            ("/", Some("0")),
            ("/a~1b", Some("1")),
            ("/m~0n", Some("8")),
            ("/deep/x/0/y", Some("21.50")),
            ("/twice", Some("2")),
            ("/twice/x", None),
            ("nothing", None),
        ];
        for (pointer, expected) in table {
            assert_eq!(resolve(document, pointer).unwrap().map(RawValue::get), expected, "{pointer}");
        }
        assert_eq!(resolve(document, "").unwrap().unwrap().get(), document.get());
    }

    #[test]
    fn an_object_of_too_many_members_is_refused() {
        let object = |members: usize| format!("{{{}}}", vec![r#""a":1"#; members].join(","));
        assert_eq!(members(parse(object(MAX_MEMBERS).as_bytes()).unwrap()).unwrap().len(), MAX_MEMBERS);
        assert!(members(parse(object(MAX_MEMBERS + 1).as_bytes()).unwrap()).is_err());
    }
}
