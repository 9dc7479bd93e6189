//! A damaged database: it is read, set aside or left alone, and the store goes on in each case.
#![no_main]

use std::fs;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use gatepost::broker::message::Message;
use gatepost::broker::store::{
    Change, SessionExpiry, SessionRecord, Store, StoreSettings, StoredMessage, StoredSubscription, Urgency,
};
use gatepost::qos::Qos;
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(20);

/// Without what libFuzzer finds out by itself in a long time: the file and its log, each of one transaction at least.
fn sample() -> &'static [Vec<u8>; 2] {
    static SAMPLE: OnceLock<[Vec<u8>; 2]> = OnceLock::new();
    SAMPLE.get_or_init(|| {
        let folder = folder();
        let path = folder.path().join("broker.db");
        let store = Store::open(&path, StoreSettings::default()).0;
        fill(&store);
        close(store);
        let store = Store::open(&path, StoreSettings::default()).0;
        fill(&store);
        runtime().block_on(store.done(store.latest()));
        let read = |name: &str| fs::read(folder.path().join(name)).expect("a file");
        [read("broker.db"), read("broker.db-wal")]
    })
}

/// In memory where the system has it: the disk would allow a dozen runs a second.
fn folder() -> TempDir {
    TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).expect("a folder")
}

fn fill(store: &Store) {
    let session = store.new_session();
    let record = SessionRecord { expiry: SessionExpiry::Never, username: Some("user".into()), ended_at: None };
    store.submit(Change::OpenSession { session, client_id: "client".into(), record });
    let (filter, options, id) = ("a/#".into(), Qos::AtLeastOnce.into(), Some(1));
    store.submit(Change::Subscribe { session, subscription: StoredSubscription { filter, options, id } });
    for packet_id in 1..20 {
        store.submit(Change::PublishReceived { session, packet_id, opens: None });
        let message = message(packet_id);
        store.submit(Change::Retain(message.clone(), Urgency::Urgent));
        let (qos, ids, share) = (Qos::ExactlyOnce, [1, 2].into_iter().collect(), Some("$share/a/b".into()));
        let outgoing = StoredMessage { message, qos, retain: false, ids, share };
        store.submit(Change::Enqueue { session, row: store.next_row(), outgoing, gate: None });
    }
}

/// An envelope as the bus makes it.
fn message(number: u16) -> Message {
    let topic = format!("a/{number}");
    let mut envelope = vec![1, 0, topic.len() as u8, 0];
    envelope.resize(40, 0);
    envelope.extend_from_slice(topic.as_bytes());
    envelope.resize(40 + 40 * usize::from(number), b'x');
    Message::decode(Bytes::from(envelope)).expect("an envelope")
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime")
}

fn close(store: Store) {
    assert!(runtime().block_on(store.close(DEADLINE)), "it ends in time");
}

/// Each four bytes change one byte of the file, or of its log.
fn damage(files: &mut [Vec<u8>; 2], data: &[u8]) {
    for patch in data.chunks_exact(4) {
        let file = &mut files[usize::from(patch[0] & 1)];
        let at = usize::from(patch[0] >> 1) << 16 | usize::from(patch[1]) << 8 | usize::from(patch[2]);
        if let Some(byte) = file.len().checked_sub(1).and_then(|last| file.get_mut(at % (last + 1))) {
            *byte = patch[3];
        }
    }
}

fn open(path: &Path) {
    let store = Store::open(path, StoreSettings::default()).0;
    fill(&store);
    close(store);
}

fuzz_target!(|data: &[u8]| {
    let Some((&kind, data)) = data.split_first() else { return };
    let mut files = sample().clone();
    match kind {
        0 => files[0] = data.to_vec(),
        1 => files[1] = data.to_vec(),
        _ => damage(&mut files, data),
    }
    let folder = folder();
    let path = folder.path().join("broker.db");
    fs::write(&path, &files[0]).expect("a file");
    fs::write(folder.path().join("broker.db-wal"), &files[1]).expect("a file");
    open(&path);
    // What it has made of it is whole, unless it was not touched.
    let store = Store::open(&path, StoreSettings::default()).0;
    assert!(store.is_on() || fs::read(&path).is_ok_and(|bytes| bytes == files[0]));
    close(store);
});
