//! What a WebSocket client may send: any split of the bytes gives the same data, pings and end.
#![no_main]

use bytes::BytesMut;
use gatepost::net::websocket::frame::{Decoder, Event, Violation};
use libfuzzer_sys::fuzz_target;

fn decode<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Event>, Option<Violation>) {
    let (mut decoder, mut input, mut events) = (Decoder::default(), BytesMut::new(), Vec::new());
    for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            match (decoder.next(&mut input), events.last_mut()) {
                (Ok(Some(Event::Data(data))), Some(Event::Data(before))) => before.unsplit(data),
                (Ok(Some(event)), _) => {
                    assert!(!matches!(&event, Event::Ping(payload) if payload.len() > 125));
                    events.push(event);
                }
                (Ok(None), _) => break,
                (Err(violation), _) => return (events, Some(violation)),
            }
        }
        assert!(input.len() < 14 + 125, "{} bytes wait for more", input.len());
    }
    (events, None)
}

fuzz_target!(|data: &[u8]| {
    let Some((piece, bytes)) = data.split_first() else { return };
    let whole = decode(std::iter::once(bytes));
    assert_eq!(whole, decode(bytes.chunks(usize::from(*piece).max(1))));
});
