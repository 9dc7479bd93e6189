//! Owns every task: starts the broker and the devices, restarts what panics, applies a new configuration, stops in order.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::RwLock;
use tokio::sync::{Mutex, Notify};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::broker::local::{LocalClient, Publish};
use crate::broker::reload::Prepared;
use crate::broker::{self, AccessErrors, Broker};
use crate::config::{self, Config, Loaded};
use crate::device::{Device, DeviceContext, Stop};
use crate::qos::Qos;
use crate::topic::{TopicError, TopicName};
use fleet::Fleet;
use notify::Notifier;
use reload::{Diff, EARLIER_TIME};

mod fleet;
mod notify;
pub mod panics;
pub mod reload;
pub mod signals;
mod watchdog;

pub use reload::{ReloadError, Summary};

/// How long the wills of MQTT clients may take when the gateway stops.
const WILLS_TIME: Duration = Duration::from_millis(200);
/// How long MQTT clients have to take what was sent to them last.
const BROKER_TIME: Duration = Duration::from_millis(800);

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

impl StartError {
    /// Whether the configuration is to blame, and not the machine.
    pub fn is_config(&self) -> bool {
        match self {
            StartError::Broker(error) => error.is_config(),
            StartError::Topic(_) => true,
        }
    }
}

/// The devices that run now, in order of their names; for those who look on.
type Devices = Arc<RwLock<Vec<Arc<Device>>>>;

/// A running gateway.
#[derive(Debug)]
pub struct Gateway {
    /// What `gatepost run -c` named.
    file: Option<PathBuf>,
    broker: Broker,
    client: LocalClient,
    devices: Devices,
    /// Locked through a reload and through the stop.
    state: Mutex<State>,
    notifier: Arc<Notifier>,
    /// A device or a client has come or gone.
    news: Arc<Notify>,
    stopping: CancellationToken,
    /// Own the tasks that are neither a device's nor the broker's.
    helpers: TaskTracker,
}

/// What runs.
#[derive(Debug)]
struct State {
    /// What is in force.
    config: Config,
    /// `…/status`
    status: TopicName,
    fleet: Fleet,
}

/// Another configuration, with all done for it that can fail.
struct Change {
    config: Config,
    diff: Diff,
    status: TopicName,
    /// Devices to start.
    fresh: Vec<(Arc<Device>, Stop)>,
    /// Nothing at the first start, when the broker has it all.
    broker: Option<Prepared>,
}

impl Gateway {
    /// Starts the broker, then every device, and publishes `online`. Must be called on a tokio runtime. `file` is what
    /// [`Gateway::reload`] reads: the configuration that was named, `None` for the one that is read when none is.
    ///
    /// A device whose port is missing is not an error; a listener that cannot bind is.
    pub async fn start(config: Config, file: Option<PathBuf>) -> Result<Arc<Gateway>, StartError> {
        let notifier = Arc::new(Notifier::from_environment());
        let status = status_topic(&config)?;
        let broker = Broker::start(&config.broker).await?;
        let nothing = Config { devices: Default::default(), ..config.clone() };
        let gateway = Gateway {
            file,
            // The status is said anew at each start: not for the disk.
            client: broker.client().volatile(),
            broker,
            devices: Devices::default(),
            state: Mutex::new(State { config: nothing, status, fleet: Fleet::default() }),
            notifier,
            news: Arc::default(),
            stopping: CancellationToken::new(),
            helpers: TaskTracker::new(),
        };
        {
            let mut state = gateway.state.lock().await;
            let diff = Diff::between(&state.config, &config);
            let change = gateway.change(config, diff)?;
            gateway.apply(&mut state, change).await;
            gateway.publish_status(&state.status, b"online").await;
        }
        gateway.start_helpers();
        gateway.notifier.ready();
        Ok(Arc::new(gateway))
    }

    /// Where the broker listens, ports resolved.
    pub fn broker_addrs(&self) -> Vec<SocketAddr> {
        self.broker.local_addrs()
    }

    /// The broker, for its counters.
    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    /// A client of the embedded broker, without a socket.
    pub fn client(&self) -> LocalClient {
        self.broker.client()
    }

    /// The devices that run now, in order of their names.
    pub fn devices(&self) -> Vec<Arc<Device>> {
        self.devices.read().clone()
    }

    /// The device of that name.
    pub fn device(&self, name: &str) -> Option<Arc<Device>> {
        self.devices.read().iter().find(|device| device.name() == name).cloned()
    }

    /// Resolves when the broker's router has died; the process should end then.
    pub async fn failed(&self) {
        self.broker.failed().await;
    }

    /// Reads the configuration again and applies what has changed: devices that are gone or different stop first, then the
    /// listeners change, then new devices start. One at a time, and none waits for long for another; goes on to its end
    /// even if nobody waits for it. The outcome is logged too.
    ///
    /// # Errors
    /// Nothing was changed.
    pub async fn reload(self: &Arc<Gateway>) -> Result<Summary, ReloadError> {
        let gateway = self.clone();
        // A task of its own: half a reload would be worse than none.
        let reload = self.helpers.spawn(async move { gateway.reload_now().await });
        reload.await.unwrap_or(Err(ReloadError::Stopping))
    }

    async fn reload_now(&self) -> Result<Summary, ReloadError> {
        let Ok(mut state) = timeout(EARLIER_TIME, self.state.lock()).await else {
            let file = self.file.as_deref().unwrap_or(Path::new(config::DEFAULT_PATH)).display().to_string();
            let error = ReloadError::Busy { file };
            error.log();
            return Err(error);
        };
        if self.stopping.is_cancelled() {
            return Err(ReloadError::Stopping);
        }
        self.notifier.reloading();
        let result = self.apply_file(&mut state).await;
        self.notifier.ready();
        match &result {
            Ok(summary) => summary.log(),
            Err(error) => error.log(),
        }
        result
    }

    async fn apply_file(&self, state: &mut State) -> Result<Summary, ReloadError> {
        let (change, summary) = tokio::select! {
            biased;
            // A disk that hangs, or a name that nobody resolves, must not keep the gateway from stopping.
            () = self.stopping.cancelled() => return Err(ReloadError::Stopping),
            prepared = self.prepare(&state.config) => prepared?,
        };
        self.apply(state, change).await;
        Ok(summary)
    }

    /// Reads the configuration again and does all that can fail of taking it over, in place of `old`.
    async fn prepare(&self, old: &Config) -> Result<(Change, Summary), ReloadError> {
        let file = self.file.clone();
        let read = spawn_blocking(move || read(file)).await;
        let Loaded { config, warnings, .. } = read.unwrap_or(Err(ReloadError::Stopping))?;
        let diff = Diff::between(old, &config);
        let config = reload::in_force(old, config);
        let mut change = self.change(config, diff)?;
        // The last that can fail: until it is applied the broker keeps new sockets open for it.
        change.broker = Some(self.broker.prepare(&change.config.broker).await.map_err(ReloadError::Broker)?);
        let summary = change.diff.summary(old, &change.config, warnings);
        Ok((change, summary))
    }

    /// Makes the devices that `diff` starts; the broker's part is still to come.
    fn change(&self, config: Config, diff: Diff) -> Result<Change, TopicError> {
        let fresh = diff.devices.to_start().map(|name| {
            let stop = Stop::default();
            let (client, news) = (self.broker.client(), self.news.clone());
            let context = DeviceContext { client, stop: stop.clone(), news };
            let mut device = Device::new(config.devices[name].clone(), &config.gateway, context)?;
            if let Some(old) = self.device(name) {
                device.take_over(&old);
            }
            Ok((Arc::new(device), stop))
        });
        let fresh = fresh.collect::<Result<_, TopicError>>()?;
        Ok(Change { status: status_topic(&config)?, config, diff, fresh, broker: None })
    }

    /// Makes `change` what runs; the same way for the first start and for a reload. Cannot fail.
    async fn apply(&self, state: &mut State, change: Change) {
        let Change { config, diff, status, fresh, broker } = change;
        let to_stop: Vec<String> = diff.devices.to_stop().cloned().collect();
        for old in state.fleet.stop(&to_stop, &fresh, &self.stopping).await {
            if !fresh.iter().any(|(device, _)| device.has_topics_of(&old)) {
                old.forget().await;
            }
        }
        if let Some(prepared) = broker {
            self.broker.apply(prepared).await;
        }
        for name in &diff.devices.rules_changed {
            if let Some(device) = state.fleet.get(name) {
                device.change_rules(&config.devices[name]).await;
            }
        }
        if diff.log_level {
            crate::log::change_level(&config.log);
        }
        if status != state.status {
            self.publish_status(&state.status, b"offline").await;
            self.publish_status(&state.status, b"").await;
            self.publish_status(&status, b"online").await;
        }
        for (device, stop) in fresh {
            state.fleet.start(device, stop);
        }
        *self.devices.write() = state.fleet.devices();
        (state.config, state.status) = (config, status);
        self.news.notify_one();
    }

    fn start_helpers(&self) {
        let store = self.broker.store().clone();
        self.help(watchdog::watch_disk(store.clone(), self.news.clone()));
        if !self.notifier.is_on() {
            return;
        }
        watchdog::watch_clients(&self.broker, self.news.clone());
        let connected = self.broker.stats().connected.clone();
        let inputs = watchdog::StatusInputs { devices: self.devices.clone(), clients: move || connected.get(), store };
        self.help(watchdog::tell_status(self.notifier.clone(), inputs, self.news.clone()));
        if let Some(period) = self.notifier.watchdog() {
            self.help(watchdog::feed_watchdog(self.notifier.clone(), self.broker.bus().clone(), period));
        }
    }

    fn help(&self, work: impl Future<Output = ()> + Send + 'static) {
        let stopping = self.stopping.clone();
        self.helpers.spawn(async move {
            tokio::select! {
                () = work => {}
                () = stopping.cancelled() => {}
            }
        });
    }

    /// Writes the counters of the broker and of every device to the log.
    pub fn log_stats(&self) {
        tracing::info!(stats = %serde_json::json!(self.broker.figures()), "broker stats");
        for device in self.devices() {
            tracing::info!(device = device.name(), stats = %device.stats_json(), "stats");
        }
    }

    /// Stops in order: no new clients and nothing more from those there are, their wills published; no new frames, queues
    /// drained, `offline` published; kept sessions take all that, connections and the store are closed. Takes less than 5 s.
    pub async fn stop(&self) {
        self.notifier.stopping();
        self.stopping.cancel();
        let mut state = self.state.lock().await;
        self.broker.fall_silent(WILLS_TIME).await;
        state.fleet.stop_all().await;
        self.publish_status(&state.status, b"offline").await;
        self.broker.stop(BROKER_TIME).await;
        // A reload that waited for this one ends at once now.
        drop(state);
        self.helpers.close();
        self.helpers.wait().await;
    }

    async fn publish_status(&self, topic: &TopicName, status: &'static [u8]) {
        let payload = Bytes::from_static(status);
        let message = Publish { topic: topic.clone(), payload, qos: Qos::AtLeastOnce, retain: true };
        if let Err(error) = self.client.publish(message).await {
            tracing::warn!(%topic, %error, "the gateway's status was not published");
        }
    }
}

fn status_topic(config: &Config) -> Result<TopicName, TopicError> {
    TopicName::new(format!("{}/status", config.gateway.topic))
}

/// Reads `file` and what it names; says all that is wrong. Blocks.
fn read(file: Option<PathBuf>) -> Result<Loaded, ReloadError> {
    let loaded = config::load_or_default(file.as_deref()).map_err(ReloadError::Config)?;
    let wrong: Vec<_> = broker::access_errors(&loaded.config.broker).collect();
    if wrong.is_empty() { Ok(loaded) } else { Err(ReloadError::Access(AccessErrors(wrong))) }
}

#[cfg(test)]
mod tests;
