//! What the fuzz targets share.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use gatepost::config::{Checksum, Framing, FramingKind};
use gatepost::framing::{Codec, Decoded};

const MAX: usize = 64;

const CHECKSUMS: [Option<Checksum>; 7] = [
    None,
    Some(Checksum::Crc16Modbus),
    Some(Checksum::Crc16Ccitt),
    Some(Checksum::Crc32),
    Some(Checksum::Xor8),
    Some(Checksum::Sum8),
    Some(Checksum::Nmea),
];

/// Reads `data` as bytes from a wire, whole and in pieces, and holds the codec to what it pending.
/// The first byte chooses the checksum, the second the length of the pieces.
pub fn framing(kind: FramingKind, data: &[u8]) {
    let [checksum, piece, wire @ ..] = data else { return };
    let framing = Framing { kind, max_length: MAX, checksum: CHECKSUMS[usize::from(*checksum) % CHECKSUMS.len()] };
    let whole = decode(&framing, wire.chunks(wire.len().max(1)));
    if framing.kind != FramingKind::Chunks {
        let pieces = decode(&framing, wire.chunks(usize::from(*piece).max(1)));
        assert_eq!(whole, pieces, "the split of the bytes shows");
    }
    let codec = Codec::new(&framing);
    for frame in &whole.0 {
        let mut out = BytesMut::new();
        // Only an `adjust` can make a frame that was read unwritable.
        let written = codec.encode(frame, &mut out);
        assert!(written.is_ok() || out.is_empty());
    }
}

fn decode<'a>(framing: &Framing, reads: impl Iterator<Item = &'a [u8]>) -> (Vec<Bytes>, BTreeMap<&'static str, u64>) {
    let mut codec = Codec::new(framing);
    let (mut buffer, mut frames, mut dropped) = (BytesMut::new(), Vec::new(), BTreeMap::new());
    let mut take = |decoded| match decoded {
        Decoded::Frame(frame) => frames.push(frame),
        Decoded::Dropped { reason, count } => *dropped.entry(reason.as_str()).or_default() += count,
    };
    for read in reads {
        buffer.extend_from_slice(read);
        while let Some(decoded) = codec.decode(&mut buffer) {
            take(decoded);
        }
        assert!(buffer.len() <= 2 * (MAX + 4) + 16, "{} bytes kept", buffer.len());
    }
    codec.decode_gap(&mut buffer).map(&mut take);
    codec.decode_end(&mut buffer).map(&mut take);
    assert!(buffer.is_empty());
    (frames, dropped)
}
