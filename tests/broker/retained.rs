//! Retained messages.

use crate::client::*;

#[tokio::test]
async fn retained_messages_come_after_suback_with_the_flag() {
    let broker = broker().await;
    let mut client = Client::connect(&broker, &Connect::v3("c")).await;
    client.publish(3, 1, "r/a", b"A").await;
    client.publish(3, 2, "r/b", b"B").await;
    client.publish(1, 0, "r/c", b"C").await;
    client.publish(2, 3, "r/d", b"not retained").await;
    for _ in 0..3 {
        assert_eq!(client.recv().await.kind(), 4);
    }
    client.subscribe(1, "r/#", 1).await;
    let mut seen = Vec::new();
    for _ in 0..3 {
        let publish = client.recv_publish().await;
        assert!(publish.retain);
        seen.push((publish.topic, publish.qos, publish.payload));
    }
    seen.sort();
    let expected = [("r/a", 1, b"A"), ("r/b", 1, b"B"), ("r/c", 0, b"C")];
    assert_eq!(seen, expected.map(|(topic, qos, payload)| (topic.to_owned(), qos, payload.to_vec())));
    client.expect_nothing().await;
}

#[tokio::test]
async fn an_empty_payload_deletes_and_is_delivered_live() {
    let broker = broker().await;
    let mut client = Client::connect(&broker, &Connect::v3("c")).await;
    client.publish(1, 0, "r", b"1").await;
    client.publish(1, 0, "r", b"2").await;
    client.subscribe(1, "r", 0).await;
    let publish = client.recv_publish().await;
    assert_eq!((publish.retain, &publish.payload[..]), (true, &b"2"[..]));
    client.publish(1, 0, "r", b"").await;
    let publish = client.recv_publish().await;
    assert_eq!((publish.retain, &publish.payload[..]), (false, &b""[..]));
    client.subscribe(2, "r", 0).await;
    client.expect_nothing().await;
}

#[tokio::test]
async fn retain_handling_decides() {
    let broker = broker().await;
    let mut client = Client::connect(&broker, &Connect::v5("c")).await;
    client.publish(1, 0, "r", b"x").await;
    client.subscribe(1, "r", 0x20).await;
    client.expect_nothing().await;
    client.unsubscribe(2, "r").await;
    client.subscribe(3, "r", 0x10).await;
    assert_eq!(client.payload().await, b"x");
    client.subscribe(4, "r", 0x10).await;
    client.expect_nothing().await;
    client.subscribe(5, "r", 0).await;
    assert_eq!(client.payload().await, b"x");
}

#[tokio::test]
async fn all_of_many_come() {
    let broker = broker().await;
    let mut client = Client::connect(&broker, &Connect::v3("c")).await;
    for n in 0..3000u16 {
        client.publish(1, 0, &format!("many/{n}"), &n.to_be_bytes()).await;
    }
    client.ping().await;
    client.subscribe(1, "many/+", 0).await;
    let mut seen = vec![false; 3000];
    for _ in 0..3000 {
        let payload = client.payload().await;
        let n = u16::from_be_bytes([payload[0], payload[1]]);
        assert!(!std::mem::replace(&mut seen[usize::from(n)], true), "{n} twice");
    }
}

/// A retained message published while somebody subscribes comes once: retained or live.
#[tokio::test]
async fn a_race_with_subscribe_neither_loses_nor_repeats() {
    let broker = broker().await;
    let mut publisher = Client::connect(&broker, &Connect::v3("p")).await;
    for n in 0..200u8 {
        let mut subscriber = Client::connect(&broker, &Connect::v3("s")).await;
        let topic = format!("race/{n}");
        let payload = [n];
        let publish = publisher.publish(1, 0, &topic, &payload);
        let subscribe = async {
            subscriber.send(&packet(0x82, &[&[0, 1][..], &string(&topic), &[0]].concat())).await;
            // The message may overtake SUBACK, which is allowed.
            let mut messages = 0;
            for _ in 0..2 {
                let packet = subscriber.recv().await;
                messages += u8::from(packet.kind() == 3);
            }
            assert_eq!(messages, 1);
            subscriber.ping().await;
        };
        tokio::join!(publish, subscribe);
    }
}
