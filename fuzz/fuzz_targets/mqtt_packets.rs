//! What an MQTT client may send: any bytes are packets or an error, and a PUBLISH read is written as it came.
#![no_main]

use bytes::BytesMut;
use gatepost::broker::packet::{Connect, Frame, OutgoingPublish, Packet, Version};
use gatepost::broker::subscriptions::Ids;
use libfuzzer_sys::fuzz_target;

const MAX: usize = 64 * 1024;

fuzz_target!(|data: &[u8]| {
    let mut input = BytesMut::from(data);
    let Ok(Some(first)) = Frame::split(&mut input, MAX) else { return };
    let version = Connect::parse(&first).map_or(Version::V5, |connect| connect.version);
    while let Ok(Some(frame)) = Frame::split(&mut input, MAX) {
        let Ok(packet) = Packet::parse(version, frame) else { return };
        let Packet::Publish(publish) = packet else { continue };
        let packet = OutgoingPublish {
            dup: publish.dup,
            qos: publish.qos,
            retain: publish.retain,
            id: publish.id,
            topic: &publish.topic,
            payload: &publish.payload,
            properties: &publish.properties,
            expiry: publish.expiry,
            subscription_ids: &Ids::default(),
            alias: publish.alias,
        };
        let mut output = BytesMut::new();
        packet.write(version, &mut output);
        assert_eq!(output.len(), packet.size(version));
        let frame = Frame::split(&mut output, 2 * MAX).expect("a whole packet").expect("a whole packet");
        match Packet::parse(version, frame) {
            Ok(Packet::Publish(read)) => assert_eq!(read, publish),
            other => panic!("{other:?}"),
        }
    }
});
