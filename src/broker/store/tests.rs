//! The store on real files.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::{Context, Wake};
use std::time::Duration;

use super::fixture::{connected, draft_message, stored};
use super::*;
use crate::qos::Qos;

const DEADLINE: Duration = Duration::from_secs(20);

fn open(path: &Path) -> (Store, Restored) {
    Store::open(path, StoreSettings::default())
}

fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state/broker.db");
    (folder, path)
}

/// A session of `client_id` with a record and nothing else.
fn session(store: &Store, client_id: &str) -> SessionId {
    let session = store.new_session();
    let client_id = Arc::from(client_id);
    store.submit(Change::OpenSession { session, client_id, record: connected() });
    session
}

fn enqueue(store: &Store, session: SessionId, payload: &[u8]) -> (RowId, Ticket) {
    let row = store.next_row();
    (row, store.submit(Change::Enqueue { session, row, outgoing: stored("a/b", payload), gate: None }))
}

fn retain(store: &Store, topic: &str, payload: &[u8], urgency: Urgency) -> Ticket {
    store.submit(Change::Retain(draft_message(topic, payload, Qos::AtLeastOnce, None), urgency))
}

/// The payloads that wait for a session.
fn payloads(session: &StoredSession) -> Vec<Vec<u8>> {
    let message = |row: &StoredRow| match &row.phase {
        Phase::Queued(stored) | Phase::Sent(_, stored) => stored.message.payload_bytes().to_vec(),
        Phase::Released(_) => Vec::new(),
    };
    session.queue.iter().map(message).collect()
}

async fn done(store: &Store, ticket: Ticket) {
    tokio::time::timeout(DEADLINE, store.done(ticket)).await.expect("the change is on disk in time");
}

#[tokio::test]
async fn what_was_there_is_there_again() {
    let (_folder, path) = folder();
    let (store, restored) = open(&path);
    assert!(restored.sessions.is_empty() && restored.retained.is_empty());
    assert_eq!(store.health(), Health::Healthy);
    let session = session(&store, "client");
    let (first, _) = enqueue(&store, session, b"1");
    enqueue(&store, session, b"2");
    store.submit(Change::PubrecReceived { session, row: first, packet_id: 7 });
    retain(&store, "t", b"kept", Urgency::Urgent);
    let ticket = store.submit(Change::PublishReceived { session, packet_id: 9, opens: None });
    assert!(store.latest() == ticket && !store.is_done(ticket));
    done(&store, ticket).await;
    assert!(store.close(DEADLINE).await);

    assert!(!path.with_file_name("broker.db-wal").exists(), "a clean stop leaves one file");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));

    let (store, restored) = open(&path);
    assert_eq!(restored.retained[0].payload_bytes(), b"kept");
    let found = &restored.sessions[0];
    assert_eq!((&*found.client_id, &found.record, &found.received), ("client", &connected(), &vec![9]));
    assert_eq!((&found.queue[0].phase, found.queue[0].row), (&Phase::Released(7), first));
    assert_eq!(payloads(found)[1], b"2");
    assert!(store.next_row() > found.queue[1].row && store.new_session() > session);
}

#[tokio::test]
async fn what_a_quick_subscriber_acknowledges_is_never_written() {
    let (_folder, path) = folder();
    let settings = StoreSettings { gather: Duration::from_secs(600), ..StoreSettings::default() };
    let (store, _) = Store::open(&path, settings);
    let session = store.new_session();
    let (row, ticket) = enqueue(&store, session, b"1");
    assert!(!store.is_done(ticket));
    assert_eq!(store.submit(Change::Dequeue { session, row }), Ticket::DONE);
    done(&store, ticket).await;
    assert_eq!((store.stats().commits.get(), store.stats().cancelled.get()), (0, 2));
}

#[tokio::test]
async fn dropping_the_last_handle_writes_the_rest() {
    let (_folder, path) = folder();
    let (store, _) = open(&path);
    retain(&store, "t", b"1", Urgency::Lazy);
    let shared = store.0.0.clone();
    drop(store);
    tokio::time::timeout(DEADLINE, shared.until(|| shared.ended.load(Ordering::Acquire))).await.unwrap();
    assert_eq!(open(&path).1.retained.len(), 1);
}

#[tokio::test]
async fn the_queue_of_a_session_goes_with_it() {
    let (_folder, path) = folder();
    let (store, _) = open(&path);
    let (one, two) = (session(&store, "one"), session(&store, "two"));
    for number in 0..100u8 {
        enqueue(&store, if number % 2 == 0 { one } else { two }, &[number]);
    }
    for session in [one, two] {
        store.submit(Change::PublishReceived { session, packet_id: 1, opens: None });
        let (filter, options, id) = ("a/#".into(), Qos::AtLeastOnce.into(), Some(5));
        let subscription = StoredSubscription { filter, options, id };
        store.submit(Change::Subscribe { session, subscription });
    }
    done(&store, store.latest()).await;
    done(&store, store.submit(Change::EndSession { session: one })).await;
    store.close(DEADLINE).await;
    let (_, restored) = open(&path);
    assert_eq!(restored.sessions.len(), 1);
    let left = &restored.sessions[0];
    assert_eq!(payloads(left), (0..100u8).filter(|number| number % 2 == 1).map(|n| vec![n]).collect::<Vec<_>>());
    assert_eq!((&left.received, &*left.subscriptions[0].filter), (&vec![1], "a/#"));
}

#[tokio::test]
async fn what_comes_for_a_session_after_its_end_is_removed_at_the_next_start() {
    let (_folder, path) = folder();
    let (store, _) = open(&path);
    let (kept, ended) = (session(&store, "kept"), session(&store, "ended"));
    store.submit(Change::EndSession { session: ended });
    for session in [kept, ended] {
        enqueue(&store, session, b"1");
        store.submit(Change::PublishReceived { session, packet_id: 1, opens: None });
        let (filter, options, id) = ("a".into(), Qos::AtLeastOnce.into(), None);
        store.submit(Change::Subscribe { session, subscription: StoredSubscription { filter, options, id } });
    }
    store.close(DEADLINE).await;
    for _ in 0..2 {
        let (store, restored) = open(&path);
        assert_eq!(restored.sessions.len(), 1);
        let found = &restored.sessions[0];
        assert_eq!((found.queue.len(), found.received.len(), found.subscriptions.len()), (1, 1, 1));
        assert!(store.close(DEADLINE).await);
    }
    assert!(!path.with_file_name("broker.db.bad").exists());
    let connection = rusqlite::Connection::open(&path).unwrap();
    let rows = |table: &str| {
        connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get::<_, i64>(0)).unwrap()
    };
    assert_eq!(["subscriptions", "queue", "received"].map(rows), [1, 1, 1]);
}

#[tokio::test]
async fn to_note_that_a_large_message_was_sent_does_not_write_it_again() {
    let (_folder, path) = folder();
    let (store, _) = open(&path);
    let session = session(&store, "client");
    let (row, ticket) = enqueue(&store, session, &vec![7; 1 << 20]);
    done(&store, ticket).await;
    let before = store.stats().bytes_written.get();
    assert!(before > 1 << 20);
    done(&store, store.submit(Change::Assign { session, row, packet_id: 1, urgency: Urgency::Urgent })).await;
    done(&store, store.submit(Change::Assign { session, row, packet_id: 65_535, urgency: Urgency::Urgent })).await;
    let written = store.stats().bytes_written.get() - before;
    assert!(written < 8192, "{written} bytes");
    store.close(DEADLINE).await;
    let (_, restored) = open(&path);
    assert!(matches!(&restored.sessions[0].queue[0].phase, Phase::Sent(65_535, _)));
    assert_eq!(payloads(&restored.sessions[0]), [vec![7; 1 << 20]]);
}

#[tokio::test]
async fn a_file_that_cannot_be_used_is_left_alone_and_nothing_is_kept() {
    let (_folder, path) = folder();
    let (store, _) = open(&path);
    done(&store, retain(&store, "t", b"1", Urgency::Urgent)).await;
    let (second, restored) = open(&path);
    assert!(!second.is_on() && restored.retained.is_empty());
    assert!(matches!(second.health(), Health::Degraded { error, .. } if error.contains("in use by another process")));
    assert_eq!(retain(&second, "t", b"2", Urgency::Urgent), Ticket::DONE);
    assert!(second.is_done(second.latest()) && second.close(DEADLINE).await);
    store.close(DEADLINE).await;

    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.pragma_update(None, "user_version", schema::VERSION + 1).unwrap();
    drop(connection);
    let before = fs::read(&path).unwrap();
    let (newer, _) = open(&path);
    assert!(matches!(newer.health(), Health::Degraded { error, .. } if error.contains("newer gatepost")));
    assert_eq!(fs::read(&path).unwrap(), before);

    let (below_a_file, _) = open(&path.join("broker.db"));
    assert!(matches!(below_a_file.health(), Health::Degraded { error, .. } if error.contains("cannot open")));
    let (folder_itself, _) = open(path.parent().unwrap());
    assert!(matches!(folder_itself.health(), Health::Degraded { error, .. } if error.contains("not a file")));
    assert_eq!(Store::off().health(), Health::Off);
}

#[tokio::test]
async fn damage_found_while_it_runs_is_set_aside_and_all_is_asked_for() {
    let (_folder, path) = folder();
    let (store, _) = open(&path);
    let session = session(&store, "client");
    let rows: Vec<RowId> = (0..600).map(|_| enqueue(&store, session, &[1; 10_000]).0).collect();
    done(&store, store.latest()).await;
    let mut bytes = fs::read(&path).unwrap();
    assert!(bytes.len() > 300 * 10_000, "the log was brought into the database, or most of it");
    bytes[4096..].fill(0xFF);
    fs::write(&path, bytes).unwrap();
    for row in rows {
        store.submit(Change::Dequeue { session, row });
    }
    let asked = tokio::time::timeout(DEADLINE, store.resync(0)).await;
    assert_eq!(asked, Ok(1));
    assert!(store.stats().failures.get() > 0);
    // In time or, on a busy machine, after it: it is written in any case.
    retain(&store, "t", b"anew", Urgency::Urgent);
    store.shared().until(|| store.health() == Health::Healthy).await;
    store.close(DEADLINE).await;
    assert!(path.with_file_name("broker.db.bad").exists());
    let (_, restored) = open(&path);
    assert_eq!((restored.retained.len(), restored.sessions.len()), (1, 0));
}

#[tokio::test]
async fn a_commit_wakes_nobody_who_waits_until_all_is_asked_for() {
    struct Wakes(AtomicU64);
    impl Wake for Wakes {
        fn wake(self: Arc<Wakes>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let (_folder, path) = folder();
    let (store, _) = open(&path);
    let wakes = Arc::new(Wakes(AtomicU64::new(0)));
    let mut waits = pin!(store.resync(0));
    assert!(waits.as_mut().poll(&mut Context::from_waker(&wakes.clone().into())).is_pending());
    done(&store, retain(&store, "t", b"1", Urgency::Urgent)).await;
    assert_eq!(wakes.0.load(Ordering::SeqCst), 0);
    store.shared().ask_for_all();
    assert_eq!((wakes.0.load(Ordering::SeqCst), waits.await), (1, 1));
}

#[tokio::test]
async fn the_room_of_a_flood_is_given_back() {
    let (_folder, path) = folder();
    let (store, _) = open(&path);
    let mut sizes = Vec::new();
    for rows in [2000, 500, 500, 500] {
        let session = session(&store, "client");
        for _ in 0..rows / 50 {
            for _ in 0..50 {
                enqueue(&store, session, &[1; 10_000]);
            }
            done(&store, store.latest()).await;
        }
        sizes.push(store.size());
        done(&store, store.submit(Change::EndSession { session })).await;
    }
    store.close(DEADLINE).await;
    let left = fs::metadata(&path).unwrap().len();
    assert!(left < sizes[0] / 2, "{sizes:?}, then {left}");
}

/// Bytes 18 and 19 of the header say which versions of SQLite may write and read it (SQLite, "Database File Format", 1.3.3).
#[test]
fn damage_anywhere_in_the_header_is_found_or_harmless() {
    let (bytes, wanted) = sample();
    for (at, flip) in (0..100).flat_map(|at| [1, 4, 0x80].map(|flip| (at, flip))) {
        let mut damaged = bytes.clone();
        damaged[at] ^= flip;
        found_or_harmless(&damaged, &wanted).unwrap_or_else(|error| panic!("byte {at} ^ {flip}: {error}"));
    }
}

/// Never a panic, never another answer: the same data, a file set aside, or one that is not touched.
fn found_or_harmless(damaged: &[u8], wanted: &str) -> Result<(), proptest::test_runner::TestCaseError> {
    let (_folder, path) = folder();
    fs::create_dir(path.parent().unwrap()).unwrap();
    fs::write(&path, damaged).unwrap();
    match opening::open_ready(&path) {
        Ok((_, restored)) if path.with_file_name("broker.db.bad").exists() => {
            proptest::prop_assert!(restored.retained.is_empty() && restored.sessions.is_empty());
            proptest::prop_assert_eq!(fs::read(path.with_file_name("broker.db.bad")).unwrap(), damaged);
        }
        // An empty file is a new one.
        Ok((_, restored)) if damaged.is_empty() => proptest::prop_assert!(restored.sessions.is_empty()),
        Ok((_, restored)) => proptest::prop_assert_eq!(format!("{restored:?}"), wanted),
        Err(DatabaseError::Newer { .. } | DatabaseError::Foreign { .. }) => {
            proptest::prop_assert_eq!(fs::read(&path).unwrap(), damaged)
        }
        Err(error) => proptest::prop_assert!(false, "{}", error),
    }
    Ok(())
}

/// A store with everything in it, cleanly closed: the bytes of its file, and what it holds.
fn sample() -> (Vec<u8>, String) {
    let (_folder, path) = folder();
    let (store, _) = open(&path);
    let session = session(&store, "client");
    for number in 0..40u8 {
        let (row, _) = enqueue(&store, session, &vec![number; 50 * usize::from(number)]);
        if number % 3 == 0 {
            store.submit(Change::PubrecReceived { session, row, packet_id: 1 + u16::from(number) });
        }
        retain(&store, &format!("topic/{number}"), &[number; 90], Urgency::Urgent);
        store.submit(Change::PublishReceived { session, packet_id: 1 + u16::from(number), opens: None });
        let (filter, options, id) = (format!("f/{number}").into(), Qos::AtLeastOnce.into(), None);
        store.submit(Change::Subscribe { session, subscription: StoredSubscription { filter, options, id } });
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    assert!(runtime.block_on(store.close(DEADLINE)));
    let bytes = fs::read(&path).unwrap();
    let (_, restored) = opening::open_ready(&path).unwrap();
    (bytes, format!("{restored:?}"))
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(96))]

    #[test]
    fn damage_anywhere_is_found_or_harmless(
        at: proptest::sample::Index, flip in 1u8.., length in 1usize..600, truncate in 0usize..20,
    ) {
        static SAMPLE: std::sync::OnceLock<(Vec<u8>, String)> = std::sync::OnceLock::new();
        let (bytes, wanted) = SAMPLE.get_or_init(sample);
        let mut damaged = bytes.clone();
        let at = at.index(bytes.len());
        // One byte as often as many.
        let length = if length % 2 == 0 { 1 } else { length };
        damaged.iter_mut().skip(at).take(length).for_each(|byte| *byte ^= flip);
        if truncate == 0 {
            damaged.truncate(at);
        }
        found_or_harmless(&damaged, wanted)?;
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(48))]

    /// A log that a power cut left half written, or that was damaged: what was committed before that place is there.
    #[test]
    fn damage_in_the_log_goes_back_to_a_moment_of_the_past(at: proptest::sample::Index, flip in 0u8..) {
        static SAMPLE: std::sync::OnceLock<(Vec<u8>, Vec<u8>)> = std::sync::OnceLock::new();
        let (file, log) = SAMPLE.get_or_init(log_sample);
        let (_folder, path) = folder();
        fs::create_dir(path.parent().unwrap()).unwrap();
        fs::write(&path, file).unwrap();
        let (at, mut log) = (at.index(log.len()), log.clone());
        match flip {
            0 => log.truncate(at),
            flip => log[at] ^= flip,
        }
        fs::write(path.with_file_name("broker.db-wal"), log).unwrap();
        let (_, restored) = opening::open_ready(&path).unwrap();
        proptest::prop_assert!(!path.with_file_name("broker.db.bad").exists());
        let numbers = restored.sessions.first().map(payloads).unwrap_or_default();
        proptest::prop_assert_eq!(&numbers, &(0..numbers.len() as u8).map(|number| vec![number]).collect::<Vec<_>>());
    }
}

/// An empty database, and a log with one message in each transaction.
fn log_sample() -> (Vec<u8>, Vec<u8>) {
    let (_folder, path) = folder();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    assert!(runtime.block_on(open(&path).0.close(DEADLINE)));
    let (store, _) = open(&path);
    let session = session(&store, "client");
    for number in 0..20u8 {
        let (_, ticket) = enqueue(&store, session, &[number]);
        runtime.block_on(done(&store, ticket));
    }
    (fs::read(&path).unwrap(), fs::read(path.with_file_name("broker.db-wal")).unwrap())
}
