//! Durations, sizes and bytes as they are written.

use std::time::Duration;

use bytes::Bytes;
use humantime::DurationError;

use super::error::{Fault, nearest};

/// Longest wait that can be configured for a device: a year, as humantime counts it.
pub(super) const MAX_WAIT: Duration = Duration::from_secs(31_557_600);

/// Units of durations that are suggested; humantime knows more spellings.
const TIME_UNITS: [&str; 7] = ["ms", "s", "m", "h", "d", "us", "ns"];
/// Units of sizes that are suggested.
const SIZE_UNITS: [&str; 7] = ["B", "KB", "KiB", "MB", "MiB", "GB", "GiB"];

/// Reads `"1h 30m"`.
pub(super) fn duration(text: &str) -> Result<Duration, Fault> {
    let example = "write for example \"250ms\", \"5s\" or \"1h 30m\"";
    if text.trim_start().starts_with('-') {
        return Err(Fault::new("a duration cannot be negative").hint(example));
    }
    humantime::parse_duration(text).map_err(|error| match error {
        DurationError::Empty => Fault::new("the duration is empty").hint(example),
        DurationError::NumberOverflow => Fault::new("the duration is too large, or finer than a nanosecond"),
        DurationError::UnknownUnit { unit, value, .. } if unit.is_empty() => {
            Fault::new("the duration has no unit").hint(format!("write for example \"{value}s\" or \"{value}ms\""))
        }
        DurationError::UnknownUnit { unit, start, end, .. } => {
            let fault = Fault::new(format!("unknown unit of time `{unit}`")).at(start..end);
            match nearest(&unit, TIME_UNITS) {
                Some(known) => fault.hint(format!("did you mean `{known}`?")),
                None => fault.hint("units are ns, us, ms, s, m, h, d"),
            }
        }
        DurationError::InvalidCharacter(_) | DurationError::NumberExpected(_) => {
            Fault::new("not a duration").hint(example)
        }
    })
}

/// Writes what [`duration`] reads.
pub(super) fn show_duration(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

/// Reads `"64KiB"` or `"10MB"`, in bytes.
pub(super) fn size(text: &str) -> Result<u64, Fault> {
    let example = "write for example \"512B\", \"64KiB\" or \"10MB\"";
    let trimmed = text.trim();
    if trimmed.is_empty() {
        return Err(Fault::new("the size is empty").hint(example));
    }
    if trimmed.starts_with('-') {
        return Err(Fault::new("a size cannot be negative").hint(example));
    }
    let number_end = trimmed.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '_'))).unwrap_or(trimmed.len());
    let (number, unit) = (&trimmed[..number_end], trimmed[number_end..].trim());
    if unit.is_empty() {
        return Err(
            Fault::new("the size has no unit").hint(format!("write for example \"{number}B\" or \"{number}KiB\""))
        );
    }
    parse_size::parse_size(trimmed).map_err(|error| match error {
        parse_size::Error::PosOverflow => Fault::new("the size is too large"),
        _ if !number.is_empty() && unit.chars().all(char::is_alphabetic) => {
            let fault = Fault::new(format!("unknown unit of size `{unit}`"));
            match nearest(unit, SIZE_UNITS) {
                Some(known) => fault.hint(format!("did you mean `{known}`?")),
                None => fault.hint("units are B, KB, KiB, MB, MiB, GB, GiB"),
            }
        }
        _ => Fault::new("not a size").hint(example),
    })
}

/// Writes what [`size`] reads, in the largest binary unit that divides it.
pub(super) fn show_size(bytes: u64) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.into_iter().find(|(factor, _)| bytes >= *factor && bytes % factor == 0) {
        Some((factor, unit)) => format!("{}{unit}", bytes / factor),
        None => format!("{bytes}B"),
    }
}

/// Reads the digits of `{ hex = "ff 0a" }`; white space between bytes is allowed.
pub(super) fn hex(text: &str) -> Result<Bytes, Fault> {
    let mut bytes = Vec::new();
    for word in text.split_whitespace() {
        let start = word.as_ptr() as usize - text.as_ptr() as usize;
        let decoded = hex::decode(word).map_err(|error| match error {
            hex::FromHexError::InvalidHexCharacter { c, index } => {
                Fault::new(format!("{c:?} is not a hexadecimal digit")).at(start + index..start + index + c.len_utf8())
            }
            _ => Fault::new("a byte is two hexadecimal digits")
                .at(start..start + word.len())
                .hint("write for example { hex = \"0d 0a\" }"),
        })?;
        bytes.extend(decoded);
    }
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_read() {
        for (text, ms) in [("250ms", 250), ("5s", 5_000), ("1h 30m", 5_400_000), ("0s", 0), ("1.5s", 1_500)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for (text, message) in [
            ("", "the duration is empty"),
            ("-5s", "a duration cannot be negative"),
            ("5", "the duration has no unit"),
            ("5 sek", "unknown unit of time `sek`"),
            ("soon", "not a duration"),
            ("99999999999999999999s", "the duration is too large, or finer than a nanosecond"),
        ] {
            assert_eq!(duration(text).unwrap_err().message, message, "{text}");
        }
    }

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in [("64KiB", 65_536), ("10MB", 10_000_000), ("1 B", 1), ("1.5KiB", 1_536), ("0B", 0)] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for (text, message) in [
            ("", "the size is empty"),
            ("-1B", "a size cannot be negative"),
            ("1024", "the size has no unit"),
            ("1 kilo", "unknown unit of size `kilo`"),
            ("big", "not a size"),
            ("99999999999999999999B", "the size is too large"),
        ] {
            assert_eq!(size(text).unwrap_err().message, message, "{text}");
        }
    }

    #[test]
    fn hexadecimal_is_read() {
        assert_eq!(hex("ff 0A\tff00").unwrap(), &[0xff, 0x0a, 0xff, 0x00][..]);
        assert_eq!(hex("").unwrap(), &[][..]);
        assert_eq!(hex("0 1").unwrap_err().range, Some(0..1));
        assert_eq!(hex("00 xx").unwrap_err().range, Some(3..4));
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_again(ms in 0u64..=u64::from(u32::MAX) * 1000, bytes in 0u64..u64::MAX / 2) {
            let value = Duration::from_millis(ms);
            prop_assert_eq!(duration(&show_duration(value)), Ok(value));
            prop_assert_eq!(size(&show_size(bytes)), Ok(bytes));
        }

        #[test]
        fn nothing_panics(text in "\\PC*") {
            let _ = (duration(&text), size(&text), hex(&text));
        }
    }
}
