//! How fast frames come off a wire: each framing over the same 40-byte frames, and the checksums over 4 KiB.

use std::hint::black_box;

use bytes::{Bytes, BytesMut};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use gatepost::config::{Checksum, Endian, Framing, FramingKind};
use gatepost::framing::{Codec, Decoded};

/// Bytes of one read of a busy TCP device.
const READ: usize = 16 * 1024;

fn framings() -> Vec<(&'static str, FramingKind)> {
    let bytes = Bytes::from_static;
    vec![
        ("lines", FramingKind::Lines { terminator: bytes(b"\n"), keep_empty: false }),
        ("delimited", FramingKind::Delimited { delimiter: bytes(b"\xff\xff\xff"), keep_empty: false }),
        ("length_prefixed", FramingKind::LengthPrefixed { width: 2, endian: Endian::Big, adjust: 0 }),
        ("start_end", FramingKind::StartEnd { start: bytes(b"\x02"), end: bytes(b"\x03") }),
        ("slip", FramingKind::Slip),
        ("cobs", FramingKind::Cobs),
    ]
}

fn framing(kind: FramingKind, checksum: Option<Checksum>) -> Framing {
    Framing { kind, max_length: 64 * 1024, checksum }
}

fn decode(c: &mut Criterion) {
    let frame = b"T=21.50 H=48 P=1013.25 V=3.301 n=0012345";
    let mut group = c.benchmark_group("decode");
    for (name, kind) in framings() {
        let framing = framing(kind, None);
        let mut wire = BytesMut::new();
        while wire.len() < READ {
            Codec::new(&framing).encode(frame, &mut wire).expect("the framing takes the frame");
        }
        group.throughput(Throughput::Bytes(wire.len() as u64));
        group.bench_function(name, |b| {
            let mut codec = Codec::new(&framing);
            b.iter_batched_ref(|| wire.clone(), |buffer| drain(&mut codec, buffer), BatchSize::SmallInput);
        });
    }
    group.finish();
}

fn drain(codec: &mut Codec, buffer: &mut BytesMut) {
    while let Some(decoded) = codec.decode(buffer) {
        match decoded {
            Decoded::Frame(frame) => drop(black_box(frame)),
            Decoded::Dropped { reason, .. } => panic!("a frame was dropped: {reason:?}"),
        }
    }
}

fn encode(c: &mut Criterion) {
    // Every byte value, so that SLIP and COBS have something to do.
    let frame: Vec<u8> = (0..=255).cycle().take(1024).collect();
    let mut group = c.benchmark_group("encode");
    group.throughput(Throughput::Bytes(frame.len() as u64));
    for (name, kind) in framings() {
        let codec = Codec::new(&framing(kind, None));
        let mut out = BytesMut::with_capacity(4 * frame.len());
        group.bench_function(name, |b| {
            b.iter(|| {
                out.clear();
                codec.encode(black_box(&frame), &mut out)
            });
        });
    }
    group.finish();
}

fn checksum(c: &mut Criterion) {
    let frame: Vec<u8> = (0..=255).cycle().take(4096).collect();
    let mut group = c.benchmark_group("checksum");
    group.throughput(Throughput::Bytes(frame.len() as u64));
    for checksum in
        [Checksum::Crc16Modbus, Checksum::Crc16Ccitt, Checksum::Crc32, Checksum::Xor8, Checksum::Sum8, Checksum::Nmea]
    {
        let codec = Codec::new(&framing(FramingKind::Chunks, Some(checksum)));
        let mut out = BytesMut::with_capacity(2 * frame.len());
        group.bench_function(BenchmarkId::from_parameter(format!("{checksum:?}")), |b| {
            b.iter(|| {
                out.clear();
                codec.encode(black_box(&frame), &mut out)
            });
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    decode(&mut criterion);
    encode(&mut criterion);
    checksum(&mut criterion);
    criterion.final_summary();
}
