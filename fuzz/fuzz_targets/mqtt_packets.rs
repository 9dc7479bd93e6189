//! What an MQTT client may send: any bytes are packets or an error, in whatever pieces they come, and what can be
//! written is read again as it was.
#![no_main]

use bytes::BytesMut;
use gatepost::broker::packet::{
    Connack, Connect, Frame, OutgoingPublish, Packet, Reason, Recipient, SubscriptionIds, Version, check_answer,
    write_ack, write_disconnect, write_suback, write_unsuback,
};
use libfuzzer_sys::fuzz_target;

const MAX: usize = 64 * 1024;

fuzz_target!(|data: &[u8]| {
    let [piece, stream @ ..] = data else { return };
    let whole = frames(std::iter::once(stream));
    assert_eq!(whole, frames(stream.chunks(usize::from(*piece).max(1))), "the split of the bytes shows");
    let mut whole = whole.into_iter();
    let Some(first) = whole.next() else { return };
    let recipient = match Connect::parse(&first) {
        Ok(connect) => connect.recipient(),
        Err(error) => {
            let recipient = Recipient::of(error.version.unwrap_or(Version::V5));
            refuse(&recipient, |out| Connack::write_refusal(out, &recipient, error.error));
            recipient
        }
    };
    for frame in whole {
        match Packet::parse(recipient.version, frame) {
            Ok(packet) => answer(&recipient, packet),
            Err(error) => {
                return refuse(&recipient, |out| write_disconnect(out, &recipient, error.reason, error.words()));
            }
        }
    }
});

fn frames<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<Frame> {
    let (mut input, mut frames) = (BytesMut::new(), Vec::new());
    for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            match Frame::split(&mut input, MAX) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(_) => return frames,
            }
        }
    }
    frames
}

fn refuse(recipient: &Recipient, write: impl Fn(&mut BytesMut)) {
    let mut output = BytesMut::new();
    write(&mut output);
    assert!(output.len() <= recipient.maximum_packet_size);
}

fn answer(recipient: &Recipient, packet: Packet) {
    let version = recipient.version;
    let mut output = BytesMut::new();
    match packet {
        Packet::Publish(publish) => {
            let packet = OutgoingPublish {
                dup: publish.dup,
                qos: publish.qos,
                retain: publish.retain,
                id: publish.id,
                topic: &publish.topic,
                payload: &publish.payload,
                properties: &publish.properties,
                expiry: publish.expiry,
                subscription_ids: &SubscriptionIds::default(),
                alias: publish.alias,
            };
            packet.write(version, &mut output);
            assert_eq!(output.len(), packet.size(version));
            match read(version, output) {
                Packet::Publish(read) => assert_eq!(read, publish),
                other => panic!("{other:?}"),
            }
        }
        Packet::Ack(ack) => {
            write_ack(&mut output, recipient, ack);
            match read(version, output) {
                Packet::Ack(read) => assert_eq!(read, ack),
                other => panic!("{other:?}"),
            }
        }
        Packet::Subscribe(packet) if check_answer(recipient, packet.entries.len()).is_ok() => {
            let codes = vec![Reason::TOPIC_FILTER_INVALID; packet.entries.len()];
            refuse(recipient, |out| write_suback(out, recipient, packet.id, &codes));
        }
        Packet::Unsubscribe(packet) if check_answer(recipient, packet.filters.len()).is_ok() => {
            let codes = vec![Reason::TOPIC_FILTER_INVALID; packet.filters.len()];
            refuse(recipient, |out| write_unsuback(out, recipient, packet.id, &codes));
        }
        _ => {}
    }
}

fn read(version: Version, mut bytes: BytesMut) -> Packet {
    let frame = Frame::split(&mut bytes, 2 * MAX).expect("a whole packet").expect("a whole packet");
    Packet::parse(version, frame).expect("what was read before")
}
