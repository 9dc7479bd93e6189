//! The signs of life that the service manager gets while the gateway runs.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::Devices;
use super::notify::Notifier;
use crate::broker::Broker;
use crate::broker::bus::Bus;

/// The status line changes at most so often.
const STATUS_PAUSE: Duration = Duration::from_secs(1);

/// Says how many devices are online and how many clients there are, whenever `news` comes. Never ends.
pub(super) async fn tell_status(
    notifier: Arc<Notifier>,
    devices: Devices,
    clients: impl Fn() -> usize + Send,
    news: Arc<Notify>,
) {
    let mut said = String::new();
    loop {
        let (online, all) = {
            let devices = devices.read();
            (devices.iter().filter(|device| device.is_online()).count(), devices.len())
        };
        let status = format!("{online} of {all} devices online, {} clients", clients());
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

/// Has the broker tell `news` when clients come and go.
pub(super) fn watch_clients(broker: &Broker, news: Arc<Notify>) {
    broker.stats().connected.tell(news);
}
