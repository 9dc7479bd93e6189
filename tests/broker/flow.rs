//! What happens when somebody is too quick or too slow.

use std::time::Duration;

use gatepost::config::{self, QueueFull};
use gatepost::stats::DropReason;

use crate::client::*;
use crate::sys::{NEVER, reconcile, reconcile_connections};

const MANY: u32 = 100_000;

/// Publishes numbered messages with QoS 1, as fast as the broker takes them, `window` unacknowledged at most.
async fn flood(mut publisher: Client, topic: &str, count: u32, window: u32) {
    let mut acked = 0;
    for n in 0..count {
        publisher.publish(2, (n % 60_000 + 1) as u16, topic, &n.to_be_bytes()).await;
        while n + 1 - acked >= window {
            assert_eq!(publisher.recv().await.kind(), 4);
            acked += 1;
        }
    }
    while acked < count {
        assert_eq!(publisher.recv().await.kind(), 4);
        acked += 1;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quick_subscriber_gets_all_in_order_once() {
    // A queue much smaller than the flood: only the pace keeps it from running over.
    let broker = start(config::Broker { max_queued: 1000, sys_interval: NEVER, ..settings() }).await;
    let mut subscriber = Client::connect(&broker, &Connect::v3("s")).await;
    subscriber.subscribe(1, "t", 1).await;
    let publisher = Client::connect(&broker, &Connect::v3("p")).await;
    let flood = tokio::spawn(flood(publisher, "t", MANY, 500));
    for n in 0..MANY {
        assert_eq!(
            subscriber.payload().await,
            n.to_be_bytes(),
            "{:?}",
            broker.stats().dropped.nonzero().collect::<Vec<_>>()
        );
    }
    flood.await.unwrap();
    assert_eq!(broker.stats().dropped.nonzero().collect::<Vec<_>>(), []);
    reconcile(&broker, MANY, 4, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_subscriber_slows_nobody() {
    let broker = start(config::Broker { max_queued: 1000, sys_interval: NEVER, ..settings() }).await;
    let mut stalled = Client::connect(&broker, &Connect::v3("stalled")).await;
    stalled.subscribe(1, "t", 1).await;
    let mut quick = Client::connect(&broker, &Connect::v3("quick")).await;
    quick.subscribe(1, "t", 1).await;
    let publisher = Client::connect(&broker, &Connect::v3("p")).await;
    let flood = tokio::spawn(flood(publisher, "t", MANY, 500));
    for n in 0..MANY {
        assert_eq!(quick.payload().await, n.to_be_bytes());
    }
    flood.await.unwrap();
    let dropped = broker.stats().dropped.get(DropReason::QueueFull);
    assert!(dropped > u64::from(MANY) - 5000, "{dropped}");
    reconcile(&broker, MANY, 4, 2).await;
    // The stalled one is still there, and gets what its queue kept.
    assert_eq!(stalled.payload().await, 0u32.to_be_bytes());
}

/// Where mosquitto 2.0.11 loses 62 % of what it has acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_publishers_at_full_speed_to_one_subscriber_lose_nothing() {
    const PUBLISHERS: u32 = 50;
    const EACH: u32 = 2000;
    let broker = start(config::Broker { sys_interval: NEVER, ..settings() }).await;
    let mut subscriber = Client::connect(&broker, &Connect::v3("s")).await;
    subscriber.subscribe(1, "t/#", 1).await;
    let mut publishers = Vec::new();
    for _ in 0..PUBLISHERS {
        publishers.push(Client::connect(&broker, &Connect::v3("")).await);
    }
    let floods = publishers
        .into_iter()
        .enumerate()
        .map(|(n, publisher)| tokio::spawn(async move { flood(publisher, &format!("t/{n}"), EACH, 100).await }));
    let floods: Vec<_> = floods.collect();
    let mut next = vec![0; PUBLISHERS as usize];
    for _ in 0..PUBLISHERS * EACH {
        let publish = subscriber.recv_publish().await;
        subscriber.ack(0x40, publish.id).await;
        let publisher: usize = publish.topic[2..].parse().unwrap();
        let dropped = || broker.stats().dropped.nonzero().collect::<Vec<_>>();
        assert_eq!(publish.payload, u32::to_be_bytes(next[publisher]), "of publisher {publisher}: {:?}", dropped());
        next[publisher] += 1;
    }
    for flood in floods {
        flood.await.unwrap();
    }
    assert_eq!(broker.stats().dropped.nonzero().collect::<Vec<_>>(), []);
    reconcile(&broker, PUBLISHERS * EACH, 4, 1).await;
}

/// What a client finds that was away while `0..count` were published, and how many of them were dropped.
async fn missed(limits: config::Broker, count: u8) -> (Vec<u8>, u64) {
    let broker = start(config::Broker { sys_interval: NEVER, ..limits }).await;
    let mut away = Client::connect(&broker, &Connect::v5("away").kept()).await;
    away.subscribe(1, "t", 2).await;
    away.disconnect().await;
    let mut publisher = Client::connect(&broker, &Connect::v3("p")).await;
    for n in 0..count {
        publisher.publish_acked("t", &[n; 1000]).await;
    }
    let (mut back, present) = Client::connect_as(&broker, &Connect::v5("away").kept()).await;
    assert!(present);
    let dropped = broker.stats().dropped.get(DropReason::QueueFull);
    let mut found = Vec::new();
    for _ in 0..u64::from(count) - dropped {
        found.push(back.payload().await[0]);
    }
    back.expect_nothing().await;
    reconcile(&broker, count.into(), 1000, 1).await;
    (found, dropped)
}

#[tokio::test]
async fn a_full_queue_keeps_the_newest_or_the_oldest_and_counts_the_others() {
    let limits = |queue_full| config::Broker { max_queued: 10, queue_full, ..settings() };
    assert_eq!(missed(limits(QueueFull::DropOldest), 30).await, ((20..30).collect(), 20));
    assert_eq!(missed(limits(QueueFull::DropNewest), 30).await, ((0..10).collect(), 20));
    let limits = |queue_full| config::Broker { max_queued_bytes: 10_900, queue_full, ..settings() };
    assert_eq!(missed(limits(QueueFull::DropOldest), 30).await, ((20..30).collect(), 20));
    assert_eq!(missed(limits(QueueFull::DropNewest), 30).await, ((0..10).collect(), 20));
    assert_eq!(missed(settings(), 30).await, ((0..30).collect(), 0));
}

/// Publishes to itself at full speed and reads what comes: neither side may wait for the other for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_floods_itself_does_not_lock_up() {
    let broker = start(config::Broker { sys_interval: NEVER, ..settings() }).await;
    let mut client = Client::connect(&broker, &Connect::v3("self")).await;
    client.subscribe(1, "t", 0).await;
    let payload = [7; 1000];
    let (mut sent, mut got, mut pings) = (0u32, 0u32, 0);
    while got < 20_000 {
        if sent < 20_000 {
            for _ in 0..50 {
                client.publish(0, 0, "t", &payload).await;
            }
            sent += 50;
            client.send(&[0xC0, 0]).await;
            pings += 1;
        }
        while pings > 0 || got < sent {
            match client.recv().await.kind() {
                3 => got += 1,
                _ => pings -= 1,
            }
        }
    }
    reconcile(&broker, sent, 1000, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_come_and_go_without_a_trace() {
    let broker = broker().await;
    for round in 0..200u16 {
        let mut client = Client::connect(&broker, &Connect::v3("c")).await;
        client.subscribe(1, &format!("t/{round}"), 1).await;
        if round % 2 == 0 {
            client.disconnect().await;
        }
    }
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while broker.stats().sessions.get() > 0 || broker.stats().connected.get() > 0 {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    reconcile_connections(&broker).await;
}
