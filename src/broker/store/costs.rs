//! What writing costs: `cargo test --lib store::costs -- --ignored --nocapture`.

use std::path::Path;
use std::time::{Duration, Instant};

use super::fixture::{connected, draft_message, stored};
use super::*;
use crate::qos::Qos;

const QUEUED: usize = 10_000;
const DEADLINE: Duration = Duration::from_secs(60);

/// Bytes that this process gave to the kernel to be written to the disk.
fn written() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap();
    io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).unwrap().parse().unwrap()
}

fn memory(key: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn open(path: &Path) -> (Store, SessionId) {
    let (store, _) = Store::open(path, StoreSettings::default());
    let (session, client_id) = (store.new_session(), "client".into());
    store.submit(Change::OpenSession { session, client_id, record: connected() });
    (store, session)
}

/// What it cost; more than `bound` bytes of log for one message is too much.
async fn report(what: &str, store: Store, messages: u64, before: u64, since: Instant, bound: u64) {
    store.done(store.latest()).await;
    let (commits, log) = (store.stats().commits.get() - 1, store.stats().bytes_written.get() / messages);
    println!(
        "{what}: {messages} in {:.1} s: {} B each ({log} B of log), {:.3} commits each, file {} KiB",
        since.elapsed().as_secs_f64(),
        (written() - before) / messages,
        commits as f64 / messages as f64,
        store.size() >> 10,
    );
    assert!(log < bound, "{what}: {log} B");
    store.close(DEADLINE).await;
}

/// QoS 1 for an offline session whose queue holds [`QUEUED`].
async fn offline(rate: u64, messages: u64, payload: usize, bound: u64) {
    let folder = tempfile::tempdir().unwrap();
    let (store, session) = open(&folder.path().join("broker.db"));
    store.done(store.latest()).await;
    let (before, since) = (written(), Instant::now());
    let mut rows = std::collections::VecDeque::new();
    for number in 0..messages {
        let due = since + Duration::from_micros(1_000_000 * number / rate);
        if due > Instant::now() {
            tokio::time::sleep_until(due.into()).await;
        }
        let row = store.next_row();
        rows.push_back(row);
        store.submit(Change::Enqueue {
            session,
            row,
            outgoing: stored("plant/line/1/temp", &vec![b'x'; payload]),
            hold: None,
        });
        if rows.len() > QUEUED {
            let row = rows.pop_front().unwrap();
            store.submit(Change::Dequeue { session, row });
        }
    }
    report(&format!("offline, {payload} B, {rate}/s"), store, messages, before, since, bound).await;
}

async fn retained(rate: u64, messages: u64, topics: u64, bound: u64) {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(&folder.path().join("broker.db"));
    store.done(store.latest()).await;
    let (before, since) = (written(), Instant::now());
    for number in 0..messages {
        tokio::time::sleep_until((since + Duration::from_micros(1_000_000 * number / rate)).into()).await;
        let topic = format!("plant/line/{}/temp", number % topics);
        store.submit(Change::Retain(draft_message(&topic, &[b'x'; 64], Qos::AtMostOnce, None), Urgency::Lazy));
    }
    report(&format!("retained, lazy, {topics} topics, {rate}/s"), store, messages, before, since, bound).await;
}

async fn flood(store: &Store, session: SessionId, messages: u64) {
    for number in 1..=messages {
        let row = store.next_row();
        let outgoing = stored("plant/line/1/temp", &[b'x'; 64]);
        let ticket = store.submit(Change::Enqueue { session, row, outgoing, hold: None });
        if number % 1000 == 0 {
            store.done(ticket).await;
        }
    }
    store.done(store.latest()).await;
}

#[tokio::test]
#[ignore = "prints figures"]
async fn bytes_and_transactions() {
    offline(1, 3, 64, 3000).await;
    offline(100, 300, 64, 1800).await;
    offline(10_000, 30_000, 64, 700).await;
    offline(100, 300, 1024, 5000).await;
    retained(10, 40, 10, 200).await;
    let folder = tempfile::tempdir().unwrap();
    let (store, session) = open(&folder.path().join("broker.db"));
    let (before, since) = (written(), Instant::now());
    for _ in 0..300 {
        flood(&store, session, 1).await;
    }
    report("one after the other", store, 300, before, since, 1800).await;
}

#[tokio::test]
#[ignore = "prints figures"]
async fn a_flood_is_read_in_time_and_its_room_is_given_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("broker.db");
    let (store, session) = open(&path);
    flood(&store, session, 100_000).await;
    store.close(DEADLINE).await;
    let since = Instant::now();
    let (store, restored) = Store::open(&path, StoreSettings::default());
    let (flooded, rows) = (store.size(), restored.sessions[0].queue.len());
    println!("open with {rows} rows: {:?}, file {} KiB", since.elapsed(), flooded >> 10);
    let since = Instant::now();
    store.done(store.submit(Change::EndSession { session })).await;
    println!("end of their session: {:?}, file {} KiB", since.elapsed(), store.size() >> 10);
    for _ in 0..4 {
        let session = store.new_session();
        store.submit(Change::OpenSession { session, client_id: "other".into(), record: connected() });
        flood(&store, session, 20_000).await;
        store.done(store.submit(Change::EndSession { session })).await;
        println!("after others: file {} KiB", store.size() >> 10);
    }
    store.close(DEADLINE).await;
    let left = std::fs::metadata(&path).unwrap().len();
    println!("closed: file {} KiB", left >> 10);
    assert!(left < flooded * 2 / 3);
}

#[tokio::test]
#[ignore = "prints figures"]
async fn memory_of_an_idle_store() {
    let folder = tempfile::tempdir().unwrap();
    let (rss, pss) = (memory("Rss:"), memory("Pss_Dirty:"));
    let (store, session) = open(&folder.path().join("broker.db"));
    store.done(store.latest()).await;
    println!("opened: Rss +{} kB, dirty +{} kB", memory("Rss:") - rss, memory("Pss_Dirty:") - pss);
    flood(&store, session, 20_000).await;
    println!("after 20000 messages: Rss +{} kB, dirty +{} kB", memory("Rss:") - rss, memory("Pss_Dirty:") - pss);
}
