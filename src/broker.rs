//! The MQTT broker. rumqttd's router, inside the [`bus`], carries messages for many readers; all else is our own.
//!
//! A `listener` accepts, a `connection` reads CONNECT, a `session` does the rest and talks to the [`bus`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::config;
use crate::net::limits::Limits;
use auth::{Auth, FileError, Rules};
use bus::{Bus, BusError, BusSettings};
pub use error::{AccessErrors, StartError};
use figures::{Figures, Sources};
use listener::Listener;
pub use listener::is_only_v6;
use local::{LocalClient, LocalLimits};
use session::Sessions;
use settings::Settings;
use share::Groups;
use shutdown::{Shutdown, Stage};
pub use stats::BrokerStats;
use store::{Restored, Store};
use will::Wills;

mod admission;
pub mod auth;
pub mod bus;
mod connection;
mod error;
pub mod figures;
mod levels;
mod listener;
mod listener_terms;
pub mod local;
pub mod message;
mod pace;
pub mod packet;
mod queue;
pub mod reload;
mod restore;
pub mod retained;
mod session;
mod session_expiry;
mod settings;
mod share;
mod shutdown;
mod stats;
pub mod store;
pub mod subscriptions;
mod sys;
mod will;

/// The broker. Dropping it stops it without waiting; [`Broker::stop`] waits.
#[derive(Debug)]
pub struct Broker {
    bus: Bus,
    /// What its figures are taken from, the store among them.
    sources: Sources,
    /// Of the clients without a socket.
    local: Arc<LocalLimits>,
    groups: Arc<Groups>,
    connections: Arc<connection::Context>,
    shutdown: Arc<Shutdown>,
    addresses: Mutex<Vec<SocketAddr>>,
    /// The listeners, in the order of the configuration. Locked through a reload.
    listeners: Arc<tokio::sync::Mutex<Vec<Listener>>>,
}

/// What a broker is made of.
struct Parts {
    settings: Arc<config::Broker>,
    auth: Auth,
    bus: Bus,
    store: Store,
}

impl Broker {
    /// Starts the bus and binds every listener. Call it once in a process: the router's thread cannot be stopped.
    pub async fn start(settings: &config::Broker) -> Result<Broker, StartError> {
        let auth = Auth::new(rules(settings).await?);
        let all: Vec<usize> = (0..settings.listeners.len()).collect();
        let mut listeners = reload::bind(&settings.listeners, &all).await?;
        let (store, restored) = restore::open(settings.database.clone()).await;
        let limits = BusSettings { max_retained: settings.max_retained, direct_readers: DIRECT_READERS };
        let bus = Bus::start_with(limits, store.clone())?;
        let parts = Parts { settings: Arc::new(settings.clone()), auth, bus, store };
        let broker = Broker::assemble(parts, restored);
        if let Some(interval) = settings.sys_interval {
            sys::start(broker.sources.clone(), interval, broker.shutdown.clone());
        }
        listeners.iter_mut().for_each(|listener| listener.open(&broker.connections));
        *broker.addresses.lock() = reload::tcp_addresses(&listeners);
        *broker.listeners.lock().await = listeners;
        Ok(broker)
    }

    /// A broker without listeners, with the sessions that were on disk.
    fn assemble(Parts { settings, auth, bus, store }: Parts, restored: Restored) -> Broker {
        let (stats, shutdown, auth) = (Arc::new(BrokerStats::default()), Arc::new(Shutdown::new()), Arc::new(auth));
        let groups = Arc::new(Groups::new(bus.clone(), store.clone(), stats.clone(), shutdown.clone()));
        let in_force = Arc::new(Settings::new(settings.clone()));
        let context = Arc::new(session::Context {
            settings: in_force.clone(),
            auth: auth.clone(),
            bus: bus.clone(),
            store: store.clone(),
            wills: Arc::new(Wills::new(auth.clone(), bus.clone(), store.clone(), stats.clone(), shutdown.clone())),
            groups: groups.clone(),
            stats: stats.clone(),
            shutdown: shutdown.clone(),
        });
        let sessions = Arc::new(Sessions::new(context.clone()));
        shutdown.tasks.spawn(give_back_memory(sessions.clone(), shutdown.clone()));
        // Before anybody is let in.
        restore::all(&context, &sessions, restored);
        let connections = Arc::new(connection::Context {
            settings: in_force,
            auth,
            sessions,
            stats: stats.clone(),
            limits: Limits::new(settings.max_connections, settings.max_connections_per_address),
            refusals: Mutex::default(),
            failed_handshakes: Mutex::default(),
            shutdown: shutdown.clone(),
        });
        Broker {
            sources: Sources { started: Instant::now(), bus: bus.clone(), store, stats },
            bus,
            local: Arc::new(LocalLimits::new(settings.max_payload_size, settings.retained)),
            groups,
            connections,
            shutdown,
            addresses: Mutex::default(),
            listeners: Arc::default(),
        }
    }

    /// The bound TCP addresses, with the ports that the kernel chose.
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.addresses.lock().clone()
    }

    /// A new client without a socket.
    pub fn client(&self) -> LocalClient {
        LocalClient::new(self.bus.clone(), self.local.clone())
    }

    /// The counters of the network side.
    pub fn stats(&self) -> &BrokerStats {
        &self.sources.stats
    }

    /// What the counters of all parts say now.
    pub fn figures(&self) -> Figures {
        Figures::take(&self.sources, Instant::now())
    }

    /// The bus, for its counters.
    pub fn bus(&self) -> &Bus {
        &self.bus
    }

    /// What is on disk: its health and its counters.
    pub fn store(&self) -> &Store {
        &self.sources.store
    }

    /// Resolves when the router has died: the process should end with exit code 70.
    pub async fn failed(&self) {
        self.bus.failed().await;
    }

    /// Begins a stop: listeners close, nothing more is taken from clients, and their wills are published. The clients stay
    /// to get what is published until [`Broker::stop`]. Takes up to `deadline`; returns whether all of it was done then.
    pub async fn fall_silent(&self, deadline: Duration) -> bool {
        self.shutdown.stop.cancel();
        self.connections.sessions.enter(Stage::Silent);
        self.shutdown.publishers.close();
        timeout(deadline, self.shutdown.publishers.wait()).await.is_ok()
    }

    /// Stops: [falls silent](Broker::fall_silent) unless it has; kept sessions take what was published, then every
    /// connection is closed, with DISCONNECT 0x8B in MQTT 5. The disk has a time of its own after that. Returns whether all
    /// of it was done within `deadline`.
    ///
    /// Nothing is acknowledged to a publisher that was not taken by every kept session that is to get it.
    pub async fn stop(&self, deadline: Duration) -> bool {
        let until = Instant::now() + deadline;
        if !self.fall_silent(deadline / 4).await {
            let sessions = self.shutdown.publishers.len();
            tracing::warn!(sessions, "the wills of some clients were not published in time");
        }
        self.connections.sessions.enter(Stage::Draining);
        self.groups.recheck();
        if timeout(deadline / 4, self.bus.all_persisted()).await.is_err() {
            let messages = self.bus.unpersisted();
            tracing::warn!(
                messages,
                "some kept sessions, or groups of them, did not take in time what was published: clients got no \
                 acknowledgement for it"
            );
        }
        self.cancel();
        let ended = tokio::time::timeout_at(until.into(), self.shutdown.tasks.wait()).await.is_ok();
        if !ended {
            let (clients, tasks) = (self.sources.stats.connected.get(), self.shutdown.tasks.len());
            tracing::warn!(
                clients,
                tasks,
                "some of the broker's listeners, connections and sessions did not end in time"
            );
        }
        self.connections.sessions.enter(Stage::Closed);
        if !self.sources.store.close(CLOSE_TIME).await {
            tracing::warn!("the disk was not done in time: the last changes may be missing at the next start");
        }
        ended
    }

    fn cancel(&self) {
        self.shutdown.stop.cancel();
        self.bus.close();
        self.shutdown.drained.cancel();
        self.connections.sessions.enter(Stage::Draining);
        self.connections.sessions.stop();
        self.shutdown.tasks.close();
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.cancel();
    }
}

async fn give_back_memory(sessions: Arc<Sessions>, shutdown: Arc<Shutdown>) {
    tokio::select! {
        () = sessions.crowd().give_back_memory() => {}
        () = shutdown.stop.cancelled() => {}
    }
}

/// How long the store may take to write the rest and to put its file in order.
const CLOSE_TIME: Duration = Duration::from_millis(700);

/// What is wrong with `password_file` and `acl_file`, as [`Broker::start`] would find. Blocks.
pub fn access_errors(settings: &config::Broker) -> impl Iterator<Item = FileError> + use<> {
    auth_files(settings).errors()
}

/// Reads `password_file` and `acl_file`; not on the runtime's thread, as a disk may take its time.
async fn rules(settings: &config::Broker) -> Result<Rules, StartError> {
    let files = auth_files(settings);
    let read = spawn_blocking(move || files.load()).await;
    Ok(read.map_err(|_| StartError::Bus(BusError::Stopped))??)
}

fn auth_files(settings: &config::Broker) -> auth::Files {
    auth::Files { passwords: settings.password_file.clone(), acl: settings.acl_file.clone() }
}

/// See [`BusSettings::direct_readers`]: some microseconds of work.
const DIRECT_READERS: usize = 64;
