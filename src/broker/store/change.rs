//! What the broker tells the store, and what it gets back at the next start.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::broker::message::Message;
pub use crate::broker::message::Urgency;
use crate::broker::packet::SubscriptionIds;
use crate::broker::packet::WillRequest;
use crate::broker::session_expiry::SessionExpiry;
use crate::broker::subscriptions::SubscriptionOptions;
use crate::qos::Qos;

/// A session on disk. Grows for ever, also over restarts: never used twice while rows of the first are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub(super) u64);

/// A queued message on disk. A later one is higher, also over restarts: the order of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowId(pub(super) NonZeroU64);

/// A will on disk. A later one is higher, also over restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WillId(pub(super) u64);

/// The message of a QoS 2 publisher that queued rows wait for; see [`Change::Enqueue`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Qos2Gate {
    /// Its number on the bus.
    pub position: u64,
}

/// One change of what is to be there after a restart.
///
/// Changes take effect in the order they were submitted, and all of one transaction or none are on disk after a crash.
#[derive(Clone, Debug)]
pub enum Change {
    /// `message` is the retained one of its topic. (Not for an empty payload: [`Change::Forget`].)
    Retain(Message, Urgency),
    /// `topic` has no retained message.
    Forget {
        /// The topic.
        topic: Arc<str>,
        /// Whether anybody waits.
        urgency: Urgency,
    },
    /// There is such a session, or its record is another now. Comes before anything else of the session.
    OpenSession {
        /// Which; new ones from [`Store::new_session`](super::Store::new_session).
        session: SessionId,
        /// Its client id.
        client_id: Arc<str>,
        /// What is known of it.
        record: SessionRecord,
    },
    /// The session and all that belongs to it is gone.
    EndSession {
        /// Which.
        session: SessionId,
    },
    /// A subscription was made or replaced.
    Subscribe {
        /// Whose.
        session: SessionId,
        /// The subscription.
        subscription: StoredSubscription,
    },
    /// A subscription was removed.
    Unsubscribe {
        /// Whose.
        session: SessionId,
        /// As in [`StoredSubscription::filter`].
        filter: Arc<str>,
    },
    /// A message waits for the session.
    ///
    /// Behind a `gate` it is kept aside, not on disk, until a [`Change::PublishReceived`] opens that gate: then both go into
    /// the same transaction. The ticket is done at once then; [`Store::is_gated`](super::Store::is_gated) tells the rest.
    Enqueue {
        /// Whose queue.
        session: SessionId,
        /// From [`Store::next_row`](super::Store::next_row).
        row: RowId,
        /// The message and how it is to be sent.
        outgoing: StoredMessage,
        /// Behind which it waits.
        gate: Option<Qos2Gate>,
    },
    /// A message that waits for one session waits for another instead, both or neither after a crash. If it is behind a
    /// gate, it stays there, and the ticket is done at once.
    Move {
        /// Whose queue it was in, and where.
        from: (SessionId, RowId),
        /// Whose queue it is in now.
        session: SessionId,
        /// From [`Store::next_row`](super::Store::next_row).
        row: RowId,
        /// The message and how it is to be sent.
        outgoing: StoredMessage,
    },
    /// A queued message is sent, or about to be, by this packet identifier.
    Assign {
        /// Whose.
        session: SessionId,
        /// Which.
        row: RowId,
        /// Its packet identifier.
        packet_id: u16,
        /// QoS 2 waits for it, QoS 1 need not: then `Lazy`, which spares a transaction if PUBACK comes within a second.
        urgency: Urgency,
    },
    /// QoS 2: PUBREC came. The message can go, identifier and phase stay.
    PubrecReceived {
        /// Whose.
        session: SessionId,
        /// Which.
        row: RowId,
        /// As in its [`Change::Assign`].
        packet_id: u16,
    },
    /// A message is done with: acknowledged, dropped, expired. Lazy, for nobody waits:
    /// a crash in that second sends the message again, with DUP and the same identifier.
    Dequeue {
        /// Whose.
        session: SessionId,
        /// Which.
        row: RowId,
    },
    /// A QoS 2 message of this client was taken: its identifier must not be published again [MQTT-4.3.3-10].
    PublishReceived {
        /// Whose.
        session: SessionId,
        /// The client's packet identifier.
        packet_id: u16,
        /// The rows behind it are written too; no row may be queued behind this gate from now on.
        opens: Option<Qos2Gate>,
    },
    /// PUBREL came: the identifier may be used again.
    PubrelReceived {
        /// Whose.
        session: SessionId,
        /// The client's packet identifier.
        packet_id: u16,
    },
    /// There is such a will, or what is known of it is another now. Lazy: a crash within a second of CONNECT may find it
    /// missing.
    KeepWill {
        /// Which; new ones from [`Store::new_will`](super::Store::new_will).
        will: WillId,
        /// The will.
        record: Arc<StoredWill>,
    },
    /// The will is not to be published any more, or was. Lazy: a crash within a second publishes it again.
    DropWill {
        /// Which.
        will: WillId,
    },
    /// What waits behind this gate waits no longer, though there is no identifier to go with it: the publisher's session
    /// has ended before its [`Change::PublishReceived`].
    OpenGate {
        /// Which.
        gate: Qos2Gate,
    },
}

/// What is known of a session besides what has a change of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRecord {
    /// How long it outlives its connection. Whole seconds on disk.
    pub expiry: SessionExpiry,
    /// Who it belongs to.
    pub username: Option<Arc<str>>,
    /// When its connection ended; `None`: it is connected. Milliseconds on disk.
    pub ended_at: Option<SystemTime>,
}

/// A subscription of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredSubscription {
    /// As the client wrote it, `$share/…` and all.
    pub filter: Arc<str>,
    /// Its options.
    pub options: SubscriptionOptions,
    /// Its subscription identifier.
    pub id: Option<u32>,
}

/// A message on its way to a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredMessage {
    /// The message. From disk: origin, position and retained version are 0, and what is left of its expiry interval is
    /// what the wall clock says, but not more than there was when it was written.
    pub message: Message,
    /// The QoS it is sent with.
    pub qos: Qos,
    /// The RETAIN flag it is sent with.
    pub retain: bool,
    /// Subscription identifiers.
    pub ids: SubscriptionIds,
    /// The shared subscription it came by, as the client wrote it.
    pub share: Option<Arc<str>>,
}

/// The will of a client that is connected, or that was and may still come back in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredWill {
    /// Whose.
    pub client_id: Arc<str>,
    /// By what rights it is published.
    pub username: Option<Arc<str>>,
    /// As the client wrote it.
    pub request: WillRequest,
    /// How long the session outlives the connection; it is due then at the latest. Whole seconds on disk.
    pub expiry: SessionExpiry,
    /// How long the client may be silent, one and a half times its keep-alive. Milliseconds on disk.
    pub silence: Option<Duration>,
    /// When the connection ended; `None`: it is there. Milliseconds on disk.
    pub ended_at: Option<SystemTime>,
}

/// What was on disk.
#[derive(Debug, Default)]
pub struct Restored {
    /// Retained messages, each topic's only once, in the order the topics came. Expired ones may be among them.
    pub retained: Vec<Message>,
    /// Sessions, by id.
    pub sessions: Vec<StoredSession>,
    /// What an earlier version kept and would not take today, and is not among the above: its topic, and the change by
    /// which it goes.
    pub unfit: Vec<(Arc<str>, Change)>,
    /// Wills, in the order they came.
    pub wills: Vec<(WillId, StoredWill)>,
}

/// A session that was on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredSession {
    /// What it goes on by.
    pub session: SessionId,
    /// Its client id.
    pub client_id: Arc<str>,
    /// What is known of it. It may have expired.
    pub record: SessionRecord,
    /// Its subscriptions, by filter.
    pub subscriptions: Vec<StoredSubscription>,
    /// What waits for it or was sent, in order.
    pub queue: Vec<StoredRow>,
    /// QoS 2 identifiers that its client has not released, ascending.
    pub received: Vec<u16>,
}

/// A queued message that was on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRow {
    /// What it goes on by.
    pub row: RowId,
    /// How far it came.
    pub phase: Phase,
}

/// How far a queued message came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It waits.
    Queued(StoredMessage),
    /// It was sent, or about to be, by this packet identifier, and not acknowledged: it goes out again with DUP.
    Sent(u16, StoredMessage),
    /// QoS 2: PUBREC came; PUBREL is sent until PUBCOMP comes.
    Released(u16),
}

impl Qos2Gate {
    /// Of `message`, if it comes from a session on disk with QoS 2.
    pub fn of(message: &Message) -> Option<Qos2Gate> {
        message.is_gated().then(|| Qos2Gate { position: message.position() })
    }
}

impl RowId {
    /// As a number, from 1.
    pub fn get(self) -> u64 {
        self.0.get()
    }
}

impl WillId {
    /// As a number.
    pub fn get(self) -> u64 {
        self.0
    }
}

impl SessionId {
    /// As a number.
    pub fn get(self) -> u64 {
        self.0
    }
}
