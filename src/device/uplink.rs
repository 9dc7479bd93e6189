//! The way up after framing: a frame goes through the rules, and what they make of it to the broker.

use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::{Mutex, Notify};
use tokio::time::sleep_until;

use super::rules::{Now, Outcome, Publication, PublishRules};
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
    pub async fn change(&self, config: &config::Device, gateway_name: &str) {
        self.rules.lock().await.rules.change(config, gateway_name);
    }

    /// Publishes what the rules make of `frame`; waits while the broker has no room.
    pub async fn take(&self, device: &Device, frame: &Bytes, peer: Option<SocketAddr>) {
        let mut guard = self.rules.lock().await;
        let Rules { rules, outcomes } = &mut *guard;
        #[cfg(any(test, feature = "testing"))]
        misbehave(frame);
        rules.apply(frame, peer, Now::read(), outcomes);
        publish(device, outcomes).await;
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
                        publish(device, outcomes).await;
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
        publish(device, outcomes).await;
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

/// Publishes what the rules made. What is left when the gateway's time to stop is over is counted.
async fn publish(device: &Device, outcomes: &mut Vec<Outcome>) {
    let mut pending = Pending::new(device, DropReason::Stopped);
    pending.count = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Publish(_))).count() as u64;
    for outcome in outcomes.drain(..) {
        let message = match outcome {
            Outcome::Publish(message) => message,
            Outcome::Dropped { reason, detail } => {
                device.count_drop(reason, 1, detail.as_deref());
                continue;
            }
        };
        let Publication { topic, payload, qos, retain } = message;
        let published = tokio::select! {
            biased;
            published = device.client.publish(Publish { topic, payload, qos, retain }) => published,
            () = device.stop.now.cancelled() => return,
        };
        pending.count -= 1;
        match published {
            Ok(_) => device.state.stats.published.increment(),
            Err(error) => device.count_drop(DropReason::Refused, 1, Some(&error.to_string())),
        }
    }
}
