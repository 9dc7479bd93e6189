//! The MQTT broker: rumqttd's router inside, our own edge outside.
//!
//! A `listener` accepts, a `connection` reads CONNECT, a `session` does the rest and talks to the [`bus`].

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config;
use crate::log_limit::LogLimit;
use crate::net::limits::Limits;
use auth::{Auth, FileError, Rules};
use bus::{Bus, BusError, BusSettings};
use figures::Figures;
use listener::Listener;
pub use listener::is_only_v6;
use local::{LocalClient, LocalLimits};
use sessions::{Sessions, Stage};
use share::Groups;
pub use stats::BrokerStats;
use store::Store;
use sys::Sys;
use wills::Wills;

mod admission;
pub mod auth;
pub mod bus;
mod connection;
pub mod figures;
mod inflight;
mod levels;
mod listener;
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
mod sessions;
mod share;
mod stats;
pub mod store;
pub mod subscriptions;
mod sys;
mod will;
mod wills;

/// The broker. Dropping it stops it without waiting; [`Broker::stop`] waits.
#[derive(Debug)]
pub struct Broker {
    shared: Arc<Shared>,
    addresses: Mutex<Vec<SocketAddr>>,
    /// The listeners, in the order of the configuration. Locked through a reload.
    listeners: Arc<tokio::sync::Mutex<Vec<Listener>>>,
}

/// Why the broker did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener's address is taken.
    #[error(
        "cannot listen on {address}: {source}; hint: another gatepost or mosquitto may be there: \
         `ss -ltnp` (of a unix socket, `ss -lxp`) shows who, `systemctl stop mosquitto` stops mosquitto"
    )]
    InUse {
        /// As configured.
        address: String,
        /// EADDRINUSE.
        source: io::Error,
    },
    /// A listener cannot be bound for another reason.
    #[error("cannot listen on {address}: {source}{}", hint(address, source))]
    Bind {
        /// As configured.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The certificates or keys of a listener cannot be used.
    #[error("cannot speak TLS on {address}: {source}")]
    Tls {
        /// As configured.
        address: String,
        /// Why.
        source: config::TlsError,
    },
    /// `password_file` or `acl_file` cannot be used.
    #[error(transparent)]
    Access(#[from] FileError),
    /// The router did not start.
    #[error("cannot start the message router: {0}")]
    Bus(#[from] BusError),
}

/// Everything that is wrong with `password_file` and `acl_file`.
#[derive(Debug)]
pub struct AccessErrors(pub Vec<FileError>);

impl std::fmt::Display for AccessErrors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let lines: Vec<String> = self.0.iter().map(|error| format!("error: {error}")).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for AccessErrors {}

fn hint(address: &str, error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied if !address.starts_with("unix:") => {
            "; hint: a port below 1024 takes AmbientCapabilities=CAP_NET_BIND_SERVICE and \
             CapabilityBoundingSet=CAP_NET_BIND_SERVICE in the unit (`systemctl edit gatepost`)"
        }
        io::ErrorKind::AddrNotAvailable => "; hint: `ip address` shows which this machine has; 0.0.0.0 is all of them",
        // What the resolver says has no number; all that sockets say has one.
        _ if error.raw_os_error().is_none() && !address.starts_with("unix:") => {
            "; hint: `getent hosts NAME` shows what this machine knows of a name: correct it or add it to /etc/hosts, or \
             listen on an address, such as 0.0.0.0 for all that this machine has"
        }
        _ => "",
    }
}

impl StartError {
    /// Whether the configuration is to blame, and not the machine.
    pub fn is_config(&self) -> bool {
        matches!(self, StartError::Tls { .. } | StartError::Access(_))
    }

    fn bind(address: &str, source: io::Error) -> StartError {
        let address = address.to_owned();
        match source.kind() {
            io::ErrorKind::AddrInUse => StartError::InUse { address, source },
            _ => StartError::Bind { address, source },
        }
    }
}

/// What every part of the broker has in hand.
#[derive(Debug)]
struct Shared {
    /// For new connections; what was agreed with a client stays.
    settings: RwLock<Arc<config::Broker>>,
    auth: Auth,
    started: Instant,
    bus: Bus,
    store: Store,
    wills: Arc<Wills>,
    stats: BrokerStats,
    sys: Sys,
    sessions: Sessions,
    groups: Groups,
    /// Of the clients without a socket.
    local: Arc<LocalLimits>,
    /// Connections over all listeners, and from one address.
    limits: Limits,
    /// Refused connections are logged once a minute for each cause.
    refusals: Mutex<HashMap<&'static str, LogLimit>>,
    /// The same for handshakes of TLS and WebSocket.
    failed_handshakes: Mutex<HashMap<&'static str, LogLimit>>,
    /// Owns listeners, connections, sessions and their last words, groups.
    tasks: TaskTracker,
    /// A token for each session that may still publish.
    speakers: TaskTracker,
    /// A stop has begun: nobody is let in.
    stop: CancellationToken,
    /// A stop is about to end: what was published has been taken.
    drained: CancellationToken,
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
        let shared = Arc::new(Shared {
            auth,
            started: Instant::now(),
            sys: Sys::new(bus.session_number(), Instant::now()),
            bus,
            wills: Arc::new(Wills::new(store.clone())),
            store,
            stats: BrokerStats::default(),
            sessions: Sessions::default(),
            groups: Groups::default(),
            limits: Limits::new(settings.max_connections, settings.max_connections_per_address),
            refusals: Mutex::default(),
            failed_handshakes: Mutex::default(),
            tasks: TaskTracker::new(),
            speakers: TaskTracker::new(),
            stop: CancellationToken::new(),
            drained: CancellationToken::new(),
            local: Arc::new(LocalLimits::new(settings.max_payload_size, settings.retained)),
            settings: RwLock::new(Arc::new(settings.clone())),
        });
        // Before anybody is let in.
        restore::all(&shared, restored);
        if let Some(interval) = settings.sys_interval {
            sys::start(&shared, interval);
        }
        listeners.iter_mut().for_each(|listener| listener.open(&shared));
        let addresses = Mutex::new(reload::tcp_addresses(&listeners));
        Ok(Broker { shared, addresses, listeners: Arc::new(tokio::sync::Mutex::new(listeners)) })
    }

    /// The bound TCP addresses, with the ports that the kernel chose.
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.addresses.lock().clone()
    }

    /// A new client without a socket.
    pub fn client(&self) -> LocalClient {
        LocalClient::new(self.shared.bus.clone(), self.shared.local.clone())
    }

    /// The counters of the network side.
    pub fn stats(&self) -> &BrokerStats {
        &self.shared.stats
    }

    /// What the counters of all parts say now.
    pub fn figures(&self) -> Figures {
        Figures::take(&self.shared, Instant::now())
    }

    /// The bus, for its counters.
    pub fn bus(&self) -> &Bus {
        &self.shared.bus
    }

    /// What is on disk: its health and its counters.
    pub fn store(&self) -> &Store {
        &self.shared.store
    }

    /// Resolves when the router has died: the process should end with exit code 70.
    pub async fn failed(&self) {
        self.shared.bus.failed().await;
    }

    /// Begins a stop: listeners close, nothing more is taken from clients, and their wills are published. The clients stay
    /// to get what is published until [`Broker::stop`]. Takes up to `deadline`; returns whether all of it was done then.
    pub async fn fall_silent(&self, deadline: Duration) -> bool {
        let shared = &self.shared;
        shared.stop.cancel();
        shared.sessions.enter(Stage::Silent);
        shared.speakers.close();
        timeout(deadline, shared.speakers.wait()).await.is_ok()
    }

    /// Stops: [falls silent](Broker::fall_silent) unless it has; kept sessions take what was published, then every
    /// connection is closed, with DISCONNECT 0x8B in MQTT 5. The disk has a time of its own after that. Returns whether all
    /// of it was done within `deadline`.
    ///
    /// Nothing is acknowledged to a publisher that was not taken by every kept session that is to get it.
    pub async fn stop(&self, deadline: Duration) -> bool {
        let shared = &self.shared;
        let until = Instant::now() + deadline;
        if !self.fall_silent(deadline / 4).await {
            let sessions = shared.speakers.len();
            tracing::warn!(sessions, "the wills of some clients were not published in time");
        }
        shared.sessions.enter(Stage::Draining);
        shared.groups.look();
        if timeout(deadline / 4, shared.bus.all_persisted()).await.is_err() {
            let messages = shared.bus.unpersisted();
            tracing::warn!(
                messages,
                "some kept sessions, or groups of them, did not take in time what was published: clients got no \
                 acknowledgement for it"
            );
        }
        self.cancel();
        let ended = tokio::time::timeout_at(until.into(), shared.tasks.wait()).await.is_ok();
        if !ended {
            let (clients, tasks) = (self.shared.stats.connected.get(), self.shared.tasks.len());
            tracing::warn!(
                clients,
                tasks,
                "some of the broker's listeners, connections and sessions did not end in time"
            );
        }
        shared.sessions.enter(Stage::Closed);
        if !self.shared.store.close(CLOSE_TIME).await {
            tracing::warn!("the disk was not done in time: the last changes may be missing at the next start");
        }
        ended
    }

    fn cancel(&self) {
        self.shared.stop.cancel();
        self.shared.bus.close();
        self.shared.drained.cancel();
        self.shared.sessions.enter(Stage::Draining);
        self.shared.sessions.stop();
        self.shared.tasks.close();
    }
}

impl Shared {
    /// The settings in force.
    fn settings(&self) -> Arc<config::Broker> {
        self.settings.read().clone()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.cancel();
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

#[cfg(test)]
mod tests {
    use std::net::ToSocketAddrs;

    use super::*;

    #[test]
    fn a_name_that_nobody_knows_has_a_hint() {
        // A label has 63 letters at most (RFC 1035, section 2.3.4): no name server is asked.
        let address = format!("{}:1883", "a".repeat(64));
        let error = StartError::bind(&address, address.to_socket_addrs().unwrap_err()).to_string();
        assert!(error.contains("; hint: `getent hosts NAME`"), "{error}");
    }
}
