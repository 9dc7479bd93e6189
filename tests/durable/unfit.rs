//! What an earlier version kept on a topic that is none, or with properties that throw readers out.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use gatepost::broker::bus::{Bus, BusSettings};
use gatepost::broker::message::{Draft, Envelope, Message};
use gatepost::broker::store::{Change, SessionExpiry, SessionRecord, Store, StoreSettings, StoredMessage, Urgency};
use gatepost::qos::Qos;
use gatepost::topic::TopicFilter;
use tempfile::TempDir;

use crate::client::*;
use crate::world::{How, World};

/// Topics that were taken once.
const UNFIT: [&str; 3] = ["noise/\u{1b}[2J", "a\u{85}", "b/\u{fffe}"];
/// Its user property was taken once.
const ODD: &str = "noise/odd";

/// One message on each of `topics`, as it is on the bus, which never checked them.
async fn messages(topics: &[&str]) -> Vec<Message> {
    let bus = Bus::start(BusSettings { max_retained: 10, direct_readers: 10 }).unwrap();
    let mut reader = bus.reader();
    reader.subscribe(&TopicFilter::new("#").unwrap());
    let mut batch = VecDeque::new();
    for topic in topics {
        let properties: &[u8] = if *topic == ODD { b"\x26\0\x01k\0\x01\n" } else { b"\x26\0\x01k\0\x01v" };
        let (payload, qos) = (topic.as_bytes(), Qos::AtLeastOnce);
        let draft = Draft { topic, payload, qos, retain: true, origin: 0, expires: None, properties };
        bus.try_publish(Envelope::new(&draft)).unwrap();
        reader.recv(&mut batch).await.unwrap();
    }
    batch.into_iter().map(|received| received.message).collect()
}

/// A store with these messages retained, and each in the queue of `c`, the last one on its way.
async fn keep(path: &Path, topics: &[&str]) {
    let (store, _) = Store::open(path, StoreSettings::default());
    let session = store.new_session();
    let record = SessionRecord { expiry: SessionExpiry::Never, username: None, ended_at: Some(SystemTime::now()) };
    store.submit(Change::OpenSession { session, client_id: Arc::from("c"), record });
    for message in messages(topics).await {
        store.submit(Change::Retain(message.clone(), Urgency::Urgent));
        let (row, qos) = (store.next_row(), Qos::AtLeastOnce);
        let sent = message.topic() == UNFIT[2];
        let outgoing = StoredMessage { message, qos, retain: false, ids: [].into_iter().collect(), share: None };
        store.submit(Change::Enqueue { session, row, outgoing, gate: None });
        if sent {
            store.submit(Change::Assign { session, row, packet_id: 7, urgency: Urgency::Urgent });
        }
    }
    assert!(store.close(Duration::from_secs(20)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_kept_and_throws_readers_out_is_dropped_and_said_once() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("state/broker.db");
    keep(&path, &["good/1", UNFIT[0], UNFIT[1], ODD, "good/2", UNFIT[2]]).await;
    let world = World::start_in(dir);
    let warning = world.expect(&["WARN", "messages on disk were dropped"]);
    assert!(warning.contains("messages=8 topic=noise/\\u{1b}[2J"), "{warning}");
    assert!(warning.contains("control characters or noncharacters"), "{warning}");
    world.expect(&["state restored from disk", "messages=2", "retained=2"]);
    let mut client = world.resume(&Connect::v3("c").kept()).await;
    for payload in ["good/1", "good/2"] {
        let publish = client.recv_publish().await;
        assert_eq!(publish.payload, payload.as_bytes());
        client.ack(0x40, publish.id).await;
    }
    // All but the gateway's own.
    for filter in ["+", "noise/#", "b/#"] {
        client.subscribe(1, filter, 1).await;
    }
    client.subscribe(1, "good/#", 1).await;
    for payload in ["good/1", "good/2"] {
        let publish = client.recv_publish().await;
        assert_eq!((&publish.payload[..], publish.retain), (payload.as_bytes(), true));
        client.ack(0x40, publish.id).await;
    }
    client.disconnect().await;
    world.connect(&Connect::v3("p")).await.publish_acked("good/3", b"good/3").await;

    let world = world.restart(How::Killed);
    world.expect(&["state restored from disk", "messages=1", "retained=2"]);
    let mut client = world.resume(&Connect::v3("c").kept()).await;
    assert_eq!(client.recv_publish().await.payload, b"good/3");
    let dropped = world.gateway().log().iter().filter(|line| line.contains("messages on disk were dropped")).count();
    assert_eq!(dropped, 0, "they are gone");
}
