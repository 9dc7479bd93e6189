//! What a session on disk lets the store know.

use std::sync::Arc;
use std::time::SystemTime;

use super::Session;
use super::inflight::Persisted;
use crate::broker::session_expiry::SessionExpiry;
use crate::broker::share::{Outgoing, ShareOptions};
use crate::broker::store::{
    Change, Qos2Gate, RowId, SessionId, SessionRecord, Store, StoredMessage, StoredSubscription, Ticket, Urgency,
};
use crate::broker::subscriptions::SubscriptionOptions;
use crate::qos::Qos;

/// The session's place on disk. While a session has one it is durable.
#[derive(Debug)]
pub struct Journal {
    store: Store,
    session: SessionId,
    /// As last written.
    record: SessionRecord,
    /// See [`Store::resync`].
    pub(super) synced: u64,
}

impl Journal {
    /// From here on publishers wait for the session.
    pub(super) fn new(session: &Session, id: SessionId, record: SessionRecord) -> Journal {
        session.reader.set_durable(true);
        Journal { store: session.context.store.clone(), session: id, record, synced: 0 }
    }

    /// The session's row.
    pub(super) fn open(&self, client_id: &Arc<str>) {
        let (client_id, record) = (client_id.clone(), self.record.clone());
        self.store.submit(Change::OpenSession { session: self.session, client_id, record });
    }

    /// The session and all that is its own goes.
    pub(super) fn end(self) -> Ticket {
        self.store.submit(Change::EndSession { session: self.session })
    }

    /// `outgoing` waits for the client, or is sent at once; `gate` is that of a message from the bus. It may have a row
    /// already, if it was not written.
    pub(super) fn enqueue(&self, outgoing: &mut Outgoing, gate: Option<Qos2Gate>) {
        if outgoing.qos == Qos::AtMostOnce || outgoing.is_persisted {
            return;
        }
        let row = *outgoing.row.get_or_insert_with(|| self.store.next_row());
        outgoing.is_persisted = true;
        let outgoing = StoredMessage::from(&*outgoing);
        self.store.submit(Change::Enqueue { session: self.session, row, outgoing, gate });
    }

    /// `outgoing` is about to be sent by `packet_id`; `None`: QoS 0.
    pub(super) fn assign(&self, outgoing: &mut Outgoing, packet_id: u16) -> Option<Persisted> {
        self.enqueue(outgoing, None);
        let row = outgoing.row?;
        let exactly_once = outgoing.qos == Qos::ExactlyOnce;
        let urgency = if exactly_once { Urgency::Urgent } else { Urgency::Lazy };
        let ticket = self.store.submit(Change::Assign { session: self.session, row, packet_id, urgency });
        // Whoever has given it to the store: this session, or a group.
        let gate = if exactly_once { Qos2Gate::of(&outgoing.message) } else { None };
        Some(Persisted { row, ticket, gate })
    }

    /// Whether the next packet for a message may be sent.
    pub(super) fn is_written(&self, persisted: &Persisted) -> bool {
        self.store.is_done(persisted.ticket) && !persisted.gate.is_some_and(|gate| self.store.is_gated(gate))
    }

    pub(super) fn pubrec_received(&self, row: RowId, packet_id: u16) -> Ticket {
        self.store.submit(Change::PubrecReceived { session: self.session, row, packet_id })
    }

    pub(super) fn dequeue(&self, row: Option<RowId>) {
        if let Some(row) = row {
            self.store.submit(Change::Dequeue { session: self.session, row });
        }
    }

    /// `outgoing` is not going to be sent.
    pub(super) fn discard(&self, outgoing: &Outgoing) {
        if outgoing.is_persisted {
            self.dequeue(outgoing.row);
        }
    }

    pub(super) fn publish_received(&self, packet_id: u16, opens: Option<Qos2Gate>) -> Ticket {
        self.store.submit(Change::PublishReceived { session: self.session, packet_id, opens })
    }

    pub(super) fn pubrel_received(&self, packet_id: u16) -> Ticket {
        self.store.submit(Change::PubrelReceived { session: self.session, packet_id })
    }

    pub(super) fn subscribe(&self, subscription: StoredSubscription) {
        self.store.submit(Change::Subscribe { session: self.session, subscription });
    }

    pub(super) fn unsubscribe(&self, filter: &str) {
        self.store.submit(Change::Unsubscribe { session: self.session, filter: filter.into() });
    }
}

impl Session {
    /// Is on disk from now on if it outlives its connection, and no longer if it does not.
    pub(super) fn set_expiry(&mut self, expiry: SessionExpiry) {
        if expiry.is_zero() {
            self.erase();
        } else if self.journal.is_some() {
            self.note(expiry, None);
        } else if self.context.store.is_on() {
            let id = self.context.store.new_session();
            let record = SessionRecord { expiry, username: self.username(), ended_at: None };
            let journal = Journal::new(self, id, record);
            // Before the groups enqueue anything for it.
            journal.open(&self.client_id);
            self.journal = Some(journal);
            self.shares.set_session(Some(id));
            self.save();
        }
    }

    pub(super) fn username(&self) -> Option<Arc<str>> {
        self.login.user().map(Arc::from)
    }

    /// What is known of the session is another now; `ended_at` as in [`SessionRecord`].
    pub(super) fn note(&mut self, expiry: SessionExpiry, ended_at: Option<SystemTime>) {
        let username = self.username();
        if let Some(journal) = &mut self.journal {
            journal.record = SessionRecord { expiry, username, ended_at };
            journal.open(&self.client_id);
        }
    }

    /// Takes the session off the disk.
    pub(super) fn erase(&mut self) -> Ticket {
        let Some(journal) = self.journal.take() else { return Ticket::DONE };
        self.reader.set_durable(false);
        self.shares.set_session(None);
        let outgoing = self.queue.iter_mut().chain(&mut self.backlog);
        outgoing.for_each(|outgoing| (outgoing.row, outgoing.is_persisted) = (None, false));
        self.inflight.iter_mut().for_each(|(_, _, persisted)| *persisted = None);
        journal.end()
    }

    /// Gives all there is of the session to the store, which has lost what it had.
    pub(super) fn save_anew(&mut self, number: u64) {
        let Some(journal) = &mut self.journal else { return };
        journal.synced = number;
        journal.open(&self.client_id);
        self.queue.iter_mut().for_each(|outgoing| outgoing.is_persisted = false);
        self.shares.for_each_waiting(|outgoing| outgoing.is_persisted = false);
        self.save();
    }

    /// Gives to the store what it does not have of the session, which is open.
    fn save(&mut self) {
        let Some(journal) = &self.journal else { return };
        for (filter, subscription) in self.subscriptions.iter() {
            journal.subscribe(StoredSubscription {
                filter: filter.as_str().into(),
                options: subscription.options,
                id: subscription.id,
            });
        }
        self.shares.iter().for_each(|(text, options)| journal.subscribe(shared(text.clone(), options)));
        for &id in &self.received {
            journal.publish_received(id, None);
        }
        for (id, outgoing, persisted) in self.inflight.iter_mut() {
            let row = persisted.map_or_else(|| journal.store.next_row(), |persisted| persisted.row);
            match outgoing {
                Some(outgoing) => {
                    (outgoing.row, outgoing.is_persisted) = (Some(row), false);
                    *persisted = journal.assign(outgoing, id);
                }
                None => *persisted = Some(Persisted { row, ticket: journal.pubrec_received(row, id), gate: None }),
            }
        }
        self.queue.iter_mut().for_each(|outgoing| journal.enqueue(outgoing, None));
        self.shares.for_each_waiting(|outgoing| journal.enqueue(outgoing, None));
    }
}

/// A membership in a group, by the filter as the client wrote it.
pub(super) fn shared(filter: Arc<str>, share: ShareOptions) -> StoredSubscription {
    let ShareOptions { qos, retain_as_published, id } = share;
    let options = SubscriptionOptions { qos, retain_as_published, ..SubscriptionOptions::default() };
    StoredSubscription { filter, options, id }
}

impl From<&Outgoing> for StoredMessage {
    fn from(outgoing: &Outgoing) -> StoredMessage {
        StoredMessage {
            message: outgoing.message.clone(),
            qos: outgoing.qos,
            retain: outgoing.retain,
            ids: outgoing.ids.clone(),
            share: outgoing.group.as_ref().map(|group| group.text().clone()),
        }
    }
}
