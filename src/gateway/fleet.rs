//! The devices that run: each with its task, which is started again when it panics.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::panics;
use crate::device::{Device, Inbox, Stop};

/// How long a stop waits for queued commands to reach their devices. With [`END_TIME`] and the broker's time it leaves a
/// busy machine a second of the five that a stop of the gateway may take.
const DRAIN_TIME: Duration = Duration::from_millis(2500);
/// How long it then waits for the devices' tasks to end.
const END_TIME: Duration = Duration::from_millis(500);

/// Running devices by their names.
#[derive(Debug, Default)]
pub struct Fleet(BTreeMap<String, Running>);

#[derive(Debug)]
struct Running {
    device: Arc<Device>,
    stop: Stop,
    task: AbortOnDropHandle<()>,
}

impl Fleet {
    /// Runs `device`, which was made with `stop`.
    pub fn start(&mut self, device: Arc<Device>, stop: Stop) {
        let task = AbortOnDropHandle::new(tokio::spawn(supervise(device.clone())));
        self.0.insert(device.name().to_owned(), Running { device, stop, task });
    }

    /// The device of that name.
    pub fn get(&self, name: &str) -> Option<&Arc<Device>> {
        self.0.get(name).map(|running| &running.device)
    }

    /// Every device, in order of the names.
    pub fn devices(&self) -> Vec<Arc<Device>> {
        self.0.values().map(|running| running.device.clone()).collect()
    }

    /// Stops those of that name, all at once: no new frames, queued commands written, `offline` published. What hangs is
    /// named in the log and given up. Takes 3 s at most, less once `hurry` is cancelled. Returns what was stopped.
    pub async fn stop(&mut self, names: &[String], hurry: &CancellationToken) -> Vec<Arc<Device>> {
        let mut leaving: Vec<Running> = names.iter().filter_map(|name| self.0.remove(name)).collect();
        for running in &leaving {
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
                let hung = leaving.iter().filter(|running| !running.task.is_finished());
                let hung: Vec<&str> = hung.map(|running| running.device.name()).collect();
                tracing::warn!(devices = hung.join(", "), "devices did not stop in time and are given up");
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
        let names: Vec<String> = self.0.keys().cloned().collect();
        self.stop(&names, &CancellationToken::new()).await
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
async fn supervise(device: Arc<Device>) {
    let mut backoff = device.backoff();
    let inbox = Arc::new(Inbox::default());
    loop {
        let began = Instant::now();
        let is_last = device.is_stopping();
        let run = AbortOnDropHandle::new(tokio::spawn(device.clone().run(inbox.clone())));
        let Err(error) = run.await else { return };
        if error.is_cancelled() || is_last {
            return;
        }
        if began.elapsed() >= device.is_stable_after() {
            backoff.reset();
        }
        let delay = backoff.next_delay(fastrand::f64());
        let place = panics::take(error.id()).unwrap_or_else(|| "an unknown place".to_owned());
        tracing::error!(device = device.name(), place, retry_in = ?delay, "the device panicked and is started again");
        // At once: whoever publishes waits for those who are subscribed, and this device is.
        let _stand_in = AbortOnDropHandle::new(tokio::spawn(device.clone().stand_in(inbox.clone())));
        device.note_panic(&place).await;
        tokio::select! {
            () = sleep(delay) => {}
            // It runs once more, for its last words.
            () = device.stopping() => {}
        }
    }
}
