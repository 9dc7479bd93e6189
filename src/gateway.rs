//! Owns every task: starts the broker and the devices, restarts what panics, stops all in order.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::broker::local::{LocalClient, Publish};
use crate::broker::{self, Broker};
use crate::config::Config;
use crate::device::{Device, Stop};
use crate::qos::Qos;
use crate::topic::{TopicError, TopicName};

pub mod signals;

/// How often each device's stats topic is refreshed.
const STATS_INTERVAL: Duration = Duration::from_secs(30);
/// How long a stop waits for queued commands to reach their devices. With the times below it leaves a busy machine a
/// second of the five that a stop may take.
const DRAIN_TIME: Duration = Duration::from_millis(2500);
/// How long it then waits for the devices' tasks to end.
const END_TIME: Duration = Duration::from_millis(500);
/// How long MQTT clients have to take what was sent to them last.
const BROKER_TIME: Duration = Duration::from_secs(1);

/// Why a gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The broker: a listener could not bind, or the router did not start.
    #[error(transparent)]
    Broker(#[from] broker::StartError),
    /// `[gateway] topic` leaves no room for the topics below it.
    #[error("the topics below [gateway] topic cannot be made: {0}")]
    Topic(#[from] TopicError),
}

/// A running gateway.
#[derive(Debug)]
pub struct Gateway {
    broker: Broker,
    client: LocalClient,
    status: TopicName,
    devices: Vec<Arc<Device>>,
    tasks: JoinSet<()>,
    stop: Stop,
}

impl Gateway {
    /// Starts the broker, then every device, and publishes `online`. Must be called on a tokio runtime.
    ///
    /// A device whose port is missing is not an error; a listener that cannot bind is.
    pub async fn start(config: Config) -> Result<Gateway, StartError> {
        let status = TopicName::new(format!("{}/status", config.gateway.topic))?;
        let broker = Broker::start(&config.broker).await?;
        let stop = Stop::default();
        let mut devices = Vec::new();
        for device in config.devices.into_values() {
            let client = broker.client();
            devices.push(Arc::new(Device::new(device, &config.gateway, client, stop.clone())?));
        }
        // The status is said anew at each start: not for the disk.
        let client = broker.client().volatile();
        let mut tasks = JoinSet::new();
        for device in &devices {
            tasks.spawn(supervise(device.clone()));
        }
        if !devices.is_empty() {
            tasks.spawn(report_stats(devices.clone(), stop.clone()));
        }
        let gateway = Gateway { broker, client, status, devices, tasks, stop };
        gateway.publish_status("online").await;
        Ok(gateway)
    }

    /// Where the broker listens, ports resolved.
    pub fn broker_addrs(&self) -> &[SocketAddr] {
        self.broker.local_addrs()
    }

    /// A client of the embedded broker, without a socket.
    pub fn client(&self) -> LocalClient {
        self.broker.client()
    }

    /// The devices, in order of their names.
    pub fn devices(&self) -> &[Arc<Device>] {
        &self.devices
    }

    /// Resolves when the broker's router has died; the process should end then.
    pub async fn failed(&self) {
        self.broker.failed().await;
    }

    /// Reads again what can change while the gateway runs: `password_file`, `acl_file` and certificates. A file that is
    /// wrong changes nothing. What comes of it is logged.
    pub async fn reload(&self) {
        tracing::info!(
            "reading password_file, acl_file and certificates again; the configuration itself is read at the next start"
        );
        self.broker.reload_files().await;
    }

    /// Writes the counters of the broker and of every device to the log.
    pub fn log_stats(&self) {
        tracing::info!(stats = %serde_json::json!(self.broker.figures()), "broker stats");
        for device in &self.devices {
            tracing::info!(device = device.name(), stats = %device.stats_json(), "stats");
        }
    }

    /// Stops in order: no new frames, queues drained, `offline` published, broker closed. Takes less than 5 s.
    pub async fn stop(mut self) {
        self.stop.drain.cancel();
        if timeout(DRAIN_TIME, join_all(&mut self.tasks)).await.is_err() {
            self.stop.now.cancel();
            if timeout(END_TIME, join_all(&mut self.tasks)).await.is_err() {
                tracing::warn!(tasks = self.tasks.len(), "some tasks did not end in time and are aborted");
            }
        }
        self.tasks.abort_all();
        for device in self.devices.iter().filter(|device| device.is_online()) {
            tracing::warn!(device = device.name(), "the device did not stop in time");
            device.set_offline().await;
        }
        self.publish_status("offline").await;
        if !self.broker.stop(BROKER_TIME).await {
            tracing::warn!("some MQTT connections did not end in time");
        }
    }

    async fn publish_status(&self, status: &'static str) {
        let message = Publish {
            topic: self.status.clone(),
            payload: Bytes::from_static(status.as_bytes()),
            qos: Qos::AtLeastOnce,
            retain: true,
        };
        if let Err(error) = self.client.publish(message).await {
            tracing::warn!(topic = %self.status, %error, "the gateway's status was not published");
        }
    }
}

async fn join_all(tasks: &mut JoinSet<()>) {
    while tasks.join_next().await.is_some() {}
}

/// Runs a device; when it panics, counts that, says so and starts it again.
async fn supervise(device: Arc<Device>) {
    loop {
        let run = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(device.clone().run()));
        match run.await {
            Ok(()) => return,
            Err(error) => {
                tracing::error!(device = device.name(), %error, "the device's task panicked; it is started again");
                device.set_offline().await;
                tokio::select! {
                    () = tokio::time::sleep(device.restart_delay()) => {}
                    () = device.stopping() => return,
                }
            }
        }
    }
}

/// Publishes every device's stats each [`STATS_INTERVAL`].
async fn report_stats(devices: Vec<Arc<Device>>, stop: Stop) {
    let mut ticks = interval(STATS_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    ticks.tick().await;
    loop {
        tokio::select! {
            () = stop.drain.cancelled() => return,
            _ = ticks.tick() => {}
        }
        for device in &devices {
            device.publish_stats().await;
        }
    }
}
