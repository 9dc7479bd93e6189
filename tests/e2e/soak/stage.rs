//! What all who take part in the soak share, and the one who sees every message.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::BytesMut;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::common::DEADLINE;
use crate::common::peer::{Link, Port};
use crate::common::wire::{self, Connect, Publish};

/// What was seen of all messages.
#[derive(Debug, Default)]
pub struct Seen {
    /// All live messages.
    pub messages: u64,
    /// Of these, by the device that they come from.
    pub of_devices: BTreeMap<String, u64>,
    /// Published by clients.
    pub of_clients: u64,
    /// Each source numbers its messages from 0; what comes next.
    next: HashMap<String, u64>,
    online: BTreeMap<String, bool>,
}

impl Seen {
    /// What `source` has to send next: all before that were seen.
    pub fn next(&self, source: &str) -> u64 {
        self.next.get(source).copied().unwrap_or_default()
    }

    /// Whether the device's link is up.
    pub fn is_online(&self, device: &str) -> bool {
        self.online.get(device).copied().unwrap_or_default()
    }

    /// Notes a message, which must be the next one of its source.
    fn take(&mut self, publish: &Publish) {
        if publish.retain {
            return self.take_status(publish);
        }
        self.messages += 1;
        let levels: Vec<&str> = publish.topic.split('/').collect();
        match levels[..] {
            ["soak", "up", device, ..] => {
                *self.of_devices.entry(device.to_owned()).or_default() += 1;
                let text = std::str::from_utf8(&publish.payload).unwrap();
                let (source, number) = text.rsplit_once(' ').unwrap_or_else(|| panic!("{text:?} from {device}"));
                self.count(source, number.parse().unwrap());
            }
            ["soak", ..] => {
                self.of_clients += 1;
                let number = std::str::from_utf8(&publish.payload).unwrap().parse().unwrap();
                self.count(&publish.topic, number);
            }
            _ => self.take_status(publish),
        }
    }

    fn take_status(&mut self, publish: &Publish) {
        if let ["gatepost", "test", "device", device, "status"] = publish.topic.split('/').collect::<Vec<_>>()[..] {
            self.online.insert(device.to_owned(), &publish.payload[..] == b"online");
        }
    }

    fn count(&mut self, source: &str, number: u64) {
        let next = self.next.entry(source.to_owned()).or_default();
        assert_eq!(number, *next, "{source}: a message was lost, came twice, or out of order");
        *next += 1;
    }
}

/// Shared by all.
#[derive(Clone)]
pub struct Stage {
    /// The broker's.
    pub port: Port,
    seen: Arc<Mutex<Seen>>,
    news: watch::Receiver<()>,
    closing: Arc<AtomicBool>,
}

impl Stage {
    /// Watches from now on. When a message is not as it must be, whoever looks at what was seen fails.
    pub async fn open(port: Port) -> Stage {
        let connect = Connect { v5: false, id: "watcher".to_owned(), clean: true, expiry: 0, will: None };
        let (mut link, _) = Link::connect(&port, &connect).await.unwrap();
        let mut bytes = BytesMut::new();
        wire::subscribe(&mut bytes, false, 1, &[("#", 0), ("$SYS/#", 0)]);
        link.send(&bytes).await.unwrap();
        let (teller, news) = watch::channel(());
        let stage = Stage { port, seen: Arc::default(), news, closing: Arc::default() };
        let seen = stage.seen.clone();
        tokio::spawn(async move {
            // It ends with the gateway.
            while let Ok((first, body)) = link.next().await {
                if first >> 4 == 3 {
                    seen.lock().unwrap().take(&wire::parse_publish(false, first, body));
                    teller.send_replace(());
                }
            }
        });
        stage
    }

    /// Whether the round is still on.
    pub fn goes_on(&self) -> bool {
        !self.closing.load(Ordering::SeqCst)
    }

    /// Begins a round, or ends it.
    pub fn set_open(&self, open: bool) {
        self.closing.store(!open, Ordering::SeqCst);
    }

    /// What was seen so far.
    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("all messages were as they must be")
    }

    /// Waits until what was seen is as `wanted`.
    pub async fn until(&self, what: &str, wanted: impl Fn(&Seen) -> bool) {
        let mut news = self.news.clone();
        let waiting = async {
            loop {
                news.mark_unchanged();
                if wanted(&self.seen()) {
                    return;
                }
                news.changed().await.expect("the watcher watches");
            }
        };
        assert!(timeout(DEADLINE, waiting).await.is_ok(), "still waiting for {what}");
    }

    /// Waits until the first `count` messages of `source` have come.
    pub async fn until_seen(&self, source: &str, count: u64) {
        self.until(&format!("message {count} of {source}"), |seen| seen.next(source) >= count).await;
    }

    /// Forgets where the sources stood that will not send any more.
    pub fn forget_sources(&self, is_over: impl Fn(&str) -> bool) {
        self.seen().next.retain(|source, _| !is_over(source));
    }
}

/// For the shape of the load.
pub async fn pause(rng: &mut fastrand::Rng, at_most: Duration) {
    tokio::time::sleep(at_most.mul_f64(rng.f64())).await;
}
