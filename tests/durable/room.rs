//! A start where nothing can be written: what is on disk is there, and what comes is written when it can be.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::getuid;
use tempfile::TempDir;

use crate::client::*;
use crate::world::{How, World};

/// A file system of its own for `state`, with what was in there.
const MOUNT: &str =
    "cd \"$(dirname \"$3\")\"; cp -r state saved; mount -t tmpfs -o size=200k none state; cp saved/* state/";

/// The folder `state` of a gateway with a mount namespace of its own.
fn state(world: &World) -> PathBuf {
    let dir = world.gateway().dir();
    Path::new("/proc")
        .join(world.gateway().id().to_string())
        .join("root")
        .join(dir.strip_prefix("/").unwrap())
        .join("state")
}

/// Kills it, and brings what was in its own `state` to where the next one finds it.
fn kill(world: World) -> TempDir {
    let saved = TempDir::new().unwrap();
    let copy = |from: &Path, to: &Path| {
        for file in fs::read_dir(from).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    };
    copy(&state(&world), saved.path());
    let dir = world.end(How::Killed);
    let state = dir.path().join("state");
    fs::remove_dir_all(&state).unwrap();
    fs::create_dir(&state).unwrap();
    copy(saved.path(), &state);
    dir
}

async fn publish_retained(world: &World, topic: &str) {
    let mut publisher = world.connect(&Connect::v3("p")).await;
    // More than there is room for.
    publisher.publish(3, 1, topic, &vec![b'x'; 20_000]).await;
    assert_eq!(publisher.recv().await, Packet(0x40, vec![0, 1]));
}

async fn retained(world: &World) -> Vec<String> {
    let (mut client, mut found) = (world.connect(&Connect::v3("r")).await, Vec::new());
    client.subscribe(1, "kept/+", 0).await;
    // What comes after all the others.
    client.send(&packet(0x82, &[&[0, 2], &string("gatepost/test/status")[..], &[0]].concat())).await;
    loop {
        let Packet(first, body) = client.recv().await;
        let topic = body.get(2..2 + usize::from(body[1])).filter(|_| first == 0x31);
        match topic.map(|topic| String::from_utf8_lossy(topic).into_owned()) {
            Some(topic) if topic == "gatepost/test/status" => break,
            topic => found.extend(topic),
        }
    }
    found.sort_unstable();
    found
}

/// What the gateway of `dir` holds is there though nothing can be written, and what comes meanwhile is on disk once `mend`
/// has been done.
async fn nothing_is_lost(how: How, obstacle: &str, mend: impl FnOnce(&World)) {
    let world = World::start();
    let connect = Connect::v3("c").kept();
    world.connect(&connect).await.subscribe(1, "t", 1).await;
    publish_retained(&world, "kept/before").await;
    world.connect(&Connect::v3("p")).await.publish_acked("t", b"before").await;
    let dir = world.end(how);

    let world = World::start_unshared(dir, &format!("{MOUNT}; {obstacle}"));
    assert_eq!(retained(&world).await, ["kept/before"]);
    publish_retained(&world, "kept/meanwhile").await;
    world.connect(&Connect::v3("p")).await.publish_acked("t", b"meanwhile").await;
    world.expect(&["ERROR", "the store cannot write", "hint:"]);
    mend(&world);
    world.expect(&["INFO", "the disk takes what is written again"]);
    world.flush().await;

    let world = World::start_in(kill(world));
    assert_eq!(retained(&world).await, ["kept/before", "kept/meanwhile"]);
    let mut client = world.resume(&connect).await;
    for payload in [b"before".to_vec(), b"meanwhile".to_vec()] {
        assert_eq!(client.payload().await, payload);
    }
}

fn make_room(world: &World) {
    fs::remove_file(state(world).join("fill")).unwrap();
}

fn remount(world: &World) {
    let (id, state) = (world.gateway().id().to_string(), world.gateway().dir().join("state"));
    let mut command = Command::new("nsenter");
    if !getuid().is_root() {
        command.args(["-U", "--preserve-credentials"]);
    }
    let command = command.args(["-m", "-t", &id, "mount", "-o", "remount,rw"]).arg(state);
    assert!(command.status().unwrap().success());
}

const FILL: &str = "head -c 1000000 /dev/zero > state/fill || true";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs namespaces"]
async fn a_full_disk_after_a_kill() {
    nothing_is_lost(How::Killed, FILL, make_room).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs namespaces"]
async fn a_full_disk_after_a_stop() {
    nothing_is_lost(How::Stopped, FILL, make_room).await;
}

/// Room for some pages only: for the log of a start, not for what comes.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs namespaces"]
async fn a_disk_with_little_room() {
    let fill = format!("{FILL}; truncate -s -8192 state/fill");
    nothing_is_lost(How::Killed, &fill, make_room).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs namespaces"]
async fn a_file_system_that_is_read_only_after_a_kill() {
    nothing_is_lost(How::Killed, "mount -o remount,ro state", remount).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs namespaces"]
async fn a_file_system_that_is_read_only_after_a_stop() {
    nothing_is_lost(How::Stopped, "mount -o remount,ro state", remount).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs namespaces"]
async fn the_first_start_of_all_without_room() {
    let dir = TempDir::new().unwrap();
    fs::create_dir(dir.path().join("state")).unwrap();
    let mount = "cd \"$(dirname \"$3\")\"; mount -t tmpfs -o size=200k none state";
    let world = World::start_unshared(dir, &format!("{mount}; {FILL}"));
    world.expect(&["ERROR", "the store cannot write", "the disk is full", "hint:"]);
    publish_retained(&world, "kept/meanwhile").await;
    make_room(&world);
    world.expect(&["INFO", "the disk takes what is written again"]);
    publish_retained(&world, "kept/after").await;
    let world = World::start_in(kill(world));
    assert_eq!(retained(&world).await, ["kept/after", "kept/meanwhile"]);
}
