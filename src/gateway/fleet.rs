//! The devices that run: each with its task, which is started again when it panics.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::panics;
use crate::device::{Device, Inbox, Stop};

/// How long a stop waits for queued commands to reach their devices. With [`END_TIME`] and the broker's time it leaves a
/// busy machine a second of the five that a stop of the gateway may take.
const DRAIN_TIME: Duration = Duration::from_millis(2500);
/// How long it then waits for the devices' tasks to end.
const END_TIME: Duration = Duration::from_millis(400);
/// How long an aborted task may take to go. One that blocks its thread never does.
const ABORT_TIME: Duration = Duration::from_millis(100);

/// Devices by their names.
#[derive(Debug, Default)]
pub struct Fleet {
    running: BTreeMap<String, Running>,
    /// What was left to devices that are still to start.
    left: BTreeMap<String, Left>,
}

#[derive(Debug)]
struct Running {
    device: Arc<Device>,
    stop: Stop,
    inbox: Arc<Inbox>,
    task: AbortOnDropHandle<()>,
    /// `task` and what it has spawned.
    tasks: TaskTracker,
}

/// The subscriptions of a device that was stopped, which its successor has from then on.
#[derive(Debug)]
struct Left {
    inbox: Arc<Inbox>,
    /// Reads them until the successor runs: whoever publishes, the device that stops among them, waits for those who are
    /// subscribed.
    _receiving: AbortOnDropHandle<()>,
}

impl Fleet {
    /// Runs `device`, which was made with `stop`.
    pub fn start(&mut self, device: Arc<Device>, stop: Stop) {
        let left = self.left.remove(device.name());
        let inbox = left.as_ref().map_or_else(Arc::default, |left| left.inbox.clone());
        let tasks = TaskTracker::new();
        let supervised = supervise(device.clone(), inbox.clone(), tasks.clone());
        let task = AbortOnDropHandle::new(tasks.spawn(supervised));
        tasks.close();
        self.running.insert(device.name().to_owned(), Running { device, stop, inbox, task, tasks });
    }

    /// The device of that name.
    pub fn get(&self, name: &str) -> Option<&Arc<Device>> {
        self.running.get(name).map(|running| &running.device)
    }

    /// Every device, in order of the names.
    pub fn devices(&self) -> Vec<Arc<Device>> {
        self.running.values().map(|running| running.device.clone()).collect()
    }

    /// Stops those of that name, all at once: no new frames, queued commands written, `offline` published. What hangs is
    /// named in the log and given up. Takes 3 s at most, less once `hurry` is cancelled. Returns what was stopped.
    ///
    /// Commands from now on are for those among `successors` that have the same name; these must be started then.
    pub async fn stop(
        &mut self,
        names: &[String],
        successors: &[(Arc<Device>, Stop)],
        hurry: &CancellationToken,
    ) -> Vec<Arc<Device>> {
        let mut leaving: Vec<Running> = names.iter().filter_map(|name| self.running.remove(name)).collect();
        for running in &leaving {
            if let Some((successor, _)) =
                successors.iter().find(|(successor, _)| successor.name() == running.device.name())
            {
                self.left.insert(successor.name().to_owned(), Left::to(successor, running));
            }
            running.stop.drain.cancel();
        }
        let drained = async {
            tokio::select! {
                ended = timeout(DRAIN_TIME, join(&mut leaving)) => ended.is_ok(),
                () = hurry.cancelled() => false,
            }
        };
        if !drained.await {
            for running in &leaving {
                running.stop.now.cancel();
            }
            if timeout(END_TIME, join(&mut leaving)).await.is_err() {
                give_up(leaving.iter().filter(|running| !running.task.is_finished())).await;
            }
        }
        let devices: Vec<Arc<Device>> = leaving.iter().map(|running| running.device.clone()).collect();
        drop(leaving);
        for device in devices.iter().filter(|device| device.is_online()) {
            device.set_offline().await;
        }
        devices
    }

    /// Stops all of them.
    pub async fn stop_all(&mut self) -> Vec<Arc<Device>> {
        let names: Vec<String> = self.running.keys().cloned().collect();
        self.stop(&names, &[], &CancellationToken::new()).await
    }
}

impl Left {
    /// Leaves what `running` has to `successor`. To be called before its stop.
    fn to(successor: &Arc<Device>, running: &Running) -> Left {
        running.device.hand_over_to(successor.clone());
        let inbox = running.inbox.clone();
        let receiving = tokio::spawn(successor.clone().receive_until_started(inbox.clone()));
        Left { inbox, _receiving: AbortOnDropHandle::new(receiving) }
    }
}

/// Ends the tasks of `hung` by force, and does for them what is left to do.
async fn give_up(hung: impl Iterator<Item = &Running>) {
    let hung: Vec<&Running> = hung.collect();
    let names: Vec<&str> = hung.iter().map(|running| running.device.name()).collect();
    tracing::warn!(devices = names.join(", "), "devices did not stop in time and are given up");
    for running in &hung {
        running.task.abort();
    }
    let gone = async {
        for running in &hung {
            running.tasks.wait().await;
        }
    };
    let _ = timeout(ABORT_TIME, gone).await;
    for running in hung {
        running.device.give_up(&running.inbox).await;
    }
}

async fn join(leaving: &mut [Running]) {
    for running in leaving {
        if !running.task.is_finished() {
            // An error would be a panic of `supervise`, which has none, or an abort, which nobody asked for.
            let _ = (&mut running.task).await;
        }
    }
}

/// Runs a device to its end; when it panics, counts that, says so and starts it again with backoff.
async fn supervise(device: Arc<Device>, inbox: Arc<Inbox>, tasks: TaskTracker) {
    let mut backoff = device.backoff();
    loop {
        let began = Instant::now();
        let is_last = device.is_stopping();
        let run = AbortOnDropHandle::new(tasks.spawn(device.clone().run(inbox.clone())));
        let Err(error) = run.await else { return };
        if error.is_cancelled() || is_last {
            return device.give_up(&inbox).await;
        }
        if began.elapsed() >= device.is_stable_after() {
            backoff.reset();
        }
        let delay = backoff.next_delay(fastrand::f64());
        let place = panics::take(error.id()).unwrap_or_else(|| "an unknown place".to_owned());
        tracing::error!(device = device.name(), place, retry_in = ?delay, "the device panicked and is started again");
        // At once: whoever publishes waits for those who are subscribed, and this device is.
        let _receiving = AbortOnDropHandle::new(tokio::spawn(device.clone().receive_until_started(inbox.clone())));
        device.note_panic(&place).await;
        tokio::select! {
            () = sleep(delay) => {}
            // It runs once more, for its last words.
            () = device.stopping() => {}
        }
    }
}
