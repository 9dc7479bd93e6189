#![no_main]

use bytes::Bytes;
use gatepost::config::FramingKind;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| gatepost_fuzz::framing(
    FramingKind::Lines { terminator: Bytes::from_static(b"\n"), keep_empty: false },
    data
));
