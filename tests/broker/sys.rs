//! `$SYS/broker/…` as its subscribers see it.

use std::collections::BTreeMap;
use std::time::Duration;

use gatepost::broker::Broker;
use gatepost::broker::figures::Figures;
use gatepost::broker::local::Publish;
use gatepost::config;
use gatepost::qos::Qos;
use gatepost::topic::{TopicFilter, TopicName};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::client::*;

/// So long that only subscriptions bring values up to date.
pub const NEVER: Option<Duration> = Some(Duration::from_secs(3600));

const OFTEN: Option<Duration> = Some(Duration::from_millis(100));

/// Values are brought up to date for a subscriber if they are as old as this.
const STALE: Duration = Duration::from_millis(100);

/// A client that reads all of `$SYS` by subscribing to it again and again.
pub struct Watcher {
    client: Client,
    /// Messages it was sent so far.
    sent: u64,
}

/// The values at one moment.
pub struct Values(BTreeMap<String, String>);

impl Values {
    /// A number below `$SYS/broker/`; 0 if it is not there.
    pub fn number(&self, topic: &str) -> u64 {
        self.0.get(topic).map_or(0, |value| value.parse().unwrap_or_else(|_| panic!("{topic} is {value}")))
    }
}

impl Watcher {
    pub async fn new(broker: &Broker) -> Watcher {
        Watcher { client: Client::connect(broker, &Connect::v3("sys-watcher")).await, sent: 0 }
    }

    /// What there is now, in a broker that brings values up to date for subscribers only. What this client itself was sent before is not among `publish/messages/sent`.
    pub async fn read(&mut self) -> Values {
        tokio::time::sleep(STALE).await;
        assert_eq!(self.client.subscribe(1, "$SYS/#", 0).await, 0);
        let (mut values, mut came) = (BTreeMap::new(), 0);
        // The last one in the order of topics.
        while !values.contains_key("version") {
            let publish = self.client.recv_publish().await;
            assert!(publish.retain, "{publish:?}");
            let value = String::from_utf8(publish.payload).unwrap();
            assert_eq!(values.insert(publish.topic.strip_prefix("$SYS/broker/").unwrap().to_owned(), value), None);
            came += 1;
        }
        let mut values = Values(values);
        let others = values.number("publish/messages/sent") - self.sent;
        values.0.insert("publish/messages/sent".to_owned(), others.to_string());
        self.sent += came;
        values
    }

    /// Reads until the values are as `expected`.
    pub async fn expect(&mut self, expected: impl Fn(&Values) -> bool) -> Values {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let values = self.read().await;
            if expected(&values) {
                return values;
            }
            assert!(Instant::now() < deadline, "{:#?}", values.0);
        }
    }
}

/// `many` messages of `size` bytes went to each of `subscribers`: each was sent, was dropped for a reason that is told, or
/// waits.
pub async fn reconcile(broker: &Broker, many: u32, size: u64, subscribers: u64) {
    let many = u64::from(many);
    let values = Watcher::new(broker)
        .await
        .expect(|values| {
            let outcomes = ["publish/messages/sent", "publish/messages/dropped", "messages/queued"];
            outcomes.iter().map(|topic| values.number(topic)).sum::<u64>() == subscribers * many
        })
        .await;
    assert_eq!(values.number("publish/messages/received"), many);
    assert_eq!(values.number("publish/bytes/received"), size * many);
    assert_eq!(values.number("publish/messages/dropped"), values.number("publish/messages/dropped/queue_full"));
}

/// Each connection that came was accepted, refused, one too many, or ended before it said what it wanted.
pub async fn reconcile_connections(broker: &Broker) {
    let start = Instant::now();
    loop {
        let Figures { sockets, accepted, refused, over_limit, abandoned, .. } = broker.figures();
        if sockets == accepted + refused + over_limit + abandoned {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "{:?}", broker.figures());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn start_with(sys_interval: Option<Duration>) -> Broker {
    start(config::Broker { sys_interval, ..settings() }).await
}

#[tokio::test]
async fn a_subscriber_finds_the_values_of_this_moment() {
    let broker = start_with(NEVER).await;
    let mut watcher = Watcher::new(&broker).await;
    let values = watcher.read().await;
    assert_eq!(values.0["version"], concat!("gatepost version ", env!("CARGO_PKG_VERSION")));
    assert!(values.0["uptime"].ends_with(" seconds"), "{}", values.0["uptime"]);
    assert_eq!(values.0["load/bytes/received/15min"].split('.').nth(1).map(str::len), Some(2));
    assert_eq!((values.number("clients/connected"), values.number("clients/total")), (1, 1));
    assert!(values.number("heap/current") > 1_000_000 && values.0.len() == 64, "{:#?}", values.0);

    let (mut kept, _) = Client::connect_as(&broker, &Connect::v5("kept").kept()).await;
    kept.subscribe(1, "t", 1).await;
    kept.subscribe(2, "$share/g/t", 1).await;
    watcher.expect(|values| values.number("clients/connected") == 2).await;
    kept.disconnect().await;
    let mut publisher = Client::connect(&broker, &Connect::v3("p")).await;
    publisher.publish(1, 0, "r", b"kept").await;
    publisher.publish_acked("t", b"123").await;
    publisher.disconnect().await;
    let values = watcher.expect(|values| values.number("messages/queued") == 2).await;
    let number = |topic| values.number(topic);
    assert_eq!((number("clients/total"), number("clients/disconnected"), number("clients/maximum")), (2, 1, 3));
    assert_eq!((number("subscriptions/count"), number("shared_subscriptions/count")), (2, 1));
    assert_eq!((number("retained messages/count"), number("store/messages/count")), (1, 3));
    assert_eq!((number("publish/messages/received"), number("publish/bytes/received")), (2, 7));
    assert_eq!((number("publish/messages/sent"), number("publish/messages/dropped")), (0, 0));
    assert!(number("bytes/received") > 100 && number("bytes/sent") > 1000, "{:#?}", values.0);
    assert!(values.0["load/connections/1min"] != "0.00", "{:#?}", values.0);
}

#[tokio::test]
async fn packets_of_every_kind_are_counted_both_ways() {
    let broker = start_with(NEVER).await;
    let mut client = Client::connect(&broker, &Connect::v5("c")).await;
    client.subscribe(1, "t", 2).await;
    client.publish(4, 7, "t", b"12345").await;
    assert_eq!(client.recv().await.0, 0x50);
    client.ack(0x62, 7).await;
    let (mut kinds, mut id) = (Vec::new(), 0);
    while kinds.len() < 2 {
        let packet = client.recv().await;
        kinds.push(packet.kind());
        if packet.kind() == 3 {
            id = u16::from_be_bytes([packet.1[3], packet.1[4]]);
        }
    }
    client.ack(0x50, id).await;
    assert_eq!(client.recv().await.0, 0x62);
    client.ack(0x70, id).await;
    client.ping().await;
    let figures = broker.figures();
    // CONNECT, SUBSCRIBE, PUBLISH, PUBREL, PUBREC, PUBCOMP, PINGREQ; and an answer or a message for each but PUBCOMP.
    assert_eq!((figures.received.packets, figures.sent.packets), (7, 7), "{figures:?}");
    assert_eq!((figures.received.messages, figures.received.payload), (1, 5));
    assert_eq!((figures.sent.messages, figures.sent.payload, figures.inflight), (1, 5, 0));
}

#[tokio::test]
async fn while_somebody_listens_changes_come_by_themselves() {
    let broker = start_with(OFTEN).await;
    // One who asked for no retained messages, and a member of a group, which gets none.
    let mut plain = Client::connect(&broker, &Connect::v5("plain")).await;
    assert_eq!(plain.subscribe(1, "$SYS/broker/clients/+", 0x20).await, 0);
    let mut member = Client::connect(&broker, &Connect::v5("member")).await;
    assert_eq!(member.subscribe(1, "$share/g/$SYS/broker/clients/connected", 0).await, 0);
    let _third = Client::connect(&broker, &Connect::v3("third")).await;
    for client in [&mut plain, &mut member] {
        loop {
            let publish = client.recv_publish().await;
            assert!(!publish.retain && publish.topic.starts_with("$SYS/broker/clients/"), "{publish:?}");
            if publish.topic.ends_with("/connected") && publish.payload == b"3" {
                break;
            }
        }
    }
    // What has not changed does not come again.
    assert_eq!(member.unsubscribe(2, "$share/g/$SYS/broker/clients/connected").await.kind(), 11);
    member.subscribe(3, "$SYS/broker/version", 0x20).await;
    member.expect_nothing().await;
}

#[tokio::test]
async fn only_who_asks_for_it_gets_it_and_it_takes_no_room() {
    let broker = start(config::Broker { sys_interval: NEVER, max_retained: 1, ..settings() }).await;
    let mut all = Client::connect(&broker, &Connect::v3("all")).await;
    all.subscribe(1, "#", 0).await;
    all.subscribe(2, "+/broker/version", 0).await;
    let mut watcher = Watcher::new(&broker).await;
    watcher.read().await;
    all.expect_nothing().await;
    all.publish(1, 0, "only", b"one").await;
    assert_eq!(all.recv_publish().await.payload, b"one");
    assert_eq!(watcher.expect(|values| values.number("retained messages/count") == 1).await.number("clients/total"), 2);
}

/// A reader of `$SYS` does not read.
#[tokio::test]
async fn what_the_bus_has_no_room_for_comes_when_it_has() {
    let broker = start_with(NEVER).await;
    let local = broker.client();
    let mut lazy = broker.bus().reader();
    ["$lazy", "$SYS/#"].iter().for_each(|text| lazy.subscribe(&TopicFilter::new(*text).unwrap()));
    let topic = TopicName::new("$lazy").unwrap();
    let message = Publish { topic, payload: vec![0; 1000].into(), qos: Qos::AtMostOnce, retain: false };
    while local.try_publish(message.clone()).is_ok() {}
    let mut early = Client::connect(&broker, &Connect::v3("early")).await;
    early.subscribe(1, "$SYS/#", 0).await;
    early.expect_nothing().await;
    drop(lazy);
    let values = Watcher::new(&broker).await.read().await;
    assert_eq!(values.number("clients/connected"), 2);
}

/// A device that shows it on its display, for example.
#[tokio::test]
async fn a_client_without_a_socket_finds_it_too() {
    let broker = start_with(OFTEN).await;
    let filter = TopicFilter::new("$SYS/broker/clients/connected").unwrap();
    let mut display = broker.client().subscribe(vec![(filter, Qos::AtMostOnce)]).await.unwrap();
    let first = display.recv().await.unwrap();
    assert_eq!((&*first.payload, first.retain), (&b"0"[..], true));
    let _client = Client::connect(&broker, &Connect::v3("c")).await;
    let second = display.recv().await.unwrap();
    assert_eq!((&*second.payload, second.retain), (&b"1"[..], false));
}

#[tokio::test]
async fn without_an_interval_there_is_nothing() {
    let broker = start_with(None).await;
    let mut client = Client::connect(&broker, &Connect::v3("c")).await;
    client.subscribe(1, "$SYS/#", 0).await;
    client.expect_nothing().await;
}

#[tokio::test]
async fn a_session_whose_client_stays_away_is_counted_as_expired() {
    let broker = start_with(NEVER).await;
    let second = [&[0x11][..], &1u32.to_be_bytes()].concat();
    let mut client = Client::connect(&broker, &Connect { properties: second, ..Connect::v5("away") }).await;
    client.disconnect().await;
    let mut watcher = Watcher::new(&broker).await;
    let values = watcher.expect(|values| values.number("clients/expired") == 1).await;
    assert_eq!((values.number("clients/total"), values.number("clients/maximum")), (1, 2));
}

#[tokio::test]
async fn what_is_on_disk_has_its_health_and_its_costs() {
    let broker = start_with(NEVER).await;
    let off = Watcher::new(&broker).await.read().await;
    assert_eq!((&*off.0["store/state"], off.number("store/commits"), off.number("store/size")), ("off", 0, 0));

    let dir = TempDir::new().unwrap();
    let database = Some(dir.path().join("broker.db"));
    let broker = start(config::Broker { database, sys_interval: NEVER, ..settings() }).await;
    let mut client = Client::connect(&broker, &Connect::v3("kept").kept()).await;
    client.subscribe(1, "t", 1).await;
    client.disconnect().await;
    Client::connect(&broker, &Connect::v3("p")).await.publish_acked("t", &[b'x'; 5000]).await;
    let values = Watcher::new(&broker).await.expect(|values| values.number("store/pending") == 0).await;
    let number = |topic| values.number(topic);
    assert_eq!((&*values.0["store/state"], number("store/failures"), number("store/dropped")), ("healthy", 0, 0));
    assert!(number("store/commits") > 0 && number("store/bytes/written") > 5000, "{:#?}", values.0);
    assert!(number("store/size") > 5000, "{:#?}", values.0);
    let figures = serde_json::to_value(broker.figures()).unwrap();
    assert_eq!((&figures["store"]["state"], &figures["store"]["error"]), (&"healthy".into(), &serde_json::Value::Null));
    drop(broker);

    // A file that cannot be used.
    let database = Some(dir.path().to_owned());
    let broker = start(config::Broker { database, sys_interval: NEVER, ..settings() }).await;
    assert_eq!(Watcher::new(&broker).await.read().await.0["store/state"], "degraded");
    assert!(broker.figures().store.error.is_some_and(|error| error.contains("not a file")));
}
