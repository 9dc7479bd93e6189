//! Hundreds of clients at once, of both versions, that come, go, break off in the middle of a packet, take each other
//! over and send garbage; and then a count of exactly what must be there.
//!
//! `GATEPOST_CHAOS_SEED` repeats the choices of a run (not the times at which they fall), `GATEPOST_CHAOS_SECONDS` makes
//! it longer.

mod nuisance;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use fastrand::Rng;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::common::peer::{Link, Peer, Port};
use crate::common::wire::{self, Connect, Publish};
use crate::common::{DEADLINE, Gateway, Holdings, LISTENER, QUIET_LOG, wait_until};

const WRITERS: usize = 24;
const READERS: usize = 9;
const MEMBERS: usize = 6;
const MORTALS: usize = 20;
const GARBAGE: usize = 20;
const TRANSIENTS: usize = 80;
const TWINS: usize = 12;

/// What a bystander may wait on a machine that is not busy with other things.
const PROMPT: Duration = Duration::from_millis(100);

/// Between two questions of the bystander.
const PAUSE: Duration = Duration::from_millis(10);

const BROKER: &str = r#"
[broker]
max_queued = 1000000
max_queued_bytes = "256MiB"
"#;

/// What all clients know.
#[derive(Clone)]
pub struct Chaos {
    port: Port,
    stopped: Arc<AtomicBool>,
    /// Readers that have come to stay.
    settled: Arc<AtomicUsize>,
}

impl Chaos {
    fn goes_on(&self) -> bool {
        !self.stopped.load(Ordering::SeqCst)
    }
}

/// What a writer has published: how many on each of its topics, QoS 0, 1 and 2.
type Written = [u64; 3];

fn topic(writer: usize, qos: usize) -> String {
    format!("chaos/w{writer}/q{qos}")
}

/// Publishes numbers, each QoS on a topic of its own, and some retained; at the end one more on each topic.
async fn writer(chaos: Chaos, mut rng: Rng, index: usize) -> Written {
    let mut peer = Peer::new(&chaos.port, format!("writer-{index}"), rng.fork());
    let mut written = [0; 3];
    let keep = format!("keep/{index}");
    while chaos.goes_on() {
        peer.be_connected().await;
        let qos = rng.usize(0..3);
        peer.publish(qos as u8, false, &topic(index, qos), written[qos]).await;
        written[qos] += 1;
        if rng.u8(0..8) == 0 {
            peer.publish(1, true, &keep, written[1]).await;
        }
        if rng.u8(0..40) == 0 {
            peer.vanish().await;
        }
        peer.listen(Duration::from_millis(rng.u64(0..20))).await;
    }
    peer.settle().await;
    while chaos.settled.load(Ordering::SeqCst) < READERS + 1 {
        peer.listen(Duration::from_millis(10)).await;
    }
    for (qos, count) in written.iter_mut().enumerate() {
        peer.be_connected().await;
        peer.publish(qos as u8, false, &topic(index, qos), *count).await;
        *count += 1;
    }
    peer.publish(1, true, &keep, u64::MAX).await;
    peer.settle().await;
    peer.ping().await;
    peer.end().await;
    written
}

/// Reads everything, through one of three sets of filters, some of them overlapping.
async fn reader(chaos: Chaos, mut rng: Rng, mut peer: Peer) -> Vec<Publish> {
    while chaos.goes_on() {
        peer.be_connected().await;
        peer.listen(Duration::from_millis(50)).await;
        if rng.u8(0..250) == 0 {
            peer.vanish().await;
            sleep(Duration::from_millis(rng.u64(0..300))).await;
        }
    }
    peer.ping().await;
    chaos.settled.fetch_add(1, Ordering::SeqCst);
    let mut ends = 0;
    let mut seen = 0;
    let deadline = Instant::now() + DEADLINE;
    let mut last: HashMap<String, u64> = HashMap::new();
    // Until nothing has come for a while: the ends of all topics are among what must have come by then.
    while Instant::now() < deadline && ends < 3 {
        peer.be_connected().await;
        if peer.listen(Duration::from_millis(300)).await.is_none() && last.len() >= 3 * WRITERS {
            ends += 1;
        }
        for publish in &peer.got[seen..] {
            last.insert(publish.topic.clone(), number(publish));
        }
        seen = peer.got.len();
    }
    peer.ping().await;
    peer.end().await
}

async fn subscribed_reader(chaos: &Chaos, rng: &mut Rng, index: usize) -> Peer {
    let mut peer = Peer::new(&chaos.port, format!("reader-{index}"), rng.fork());
    match index % 3 {
        0 => peer.subscribe(&[("chaos/#", 2)]).await,
        1 => peer.subscribe(&[("chaos/+/q1", 2), ("+/+/q2", 2), ("chaos/#", 2)]).await,
        _ => {
            for writer in 0..WRITERS {
                let topics = [0, 1, 2].map(|qos| topic(writer, qos));
                peer.subscribe(&[(&topics[0], 2), (&topics[1], 2), (&topics[2], 2)]).await;
            }
        }
    }
    peer
}

async fn subscribed_member(chaos: &Chaos, rng: &mut Rng, index: usize) -> Peer {
    let mut peer = Peer::new(&chaos.port, format!("member-{index}"), rng.fork());
    peer.subscribe(&[("$share/team/chaos/+/q1", 2), ("$share/team/chaos/+/q2", 2)]).await;
    peer
}

/// A member of the shared subscription, which loses its connection too; it goes on until nothing more comes.
async fn member(chaos: Chaos, mut rng: Rng, mut peer: Peer) -> Vec<Publish> {
    while chaos.goes_on() {
        peer.be_connected().await;
        peer.listen(Duration::from_millis(50)).await;
        if rng.u8(0..200) == 0 {
            peer.vanish().await;
            sleep(Duration::from_millis(rng.u64(0..300))).await;
        }
    }
    let mut quiet = Instant::now();
    while quiet.elapsed() < Duration::from_secs(3) {
        peer.be_connected().await;
        if peer.listen(Duration::from_millis(100)).await.is_some() {
            quiet = Instant::now();
        }
    }
    // Another member may still have had something in flight when this one ends.
    peer.ping().await;
    peer.got.clone()
}

/// Publishes to itself all along and notes how long it takes.
async fn bystander(chaos: Chaos) -> Waits {
    let connect = Connect { v5: true, id: "bystander".to_owned(), clean: true, expiry: 0, will: None };
    let mut taken = Waits::default();
    while chaos.goes_on() {
        let _ = watch_one_connection(&chaos, &connect, &mut taken).await;
        sleep(Duration::from_millis(10)).await;
    }
    taken
}

async fn watch_one_connection(chaos: &Chaos, connect: &Connect, taken: &mut Waits) -> std::io::Result<()> {
    let (mut link, _) = Link::connect(&chaos.port, connect).await?;
    let mut bytes = BytesMut::new();
    wire::subscribe(&mut bytes, connect.v5, 1, &[("bystander", 0)]);
    link.send(&bytes).await?;
    link.next().await?;
    let publish = wire::parse_publish(false, 0x32, bytes::Bytes::from_static(b"\0\x09bystander\0\x01here"));
    let mut bytes = BytesMut::new();
    wire::publish(&mut bytes, connect.v5, &publish);
    while chaos.goes_on() {
        let start = Instant::now();
        link.send(&bytes).await?;
        // PUBLISH and PUBACK, in any order.
        link.next().await?;
        link.next().await?;
        taken.answers.push(start.elapsed());
        let start = Instant::now();
        sleep(PAUSE).await;
        taken.lateness.push(start.elapsed() - PAUSE);
    }
    Ok(())
}

fn number(publish: &Publish) -> u64 {
    std::str::from_utf8(&publish.payload).unwrap().parse().unwrap()
}

/// What came, by topic, in order.
fn by_topic(got: &[Publish]) -> BTreeMap<&str, Vec<u64>> {
    let mut topics: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for publish in got {
        topics.entry(&publish.topic).or_default().push(number(publish));
    }
    topics
}

/// Every reader: QoS 0 at most once, QoS 1 at least once, QoS 2 exactly once, all in order.
fn check_reader(name: &str, got: &[Publish], written: &[Written]) {
    let topics = by_topic(got);
    for (writer, counts) in written.iter().enumerate() {
        for (qos, &count) in counts.iter().enumerate() {
            let topic = topic(writer, qos);
            let numbers = topics.get(topic.as_str()).map(Vec::as_slice).unwrap_or_default();
            let mut seen = BTreeSet::new();
            let firsts: Vec<u64> = numbers.iter().copied().filter(|&number| seen.insert(number)).collect();
            assert!(firsts.is_sorted(), "{name}: {topic} out of order: {firsts:?}");
            assert_eq!(numbers.last().copied().max(firsts.last().copied()), Some(count - 1), "{name}: end of {topic}");
            if qos != 1 {
                assert_eq!(numbers.len(), firsts.len(), "{name}: {topic} has repetitions: {numbers:?}");
            }
            if qos > 0 {
                let missing: Vec<u64> = (0..count).filter(|number| !seen.contains(number)).collect();
                assert!(missing.is_empty(), "{name}: lost on {topic}: {missing:?}");
            }
        }
    }
}

/// The members together: QoS 1 at least once, QoS 2 exactly once.
fn check_members(got: &[Publish], written: &[Written]) {
    let topics = by_topic(got);
    for (writer, counts) in written.iter().enumerate() {
        for qos in [1, 2] {
            let topic = topic(writer, qos);
            let mut numbers = topics.get(topic.as_str()).cloned().unwrap_or_default();
            numbers.sort_unstable();
            if qos == 1 {
                numbers.dedup();
            }
            let expected: Vec<u64> = (0..counts[qos]).collect();
            assert!(numbers == expected, "the group on {topic}: {}", difference(&numbers, &expected));
        }
    }
}

fn difference(numbers: &[u64], expected: &[u64]) -> String {
    let missing: Vec<_> = expected.iter().filter(|number| !numbers.contains(number)).collect();
    let repeated: Vec<_> = numbers.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect();
    format!("missing {missing:?}, repeated {repeated:?}")
}

/// What a new subscriber gets of the retained messages.
async fn retained(chaos: &Chaos) -> BTreeMap<String, u64> {
    let connect = Connect { v5: false, id: "late".to_owned(), clean: true, expiry: 0, will: None };
    let (mut link, _) = Link::connect(&chaos.port, &connect).await.unwrap();
    let mut bytes = BytesMut::new();
    wire::subscribe(&mut bytes, false, 1, &[("keep/#", 0)]);
    link.send(&bytes).await.unwrap();
    assert_eq!(link.next().await.unwrap().0, 0x90);
    link.send(&[0xc0, 0]).await.unwrap();
    let mut found = BTreeMap::new();
    loop {
        match link.next().await.unwrap() {
            (0xd0, _) => break,
            (first, body) if first >> 4 == 3 => {
                let publish = wire::parse_publish(false, first, body);
                assert!(publish.retain);
                found.insert(publish.topic.clone(), number(&publish));
            }
            _ => {}
        }
    }
    link.send(&[0xe0, 0]).await.unwrap();
    link.until_closed().await;
    found
}

async fn all<T>(tasks: Vec<JoinHandle<T>>) -> Vec<T> {
    let mut results = Vec::new();
    for task in tasks {
        results.push(task.await.unwrap());
    }
    results
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().expect("a number"))
}

/// Kills the broker with SIGKILL and starts it anew, at random moments, until it is time to stop.
async fn kill_now_and_then(
    chaos: &Chaos,
    rng: &mut Rng,
    mut gateway: Gateway,
    until: Instant,
    config: &str,
) -> Gateway {
    let mut kills = 0;
    while Instant::now() < until {
        sleep(Duration::from_millis(rng.u64(200..1500))).await;
        let config = config.to_owned();
        gateway = tokio::task::spawn_blocking(move || Gateway::start_with(gateway.kill9(), &config)).await.unwrap();
        chaos.port.store(gateway.port(), Ordering::SeqCst);
        kills += 1;
    }
    println!("killed {kills} times");
    gateway
}

async fn run(kills: bool) {
    let seed = setting("GATEPOST_CHAOS_SEED", fastrand::u64(0..1_000_000));
    let seconds = setting("GATEPOST_CHAOS_SECONDS", 10);
    println!("GATEPOST_CHAOS_SEED={seed}");
    let mut rng = Rng::with_seed(seed);
    let config = format!("{QUIET_LOG}{BROKER}persistence = {kills}\n{LISTENER}");
    let mut gateway = Gateway::start_with(TempDir::new().unwrap(), &config);
    let before = Holdings::of(gateway.id());
    let chaos =
        Chaos { port: Arc::new(AtomicU16::new(gateway.port())), stopped: Arc::default(), settled: Arc::default() };

    let mut readers = Vec::new();
    for index in 0..READERS {
        let peer = subscribed_reader(&chaos, &mut rng, index).await;
        readers.push(tokio::spawn(reader(chaos.clone(), rng.fork(), peer)));
    }
    let mut members = Vec::new();
    for index in 0..MEMBERS {
        let peer = subscribed_member(&chaos, &mut rng, index).await;
        members.push(tokio::spawn(member(chaos.clone(), rng.fork(), peer)));
    }
    let mut undertaker = Peer::new(&chaos.port, "undertaker".to_owned(), rng.fork());
    undertaker.subscribe(&[("will/#", 1)]).await;
    let undertaker = tokio::spawn(reads_wills(chaos.clone(), undertaker));

    let writers: Vec<_> = (0..WRITERS).map(|index| tokio::spawn(writer(chaos.clone(), rng.fork(), index))).collect();
    let mortals: Vec<_> = (0..MORTALS)
        .map(|index| tokio::spawn(nuisance::mortal(chaos.clone(), rng.fork(), 1_000_000 * index as u64)))
        .collect();
    let mut others = Vec::new();
    others.extend((0..GARBAGE).map(|_| tokio::spawn(nuisance::garbage(chaos.clone(), rng.fork()))));
    others.extend((0..TRANSIENTS).map(|_| tokio::spawn(nuisance::transient(chaos.clone(), rng.fork()))));
    others.extend((0..TWINS).map(|_| tokio::spawn(nuisance::twin(chaos.clone(), rng.fork()))));
    let bystander = tokio::spawn(bystander(chaos.clone()));

    let until = Instant::now() + Duration::from_secs(seconds);
    if kills {
        gateway = kill_now_and_then(&chaos, &mut rng, gateway, until, &config).await;
    } else {
        sleep(until - Instant::now()).await;
    }
    chaos.stopped.store(true, Ordering::SeqCst);

    let taken = bystander.await.unwrap();
    all(others).await;
    let dead: BTreeSet<u64> = all(mortals).await.into_iter().flatten().collect();
    chaos.settled.fetch_add(1, Ordering::SeqCst);
    let written = all(writers).await;
    println!("written, QoS 0, 1 and 2: {:?}", [0, 1, 2].map(|qos| written.iter().map(|w| w[qos]).sum::<u64>()));
    for (index, got) in all(readers).await.iter().enumerate() {
        check_reader(&format!("reader-{index}"), got, &written);
    }
    let got: Vec<Publish> = all(members).await.concat();
    check_members(&got, &written);
    check_wills(&undertaker.await.unwrap(), &dead, kills);
    let expected = (0..WRITERS).map(|index| (format!("keep/{index}"), u64::MAX)).collect();
    assert_eq!(retained(&chaos).await, expected);
    check_prompt(taken, kills);

    check_figures(&gateway, dead.len() as u64, kills);
    let files_of_the_store = if kills { 3 } else { 0 };
    wait_until("descriptors and threads to be as many as before", || {
        let now = Holdings::of(gateway.id());
        now.descriptors <= before.descriptors + files_of_the_store && now.threads <= before.threads
    });
    let log = gateway.terminate();
    let complaints: Vec<_> = log.iter().filter(|line| line.contains("ERROR") || line.contains("panicked")).collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
}

/// Reads wills until all clients are gone and nothing more comes.
async fn reads_wills(chaos: Chaos, mut peer: Peer) -> Vec<Publish> {
    let mut quiet = 0;
    while quiet < 5 {
        peer.be_connected().await;
        let came = peer.listen(Duration::from_millis(200)).await.is_some();
        let over = chaos.settled.load(Ordering::SeqCst) > READERS;
        quiet = if came || !over { 0 } else { quiet + 1 };
    }
    peer.end().await
}

/// Each client that did not say goodbye has its will published once. A broker that was killed has forgotten them.
fn check_wills(got: &[Publish], dead: &BTreeSet<u64>, killed: bool) {
    let numbers: BTreeSet<u64> = got.iter().map(number).collect();
    println!("{} clients died, {} wills", dead.len(), numbers.len());
    if !killed {
        assert_eq!(numbers.len(), got.len(), "a will came twice");
        assert_eq!(&numbers, dead);
    }
}

/// What came is what went on or was dropped. A broker that was killed has counted only since then.
fn check_figures(gateway: &Gateway, wills: u64, killed: bool) {
    let figures = || gateway.status()["broker"].clone();
    wait_until("every connection to be accounted for", || {
        let figures = figures();
        let count = |name: &str| figures[name].as_u64().unwrap();
        count("sockets") == count("accepted") + count("refused") + count("over_limit") + count("abandoned")
    });
    let figures = figures();
    let dropped = |reason: &str| figures["dropped"][reason].as_u64().unwrap_or_default();
    assert_eq!((dropped("queue_full"), dropped("lost")), (0, 0), "{figures:#}");
    if !killed {
        // The gateway itself says `online`.
        let published = figures["received"]["messages"].as_u64().unwrap() - dropped("refused") + wills + 1;
        assert_eq!(figures["published"].as_u64(), Some(published), "{figures:#}");
    }
}

/// How long the bystander waited for the broker, and how much longer than it wanted for its own timer: what the machine
/// takes from everybody, and not the broker.
#[derive(Default)]
struct Waits {
    answers: Vec<Duration>,
    lateness: Vec<Duration>,
}

fn within(mut waits: Vec<Duration>, percent: usize) -> Duration {
    waits.sort_unstable();
    waits[waits.len() * percent / 100]
}

fn check_prompt(waits: Waits, killed: bool) {
    let count = waits.answers.len();
    let (most, late) = (within(waits.answers, 99), within(waits.lateness, 99));
    println!("{count} answers to a bystander: 99 % within {most:?}; its own timer: {late:?} late");
    // An answer takes four turns of one process or the other.
    assert!(killed || most < PROMPT + 4 * late, "99 % within {most:?}, the timer {late:?} late");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_clients_in_all_states_get_exactly_what_they_must() {
    run(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_clients_and_a_broker_that_is_killed_now_and_then() {
    run(true).await;
}
