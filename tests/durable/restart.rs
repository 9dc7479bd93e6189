//! One thing after the other, over a restart.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::client::*;
use crate::world::{How, World};

/// Runs `test` with a stop and with a kill.
macro_rules! both_ways {
    ($($name:ident)*) => {
        mod stopped {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() { super::$name(super::How::Stopped).await })*
        }
        mod killed {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() { super::$name(super::How::Killed).await })*
        }
    };
}

both_ways! {
    subscriptions_queues_and_retained_messages_are_there_again
    what_was_sent_comes_again_with_dup_and_its_identifier
    a_qos_2_message_from_a_client_is_taken_once
    a_qos_2_message_to_a_client_goes_on_where_it_was
    members_of_a_group_get_all_of_it
    messages_expire_meanwhile
    sessions_expire_meanwhile
    what_was_forgotten_stays_forgotten
    retained_messages_change_and_go
}

async fn publish_twice(publisher: &mut Client, id: u16, topic: &str, payload: &[u8]) {
    publisher.publish(4, id, topic, payload).await;
    assert_eq!(publisher.recv().await, Packet(0x50, id.to_be_bytes().to_vec()));
    publisher.ack(0x62, id).await;
    assert_eq!(publisher.recv().await, Packet(0x70, id.to_be_bytes().to_vec()));
}

async fn subscriptions_queues_and_retained_messages_are_there_again(how: How) {
    let world = World::start();
    let (three, five) = (Connect::v3("three").kept(), Connect::v5("five").kept());
    for connect in [&three, &five] {
        let mut client = world.connect(connect).await;
        client.subscribe(1, "t/#", 2).await;
        client.subscribe(2, "gone", 2).await;
        client.unsubscribe(3, "gone").await;
        client.disconnect().await;
    }
    let mut publisher = world.connect(&Connect::v3("p")).await;
    publisher.publish(3, 1, "kept", b"retained").await;
    assert_eq!(publisher.recv().await, Packet(0x40, vec![0, 1]));
    publisher.publish_acked("t/1", b"one").await;
    publish_twice(&mut publisher, 2, "t/1", b"two").await;
    publisher.publish_acked("gone", b"not this").await;
    publisher.publish_acked("t/2", b"three").await;
    let world = world.restart(how);
    let mut publisher = world.connect(&Connect::v3("p")).await;
    publisher.publish_acked("t/1", b"four").await;
    for connect in [&three, &five] {
        let mut client = world.resume(connect).await;
        for (qos, payload) in [(1, "one"), (2, "two"), (1, "three"), (1, "four")] {
            let publish = client.recv_publish().await;
            assert_eq!((publish.qos, &publish.payload[..], publish.dup), (qos, payload.as_bytes(), false));
        }
        client.subscribe(4, "kept", 0).await;
        let publish = client.recv_publish().await;
        assert_eq!((&publish.payload[..], publish.retain), (&b"retained"[..], true));
    }
}

async fn what_was_sent_comes_again_with_dup_and_its_identifier(how: How) {
    let world = World::start();
    let connect = Connect::v3("c").kept();
    let mut client = world.connect(&connect).await;
    client.subscribe(1, "t", 1).await;
    let mut publisher = world.connect(&Connect::v3("p")).await;
    let mut ids = Vec::new();
    for payload in ["1", "2", "3"] {
        publisher.publish_acked("t", payload.as_bytes()).await;
        ids.push(client.recv_publish().await.id);
    }
    client.ack(0x40, ids[1]).await;
    client.ping().await;
    world.flush().await;
    let world = world.restart(how);
    let mut client = world.resume(&connect).await;
    for (id, payload) in [(ids[0], "1"), (ids[2], "3")] {
        let again = client.recv_publish().await;
        assert_eq!((again.dup, again.id, &again.payload[..]), (true, id, payload.as_bytes()));
        client.ack(0x40, id).await;
    }
    world.connect(&Connect::v3("p")).await.publish_acked("t", b"4").await;
    let new = client.recv_publish().await;
    assert_eq!((new.dup, &new.payload[..]), (false, &b"4"[..]));
}

async fn a_qos_2_message_from_a_client_is_taken_once(how: How) {
    let world = World::start();
    let (reader, writer) = (Connect::v3("reader").kept(), Connect::v3("writer").kept());
    world.connect(&reader).await.subscribe(1, "t", 2).await;
    let mut publisher = world.connect(&writer).await;
    publisher.publish(4, 5, "t", b"once").await;
    assert_eq!(publisher.recv().await, Packet(0x50, vec![0, 5]));
    let world = world.restart(how);
    let mut publisher = world.resume(&writer).await;
    publisher.publish(12, 5, "t", b"once").await;
    assert_eq!(publisher.recv().await, Packet(0x50, vec![0, 5]));
    publisher.ack(0x62, 5).await;
    assert_eq!(publisher.recv().await, Packet(0x70, vec![0, 5]));
    let world = world.restart(how);
    let mut publisher = world.resume(&writer).await;
    publisher.ack(0x62, 5).await;
    assert_eq!(publisher.recv().await, Packet(0x70, vec![0, 5]), "PUBCOMP may have been lost");
    publish_twice(&mut publisher, 5, "t", b"another").await;
    let mut subscriber = world.resume(&reader).await;
    for payload in ["once", "another"] {
        let publish = subscriber.recv_publish().await;
        assert_eq!((publish.qos, &publish.payload[..]), (2, payload.as_bytes()));
    }
    subscriber.expect_nothing().await;
}

async fn a_qos_2_message_to_a_client_goes_on_where_it_was(how: How) {
    let world = World::start();
    let connect = Connect::v3("c").kept();
    let mut client = world.connect(&connect).await;
    client.subscribe(1, "t", 2).await;
    let mut publisher = world.connect(&Connect::v3("p")).await;
    let mut ids = Vec::new();
    for n in 1..=2 {
        publish_twice(&mut publisher, n, "t", b"x").await;
        ids.push(client.recv_publish().await.id);
    }
    client.ack(0x50, ids[1]).await;
    assert_eq!(client.recv().await, Packet(0x62, ids[1].to_be_bytes().to_vec()));
    let world = world.restart(how);
    let mut client = world.resume(&connect).await;
    let again = client.recv_publish().await;
    assert_eq!((again.dup, again.qos, again.id), (true, 2, ids[0]));
    assert_eq!(client.recv().await, Packet(0x62, ids[1].to_be_bytes().to_vec()));
    client.ack(0x70, ids[1]).await;
    client.ack(0x50, ids[0]).await;
    assert_eq!(client.recv().await, Packet(0x62, ids[0].to_be_bytes().to_vec()));
    client.ack(0x70, ids[0]).await;
    client.ping().await;
    world.flush().await;
    let world = world.restart(how);
    world.resume(&connect).await.expect_nothing().await;
}

async fn members_of_a_group_get_all_of_it(how: How) {
    let world = World::start();
    let members = [Connect::v5("one").kept(), Connect::v5("two").kept()];
    for connect in &members {
        let mut client = world.connect(connect).await;
        client.subscribe(1, "$share/g/t/#", 2).await;
        client.disconnect().await;
    }
    let mut publisher = world.connect(&Connect::v3("p")).await;
    for n in 0..10 {
        publisher.publish_acked(&format!("t/{}", n % 3), &[n]).await;
    }
    let world = world.restart(how);
    let mut publisher = world.connect(&Connect::v3("p")).await;
    let (sender, mut payloads) = mpsc::channel(100);
    for connect in &members {
        let (mut client, sender) = (world.resume(connect).await, sender.clone());
        tokio::spawn(async move { while sender.send(client.payload().await).await.is_ok() {} });
    }
    for n in 10..14 {
        publisher.publish_acked("t/9", &[n]).await;
    }
    let mut came = Vec::new();
    while came.len() < 14 {
        came.extend(timeout(PATIENCE, payloads.recv()).await.unwrap().unwrap());
    }
    assert!(timeout(QUIET, payloads.recv()).await.is_err(), "nothing comes twice");
    came.sort_unstable();
    assert_eq!(came, (0..14).collect::<Vec<u8>>());
}

async fn messages_expire_meanwhile(how: How) {
    let world = World::start();
    let connect = Connect::v5("c").kept();
    let mut client = world.connect(&connect).await;
    client.subscribe(1, "t", 1).await;
    // It is known to be away: what was on its way to it would come again, expired or not.
    client.disconnect().await;
    let mut publisher = world.connect(&Connect::v5("p")).await;
    for (n, seconds) in [1_u32, 1000].into_iter().enumerate() {
        let expiry = [&[2][..], &seconds.to_be_bytes()].concat();
        publisher.publish_with(2, n as u16 + 1, "t", &expiry, &[n as u8]).await;
        assert_eq!(publisher.recv().await.0, 0x40);
        publisher.publish_with(1, 0, &format!("kept/{n}"), &expiry, &[n as u8]).await;
    }
    world.flush().await;
    let dir = world.end(how);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let world = World::start_in(dir);
    let mut client = world.resume(&connect).await;
    let publish = client.recv_publish().await;
    assert_eq!((&publish.payload[..], publish.properties[0]), (&[1][..], 2));
    let left = u32::from_be_bytes(publish.properties[1..5].try_into().unwrap());
    assert!((900..1000).contains(&left), "{left}");
    client.subscribe(2, "kept/+", 0).await;
    assert_eq!(client.recv_publish().await.topic, "kept/1");
    client.expect_nothing().await;
}

async fn sessions_expire_meanwhile(how: How) {
    let world = World::start();
    let short = Connect { clean: false, properties: vec![0x11, 0, 0, 0, 1], ..Connect::v5("short") };
    let long = Connect::v5("long").kept();
    let connected = Connect { clean: false, properties: vec![0x11, 0, 0, 0, 1], ..Connect::v5("connected") };
    for connect in [&short, &long] {
        let mut client = world.connect(connect).await;
        client.subscribe(1, "t", 1).await;
        client.disconnect().await;
    }
    let mut still_there = world.connect(&connected).await;
    still_there.subscribe(1, "t", 1).await;
    world.flush().await;
    let dir = world.end(how);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let world = World::start_in(dir);
    assert!(!world.connect_as(&short).await.1);
    assert!(world.connect_as(&long).await.1);
    // A stop ended the connection; after a kill nobody knows when it ended.
    assert_eq!(world.connect_as(&connected).await.1, matches!(how, How::Killed));
}

async fn what_was_forgotten_stays_forgotten(how: How) {
    let world = World::start();
    let (anew, ended) = (Connect::v5("anew").kept(), Connect::v5("ended").kept());
    for connect in [&anew, &ended] {
        let mut client = world.connect(connect).await;
        client.subscribe(1, "t", 1).await;
        client.disconnect().await;
    }
    world.connect(&Connect::v3("p")).await.publish_acked("t", b"x").await;
    // Clean Start with a session of no length.
    let mut client = world.connect(&Connect { clean: true, properties: Vec::new(), ..anew.clone() }).await;
    client.ping().await;
    let mut client = world.resume(&ended).await;
    // DISCONNECT with session expiry 0.
    client.send(&packet(0xE0, &[0, 5, 0x11, 0, 0, 0, 0])).await;
    while client.next().await.is_some() {}
    // Its end is known when the next session of the name begins.
    world.connect(&Connect { clean: true, ..ended.clone() }).await.ping().await;
    let world = world.restart(how);
    assert!(!world.connect_as(&anew).await.1);
    let (mut client, _) = world.connect_as(&ended).await;
    client.publish_acked("t", b"nobody").await;
    client.expect_nothing().await;
}

async fn retained_messages_change_and_go(how: How) {
    let world = World::start();
    let mut publisher = world.connect(&Connect::v3("p")).await;
    for (topic, payload) in [("r/1", "old"), ("r/2", "gone"), ("r/1", "new"), ("r/2", ""), ("r/3", "third")] {
        publisher.publish(3, 1, topic, payload.as_bytes()).await;
        assert_eq!(publisher.recv().await.0, 0x40);
    }
    let world = world.restart(how);
    let mut client = world.connect(&Connect::v3("c")).await;
    client.subscribe(1, "r/+", 1).await;
    for (topic, payload) in [("r/1", "new"), ("r/3", "third")] {
        let publish = client.recv_publish().await;
        assert_eq!((&publish.topic[..], &publish.payload[..]), (topic, payload.as_bytes()));
    }
    // The gateway's own topics are as they are now.
    client.subscribe(2, "gatepost/test/status", 0).await;
    assert_eq!(client.recv_publish().await.payload, b"online");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_publishes_to_itself_waits_for_nothing_but_the_disk() {
    let world = World::start();
    let mut client = world.connect(&Connect::v3("c").kept()).await;
    client.subscribe(1, "t/#", 2).await;
    for round in 0..5_u16 {
        for n in 1..=200_u16 {
            let flags = if n % 2 == 0 { 2 } else { 4 };
            client.publish(flags, round * 200 + n, &format!("t/{}", n % 7), &n.to_be_bytes()).await;
        }
        // PUBACK or PUBREC and PUBCOMP of each, and each of them back, with its own handshake.
        let (mut acknowledged, mut arrived) = (0, 0);
        while acknowledged < 200 || arrived < 200 {
            let Packet(first, body) = client.recv().await;
            let id = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
            match first {
                0x40 | 0x70 => acknowledged += 1,
                0x50 => client.ack(0x62, id(0)).await,
                0x62 => {
                    client.ack(0x70, id(0)).await;
                    arrived += 1;
                }
                0x32 => {
                    client.ack(0x40, id(5)).await;
                    arrived += 1;
                }
                0x34 => client.ack(0x50, id(5)).await,
                _ => panic!("{first:x} {body:?}"),
            }
        }
    }
}
