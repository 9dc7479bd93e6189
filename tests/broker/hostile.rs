//! What no client should send.

use gatepost::config;
use gatepost::qos::Qos;

use crate::client::*;
use crate::sys::reconcile_connections;

#[tokio::test]
async fn broken_packets_end_the_connection_with_the_right_reason() {
    let broker = broker().await;
    let table: [(&str, Vec<u8>, u8); 13] = [
        ("second CONNECT", Connect::v5("x").bytes(), 0x82),
        ("wildcard in a topic", packet(0x30, b"\0\x01#\0"), 0x81),
        ("topic not UTF-8", packet(0x30, b"\0\x01\xFF\0"), 0x81),
        ("NUL in a topic", packet(0x30, b"\0\x01\0\0"), 0x81),
        ("QoS 3", packet(0x36, b"\0\x01a\0\x01\0"), 0x81),
        ("packet id 0", packet(0x32, b"\0\x01a\0\0\0"), 0x82),
        ("reserved flags", packet(0x80, b"\0\x01\0\0\x01a\0"), 0x81),
        ("no filters", packet(0x82, b"\0\x01\0"), 0x81),
        ("remaining length of five bytes", vec![0x30, 0x80, 0x80, 0x80, 0x80, 1], 0x81),
        ("larger than max_packet_size", vec![0x30, 0x80, 0x80, 0x80, 0x01], 0x95),
        ("a server's packet", packet(0xD0, b""), 0x82),
        ("AUTH", packet(0xF0, b""), 0x82),
        ("type 0", packet(0, b""), 0x82),
    ];
    for (name, bytes, reason) in table {
        let mut client = Client::connect(&broker, &Connect::v5("hostile")).await;
        client.send(&bytes).await;
        assert_eq!(client.next().await.map(|Packet(first, body)| (first, body[0])), Some((0xE0, reason)), "{name}");
        assert_eq!(client.next().await, None, "{name}");
        let mut client = Client::connect(&broker, &Connect::v3("hostile")).await;
        let v3 = match name {
            "no filters" => packet(0x82, b"\0\x01"),
            _ => bytes,
        };
        client.send(&v3).await;
        assert_eq!(client.next().await, None, "{name} in 3.1.1");
    }
    let mut client = Client::connect(&broker, &Connect::v3("fine")).await;
    client.ping().await;
}

#[tokio::test]
async fn limits_of_the_config_are_held() {
    let strict = config::Broker { max_qos: Qos::AtLeastOnce, retained: false, max_payload_size: 10, ..settings() };
    let broker = start(strict).await;
    for (flags, payload, reason) in [(4, &b""[..], 0x9B), (1, b"", 0x9A), (0, &[0; 11], 0x95)] {
        for connect in [Connect::v5("c"), Connect::v3("c")] {
            let mut client = Client::connect(&broker, &connect).await;
            client.publish(flags, 1, "t", payload).await;
            client.expect_end(reason).await;
        }
    }
    let mut client = Client::connect(&broker, &Connect::v5("s")).await;
    assert_eq!(client.subscribe(1, "t", 2).await, 1, "granted what is offered");
}

#[tokio::test]
async fn only_the_broker_publishes_below_sys() {
    let broker = broker().await;
    let mut client = Client::connect(&broker, &Connect::v5("c")).await;
    client.subscribe(1, "$SYS/#", 0).await;
    client.publish(2, 8, "$SYS/broker/version", b"forged").await;
    assert_eq!(client.recv().await, Packet(0x40, vec![0, 8, 0x87]));
    client.expect_nothing().await;
}

#[tokio::test]
async fn more_than_receive_maximum_ends_the_connection() {
    let broker = broker().await;
    let mut client = Client::connect(&broker, &Connect::v5("c")).await;
    for id in 1..=20u16 {
        client.publish(4, id, "t", b"").await;
        assert_eq!(client.recv().await.0, 0x50);
    }
    client.publish(4, 21, "t", b"").await;
    client.expect_end(0x93).await;
}

/// Packets arrive in any pieces.
#[tokio::test]
async fn one_byte_at_a_time() {
    let broker = broker().await;
    let mut client = Client::open(broker.local_addrs()[0]).await;
    let packets =
        [Connect::v3("slow").bytes(), packet(0x82, b"\0\x01\0\x01a\0"), packet(0x30, b"\0\x01apayload")].concat();
    for byte in packets {
        client.send(&[byte]).await;
    }
    assert_eq!(client.recv().await.kind(), 2);
    assert_eq!(client.recv().await.kind(), 9);
    assert_eq!(client.recv_publish().await.payload, b"payload");
}

/// Random changes to good packets never take the broker down.
#[tokio::test]
async fn mutated_streams_do_no_harm() {
    let broker = broker().await;
    let good = [
        Connect::v5("mutant").bytes(),
        packet(0x82, b"\0\x01\0\0\x03a/#\x2A"),
        packet(0x34, b"\0\x03a/b\0\x05\x07\x02\0\0\0\x09\x01\x01payload"),
        packet(0x62, b"\0\x05"),
        packet(0xA2, b"\0\x06\0\0\x03a/#"),
        packet(0xC0, b""),
        packet(0xE0, b"\x04"),
    ]
    .concat();
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..300 {
        let mut bytes = good.clone();
        for _ in 0..random.usize(1..6) {
            let at = random.usize(0..bytes.len());
            match random.u8(0..3) {
                0 => bytes[at] = random.u8(..),
                1 => drop(bytes.remove(at)),
                _ => bytes.insert(at, random.u8(..)),
            }
        }
        let mut client = Client::open(broker.local_addrs()[0]).await;
        client.send(&bytes).await;
    }
    let mut client = Client::connect(&broker, &Connect::v5("after")).await;
    client.subscribe(1, "x", 0).await;
    client.publish(0, 0, "x", b"alive").await;
    assert_eq!(client.payload().await, b"alive");
    reconcile_connections(&broker).await;
}
