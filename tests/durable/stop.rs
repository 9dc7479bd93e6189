//! SIGTERM at random moments under load: what kept sessions without a connection find at the next start.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::time::{sleep, timeout};

use crate::client::{Connect, Packet, Will, packet, string};
use crate::common::{LISTENER, Port, wait_until};
use crate::kill::{Link, QUIET, kills};
use crate::world::{How, World};

const PUBLISHERS: usize = 6;
/// Messages that each has on the way.
const WINDOW: u16 = 20;
const WILLS: usize = 3;

/// Topic and payload of messages that somebody is to get.
type Messages = HashSet<(String, String)>;

/// A session that is never there while there is load.
struct Away {
    id: &'static str,
    filters: &'static [&'static str],
}

/// Those of one's own, then the members of a group.
const ALONE: &[Away] = &[
    Away { id: "all", filters: &["#"] },
    Away { id: "each", filters: &["s/#", "w/+", "gatepost/test/status"] },
    Away { id: "overlapping", filters: &["s/#", "s/+", "#"] },
    Away { id: "first", filters: &["s/0", "w/0"] },
    Away { id: "last", filters: &["s/5", "+/2"] },
];
const MEMBERS: &[Away] = &[
    Away { id: "one", filters: &["$share/g/#"] },
    Away { id: "two", filters: &["$share/g/#"] },
    Away { id: "three", filters: &["$share/g/#"] },
];

impl Away {
    async fn connect(&self, address: SocketAddr) -> (Link, bool) {
        Link::open(address, &Connect::v3(self.id).kept()).await.expect("a gateway")
    }

    async fn subscribe(&self, address: SocketAddr) {
        let (mut link, present) = self.connect(address).await;
        assert!(!present);
        let filters = self.filters.iter().map(|filter| [string(filter), vec![1]].concat()).collect::<Vec<_>>();
        link.send(&packet(0x82, &[vec![0, 1], filters.concat()].concat())).await;
        assert_eq!(link.packets.recv().await.expect("SUBACK").0, 0x90);
        link.end().await;
    }

    fn matches(&self, topic: &str) -> bool {
        use gatepost::topic::TopicFilter;
        self.filters
            .iter()
            .any(|filter| TopicFilter::new(filter.trim_start_matches("$share/g/")).unwrap().matches(topic))
    }

    /// Takes messages until none of `wanted` is left, for any of those that share it.
    async fn collect(&self, address: SocketAddr, wanted: Arc<Mutex<Messages>>) {
        let (mut link, present) = self.connect(address).await;
        assert!(present, "the session of {} is gone", self.id);
        let mut until = Instant::now() + QUIET;
        while !wanted.lock().is_empty() && Instant::now() < until {
            // Another member may have got the last of them.
            let Ok(came) = timeout(Duration::from_millis(20), link.packets.recv()).await else { continue };
            until = Instant::now() + QUIET;
            let Packet(first, body) = came.expect("it stays");
            let (topic, rest) = body[2..].split_at(usize::from(u16::from_be_bytes([body[0], body[1]])));
            let payload = match first & 6 {
                0 => rest,
                _ => {
                    link.ack(0x40, u16::from_be_bytes([rest[0], rest[1]])).await;
                    &rest[2..]
                }
            };
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            wanted.lock().remove(&(text(topic), text(payload)));
        }
        link.end().await;
    }
}

/// Publishes with QoS 1 until the gateway is gone; returns what was acknowledged.
async fn publish(address: SocketAddr, index: usize, round: usize) -> Messages {
    let id: &'static str = ["p0", "p1", "p2", "p3", "p4", "p5"][index];
    let topic = format!("s/{index}");
    let message = |n: u16| format!("{round} {n}");
    let mut acknowledged = Messages::new();
    let Some((mut link, _)) = Link::open(address, &Connect::v3(id)).await else { return acknowledged };
    let (mut sent, mut open) = (0_u16, 0);
    loop {
        while open < WINDOW {
            (sent, open) = (sent + 1, open + 1);
            let body = [string(&topic), sent.to_be_bytes().into(), message(sent).into_bytes()].concat();
            link.send(&packet(0x32, &body)).await;
        }
        let Some(Packet(first, body)) = link.packets.recv().await else { return acknowledged };
        assert_eq!(first, 0x40);
        acknowledged.insert((topic.clone(), message(u16::from_be_bytes([body[0], body[1]]))));
        open -= 1;
    }
}

/// A client that is connected when the gateway stops, and the will that it leaves then.
async fn with_will(address: SocketAddr, index: usize, round: usize) -> (Link, (String, String)) {
    let (id, topic) = [("w0", "w/0"), ("w1", "w/1"), ("w2", "w/2")][index];
    let payload: &'static str = format!("will {round}").leak();
    let will = Will { topic, payload: payload.as_bytes(), qos: 1, retain: index == 0, properties: Vec::new() };
    let connect = Connect { will: Some(will), ..Connect::v3(id) };
    let (link, _) = Link::open(address, &connect).await.expect("a gateway");
    (link, (topic.to_owned(), payload.to_owned()))
}

/// Load until a random moment, then SIGTERM. Returns the gateway's folder, what must not be lost, and how long it took.
async fn stop_under_load(world: World, round: usize) -> (tempfile::TempDir, Messages, Duration) {
    let address = world.address();
    let mut links = Vec::new();
    let mut wanted = Messages::from([("gatepost/test/status".to_owned(), "offline".to_owned())]);
    for index in 0..WILLS {
        let (link, will) = with_will(address, index, round).await;
        links.push(link);
        wanted.insert(will);
    }
    let publishers: Vec<_> = (0..PUBLISHERS).map(|index| tokio::spawn(publish(address, index, round))).collect();
    sleep(Duration::from_millis(fastrand::u64(1..100))).await;
    let began = Instant::now();
    let dir = world.end(How::Stopped);
    let took = began.elapsed();
    for publisher in publishers {
        wanted.extend(publisher.await.unwrap());
    }
    (dir, wanted, took)
}

/// Takes from `found` what could not be lost: `None` if nothing was.
fn lost(id: &str, wanted: &Mutex<Messages>) -> Option<String> {
    let left = wanted.lock();
    (!left.is_empty()).then(|| format!("{id}: {:?}", left.iter().collect::<std::collections::BTreeSet<_>>()))
}

/// What `min_interval` holds back, and `offline` of the device and of the gateway.
#[tokio::test(flavor = "multi_thread")]
async fn the_last_words_of_devices_reach_sessions_that_are_away() {
    let ports = tempfile::TempDir::new().unwrap();
    let port = Port::plugged(ports.path(), "board");
    let config = format!(
        "{LISTENER}\n[device.board]\nserial = {{ port = \"{}\", baud = 9600 }}\n\
         [[device.board.publish]]\ntopic = \"line\"\nmin_interval = \"1h\"\n",
        port.path()
    );
    let world = World::start_with(&config);
    let away = Away { id: "away", filters: &["line", "gatepost/test/#"] };
    away.subscribe(world.address()).await;
    let mut watcher = world.connect(&Connect::v3("watcher")).await;
    watcher.subscribe(1, "gatepost/test/device/board/status", 0).await;
    while watcher.payload().await != b"online" {}
    port.write("first\nlast\n");
    tokio::task::block_in_place(|| {
        wait_until("both are read", || world.gateway().device_status("board")["frames_in"] == 2);
    });
    let world = World::start_in(world.end(How::Stopped));
    let wanted = [
        ("line", "first"),
        ("line", "last"),
        ("gatepost/test/device/board/status", "offline"),
        ("gatepost/test/status", "offline"),
    ];
    let wanted = Arc::new(Mutex::new(wanted.map(|(topic, payload)| (topic.to_owned(), payload.to_owned())).into()));
    away.collect(world.address(), wanted.clone()).await;
    assert_eq!(lost("away", &wanted), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_at_any_moment_loses_nothing_for_sessions_that_are_away() {
    let mut world = World::start();
    for away in ALONE.iter().chain(MEMBERS) {
        away.subscribe(world.address()).await;
    }
    let (mut total, mut slowest, mut losses) = (0, Duration::ZERO, Vec::new());
    for round in 0..kills() {
        let (dir, messages, took) = stop_under_load(world, round).await;
        (total, slowest) = (total + messages.len(), slowest.max(took));
        world = World::start_in(dir);
        let shared = Arc::new(Mutex::new(messages.clone()));
        let mut collecting = Vec::new();
        for away in ALONE {
            let of_it = messages.iter().filter(|(topic, _)| away.matches(topic)).cloned().collect();
            collecting.push((away, Arc::new(Mutex::new(of_it))));
        }
        collecting.extend(MEMBERS.iter().map(|away| (away, shared.clone())));
        let address = world.address();
        let tasks = collecting.iter().map(|(away, wanted)| tokio::spawn(away.collect(address, wanted.clone())));
        for task in tasks.collect::<Vec<_>>() {
            task.await.unwrap();
        }
        let lost = collecting.iter().filter_map(|(away, wanted)| lost(away.id, wanted));
        losses.extend(lost.map(|lost| format!("stop {round}, {lost}")));
    }
    println!("{} stops, {total} messages, the slowest stop took {slowest:?}", kills());
    assert!(losses.is_empty(), "{} of {} were lost to some: {losses:#?}", losses.len(), total);
    assert!(total > kills() * PUBLISHERS, "{total} messages are no load");
}
