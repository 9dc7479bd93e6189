//! The signs of life that the service manager gets while the gateway runs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::Devices;
use super::notify::Notifier;
use crate::broker::Broker;
use crate::broker::bus::Bus;
use crate::broker::figures::does_not_answer;
use crate::broker::store::{Health, Store};
use crate::log_limit::LogLimit;

/// The status line changes at most so often.
const STATUS_PAUSE: Duration = Duration::from_secs(1);

/// While the disk does not answer the status line is told anew so often.
const STALL_NEWS: Duration = Duration::from_secs(5);

/// What the status line draws on.
pub(super) struct StatusInputs<Clients> {
    pub(super) devices: Devices,
    /// How many are connected.
    pub(super) clients: Clients,
    pub(super) store: Store,
}

impl<Clients: Fn() -> usize> StatusInputs<Clients> {
    fn status(&self) -> String {
        let (online, all) = {
            let devices = self.devices.read();
            (devices.iter().filter(|device| device.is_online()).count(), devices.len())
        };
        let disk = match self.store.health() {
            Health::Stalled(waited) => format!("{}; ", does_not_answer(waited)),
            _ => String::new(),
        };
        format!("{disk}{online} of {all} devices online, {} clients", (self.clients)())
    }
}

/// Says how many devices are online and how many clients there are, whenever `news` comes. Never ends.
pub(super) async fn tell_status(
    notifier: Arc<Notifier>,
    inputs: StatusInputs<impl Fn() -> usize + Send>,
    news: Arc<Notify>,
) {
    let mut said = String::new();
    loop {
        let status = inputs.status();
        if status != said {
            notifier.status(&status);
            said = status;
        }
        sleep(STATUS_PAUSE).await;
        news.notified().await;
    }
}

/// Says that the gateway is alive twice in each `period`, as long as it is: this task runs, so the runtime does, and each
/// time the router has answered before. Never ends.
pub(super) async fn feed_watchdog(notifier: Arc<Notifier>, bus: Bus, period: Duration) {
    let mut ticks = interval(period / 2);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if bus.probe().await.is_err() {
            return std::future::pending().await;
        }
        notifier.alive();
    }
}

/// Says when the disk does not answer, and when it does again. That feeds no watchdog and starves none: a restart mends
/// no disk, and would lose what is in memory. Never ends.
pub(super) async fn watch_disk(store: Store, news: Arc<Notify>) {
    let mut log = LogLimit::default();
    loop {
        let asked = store.until_stalled().await;
        let times = log.events(Instant::now(), 1);
        if let Some(times) = times {
            tracing::warn!(
                times,
                "the disk has not answered for {} s; messages that are to be kept wait for it, all else goes on. \
                 hint: see the kernel's log (dmesg); an SD card that does so wears out",
                asked.elapsed().as_secs()
            );
        }
        let answered = store.until_answered(asked);
        tokio::pin!(answered);
        loop {
            news.notify_one();
            if timeout(STALL_NEWS, &mut answered).await.is_ok() {
                break;
            }
        }
        news.notify_one();
        if times.is_some() {
            tracing::info!("the disk answers again, after {} s", asked.elapsed().as_secs());
        }
    }
}

/// Has the broker tell `news` when clients come and go.
pub(super) fn watch_clients(broker: &Broker, news: Arc<Notify>) {
    broker.stats().connected.tell(news);
}
