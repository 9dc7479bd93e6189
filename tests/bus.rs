//! The bus from outside: nothing lost, nothing twice, nothing out of order, whatever readers and publishers do.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gatepost::broker::bus::{Bus, BusSettings, Reader, Received};
use gatepost::broker::local::{LocalClient, LocalLimits, Publish, PublishError};
use gatepost::broker::message::{Draft, Envelope, Message};
use gatepost::broker::retained::Retention;
use gatepost::broker::subscriptions::{SubscriptionOptions, Subscriptions};
use gatepost::qos::Qos;
use gatepost::topic::TopicName;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

#[path = "common/bus.rs"]
mod parts;

use parts::{filter, message, retained};

fn bus(direct_readers: usize) -> Bus {
    Bus::start(BusSettings { max_retained: 100, direct_readers }).unwrap()
}

/// Makes three tests of one: with every message through the router, with every message handed over directly, and with
/// a change between the two when a second reader comes or goes.
macro_rules! each_way {
    ($(#[$attribute:meta])* async fn $name:ident($bus:ident: Bus) $body:block) => {
        mod $name {
            use super::*;

            async fn run($bus: Bus) $body

            $(#[$attribute])*
            async fn routed() {
                run(bus(0)).await;
            }

            $(#[$attribute])*
            async fn direct() {
                run(bus(100)).await;
            }

            $(#[$attribute])*
            async fn mixed() {
                run(bus(1)).await;
            }
        }
    };
}

fn envelope(topic: &str, payload: impl AsRef<[u8]>) -> Envelope {
    Envelope::new(&message(topic, payload.as_ref()))
}

/// A test that takes longer has hung.
async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("must not hang")
}

async fn recv(reader: &mut Reader, count: usize) -> Vec<Message> {
    let mut batch = VecDeque::new();
    while batch.len() < count {
        within(reader.recv(&mut batch)).await.unwrap();
    }
    assert_eq!(batch.len(), count);
    batch.into_iter().map(|received| received.message).collect()
}

fn payloads(messages: &[Message]) -> Vec<&str> {
    messages.iter().map(|message| std::str::from_utf8(message.payload_bytes()).unwrap()).collect()
}

each_way! {
    #[tokio::test]
    async fn what_is_published_after_subscribing_arrives_in_order_and_whole(bus: Bus) {
        assert!(!bus.try_publish(envelope("a/b", "before")).unwrap().is_read());
        let mut reader = parts::reader(&bus, &["a/#"]);
        for i in 0..1000 {
            assert!(bus.publish(envelope("a/b", i.to_string())).await.unwrap().is_read());
        }
        let large = vec![7; 1 << 20];
        let draft = Draft { qos: Qos::ExactlyOnce, origin: 9, properties: b"props", ..message("a/b", &large) };
        within(async {
            tokio::join!(async { bus.publish(Envelope::new(&draft)).await.unwrap() }, async {
                let messages = recv(&mut reader, 1001).await;
                let expected: Vec<String> = (0..1000).map(|i| i.to_string()).collect();
                assert_eq!(payloads(&messages[..1000]), expected);
                let last = &messages[1000];
                assert_eq!((last.topic(), last.payload_bytes(), last.properties()), ("a/b", &large[..], &b"props"[..]));
                assert_eq!((last.qos(), last.origin(), last.retained_version()), (Qos::ExactlyOnce, 9, 0));
            })
        })
        .await;
        assert_eq!((bus.stats().published.get(), bus.stats().unread.get()), (1002, 1));
        assert_eq!((bus.stats().delivered.get(), bus.stats().lost.get()), (1001, 0));
    }
}

each_way! {
    #[tokio::test]
    async fn subscriptions_can_be_changed_at_any_time(bus: Bus) {
        let mut reader = bus.reader();
        for round in 0..50 {
            reader.subscribe(&filter("a/b"));
            bus.publish(envelope("a/b", format!("{round} one"))).await.unwrap();
            reader.subscribe(&filter("#"));
            reader.unsubscribe(&filter("a/b"));
            bus.publish(envelope("a/b", format!("{round} two"))).await.unwrap();
            let received = recv(&mut reader, 2).await;
            assert_eq!(payloads(&received), [format!("{round} one"), format!("{round} two")]);
            reader.unsubscribe(&filter("#"));
            assert!(!bus.publish(envelope("a/b", "nobody")).await.unwrap().is_read());
        }
        assert_eq!(bus.stats().lost.get(), 0);
    }
}

each_way! {
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn a_reader_that_enters_amid_traffic_misses_nothing_and_gets_nothing_twice(bus: Bus) {
        let stop = Arc::new(AtomicBool::new(false));
        let publisher = tokio::spawn({
            let (bus, stop) = (bus.clone(), stop.clone());
            async move {
                let mut count = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    bus.publish(envelope("a/b", count.to_string())).await.unwrap();
                    count += 1;
                }
            }
        });
        // Keeps the topic read, so that publishing is never a no-op.
        let mut steady = parts::reader(&bus, &["#"]);
        let steady = tokio::spawn(async move {
            let mut batch = VecDeque::new();
            let mut next = None;
            while steady.recv(&mut batch).await.is_ok() {
                follow(&mut next, &mut batch);
            }
        });
        let enter = |first: u64| {
            let bus = bus.clone();
            tokio::spawn(async move {
                for round in first..first + 100 {
                    let mut current = if round % 2 == 0 { "a/b" } else { "#" };
                    let mut reader = parts::reader(&bus, &[current]);
                    let (mut next, mut batch) = (None, VecDeque::new());
                    // Widening and narrowing while messages pass loses and repeats nothing.
                    for change in [current, "#", "a/+", "a/b"] {
                        reader.subscribe(&filter(change));
                        if change != current {
                            reader.unsubscribe(&filter(current));
                        }
                        current = change;
                        for _ in 0..5 {
                            within(reader.recv(&mut batch)).await.unwrap();
                            follow(&mut next, &mut batch);
                        }
                    }
                }
            })
        };
        for entering in [0, 1, 2, 3].map(enter) {
            within(entering).await.unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        within(publisher).await.unwrap();
        steady.abort();
        assert!(steady.await.is_err_and(|error| error.is_cancelled()), "the steady reader must not have failed");
        assert_eq!(bus.stats().lost.get(), 0);
    }
}

/// Takes numbered messages out of `batch` and checks that none is missing.
fn follow(next: &mut Option<u64>, batch: &mut VecDeque<Received>) {
    for Received { message, .. } in batch.drain(..) {
        let number: u64 = std::str::from_utf8(message.payload_bytes()).unwrap().parse().unwrap();
        assert!(next.is_none_or(|next| next == number), "got {number}, expected {next:?}");
        *next = Some(number + 1);
    }
}

each_way! {
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn publishers_at_full_speed_lose_nothing_to_a_slow_reader(bus: Bus) {
        const PUBLISHERS: u64 = 4;
        const MESSAGES: u64 = 20_000;
        let mut reader = parts::reader(&bus, &["load/#"]);
        let publish = |publisher: u64| {
            let bus = bus.clone();
            async move {
                for i in 0..MESSAGES {
                    // Two topics each; now and then a large one, of the size of the whole budget.
                    let mut payload = i.to_le_bytes().to_vec();
                    payload.resize(if i % 5000 == 4999 { 300_000 } else { 64 }, 0);
                    bus.publish(envelope(&format!("load/{publisher}/{}", i % 2), payload)).await.unwrap();
                }
            }
        };
        let publishers: Vec<_> = (0..PUBLISHERS).map(|publisher| tokio::spawn(publish(publisher))).collect();
        let mut last = HashMap::new();
        let (mut received, mut batches) = (0, 0);
        let mut batch = VecDeque::new();
        while received < PUBLISHERS * MESSAGES {
            within(reader.recv(&mut batch)).await.unwrap();
            batches += 1;
            if batches % 50 == 0 {
                // Slow on purpose: the publishers must be held up, whatever the machine.
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            for Received { message, .. } in batch.drain(..) {
                received += 1;
                let number = u64::from_le_bytes(message.payload_bytes()[..8].try_into().unwrap());
                let before = last.insert(message.topic().to_owned(), number);
                assert!(
                    before.map_or(number < 2, |before| number == before + 2),
                    "{}: {before:?} {number}",
                    message.topic()
                );
            }
        }
        for publisher in publishers {
            within(publisher).await.unwrap();
        }
        let stats = bus.stats();
        assert!(stats.busy.get() > 0, "the publishers must have been held up");
        assert_eq!((stats.published.get(), stats.delivered.get(), stats.lost.get()), (received, received, 0));
    }
}

each_way! {
    #[tokio::test]
    async fn a_reader_that_does_not_read_holds_up_its_publishers_only_until_it_is_dropped(bus: Bus) {
        const MESSAGES: usize = 200;
        let stuck = parts::reader(&bus, &["slow"]);
        let publisher = tokio::spawn({
            let bus = bus.clone();
            async move {
                for _ in 0..MESSAGES {
                    bus.publish(envelope("slow", vec![0; 10_000])).await.unwrap();
                }
            }
        });
        within(async {
            while bus.stats().busy.get() == 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        let mut other = parts::reader(&bus, &["fast"]);
        for _ in 0..MESSAGES {
            assert!(bus.publish(envelope("fast", "1")).await.unwrap().is_read());
            assert_eq!(payloads(&recv(&mut other, 1).await), ["1"]);
        }
        assert!(!publisher.is_finished(), "2 MB for a reader that does not read");
        drop(stuck);
        within(publisher).await.unwrap();
        assert!(!bus.try_publish(envelope("slow", "1")).unwrap().is_read());
    }
}

each_way! {
    #[tokio::test]
    async fn a_dropped_receive_loses_nothing(bus: Bus) {
        let mut reader = parts::reader(&bus, &["a"]);
        let mut batch = VecDeque::new();
        let mut published = 0;
        while batch.len() < 500 {
            if published < 500 {
                bus.publish(envelope("a", published.to_string())).await.unwrap();
                published += 1;
            }
            tokio::select! {
                biased;
                received = reader.recv(&mut batch) => received.unwrap(),
                () = tokio::task::yield_now() => {}
            }
        }
        let messages: Vec<Message> = batch.into_iter().map(|received: Received| received.message).collect();
        let expected: Vec<String> = (0..500).map(|i| i.to_string()).collect();
        assert_eq!(payloads(&messages), expected);
    }
}

each_way! {
    #[tokio::test]
    async fn readers_come_and_go_in_numbers(bus: Bus) {
        for _ in 0..3 {
            let mut readers = Vec::new();
            for _ in 0..200 {
                readers.push(parts::reader(&bus, &["#"]));
            }
            bus.try_publish(envelope("a", "all")).unwrap();
            for reader in &mut readers {
                assert_eq!(payloads(&recv(reader, 1).await), ["all"]);
            }
            // Dropped with messages on their way.
            bus.try_publish(envelope("a", "unseen")).unwrap();
        }
        assert_eq!(bus.stats().lost.get(), 0);
    }
}

each_way! {
    #[tokio::test]
    async fn who_reads_nothing_any_more_forgets_what_has_come(bus: Bus) {
        let (mut witness, mut reader) = (parts::reader(&bus, &["a"]), parts::reader(&bus, &["a"]));
        bus.try_publish(envelope("a", "old")).unwrap();
        recv(&mut witness, 1).await;
        reader.clear();
        reader.subscribe(&filter("a"));
        bus.try_publish(envelope("a", "new")).unwrap();
        assert_eq!(payloads(&recv(&mut reader, 1).await), ["new"]);
    }
}

each_way! {
    #[tokio::test]
    async fn a_snapshot_and_what_comes_live_together_show_each_retained_message_once(bus: Bus) {
        let published = bus.try_publish(retained("a/1", "old")).unwrap();
        assert!(matches!(published.retained, Some(Retention::Stored(_))));
        let mut reader = parts::reader(&bus, &["a/+"]);
        bus.try_publish(retained("a/2", "between")).unwrap();
        let snapshot = bus.retained(&filter("a/+"));
        bus.try_publish(retained("a/1", "")).unwrap();
        assert_eq!(payloads(&snapshot.messages), ["old", "between"]);

        let mut subscriptions = Subscriptions::new();
        let subscription =
            gatepost::broker::subscriptions::Subscription { retained_floor: snapshot.version, ..Default::default() };
        subscriptions.insert(filter("a/+"), subscription);
        let live = recv(&mut reader, 2).await;
        let live: Vec<_> = live.iter().filter(|message| subscriptions.matches(message, 2).is_some()).collect();
        assert_eq!(live.len(), 1);
        assert_eq!((live[0].topic(), live[0].payload_bytes()), ("a/1", &b""[..]));
        assert_eq!(bus.retained_size().0, 1);
    }
}

each_way! {
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn the_retained_message_is_the_last_that_readers_get(bus: Bus) {
        for _ in 0..50 {
            let mut reader = parts::reader(&bus, &["state"]);
            let racers = (0..4).map(|racer| {
                let bus = bus.clone();
                tokio::spawn(async move {
                    for i in 0..10 {
                        bus.publish(retained("state", &format!("{racer} {i}"))).await.unwrap();
                    }
                })
            });
            for racer in racers.collect::<Vec<_>>() {
                within(racer).await.unwrap();
            }
            let live = recv(&mut reader, 40).await;
            assert!(live.is_sorted_by_key(Message::retained_version));
            assert_eq!(bus.retained(&filter("state")).messages, live[39..]);
        }
    }
}

#[tokio::test]
async fn a_full_retained_store_still_delivers() {
    let bus = Bus::start(BusSettings { max_retained: 1, direct_readers: 2 }).unwrap();
    let mut reader = parts::reader(&bus, &["#"]);
    bus.try_publish(retained("a", "1")).unwrap();
    assert_eq!(bus.try_publish(retained("b", "2")).unwrap().retained, Some(Retention::Refused));
    let received = recv(&mut reader, 2).await;
    assert_eq!(payloads(&received), ["1", "2"]);
    assert_eq!(received[1].retained_version(), 0);
    assert_eq!(bus.stats().retained_refused.get(), 1);
}

fn client(bus: &Bus) -> LocalClient {
    LocalClient::new(bus.clone(), Arc::new(LocalLimits::new(1000, true)))
}

fn publish(topic: &str, payload: &str, retain: bool) -> Publish {
    let (topic, payload) = (TopicName::new(topic).unwrap(), payload.to_owned().into());
    Publish { topic, payload, qos: Qos::AtLeastOnce, retain }
}

each_way! {
    #[tokio::test]
    async fn a_local_client_subscribes_and_publishes_like_any_other(bus: Bus) {
        let client = client(&bus);
        client.publish(publish("a/kept", "retained", true)).await.unwrap();
        let filters = vec![(filter("a/+"), Qos::AtMostOnce), (filter("#"), Qos::ExactlyOnce)];
        let mut subscriber = client.subscribe(filters).await.unwrap();
        client.publish(publish("a/live", "own", true)).await.unwrap();
        client.try_publish(publish("b", "other", false)).unwrap();
        let mut next = async || within(subscriber.recv()).await.unwrap();
        for (topic, payload, retain) in [("a/kept", "retained", true), ("a/live", "own", false), ("b", "other", false)] {
            let delivery = next().await;
            assert_eq!((delivery.topic.as_str(), &delivery.payload[..]), (topic, payload.as_bytes()));
            assert_eq!((delivery.qos, delivery.retain), (Qos::AtLeastOnce, retain));
        }
    }
}

each_way! {
    #[tokio::test]
    async fn a_local_client_can_leave_out_its_own_messages(bus: Bus) {
        let (client, other) = (client(&bus), client(&bus));
        let options = SubscriptionOptions { no_local: true, ..Qos::AtLeastOnce.into() };
        let mut subscriber = client.subscribe(vec![(filter("a"), options)]).await.unwrap();
        client.publish(publish("a", "own", false)).await.unwrap();
        other.publish(publish("a", "other's", false)).await.unwrap();
        assert_eq!(within(subscriber.recv()).await.unwrap().payload, "other's");
    }
}

each_way! {
    #[tokio::test]
    async fn who_goes_on_with_a_subscription_gets_what_is_retained_and_misses_nothing(bus: Bus) {
        let client = client(&bus);
        let qos = Qos::AtLeastOnce;
        let say = |topic: &'static str, payload: &'static str, retain| client.publish(publish(topic, payload, retain));
        let mut subscriber = client.subscribe(vec![(filter("a/+"), qos), (filter("gone"), qos)]).await.unwrap();
        say("a/b", "1", true).await.unwrap();
        say("a/c", "2", true).await.unwrap();
        for expected in ["1", "2"] {
            assert_eq!(within(subscriber.recv()).await.unwrap().payload, expected);
        }
        // Not taken yet: for whoever goes on, each once.
        say("a/b", "3", true).await.unwrap();
        say("a/b", "4", true).await.unwrap();
        say("gone", "nobody", false).await.unwrap();
        say("new", "5", true).await.unwrap();
        subscriber.take_over(vec![(filter("a/+"), qos), (filter("new"), qos)]);
        say("new", "6", false).await.unwrap();
        let mut came = Vec::new();
        for _ in 0..5 {
            let delivery = within(subscriber.recv()).await.unwrap();
            came.push((delivery.retain, String::from_utf8(delivery.payload.to_vec()).unwrap()));
        }
        // Order is kept for each topic.
        came.sort_unstable();
        let expected = [(false, "3"), (false, "4"), (false, "6"), (true, "2"), (true, "5")];
        assert_eq!(came, expected.map(|(retain, payload)| (retain, payload.to_owned())));
        assert_eq!(subscriber.leave().next(), None);
    }
}

#[tokio::test]
async fn a_busy_local_client_lets_other_tasks_run() {
    let bus = Bus::start(BusSettings { max_retained: 1000, direct_readers: 1 }).unwrap();
    let client = client(&bus);
    let other = tokio::spawn(async {});
    for i in 0..1000 {
        client.publish(publish(&format!("a/{i}"), "1", true)).await.unwrap();
    }
    assert!(other.is_finished());
    let mut subscriber = client.subscribe(vec![(filter("#"), Qos::AtMostOnce)]).await.unwrap();
    let other = tokio::spawn(async {});
    for _ in 0..1000 {
        assert!(subscriber.recv().await.is_some());
    }
    assert!(other.is_finished());
}

each_way! {
    #[tokio::test]
    async fn a_local_client_is_held_to_the_limits(bus: Bus) {
        let error = client(&bus).publish(publish("a", &"x".repeat(1001), false)).await.unwrap_err();
        assert!(matches!(error, PublishError::TooLarge { size: 1001, limit: 1000, .. }), "{error}");
        let forgetful = LocalClient::new(bus.clone(), Arc::new(LocalLimits::new(1000, false)));
        assert_eq!(forgetful.publish(publish("a", "1", true)).await.unwrap().retained, None);
        assert_eq!(bus.retained_size(), (0, 0));

        let _stuck = parts::reader(&bus, &["a"]);
        let full = std::iter::repeat_with(|| client(&bus).try_publish(publish("a", &"x".repeat(1000), false)));
        let error = full.take(100_000).find_map(Result::err).unwrap();
        assert!(matches!(error, PublishError::Busy(_)), "{error}");
    }
}

/// What happens to the bus in the test below.
#[derive(Clone, Debug)]
enum Step {
    Subscribe(usize, String),
    Unsubscribe(usize, String),
    Clear(usize),
    Publish(String),
    Take(usize),
}

const READERS: usize = 3;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let filters = || prop_oneof!["[ab+]{1}(/[ab+]){0,2}(/#)?", Just("#".to_owned())];
    let step = prop_oneof![
        3 => (0..READERS, filters()).prop_map(|(reader, filter)| Step::Subscribe(reader, filter)),
        2 => (0..READERS, filters()).prop_map(|(reader, filter)| Step::Unsubscribe(reader, filter)),
        1 => (0..READERS).prop_map(Step::Clear),
        6 => "[ab](/[ab]){0,2}".prop_map(Step::Publish),
        2 => (0..READERS).prop_map(Step::Take),
    ];
    prop::collection::vec(step, 0..80)
}

/// A reader, the filters it has by a naive account, and what it must have got and has not.
struct Naive {
    reader: Reader,
    filters: BTreeSet<String>,
    expected: Vec<(String, u64)>,
    received: Vec<(String, u64)>,
}

impl Naive {
    fn take(&mut self) {
        let mut batch = VecDeque::new();
        self.reader.take(&mut batch);
        let numbered = |message: &Message| u64::from_le_bytes(message.payload_bytes().try_into().unwrap());
        self.received
            .extend(batch.iter().map(|Received { message, .. }| (message.topic().to_owned(), numbered(message))));
    }
}

/// By topic, for order is kept for each: the two ways to a reader are not in step.
fn by_topic(messages: &[(String, u64)]) -> BTreeMap<&str, Vec<u64>> {
    let mut sorted = BTreeMap::<&str, Vec<u64>>::new();
    messages.iter().for_each(|(topic, number)| sorted.entry(topic).or_default().push(*number));
    sorted
}

async fn agrees_with_a_naive_matcher(bus: &Bus, steps: Vec<Step>) {
    let naive = || Naive { reader: bus.reader(), filters: BTreeSet::new(), expected: vec![], received: vec![] };
    let mut readers: Vec<Naive> = (0..READERS).map(|_| naive()).collect();
    for (number, step) in steps.into_iter().enumerate() {
        match step {
            Step::Subscribe(at, text) => {
                readers[at].reader.subscribe(&filter(&text));
                readers[at].filters.insert(text);
            }
            Step::Unsubscribe(at, text) => {
                readers[at].reader.unsubscribe(&filter(&text));
                readers[at].filters.remove(&text);
            }
            Step::Clear(at) => {
                readers[at].take();
                let Naive { reader, filters, expected, received } = &mut readers[at];
                reader.clear();
                filters.clear();
                // What was still on its way is forgotten.
                expected.retain(|message| received.contains(message));
            }
            Step::Publish(topic) => {
                let number = number as u64;
                let published = bus.publish(envelope(&topic, number.to_le_bytes())).await.unwrap();
                let is_read = |naive: &&mut Naive| naive.filters.iter().any(|text| filter(text).matches(&topic));
                let mut read = 0;
                readers.iter_mut().filter(is_read).for_each(|naive| {
                    naive.expected.push((topic.clone(), number));
                    read += 1;
                });
                assert_eq!(published.is_read(), read > 0);
            }
            Step::Take(at) => readers[at].take(),
        }
    }
    // It comes behind all that the router has.
    within(bus.probe()).await.unwrap();
    for naive in &mut readers {
        naive.take();
        assert!(naive.reader.is_level());
        assert_eq!(by_topic(&naive.received), by_topic(&naive.expected));
    }
    assert_eq!(bus.stats().lost.get(), 0);
}

#[test]
fn the_index_agrees_with_a_naive_matcher_amid_changes() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let buses = [0, 1, 100].map(bus);
    let mut runner = TestRunner::new(Config { cases: 300, ..Config::default() });
    let run = |(way, steps): (usize, Vec<Step>)| {
        runtime.block_on(agrees_with_a_naive_matcher(&buses[way], steps));
        Ok(())
    };
    runner.run(&((0..3_usize), steps()), run).unwrap();
}
