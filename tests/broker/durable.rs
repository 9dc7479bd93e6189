//! What the disk costs, and whom.

use std::path::Path;
use std::time::{Duration, Instant};

use gatepost::broker::Broker;
use gatepost::config;
use tempfile::TempDir;

use crate::client::*;

async fn on_disk(dir: &Path) -> Broker {
    start(config::Broker { database: Some(dir.join("broker.db")), ..settings() }).await
}

#[tokio::test]
async fn without_a_session_that_is_kept_nothing_goes_to_the_disk() {
    let dir = TempDir::new().unwrap();
    let broker = on_disk(dir.path()).await;
    let mut subscriber = Client::connect(&broker, &Connect::v5("s")).await;
    subscriber.subscribe(1, "#", 2).await;
    let mut publisher = Client::connect(&broker, &Connect::v3("p")).await;
    for n in 0..10 {
        publisher.publish_acked("t", &[n]).await;
        publisher.publish(4, 1, "t", &[n]).await;
        assert_eq!(publisher.recv().await.0, 0x50);
        publisher.ack(0x62, 1).await;
        assert_eq!(publisher.recv().await.0, 0x70);
    }
    // A session that is kept and reads other topics costs those nothing either.
    let mut other = Client::connect(&broker, &Connect::v3("o").kept()).await;
    other.subscribe(1, "elsewhere", 1).await;
    let before = broker.store().stats().changes.get();
    publisher.publish_acked("t", b"x").await;
    assert_eq!((before, broker.store().stats().changes.get()), (2, 2), "the session and its subscription");
}

/// Prints the cost: `cargo test --release --test broker cost -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn cost_of_a_durable_qos_1_publish() {
    for (kept, online) in [(false, true), (true, true), (true, false)] {
        for publishers in [1, 50] {
            let dir = TempDir::new_in(".").unwrap();
            let broker = on_disk(dir.path()).await;
            let connect = if kept { Connect::v3("s").kept() } else { Connect::v3("s") };
            let mut subscriber = Client::connect(&broker, &connect).await;
            subscriber.subscribe(1, "t/#", 1).await;
            if online {
                tokio::spawn(async move {
                    loop {
                        subscriber.payload().await;
                    }
                });
            } else {
                subscriber.disconnect().await;
            }
            let address = broker.local_addrs()[0];
            let start = Instant::now();
            let tasks: Vec<_> = (0..publishers).map(|n| tokio::spawn(publish(address, n))).collect();
            let mut latencies = Vec::new();
            for task in tasks {
                latencies.extend(task.await.unwrap());
            }
            let rate = latencies.len() as f64 / start.elapsed().as_secs_f64();
            latencies.sort_unstable();
            let stats = broker.store().stats();
            let at = |percent: usize| latencies[latencies.len() * percent / 100].as_micros();
            let (commits, bytes) = (stats.commits.get(), stats.bytes_written.get() / latencies.len() as u64);
            println!(
                "kept {kept}, online {online}, {publishers} publishers: {rate:.0}/s, p50 {} us, p99 {} us, \
                 {commits} commits, {bytes} bytes a message",
                at(50),
                at(99)
            );
        }
    }
}

/// Publishes for a second, one after the other; how long each acknowledgement took.
async fn publish(address: std::net::SocketAddr, n: usize) -> Vec<Duration> {
    let mut client = Client::connack_at(address, &Connect::v3("")).await.0;
    let (topic, start) = (format!("t/{n}"), Instant::now());
    let mut latencies = Vec::new();
    while start.elapsed() < Duration::from_secs(1) {
        let sent = Instant::now();
        client.publish_acked(&topic, &[b'x'; 64]).await;
        latencies.push(sent.elapsed());
    }
    latencies
}
