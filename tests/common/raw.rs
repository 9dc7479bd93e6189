//! The least MQTT subscriber: bytes on a socket, read to the very end. (rumqttc forgets what it has read when the
//! connection ends.)

use std::io::{Read, Write};
use std::net::TcpStream;

use bytes::{Bytes, BytesMut};

use super::{DEADLINE, wire};

/// An MQTT 3.1.1 connection, subscribed at QoS 0.
pub struct RawSubscriber {
    stream: TcpStream,
    /// Read, and not looked at yet.
    input: BytesMut,
}

impl RawSubscriber {
    /// Returns after SUBACK.
    pub fn new(port: u16, filter: &str) -> RawSubscriber {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.write_all(b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x00\x00\x00").unwrap();
        let length = u8::try_from(filter.len()).unwrap();
        stream.write_all(&[0x82, length + 5, 0, 1, 0, length]).unwrap();
        stream.write_all(filter.as_bytes()).unwrap();
        stream.write_all(&[0]).unwrap();
        let mut raw = RawSubscriber { stream, input: BytesMut::new() };
        assert_eq!(raw.packet(), Some((0x20, Bytes::from_static(&[0, 0]))), "CONNACK");
        assert_eq!(raw.packet(), Some((0x90, Bytes::from_static(&[0, 1, 0]))), "SUBACK");
        raw
    }

    /// Topics and payloads of what comes until the broker closes the connection.
    pub fn until_closed(mut self) -> Vec<(String, String)> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let mut messages = Vec::new();
        while let Some((kind, body)) = self.packet() {
            assert_eq!(kind & 0xf6, 0x30, "PUBLISH at QoS 0");
            let (topic, payload) = body[2..].split_at(usize::from(u16::from_be_bytes([body[0], body[1]])));
            messages.push((text(topic), text(payload)));
        }
        messages
    }

    /// First byte and body; `None` at the end of the stream, which must not be amid a packet.
    fn packet(&mut self) -> Option<(u8, Bytes)> {
        loop {
            if let Some(packet) = wire::split(&mut self.input) {
                return Some(packet);
            }
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes).unwrap() {
                0 => {
                    assert!(self.input.is_empty(), "closed amid a packet");
                    return None;
                }
                count => self.input.extend_from_slice(&bytes[..count]),
            }
        }
    }
}
