//! What the broker's inner parts cost: matching, the envelope, and the way through the router.

use std::collections::VecDeque;
use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use gatepost::broker::bus::{Bus, BusSettings, Reader};
use gatepost::broker::message::{Draft, Envelope, Message};
use gatepost::broker::retained::Retained;
use gatepost::broker::subscriptions::{Subscription, Subscriptions};
use gatepost::qos::Qos;
use gatepost::topic::TopicFilter;
use tokio::runtime::Runtime;

const TOPIC: &str = "greenhouse/device42/climate/temperature";
const PAYLOAD: [u8; 64] = [b'x'; 64];

fn draft(topic: &str) -> Draft<'_> {
    Draft { topic, payload: &PAYLOAD, qos: Qos::AtLeastOnce, retain: false, origin: 1, expires: None, properties: b"" }
}

fn filter(text: &str) -> TopicFilter {
    TopicFilter::new(text).unwrap()
}

/// A bus, and a reader that has subscribed to everything.
async fn bus() -> (Bus, Reader) {
    let bus = Bus::start(BusSettings { max_retained: 10, direct_readers: 64 }).unwrap();
    let mut reader = bus.reader();
    reader.subscribe(&filter("#"));
    (bus, reader)
}

/// A message as the bus delivers it.
fn delivered(runtime: &Runtime) -> Message {
    runtime.block_on(async {
        let (bus, mut reader) = bus().await;
        let mut batch = VecDeque::new();
        bus.publish(Envelope::new(&draft(TOPIC))).await.unwrap();
        reader.recv(&mut batch).await.unwrap();
        batch.remove(0).unwrap().message
    })
}

fn matching(c: &mut Criterion) {
    let message = delivered(&Runtime::new().unwrap());
    let mut group = c.benchmark_group("matching");
    for count in [1, 100, 10_000] {
        let mut subscriptions = Subscriptions::new();
        for i in 0..count {
            subscriptions
                .insert(filter(&format!("greenhouse/device{}/+/temperature", i + 42)), Subscription::default());
        }
        group.bench_function(BenchmarkId::new("wildcard filters", count), |b| {
            b.iter(|| black_box(&subscriptions).matches(black_box(&message), 2).unwrap());
        });
        let mut subscriptions = Subscriptions::new();
        for i in 0..count {
            subscriptions
                .insert(filter(&format!("greenhouse/device{}/climate/temperature", i + 42)), Subscription::default());
        }
        group.bench_function(BenchmarkId::new("exact filters", count), |b| {
            b.iter(|| black_box(&subscriptions).matches(black_box(&message), 2).unwrap());
        });
    }
    group.finish();
}

fn envelope(c: &mut Criterion) {
    let message = delivered(&Runtime::new().unwrap());
    c.bench_function("envelope/encode", |b| b.iter(|| Envelope::new(black_box(&draft(TOPIC)))));
    c.bench_function("envelope/read topic and payload", |b| {
        b.iter(|| {
            let message = black_box(&message).clone();
            black_box((message.topic().len(), message.payload()))
        });
    });
}

fn retained(c: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let mut store = Retained::new(20_000);
    runtime.block_on(async {
        let (bus, mut reader) = bus().await;
        let mut batch = VecDeque::new();
        for i in 0..10_000 {
            let topic = format!("site{}/device{}/state", i % 100, i / 100);
            bus.publish(Envelope::new(&draft(&topic))).await.unwrap();
            reader.recv(&mut batch).await.unwrap();
            batch.drain(..).for_each(|received| drop(store.update(received.message)));
        }
    });
    let mut group = c.benchmark_group("retained of 10000");
    for text in ["site7/device7/state", "site7/+/state", "+/device7/state", "#"] {
        let filter = filter(text);
        group.bench_function(text, |b| b.iter(|| store.snapshot([black_box(&filter)], Instant::now())));
    }
    group.finish();
}

fn latency(c: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let mut group = c.benchmark_group("latency");
    group.bench_function("publish to recv, idle", |b| {
        b.iter_custom(|iterations| runtime.block_on(runtime.spawn(round_trips(iterations))).unwrap());
    });
    group.finish();
}

async fn round_trips(iterations: u64) -> Duration {
    let (bus, mut reader) = bus().await;
    let mut batch = VecDeque::new();
    let mut total = Duration::ZERO;
    for _ in 0..iterations {
        let envelope = Envelope::new(&draft(TOPIC));
        let start = Instant::now();
        bus.publish(envelope).await.unwrap();
        reader.recv(&mut batch).await.unwrap();
        total += start.elapsed();
        batch.clear();
    }
    total
}

fn throughput(c: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let mut group = c.benchmark_group("throughput");
    group.throughput(Throughput::Elements(1)).sample_size(10).measurement_time(Duration::from_secs(10));
    for readers in [1, 10] {
        group.bench_function(BenchmarkId::new("one topic, 64 bytes, readers", readers), |b| {
            b.iter_custom(|iterations| runtime.block_on(stream(iterations, readers)));
        });
    }
    group.finish();
}

async fn stream(messages: u64, readers: usize) -> Duration {
    let (bus, first) = bus().await;
    let mut ends = vec![first];
    for _ in 1..readers {
        let mut reader = bus.reader();
        reader.subscribe(&filter("greenhouse/#"));
        ends.push(reader);
    }
    let start = Instant::now();
    let readers = ends.into_iter().map(|mut reader| {
        tokio::spawn(async move {
            let mut batch = VecDeque::new();
            let mut received = 0;
            while received < messages {
                reader.recv(&mut batch).await.unwrap();
                received += batch.len() as u64;
                batch.clear();
            }
        })
    });
    let readers: Vec<_> = readers.collect();
    let publisher = tokio::spawn(async move {
        for _ in 0..messages {
            bus.publish(Envelope::new(&draft(TOPIC))).await.unwrap();
        }
    });
    publisher.await.unwrap();
    for reader in readers {
        reader.await.unwrap();
    }
    start.elapsed()
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    for bench in [matching, envelope, retained, latency, throughput] {
        bench(&mut criterion);
    }
    criterion.final_summary();
}
