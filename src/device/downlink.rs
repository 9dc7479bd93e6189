//! The way down before framing: messages go through the subscribe rules and become queued commands.

use std::sync::Arc;

use tokio::sync::{Mutex, watch};

use super::rules::{CommandOutcome, CommandRules};
use super::watch::{Made, What};
use super::{Device, Pending};
use crate::broker::bus::BusError;
use crate::broker::local::{Delivery, Subscriber};

/// The subscribe rules of a device.
#[derive(Debug)]
pub struct Downlink {
    wanted: watch::Sender<Arc<CommandRules>>,
    /// What the device's subscriptions are made of.
    in_force: watch::Sender<Option<Arc<CommandRules>>>,
}

/// A device's subscriptions. They outlive its panics, and the device itself if it leaves a successor, so that no command is
/// missed; but never those who read them: publishers would wait for ever.
#[derive(Debug, Default)]
pub struct Inbox(Mutex<Option<Subscriber>>);

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
    pub async fn run(&self, device: &Device, inbox: &Inbox) {
        if let Err(error) = self.take_commands(device, inbox).await {
            tracing::error!(device = device.name(), %error, "the device's subscriptions were refused");
        }
        std::future::pending().await
    }

    /// The device has stopped: counts what has come since, and unsubscribes. Of a successor's subscriptions it keeps its hands off.
    pub async fn finish(&self, device: &Device, inbox: &Inbox) {
        if device.successor().is_some() {
            return;
        }
        let Some(mut subscriber) = inbox.0.lock().await.take() else { return };
        let rules = self.wanted.borrow().clone();
        take_rest(device, &rules, &mut subscriber);
    }

    async fn take_commands(&self, device: &Device, inbox: &Inbox) -> Result<(), BusError> {
        let mut changes = self.wanted.subscribe();
        let mut rules = changes.borrow_and_update().clone();
        let mut subscriber = inbox.0.lock().await;
        if device.successor().is_some() {
            return Ok(());
        }
        let subscriber = match &mut *subscriber {
            Some(before) => {
                match self.in_force.borrow().is_some() {
                    true => before.change(rules.filters()),
                    // That of the device in whose place this one comes.
                    false => before.take_over(rules.filters()),
                }
                before
            }
            none => none.insert(device.client.subscribe(rules.filters()).await?),
        };
        loop {
            self.in_force.send_replace(Some(rules.clone()));
            self.queue_commands(device, &rules, subscriber, &mut changes).await?;
            if device.is_stopping() {
                break;
            }
            rules = changes.borrow_and_update().clone();
            subscriber.change(rules.filters());
        }
        take_rest(device, &rules, subscriber);
        Ok(())
    }

    /// Until other rules are wanted, or the device stops. What was published before that goes by the old ones.
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
                () = device.stopping() => return Ok(()),
                delivery = subscriber.recv() => delivery.ok_or(BusError::Stopped)?,
                _ = changes.changed() => return Ok(()),
            };
            take(device, rules, delivery, &mut outcomes);
        }
    }
}

/// Takes what has come until now. What comes later is the successor's, or nobody's.
fn take_rest(device: &Device, rules: &CommandRules, subscriber: &mut Subscriber) {
    let mut outcomes = Vec::new();
    let take = |delivery| take(device, rules, delivery, &mut outcomes);
    match device.successor() {
        Some(_) => subscriber.arrived().for_each(take),
        None => subscriber.leave().for_each(take),
    }
}

fn take(device: &Device, rules: &CommandRules, delivery: Delivery, outcomes: &mut Vec<CommandOutcome>) {
    device.state.stats.commands.increment();
    let mut pending = Pending::one(device);
    rules.render(delivery.topic.as_str(), &delivery.payload, delivery.retain, outcomes);
    pending.settle();
    device.state.stats.commands.add(outcomes.len().saturating_sub(1) as u64);
    // Before its frames go on their way: what becomes of them is shown after it.
    device.watch.tell(|| {
        let made = outcomes.iter().map(Made::of_command).collect();
        What::Command { topic: delivery.topic, payload: delivery.payload, made }
    });
    for outcome in outcomes.drain(..) {
        match outcome {
            CommandOutcome::Command(command) => device.links.push(command, None, device),
            CommandOutcome::Dropped { reason, detail } => device.count_drop(reason, 1, detail.as_deref()),
        }
    }
    device.leave_late();
    device.say_queue_drops();
}

impl Made {
    fn of_command(outcome: &CommandOutcome) -> Made {
        match outcome {
            CommandOutcome::Command(command) => Made::Queued(command.frame.clone()),
            CommandOutcome::Dropped { reason, detail } => Made::Dropped { reason: *reason, detail: detail.clone() },
        }
    }
}
