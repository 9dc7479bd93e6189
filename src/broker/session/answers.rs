//! Answers to the client: at once, or when what they promise is on disk.

use bytes::BytesMut;

use super::Session;
use super::inflight::Acked;
use super::replies::{Reply, Taken};
use super::wire::Wire;
use crate::broker::bus::{Persisting, Published};
use crate::broker::packet::{Ack, AckKind, PacketError, Reason, Recipient, Version, write_ack};
use crate::broker::retained::Retention;
use crate::broker::shutdown::Stage;
use crate::broker::store::{Change, Qos2Gate, Store, Ticket};
use crate::qos::Qos;

/// What a session waits for besides its client and the bus.
#[derive(Clone, Debug)]
pub struct PendingAcks {
    /// For the durable readers of a message.
    persisting: Option<Persisting>,
    /// For anything more on disk than this.
    written: Option<Ticket>,
}

impl PendingAcks {
    /// Whether there is anything.
    pub fn are_any(&self) -> bool {
        self.persisting.is_some() || self.written.is_some()
    }

    /// Resolves at the first that may have come true. Cancel safe.
    pub async fn progress(&self, store: &Store) {
        tokio::select! {
            () = async { if let Some(persisting) = &self.persisting { persisting.settled().await } },
                if self.persisting.is_some() => {}
            () = async { if let Some(seen) = self.written { store.progress(seen).await } },
                if self.written.is_some() => {}
        }
    }
}

impl Session {
    /// Answers a PUBLISH that was taken, or refused (`published` is `None`): at once, unless a durable reader or the
    /// disk has to have it first.
    pub(super) fn answer(&mut self, wire: &mut Wire, qos: Qos, id: u16, reason: Reason, published: Option<Published>) {
        let kind = match qos {
            Qos::AtMostOnce => return,
            Qos::AtLeastOnce => AckKind::Puback,
            Qos::ExactlyOnce => AckKind::Pubrec,
        };
        let ack = Ack { kind, id, reason };
        // In MQTT 3 a PUBREC is always followed by PUBREL; in MQTT 5 one that failed ends the exchange.
        let received = kind == AckKind::Pubrec && (wire.version != Version::V5 || !reason.is_error());
        if received {
            self.received.insert(id);
        }
        let is_kept = published.as_ref().is_some_and(|published| {
            matches!(published.retained, Some(Retention::Stored(_) | Retention::Deleted)) && self.context.store.is_on()
        });
        let durable = received && self.journal.is_some();
        let position = published.as_ref().map(|published| published.position).filter(|&position| position > 0);
        let persisting = published.and_then(|published| published.persisting);
        if persisting.is_none() && !is_kept && !durable && self.replies.is_empty() {
            return write_ack(&mut wire.output, &wire.recipient, ack);
        }
        let opens = position.filter(|_| durable).map(|position| Qos2Gate { position });
        self.replies.take(Taken { ack, persisting, opens, is_answered: true });
    }

    /// Answers when all that was submitted so far is on disk, if the session is.
    pub(super) fn reply(&mut self, wire: &mut Wire, ack: Ack) {
        if self.journal.is_none() {
            return write_ack(&mut wire.output, &wire.recipient, ack);
        }
        self.replies.answer(self.context.store.latest(), Reply::Ack(ack));
    }

    /// The same with SUBACK or UNSUBACK.
    pub(super) fn reply_encoded(&mut self, wire: &mut Wire, write: impl FnOnce(&mut BytesMut, &Recipient)) {
        if self.journal.is_none() {
            return write(&mut wire.output, &wire.recipient);
        }
        let mut packet = BytesMut::new();
        write(&mut packet, &wire.recipient);
        self.replies.answer(self.context.store.latest(), Reply::Encoded(packet));
    }

    /// An acknowledgement came.
    pub(super) fn acknowledged(&mut self, wire: &mut Wire, ack: Ack) -> Result<(), PacketError> {
        let Ack { kind, id, reason } = ack;
        let answer = |kind| Ack { kind, id, reason: Reason::SUCCESS };
        if kind == AckKind::Pubrel {
            // One that is not known was released before and its PUBCOMP got lost: no failure to report.
            let known = self.received.remove(&id);
            wire.repeated.remove(&id);
            if let Some(journal) = self.journal.as_ref().filter(|_| known) {
                journal.pubrel_received(id);
            }
            self.reply(wire, answer(AckKind::Pubcomp));
            return Ok(());
        }
        match (self.inflight.acknowledge(kind, id, reason.is_error()), kind) {
            (Acked::Release(row), _) => {
                if let (Some(journal), Some(row)) = (&self.journal, row) {
                    self.inflight.released(id, journal.pubrec_received(row, id));
                }
                self.reply(wire, answer(AckKind::Pubrel));
            }
            (Acked::Unexpected, _) => {
                return Err(PacketError::protocol("not the acknowledgement that the packet identifier waits for"));
            }
            (Acked::Unknown, AckKind::Pubrec) if !reason.is_error() => self.reply(wire, answer(AckKind::Pubrel)),
            (Acked::Done(row), _) => {
                if let Some(journal) = &self.journal {
                    journal.dequeue(row);
                }
            }
            // An acknowledgement of something that was given up or acknowledged before harms nobody.
            (Acked::Unknown, _) => {}
        }
        Ok(())
    }

    /// Hands what durable readers have to the disk, and what is there to the client.
    pub(super) fn settle(&mut self, wire: Option<&mut Wire>) {
        // What the store does not take any more is nothing to rely on.
        if self.replies.is_empty() || self.context.shutdown.stage() == Stage::Closed {
            return;
        }
        let store = &self.context.store;
        while let Some(taken) = self.replies.pop_persisted() {
            // A refusal in MQTT 5 was not received.
            let received = taken.ack.kind == AckKind::Pubrec && self.received.contains(&taken.ack.id);
            match (&self.journal, taken.opens) {
                (Some(journal), opens) if received => journal.publish_received(taken.ack.id, opens),
                (_, Some(gate)) => store.submit(Change::OpenGate { gate }),
                _ => Ticket::DONE,
            };
            if taken.is_answered {
                self.replies.answer(store.latest(), Reply::Ack(taken.ack));
            }
        }
        let Some(wire) = wire else { return };
        while let Some(reply) = self.replies.pop_written(|ticket| store.is_done(ticket)) {
            match reply {
                Reply::Ack(ack) => write_ack(&mut wire.output, &wire.recipient, ack),
                Reply::Encoded(packet) => wire.output.extend_from_slice(&packet),
            }
        }
    }

    /// What to wait for; `seen` is how far the disk was before the session last looked.
    pub(super) fn pending_acks(&self, seen: Ticket) -> PendingAcks {
        let written = (self.replies.is_unwritten() || self.is_writing).then_some(seen);
        let persisting = self.replies.persisting().filter(|persisting| !persisting.is_lost());
        PendingAcks { persisting: persisting.cloned(), written }
    }

    /// The connection is gone, and with it the answers.
    pub(super) fn drop_replies(&mut self) {
        for Taken { ack, opens, .. } in self.replies.disconnect() {
            // When it comes again it is taken anew.
            self.received.remove(&ack.id);
            if let Some(gate) = opens {
                self.context.store.submit(Change::OpenGate { gate });
            }
        }
    }

    /// The session ends: what waits behind the gates of its messages is the durable readers', without its identifiers.
    pub(super) fn let_go(&mut self) {
        let gates = std::mem::take(&mut self.replies).into_gates();
        if gates.is_empty() {
            return;
        }
        let context = self.context.clone();
        self.context.shutdown.tasks.spawn(async move {
            for (persisting, gate) in gates {
                tokio::select! {
                    () = persisting.done() => context.store.submit(Change::OpenGate { gate }),
                    () = context.shutdown.drained.cancelled() => return,
                };
            }
        });
    }
}
