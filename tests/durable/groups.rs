//! Shared subscriptions whose members keep their sessions, over a kill.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::client::*;
use crate::common::LISTENER;
use crate::world::{How, World};

/// A client that keeps its session and takes one message at a time.
fn member(id: &'static str) -> Connect {
    let mut connect = Connect::v5(id).kept();
    connect.properties.extend([0x21, 0, 1]);
    connect
}

async fn publish_exactly_once(publisher: &mut Client, id: u16, payload: u8) {
    publisher.publish(4, id, "t", &[payload]).await;
    assert_eq!(publisher.recv().await, Packet(0x50, id.to_be_bytes().to_vec()));
    publisher.ack(0x62, id).await;
    assert_eq!(publisher.recv().await, Packet(0x70, id.to_be_bytes().to_vec()));
}

/// Takes what comes until nothing more does, with the whole handshake. `open`: identifiers of messages that came before.
async fn drain(client: &mut Client, mut open: Vec<u16>) -> Vec<u8> {
    let mut came = Vec::new();
    while let Ok(Packet(first, body)) = timeout(Duration::from_secs(1), client.recv()).await {
        let at = if first == 0x62 { 0 } else { 3 };
        let id = u16::from_be_bytes([body[at], body[at + 1]]);
        match first {
            0x34 | 0x3C => {
                if !open.contains(&id) {
                    open.push(id);
                    came.push(body[6]);
                }
                client.ack(0x50, id).await;
            }
            0x62 => {
                open.retain(|other| *other != id);
                client.ack(0x70, id).await;
            }
            _ => panic!("{first:x} {body:?}"),
        }
    }
    came
}

/// Two members of a group, of which each has been sent one of the messages 0 to 9; the other eight wait.
async fn two_members_of_ten_messages(world: &World) -> [Client; 2] {
    let mut members = [world.connect(&member("one")).await, world.connect(&member("two")).await];
    for client in &mut members {
        client.subscribe(1, "$share/g/t", 2).await;
    }
    let mut publisher = world.connect(&Connect::v3("p").kept()).await;
    for n in 0..10 {
        publish_exactly_once(&mut publisher, u16::from(n) + 1, n).await;
    }
    members
}

#[tokio::test(flavor = "multi_thread")]
async fn what_moves_from_one_member_to_another_is_on_disk_all_the_time() {
    let world = World::start();
    let [mut one, mut two] = two_members_of_ten_messages(&world).await;
    // Each keeps its own to itself.
    let sent = [one.recv_publish().await, two.recv_publish().await];
    one.disconnect().await;
    let mut others = world.connect(&Connect::v3("p").kept()).await;
    publish_exactly_once(&mut others, 100, 10).await;
    let world = world.restart(How::Killed);
    let (mut one, mut two) = (world.resume(&member("one")).await, world.resume(&member("two")).await);
    let (first, second) = tokio::join!(drain(&mut one, vec![sent[0].id]), drain(&mut two, vec![sent[1].id]));
    let mut came = [first, second, sent.map(|publish| publish.payload[0]).to_vec()].concat();
    came.sort_unstable();
    assert_eq!(came, (0..=10).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_moved_is_sent() {
    let world = World::start();
    let [mut one, mut two] = two_members_of_ten_messages(&world).await;
    let kept = one.recv_publish().await;
    one.disconnect().await;
    let mut came = drain(&mut two, Vec::new()).await;
    came.push(kept.payload[0]);
    came.sort_unstable();
    assert_eq!(came, (0..10).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn when_a_member_expires_meanwhile_the_others_get_what_waited_for_it() {
    let world = World::start();
    let short = Connect { clean: false, properties: vec![0x11, 0, 0, 0, 1], ..Connect::v5("short") };
    let mut client = world.connect(&short).await;
    client.subscribe(1, "$share/g/t", 1).await;
    client.disconnect().await;
    let mut publisher = world.connect(&Connect::v3("p").kept()).await;
    publisher.publish_acked("t", b"waits").await;
    let mut long = world.connect(&member("long")).await;
    long.subscribe(1, "$share/g/t", 1).await;
    long.disconnect().await;
    let dir = world.end(How::Killed);
    sleep(Duration::from_millis(1100)).await;
    let world = World::start_in(dir);
    let mut long = world.resume(&member("long")).await;
    assert_eq!(long.payload().await, b"waits");
    assert!(!world.connect_as(&short).await.1);
}

/// A member gets a QoS 2 message no sooner than the disk has that its publisher sent it: else the publisher would send it
/// again after a kill between the two, and it would come twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_qos_2_message_that_a_member_has_is_not_taken_again_after_a_kill() {
    let config = format!("[broker]\nmax_queued = 10\n{LISTENER}");
    let world = World::start_with(&config);
    // A client that reads nothing: with a queue half full it delays what comes for a second.
    let mut slow = world.connect(&member("slow")).await;
    slow.subscribe(1, "t", 1).await;
    let connect = Connect::v3("both").kept();
    let mut both = world.connect(&connect).await;
    both.subscribe(1, "$share/g/t", 2).await;
    for n in 1..=7 {
        both.publish(4, n, "t", b"x").await;
        let mut left = 2;
        while left > 0 {
            let Packet(first, body) = both.recv().await;
            let id = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
            match first {
                0x34 => both.ack(0x50, id(3)).await,
                0x50 => both.ack(0x62, id(0)).await,
                0x62 => {
                    both.ack(0x70, id(0)).await;
                    left -= 1;
                }
                0x70 => left -= 1,
                _ => panic!("{first:x} {body:?}"),
            }
        }
    }
    both.publish(4, 8, "t", b"x").await;
    let Packet(first, body) = both.recv().await;
    let dir = world.end(How::Killed);
    // Its answer came first, or comes when it is sent again.
    if first != 0x34 {
        assert_eq!((first, body), (0x50, vec![0, 8]));
        return;
    }
    let world = World::start_in(dir);
    let mut both = world.resume(&connect).await;
    let again = loop {
        match both.recv().await {
            // Its end was not on disk yet.
            Packet(0x62, id) => both.ack(0x70, u16::from_be_bytes([id[0], id[1]])).await,
            packet => break packet,
        }
    };
    assert_eq!(again, Packet(0x3C, body.clone()));
    both.publish(0xC, 8, "t", b"x").await;
    assert_eq!(both.recv().await, Packet(0x50, vec![0, 8]));
    both.ack(0x62, 8).await;
    assert_eq!(both.recv().await, Packet(0x70, vec![0, 8]));
    assert!(drain(&mut both, vec![u16::from_be_bytes([body[3], body[4]])]).await.is_empty(), "it came twice");
}
