//! QoS, subscriptions, options and properties.

use crate::client::*;

#[tokio::test]
async fn qos_is_the_lower_of_publisher_and_subscription() {
    let broker = broker().await;
    let mut publisher = Client::connect(&broker, &Connect::v5("p")).await;
    for granted in 0..3u8 {
        let mut subscriber = Client::connect(&broker, &Connect::v3("s")).await;
        assert_eq!(subscriber.subscribe(1, "t", granted).await, granted);
        for qos in 0..3u8 {
            publisher.publish(qos << 1, 5, "t", &[qos]).await;
            match qos {
                1 => assert_eq!(publisher.recv().await, Packet(0x40, vec![0, 5])),
                2 => {
                    assert_eq!(publisher.recv().await, Packet(0x50, vec![0, 5]));
                    publisher.ack(0x62, 5).await;
                    assert_eq!(publisher.recv().await, Packet(0x70, vec![0, 5]));
                }
                _ => {}
            }
            let publish = subscriber.recv_publish().await;
            assert_eq!((publish.qos, publish.payload), (qos.min(granted), vec![qos]));
        }
    }
}

#[tokio::test]
async fn qos_2_to_a_subscriber_takes_four_packets() {
    let broker = broker().await;
    let mut client = Client::connect(&broker, &Connect::v3("c")).await;
    client.subscribe(1, "t", 2).await;
    client.publish(4, 9, "t", b"x").await;
    let mut sent = [client.recv().await, client.recv().await];
    sent.sort_by_key(|packet| packet.0);
    assert_eq!(sent[1], Packet(0x50, vec![0, 9]));
    assert_eq!(sent[0].0, 0x34);
    client.ack(0x50, 1).await;
    assert_eq!(client.recv().await, Packet(0x62, vec![0, 1]));
    client.ack(0x70, 1).await;
    client.ack(0x62, 9).await;
    assert_eq!(client.recv().await, Packet(0x70, vec![0, 9]));
    client.expect_nothing().await;
}

#[tokio::test]
async fn a_qos_2_message_sent_twice_is_published_once() {
    let broker = broker().await;
    let mut subscriber = Client::connect(&broker, &Connect::v3("s")).await;
    subscriber.subscribe(1, "t", 0).await;
    let publisher_kept = Connect::v3("p").kept();
    let mut publisher = Client::connect(&broker, &publisher_kept).await;
    publisher.publish(4, 3, "t", b"once").await;
    assert_eq!(publisher.recv().await.0, 0x50);
    drop(publisher);
    let mut publisher = Client::connect(&broker, &publisher_kept).await;
    publisher.publish(0xC, 3, "t", b"once").await;
    assert_eq!(publisher.recv().await, Packet(0x50, vec![0, 3]));
    publisher.ack(0x62, 3).await;
    assert_eq!(publisher.recv().await, Packet(0x70, vec![0, 3]));
    publisher.publish(4, 3, "t", b"next").await;
    assert_eq!(publisher.recv().await.0, 0x50);
    assert_eq!(subscriber.payload().await, b"once");
    assert_eq!(subscriber.payload().await, b"next");
    subscriber.expect_nothing().await;
}

#[tokio::test]
async fn unknown_identifiers_are_answered() {
    let broker = broker().await;
    let mut v5 = Client::connect(&broker, &Connect::v5("5")).await;
    v5.ack(0x62, 7).await;
    assert_eq!(v5.recv().await, Packet(0x70, vec![0, 7]));
    v5.ack(0x50, 7).await;
    assert_eq!(v5.recv().await, Packet(0x62, vec![0, 7]));
    v5.ack(0x40, 7).await;
    v5.send(&[0x50, 3, 0, 7, 0x80]).await;
    v5.ping().await;
    let mut v3 = Client::connect(&broker, &Connect::v3("3")).await;
    v3.ack(0x62, 7).await;
    assert_eq!(v3.recv().await, Packet(0x70, vec![0, 7]));
}

#[tokio::test]
async fn overlapping_subscriptions_deliver_once_with_all_identifiers() {
    let broker = broker().await;
    let mut client = Client::connect(&broker, &Connect::v5("c")).await;
    client.subscribe_with(1, &[0x0B, 11], "a/#", 0).await;
    client.subscribe_with(2, &[0x0B, 22], "a/+", 1).await;
    client.subscribe(3, "b", 0).await;
    client.publish(2, 5, "a/x", b"m").await;
    let first = client.recv().await;
    assert_eq!(first.kind(), 4, "PUBACK");
    let publish = client.recv_publish().await;
    assert_eq!(publish.qos, 1);
    let mut ids: Vec<u8> = publish.properties.chunks(2).map(|property| property[1]).collect();
    ids.sort_unstable();
    assert_eq!((ids, publish.payload), (vec![11, 22], b"m".to_vec()));
    client.expect_nothing().await;
}

#[tokio::test]
async fn no_local_leaves_out_own_messages() {
    let broker = broker().await;
    let mut own = Client::connect(&broker, &Connect::v5("own")).await;
    let mut other = Client::connect(&broker, &Connect::v5("other")).await;
    own.subscribe(1, "t", 4).await;
    own.publish(0, 0, "t", b"mine").await;
    own.ping().await;
    other.publish(0, 0, "t", b"theirs").await;
    assert_eq!(own.payload().await, b"theirs");
}

#[tokio::test]
async fn retain_as_published_keeps_the_flag() {
    let broker = broker().await;
    let mut client = Client::connect(&broker, &Connect::v5("c")).await;
    client.subscribe(1, "plain/+", 0).await;
    client.subscribe(2, "kept/+", 8).await;
    client.publish(1, 0, "plain/x", b"1").await;
    client.publish(1, 0, "kept/x", b"2").await;
    let (a, b) = (client.recv_publish().await, client.recv_publish().await);
    assert_eq!((a.retain, b.retain), (a.topic == "kept/x", b.topic == "kept/x"));
}

#[tokio::test]
async fn properties_go_through_and_expiry_counts_down() {
    let broker = broker().await;
    let mut client = Client::connect(&broker, &Connect::v5("c")).await;
    client.subscribe(1, "t", 0).await;
    let forwarded =
        [&[1, 1, 0x26][..], &string("key"), &string("value"), &[8], &string("re/ply"), &[9, 0, 1, 7]].concat();
    let properties = [&[2, 0, 0, 0, 100][..], &forwarded].concat();
    client.publish_with(0, 0, "t", &properties, b"m").await;
    let publish = client.recv_publish().await;
    assert_eq!(publish.properties, properties);
    let mut v3 = Client::connect(&broker, &Connect::v3("3")).await;
    v3.subscribe(1, "t", 0).await;
    client.publish_with(0, 0, "t", &properties, b"m").await;
    assert_eq!(v3.recv_publish().await.payload, b"m");
}

#[tokio::test]
async fn topic_aliases_both_ways() {
    let broker = broker().await;
    let mut publisher = Client::connect(&broker, &Connect::v5("p")).await;
    let mut subscriber = Client::connect(&broker, &Connect { properties: vec![0x22, 0, 1], ..Connect::v5("s") }).await;
    subscriber.subscribe(1, "#", 0).await;
    publisher.publish_with(0, 0, "long/topic", &[0x23, 0, 3], b"1").await;
    publisher.publish_with(0, 0, "", &[0x23, 0, 3], b"2").await;
    publisher.publish_with(0, 0, "other", &[0x23, 0, 3], b"3").await;
    publisher.publish_with(0, 0, "", &[0x23, 0, 3], b"4").await;
    let mut topics = Vec::new();
    for _ in 0..4 {
        let publish = subscriber.recv_publish().await;
        topics.push((publish.topic, publish.properties, publish.payload));
    }
    topics.sort_by_key(|(.., payload)| payload.clone());
    let alias = vec![0x23, 0, 1];
    let told =
        topics.iter().find(|(topic, properties, _)| !topic.is_empty() && *properties == alias).unwrap().0.clone();
    let plain: Vec<_> = topics
        .iter()
        .map(|(topic, properties, _)| {
            if topic.is_empty() {
                assert_eq!(*properties, alias);
                told.clone()
            } else {
                topic.clone()
            }
        })
        .collect();
    assert_eq!(plain, ["long/topic", "long/topic", "other", "other"]);
    publisher.publish_with(0, 0, "", &[0x23, 0, 9], b"unset").await;
    publisher.expect_end(0x82).await;
}

#[tokio::test]
async fn filters_get_a_code_each() {
    let broker = broker().await;
    let mut v5 = Client::connect(&broker, &Connect::v5("5")).await;
    let filters = [string("a/b"), vec![1], string("$share/g/t"), vec![0], string("#"), vec![2]];
    v5.send(&packet(0x82, &[&[0, 9, 0][..], &filters.concat()].concat())).await;
    assert_eq!(v5.recv().await, Packet(0x90, vec![0, 9, 0, 1, 0, 2]));
    let mut v3 = Client::connect(&broker, &Connect::v3("3")).await;
    v3.send(&packet(0x82, &[&[0, 9][..], &filters.concat()].concat())).await;
    assert_eq!(v3.recv().await, Packet(0x90, vec![0, 9, 1, 0, 2]));
}

#[tokio::test]
async fn unsubscribing_ends_delivery_and_says_what_was_not_there() {
    let broker = broker().await;
    let mut v5 = Client::connect(&broker, &Connect::v5("5")).await;
    v5.subscribe(1, "t", 0).await;
    v5.subscribe(2, "u", 0).await;
    assert_eq!(v5.unsubscribe(3, "t").await, Packet(0xB0, vec![0, 3, 0, 0]));
    assert_eq!(v5.unsubscribe(4, "t").await, Packet(0xB0, vec![0, 4, 0, 0x11]));
    v5.publish(0, 0, "t", b"gone").await;
    v5.publish(0, 0, "u", b"there").await;
    assert_eq!(v5.payload().await, b"there");
    let mut v3 = Client::connect(&broker, &Connect::v3("3")).await;
    assert_eq!(v3.unsubscribe(5, "t").await, Packet(0xB0, vec![0, 5]));
}

#[tokio::test]
async fn a_publisher_that_subscribes_afterwards_does_not_meet_its_message() {
    let broker = broker().await;
    let mut client = Client::connect(&broker, &Connect::v3("c")).await;
    client.subscribe(1, "a/+", 0).await;
    for n in 0..50u8 {
        let topic = format!("b{n}/x");
        client.publish(0, 0, &topic, b"before").await;
        client.subscribe(2, &topic, 0).await;
        client.publish(0, 0, &topic, &[n]).await;
        assert_eq!(client.payload().await, [n]);
    }
}

#[tokio::test]
async fn larger_than_the_client_takes_is_not_sent() {
    let broker = broker().await;
    let small = Connect { properties: vec![0x27, 0, 0, 0, 50], ..Connect::v5("small") };
    let mut small = Client::connect(&broker, &small).await;
    small.subscribe(1, "t", 1).await;
    let mut publisher = Client::connect(&broker, &Connect::v5("p")).await;
    publisher.publish_acked("t", &[0; 60]).await;
    publisher.publish_acked("t", b"fits").await;
    assert_eq!(small.payload().await, b"fits");
    assert_eq!(broker.stats().dropped.get(gatepost::stats::DropReason::TooLong), 1);
}
