//! What bytes from an unknown device tell: whether they are text, how its bytes are made up, where its frames end.

use crate::config::{Framing, FramingKind, Parity};
use crate::transport::probe::{Heard, PAUSE};

/// Fewer bytes say nothing.
const LEAST: usize = 8;
/// Share of bytes that may be odd, in percent, in what still counts as text.
const TOLERANCE: usize = 5;
const STX: u8 = 0x02;
const ETX: u8 = 0x03;

/// What the bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing came.
    Silent,
    /// Too little came to tell.
    Little,
    /// Text in 8 bits without parity.
    Text,
    /// Text in 7 bits; the eighth is this parity.
    SevenBits(Parity),
    /// Anything else: the wrong speed, or a binary protocol.
    Noise,
}

/// How frames end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// LF
    Lf,
    /// CR LF
    CrLf,
    /// CR
    Cr,
    /// ETX
    Etx,
    /// ETX, after STX at the beginning
    StxEtx,
    /// A silence.
    Gap,
}

/// What the bytes are.
pub fn kind(heard: &Heard) -> Kind {
    let bytes = &heard.bytes;
    let is_damaged = exceeds(heard.errors, bytes.len());
    if bytes.is_empty() {
        Kind::Silent
    } else if bytes.len() < LEAST {
        Kind::Little
    } else if !is_damaged && !exceeds(odd_bytes(bytes), bytes.len()) {
        Kind::Text
    } else {
        seven_bits(bytes).filter(|_| !is_damaged).map_or(Kind::Noise, Kind::SevenBits)
    }
}

/// The share of bytes that are no text, in percent.
pub fn odd_share(bytes: &[u8]) -> usize {
    odd_bytes(bytes) * 100 / bytes.len().max(1)
}

fn exceeds(part: usize, whole: usize) -> bool {
    part * 100 > whole * TOLERANCE
}

/// Bytes that text has not: control characters but for those between lines and frames, and what is not UTF-8.
fn odd_bytes(bytes: &[u8]) -> usize {
    let odd = |text: &str| text.chars().filter(|c| c.is_control() && !"\t\r\n\u{2}\u{3}".contains(*c)).count();
    bytes.utf8_chunks().map(|chunk| odd(chunk.valid()) + chunk.invalid().len()).sum()
}

/// The parity, if the eighth bit is one and the other seven are text.
fn seven_bits(bytes: &[u8]) -> Option<Parity> {
    let text: Vec<u8> = bytes.iter().map(|byte| byte & 0x7F).collect();
    if exceeds(odd_bytes(&text), bytes.len()) {
        return None;
    }
    // With even parity the number of ones in the whole byte is even.
    let uneven = bytes.iter().filter(|byte| byte.count_ones() % 2 == 1).count();
    let even = bytes.len() - uneven;
    if !exceeds(uneven, bytes.len()) {
        Some(Parity::Even)
    } else {
        (!exceeds(even, bytes.len())).then_some(Parity::Odd)
    }
}

/// How frames end, if that shows: what stands there at least twice, or at the end of all.
pub fn end(heard: &Heard, kind: Kind) -> Option<End> {
    let mask = if matches!(kind, Kind::SevenBits(_)) { 0x7F } else { 0xFF };
    let bytes: Vec<u8> = heard.bytes.iter().map(|byte| byte & mask).collect();
    let count = |wanted: u8| bytes.iter().filter(|byte| **byte == wanted).count();
    let crlf = bytes.windows(2).filter(|pair| pair == b"\r\n").count();
    let (lf, cr) = (count(b'\n'), count(b'\r') - crlf);
    let etx = count(ETX);
    let enough = |number: usize, byte: u8| number >= 2 || (number == 1 && bytes.last() == Some(&byte));
    if enough(etx, ETX) && count(STX) > 0 {
        // What follows ETX, a checksum or a line end, stands outside.
        return Some(End::StxEtx);
    }
    if etx > lf.max(cr) && enough(etx, ETX) {
        return Some(End::Etx);
    }
    if lf >= cr && enough(lf, b'\n') {
        return Some(if crlf * 2 > lf { End::CrLf } else { End::Lf });
    }
    if enough(cr, b'\r') {
        return Some(End::Cr);
    }
    (heard.pauses.len() >= 2).then_some(End::Gap)
}

impl End {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            End::Lf => "LF",
            End::CrLf => "CR LF",
            End::Cr => "CR",
            End::Etx => "ETX",
            End::StxEtx => "ETX and begins with STX",
            End::Gap => "a pause",
        }
    }

    /// The value of `framing` for it.
    pub fn framing(self) -> String {
        match self {
            End::Lf => r#""lines""#.to_owned(),
            End::CrLf => r#"{ type = "lines", terminator = "\r\n" }"#.to_owned(),
            End::Cr => r#"{ type = "delimited", delimiter = "\r" }"#.to_owned(),
            End::Etx => r#"{ type = "delimited", delimiter = "\u0003" }"#.to_owned(),
            End::StxEtx => r#"{ type = "start_end", start = "\u0002", end = "\u0003" }"#.to_owned(),
            End::Gap => format!("{{ type = \"idle_gap\", gap = \"{}ms\" }}", PAUSE.as_millis()),
        }
    }
}

/// Whether frames of this framing show in the bytes; where that cannot be told, they do.
pub fn fits(framing: &Framing, bytes: &[u8]) -> bool {
    let has = |mark: &[u8]| memchr::memmem::find(bytes, mark).is_some();
    match &framing.kind {
        FramingKind::Lines { terminator, .. } => has(terminator),
        FramingKind::Delimited { delimiter, .. } => has(delimiter),
        FramingKind::StartEnd { start, end } => has(start) && has(end),
        _ => true,
    }
}

/// Whether bytes that are no text are what this framing is for.
pub fn is_binary(framing: &Framing) -> bool {
    use FramingKind::{Chunks, Cobs, Fixed, IdleGap, LengthPrefixed, Slip};
    matches!(framing.kind, Fixed { .. } | LengthPrefixed { .. } | Slip | Cobs | IdleGap { .. } | Chunks)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn heard(bytes: &[u8]) -> Heard {
        Heard { bytes: bytes.to_vec(), ..Heard::default() }
    }

    fn end_of(bytes: &[u8]) -> Option<End> {
        end(&heard(bytes), Kind::Text)
    }

    /// The bytes as a device with parity sends them, seen with 8 bits.
    fn with_parity(text: &[u8], parity: Parity) -> Vec<u8> {
        let odd = u32::from(parity == Parity::Odd);
        text.iter().map(|byte| if byte.count_ones() % 2 == odd { *byte } else { byte | 0x80 }).collect()
    }

    #[test]
    fn text_is_told_from_noise() {
        assert_eq!(kind(&heard(b"")), Kind::Silent);
        assert_eq!(kind(&heard(b"T=21")), Kind::Little);
        assert_eq!(kind(&heard("T=21.5 °C\r\nT=21.6 °C\r\n".as_bytes())), Kind::Text);
        assert_eq!(kind(&heard(b"\x024006381333931\x03")), Kind::Text);
        // 115200 baud heard at 9600, and the other way round.
        assert_eq!(kind(&heard(b"\x00\xfe\x80\x00\xe0\xfe\x00\x00\xf8\x80")), Kind::Noise);
        assert_eq!(kind(&heard(b"\x9e\x66\x00\x78\xe6\x80\x18\x86\x1e\x00\x66")), Kind::Noise);
        let damaged = Heard { errors: 3, ..heard(b"looks like text") };
        assert_eq!(kind(&damaged), Kind::Noise);
    }

    #[test]
    fn seven_bits_with_parity_are_recognized() {
        for parity in [Parity::Even, Parity::Odd] {
            let bytes = with_parity(b"weight 12.50 kg\r\nweight 12.51 kg\r\n", parity);
            let kind = kind(&heard(&bytes));
            assert_eq!(kind, Kind::SevenBits(parity));
            assert_eq!(end(&heard(&bytes), kind), Some(End::CrLf));
        }
    }

    #[test]
    fn the_end_of_frames_is_found() {
        assert_eq!(end_of(b"a=1\na=2\na="), Some(End::Lf));
        assert_eq!(end_of(b"=1\r\na=2\r\na"), Some(End::CrLf));
        assert_eq!(end_of(b"a=1\ra=2\ra"), Some(End::Cr));
        assert_eq!(end_of(b"a=1\x03a=2\x03"), Some(End::Etx));
        assert_eq!(end_of(b"\x02a=1\x03\r\n\x02a=2\x03\r\n"), Some(End::StxEtx));
        assert_eq!(end_of(b"one line\r\n"), Some(End::CrLf));
        assert_eq!(end_of(b"no end\nto see"), None);
        let gaps = Heard { pauses: vec![4, 8], ..heard(b"1234567890ab") };
        assert_eq!(end(&gaps, Kind::Text), Some(End::Gap));
    }

    #[test]
    fn what_is_proposed_is_a_configuration_that_fits() {
        for (end, bytes) in [
            (End::Lf, "a\nb\n"),
            (End::CrLf, "a\r\nb\r\n"),
            (End::Cr, "a\rb\r"),
            (End::Etx, "a\u{3}b\u{3}"),
            (End::StxEtx, "\u{2}a\u{3}\u{2}b\u{3}"),
            (End::Gap, "ab"),
        ] {
            let text = format!("[device.a]\ntcp = {{ connect = \"h:1\" }}\nframing = {}\n", end.framing());
            let loaded = crate::config::parse(&text, "t", std::path::Path::new("/")).unwrap();
            let framing = &loaded.config.devices["a"].framing;
            assert!(fits(framing, bytes.as_bytes()), "{end:?}");
            assert!(fits(framing, b"without") == (end == End::Gap), "{end:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_odd(bytes: Vec<u8>, errors: usize, pauses: Vec<usize>) {
            let heard = Heard { errors: errors % (bytes.len() + 1), bytes, pauses };
            let kind = kind(&heard);
            end(&heard, kind);
            prop_assert!(odd_share(&heard.bytes) <= 100);
        }
    }
}
