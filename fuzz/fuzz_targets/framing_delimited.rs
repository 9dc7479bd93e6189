#![no_main]

use bytes::Bytes;
use gatepost::config::FramingKind;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| gatepost_fuzz::framing(
    FramingKind::Delimited { delimiter: Bytes::from_static(b"\xff\xff\xff"), keep_empty: true },
    data
));
