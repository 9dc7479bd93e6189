//! Wills of clients that were connected when the gateway was killed.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::*;
use crate::common::LISTENER;
use crate::world::{How, World};

/// Seconds of keep-alive of a client whose will is due first after a start, and of one whose will comes later.
const SOON: u16 = 2;
const LATER: u16 = 4;

fn with_will(connect: Connect, payload: &'static [u8], keep_alive: u16, delay: u8) -> Connect {
    let topic = "will";
    let properties = if connect.v5 { vec![0x18, 0, 0, 0, delay] } else { Vec::new() };
    Connect { keep_alive, will: Some(Will { topic, payload, qos: 1, retain: false, properties }), ..connect }
}

/// Stays connected until the gateway is gone.
async fn stay(world: &World, connect: &Connect) {
    let stream = TcpStream::connect(world.address()).await.unwrap();
    let (mut input, mut output) = stream.into_split();
    output.write_all(&connect.bytes()).await.unwrap();
    let mut connack = [0; 4];
    input.read_exact(&mut connack).await.unwrap();
    assert_eq!((connack[0], connack[3]), (0x20, 0), "{connack:?}");
    tokio::spawn(async move {
        while output.write_all(&[0xC0, 0]).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    // What comes is of no interest, but must be read.
    tokio::spawn(async move { while input.read(&mut [0; 1024]).await.is_ok_and(|bytes| bytes > 0) {} });
}

/// A kept session that is to get every will.
async fn watch(world: &World) {
    world.connect(&Connect::v3("watcher").kept()).await.subscribe(1, "will", 1).await;
}

/// The wills that come, up to this one.
async fn wills_until(world: &World, last: &[u8]) -> Vec<String> {
    let (mut watcher, mut came) = (world.resume(&Connect::v3("watcher").kept()).await, Vec::new());
    loop {
        let publish = watcher.recv_publish().await;
        watcher.ack(0x40, publish.id).await;
        came.push(String::from_utf8(publish.payload.clone()).unwrap());
        if publish.payload == last {
            watcher.disconnect().await;
            return came;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wills_of_those_that_do_not_come_back_are_published_and_no_others() {
    let world = World::start();
    watch(&world).await;
    let returns = with_will(Connect::v3("returns"), b"returns", SOON, 0);
    let kept = with_will(Connect::v5("kept").kept(), b"kept returns", SOON, 0);
    let stays = [
        with_will(Connect::v3("gone"), b"gone", SOON, 0),
        returns.clone(),
        kept.clone(),
        with_will(Connect::v3("later"), b"later", LATER, 0),
        // Its delay is longer than its keep-alive, and its session lives on.
        with_will(Connect::v5("delayed").kept(), b"delayed", SOON, 8),
        // Its session ends with the connection, and the delay with the session.
        with_will(Connect::v5("short"), b"short", SOON, 8),
    ];
    for connect in &stays {
        stay(&world, connect).await;
    }
    world.connect(&with_will(Connect::v3("polite"), b"polite", SOON, 0)).await.disconnect().await;
    let mut changed = world.connect(&with_will(Connect::v3("changed"), b"changed", SOON, 0)).await;
    changed.send(&[0xE0, 0]).await;
    stay(&world, &Connect { keep_alive: SOON, ..Connect::v3("changed") }).await;
    world.flush().await;

    let world = world.restart(How::Killed);
    stay(&world, &returns).await;
    stay(&world, &Connect { will: None, ..kept }).await;
    let mut came = wills_until(&world, b"delayed").await;
    came[..2].sort_unstable();
    assert_eq!(came, ["gone", "short", "later", "delayed"]);

    // What was published is not published again, and what was left of the first connection is not what counts.
    stay(&world, &with_will(Connect::v3("gone"), b"gone again", SOON, 0)).await;
    stay(&world, &with_will(Connect::v3("later"), b"later again", LATER, 0)).await;
    // On disk for the watcher, and all that came before with it.
    world.connect(&Connect::v3("p")).await.publish_acked("will", b"again").await;
    let world = world.restart(How::Killed);
    let mut came = wills_until(&world, b"later again").await;
    came[1..3].sort_unstable();
    assert_eq!(came, ["again", "gone again", "returns", "later again"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_does_not_wait_for_those_that_may_still_come_back() {
    let world = World::start();
    // Without a keep-alive it may take a minute.
    let connect = with_will(Connect::v3("gone"), b"gone", 0, 0);
    let retained = Connect { will: connect.will.clone().map(|will| Will { retain: true, ..will }), ..connect };
    stay(&world, &retained).await;
    world.flush().await;
    let world = world.restart(How::Killed);
    world.expect(&["state restored from disk", "wills=1"]);
    let connected = with_will(Connect::v3("connected"), b"connected", 0, 0);
    stay(&world, &connected).await;
    world.connect(&Connect::v3("p")).await.publish_acked("t", b"after it").await;
    let world = world.restart(How::Stopped);
    world.expect(&["state restored from disk", "wills=0"]);
    let mut watcher = world.connect(&Connect::v3("watcher")).await;
    watcher.subscribe(1, "will", 0).await;
    let publish = watcher.recv_publish().await;
    assert_eq!((&publish.payload[..], publish.retain), (&b"gone"[..], true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_will_obeys_the_rights_of_the_moment_it_is_published() {
    let world = World::start();
    stay(&world, &with_will(Connect::v3("denied"), b"denied", SOON, 0)).await;
    world.flush().await;
    let dir = world.end(How::Killed);
    std::fs::write(dir.path().join("acl"), "topic read will\n").unwrap();
    let world = World::start_with_in(dir, &format!("[broker]\nacl_file = \"acl\"\n{LISTENER}"));
    world.expect(&["WARN", "will not published: acl_file does not allow it", "client_id=\"denied\"", "topic=\"will\""]);
}
