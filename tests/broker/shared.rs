//! Shared subscriptions: each message to one member of a group (MQTT 5.0, section 4.8.2).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use gatepost::broker::Broker;
use gatepost::config;
use gatepost::stats::DropReason;
use tokio::sync::Notify;

use crate::client::*;
use crate::sys::{NEVER, reconcile};

const SHARE: &str = "$share/g/t/+";

const MANY: u32 = 20_000;

async fn member(broker: &Broker, connect: &Connect) -> Client {
    let mut client = Client::connect(broker, connect).await;
    assert_eq!(client.subscribe(1, SHARE, 1).await, 1);
    client
}

/// Takes `count` messages and acknowledges them.
async fn take(client: &mut Client, count: usize) -> Vec<u8> {
    let mut numbers = Vec::new();
    for _ in 0..count {
        numbers.extend(client.payload().await);
    }
    numbers
}

async fn publish(publisher: &mut Client, numbers: impl IntoIterator<Item = u8>) {
    for n in numbers {
        publisher.publish_acked("t/1", &[n]).await;
    }
}

fn nothing_dropped(broker: &Broker) {
    assert_eq!(broker.stats().dropped.nonzero().collect::<Vec<_>>(), []);
}

#[tokio::test]
async fn members_take_turns_whatever_their_version() {
    let broker = broker().await;
    let mut members = Vec::new();
    for connect in [Connect::v5("a"), Connect::v3("b"), Connect::v5("c")] {
        members.push(member(&broker, &connect).await);
    }
    // To subscribe again is not to be a member twice.
    assert_eq!(members[0].subscribe(2, SHARE, 1).await, 1);
    let mut publisher = Client::connect(&broker, &Connect::v3("p")).await;
    publish(&mut publisher, 0..60).await;
    let mut all = BTreeSet::new();
    for member in &mut members {
        let numbers = take(member, 20).await;
        assert!(numbers.is_sorted(), "{numbers:?}");
        all.extend(numbers);
        member.expect_nothing().await;
    }
    assert_eq!(all.len(), 60);
    nothing_dropped(&broker);
}

#[tokio::test]
async fn every_group_and_every_subscription_of_its_own_gets_all() {
    let broker = broker().await;
    let mut both = member(&broker, &Connect::v5("both")).await;
    let mut other = member(&broker, &Connect::v5("other")).await;
    let mut second = Client::connect(&broker, &Connect::v5("second")).await;
    second.subscribe(1, "$share/h/t/+", 1).await;
    second.subscribe(2, "$share/g/t/#", 0).await;
    both.subscribe(2, "t/#", 0).await;
    let mut publisher = Client::connect(&broker, &Connect::v3("p")).await;
    publish(&mut publisher, 0..10).await;
    let mut shared = BTreeSet::new();
    let mut own = Vec::new();
    for _ in 0..15 {
        let publish = both.recv_publish().await;
        if publish.qos == 0 {
            own.extend(publish.payload);
        } else {
            shared.extend(publish.payload);
        }
    }
    assert_eq!(own, (0..10).collect::<Vec<u8>>());
    shared.extend(take(&mut other, 5).await);
    assert_eq!(shared.len(), 10);
    let mut twice = take(&mut second, 20).await;
    twice.sort_unstable();
    assert_eq!(twice, (0..10).flat_map(|n| [n, n]).collect::<Vec<u8>>());
}

#[tokio::test]
async fn options_hold_and_retained_messages_do_not_come() {
    let broker = broker().await;
    let mut publisher = Client::connect(&broker, &Connect::v5("p")).await;
    publisher.publish(3, 1, "t/1", b"retained").await;
    publisher.recv().await;
    let mut client = Client::connect(&broker, &Connect::v5("c")).await;
    // QoS 1, retain as published; subscription identifier 9.
    assert_eq!(client.subscribe_with(1, &[0x0B, 9], SHARE, 0x09).await, 1);
    client.expect_nothing().await;
    publisher.publish(5, 2, "t/1", b"2").await;
    let publish = client.recv_publish().await;
    assert_eq!((publish.qos, publish.retain, publish.properties), (1, true, vec![0x0B, 9]));
    client.ack(0x40, publish.id).await;
    client.subscribe_with(2, &[0x0B, 8], SHARE, 0x01).await;
    publisher.publish(1, 0, "t/1", b"0").await;
    loop {
        let publish = client.recv_publish().await;
        if publish.payload == b"0" {
            assert_eq!((publish.qos, publish.retain, publish.properties), (0, false, vec![0x0B, 8]));
            break;
        }
    }
}

#[tokio::test]
async fn what_is_not_a_share_is_refused() {
    let broker = broker().await;
    let mut v5 = Client::connect(&broker, &Connect::v5("5")).await;
    for filter in
        ["$share/g/", "$share/g/t#", "$share/g/#/t", "$share/", "$share//t", "$share/g", "$share/+/t", "$share/g#/t"]
    {
        for connect in [Connect::v3("c"), Connect::v5("c")] {
            let properties: &[u8] = if connect.v5 { &[0] } else { &[] };
            for (first, options) in [(0x82, &[0][..]), (0xA2, &[])] {
                let mut client = Client::connect(&broker, &connect).await;
                client.send(&packet(first, &[&[0, 1], properties, &string(filter), options].concat())).await;
                client.expect_end(0x82).await;
            }
        }
    }
    // No Local.
    v5.send(&packet(0x82, &[&[0, 1, 0][..], &string(SHARE), &[4]].concat())).await;
    v5.expect_end(0x82).await;
}

#[tokio::test]
async fn groups_are_limited() {
    let broker = broker().await;
    let mut client = Client::connect(&broker, &Connect::v5("c")).await;
    let filters: Vec<u8> = (0..1025).flat_map(|n| [string(&format!("$share/{n}/t")), vec![0]].concat()).collect();
    client.send(&packet(0x82, &[&[0, 1, 0][..], &filters].concat())).await;
    let codes = client.recv().await.1[3..].to_vec();
    assert_eq!((codes.len(), codes.iter().position(|code| *code == 0x97)), (1025, Some(1024)));
    let mut other = Client::connect(&broker, &Connect::v5("d")).await;
    assert_eq!(other.subscribe(1, "$share/0/t", 0).await, 0);
    assert_eq!(other.subscribe(1, "t", 0).await, 0);
}

#[tokio::test]
async fn who_unsubscribes_leaves_what_was_not_sent_to_the_others() {
    let broker = start(config::Broker { max_inflight: 2, ..settings() }).await;
    let mut leaver = member(&broker, &Connect::v5("leaver")).await;
    let mut stayer = member(&broker, &Connect::v5("stayer")).await;
    assert_eq!(stayer.unsubscribe(2, "$share/h/t/+").await, Packet(0xB0, vec![0, 2, 0, 0x11]));
    let mut publisher = Client::connect(&broker, &Connect::v3("p")).await;
    publish(&mut publisher, 0..10).await;
    // Neither acknowledges, so two are on the way to each and the rest waits.
    let mut ids = Vec::new();
    let mut all = BTreeSet::new();
    for client in [&mut leaver, &mut stayer] {
        for _ in 0..2 {
            let publish = client.recv_publish().await;
            all.extend(publish.payload);
            ids.push(publish.id);
        }
    }
    assert_eq!(leaver.unsubscribe(3, SHARE).await, Packet(0xB0, vec![0, 3, 0, 0]));
    assert_eq!(leaver.unsubscribe(4, SHARE).await, Packet(0xB0, vec![0, 4, 0, 0x11]));
    stayer.ack(0x40, ids[2]).await;
    stayer.ack(0x40, ids[3]).await;
    all.extend(take(&mut stayer, 6).await);
    assert_eq!(all.len(), 10);
    publish(&mut publisher, [10]).await;
    assert_eq!(stayer.payload().await, [10]);
    leaver.expect_nothing().await;
    nothing_dropped(&broker);
}

#[tokio::test]
async fn a_member_that_dies_loses_nothing_of_qos_1() {
    let broker = start(config::Broker { max_inflight: 2, ..settings() }).await;
    let mut dying = member(&broker, &Connect::v3("dying")).await;
    let mut living = member(&broker, &Connect::v3("living")).await;
    let mut publisher = Client::connect(&broker, &Connect::v3("p")).await;
    publish(&mut publisher, 0..20).await;
    // One it has, two were sent and not acknowledged, the others were never sent.
    let done = dying.payload().await;
    dying.recv_publish().await;
    dying.recv_publish().await;
    dying.ping().await;
    drop(dying);
    let mut all = BTreeSet::from_iter(take(&mut living, 19).await);
    assert!(!all.contains(&done[0]));
    all.extend(done);
    assert_eq!(all.len(), 20);
    living.expect_nothing().await;
    nothing_dropped(&broker);
}

#[tokio::test]
async fn a_kept_session_is_used_while_nobody_is_connected() {
    let broker = broker().await;
    let kept = Connect::v5("kept").kept();
    let mut client = member(&broker, &kept).await;
    client.disconnect().await;
    let mut connected = member(&broker, &Connect::v5("connected")).await;
    let mut publisher = Client::connect(&broker, &Connect::v5("p")).await;
    publish(&mut publisher, 0..4).await;
    assert_eq!(take(&mut connected, 4).await, [0, 1, 2, 3]);
    connected.ping().await;
    connected.disconnect().await;
    publisher.publish(0, 0, "t/1", b"qos 0").await;
    publish(&mut publisher, 4..8).await;
    let (mut client, present) = Client::connect_as(&broker, &kept).await;
    assert!(present);
    assert_eq!(take(&mut client, 4).await, [4, 5, 6, 7]);
    publish(&mut publisher, [8]).await;
    assert_eq!(client.payload().await, [8], "it is still a member");
    assert_eq!(broker.stats().dropped.nonzero().collect::<Vec<_>>(), [(DropReason::Offline, 1)]);
    // Clean start leaves the group, which ends with its last member.
    client.disconnect().await;
    let mut client = Client::connect(&broker, &Connect::v5("kept")).await;
    let unread = broker.bus().stats().unread.get();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while broker.bus().stats().unread.get() == unread {
        assert!(tokio::time::Instant::now() < deadline, "the group still reads");
        publish(&mut publisher, [9]).await;
    }
    client.expect_nothing().await;
}

/// Publishes `count` numbered messages with QoS 1, 100 unacknowledged at most.
async fn flood(mut publisher: Client, count: u32) {
    let mut acked = 0;
    for n in 0..count {
        publisher.publish(2, (n % 60_000 + 1) as u16, "t/1", &n.to_be_bytes()).await;
        while n + 1 - acked >= 100 || (n + 1 == count && acked < count) {
            assert_eq!(publisher.recv().await.kind(), 4);
            acked += 1;
        }
    }
}

/// A member that takes all it can get, until `total` is reached by all of them.
async fn work(mut member: Client, got: Arc<AtomicU32>, total: u32, done: Arc<Notify>) -> Vec<Vec<u8>> {
    let mut mine = Vec::new();
    loop {
        let finished = done.notified();
        if got.load(Ordering::SeqCst) >= total {
            done.notify_waiters();
            return mine;
        }
        tokio::select! {
            payload = member.payload() => {
                mine.push(payload);
                got.fetch_add(1, Ordering::SeqCst);
            }
            () = finished => return mine,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quick_members_share_a_flood_and_a_stalled_one_holds_up_nobody() {
    let broker = start(config::Broker { max_queued: 1000, ..settings() }).await;
    let stalled = member(&broker, &Connect::v3("stalled")).await;
    let (got, done) = (Arc::new(AtomicU32::new(0)), Arc::new(Notify::new()));
    let mut workers = Vec::new();
    for id in ["a", "b"] {
        let member = member(&broker, &Connect::v3(id)).await;
        workers.push(tokio::spawn(work(member, got.clone(), MANY, done.clone())));
    }
    flood(Client::connect(&broker, &Connect::v3("p")).await, MANY).await;
    // What the stalled one was given is for the others when it goes.
    drop(stalled);
    let mut all = Vec::new();
    for worker in workers {
        let mine = worker.await.unwrap();
        assert!(mine.len() > MANY as usize / 10, "{}", mine.len());
        all.extend(mine);
    }
    all.sort_unstable();
    let expected: Vec<_> = (0..MANY).map(|n| n.to_be_bytes().to_vec()).collect();
    assert!(all == expected, "{} messages", all.len());
    nothing_dropped(&broker);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_of_stalled_members_slows_nobody() {
    let broker = start(config::Broker { max_queued: 1000, sys_interval: NEVER, ..settings() }).await;
    let mut first = member(&broker, &Connect::v3("first")).await;
    let _second = member(&broker, &Connect::v3("second")).await;
    let mut watcher = Client::connect(&broker, &Connect::v3("watcher")).await;
    watcher.subscribe(1, "t/1", 1).await;
    let flood = tokio::spawn(flood(Client::connect(&broker, &Connect::v3("p")).await, MANY));
    for n in 0..MANY {
        assert_eq!(watcher.payload().await, n.to_be_bytes());
    }
    flood.await.unwrap();
    assert_eq!(first.payload().await, 0u32.to_be_bytes());
    let deadline = tokio::time::Instant::now() + PATIENCE;
    // Two queues and two windows are kept.
    while broker.stats().dropped.get(DropReason::QueueFull) < u64::from(MANY) - 2 * 1032 - 1 {
        assert!(tokio::time::Instant::now() < deadline, "{:?}", broker.stats().dropped.get(DropReason::QueueFull));
        tokio::task::yield_now().await;
    }
    reconcile(&broker, MANY, 4, 2).await;
}
