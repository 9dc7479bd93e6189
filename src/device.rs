//! One device: open, session, backoff, for as long as the gateway runs.
//!
//! A device is `offline` until its link is up. A port or host that is not there is no error: it is tried again with
//! backoff. A `tcp_server` is online while it listens.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::broker::local::LocalClient;
use crate::config::{self, Transport};
use crate::stats::DropReason;
use crate::topic::TopicError;
use crate::transport;

mod downlink;
mod drop_log;
mod hold;
mod links;
mod outage_log;
mod outbox;
pub mod outcome;
mod peers;
mod pending;
pub mod queue;
mod report;
pub mod rules;
mod session;
mod status;
mod successor;
mod uplink;
pub mod watch;

use downlink::Downlink;
pub use downlink::Inbox;
use drop_log::DropLog;
use hold::Hold;
use links::Links;
use outage_log::{News, OutageLog};
use outcome::Outcomes;
use pending::{Pending, forced_end};
use queue::Losses;
use rules::{Command, CommandRules, PublishRules, Target};
use session::{End, Link};
use status::{DeviceState, StatusTopics};
use uplink::Uplink;
use watch::{Watch, Watcher};

/// Why queues drop commands; they count it themselves.
const QUEUE_DROPS: [DropReason; 5] =
    [DropReason::QueueFull, DropReason::Expired, DropReason::Offline, DropReason::Stopped, DropReason::NoPeer];

/// How long a change of rules waits for the subscriptions.
const CHANGE_TIME: Duration = Duration::from_secs(1);

/// How a device is told to stop.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    /// No new frames and commands; what is queued is still delivered.
    pub drain: CancellationToken,
    /// The time for that is over.
    pub now: CancellationToken,
}

/// What a device works with.
#[derive(Clone, Debug)]
pub struct DeviceContext {
    /// The way to the bus.
    pub client: LocalClient,
    /// How it is told to stop.
    pub stop: Stop,
    /// Notified when it comes online or goes offline.
    pub news: Arc<Notify>,
}

/// A device of the gateway.
#[derive(Debug)]
pub struct Device {
    config: config::Device,
    topics: StatusTopics,
    gateway: config::Gateway,
    client: LocalClient,
    state: DeviceState,
    uplink: Uplink,
    downlink: Downlink,
    links: Links,
    drop_log: Arc<DropLog>,
    outages: OutageLog,
    hold: Hold,
    watch: Arc<Watch>,
    stop: Stop,
    news: Arc<Notify>,
    /// Who comes in its place.
    successor: OnceLock<Arc<Device>>,
    /// Its queue was left, to the successor or to nobody.
    has_left: AtomicBool,
}

impl Device {
    /// A device that is not running yet.
    ///
    /// Errors when the gateway's root topic leaves no room for the device's.
    pub fn new(
        config: config::Device,
        gateway: &config::Gateway,
        context: DeviceContext,
    ) -> Result<Device, TopicError> {
        let DeviceContext { client, stop, news } = context;
        Ok(Device {
            topics: StatusTopics::new(&gateway.topic, &config.name)?,
            client,
            state: DeviceState::default(),
            uplink: Uplink::new(PublishRules::new(&config, gateway)),
            downlink: Downlink::new(CommandRules::new(&config, &gateway.name)),
            gateway: gateway.clone(),
            links: Links::new(&config),
            drop_log: Arc::default(),
            outages: OutageLog::default(),
            hold: Hold::new(stop.drain.clone()),
            watch: Arc::default(),
            stop,
            news,
            successor: OnceLock::new(),
            has_left: AtomicBool::new(false),
            config,
        })
    }

    /// The name in the configuration.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// Whether the link is up.
    pub fn is_online(&self) -> bool {
        self.state.is_online()
    }

    /// The payload of the stats topic.
    pub fn stats_json(&self) -> serde_json::Value {
        self.state.to_json(self.queued())
    }

    /// `online`, `offline`, or `released`: offline until it is taken back.
    pub fn state(&self) -> &'static str {
        match (self.is_online(), self.hold.is_released()) {
            (true, _) => "online",
            (false, true) => "released",
            (false, false) => "offline",
        }
    }

    /// When the link came up, or went; `None` if it has never been up.
    pub fn since(&self) -> Option<SystemTime> {
        self.state.since()
    }

    /// How many are connected to a `tcp_server`; `None` for any other device.
    pub fn peers(&self) -> Option<usize> {
        self.links.peers()
    }

    /// The configuration that it runs with.
    pub fn config(&self) -> &config::Device {
        &self.config
    }

    /// Everything that happens to its frames from now on.
    pub fn watch(&self) -> Watcher {
        self.watch.watch()
    }

    /// Queues `frame` for the link, or for one of the links of a `tcp_server` (by its
    /// [`peer_name`](rules::peer_name)), else for all; the [`Outcomes`] tell what became of it there.
    pub fn send(&self, frame: Bytes, peer: Option<String>) -> Outcomes {
        if let Some(successor) = self.successor() {
            return successor.send(frame, peer);
        }
        let (on_outcome, outcomes) = outcome::channel();
        let target = peer.map_or(Target::All, Target::Peer);
        self.state.stats.commands.increment();
        self.links.push(Command { frame, target, max_age: None }, Some(on_outcome), self);
        self.leave_late();
        self.say_queue_drops();
        outcomes
    }

    /// Closes the device and leaves it alone until [`Device::acquire`], or until `span` is over. Commands that are
    /// queued have a second. Resolves when it is closed; false: it was taken back before. Cancel safe.
    pub async fn release(&self, span: Option<Duration>) -> bool {
        self.hold.release(span);
        self.hold.is_out_of_hand().await
    }

    /// Takes the device back, and opens it again. Returns whether it was released.
    pub fn acquire(&self) -> bool {
        self.hold.acquire()
    }

    /// Between attempts, to open the link or to run the device at all.
    pub fn backoff(&self) -> Backoff {
        Backoff::new(self.config.reconnect.min, self.config.reconnect.max)
    }

    /// How long all must have gone well for the backoff to begin anew.
    pub fn is_stable_after(&self) -> Duration {
        self.config.reconnect.max
    }

    /// Takes over the rules and the bounds of the queue of `config`, whose other keys are as they were. The link stays up;
    /// a frame goes by the old rules or by the new ones. Returns when the new ones are in force.
    pub async fn change_rules(&self, config: &config::Device) {
        self.links.set_limits(config.queue, self.losses());
        self.uplink.change(config, &self.gateway).await;
        // A device that has just panicked takes them over when it is started again.
        let _ = timeout(CHANGE_TIME, self.downlink.change(CommandRules::new(config, &self.gateway.name))).await;
        self.say_queue_drops();
    }

    /// Its task has panicked at `place`: counts that, and puts in order what the task left.
    pub async fn note_panic(&self, place: &str) {
        self.state.stats.panics.increment();
        self.state.set_error(&format!("panicked at {place}; this is a bug in gatepost, please report it"));
        self.links.single().set_online(false, self.losses());
        self.set_offline().await;
    }

    /// Deletes its retained topics: there is no such device any more.
    pub async fn forget(&self) {
        for topic in [&self.topics.status, &self.topics.stats] {
            self.publish_retained(topic, Bytes::new()).await;
        }
    }

    /// Whether `other` has the same topics for status and stats.
    pub fn has_topics_of(&self, other: &Device) -> bool {
        self.topics == other.topics
    }

    /// Whether it has been told to stop.
    pub fn is_stopping(&self) -> bool {
        self.stop.drain.is_cancelled()
    }

    /// For the time before it runs, at first or again after a panic: takes commands as when the link is down. Never ends.
    pub async fn receive_until_started(self: Arc<Device>, inbox: Arc<Inbox>) {
        self.downlink.run(&self, &inbox).await;
    }

    /// Resolves when the gateway stops.
    pub async fn stopping(&self) {
        self.stop.drain.cancelled().await;
    }

    /// Runs until the gateway stops. `inbox` is the same when it is started again after a panic, and that of the device in
    /// whose place it comes.
    pub async fn run(self: Arc<Device>, inbox: Arc<Inbox>) {
        let link = async {
            self.publish_status().await;
            match &self.config.transport {
                Transport::TcpServer(server) => peers::serve(&self, server).await,
                Transport::Serial(_) | Transport::Tcp(_) => self.keep_open().await,
            }
        };
        tokio::select! {
            biased;
            // First, so that commands which came before a stop are queued when the link looks for the last of them.
            () = self.downlink.run(&self, &inbox) => {}
            () = link => {}
            () = self.report_stats() => {}
            () = self.uplink.publish_held_back(&self) => {}
        }
        self.finish(&inbox).await;
    }

    /// Opens the link, runs it until it ends, and again.
    async fn keep_open(&self) {
        let mut backoff = self.backoff();
        while !self.stop.drain.is_cancelled() {
            if self.hold.is_released() {
                self.stay_released().await;
                backoff.reset();
                self.outages.forget();
                continue;
            }
            let drain = self.hold.links();
            let Some(opened) = self.open(&drain).await else { continue };
            let reason = match opened {
                Ok(opened) => {
                    let began = Instant::now();
                    let end = self.run_link(opened, drain).await;
                    if matches!(end, End::Stopped) {
                        continue;
                    }
                    if began.elapsed() >= self.config.reconnect.max {
                        backoff.reset();
                        self.outages.stable();
                    }
                    end.to_string()
                }
                Err(error) => error.to_string(),
            };
            self.wait_for_next_attempt(&reason, &mut backoff).await;
        }
    }

    /// Opens the link; `None` if that is not wanted any more.
    async fn open(&self, drain: &CancellationToken) -> Option<Result<transport::Opened, transport::OpenError>> {
        let opening = transport::open(&self.config.transport);
        tokio::pin!(opening);
        tokio::select! {
            opened = &mut opening => Some(opened),
            () = drain.cancelled() => {
                // A port that is just being opened must be closed before it is handed over.
                if !self.stop.drain.is_cancelled() {
                    let _ = timeout(session::RELEASE_TIME, opening).await;
                }
                None
            }
        }
    }

    /// Nothing is open: says so, and waits until the device is the gateway's again.
    async fn stay_released(&self) {
        tracing::info!(device = self.name(), "device released");
        self.state.set_error("released");
        self.publish_stats().await;
        tokio::select! {
            () = self.hold.regained() => {
                self.state.forget_error();
                tracing::info!(device = self.name(), "device taken back");
            }
            () = self.stopping() => {}
        }
    }

    /// One link of a serial port or TCP client, from just opened to its end.
    async fn run_link(&self, mut opened: transport::Opened, drain: CancellationToken) -> End {
        for warning in &opened.warnings {
            tracing::warn!(device = self.name(), place = opened.place, "{warning}");
        }
        if let Err(end) = session::prepare(&mut opened.stream, self, &drain).await {
            return end;
        }
        let outbox = self.links.single();
        outbox.set_online(true, self.losses());
        self.set_online(&opened.place).await;
        let link = Link { device: self, peer: opened.peer, outbox, idle: self.config.idle_timeout, drain };
        let end = session::run(opened.stream, &link).await;
        outbox.set_online(false, self.losses());
        self.set_offline().await;
        end
    }

    /// Says why there is no link, and waits out the backoff.
    async fn wait_for_next_attempt(&self, reason: &str, backoff: &mut Backoff) {
        let delay = backoff.next_delay(fastrand::f64());
        match self.outages.down(reason) {
            News::Outage => tracing::warn!(device = self.name(), reason, "device offline"),
            News::OtherReason => tracing::info!(device = self.name(), reason, "device still offline"),
            News::Old => tracing::debug!(device = self.name(), reason, retry_in = ?delay, "device still offline"),
        }
        if self.state.set_error(reason) {
            self.publish_stats().await;
        }
        let drain = self.hold.links();
        tokio::select! {
            () = sleep(delay) => {}
            () = drain.cancelled() => {}
        }
    }

    /// The last words of a device that stops: held-back messages go out, queued commands are left to the successor or counted,
    /// `offline`.
    async fn finish(&self, inbox: &Inbox) {
        // First: whoever publishes waits for those who are subscribed, and this device is.
        self.downlink.finish(self, inbox).await;
        self.uplink.flush(self).await;
        self.leave_queue();
        if self.is_online() {
            self.set_offline().await;
        } else {
            self.publish_stats().await;
        }
        self.watch.end();
    }

    /// For who has ended its task by force: counts what that left, as [`Device::run`] does at its end, and ends what watches.
    /// Waits for nothing: a thread that hangs may hold what it needs.
    pub async fn give_up(&self, inbox: &Inbox) {
        let counted = async { tokio::join!(self.downlink.finish(self, inbox), self.uplink.flush(self)) };
        let _ = timeout(Duration::ZERO, counted).await;
        self.leave_queue();
        self.watch.end();
    }

    /// Counts a drop and logs it, each reason at most once a minute.
    fn count_drop(&self, reason: DropReason, count: u64, detail: Option<&str>) {
        if count > 0 {
            self.state.stats.dropped.add(reason, count);
            self.drop_log.say(self.name(), reason, self.state.stats.dropped.get(reason), detail);
        }
    }

    /// Where commands end that are not written.
    fn losses(&self) -> Losses<'_> {
        Losses { drops: &self.state.stats.dropped, watch: &self.watch }
    }

    /// Logs what the queues dropped; they count it themselves.
    fn say_queue_drops(&self) {
        for reason in QUEUE_DROPS {
            self.drop_log.say(self.name(), reason, self.state.stats.dropped.get(reason), None);
        }
    }
}
