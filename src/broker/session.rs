//! One client's session, for as long as it lives, over any number of connections.
//!
//! One task owns it all: subscriptions, the end of the bus it reads, what waits and what is on the way, and, while the
//! client is connected, the socket. Between connections it goes on reading the bus, so that publishers never wait for
//! a client that is not there.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::task::consume_budget;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::admission::Terms;
use super::auth::acl::Rights;
use super::auth::{Auth, Login, Presence};
use super::bus::{Bus, BusError, Reader, Received};
use super::listener_terms::ListenerTerms;
use super::pace::Pace;
use super::packet::{Connect, PacketError, Reason, WillRequest};
use super::queue::{Queue, QueueLimits};
use super::settings::Settings;
use super::share::{Groups, Memberships, Outgoing};
use super::shutdown::{Shutdown, Stage};
use super::stats::{BrokerStats, Counted};
use super::store::Store;
use super::subscriptions::Subscriptions;
use super::will::{KeptWill, Wills};
use crate::config;
use crate::log_limit::LogLimit;
use crate::net::limits::Permits;
use crate::net::stream::{Peer, Stream};
use crate::qos::Qos;
use crate::stats::DropReason;
use calls::Calls;
use counters::SessionCounters;
use inflight::Inflight;
use journal::Journal;
use replies::Replies;
use timer::Timer;

mod access;
mod answers;
mod calls;
mod connected;
mod counters;
mod crowd;
mod incoming;
mod inflight;
mod journal;
mod liveness;
mod outgoing;
mod registry;
mod replies;
mod restore;
mod stop;
mod timer;
mod will;
mod wire;

pub use registry::Sessions;
pub use restore::has_expired;
pub use wire::close;

/// How long a client may take, when the gateway stops, to read what was published before.
const SHUTDOWN_FLUSH: Duration = Duration::from_millis(500);

/// What sessions have in hand.
#[derive(Debug)]
pub struct Context {
    /// For new connections.
    pub settings: Arc<Settings>,
    /// Who may do what.
    pub auth: Arc<Auth>,
    /// Where messages come from and go to.
    pub bus: Bus,
    /// What survives a restart.
    pub store: Store,
    /// The wills in it.
    pub wills: Arc<Wills>,
    /// The groups of shared subscriptions.
    pub groups: Arc<Groups>,
    /// The broker's counters.
    pub stats: Arc<BrokerStats>,
    /// How far a stop has come.
    pub shutdown: Arc<Shutdown>,
}

/// A connection whose CONNECT was accepted, on its way to its session.
#[derive(Debug)]
pub struct Attach {
    /// The socket.
    pub stream: Stream,
    /// The other end.
    pub peer: Peer,
    /// What came after CONNECT.
    pub input: BytesMut,
    /// CONNECT.
    pub connect: Connect,
    /// What was agreed.
    pub terms: Terms,
    /// Who the client is.
    pub login: Login,
    /// That it is here, if its password was checked.
    pub presence: Option<Presence>,
    /// What it came in by.
    pub entrance: Arc<ListenerTerms>,
    /// What was in force when it was let in.
    pub settings: Arc<config::Broker>,
    /// What it counts against.
    pub permits: Permits,
}

/// What a session is told from outside.
#[derive(Debug)]
pub enum Call {
    /// Its client has connected.
    Attach(Box<Attach>),
    /// What is in force has changed: rules, settings, listeners.
    Recheck,
}

/// One session.
#[derive(Debug)]
pub struct Session {
    context: Arc<Context>,
    client_id: Arc<str>,
    number: u64,
    /// Who connected last.
    login: Login,
    /// What it came in by, and what was in force then.
    entrance: Option<Arc<ListenerTerms>>,
    settings: Arc<config::Broker>,
    /// What this client may do; `None`: everything.
    rights: Option<Arc<Rights>>,
    subscriptions: Subscriptions,
    shares: Memberships,
    reader: Reader,
    /// From the bus, not matched yet; one batch at most.
    inbox: VecDeque<Received>,
    /// Retained messages for new subscriptions; bounded by `max_retained` and one snapshot.
    backlog: VecDeque<Outgoing>,
    queue: Queue<Outgoing>,
    inflight: Inflight<Outgoing>,
    /// QoS 2 messages of the client that are published and not released [MQTT-4.3.3-10].
    received: HashSet<u16>,
    pace: Pace,
    delivered: u64,
    /// Answers to the client that wait for the disk.
    replies: Replies,
    /// Whether a message to the client waits for it.
    is_writing: bool,
    /// While the session outlives its connection, and there is a disk.
    journal: Option<Journal>,
    /// The will's place on disk, until it is published or not going to be.
    kept_will: Option<KeptWill>,
    drop_log: LogLimit,
    counters: SessionCounters,
    /// Until the broker stops; then it publishes nothing more.
    speaks: Option<TaskTrackerToken>,
    _counted: Counted,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the client disconnected")]
    Disconnect(Reason),
    #[error("the client closed the connection without DISCONNECT")]
    Closed,
    #[error("the connection failed: {0}")]
    Failed(#[from] io::Error),
    #[error(transparent)]
    Packet(#[from] PacketError),
    #[error("the client connected anew")]
    TakenOver(Box<Attach>),
    #[error("the gateway stops")]
    Stopped,
    /// So that it is sent again.
    #[error("a message of the client was lost by a bug in gatepost, see the log above")]
    Lost,
    #[error(transparent)]
    Bus(#[from] BusError),
}

impl End {
    /// What an MQTT 5 client is told.
    fn reason(&self) -> Option<Reason> {
        match self {
            End::Disconnect(_) | End::Closed | End::Failed(_) => None,
            End::Packet(error) => Some(error.reason),
            End::TakenOver(_) => Some(Reason::SESSION_TAKEN_OVER),
            End::Stopped => Some(Reason::SERVER_SHUTTING_DOWN),
            End::Lost | End::Bus(_) => Some(Reason::UNSPECIFIED),
        }
    }

    /// Beside the reason.
    fn words(&self) -> &'static str {
        match self {
            End::Packet(error) => error.words(),
            End::TakenOver(_) => "another connection came with the same client identifier",
            End::Lost => "a message was lost, send it again",
            _ => "the gateway stops",
        }
    }
}

/// What is left of a connection: who comes next, and until when to wait.
struct AfterDisconnect {
    next: Option<Box<Attach>>,
    will: Option<(WillRequest, Instant)>,
    /// `None`: never.
    expires: Option<Instant>,
    stopped: bool,
}

/// How a session begins.
#[derive(Debug)]
pub enum Start {
    /// With its first connection.
    Connected(Box<Attach>),
    /// From disk, without a connection, and when it ends if none comes; `None`: never.
    Restored(Option<Instant>),
}

/// Runs `session` to its end. A closed channel means that the broker has stopped.
async fn run(mut session: Box<Session>, start: Start, mut calls: Calls<Call>, sessions: Arc<Sessions>) {
    let mut after = AfterDisconnect { next: None, will: None, expires: Some(Instant::now()), stopped: false };
    let mut present = false;
    match start {
        Start::Connected(first) => after.next = Some(first),
        Start::Restored(expires) => {
            (after.expires, present) = (expires, true);
            session.wait(&mut after, &mut calls).await;
        }
    }
    loop {
        if after.next.is_none() && !after.stopped {
            present = false;
            // Before its client can begin a new one: so the old one does not come back after a crash.
            session.clear().await;
            after.next = sessions.leave(&session, &mut calls);
        }
        let Some(connection) = after.next.take() else { break };
        if session.context.shutdown.stage() > Stage::Running {
            session.turn_away(*connection);
        } else {
            let resumes = present && !connection.connect.clean_start;
            let will = after.will.take().filter(|_| !resumes);
            session.publish_will(will.map(|(will, _)| will)).await;
            if !resumes {
                session.clear().await;
            }
            after = session.serve(connection, resumes, &mut calls).await;
            // A session that ends with its connection is not there for the one that takes over [MQTT-3.1.2-6].
            present = after.expires.is_none_or(|expires| expires > Instant::now());
        }
        if !after.stopped && after.next.is_none() {
            session.wait(&mut after, &mut calls).await;
        }
    }
    if after.stopped && session.journal.is_some() {
        session.put_away();
    } else {
        session.give_up();
    }
}

impl Session {
    /// A session that knows nothing yet.
    pub fn new(context: Arc<Context>, client_id: Arc<str>) -> Session {
        let settings = context.settings.get();
        let limits = QueueLimits::of(&settings);
        Session {
            client_id,
            number: context.bus.session_number(),
            login: Login::default(),
            entrance: None,
            settings,
            rights: None,
            subscriptions: Subscriptions::new(),
            shares: Memberships::new(context.groups.clone(), limits),
            reader: context.bus.reader(),
            inbox: VecDeque::new(),
            backlog: VecDeque::new(),
            queue: Queue::new(limits),
            inflight: Inflight::default(),
            received: HashSet::new(),
            pace: Pace::default(),
            delivered: 0,
            replies: Replies::default(),
            is_writing: false,
            journal: None,
            kept_will: None,
            drop_log: LogLimit::default(),
            counters: SessionCounters::new(&context.stats),
            speaks: Some(context.shutdown.publishers.token()),
            _counted: context.stats.sessions.count(),
            context,
        }
    }

    /// The client's id.
    pub fn client_id(&self) -> &str {
        &self.client_id
    }

    /// The number that marks its messages.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Forgets all state, for a client that starts anew.
    async fn clear(&mut self) {
        self.give_up();
        let erased = self.erase();
        self.subscriptions = Subscriptions::new();
        self.reader.clear();
        self.inbox.clear();
        self.backlog.clear();
        self.queue.retain(|_| false);
        self.received.clear();
        // The client is going to be told that there is nothing left. Nobody waits for this session: it reads nothing.
        self.context.store.done(erased).await;
    }

    /// Leaves the groups of shared subscriptions, whose other members get what they can have, and counts what goes with
    /// the session. A QoS 2 message that was sent is not for anybody else [MQTT-4.8.2-5].
    fn give_up(&mut self) {
        let inflight = std::mem::take(&mut self.inflight);
        let on_the_way = inflight.len();
        let others_may_have = |outgoing: &Outgoing| outgoing.group.is_some() && outgoing.qos == Qos::AtLeastOnce;
        let handed_on: Vec<Outgoing> = inflight.into_messages().filter(others_may_have).collect();
        let left = self.queue.len() + self.backlog.len() + on_the_way - handed_on.len();
        self.context.stats.dropped.add(DropReason::Stopped, left as u64);
        self.shares.leave_all(handed_on);
        self.let_go();
    }

    /// Is without a connection from now on: QoS 1 and 2 are kept.
    fn go_offline(&mut self) {
        let skipped = self.queue.retain(|outgoing| outgoing.qos > Qos::AtMostOnce);
        self.backlog.retain(|outgoing| outgoing.qos > Qos::AtMostOnce);
        self.dropped(DropReason::Offline, skipped, Instant::now());
        if let Some(journal) = &self.journal {
            self.backlog.iter_mut().for_each(|outgoing| journal.enqueue(outgoing, None));
        }
    }

    /// Keeps the session without a connection until a new one comes, it expires or the gateway stops.
    async fn wait(&mut self, after: &mut AfterDisconnect, calls: &mut Calls<Call>) {
        let (mut timer, ended) = (Timer::default(), Instant::now());
        self.entrance = None;
        self.shares.set_connected(false);
        self.go_offline();
        loop {
            consume_budget().await;
            let now = Instant::now();
            let written = self.context.store.committed();
            self.settle(None);
            self.pump_offline(now);
            self.account(&[]);
            if self.context.shutdown.stage() > Stage::Running {
                self.fall_silent(after.will.take().map(|(will, _)| will));
            }
            let due = after.will.take_if(|(_, due)| *due <= now);
            self.publish_will(due.map(|(will, _)| will)).await;
            if let Some(expires) = after.expires.filter(|expires| *expires <= now) {
                if expires > ended {
                    self.context.stats.expired_sessions.increment();
                }
                return;
            }
            let deadline = after.expires.into_iter().chain(after.will.as_ref().map(|(_, due)| *due)).min();
            let pending = self.pending_acks(written);
            let store = &self.context.store;
            tokio::select! {
                call = calls.next() => match call {
                    // A kept session stays, whoever it belongs to.
                    Some(Call::Recheck) => drop(self.recheck()),
                    Some(Call::Attach(next)) => {
                        after.next = Some(next);
                        return;
                    }
                    None => {
                        after.stopped = true;
                        return;
                    }
                },
                received = self.reader.recv(&mut self.inbox) => if received.is_err() {
                    after.stopped = true;
                    return;
                },
                () = pending.progress(store), if pending.are_any() => {}
                number = resync(store, self.journal.as_ref()), if self.journal.is_some() => self.save_anew(number),
                () = timer.wait(deadline) => {}
            }
        }
    }
}

/// See [`Store::resync`]; for ever without a journal.
async fn resync(store: &Store, journal: Option<&Journal>) -> u64 {
    match journal {
        Some(journal) => store.resync(journal.synced).await,
        None => std::future::pending().await,
    }
}
