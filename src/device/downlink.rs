//! The way down before framing: messages go through the subscribe rules and become queued commands.

use std::sync::Arc;

use tokio::sync::watch;

use super::rules::{Command, CommandOutcome, CommandRules};
use super::watch::{Made, What};
use super::{Device, QUEUE_DROPS};
use crate::broker::bus::BusError;
use crate::broker::local::{Delivery, Subscriber};
use crate::stats::DropReason;

/// The subscribe rules of a device.
#[derive(Debug)]
pub struct Downlink {
    wanted: watch::Sender<Arc<CommandRules>>,
    /// What the device's subscriptions are made of.
    in_force: watch::Sender<Option<Arc<CommandRules>>>,
}

impl Downlink {
    /// Not subscribed yet.
    pub fn new(rules: CommandRules) -> Downlink {
        Downlink { wanted: watch::Sender::new(Arc::new(rules)), in_force: watch::Sender::new(None) }
    }

    /// Subscribes to what `rules` say from now on, and returns when that is done. A filter that stays misses and repeats
    /// nothing.
    pub async fn change(&self, rules: CommandRules) {
        let rules = Arc::new(rules);
        self.wanted.send_replace(rules.clone());
        let mut in_force = self.in_force.subscribe();
        // Its sender is in `self`.
        let _ = in_force.wait_for(|now| now.as_ref().is_some_and(|now| Arc::ptr_eq(now, &rules))).await;
    }

    /// Subscribes, and turns messages into queued commands. Never ends before the device stops.
    pub async fn run(&self, device: &Device) {
        if let Err(error) = self.take_commands(device).await {
            tracing::error!(device = device.name(), %error, "the device's subscriptions were refused");
        }
        std::future::pending().await
    }

    async fn take_commands(&self, device: &Device) -> Result<(), BusError> {
        let mut changes = self.wanted.subscribe();
        let mut rules = changes.borrow_and_update().clone();
        let mut subscriber = device.client.subscribe(rules.filters()).await?;
        loop {
            self.in_force.send_replace(Some(rules.clone()));
            self.queue_commands(device, &rules, &mut subscriber, &mut changes).await?;
            rules = changes.borrow_and_update().clone();
            subscriber.change(rules.filters());
        }
    }

    /// Until other rules are wanted. What was published before that goes by the old ones.
    async fn queue_commands(
        &self,
        device: &Device,
        rules: &CommandRules,
        subscriber: &mut Subscriber,
        changes: &mut watch::Receiver<Arc<CommandRules>>,
    ) -> Result<(), BusError> {
        let mut outcomes = Vec::new();
        loop {
            let delivery = tokio::select! {
                biased;
                () = device.stopping() => return std::future::pending().await,
                delivery = subscriber.recv() => delivery.ok_or(BusError::Stopped)?,
                _ = changes.changed() => return Ok(()),
            };
            take(device, rules, delivery, &mut outcomes);
        }
    }
}

fn take(device: &Device, rules: &CommandRules, delivery: Delivery, outcomes: &mut Vec<CommandOutcome>) {
    device.state.stats.commands.increment();
    rules.render(delivery.topic.as_str(), &delivery.payload, delivery.retain, outcomes);
    let mut made = device.watch.is_watched().then(Vec::new);
    for outcome in outcomes.drain(..) {
        match outcome {
            CommandOutcome::Command(command) => match &mut made {
                None => device.links.push(command, None, device),
                Some(made) => push_watched(device, command, made),
            },
            CommandOutcome::Dropped { reason, detail } => {
                device.count_drop(reason, 1, detail.as_deref());
                if let Some(made) = &mut made {
                    made.push(Made::Dropped { reason, detail });
                }
            }
        }
    }
    if let Some(made) = made {
        device.watch.tell(|| What::Command { topic: delivery.topic, payload: delivery.payload, made });
    }
    device.say_queue_drops();
}

/// Queues `command`, and adds what became of it to `made`.
fn push_watched(device: &Device, command: Command, made: &mut Vec<Made>) {
    let frame = command.frame.clone();
    let count = |reason: DropReason| device.state.stats.dropped.get(reason);
    let before = QUEUE_DROPS.map(count);
    device.links.push(command, None, device);
    let dropped = QUEUE_DROPS.into_iter().zip(before).find(|&(reason, before)| count(reason) > before);
    match dropped {
        None => made.push(Made::Queued(frame)),
        Some((reason @ DropReason::QueueFull, _)) => {
            let detail = Some("the oldest that waited".to_owned());
            made.extend([Made::Queued(frame), Made::Dropped { reason, detail }]);
        }
        Some((reason, _)) => made.push(Made::Dropped { reason, detail: None }),
    }
}
