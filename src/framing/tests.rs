//! What every framing promises, over all of them; what one row of the table says stands beside that row's code.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::{Codec, Decoded};
use crate::config::{Checksum, Endian, Framing, FramingKind};
use crate::stats::DropReason;

const MAX: usize = 48;

const CHECKSUMS: [Option<Checksum>; 7] = [
    None,
    Some(Checksum::Crc16Modbus),
    Some(Checksum::Crc16Ccitt),
    Some(Checksum::Crc32),
    Some(Checksum::Xor8),
    Some(Checksum::Sum8),
    Some(Checksum::Nmea),
];

pub(super) fn framing(kind: FramingKind) -> Framing {
    Framing { kind, max_length: MAX, checksum: None }
}

fn kinds() -> Vec<FramingKind> {
    let bytes = Bytes::from_static;
    let lines = |terminator, keep_empty| FramingKind::Lines { terminator: bytes(terminator), keep_empty };
    let delimited = |delimiter, keep_empty| FramingKind::Delimited { delimiter: bytes(delimiter), keep_empty };
    let prefixed = |width, endian, adjust| FramingKind::LengthPrefixed { width, endian, adjust };
    let start_end = |start, end| FramingKind::StartEnd { start: bytes(start), end: bytes(end) };
    vec![
        lines(b"\n", false),
        lines(b"\n", true),
        lines(b"\r\n", false),
        delimited(b";", true),
        delimited(b"\xff\xff\xff", false),
        delimited(b"aab", true),
        FramingKind::Fixed { length: 7 },
        prefixed(1, Endian::Big, 0),
        prefixed(2, Endian::Little, -2),
        prefixed(3, Endian::Big, 5),
        prefixed(4, Endian::Little, 0),
        prefixed(8, Endian::Big, 0),
        start_end(b"\x02", b"\x03"),
        start_end(b"<<", b">>"),
        start_end(b"~", b"~"),
        FramingKind::IdleGap { gap: Duration::from_millis(5) },
        FramingKind::Slip,
        FramingKind::Cobs,
    ]
}

/// Every framing but `chunks` (whose frames are the splits), with every checksum.
fn any_framing() -> impl Strategy<Value = Framing> {
    (prop::sample::select(kinds()), prop::sample::select(CHECKSUMS.to_vec()))
        .prop_map(|(kind, checksum)| Framing { checksum, ..framing(kind) })
}

/// Bytes in which the marks of the framings are common.
fn any_bytes(length: usize) -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        any::<u8>(),
        prop::sample::select(b"\n\r;a b<>~$*0123\0\x01\x02\x03\x07\xc0\xdb\xdc\xdd\xff".to_vec())
    ];
    prop::collection::vec(byte, 0..length)
}

/// A wire: what was decoded from what was put on it.
pub(super) struct Wire {
    codec: Codec,
    buffer: BytesMut,
    pub(super) frames: Vec<Bytes>,
    pub(super) dropped: BTreeMap<DropReason, u64>,
    longest: usize,
}

impl Wire {
    pub(super) fn new(framing: &Framing) -> Wire {
        Wire {
            codec: Codec::new(framing),
            buffer: BytesMut::new(),
            frames: Vec::new(),
            dropped: BTreeMap::new(),
            longest: 0,
        }
    }

    pub(super) fn read(&mut self, bytes: &[u8]) -> &mut Wire {
        self.buffer.extend_from_slice(bytes);
        while let Some(decoded) = self.codec.decode(&mut self.buffer) {
            self.take(decoded);
        }
        self.longest = self.longest.max(self.buffer.len());
        self
    }

    pub(super) fn gap(&mut self) -> &mut Wire {
        if let Some(decoded) = self.codec.decode_gap(&mut self.buffer) {
            self.take(decoded);
        }
        self
    }

    pub(super) fn end(&mut self) -> &mut Wire {
        if let Some(decoded) = self.codec.decode_end(&mut self.buffer) {
            self.take(decoded);
        }
        assert!(self.buffer.is_empty());
        self
    }

    pub(super) fn count(&self, reason: DropReason) -> u64 {
        self.dropped.get(&reason).copied().unwrap_or_default()
    }

    fn take(&mut self, decoded: Decoded) {
        match decoded {
            Decoded::Frame(frame) => self.frames.push(frame),
            Decoded::Dropped { reason, count } => *self.dropped.entry(reason).or_default() += count,
        }
    }
}

/// The bytes of `frame` on the wire.
pub(super) fn encoded(framing: &Framing, frame: &[u8]) -> BytesMut {
    let mut out = BytesMut::new();
    Codec::new(framing).encode(frame, &mut out).expect("the framing takes the frame");
    out
}

/// Whether the framing can tell where `frame` begins and ends: what is encoded has its end mark at the end only, and no
/// CR that would be taken for one of the line's end.
fn carries(framing: &Framing, frame: &[u8]) -> bool {
    let mut out = BytesMut::new();
    if Codec::new(framing).encode(frame, &mut out).is_err() {
        return false;
    }
    let ends_with_first = |body: &[u8], mark: &[u8]| {
        body.windows(mark.len()).position(|window| window == mark) == Some(body.len() - mark.len())
    };
    match &framing.kind {
        FramingKind::Lines { terminator, keep_empty } => {
            ends_with_first(&out, terminator)
                && !out.ends_with(&[b"\r", &terminator[..]].concat())
                && (*keep_empty || out.len() > terminator.len())
        }
        FramingKind::Delimited { delimiter, keep_empty } => {
            ends_with_first(&out, delimiter) && (*keep_empty || out.len() > delimiter.len())
        }
        FramingKind::StartEnd { start, end } => {
            ends_with_first(&out[start.len()..], end) && (start != end || out.len() > 2 * start.len())
        }
        FramingKind::Slip => out.len() > 2,
        FramingKind::IdleGap { .. } | FramingKind::Chunks => !out.is_empty(),
        FramingKind::Fixed { .. } | FramingKind::LengthPrefixed { .. } | FramingKind::Cobs => true,
    }
}

/// Bytes after which the framing has found its beat again, whatever came before. `None`: it has none. The byte before a
/// mark keeps what came before from making the first of a mark such as ff ff ff.
fn resync(framing: &Framing) -> Option<Vec<u8>> {
    match &framing.kind {
        FramingKind::Lines { terminator: mark, .. }
        | FramingKind::Delimited { delimiter: mark, .. }
        | FramingKind::StartEnd { end: mark, .. } => Some([b"x", &mark[..]].concat()),
        FramingKind::Slip => Some(vec![0xc0]),
        FramingKind::Cobs => Some(vec![0]),
        FramingKind::IdleGap { .. } => Some(Vec::new()),
        FramingKind::Fixed { .. } | FramingKind::LengthPrefixed { .. } | FramingKind::Chunks => None,
    }
}

/// `frame` made so long that `fixed` takes it.
fn fitted(framing: &Framing, mut frame: Vec<u8>) -> Vec<u8> {
    if let FramingKind::Fixed { length } = framing.kind {
        frame.resize(length - framing.checksum.map_or(0, super::checksum::width), b'x');
    }
    frame
}

proptest! {
    #[test]
    fn any_split_gives_the_same(
        framing in any_framing(),
        parts in prop::collection::vec((any::<bool>(), any_bytes(2 * MAX)), 0..6),
        splits in prop::collection::vec(1usize..40, 1..20),
    ) {
        let mut stream = BytesMut::new();
        for (as_frame, bytes) in &parts {
            let frame = fitted(&framing, bytes.clone());
            if !as_frame || Codec::new(&framing).encode(&frame, &mut stream).is_err() {
                stream.extend_from_slice(bytes);
            }
        }
        let (mut whole, mut split) = (Wire::new(&framing), Wire::new(&framing));
        whole.read(&stream).gap().end();
        let mut rest = &stream[..];
        for &length in splits.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (now, later) = rest.split_at(length.min(rest.len()));
            split.read(now);
            rest = later;
        }
        split.gap().end();
        prop_assert_eq!(whole.frames, split.frames);
        prop_assert_eq!(whole.dropped, split.dropped);
    }

    #[test]
    fn what_is_written_is_read_back(
        framing in any_framing(),
        frames in prop::collection::vec(any_bytes(MAX + 1), 1..6),
    ) {
        let frames: Vec<_> =
            frames.into_iter().map(|frame| fitted(&framing, frame)).filter(|frame| carries(&framing, frame)).collect();
        let mut wire = Wire::new(&framing);
        for frame in &frames {
            wire.read(&encoded(&framing, frame)).gap();
        }
        wire.end();
        prop_assert_eq!(&wire.frames, &frames);
        prop_assert!(wire.dropped.is_empty(), "{:?}", wire.dropped);
    }

    #[test]
    fn garbage_costs_no_memory_and_no_later_frame(
        framing in any_framing(),
        garbage in prop::collection::vec(any_bytes(4 * MAX), 0..8),
        good in any_bytes(MAX + 1),
    ) {
        let mut wire = Wire::new(&framing);
        for read in &garbage {
            wire.read(read);
        }
        prop_assert!(wire.longest <= 2 * (MAX + 4) + 16, "{} bytes kept", wire.longest);
        let good = fitted(&framing, good);
        if let Some(resync) = resync(&framing).filter(|_| carries(&framing, &good)) {
            wire.read(&resync).gap();
            let before = wire.frames.len();
            wire.read(&encoded(&framing, &good)).gap();
            prop_assert_eq!(&wire.frames[before..], &[Bytes::from(good)]);
        }
        wire.end();
    }

    #[test]
    fn what_is_too_long_is_counted_once(
        framing in any_framing(),
        over in 1usize..20 * MAX,
        reads in 1usize..100,
        good in any_bytes(MAX + 1),
    ) {
        let counted = !matches!(framing.kind, FramingKind::Fixed { .. } | FramingKind::LengthPrefixed { width: 1, .. });
        let longer = Framing { max_length: usize::MAX, ..framing.clone() };
        let long = vec![b'x'; MAX + over];
        if !(counted && carries(&framing, &good) && carries(&longer, &long)) {
            return Ok(());
        }
        let stream = encoded(&longer, &long);
        let mut wire = Wire::new(&framing);
        for read in stream.chunks(reads) {
            wire.read(read);
            prop_assert!(wire.longest <= 2 * (MAX + 4) + 16 + reads, "{} bytes kept", wire.longest);
        }
        wire.gap().read(&encoded(&framing, &good)).gap().end();
        prop_assert_eq!(wire.count(DropReason::TooLong), 1);
        prop_assert_eq!(wire.dropped.len(), 1);
        prop_assert_eq!(&wire.frames, &[Bytes::from(good)]);
    }

    #[test]
    fn one_flipped_bit_fails_the_checksum(
        checksum in prop::sample::select(CHECKSUMS[1..].to_vec()),
        frame in any_bytes(MAX),
        at in any::<prop::sample::Index>(),
        bit in 0u8..8,
    ) {
        let framing = Framing { checksum, ..framing(FramingKind::LengthPrefixed { width: 2, endian: Endian::Big, adjust: 0 }) };
        let mut bytes = encoded(&framing, &frame);
        let at = 2 + at.index(bytes.len() - 2);
        bytes[at] ^= 1 << bit;
        // A digit in the other case is the same digit.
        let same = checksum == Some(Checksum::Nmea) && at >= bytes.len() - 2 && bit == 5;
        // With its first byte made or unmade a `$` or `!`, another part of the frame is summed.
        let other_part = checksum == Some(Checksum::Nmea) && at == 2;
        if same || other_part {
            return Ok(());
        }
        let mut wire = Wire::new(&framing);
        wire.read(&bytes).end();
        prop_assert_eq!(wire.count(DropReason::Checksum), 1);
        prop_assert!(wire.frames.is_empty());
    }

    #[test]
    fn chunks_lose_nothing(reads in prop::collection::vec(any_bytes(3 * MAX), 0..8)) {
        let mut wire = Wire::new(&framing(FramingKind::Chunks));
        for read in &reads {
            wire.read(read);
        }
        wire.end();
        prop_assert!(wire.frames.iter().all(|frame| !frame.is_empty() && frame.len() <= MAX));
        prop_assert_eq!(wire.frames.concat(), reads.concat());
        prop_assert!(wire.dropped.is_empty());
    }

    #[test]
    fn a_refused_frame_leaves_nothing(framing in any_framing(), frame in any_bytes(3 * MAX)) {
        let mut out = BytesMut::from("before");
        if Codec::new(&framing).encode(&frame, &mut out).is_err() {
            prop_assert_eq!(&out[..], b"before");
        }
    }
}

#[test]
fn unfinished_frames_are_partial_and_the_codec_is_as_new() {
    for kind in kinds() {
        let framing = framing(kind);
        let whole = encoded(&framing, b"1234567");
        let short = match framing.kind {
            FramingKind::IdleGap { .. } => whole.len(),
            _ => whole.len() - 1,
        };
        let mut wire = Wire::new(&framing);
        wire.read(&whole[..short]).end();
        assert_eq!(wire.dropped, BTreeMap::from([(DropReason::Partial, 1)]), "{framing:?}");
        assert!(wire.frames.is_empty());
        wire.read(&whole).gap();
        assert_eq!(wire.frames, ["1234567"], "{framing:?}");
    }
}

#[test]
fn every_byte_value_goes_through() {
    let all: Vec<u8> = (0..=255).collect();
    let marks: [FramingKind; 5] = [
        FramingKind::LengthPrefixed { width: 2, endian: Endian::Big, adjust: 0 },
        FramingKind::Slip,
        FramingKind::Cobs,
        FramingKind::Fixed { length: 256 },
        FramingKind::IdleGap { gap: Duration::from_millis(5) },
    ];
    for kind in marks {
        let framing = Framing { max_length: 256, ..framing(kind) };
        let mut wire = Wire::new(&framing);
        wire.read(&encoded(&framing, &all)).gap().end();
        assert_eq!(wire.frames, [&all[..]]);
    }
}
