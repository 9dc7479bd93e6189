#![no_main]

use gatepost::config::FramingKind;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| gatepost_fuzz::framing(FramingKind::Fixed { length: 7 }, data));
