//! Checksums behind a frame.

use bytes::BytesMut;
use crc::{CRC_16_IBM_3740, CRC_16_MODBUS, CRC_32_ISO_HDLC, Crc};

use crate::config::Checksum;

const MODBUS: Crc<u16> = Crc::<u16>::new(&CRC_16_MODBUS);
const CCITT: Crc<u16> = Crc::<u16>::new(&CRC_16_IBM_3740);
const CRC32: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);

/// The bytes of one checksum, at most four.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Trailer {
    bytes: [u8; 4],
    length: usize,
}

impl Trailer {
    /// No checksum.
    pub(super) const EMPTY: Trailer = Trailer { bytes: [0; 4], length: 0 };

    fn new<const N: usize>(checksum: [u8; N]) -> Trailer {
        let mut trailer = Trailer { length: N, ..Trailer::EMPTY };
        trailer.bytes[..N].copy_from_slice(&checksum);
        trailer
    }
}

impl AsRef<[u8]> for Trailer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// Bytes that `checksum` adds to a frame.
pub(super) fn width(checksum: Checksum) -> usize {
    match checksum {
        Checksum::Xor8 | Checksum::Sum8 => 1,
        Checksum::Crc16Modbus | Checksum::Crc16Ccitt => 2,
        Checksum::Nmea => 3,
        Checksum::Crc32 => 4,
    }
}

/// The checksum of `frame` as it goes over the wire.
pub(super) fn of(checksum: Checksum, frame: &[u8]) -> Trailer {
    match checksum {
        Checksum::Crc16Modbus => Trailer::new(MODBUS.checksum(frame).to_le_bytes()),
        Checksum::Crc16Ccitt => Trailer::new(CCITT.checksum(frame).to_be_bytes()),
        Checksum::Crc32 => Trailer::new(CRC32.checksum(frame).to_be_bytes()),
        Checksum::Xor8 => Trailer::new([xor(frame)]),
        Checksum::Sum8 => Trailer::new([frame.iter().fold(0, |sum: u8, &byte| sum.wrapping_add(byte))]),
        Checksum::Nmea => {
            // A start mark of the framing has taken the `$` or `!` away; without one it stands at the front.
            let talker = frame.strip_prefix(b"$").or(frame.strip_prefix(b"!")).unwrap_or(frame);
            let [high, low] = hex_upper(xor(talker));
            Trailer::new([b'*', high, low])
        }
    }
}

/// Whether `body` ends in the checksum of what stands before, which is then taken off.
pub(super) fn check_and_remove(checksum: Checksum, body: &mut BytesMut) -> bool {
    let Some(length) = body.len().checked_sub(width(checksum)) else { return false };
    let (frame, trailer) = body.split_at(length);
    // Hexadecimal digits come in either case.
    let right = of(checksum, frame);
    let fits = match checksum {
        Checksum::Nmea => right.as_ref().eq_ignore_ascii_case(trailer),
        _ => right.as_ref() == trailer,
    };
    if fits {
        body.truncate(length);
    }
    fits
}

fn xor(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |xor, byte| xor ^ byte)
}

fn hex_upper(byte: u8) -> [u8; 2] {
    [byte >> 4, byte & 0xf].map(|digit| b"0123456789ABCDEF"[usize::from(digit)])
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::{check_and_remove, of};
    use crate::config::Checksum;

    #[test]
    fn the_catalogue_agrees() {
        for (checksum, expected) in [
            (Checksum::Crc16Modbus, &[0x37, 0x4b][..]),
            (Checksum::Crc16Ccitt, &[0x29, 0xb1]),
            (Checksum::Crc32, &[0xcb, 0xf4, 0x39, 0x26]),
            (Checksum::Xor8, &[0x31]),
            (Checksum::Sum8, &[0xdd]),
            (Checksum::Nmea, b"*31"),
        ] {
            assert_eq!(of(checksum, b"123456789").as_ref(), expected, "{checksum:?}");
        }
    }

    #[test]
    fn nmea_sums_between_the_marks() {
        let sentence = b"$GPGLL,5300.97914,N,00259.98174,E,125926,A";
        assert_eq!(of(Checksum::Nmea, sentence).as_ref(), b"*28");
        assert_eq!(of(Checksum::Nmea, &sentence[1..]).as_ref(), b"*28");
        assert_eq!(of(Checksum::Nmea, b"!AIVDM,1,1,,A,14eG;o@034o8sd<L9i:a;WF>062D,0").as_ref(), b"*7D");

        for (body, good) in [
            (&b"$PMTK220,100*2f"[..], true),
            (b"$PMTK220,100*2F", true),
            (b"$PMTK220,100*2E", false),
            (b"$PMTK220,100", false),
            (b"*00", true),
            (b"", false),
        ] {
            let mut body = BytesMut::from(body);
            assert_eq!(check_and_remove(Checksum::Nmea, &mut body), good, "{body:?}");
        }
    }
}
