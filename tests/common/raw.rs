//! The least MQTT subscriber: bytes on a socket, read to the very end. (rumqttc forgets what it has read when the
//! connection ends.)

use std::io::{Read, Write};
use std::net::TcpStream;

use super::DEADLINE;

/// An MQTT 3.1.1 connection, subscribed at QoS 0.
pub struct RawSubscriber {
    stream: TcpStream,
}

impl RawSubscriber {
    /// Returns after SUBACK.
    pub fn new(port: u16, filter: &str) -> RawSubscriber {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.write_all(b"\x10\x0f\x00\x04MQTT\x04\x02\x00\x00\x00\x03raw").unwrap();
        let length = u8::try_from(filter.len()).unwrap();
        stream.write_all(&[0x82, length + 5, 0, 1, 0, length]).unwrap();
        stream.write_all(filter.as_bytes()).unwrap();
        stream.write_all(&[0]).unwrap();
        let mut raw = RawSubscriber { stream };
        assert_eq!(raw.packet(), Some((0x20, vec![0, 0])), "CONNACK");
        assert_eq!(raw.packet(), Some((0x90, vec![0, 1, 0])), "SUBACK");
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

    /// First byte and body; `None` at the end of the stream.
    fn packet(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut byte = [0];
        if self.stream.read(&mut byte).unwrap() == 0 {
            return None;
        }
        let [kind] = byte;
        let (mut length, mut shift) = (0, 0);
        loop {
            self.stream.read_exact(&mut byte).unwrap();
            length |= usize::from(byte[0] & 0x7f) << shift;
            shift += 7;
            if byte[0] < 0x80 {
                break;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).unwrap();
        Some((kind, body))
    }
}
