//! Bytes on the command line and on the terminal.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::net::SocketAddr;

use bytes::Bytes;

/// The bytes that `text` stands for: `\n`, `\r`, `\t`, `\0`, `\\` and `\xHH`; any other backslash stands for itself, so
/// that most JSON needs no doubling.
pub(super) fn decode(text: &str) -> Bytes {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let (byte, length) = match (byte, after) {
            (b'\\', [b'n', ..]) => (b'\n', 2),
            (b'\\', [b'r', ..]) => (b'\r', 2),
            (b'\\', [b't', ..]) => (b'\t', 2),
            (b'\\', [b'0', ..]) => (0, 2),
            (b'\\', [b'\\', ..]) => (b'\\', 2),
            (b'\\', [b'x', high, low, ..]) => match hex_byte(*high, *low) {
                Some(byte) => (byte, 4),
                None => (b'\\', 1),
            },
            _ => (byte, 1),
        };
        bytes.push(byte);
        rest = &rest[length..];
    }
    bytes.into()
}

fn hex_byte(high: u8, low: u8) -> Option<u8> {
    let digit = |digit: u8| char::from(digit).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

/// `bytes` as [`decode`] would read them: text as it is, everything else escaped.
pub(super) fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\n' => text.push_str("\\n"),
                '\r' => text.push_str("\\r"),
                '\t' => text.push_str("\\t"),
                '\\' => text.push_str("\\\\"),
                c if is_unseen(c) => push_hex(&mut text, c.encode_utf8(&mut [0; 4]).as_bytes()),
                c => text.push(c),
            }
        }
        push_hex(&mut text, chunk.invalid());
    }
    text
}

/// [`encode`] for what is text already.
pub(super) fn text(text: &str) -> String {
    encode(text.as_bytes())
}

/// What a terminal shows of `bytes` that are meant for one, such as a payload of several lines: line ends and tabs stay,
/// all else that it would obey is escaped, and what is no text. Unlike [`encode`] it leaves a backslash alone.
pub(super) fn visible(bytes: &[u8]) -> Cow<'_, [u8]> {
    let is_shown = |c: char| !is_unseen(c) || matches!(c, '\n' | '\t');
    if std::str::from_utf8(bytes).is_ok_and(|text| text.chars().all(is_shown)) {
        return bytes.into();
    }
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                c if is_shown(c) => text.push(c),
                c => push_hex(&mut text, c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        push_hex(&mut text, chunk.invalid());
    }
    text.into_bytes().into()
}

fn push_hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(text, "\\x{byte:02x}");
    }
}

/// Whether a terminal obeys it instead of showing it: control characters, and those that turn the order of a line.
fn is_unseen(c: char) -> bool {
    let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{061c}');
    c.is_control() || turns || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}')
}

/// `4f 4e 0a`
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

/// The text of `bytes` if a terminal can show it as it is.
pub(super) fn plain(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok().filter(|text| !text.chars().any(is_unseen))
}

/// A socket address, or a peer's name as it stands in topics (`192.168.1.7_51234`).
pub(super) fn peer(text: &str) -> Result<SocketAddr, String> {
    let named = || {
        let (address, port) = text.rsplit_once('_')?;
        Some(SocketAddr::new(address.parse().ok()?, port.parse().ok()?))
    };
    let peer = text.parse().ok().or_else(named);
    peer.ok_or_else(|| "expected an address and a port, like 192.168.1.7:51234 or [fe80::1]:51234".to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn escapes_are_read_and_others_left() {
        assert_eq!(decode(r"\x02a\r\n\t\0\\\xfF"), &b"\x02a\r\n\t\0\\\xff"[..]);
        assert_eq!(decode(r#"{"a":"\"é\q"}\x0g\x1\"#), r#"{"a":"\"é\q"}\x0g\x1\"#);
    }

    #[test]
    fn bytes_are_shown_in_escapes_and_in_hex() {
        assert_eq!(encode("é\u{7f}\u{80}\n".as_bytes()), r"é\x7f\xc2\x80\n");
        assert_eq!(encode(b"\xff\\x"), r"\xff\\x");
        assert_eq!(encode("a\u{202e}b\u{2028}".as_bytes()), r"a\xe2\x80\xaeb\xe2\x80\xa8");
        assert_eq!(hex(b"ON\n"), "4f 4e 0a");
        assert_eq!((plain("é\\".as_bytes()), plain(b"a\n"), plain(b"\xff")), (Some("é\\"), None, None));
    }

    #[test]
    fn a_terminal_shows_lines_and_tabs_and_obeys_nothing_else() {
        for plain in [&b""[..], b"a\tb\n", b"{\"a\":\"\\n\"}", "é\u{a0}".as_bytes()] {
            assert_eq!(visible(plain), plain);
        }
        assert_eq!(
            visible(b"\x1b[2J\r\n\x07\x7f"),
            &br"\x1b[2J\x0d~\x07\x7f".map(|b| if b == b'~' { b'\n' } else { b })[..]
        );
        assert_eq!(visible("\u{9b}2J\u{202e}".as_bytes()), &br"\xc2\x9b2J\xe2\x80\xae"[..]);
        assert_eq!(visible(b"a\x9bb"), &br"a\x9bb"[..]);
    }

    #[test]
    fn peers_are_read_in_both_spellings() {
        for text in ["192.168.1.7:5", "192.168.1.7_5"] {
            assert_eq!(peer(text).unwrap().to_string(), "192.168.1.7:5");
        }
        assert_eq!(peer("fe80::1_5"), peer("[fe80::1]:5"));
        assert!(peer("192.168.1.7").is_err());
    }

    proptest! {
        #[test]
        fn what_is_shown_can_be_typed(bytes: Vec<u8>) {
            prop_assert_eq!(decode(&encode(&bytes)), bytes);
        }
    }
}
