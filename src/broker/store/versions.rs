//! Stores of every version there has been, kept in tests/stores: what one version has written, the next one reads.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use super::fixture::{draft_message, stored, will};
use super::schema::VERSION;
use super::*;
use crate::broker::subscriptions::{RetainHandling, SubscriptionOptions};
use crate::qos::Qos;

const DEADLINE: Duration = Duration::from_secs(20);

/// The file of `version`; its log is beside it, as kill -9 leaves it.
fn kept(version: i32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/stores/v{version}.db"))
}

fn log_of(path: &Path) -> PathBuf {
    path.with_extension("db-wal")
}

/// Not a test: for a new version of the schema it writes that version's file, once and for all, by
/// `GATEPOST_WRITE_STORE=1 cargo test --lib write_the_store_of_this_version`.
#[tokio::test]
async fn write_the_store_of_this_version() {
    if std::env::var_os("GATEPOST_WRITE_STORE").is_none() {
        return;
    }
    let target = kept(VERSION);
    assert!(!target.exists(), "what a release has written is not written anew");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("broker.db");
    let (store, _) = Store::open(&path, StoreSettings::default());
    let session = store.new_session();
    let record = record();
    store.submit(Change::OpenSession { session, client_id: "five".into(), record: record.clone() });
    store.done(store.submit(retain("house/lamp", b"on"))).await;
    assert!(store.close(DEADLINE).await);
    // All that follows is in the log alone.
    let (store, _) = Store::open(&path, StoreSettings::default());
    fill(&store, session);
    store.done(store.latest()).await;
    fs::create_dir_all(target.parent().unwrap()).unwrap();
    fs::copy(&path, &target).unwrap();
    fs::copy(log_of(&path), log_of(&target)).unwrap();
}

fn record() -> SessionRecord {
    let ended_at = Some(UNIX_EPOCH + Duration::from_secs(1_700_000_000));
    SessionRecord { expiry: SessionExpiry::Never, username: Some("ann".into()), ended_at }
}

fn retain(topic: &str, payload: &[u8]) -> Change {
    Change::Retain(draft_message(topic, payload, Qos::AtLeastOnce, None), Urgency::Urgent)
}

fn fill(store: &Store, session: SessionId) {
    store.submit(retain("house/door", b"shut"));
    let options = SubscriptionOptions {
        qos: Qos::ExactlyOnce,
        no_local: true,
        retain_as_published: true,
        retain_handling: RetainHandling::IfNew,
    };
    store.submit(Change::Subscribe {
        session,
        subscription: StoredSubscription { filter: "house/#".into(), options, id: Some(7) },
    });
    let rows: Vec<RowId> = (1..=3).map(|_| store.next_row()).collect();
    for (row, payload) in rows.iter().zip([b"1", b"2", b"3"]) {
        let share = Some("$share/group/house/#".into());
        let outgoing = StoredMessage { share, ids: [7].into_iter().collect(), ..stored("house/bell", payload) };
        store.submit(Change::Enqueue { session, row: *row, outgoing, gate: None });
    }
    store.submit(Change::Assign { session, row: rows[0], packet_id: 11, urgency: Urgency::Urgent });
    store.submit(Change::PubrecReceived { session, row: rows[0], packet_id: 11 });
    store.submit(Change::Assign { session, row: rows[1], packet_id: 12, urgency: Urgency::Urgent });
    store.submit(Change::PublishReceived { session, packet_id: 21, opens: None });
    let other = store.new_session();
    let record = SessionRecord {
        expiry: SessionExpiry::After(Duration::from_secs(u32::MAX.into())),
        username: None,
        ended_at: None,
    };
    store.submit(Change::OpenSession { session: other, client_id: "three".into(), record });
    let record = StoredWill { username: Some("ann".into()), ..will("five", b"gone") };
    store.submit(Change::KeepWill { will: store.new_will(), record: record.into() });
}

/// That all of it is there which that version knew.
pub(super) fn check(version: i32, restored: &Restored) {
    let retained = restored.retained.iter().map(|message| (message.topic(), message.payload_bytes()));
    let retained: std::collections::BTreeMap<_, _> = retained.collect();
    assert_eq!(restored.retained.len(), 2);
    assert_eq!(retained, [("house/door", &b"shut"[..]), ("house/lamp", b"on")].into());
    let [five, three] = &restored.sessions[..] else { panic!("{:?}", restored.sessions) };
    assert_eq!((&*five.client_id, &five.record, &five.received), ("five", &record(), &vec![21]));
    assert_eq!((&*three.client_id, three.record.ended_at, three.queue.len()), ("three", None, 0));
    let [subscription] = &five.subscriptions[..] else { panic!("{:?}", five.subscriptions) };
    assert_eq!((&*subscription.filter, subscription.id), ("house/#", Some(7)));
    assert_eq!(subscription.options.retain_handling, RetainHandling::IfNew);
    let phases: Vec<_> = five.queue.iter().map(|row| &row.phase).collect();
    let [Phase::Released(11), Phase::Sent(12, sent), Phase::Queued(queued)] = phases[..] else { panic!("{phases:?}") };
    assert_eq!((sent.message.payload_bytes(), queued.message.payload_bytes()), (&b"2"[..], &b"3"[..]));
    assert_eq!((queued.share.as_deref(), queued.ids.iter().next()), (Some("$share/group/house/#"), Some(7)));
    let wills = restored.wills.iter().map(|(_, record)| &record.request.payload[..]);
    let known = usize::from(version >= schema::WILLS_SINCE);
    assert_eq!(wills.collect::<Vec<_>>(), vec![b"gone"; known]);
}

/// Puts the store of `version` to `path`.
pub(super) fn put(version: i32, path: &Path) {
    fs::copy(kept(version), path).unwrap();
    fs::copy(log_of(&kept(version)), log_of(path)).unwrap();
}

fn version_of(path: &Path) -> i32 {
    let connection = rusqlite::Connection::open(path).unwrap();
    connection.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap()
}

#[tokio::test]
async fn what_every_version_has_written_is_read_and_goes_on_as_this_one() {
    for version in 1..=VERSION {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("broker.db");
        put(version, &path);
        for time in 0..3 {
            let (store, restored) = Store::open(&path, StoreSettings::default());
            assert_eq!(store.health(), Health::Healthy);
            check(version, &restored);
            if time == 0 {
                store.submit(retain("house/door", b"shut"));
            }
            assert!(store.close(DEADLINE).await);
            assert_eq!(version_of(&path), VERSION);
        }
        assert!(!path.with_extension("db.bad").exists());
    }
}

/// Its tables say what it is.
#[tokio::test]
async fn a_store_whose_header_has_lost_its_version_is_read() {
    for (name, value) in [("user_version", 0), ("user_version", -1), ("application_id", 0)] {
        for version in 1..=VERSION {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("broker.db");
            put(version, &path);
            rusqlite::Connection::open(&path).unwrap().pragma_update(None, name, value).unwrap();
            let (store, restored) = Store::open(&path, StoreSettings::default());
            check(version, &restored);
            assert!(store.close(DEADLINE).await);
            assert_eq!(version_of(&path), VERSION);
            assert!(!path.with_extension("db.bad").exists());
        }
    }
}

/// What a user, or a tool of SQLite's, may add to a file that is ours.
const ADDED: [&str; 6] = [
    "ANALYZE",
    "CREATE TABLE notes(session INTEGER REFERENCES sessions(session), note TEXT); INSERT INTO notes VALUES(1, 'x')",
    "CREATE INDEX by_session ON queue(session)",
    "CREATE VIEW names AS SELECT topic FROM retained",
    "CREATE TRIGGER no_more BEFORE INSERT ON retained BEGIN SELECT RAISE(ABORT, 'no more'); END",
    "CREATE TRIGGER count AFTER DELETE ON sessions BEGIN INSERT INTO no_such_table VALUES(1); END",
];

#[tokio::test]
async fn what_somebody_else_has_added_to_a_store_is_ignored_and_kept() {
    let schema = "SELECT count(*) FROM sqlite_schema";
    let count = |path: &Path| {
        let connection = rusqlite::Connection::open(path).unwrap();
        connection.query_row(schema, [], |row| row.get::<_, i64>(0)).unwrap()
    };
    for version in 1..=VERSION {
        for added in ADDED.iter().map(|added| (*added).to_owned()).chain([ADDED.join("; ")]) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("broker.db");
            put(version, &path);
            let before = count(&path);
            rusqlite::Connection::open(&path).unwrap().execute_batch(&added).unwrap();
            let others = count(&path) - before;
            assert!(others > 0, "{added}");
            let (store, restored) = Store::open(&path, StoreSettings::default());
            assert_eq!(store.health(), Health::Healthy, "{added}");
            check(version, &restored);
            for session in restored.sessions {
                store.submit(Change::EndSession { session: session.session });
            }
            store.done(store.submit(retain("house/roof", b"dry"))).await;
            assert_eq!(store.health(), Health::Healthy, "{added}");
            assert!(store.close(DEADLINE).await);
            let (store, restored) = Store::open(&path, StoreSettings::default());
            assert_eq!((restored.retained.len(), restored.sessions.len()), (3, 0), "{added}");
            assert!(store.close(DEADLINE).await);
            assert_eq!((version_of(&path), count(&path)), (VERSION, before + others + i64::from(VERSION - version)));
            assert!(!path.with_extension("db.bad").exists(), "{added}");
        }
    }
}

#[tokio::test]
async fn a_table_of_ours_that_is_missing_or_of_another_shape_is_damage() {
    for change in [
        "DROP TABLE received",
        "ALTER TABLE retained ADD COLUMN note TEXT",
        "ALTER TABLE queue RENAME TO old_queue",
        "DROP TABLE wills; CREATE VIEW WILLS AS SELECT 1",
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("broker.db");
        put(VERSION, &path);
        rusqlite::Connection::open(&path).unwrap().execute_batch(change).unwrap();
        let (store, restored) = Store::open(&path, StoreSettings::default());
        assert!(restored.retained.is_empty() && path.with_extension("db.bad").exists(), "{change}");
        assert!(store.close(DEADLINE).await);
    }
}

#[tokio::test]
async fn the_database_of_another_program_is_not_touched() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("broker.db");
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.execute_batch("CREATE TABLE bookmarks(url TEXT); INSERT INTO bookmarks VALUES('x')").unwrap();
    drop(connection);
    let before = fs::read(&path).unwrap();
    let (store, restored) = Store::open(&path, StoreSettings::default());
    assert!(restored.retained.is_empty() && !store.is_on());
    assert!(matches!(store.health(), Health::Degraded { error, .. } if error.contains("of another program; hint:")));
    store.submit(retain("t", b"1"));
    assert!(store.close(DEADLINE).await);
    assert_eq!(fs::read(&path).unwrap(), before);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}
