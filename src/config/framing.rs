//! `framing = {…}`

use std::time::Duration;

use bytes::Bytes;

use super::error::{Fault, Report};
use super::raw::Kind;
use super::reader::{Table, Value};
use super::units::MAX_WAIT;

/// `framing = {…}`
#[derive(Clone, Debug, PartialEq)]
pub struct Framing {
    /// `type` and the keys that are its own.
    pub kind: FramingKind,
    /// Longest frame in bytes, after the checksum is removed and before it is added.
    pub max_length: usize,
    /// `checksum`
    pub checksum: Option<Checksum>,
}

/// `framing.type`. `lines` is [`FramingKind::Lines`] and not a `Delimited`, for its treatment of CR.
#[derive(Clone, Debug, PartialEq)]
pub enum FramingKind {
    /// Up to the terminator; one CR before it is removed.
    Lines {
        /// Written and looked for; not empty.
        terminator: Bytes,
        /// Whether an empty line is a frame.
        keep_empty: bool,
    },
    /// Up to the delimiter.
    Delimited {
        /// Not empty.
        delimiter: Bytes,
        /// Whether an empty frame counts.
        keep_empty: bool,
    },
    /// So many bytes.
    Fixed {
        /// At least 1.
        length: usize,
    },
    /// A count, then so many bytes.
    LengthPrefixed {
        /// Bytes of the count: 1, 2, 3, 4 or 8.
        width: u8,
        /// Byte order of the count.
        endian: Endian,
        /// Added to the count that was read to get the frame's length; subtracted when writing.
        adjust: i64,
    },
    /// Between two marks.
    StartEnd {
        /// Not empty.
        start: Bytes,
        /// Not empty.
        end: Bytes,
    },
    /// Until nothing came for so long.
    IdleGap {
        /// Above zero.
        gap: Duration,
    },
    /// RFC 1055.
    Slip,
    /// Consistent overhead byte stuffing, 0x00 between frames.
    Cobs,
    /// Whatever one read returns.
    Chunks,
}

/// Byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Endian {
    Big,
    Little,
}

/// `checksum`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// CRC-16/MODBUS, low byte first on the wire.
    Crc16Modbus,
    /// CRC-16/IBM-3740 ("CCITT-FALSE"), high byte first.
    Crc16Ccitt,
    /// CRC-32/ISO-HDLC, high byte first.
    Crc32,
    /// Exclusive or of all bytes.
    Xor8,
    /// Sum of all bytes modulo 256.
    Sum8,
    /// NMEA 0183: `*` and two hexadecimal digits, exclusive or of what stands between `$` or `!` and `*`.
    Nmea,
}

/// `endian`, by word.
pub(super) const ENDIANS: &[(&str, Endian)] = &[("big", Endian::Big), ("little", Endian::Little)];
/// `checksum`, by word.
pub(super) const CHECKSUMS: &[(&str, Checksum)] = &[
    ("crc16_modbus", Checksum::Crc16Modbus),
    ("crc16_ccitt", Checksum::Crc16Ccitt),
    ("crc32", Checksum::Crc32),
    ("xor8", Checksum::Xor8),
    ("sum8", Checksum::Sum8),
    ("nmea", Checksum::Nmea),
];

/// Default of `max_length`.
const DEFAULT_MAX_LENGTH: usize = 64 << 10;
/// Longest frame that can be configured.
const LONGEST: u64 = 16 << 20;

/// The types of framing and the keys that are their own.
const TYPES: &[(&str, &[&str])] = &[
    ("lines", &["max_length", "terminator", "keep_empty"]),
    ("delimited", &["max_length", "delimiter", "keep_empty"]),
    ("fixed", &["length"]),
    ("length_prefixed", &["max_length", "width", "endian", "adjust"]),
    ("start_end", &["max_length", "start", "end"]),
    ("idle_gap", &["max_length", "gap"]),
    ("slip", &["max_length"]),
    ("cobs", &["max_length"]),
    ("chunks", &["max_length"]),
];

impl Default for Framing {
    /// Lines of up to 64 KiB.
    fn default() -> Framing {
        let kind = FramingKind::Lines { terminator: Bytes::from_static(b"\n"), keep_empty: false };
        Framing { kind, max_length: DEFAULT_MAX_LENGTH, checksum: None }
    }
}

impl Checksum {
    /// Bytes it adds to a frame.
    fn width(self) -> usize {
        match self {
            Checksum::Crc16Modbus | Checksum::Crc16Ccitt => 2,
            Checksum::Crc32 => 4,
            Checksum::Xor8 | Checksum::Sum8 => 1,
            Checksum::Nmea => 3,
        }
    }
}

impl Framing {
    /// Reads `framing = "lines"` or `framing = { type = "lines", … }`.
    pub(super) fn read(value: &Value<'_>) -> Option<Framing> {
        let mut table = match value.raw.kind {
            Kind::String(_) => Table::short("type", value.clone()),
            _ => value.table()?,
        };
        let words: Vec<(&str, &str)> = TYPES.iter().map(|(word, _)| (*word, *word)).collect();
        let word = table.require("type").and_then(|v| v.choice(&words));
        let checksum = table.get("checksum").and_then(|v| v.choice(CHECKSUMS));
        let Some(word) = word else {
            // Which keys belong here is not known, so none is refused for that.
            for (_, keys) in TYPES {
                table.know(keys);
            }
            table.finish();
            return None;
        };
        refuse_keys_of_others(&mut table, word);
        let kind = FramingKind::read(word, &mut table, checksum);
        let max_length = match kind {
            Some(FramingKind::Fixed { length }) => length,
            _ => table.get("max_length").and_then(|v| v.size(1..=LONGEST)).unwrap_or(DEFAULT_MAX_LENGTH),
        };
        table.finish();
        Some(Framing { kind: kind?, max_length, checksum })
    }
}

impl FramingKind {
    fn read(word: &str, table: &mut Table<'_>, checksum: Option<Checksum>) -> Option<FramingKind> {
        let keep_empty = |table: &mut Table<'_>| table.get("keep_empty").and_then(|v| v.boolean()).unwrap_or(false);
        let some_bytes = |table: &mut Table<'_>, key| table.require(key).and_then(|v| v.some_bytes());
        Some(match word {
            "lines" => FramingKind::Lines {
                terminator: table.get("terminator").map_or(Some(Bytes::from_static(b"\n")), |v| v.some_bytes())?,
                keep_empty: keep_empty(table),
            },
            "delimited" => {
                let (delimiter, keep_empty) = (some_bytes(table, "delimiter"), keep_empty(table));
                FramingKind::Delimited { delimiter: delimiter?, keep_empty }
            }
            "fixed" => FramingKind::Fixed { length: fixed_length(&table.require("length")?, checksum)? },
            "length_prefixed" => {
                let width = table.require("width").and_then(|v| width(&v));
                let endian = table.get("endian").map_or(Some(Endian::Big), |v| v.choice(ENDIANS));
                let adjust = table.get("adjust").map_or(Some(0), |v| v.integer(-(LONGEST as i64)..=LONGEST as i64));
                FramingKind::LengthPrefixed { width: width?, endian: endian?, adjust: adjust? }
            }
            "start_end" => {
                let (start, end) = (some_bytes(table, "start"), some_bytes(table, "end"));
                FramingKind::StartEnd { start: start?, end: end? }
            }
            "idle_gap" => FramingKind::IdleGap {
                gap: table
                    .get("gap")
                    .map_or(Some(Duration::from_millis(5)), |v| v.duration(Duration::from_micros(100)..=MAX_WAIT))?,
            },
            "slip" => FramingKind::Slip,
            "cobs" => FramingKind::Cobs,
            _ => FramingKind::Chunks,
        })
    }
}

/// Reports keys that only other types of framing have.
fn refuse_keys_of_others(table: &mut Table<'_>, word: &str) {
    let own = TYPES.iter().find(|(name, _)| *name == word).map_or(&[][..], |(_, keys)| keys);
    table.know(own);
    for key in TYPES.iter().flat_map(|(_, keys)| *keys).filter(|key| !own.contains(key)) {
        let Some(value) = table.peek(key) else { continue };
        let owners: Vec<&str> = TYPES.iter().filter(|(_, keys)| keys.contains(key)).map(|(owner, _)| *owner).collect();
        let report = Report::new(value.key, value.path.clone(), format!("framing `{word}` has no `{key}`"));
        value.context.push(report.hint(format!("`{key}` belongs to: {}", owners.join(", "))));
        table.know(&[key]);
    }
}

/// A number of bytes, or a size; what is left without the checksum must be a frame.
fn fixed_length(value: &Value<'_>, checksum: Option<Checksum>) -> Option<usize> {
    let length = match value.raw.kind {
        Kind::Integer(_) => value.integer(1..=LONGEST as i64)?,
        _ => value.size(1..=LONGEST)?,
    };
    match checksum {
        Some(checksum) if length <= checksum.width() => {
            let width = checksum.width();
            value.fail(Fault::new(format!(
                "the checksum alone has {width} bytes: `length` counts it and must be larger"
            )))
        }
        _ => Some(length),
    }
}

fn width(value: &Value<'_>) -> Option<u8> {
    let width = value.integer(1..=8)?;
    if matches!(width, 1 | 2 | 3 | 4 | 8) {
        return Some(width);
    }
    value.fail(Fault::new("must be 1, 2, 3, 4 or 8"))
}
