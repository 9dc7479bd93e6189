#![no_main]

use gatepost::config::{Endian, FramingKind};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let [shape, adjust, data @ ..] = data else { return };
    let width = [1, 2, 3, 4, 8][usize::from(*shape >> 1) % 5];
    let endian = if shape & 1 == 0 { Endian::Big } else { Endian::Little };
    let adjust = i64::from(*adjust as i8);
    gatepost_fuzz::framing(FramingKind::LengthPrefixed { width, endian, adjust }, data);
});
