//! The frames of a WebSocket connection (RFC 6455, section 5), as a server reads and writes them. Pure.

use std::io::Cursor;

use bytes::{BufMut, BytesMut};
use tokio_tungstenite::tungstenite::protocol::frame::FrameHeader;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Control, Data, OpCode};

/// Most bytes of a control frame's payload (section 5.5).
const MAX_CONTROL: u64 = 125;

/// Takes the frames of a client apart, as far as their bytes have come.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The rest of the current data frame.
    payload: Option<Payload>,
    /// A message goes on in the next data frame.
    fragmented: bool,
}

#[derive(Debug)]
struct Payload {
    remaining: u64,
    mask: [u8; 4],
}

/// What came.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// Bytes of a binary message; not empty.
    Data(BytesMut),
    /// Wants a pong with this payload of at most 125 bytes.
    Ping(BytesMut),
    /// Asks nothing.
    Pong,
    /// The client closes, for this reason if it gives one.
    Close(Option<u16>),
}

/// Why the connection has to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("WebSocket: {what}")]
pub struct Violation {
    /// The status to close with (section 7.4.1).
    pub status: u16,
    /// What the client did.
    pub what: &'static str,
}

/// The first byte of a frame that is sent: final, and its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opcode(u8);

impl Opcode {
    /// A binary message.
    pub const BINARY: Opcode = Opcode(0x82);
    /// The end.
    pub const CLOSE: Opcode = Opcode(0x88);
    /// The answer to a ping.
    pub const PONG: Opcode = Opcode(0x8A);
}

fn protocol(what: &'static str) -> Violation {
    Violation { status: 1002, what }
}

impl Decoder {
    /// The next event in `input`, whose bytes are taken; `None` when more have to come. Never wants more than 14 bytes of
    /// data or 139 of a control frame at once.
    pub fn next(&mut self, input: &mut BytesMut) -> Result<Option<Event>, Violation> {
        loop {
            if let Some(payload) = &mut self.payload {
                if payload.remaining > 0 && input.is_empty() {
                    return Ok(None);
                }
                let data = payload.take(input);
                if payload.remaining == 0 {
                    self.payload = None;
                }
                if !data.is_empty() {
                    return Ok(Some(Event::Data(data)));
                }
            }
            let mut cursor = Cursor::new(&**input);
            let header = FrameHeader::parse(&mut cursor).map_err(|_| protocol("a frame of an unknown kind"))?;
            let start = cursor.position() as usize;
            let Some((header, length)) = header else { return Ok(None) };
            match header.opcode {
                OpCode::Data(data) => {
                    let mask = check(&header, length)?;
                    self.begin(data, header.is_final)?;
                    let _ = input.split_to(start);
                    self.payload = Some(Payload { remaining: length, mask });
                }
                OpCode::Control(control) => {
                    let mask = check(&header, length)?;
                    if length > MAX_CONTROL || !header.is_final {
                        return Err(protocol("a control frame that is too long or in pieces"));
                    }
                    if input.len() - start < length as usize {
                        return Ok(None);
                    }
                    let _ = input.split_to(start);
                    let payload = Payload { remaining: length, mask }.take(input);
                    return control_event(control, payload).map(Some);
                }
            }
        }
    }

    fn begin(&mut self, data: Data, is_final: bool) -> Result<(), Violation> {
        match (data, self.fragmented) {
            (Data::Text, _) => {
                return Err(Violation { status: 1003, what: "a text frame; MQTT is binary [MQTT-6.0.0-1]" });
            }
            (Data::Binary, true) => return Err(protocol("a new message before the end of the last one")),
            (Data::Continue, false) => return Err(protocol("a continuation of nothing")),
            (Data::Binary, false) | (Data::Continue, true) => {}
            (Data::Reserved(_), _) => return Err(protocol("a frame of an unknown kind")),
        }
        self.fragmented = !is_final;
        Ok(())
    }
}

/// What holds for every frame; returns the mask.
fn check(header: &FrameHeader, length: u64) -> Result<[u8; 4], Violation> {
    if header.rsv1 || header.rsv2 || header.rsv3 {
        return Err(protocol("an extension that was not agreed"));
    }
    if length > i64::MAX as u64 {
        return Err(protocol("a frame longer than can be"));
    }
    header.mask.ok_or(protocol("a frame that is not masked"))
}

fn control_event(control: Control, payload: BytesMut) -> Result<Event, Violation> {
    Ok(match (control, &payload[..]) {
        (Control::Ping, _) => Event::Ping(payload),
        (Control::Pong, _) => Event::Pong,
        (Control::Close, []) => Event::Close(None),
        (Control::Close, [high, low, ..]) => match u16::from_be_bytes([*high, *low]) {
            // Those that may be sent (section 7.4).
            status @ (1000..=1003 | 1007..=1014 | 3000..=4999) => Event::Close(Some(status)),
            _ => return Err(protocol("closed for a reason that is none")),
        },
        (Control::Close, [_]) => return Err(protocol("closed for half a reason")),
        (Control::Reserved(_), _) => return Err(protocol("a frame of an unknown kind")),
    })
}

impl Payload {
    /// Takes what has come of it, unmasked (section 5.3).
    fn take(&mut self, input: &mut BytesMut) -> BytesMut {
        let length = usize::try_from(self.remaining).map_or(input.len(), |remaining| remaining.min(input.len()));
        let mut data = input.split_to(length);
        for (byte, mask) in data.iter_mut().zip(self.mask.iter().cycle()) {
            *byte ^= mask;
        }
        self.mask.rotate_left(length % 4);
        self.remaining -= length as u64;
        data
    }
}

/// Appends a frame as a server sends it: whole and not masked.
pub fn write_frame(output: &mut BytesMut, opcode: Opcode, payload: &[u8]) {
    output.reserve(10 + payload.len());
    output.put_u8(opcode.0);
    match payload.len() {
        length @ 0..=125 => output.put_u8(length as u8),
        length @ 126..=0xFFFF => {
            output.put_u8(126);
            output.put_u16(length as u16);
        }
        length => {
            output.put_u8(127);
            output.put_u64(length as u64);
        }
    }
    output.put_slice(payload);
}

/// A frame as a client sends it.
#[cfg(test)]
pub fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x12, 0x34, 0x56, 0x78];
    let mut frame = BytesMut::new();
    write_frame(&mut frame, Opcode(first), payload);
    let header = frame.len() - payload.len();
    frame[1] |= 0x80;
    let data = payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask);
    frame[..header].iter().copied().chain(MASK).chain(data).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All events of `bytes`, which come in pieces that end at `cuts`; data that follows data is joined.
    fn events(bytes: &[u8], mut cuts: Vec<usize>) -> Result<Vec<Event>, Violation> {
        let (mut decoder, mut input, mut found) = (Decoder::default(), BytesMut::new(), Vec::new());
        cuts.push(bytes.len());
        cuts.sort_unstable();
        let mut start = 0;
        for cut in cuts {
            input.extend_from_slice(&bytes[start..cut]);
            start = cut;
            while let Some(event) = decoder.next(&mut input)? {
                match (found.last_mut(), event) {
                    (Some(Event::Data(before)), Event::Data(data)) => before.unsplit(data),
                    (_, event) => found.push(event),
                }
            }
        }
        assert_eq!(input.len(), 0);
        Ok(found)
    }

    #[test]
    fn what_clients_must_not_send_closes_the_connection() {
        let unmasked = b"\x82\x01x".to_vec();
        let huge = b"\x82\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\0\0\0\0".to_vec();
        let table = [
            (masked(0x81, b"text"), 1003),
            (unmasked, 1002),
            (huge, 1002),
            (masked(0xC2, b"x"), 1002),
            (masked(0x83, b"x"), 1002),
            (masked(0x8B, b"x"), 1002),
            (masked(0x80, b"x"), 1002),
            ([masked(0x02, b"x"), masked(0x82, b"y")].concat(), 1002),
            (masked(0x89, &[0; 126]), 1002),
            (masked(0x09, b"x"), 1002),
            (masked(0x88, b"x"), 1002),
            (masked(0x88, &1005u16.to_be_bytes()), 1002),
        ];
        for (bytes, status) in table {
            assert_eq!(events(&bytes, Vec::new()).unwrap_err().status, status, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_events(
            frames in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..300)), 1..8),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        ) {
            let (mut bytes, mut data, mut pings) = (Vec::new(), Vec::new(), Vec::new());
            for (index, (ping, payload)) in frames.iter().enumerate() {
                if *ping {
                    let payload = &payload[..payload.len().min(125)];
                    bytes.extend(masked(0x89, payload));
                    pings.push(payload.to_vec());
                }
                let first = if index == 0 { 0x02 } else { 0x00 };
                bytes.extend(masked(first, payload));
                data.extend_from_slice(payload);
            }
            let cuts = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
            let (mut got, mut pinged) = (Vec::new(), Vec::new());
            for event in events(&bytes, cuts).unwrap() {
                match event {
                    Event::Data(bytes) => got.extend_from_slice(&bytes),
                    Event::Ping(payload) => pinged.push(payload.to_vec()),
                    other => panic!("{other:?}"),
                }
            }
            prop_assert_eq!((got, pinged), (data, pings));
        }

        #[test]
        fn noise_does_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let (mut decoder, mut input) = (Decoder::default(), BytesMut::from(&bytes[..]));
            while let Ok(Some(_)) = decoder.next(&mut input) {}
        }
    }
}
