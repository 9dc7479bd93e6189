//! Tells of a device: that it is online or not, and what it has counted.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::time::{MissedTickBehavior, interval_at};

use super::Device;
use super::watch::What;
use crate::broker::local::Publish;
use crate::qos::Qos;
use crate::topic::TopicName;

/// How often the stats topic is refreshed.
const STATS_INTERVAL: Duration = Duration::from_secs(30);

impl Device {
    /// The link to `place` is up: says so in the log, to watchers and on the topics.
    pub(super) async fn set_online(&self, place: &str) {
        self.state.set_online(SystemTime::now());
        self.watch.tell(|| What::State { online: true });
        self.news.notify_one();
        if self.outages.up() {
            tracing::info!(device = self.name(), place, "device online");
        } else {
            tracing::debug!(device = self.name(), place, "device online again");
        }
        self.publish_status().await;
    }

    /// The link is down: publishes that, and the stats.
    pub async fn set_offline(&self) {
        self.state.set_offline(SystemTime::now());
        self.watch.tell(|| What::State { online: false });
        self.news.notify_one();
        self.publish_status().await;
    }

    /// Publishes the retained status and stats.
    pub(super) async fn publish_status(&self) {
        let status: &'static [u8] = if self.is_online() { b"online" } else { b"offline" };
        self.publish_retained(&self.topics.status, Bytes::from_static(status)).await;
        self.publish_stats().await;
    }

    /// Publishes the stats each [`STATS_INTERVAL`]. Never ends.
    pub(super) async fn report_stats(&self) {
        let mut ticks = interval_at(tokio::time::Instant::now() + STATS_INTERVAL, STATS_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            ticks.tick().await;
            self.publish_stats().await;
        }
    }

    /// Publishes the retained stats.
    pub async fn publish_stats(&self) {
        let stats = self.stats_json().to_string();
        self.publish_retained(&self.topics.stats, stats.into()).await;
    }

    pub(super) async fn publish_retained(&self, topic: &TopicName, payload: Bytes) {
        let message = Publish { topic: topic.clone(), payload, qos: Qos::AtLeastOnce, retain: true };
        // Said anew at each start, and often: not for the disk.
        if let Err(error) = self.client.clone().volatile().publish(message).await {
            tracing::warn!(device = self.name(), %topic, %error, "the device's status was not published");
        }
    }
}
