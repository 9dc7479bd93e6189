//! Stores of every version there has been, kept in tests/stores: what one version has written, the next one reads.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use super::fixture::{draft_message, stored};
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

/// Writes the file of this version, once and for all: `cargo test --lib -- --ignored write_the_store_of_this_version`.
#[tokio::test]
#[ignore = "for a new version of the schema"]
async fn write_the_store_of_this_version() {
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
        store.submit(Change::Enqueue { session, row: *row, outgoing, hold: None });
    }
    store.submit(Change::Assign { session, row: rows[0], packet_id: 11, urgency: Urgency::Urgent });
    store.submit(Change::Release { session, row: rows[0], packet_id: 11 });
    store.submit(Change::Assign { session, row: rows[1], packet_id: 12, urgency: Urgency::Urgent });
    store.submit(Change::Receive { session, packet_id: 21, seals: None });
    let other = store.new_session();
    let record = SessionRecord {
        expiry: SessionExpiry::After(Duration::from_secs(u32::MAX.into())),
        username: None,
        ended_at: None,
    };
    store.submit(Change::OpenSession { session: other, client_id: "three".into(), record });
}
