//! Changes that wait for the disk, those of the same thing made into one. Pure.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::change::{
    Change, Qos2Gate, RowId, SessionId, SessionRecord, StoredMessage, StoredSubscription, StoredWill, Urgency, WillId,
};
use crate::broker::message::Message;

type Map<K, V> = HashMap<K, V, RandomState>;

/// What an entry costs besides texts and messages, in bytes; an estimate.
const ENTRY: usize = 128;

/// What one transaction is to write.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// Everything that is on disk goes first.
    pub(super) wipe: bool,
    /// By topic; `None`: it has none.
    pub(super) retained: Map<Arc<str>, Retain>,
    /// By number; `None`: it goes.
    pub(super) wills: Map<WillId, Option<Arc<StoredWill>>>,
    /// What belongs to sessions.
    pub(super) sessions: Map<SessionId, SessionChanges>,
    /// Keys whose rows are in here.
    pub(super) opened: HashSet<Qos2Gate, RandomState>,
    weight: Weight,
}

/// The retained message of a topic.
#[derive(Debug)]
pub(super) struct Retain {
    pub(super) message: Option<Message>,
    urgent: bool,
}

/// What changes of one session.
#[derive(Debug, Default)]
pub(super) struct SessionChanges {
    /// All of it that is on disk goes first.
    pub(super) wipe: bool,
    /// What is known of it now, with its client id.
    pub(super) record: Option<(Arc<str>, SessionRecord)>,
    /// By filter; `None`: there is none.
    pub(super) subscriptions: Map<Arc<str>, Option<StoredSubscription>>,
    /// By row.
    pub(super) rows: Map<RowId, Row>,
    /// Whether the identifier is taken.
    pub(super) received: Map<u16, bool>,
    weight: Weight,
}

/// What becomes of a row of the queue.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) change: RowChange,
    urgent: bool,
}

/// See [`Row`].
#[derive(Debug)]
pub(super) enum RowChange {
    /// It is written.
    Insert(NewRow),
    /// It is on disk, and its message was sent by this identifier.
    Sent(u16),
    /// It is on disk, and its message was received by the client (PUBREC).
    Released(u16),
    /// It goes.
    Delete,
}

/// A row to be written.
#[derive(Debug)]
pub(super) struct NewRow {
    /// `None` once it is released.
    pub(super) outgoing: Option<StoredMessage>,
    /// By which it was sent.
    pub(super) packet_id: Option<u16>,
    /// An attempt to write it failed, and nobody knows how far it came: it cannot be undone by silence.
    doubtful: bool,
}

/// How much there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Weight {
    /// Rows to write.
    pub(super) entries: usize,
    /// Of these, rows somebody waits for.
    pub(super) urgent: usize,
    /// What they take, roughly.
    pub(super) bytes: usize,
}

impl NewRow {
    pub(super) fn new(outgoing: StoredMessage) -> NewRow {
        NewRow { outgoing: Some(outgoing), packet_id: None, doubtful: false }
    }

    pub(super) fn assign(&mut self, packet_id: u16) {
        self.packet_id = Some(packet_id);
    }

    pub(super) fn release(&mut self, packet_id: u16) {
        (self.packet_id, self.outgoing) = (Some(packet_id), None);
    }

    fn bytes(&self) -> usize {
        self.outgoing.as_ref().map_or(0, |outgoing| outgoing.message.size())
    }
}

impl Pending {
    /// Empty tables, then what comes.
    pub(super) fn wiping() -> Pending {
        Pending { wipe: true, ..Pending::default() }
    }

    /// How much there is.
    pub(super) fn weight(&self) -> Weight {
        self.weight
    }

    /// Takes in a change; a row behind a gate comes by [`Pending::insert_row`] when that opens.
    pub(super) fn apply(&mut self, change: Change) {
        match change {
            Change::Retain(message, urgency) => {
                let topic = Arc::from(message.topic());
                self.retain(topic, Some(message), urgency == Urgency::Urgent);
            }
            Change::Forget { topic, urgency } => self.retain(topic, None, urgency == Urgency::Urgent),
            Change::OpenSession { session, client_id, record } => {
                self.session(session, |changes| changes.open(client_id, record));
            }
            Change::EndSession { session } => self.session(session, SessionChanges::end),
            Change::Subscribe { session, subscription } => {
                let filter = subscription.filter.clone();
                self.session(session, |changes| changes.subscription(filter, Some(subscription)));
            }
            Change::Unsubscribe { session, filter } => {
                self.session(session, |changes| changes.subscription(filter, None));
            }
            Change::Enqueue { session, row, outgoing, gate: _ } => {
                self.insert_row(session, row, NewRow::new(outgoing));
            }
            Change::Move { from, session, row, outgoing } => {
                // Never is there a moment with neither of them.
                self.insert_row(session, row, NewRow::new(outgoing));
                self.apply(Change::Dequeue { session: from.0, row: from.1 });
            }
            Change::Assign { session, row, packet_id, urgency } => {
                let (change, urgent) = (RowChange::Sent(packet_id), urgency == Urgency::Urgent);
                self.session(session, |changes| changes.row(row, Row { change, urgent }));
            }
            Change::PubrecReceived { session, row, packet_id } => {
                let change = RowChange::Released(packet_id);
                self.session(session, |changes| changes.row(row, Row { change, urgent: true }));
            }
            Change::Dequeue { session, row } => {
                let change = RowChange::Delete;
                self.session(session, |changes| changes.row(row, Row { change, urgent: false }));
            }
            Change::PublishReceived { session, packet_id, opens } => {
                self.opened.extend(opens);
                self.session(session, |changes| changes.received(packet_id, true));
            }
            Change::PubrelReceived { session, packet_id } => {
                self.session(session, |changes| changes.received(packet_id, false));
            }
            Change::KeepWill { will, record } => self.will(will, Some(record)),
            Change::DropWill { will } => self.will(will, None),
            Change::OpenGate { gate } => drop(self.opened.insert(gate)),
        }
    }

    /// Takes in a row that is not on disk.
    pub(super) fn insert_row(&mut self, session: SessionId, row: RowId, new: NewRow) {
        let change = RowChange::Insert(new);
        self.session(session, |changes| changes.row(row, Row { change, urgent: true }));
    }

    /// Adds what came after this, which was tried and may or may not be on disk.
    pub(super) fn absorb(&mut self, newer: Pending) {
        if newer.wipe {
            *self = newer;
            return;
        }
        for (topic, Retain { message, urgent }) in newer.retained {
            self.retain(topic, message, urgent);
        }
        newer.wills.into_iter().for_each(|(will, record)| self.will(will, record));
        self.opened.extend(newer.opened);
        for (session, newer) in newer.sessions {
            self.session(session, |changes| changes.absorb(newer));
        }
    }

    /// Notes that it was tried to write this, so that all of it may be on disk.
    pub(super) fn mark_doubtful(&mut self) {
        for row in self.sessions.values_mut().flat_map(|changes| changes.rows.values_mut()) {
            if let RowChange::Insert(new) = &mut row.change {
                new.doubtful = true;
            }
        }
    }

    fn retain(&mut self, topic: Arc<str>, message: Option<Message>, urgent: bool) {
        let weight = |topic: &str, retain: &Retain| {
            Weight::one(topic.len() + retain.message.as_ref().map_or(0, Message::size), retain.urgent)
        };
        let mut retain = Retain { message, urgent };
        if let Some(old) = self.retained.get(&topic) {
            self.weight.subtract(weight(&topic, old));
            retain.urgent |= old.urgent;
        }
        self.weight.add(weight(&topic, &retain));
        self.retained.insert(topic, retain);
    }

    fn will(&mut self, will: WillId, record: Option<Arc<StoredWill>>) {
        let weight = |record: Option<&StoredWill>| {
            let bytes = |StoredWill { client_id, request, .. }: &StoredWill| {
                client_id.len() + request.topic.len() + request.payload.len() + request.properties.len()
            };
            Weight::one(record.map_or(0, bytes), false)
        };
        self.weight.add(weight(record.as_deref()));
        if let Some(old) = self.wills.insert(will, record) {
            self.weight.subtract(weight(old.as_deref()));
        }
    }

    fn session(&mut self, session: SessionId, change: impl FnOnce(&mut SessionChanges)) {
        let changes = self.sessions.entry(session).or_default();
        self.weight.subtract(changes.weight);
        change(changes);
        self.weight.add(changes.weight);
        if changes.weight.entries == 0 {
            self.sessions.remove(&session);
            if self.weight.entries == 0 {
                *self = Pending { wipe: self.wipe, ..Pending::default() };
            }
        }
    }
}

impl SessionChanges {
    fn open(&mut self, client_id: Arc<str>, record: SessionRecord) {
        let weight = |(client_id, record): &(Arc<str>, SessionRecord)| {
            Weight::one(client_id.len() + record.username.as_ref().map_or(0, |name| name.len()), true)
        };
        let new = (client_id, record);
        self.weight.add(weight(&new));
        if let Some(old) = self.record.replace(new) {
            self.weight.subtract(weight(&old));
        }
    }

    fn end(&mut self) {
        *self = SessionChanges { wipe: true, weight: Weight::one(0, true), ..SessionChanges::default() };
    }

    fn subscription(&mut self, filter: Arc<str>, subscription: Option<StoredSubscription>) {
        let weight = Weight::one(filter.len(), true);
        if self.subscriptions.insert(filter, subscription).is_none() {
            self.weight.add(weight);
        }
    }

    fn received(&mut self, packet_id: u16, taken: bool) {
        if self.received.insert(packet_id, taken).is_none() {
            self.weight.add(Weight::one(0, true));
        }
    }

    fn row(&mut self, row: RowId, new: Row) {
        let Some(mut old) = self.rows.remove(&row) else {
            self.weight.add(new.weight());
            self.rows.insert(row, new);
            return;
        };
        self.weight.subtract(old.weight());
        old.urgent |= new.urgent;
        match (&mut old.change, new.change) {
            (RowChange::Insert(insert), RowChange::Delete) if !insert.doubtful => return,
            (RowChange::Insert(insert), RowChange::Sent(packet_id)) => insert.assign(packet_id),
            (RowChange::Insert(insert), RowChange::Released(packet_id)) => insert.release(packet_id),
            // What is done with stays so.
            (RowChange::Delete, RowChange::Sent(_) | RowChange::Released(_)) => {}
            (old, new) => *old = new,
        }
        self.weight.add(old.weight());
        self.rows.insert(row, old);
    }

    fn absorb(&mut self, newer: SessionChanges) {
        if newer.wipe {
            *self = newer;
            return;
        }
        if let Some((client_id, record)) = newer.record {
            self.open(client_id, record);
        }
        newer.subscriptions.into_iter().for_each(|(filter, subscription)| self.subscription(filter, subscription));
        newer.rows.into_iter().for_each(|(row, change)| self.row(row, change));
        newer.received.into_iter().for_each(|(packet_id, taken)| self.received(packet_id, taken));
    }
}

impl Row {
    fn weight(&self) -> Weight {
        let bytes = if let RowChange::Insert(new) = &self.change { new.bytes() } else { 0 };
        Weight::one(bytes, self.urgent)
    }
}

impl Weight {
    fn one(bytes: usize, urgent: bool) -> Weight {
        Weight { entries: 1, urgent: usize::from(urgent), bytes: ENTRY + bytes }
    }

    fn add(&mut self, other: Weight) {
        self.entries += other.entries;
        self.urgent += other.urgent;
        self.bytes += other.bytes;
    }

    fn subtract(&mut self, other: Weight) {
        self.entries -= other.entries;
        self.urgent -= other.urgent;
        self.bytes -= other.bytes;
    }
}
