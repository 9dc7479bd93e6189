//! What the disk costs: bytes, transactions, time and room. `cargo bench --bench store` prints it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use client::{Client, Connect, settings, start};
use gatepost::broker::bus::{Bus, BusSettings};
use gatepost::broker::message::{Draft, Envelope, Message};
use gatepost::broker::store::{
    Change, SessionExpiry, SessionId, SessionRecord, Store, StoreSettings, StoredMessage, Urgency,
};
use gatepost::config;
use gatepost::qos::Qos;
use gatepost::topic::TopicFilter;
use tempfile::TempDir;

#[allow(dead_code)] // The tests use the rest.
#[path = "../tests/broker/client.rs"]
mod client;

const QUEUED: usize = 10_000;
const DEADLINE: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() {
    let messages = Messages::start();
    for (rate, count, payload) in [(1, 3, 64), (100, 300, 64), (10_000, 30_000, 64), (100, 300, 1024)] {
        offline(&messages, rate, count, payload).await;
    }
    retained(&messages, 10, 40, 10).await;
    one_after_the_other(&messages, 300).await;
    room_of_a_flood(&messages).await;
    for (kept, online) in [(false, true), (true, true), (true, false)] {
        for publishers in [1, 50] {
            durable_publish(kept, online, publishers).await;
        }
    }
}

/// Makes messages as the broker has them: by a bus.
struct Messages(Bus);

impl Messages {
    fn start() -> Messages {
        Messages(Bus::start(BusSettings { max_retained: 10, direct_readers: 64 }).unwrap())
    }

    async fn message(&self, topic: &str, payload: usize) -> Message {
        let mut reader = self.0.reader();
        reader.subscribe(&TopicFilter::new("#").unwrap());
        let payload = &vec![b'x'; payload];
        let qos = Qos::AtLeastOnce;
        let draft = Draft { topic, payload, qos, retain: false, origin: 1, expires: None, properties: b"" };
        self.0.publish(Envelope::new(&draft)).await.unwrap();
        let mut batch = VecDeque::new();
        reader.recv(&mut batch).await.unwrap();
        batch.remove(0).unwrap().message
    }

    async fn queued(&self, payload: usize) -> StoredMessage {
        let message = self.message("plant/line/1/temp", payload).await;
        StoredMessage { message, qos: Qos::AtLeastOnce, retain: false, ids: [].into_iter().collect(), share: None }
    }
}

/// A store with a session, and what it has cost since.
struct Trial {
    _folder: TempDir,
    store: Store,
    session: SessionId,
    written: u64,
    commits: u64,
    log: u64,
    since: Instant,
}

impl Trial {
    async fn start() -> Trial {
        let folder = TempDir::new_in(".").unwrap();
        let (store, _) = Store::open(&folder.path().join("broker.db"), StoreSettings::default());
        let session = open_session(&store);
        store.done(store.latest()).await;
        let (commits, log) = (store.stats().commits.get(), store.stats().bytes_written.get());
        Trial { _folder: folder, store, session, written: written(), commits, log, since: Instant::now() }
    }

    /// When the message of that number is due.
    async fn due(&self, number: u64, rate: u64) {
        let due = self.since + Duration::from_micros(1_000_000 * number / rate);
        if due > Instant::now() {
            tokio::time::sleep_until(due.into()).await;
        }
    }

    async fn report(self, what: &str, messages: u64) {
        self.store.done(self.store.latest()).await;
        let stats = self.store.stats();
        println!(
            "{what}: {messages} in {:.1} s: {} B each ({} B of log), {:.3} transactions each, file {} KiB",
            self.since.elapsed().as_secs_f64(),
            (written() - self.written) / messages,
            (stats.bytes_written.get() - self.log) / messages,
            (stats.commits.get() - self.commits) as f64 / messages as f64,
            self.store.size() >> 10,
        );
        self.store.close(DEADLINE).await;
    }
}

/// Bytes that this process gave to the kernel to be written to the disk.
fn written() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap();
    io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).unwrap().parse().unwrap()
}

fn open_session(store: &Store) -> SessionId {
    let session = store.new_session();
    let record = SessionRecord { expiry: SessionExpiry::Never, username: None, ended_at: None };
    store.submit(Change::OpenSession { session, client_id: "client".into(), record });
    session
}

/// QoS 1 for an offline session whose queue holds [`QUEUED`].
async fn offline(messages: &Messages, rate: u64, count: u64, payload: usize) {
    let outgoing = messages.queued(payload).await;
    let trial = Trial::start().await;
    let (store, session) = (&trial.store, trial.session);
    let mut rows = VecDeque::new();
    for number in 0..count {
        trial.due(number, rate).await;
        let row = store.next_row();
        rows.push_back(row);
        store.submit(Change::Enqueue { session, row, outgoing: outgoing.clone(), gate: None });
        if rows.len() > QUEUED {
            let row = rows.pop_front().unwrap();
            store.submit(Change::Dequeue { session, row });
        }
    }
    trial.report(&format!("queued, {payload} B, {rate}/s"), count).await;
}

async fn retained(messages: &Messages, rate: u64, count: u64, topics: u64) {
    let mut made = Vec::new();
    for number in 0..topics {
        made.push(messages.message(&format!("plant/line/{number}/temp"), 64).await);
    }
    let trial = Trial::start().await;
    for number in 0..count {
        trial.due(number, rate).await;
        let message = made[(number % topics) as usize].clone();
        trial.store.submit(Change::Retain(message, Urgency::Lazy));
    }
    trial.report(&format!("retained, {topics} topics, {rate}/s"), count).await;
}

async fn one_after_the_other(messages: &Messages, count: u64) {
    let outgoing = messages.queued(64).await;
    let trial = Trial::start().await;
    for _ in 0..count {
        flood(&trial.store, trial.session, &outgoing, 1).await;
    }
    trial.report("queued, one after the other", count).await;
}

async fn flood(store: &Store, session: SessionId, outgoing: &StoredMessage, count: u64) {
    for number in 1..=count {
        let row = store.next_row();
        let ticket = store.submit(Change::Enqueue { session, row, outgoing: outgoing.clone(), gate: None });
        if number % 1000 == 0 {
            store.done(ticket).await;
        }
    }
    store.done(store.latest()).await;
}

/// How long it takes to read a full queue, and that its room comes back.
async fn room_of_a_flood(messages: &Messages) {
    let outgoing = messages.queued(64).await;
    let folder = TempDir::new_in(".").unwrap();
    let path = folder.path().join("broker.db");
    let (store, _) = Store::open(&path, StoreSettings::default());
    let session = open_session(&store);
    flood(&store, session, &outgoing, 100_000).await;
    store.close(DEADLINE).await;
    let since = Instant::now();
    let (store, restored) = Store::open(&path, StoreSettings::default());
    let rows = restored.sessions[0].queue.len();
    println!("opened with {rows} rows: {:?}, file {} KiB", since.elapsed(), store.size() >> 10);
    let since = Instant::now();
    store.done(store.submit(Change::EndSession { session })).await;
    println!("end of their session: {:?}, file {} KiB", since.elapsed(), store.size() >> 10);
    for _ in 0..4 {
        let session = open_session(&store);
        flood(&store, session, &outgoing, 20_000).await;
        store.done(store.submit(Change::EndSession { session })).await;
    }
    store.close(DEADLINE).await;
    println!("after others, closed: file {} KiB", std::fs::metadata(&path).unwrap().len() >> 10);
}

/// QoS 1 through the whole broker, for a second, to a session that is kept or not.
async fn durable_publish(kept: bool, online: bool, publishers: usize) {
    let dir = TempDir::new_in(".").unwrap();
    let broker = start(config::Broker { database: Some(dir.path().join("broker.db")), ..settings() }).await;
    let connect = if kept { Connect::v3("s").kept() } else { Connect::v3("s") };
    let mut subscriber = Client::connect(&broker, &connect).await;
    subscriber.subscribe(1, "t/#", 1).await;
    let mut reading = None;
    if online {
        reading = Some(tokio::spawn(read(subscriber)));
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
    let at = |percent: usize| latencies[latencies.len() * percent / 100].as_micros();
    let stats = broker.store().stats();
    println!(
        "kept {kept}, online {online}, {publishers} publishers: {rate:.0}/s, p50 {} us, p99 {} us, {} transactions, \
         {} B of log each",
        at(50),
        at(99),
        stats.commits.get(),
        stats.bytes_written.get() / latencies.len() as u64
    );
    if let Some(reading) = reading {
        reading.abort();
    }
}

async fn read(mut subscriber: Client) {
    loop {
        subscriber.payload().await;
    }
}

/// Publishes for a second, one after the other; how long each acknowledgement took.
async fn publish(address: SocketAddr, n: usize) -> Vec<Duration> {
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
