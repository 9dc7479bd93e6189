//! MQTT packets as bytes, for clients that must be quick, or wrong on purpose.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// A will.
#[derive(Clone, Debug)]
pub struct Will {
    pub topic: String,
    pub payload: Vec<u8>,
    pub qos: u8,
    pub retain: bool,
}

/// What a CONNECT says.
#[derive(Clone, Debug)]
pub struct Connect {
    pub v5: bool,
    pub id: String,
    pub clean: bool,
    /// In seconds; MQTT 5 only.
    pub expiry: u32,
    pub will: Option<Will>,
}

/// A PUBLISH, taken apart; its properties are skipped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    pub dup: bool,
    pub qos: u8,
    pub retain: bool,
    pub id: u16,
    pub topic: String,
    pub payload: Bytes,
}

/// Appends a packet: its first byte, and what `body` writes.
pub fn packet(out: &mut BytesMut, first: u8, body: impl FnOnce(&mut BytesMut)) {
    let mut bytes = BytesMut::new();
    body(&mut bytes);
    out.put_u8(first);
    variable(out, bytes.len());
    out.extend_from_slice(&bytes);
}

/// Appends a length of one to four bytes.
fn variable(out: &mut BytesMut, mut length: usize) {
    loop {
        out.put_u8((length & 0x7f) as u8 | if length > 0x7f { 0x80 } else { 0 });
        length >>= 7;
        if length == 0 {
            return;
        }
    }
}

/// Appends a length of two bytes and the text.
pub fn text(out: &mut BytesMut, text: &str) {
    binary(out, text.as_bytes());
}

fn binary(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u16(u16::try_from(bytes.len()).unwrap());
    out.extend_from_slice(bytes);
}

/// Appends a CONNECT without a keep-alive.
pub fn connect(out: &mut BytesMut, connect: &Connect) {
    let will = connect.will.as_ref();
    let will_flags = will.map_or(0, |will| 4 | (will.qos << 3) | (u8::from(will.retain) << 5));
    packet(out, 0x10, |body| {
        text(body, "MQTT");
        body.put_u8(if connect.v5 { 5 } else { 4 });
        body.put_u8((u8::from(connect.clean) << 1) | will_flags);
        body.put_u16(0);
        if connect.v5 {
            body.put_slice(&[5, 0x11]);
            body.put_u32(connect.expiry);
        }
        text(body, &connect.id);
        if let Some(will) = will {
            if connect.v5 {
                body.put_u8(0);
            }
            text(body, &will.topic);
            binary(body, &will.payload);
        }
    });
}

/// Appends a SUBSCRIBE.
pub fn subscribe(out: &mut BytesMut, v5: bool, id: u16, filters: &[(&str, u8)]) {
    packet(out, 0x82, |body| {
        body.put_u16(id);
        body.put_slice(if v5 { &[0] } else { &[] });
        for (filter, qos) in filters {
            text(body, filter);
            body.put_u8(*qos);
        }
    });
}

/// Appends an UNSUBSCRIBE.
pub fn unsubscribe(out: &mut BytesMut, v5: bool, id: u16, filter: &str) {
    packet(out, 0xa2, |body| {
        body.put_u16(id);
        body.put_slice(if v5 { &[0] } else { &[] });
        text(body, filter);
    });
}

/// Appends `publish`.
pub fn publish(out: &mut BytesMut, v5: bool, publish: &Publish) {
    let first = 0x30 | (u8::from(publish.dup) << 3) | (publish.qos << 1) | u8::from(publish.retain);
    packet(out, first, |body| {
        text(body, &publish.topic);
        if publish.qos > 0 {
            body.put_u16(publish.id);
        }
        body.put_slice(if v5 { &[0] } else { &[] });
        body.extend_from_slice(&publish.payload);
    });
}

/// Appends an acknowledgement: its first byte and the packet identifier.
pub fn ack(out: &mut BytesMut, first: u8, id: u16) {
    packet(out, first, |body| body.put_u16(id));
}

/// Takes the first whole packet off `input`: its first byte and body.
pub fn split(input: &mut BytesMut) -> Option<(u8, Bytes)> {
    let (mut length, mut header) = (0, 1);
    loop {
        let byte = *input.get(header)?;
        length |= usize::from(byte & 0x7f) << (7 * (header - 1));
        header += 1;
        if byte < 0x80 {
            break;
        }
    }
    if input.len() < header + length {
        return None;
    }
    let first = input[0];
    input.advance(header);
    Some((first, input.split_to(length).freeze()))
}

/// Takes a PUBLISH apart.
pub fn parse_publish(v5: bool, first: u8, mut body: Bytes) -> Publish {
    let qos = (first >> 1) & 3;
    let length = usize::from(body.get_u16());
    let topic = String::from_utf8(body.split_to(length).to_vec()).unwrap();
    let id = if qos > 0 { body.get_u16() } else { 0 };
    if v5 {
        let length = usize::from(body.get_u8());
        assert!(length < 0x80, "the tests use short properties");
        body.advance(length);
    }
    Publish { dup: first & 8 != 0, qos, retain: first & 1 != 0, id, topic, payload: body }
}
