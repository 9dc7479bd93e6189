//! The bus keeps no memory for topics, filters and readers that are gone. A process of its own, for its measurements.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Instant;

use gatepost::broker::bus::{Bus, BusSettings};
use gatepost::broker::subscriptions::Subscriptions;

#[allow(dead_code)] // the other test of the bus uses the rest
#[path = "common/bus.rs"]
mod parts;

use parts::{filter, reader, retained};

/// Resident memory of this process in KiB.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Topics, retained messages, subscriptions and readers, `count` different ones in turn.
async fn churn(bus: &Bus, numbers: Range<u64>) {
    let mut all = reader(bus, &["#"]);
    let mut batch = VecDeque::new();
    let mut subscriptions = Subscriptions::new();
    for i in numbers {
        let (topic, text) = (format!("{i:x}/{}/value", i % 1000), format!("{i:x}/+/value"));
        bus.publish(retained(&topic, "1")).await.unwrap();
        bus.publish(retained(&topic, "")).await.unwrap();
        subscriptions.insert(filter(&text), Default::default());
        subscriptions.insert(filter(&topic), Default::default());
        if i % 100 == 0 {
            let _reader = reader(bus, &[&text, "#"]);
            assert_eq!(bus.retained(&filter("#")).messages.len(), 0);
        }
        while batch.len() < 2 {
            all.recv(&mut batch).await.unwrap();
        }
        assert!(batch.drain(..).all(|received| subscriptions.matches(&received.message, 0).is_some()));
        assert!(subscriptions.remove(&filter(&text)) && subscriptions.remove(&filter(&topic)));
    }
}

async fn memory_comes_back(warm_up: u64, topics: u64) {
    let bus = Bus::start(BusSettings { max_retained: 100, direct_readers: 64 }).unwrap();
    churn(&bus, 0..warm_up).await;
    let (before, start) = (resident(), Instant::now());
    churn(&bus, warm_up..warm_up + topics).await;
    let after = resident();
    println!("{topics} topics in {:?}: {before} KiB before, {after} KiB after", start.elapsed());
    assert!(after < before + 4 * 1024, "{before} KiB before, {after} KiB after");
    let (stats, messages) = (bus.stats(), 2 * (warm_up + topics));
    assert_eq!((stats.published.get(), stats.delivered.get(), stats.lost.get()), (messages, messages, 0));
    assert_eq!(bus.retained_size(), (0, 0));
}

/// The warm-up fills the router's log and the allocator's pools, which keep their size from then on. With a million it is tested in the whole
/// gateway (tests/e2e/endurance).
#[tokio::test]
async fn fifty_thousand_topics_leave_memory_where_it_was() {
    memory_comes_back(150_000, 50_000).await;
}
