//! The MQTT broker: rumqttd's router inside, our own edge outside.
//!
//! A `listener` accepts, a `connection` reads CONNECT, a `session` does the rest and talks to the [`bus`].

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config;
use crate::log_limit::LogLimit;
use auth::{Auth, FileError};
use bus::{Bus, BusError, BusSettings};
use figures::Figures;
use limits::Limits;
use listener::Entrance;
use local::{LocalClient, LocalSettings};
use sessions::Sessions;
use share::Groups;
pub use stats::BrokerStats;
use store::Store;
use stream::Peer;
use sys::Sys;
use tls::Tls;

pub mod acl;
mod admission;
pub mod auth;
pub mod bus;
mod connection;
pub mod figures;
mod filer;
mod filing;
mod flow;
mod inflight;
pub mod lane;
mod levels;
mod limits;
mod listener;
pub mod local;
pub mod message;
mod pace;
pub mod packet;
mod queue;
pub mod reader;
mod relay;
mod restore;
pub mod retained;
mod router;
mod seat;
mod session;
mod sessions;
mod share;
mod socket;
mod stats;
pub mod store;
mod stream;
pub mod subscriptions;
mod sys;
mod tls;
mod waiters;
pub mod websocket;
mod will;

/// The broker. Dropping it stops it without waiting; [`Broker::stop`] waits.
#[derive(Debug)]
pub struct Broker {
    shared: Arc<Shared>,
    addresses: Vec<SocketAddr>,
    entrances: Vec<Arc<Entrance>>,
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
    #[error("cannot listen on {address}: {source}")]
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

impl StartError {
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
    settings: config::Broker,
    auth: Auth,
    started: Instant,
    bus: Bus,
    stats: BrokerStats,
    sys: Sys,
    sessions: Sessions,
    groups: Groups,
    /// Connections over all listeners, and from one address.
    limits: Limits,
    /// Refused connections are logged once a minute for each cause.
    refusals: Mutex<HashMap<&'static str, LogLimit>>,
    store: Store,
    /// The same for handshakes of TLS and WebSocket.
    failed_handshakes: Mutex<HashMap<&'static str, LogLimit>>,
    /// Owns listeners, connections, sessions and their last words, groups.
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Broker {
    /// Starts the bus and binds every listener. Call it once in a process: the router's thread cannot be stopped.
    pub async fn start(settings: &config::Broker) -> Result<Broker, StartError> {
        let files = auth_files(settings);
        let auth = Auth::new(files.clone(), files.load()?);
        let listeners = listener::bind_all(&settings.listeners).await?;
        let (store, restored) = restore::open(settings.database.clone()).await;
        let limits = BusSettings { max_retained: settings.max_retained, direct_readers: DIRECT_READERS };
        let bus = Bus::start_with(limits, store.clone())?;
        let shared = Arc::new(Shared {
            auth,
            started: Instant::now(),
            sys: Sys::new(bus.session_number(), Instant::now()),
            bus,
            store,
            stats: BrokerStats::default(),
            sessions: Sessions::default(),
            groups: Groups::default(),
            limits: Limits::new(settings.max_connections, settings.max_connections_per_address),
            refusals: Mutex::default(),
            failed_handshakes: Mutex::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            settings: settings.clone(),
        });
        // Before anybody is let in.
        restore::all(&shared, restored);
        let tcp = |listener: &listener::Listener| match listener.address {
            Peer::Ip(address) => Some(address),
            Peer::Unix(_) => None,
        };
        let addresses = listeners.iter().filter_map(tcp).collect();
        let entrances = listeners.iter().map(|listener| listener.entrance().clone()).collect();
        if let Some(interval) = settings.sys_interval {
            sys::start(&shared, interval);
        }
        for listener in listeners {
            shared.tasks.spawn(listener::run(shared.clone(), listener));
        }
        Ok(Broker { shared, addresses, entrances })
    }

    /// The bound TCP addresses, with the ports that the kernel chose.
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Reads the certificates and keys of the TLS listeners again, from where `listeners` (those of a configuration that
    /// is read anew) say; who is not among them keeps its own. Connections that are there go on.
    ///
    /// # Errors
    /// Nothing is changed if one of them cannot be used.
    pub fn reload_tls(&self, listeners: &[config::Listener]) -> Result<(), config::TlsError> {
        let mut fresh = Vec::new();
        for entrance in &self.entrances {
            let configured = listeners.iter().find(|listener| listener.address == entrance.address);
            if let (Some(tls), Some(settings)) = (&entrance.tls, configured.and_then(|found| found.tls.as_ref())) {
                fresh.push((tls, Tls::new(settings)?));
            }
        }
        for (old, new) in fresh {
            old.replace(new);
        }
        Ok(())
    }

    /// A new client without a socket.
    pub fn client(&self) -> LocalClient {
        let config::Broker { max_payload_size, retained, .. } = self.shared.settings;
        LocalClient::new(self.shared.bus.clone(), LocalSettings { max_payload_size, retained })
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

    /// Reads `password_file`, `acl_file` and the certificates again, if there are any; what comes of it is logged. A
    /// client whose user is gone, or has another password now, is disconnected; the others have their new rights at once.
    pub async fn reload_files(&self) {
        self.shared.auth.reload().await;
        match self.reload_tls(&self.shared.settings.listeners) {
            Ok(()) if self.entrances.iter().any(|entrance| entrance.tls.is_some()) => {
                tracing::info!("certificates read again");
            }
            Ok(()) => {}
            Err(error) => tracing::error!(%error, "the certificates stay as they are"),
        }
    }

    /// Resolves when the router has died: the process should end with exit code 70.
    pub async fn failed(&self) {
        self.shared.bus.failed().await;
    }

    /// Closes every listener and connection. MQTT 5 clients get DISCONNECT 0x8B; wills are published, for the sessions
    /// end here, but for what is on disk. The disk has a time of its own after that. Returns whether all of it was done
    /// within `deadline`.
    pub async fn stop(self, deadline: Duration) -> bool {
        self.cancel();
        let ended = tokio::time::timeout(deadline, self.shared.tasks.wait()).await.is_ok();
        if !self.shared.store.close(CLOSE_TIME).await {
            tracing::warn!("the disk was not done in time: the last changes may be missing at the next start");
        }
        ended
    }

    fn cancel(&self) {
        self.shared.stop.cancel();
        self.shared.sessions.stop();
        self.shared.tasks.close();
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

fn auth_files(settings: &config::Broker) -> auth::Files {
    auth::Files { passwords: settings.password_file.clone(), acl: settings.acl_file.clone() }
}

/// See [`BusSettings::direct_readers`]: some microseconds of work.
const DIRECT_READERS: usize = 64;
