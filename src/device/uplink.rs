//! The way up after framing: a frame goes through the rules, and what they make of it to the broker.

use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::{Mutex, Notify};
use tokio::time::sleep_until;

use super::rules::{Now, Outcome, Publication, PublishRules};
use super::watch::{Event, Made, What};
use super::{Device, Pending};
use crate::broker::local::Publish;
use crate::config;
use crate::stats::DropReason;

/// The publish rules of a device, shared by its links and by the task that publishes what `min_interval` held back.
#[derive(Debug)]
pub struct Uplink {
    /// Held while what the rules made is published, so that messages of one topic keep their order.
    rules: Mutex<Rules>,
    /// `min_interval` holds something back.
    held_back: Notify,
}

#[derive(Debug)]
struct Rules {
    rules: PublishRules,
    /// Kept for its capacity; empty between uses.
    outcomes: Vec<Outcome>,
}

impl Uplink {
    /// Nothing has come yet.
    pub fn new(rules: PublishRules) -> Uplink {
        Uplink { rules: Mutex::new(Rules { rules, outcomes: Vec::new() }), held_back: Notify::new() }
    }

    /// Goes by the publish rules of `config` from now on. What `on_change` and `min_interval` remember stays.
    pub async fn change(&self, config: &config::Device, gateway: &config::Gateway) {
        self.rules.lock().await.rules.change(config, gateway);
    }

    /// Publishes what the rules make of `frame`; waits while the broker has no room.
    pub async fn take(&self, device: &Device, frame: &Bytes, peer: Option<SocketAddr>) {
        let mut pending = Pending::one(device);
        let mut guard = self.rules.lock().await;
        let Rules { rules, outcomes } = &mut *guard;
        #[cfg(any(test, feature = "testing"))]
        misbehave(frame);
        let now = Now::read();
        rules.apply(frame, peer, now, outcomes);
        pending.settle();
        let mut made = device.watch.is_watched().then(Vec::new);
        publish(device, outcomes, made.as_mut()).await;
        if let Some(made) = made {
            device.watch.show(Event { time: now.wall, what: What::In { frame: frame.clone(), peer, made } });
        }
        if rules.next_due().is_some() {
            self.held_back.notify_one();
        }
    }

    /// Publishes what `min_interval` holds back when its time has come. Never ends.
    pub async fn publish_held_back(&self, device: &Device) {
        loop {
            match self.next_due().await {
                None => self.held_back.notified().await,
                Some(due) => tokio::select! {
                    () = sleep_until(due.into()) => {
                        let mut guard = self.rules.lock().await;
                        let Rules { rules, outcomes } = &mut *guard;
                        rules.due(Now::read(), outcomes);
                        publish_later(device, outcomes).await;
                    }
                    () = self.held_back.notified() => {}
                },
            }
        }
    }

    /// Publishes all that `min_interval` holds back: the gateway stops.
    pub async fn flush(&self, device: &Device) {
        let mut guard = self.rules.lock().await;
        let Rules { rules, outcomes } = &mut *guard;
        rules.flush(Now::read(), outcomes);
        publish_later(device, outcomes).await;
    }

    async fn next_due(&self) -> Option<Instant> {
        self.rules.lock().await.rules.next_due()
    }
}

/// Frames with which a test makes a device panic, or block the runtime.
#[cfg(any(test, feature = "testing"))]
fn misbehave(frame: &[u8]) {
    match frame {
        b"gatepost-test-panic" => panic!("the test asked for it"),
        b"gatepost-test-hang" => loop {
            std::thread::park();
        },
        _ => {}
    }
}

/// Publishes what was held back.
async fn publish_later(device: &Device, outcomes: &mut Vec<Outcome>) {
    let mut made = device.watch.is_watched().then(Vec::new);
    publish(device, outcomes, made.as_mut()).await;
    if let Some(made) = made.filter(|made| !made.is_empty()) {
        device.watch.tell(|| What::Later { made });
    }
}

/// Publishes what the rules made, and adds it to `made`. What is left when the gateway's time to stop is over is
/// counted.
async fn publish(device: &Device, outcomes: &mut Vec<Outcome>, mut made: Option<&mut Vec<Made>>) {
    let mut pending = Pending::new(device);
    pending.count = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Publish(_))).count() as u64;
    for outcome in outcomes.drain(..) {
        let message = match outcome {
            Outcome::Publish(message) => message,
            Outcome::Dropped { reason, detail } => {
                device.count_drop(reason, 1, detail.as_deref());
                if let Some(made) = &mut made {
                    made.push(Made::Dropped { reason, detail });
                }
                continue;
            }
        };
        let shown = made.is_some().then(|| message.clone());
        let Publication { topic, payload, qos, retain } = message;
        let published = tokio::select! {
            biased;
            published = device.client.publish(Publish { topic, payload, qos, retain }) => published,
            () = device.stop.now.cancelled() => return,
        };
        pending.count -= 1;
        let refused = published.err().map(|error| error.to_string());
        match &refused {
            None => device.state.stats.published.increment(),
            Some(_) => device.count_drop(DropReason::Refused, 1, refused.as_deref()),
        }
        if let (Some(made), Some(shown)) = (&mut made, shown) {
            made.push(match refused {
                None => Made::Published(shown),
                Some(_) => Made::Dropped { reason: DropReason::Refused, detail: refused },
            });
        }
    }
}
