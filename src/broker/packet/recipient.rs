//! What an answer may say to one client beside its reason code.

use bytes::{BufMut, BytesMut};

use super::property::{self, id};
use super::{Reason, Version};

/// The client that a packet is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipient {
    /// Protocol version.
    pub version: Version,
    /// Request Problem Information, if CONNECT had it. Without it a client takes reason strings too [MQTT-3.1.2-29].
    pub problem_information: Option<bool>,
    /// Bytes of the largest packet it takes [MQTT-3.1.2-24].
    pub maximum_packet_size: usize,
}

impl Recipient {
    /// A client of which nothing but the version is known.
    pub fn of(version: Version) -> Recipient {
        Recipient { version, problem_information: None, maximum_packet_size: usize::MAX }
    }

    /// Whether the client is told in words why it gets `reason`: if it asked for them by Request Problem Information.
    /// Without that property it might take them, but clients, and tests of clients, know the short packets of mosquitto.
    fn hears(&self, reason: Reason) -> bool {
        self.version == Version::V5 && reason.is_error() && self.problem_information == Some(true)
    }

    /// The properties of an answer with `reason`, without their length: a reason string if the client may have it and
    /// the packet, which is `size` bytes long with a properties' length of one byte and without properties, stays small
    /// enough.
    pub(super) fn words(&self, reason: Reason, words: &str, size: usize) -> BytesMut {
        let mut properties = BytesMut::new();
        // Both lengths may take three bytes more.
        let fits = size + property::text_size(words) + 6 <= self.maximum_packet_size;
        if fits && words.len() <= MAX_WORDS && self.hears(reason) {
            property::put_text(&mut properties, id::REASON_STRING, words);
        }
        properties
    }

    /// Appends properties made by [`Recipient::words`], with their length.
    pub(super) fn put_properties(out: &mut BytesMut, properties: &[u8]) {
        property::put_variable(out, properties.len());
        out.put_slice(properties);
    }
}

/// Longer explanations are not sent.
const MAX_WORDS: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_explained_if_asked_for() {
        let explained = |problem_information, reason| {
            let recipient = Recipient { problem_information, ..Recipient::of(Version::V5) };
            !recipient.words(reason, "why", 3).is_empty()
        };
        let table = [
            (Reason::QUOTA_EXCEEDED, [false, true, false]),
            (Reason::PROTOCOL_ERROR, [false, true, false]),
            (Reason::SESSION_TAKEN_OVER, [false, true, false]),
            (Reason::SUCCESS, [false, false, false]),
        ];
        for (reason, expected) in table {
            assert_eq!([None, Some(true), Some(false)].map(|asked| explained(asked, reason)), expected, "{reason}");
        }
        assert!(Recipient::of(Version::V311).words(Reason::NOT_AUTHORIZED, "why", 3).is_empty());
    }

    #[test]
    fn words_never_make_a_packet_too_large() {
        let asked = Recipient { problem_information: Some(true), ..Recipient::of(Version::V5) };
        let small = |maximum_packet_size| Recipient { maximum_packet_size, ..asked };
        assert!(small(14).words(Reason::NOT_AUTHORIZED, "why", 3).is_empty());
        assert_eq!(&small(15).words(Reason::NOT_AUTHORIZED, "why", 3)[..], b"\x1F\0\x03why");
    }
}
