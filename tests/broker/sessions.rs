//! Sessions that outlive connections.

use std::time::Duration;

use gatepost::config::{self, QueueFull};
use gatepost::stats::DropReason;

use crate::client::*;
use crate::sys::{NEVER, reconcile};

#[tokio::test]
async fn a_kept_session_queues_qos_1_and_2_but_not_0() {
    let broker = broker().await;
    let mut publisher = Client::connect(&broker, &Connect::v3("p")).await;
    for connect in [Connect::v3("three").kept(), Connect::v5("five").kept()] {
        let (mut client, present) = Client::connect_as(&broker, &connect).await;
        assert!(!present);
        client.subscribe(1, "t/#", 2).await;
        client.disconnect().await;
        publisher.publish(0, 0, "t/0", b"zero").await;
        publisher.publish_acked("t/1", b"one").await;
        publisher.publish(4, 2, "t/1", b"two").await;
        assert_eq!(publisher.recv().await.0, 0x50);
        publisher.ack(0x62, 2).await;
        publisher.recv().await;
        let (mut client, present) = Client::connect_as(&broker, &connect).await;
        assert!(present);
        let (first, second) = (client.recv_publish().await, client.recv_publish().await);
        assert_eq!((first.qos, &first.payload[..], first.dup), (1, &b"one"[..], false));
        assert_eq!((second.qos, &second.payload[..]), (2, &b"two"[..]));
        client.expect_nothing().await;
    }
}

#[tokio::test]
async fn unacknowledged_messages_come_again_with_dup_and_their_identifiers() {
    let broker = broker().await;
    let connect = Connect::v3("c").kept();
    let mut client = Client::connect(&broker, &connect).await;
    client.subscribe(1, "t", 2).await;
    let mut publisher = Client::connect(&broker, &Connect::v3("p")).await;
    publisher.publish_acked("t", b"1").await;
    publisher.publish_acked("t", b"2").await;
    publisher.publish(4, 1, "t", b"3").await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(client.recv_publish().await.id);
    }
    client.ack(0x40, ids[1]).await;
    client.ack(0x50, ids[2]).await;
    assert_eq!(client.recv().await.0, 0x62);
    drop(client);
    // The other version takes over what is on the way.
    let (mut client, present) = Client::connect_as(&broker, &Connect::v5("c").kept()).await;
    assert!(present);
    let again = client.recv_publish().await;
    assert_eq!((again.dup, again.id, &again.payload[..]), (true, ids[0], &b"1"[..]));
    assert_eq!(client.recv().await, Packet(0x62, ids[2].to_be_bytes().to_vec()));
    client.ack(0x40, ids[0]).await;
    client.ack(0x70, ids[2]).await;
    client.ping().await;
    client.expect_nothing().await;
}

#[tokio::test]
async fn clean_start_forgets() {
    let broker = broker().await;
    let mut client = Client::connect(&broker, &Connect::v5("c").kept()).await;
    client.subscribe(1, "t", 1).await;
    client.disconnect().await;
    let clean = Connect { clean: true, ..Connect::v5("c").kept() };
    let (mut client, present) = Client::connect_as(&broker, &clean).await;
    assert!(!present);
    client.publish_acked("t", b"x").await;
    client.expect_nothing().await;
}

#[tokio::test]
async fn sessions_end_when_they_expire() {
    let broker = broker().await;
    let short = Connect { clean: false, properties: vec![0x11, 0, 0, 0, 1], ..Connect::v5("short") };
    let client = Client::connect(&broker, &short).await;
    drop(client);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while broker.stats().sessions.get() > 0 {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (_client, present) = Client::connect_as(&broker, &short).await;
    assert!(!present);
}

#[tokio::test]
async fn disconnect_can_change_the_expiry() {
    let broker = broker().await;
    let mut client = Client::connect(&broker, &Connect::v5("c").kept()).await;
    client.send(&packet(0xE0, &[0, 5, 0x11, 0, 0, 0, 0])).await;
    assert_eq!(client.next().await, None);
    let (mut client, present) = Client::connect_as(&broker, &Connect { clean: false, ..Connect::v5("c") }).await;
    assert!(!present, "the session ended with the connection");
    client.send(&packet(0xE0, &[0, 5, 0x11, 0, 0, 0, 9])).await;
    client.expect_end(0x82).await;
}

#[tokio::test]
async fn a_full_queue_drops_what_the_policy_says_and_counts() {
    for (queue_full, expected) in [(QueueFull::DropOldest, 7..10u8), (QueueFull::DropNewest, 0..3)] {
        let broker = start(config::Broker { max_queued: 3, queue_full, sys_interval: NEVER, ..settings() }).await;
        let connect = Connect::v3("c").kept();
        let mut client = Client::connect(&broker, &connect).await;
        client.subscribe(1, "t", 1).await;
        client.disconnect().await;
        let mut publisher = Client::connect(&broker, &Connect::v3("p")).await;
        for n in 0..10u8 {
            publisher.publish_acked("t", &[n]).await;
        }
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while broker.stats().dropped.get(DropReason::QueueFull) < 7 {
            assert!(tokio::time::Instant::now() < deadline);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let mut client = Client::connect(&broker, &connect).await;
        for n in expected {
            assert_eq!(client.payload().await, [n]);
        }
        client.expect_nothing().await;
        reconcile(&broker, 10, 1, 1).await;
    }
}

#[tokio::test]
async fn expired_messages_are_not_delivered() {
    let broker = broker().await;
    let connect = Connect::v5("c").kept();
    let mut client = Client::connect(&broker, &connect).await;
    client.subscribe(1, "t", 1).await;
    client.disconnect().await;
    let mut publisher = Client::connect(&broker, &Connect::v5("p")).await;
    publisher.publish_with(2, 1, "t", &[2, 0, 0, 0, 1], b"brief").await;
    publisher.publish_with(2, 2, "t", &[2, 0, 0, 0, 100], b"lasting").await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let mut client = Client::connect(&broker, &connect).await;
    let publish = client.recv_publish().await;
    assert_eq!(publish.payload, b"lasting");
    let left = u32::from_be_bytes(publish.properties[1..5].try_into().unwrap());
    assert!((90..100).contains(&left), "{left}");
    assert_eq!(broker.stats().dropped.get(DropReason::Expired), 1);
}

#[tokio::test]
async fn the_window_is_the_clients_receive_maximum() {
    let broker = broker().await;
    let mut client = Client::connect(&broker, &Connect { properties: vec![0x21, 0, 2], ..Connect::v5("c") }).await;
    client.subscribe(1, "t", 1).await;
    let mut publisher = Client::connect(&broker, &Connect::v3("p")).await;
    for n in 0..5u8 {
        publisher.publish_acked("t", &[n]).await;
    }
    let (first, _second) = (client.recv_publish().await, client.recv_publish().await);
    client.expect_nothing().await;
    client.ack(0x40, first.id).await;
    assert_eq!(client.recv_publish().await.payload, [2]);
    client.expect_nothing().await;
}
