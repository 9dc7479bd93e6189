//! A disk that is full, and a file that is damaged, as a user meets them.

use std::fs;
use std::os::unix::fs::FileExt;

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tempfile::TempDir;

use crate::client::*;
use crate::world::{How, World};

/// No file of the gateway may grow beyond `bytes` from now on: to it the disk is full.
fn limit_files(world: &World, bytes: Option<u64>) {
    let id = Pid::from_raw(i32::try_from(world.gateway().id()).unwrap());
    prlimit(id, Resource::Fsize, Rlimit { current: bytes, maximum: None }).unwrap();
}

/// What `$SYS` says.
async fn state_of_the_store(world: &World) -> String {
    let mut watcher = world.connect(&Connect::v3("watcher")).await;
    watcher.subscribe(1, "$SYS/broker/store/state", 0).await;
    String::from_utf8(watcher.payload().await).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_full_disk_it_goes_on_in_memory_and_then_catches_up() {
    // Otherwise the signal for a file that is too large would end it.
    let world = World::start_after(TempDir::new().unwrap(), "trap '' XFSZ");
    let connect = Connect::v3("c").kept();
    let mut client = world.connect(&connect).await;
    client.subscribe(1, "t", 1).await;
    client.disconnect().await;
    let mut publisher = world.connect(&Connect::v3("p")).await;
    publisher.publish_acked("t", b"before").await;
    limit_files(&world, Some(64 * 1024));
    let large = vec![b'x'; 20_000];
    for _ in 0..10 {
        publisher.publish_acked("t", &large).await;
    }
    world.expect(&["ERROR", "the store cannot write", "hint:"]);
    assert_eq!(state_of_the_store(&world).await, "degraded");
    let mut client = world.resume(&connect).await;
    assert_eq!(client.payload().await, b"before");
    for _ in 0..9 {
        assert_eq!(client.payload().await, large);
    }
    // The last one was sent and is not acknowledged.
    let unacknowledged = client.recv_publish().await;
    client.ping().await;
    limit_files(&world, None);
    world.expect(&["INFO", "the disk takes what is written again"]);
    assert_eq!(state_of_the_store(&world).await, "healthy");
    publisher.publish_acked("t", b"after").await;
    let world = world.restart(How::Killed);
    let mut client = world.resume(&connect).await;
    let again = client.recv_publish().await;
    assert_eq!((again.dup, again.id, again.payload), (true, unacknowledged.id, large));
    client.ack(0x40, again.id).await;
    assert_eq!(client.payload().await, b"after");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_is_set_aside_and_it_starts_empty() {
    let world = World::start();
    let connect = Connect::v3("c").kept();
    world.connect(&connect).await.subscribe(1, "t", 1).await;
    let dir = world.end(How::Stopped);
    let file = dir.path().join("state/broker.db");
    let size = fs::metadata(&file).unwrap().len();
    let damaged = fs::OpenOptions::new().write(true).open(&file).unwrap();
    damaged.write_all_at(&vec![0xA5; size as usize / 2], size / 2).unwrap();
    let world = World::start_in(dir);
    world.expect(&["broker.db.bad"]);
    assert!(world.gateway().dir().join("state/broker.db.bad").exists());
    let (mut client, present) = world.connect_as(&connect).await;
    assert!(!present);
    client.subscribe(1, "t", 1).await;
    let world = world.restart(How::Killed);
    world.resume(&connect).await;
}
