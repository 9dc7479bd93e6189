//! kill -9 and a full disk, in children: this test binary, which runs one function of this file instead of all.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, setrlimit};

use super::fixture::{connected, draft_message, stored, will};
use super::*;

/// What a child is to do, and with which file.
const ROLE: &str = "GATEPOST_STORE_ROLE";
const PATH: &str = "GATEPOST_STORE_PATH";

/// Messages of the killed child that are in its queue at a time.
const QUEUED: u64 = 50;
/// It says how far it is after so many.
const BURST: u64 = 10;

/// Not a test: what the children run.
#[tokio::test]
async fn child() {
    let (Ok(role), Ok(path)) = (std::env::var(ROLE), std::env::var(PATH)) else { return };
    let path = Path::new(&path);
    match role.as_str() {
        "queue" => queue(path).await,
        "full" => full(path).await,
        "overfull" => overfull(path).await,
        "migrate" => migrate(path).await,
        "migrate in no room" => migrate_in_no_room(path).await,
        _ => panic!("no such role: {role}"),
    }
}

/// With SIGXFSZ ignored, so that a file that must not grow makes an error, as a full disk does.
fn start(role: &str, path: &Path) -> Child {
    Command::new("sh")
        .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "broker::store::crash::child", "--nocapture"])
        .env(ROLE, role)
        .env(PATH, path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn number(outgoing: &StoredMessage) -> u64 {
    u64::from_le_bytes(outgoing.message.payload_bytes().try_into().unwrap())
}

/// Queues the numbers, each with a packet identifier in the same transaction, and takes them out again in order. Says
/// how far it came.
async fn queue(path: &Path) {
    let (store, restored) = Store::open(path, StoreSettings::default());
    let mut last_will = restored.wills.last().map_or_else(|| store.new_will(), |(will, _)| *will);
    let (mut rows, mut next, session) = match restored.sessions.into_iter().next() {
        None => {
            let (session, client_id) = (store.new_session(), Arc::from("client"));
            store.submit(Change::OpenSession { session, client_id, record: connected() });
            (VecDeque::new(), 0, session)
        }
        Some(found) => {
            let next = found.received.last().map_or(0, |&last| u64::from(last) + 1);
            // The kill may have come between the two changes that take out a number.
            let first = next - found.queue.len() as u64;
            for &packet_id in found.received.iter().filter(|&&id| u64::from(id) < first) {
                store.submit(Change::PubrelReceived { session: found.session, packet_id });
            }
            (found.queue.into_iter().map(|row| row.row).collect(), next, found.session)
        }
    };
    loop {
        let key = Qos2Gate { position: next };
        let row = store.next_row();
        let outgoing = stored("a", &next.to_le_bytes());
        store.submit(Change::Enqueue { session, row, outgoing, gate: Some(key) });
        store.submit(Change::PublishReceived { session, packet_id: next as u16, opens: Some(key) });
        rows.push_back(row);
        // More than one, if the kill came before the last was taken out.
        while rows.len() as u64 > QUEUED {
            let old = next + 1 - rows.len() as u64;
            let Some(row) = rows.pop_front() else { break };
            store.submit(Change::Dequeue { session, row });
            store.submit(Change::PubrelReceived { session, packet_id: old as u16 });
        }
        if next % BURST == 0 {
            let record = will("client", &next.to_le_bytes()).into();
            let before = std::mem::replace(&mut last_will, store.new_will());
            store.submit(Change::KeepWill { will: last_will, record });
            store.submit(Change::DropWill { will: before });
            // Somebody waits for this one.
            store.submit(Change::PublishReceived { session, packet_id: next as u16, opens: None });
            store.done(store.latest()).await;
            println!("at {next}");
        }
        next += 1;
    }
}

#[test]
fn what_was_done_survives_kill_9_at_any_moment() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("broker.db");
    let mut last = 0;
    for round in 0..12 {
        let mut child = start("queue", &path);
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut said = lines.map_while(Result::ok).filter_map(|line| line.strip_prefix("at ")?.parse::<u64>().ok());
        let at = said.nth(fastrand::usize(0..20)).expect("the child gets on");
        std::thread::sleep(Duration::from_micros(fastrand::u64(0..5000)));
        child.kill().unwrap();
        child.wait().unwrap();
        // What it said between our look and its end counts too.
        let at = said.last().unwrap_or(at);
        assert!(round == 0 || at > last, "it goes on where it was");
        last = check_queue(&path, at);
    }
}

/// Returns the last number that is there.
fn check_queue(path: &Path, done: u64) -> u64 {
    let (_, restored) = opening::open_ready(path).unwrap();
    assert!(!path.with_file_name("broker.db.bad").exists());
    let session = &restored.sessions[0];
    let numbers: Vec<u64> = session
        .queue
        .iter()
        .map(|row| match &row.phase {
            Phase::Queued(outgoing) => number(outgoing),
            phase => panic!("{phase:?}"),
        })
        .collect();
    let (first, last) = (numbers[0], numbers[numbers.len() - 1]);
    assert_eq!(numbers, (first..=last).collect::<Vec<_>>(), "none is missing");
    assert!(last >= done, "{done} was done, {last} is there");
    assert!(first + QUEUED + BURST >= done, "{first}: what was taken out stays out");
    let received = &session.received;
    assert_eq!(u64::from(received[received.len() - 1]), last, "message and identifier are one");
    let (_, will) = restored.wills.last().expect("there is always one");
    let number = u64::from_le_bytes(will.request.payload[..].try_into().unwrap());
    assert!(number >= done, "the will of {number}, and {done} was done");
    assert!(received.len().abs_diff(numbers.len()) <= 1, "{received:?}");
    last
}

/// Files may grow to `size` bytes from now on.
fn limit_files(size: Option<u64>) {
    setrlimit(Resource::Fsize, Rlimit { current: size, maximum: None }).unwrap();
}

async fn open_with_session(path: &Path, settings: StoreSettings) -> (Store, SessionId) {
    let (store, _) = Store::open(path, settings);
    let (session, client_id) = (store.new_session(), Arc::from("client"));
    store.done(store.submit(Change::OpenSession { session, client_id, record: connected() })).await;
    assert_eq!(store.health(), Health::Healthy);
    limit_files(Some(64 << 10));
    (store, session)
}

fn enqueue(store: &Store, session: SessionId, number: u64) {
    let outgoing = StoredMessage { share: Some("x".repeat(1000).into()), ..stored("a", &number.to_le_bytes()) };
    store.submit(Change::Enqueue { session, row: store.next_row(), outgoing, gate: None });
}

/// The disk fills up, nobody waits, there is room again: all is there.
async fn full(path: &Path) {
    let (store, session) = open_with_session(path, StoreSettings::default()).await;
    for number in 0..100 {
        enqueue(&store, session, number);
        if number % 10 == 9 {
            store.done(store.latest()).await;
        }
    }
    store.done(store.latest()).await;
    assert!(matches!(store.health(), Health::Degraded { .. }), "{:?}", store.health());
    assert!(store.stats().failures.get() > 0);
    limit_files(None);
    store.shared().until(|| store.health() == Health::Healthy).await;
    assert!(store.close(Duration::from_secs(20)).await);
}

/// The same, but what waits becomes too much: all is asked for when there is room again.
async fn overfull(path: &Path) {
    let settings = StoreSettings { max_pending_bytes: 20_000, ..StoreSettings::default() };
    let (store, session) = open_with_session(path, settings).await;
    for number in 1000.. {
        if store.stats().dropped.get() > 0 {
            break;
        }
        enqueue(&store, session, number);
        store.done(store.latest()).await;
    }
    limit_files(None);
    assert_eq!(store.resync(0).await, 1);
    store.submit(Change::OpenSession { session, client_id: "client".into(), record: connected() });
    (0..100).for_each(|number| enqueue(&store, session, number));
    store.shared().until(|| store.health() == Health::Healthy).await;
    assert!(store.close(Duration::from_secs(20)).await);
}

#[test]
fn a_full_disk_is_survived_and_all_is_there_when_it_has_room_again() {
    for role in ["full", "overfull"] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("broker.db");
        let child = start(role, &path).wait_with_output().unwrap();
        assert!(child.status.success(), "{role}: {}", String::from_utf8_lossy(&child.stdout));
        let (_, restored) = opening::open_ready(&path).unwrap();
        assert!(!path.with_file_name("broker.db.bad").exists());
        let queue = &restored.sessions[0].queue;
        let numbers = queue.iter().map(|row| match &row.phase {
            Phase::Queued(outgoing) => number(outgoing),
            phase => panic!("{phase:?}"),
        });
        assert_eq!(numbers.collect::<Vec<_>>(), (0..100).collect::<Vec<_>>(), "{role}");
    }
}

/// Opens a store of the first version, and says that it is about to.
async fn migrate(path: &Path) {
    println!("at 0");
    let (store, restored) = Store::open(path, StoreSettings::default());
    versions::check(1, &restored);
    store.done(retain(&store, "house/door", b"shut")).await;
    println!("at 1");
    std::future::pending::<()>().await;
}

fn retain(store: &Store, topic: &str, payload: &[u8]) -> Ticket {
    let message = draft_message(topic, payload, crate::qos::Qos::AtLeastOnce, None);
    store.submit(Change::Retain(message, Urgency::Urgent))
}

#[test]
fn a_new_format_survives_kill_9_at_any_moment() {
    let mut finished = 0;
    for round in 0..30 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("broker.db");
        versions::put(1, &path);
        // The second one goes on where the first was killed.
        for wait in [fastrand::u64(0..6000), fastrand::u64(0..6000)] {
            let mut child = start("migrate", &path);
            let lines = BufReader::new(child.stdout.take().unwrap()).lines();
            let mut said = lines.map_while(Result::ok).filter(|line| line.contains("at "));
            said.next().expect("the child starts");
            std::thread::sleep(Duration::from_micros(wait));
            child.kill().unwrap();
            child.wait().unwrap();
            finished += said.count();
        }
        let (_, restored) = opening::open_ready(&path).unwrap();
        versions::check(1, &restored);
        assert!(!path.with_file_name("broker.db.bad").exists(), "round {round}");
    }
    assert!(finished < 60, "none was killed in time");
}

/// A disk that takes no byte more than there is: all is read, and the new format comes when there is room.
async fn migrate_in_no_room(path: &Path) {
    let log = std::fs::metadata(path.with_extension("db-wal")).unwrap().len();
    limit_files(Some(log));
    let (store, restored) = Store::open(path, StoreSettings::default());
    versions::check(1, &restored);
    assert!(matches!(store.health(), Health::Degraded { .. }) && store.is_on(), "{:?}", store.health());
    let ticket = retain(&store, "house/window", b"open");
    assert!(store.is_done(ticket), "nobody waits");
    limit_files(None);
    store.shared().until(|| store.health() == Health::Healthy).await;
    assert!(store.close(Duration::from_secs(20)).await);
}

#[test]
fn a_store_of_an_older_version_on_a_full_disk_is_read_and_brought_to_this_version_when_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("broker.db");
    versions::put(1, &path);
    let child = start("migrate in no room", &path).wait_with_output().unwrap();
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
    let (_, mut restored) = opening::open_ready(&path).unwrap();
    assert_eq!(restored.retained.pop().unwrap().topic(), "house/window");
    versions::check(1, &restored);
}
