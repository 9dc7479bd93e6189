//! Acknowledgements that wait for the disk, in order. Pure.
//!
//! A PUBLISH is answered when its durable readers have given it to the store and all that was submitted by then is on
//! disk: it waits in two queues, one after the other, so that answers leave in the order in which messages came
//! [MQTT-4.6.0-2].

use std::collections::VecDeque;

use bytes::BytesMut;

use crate::broker::bus::Persisting;
use crate::broker::packet::{Ack, AckKind};
use crate::broker::store::{Qos2Gate, Ticket};

/// Answers that may wait for one client; with so many nothing is read from it that would need another.
pub const MAX_REPLIES: usize = 1024;

/// A PUBLISH that was taken and not answered yet.
#[derive(Clone, Debug)]
pub struct Taken {
    /// PUBACK or PUBREC.
    pub ack: Ack,
    /// Its durable readers.
    pub persisting: Option<Persisting>,
    /// What its identifier opens, if durable readers keep the message back for it.
    pub opens: Option<Qos2Gate>,
    /// Whether the connection it came by is still there to be answered.
    pub is_answered: bool,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// To a PUBLISH, PUBREL or PUBREC.
    Ack(Ack),
    /// SUBACK or UNSUBACK, encoded. Messages wait behind it.
    Encoded(BytesMut),
}

/// The answers that one client waits for.
#[derive(Debug, Default)]
pub struct Replies {
    unpersisted: VecDeque<Taken>,
    unwritten: VecDeque<(Ticket, Reply)>,
    /// Of `unwritten`, those that messages wait behind.
    encoded: usize,
}

impl Replies {
    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.unpersisted.is_empty() && self.unwritten.is_empty()
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.unpersisted.len() + self.unwritten.len()
    }

    /// Whether any waits for the disk.
    pub fn is_unwritten(&self) -> bool {
        !self.unwritten.is_empty()
    }

    /// Whether a SUBACK or UNSUBACK waits.
    pub fn blocks_messages(&self) -> bool {
        self.encoded > 0
    }

    /// A PUBLISH to answer once its durable readers have it.
    pub fn take(&mut self, taken: Taken) {
        self.unpersisted.push_back(taken);
    }

    /// What the next PUBLISH to answer waits for.
    pub fn persisting(&self) -> Option<&Persisting> {
        self.unpersisted.front().and_then(|taken| taken.persisting.as_ref())
    }

    /// Whether the next PUBLISH to answer was lost with one of its durable readers: neither it nor what came behind it can
    /// be answered.
    pub fn is_stuck(&self) -> bool {
        self.persisting().is_some_and(Persisting::is_lost)
    }

    /// The next PUBLISH that its durable readers have.
    pub fn pop_persisted(&mut self) -> Option<Taken> {
        let next = self.unpersisted.front()?;
        next.persisting.as_ref().is_none_or(Persisting::is_done).then(|| self.unpersisted.pop_front())?
    }

    /// Answers when all up to `ticket` is on disk. Tickets must not fall.
    pub fn answer(&mut self, ticket: Ticket, reply: Reply) {
        self.encoded += usize::from(matches!(reply, Reply::Encoded(_)));
        self.unwritten.push_back((ticket, reply));
    }

    /// The next answer that may be sent.
    pub fn pop_written(&mut self, is_done: impl Fn(Ticket) -> bool) -> Option<Reply> {
        let (ticket, _) = self.unwritten.front()?;
        let (_, reply) = is_done(*ticket).then(|| self.unwritten.pop_front())??;
        self.encoded -= usize::from(matches!(reply, Reply::Encoded(_)));
        Some(reply)
    }

    /// A QoS 2 PUBLISH came again: says whether the first is still to be answered, which then serves for both.
    pub fn renew(&mut self, id: u16) -> bool {
        let first = self.unpersisted.iter_mut().find(|taken| taken.ack.kind == AckKind::Pubrec && taken.ack.id == id);
        if let Some(taken) = first {
            taken.is_answered = true;
            return true;
        }
        let is_it = |reply: &Reply| matches!(reply, Reply::Ack(ack) if ack.kind == AckKind::Pubrec && ack.id == id);
        self.unwritten.iter().any(|(_, reply)| is_it(reply))
    }

    /// The connection is gone: nothing is answered any more. QoS 2 messages still have to be persisted with their
    /// identifier, but those that are lost, which are returned: the client sends them again.
    pub fn disconnect(&mut self) -> Vec<Taken> {
        self.unpersisted.retain(|taken| taken.ack.kind == AckKind::Pubrec);
        self.unpersisted.iter_mut().for_each(|taken| taken.is_answered = false);
        let is_lost = |taken: &Taken| taken.persisting.as_ref().is_some_and(Persisting::is_lost);
        let (lost, left) = std::mem::take(&mut self.unpersisted).into_iter().partition(is_lost);
        self.unpersisted = left;
        self.unwritten.clear();
        self.encoded = 0;
        Vec::from(lost)
    }

    /// The session is gone: what its messages would have opened, and when their durable readers have them.
    pub fn into_gates(self) -> Vec<(Persisting, Qos2Gate)> {
        self.unpersisted.into_iter().filter_map(|taken| Some((taken.persisting?, taken.opens?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::bus::PersistGuard;
    use crate::broker::packet::Reason;

    fn ack(kind: AckKind, id: u16) -> Ack {
        Ack { kind, id, reason: Reason::SUCCESS }
    }

    fn taken(kind: AckKind, id: u16) -> (Taken, PersistGuard) {
        let (persisting, guard) = Persisting::tracked();
        let opens = (kind == AckKind::Pubrec).then_some(Qos2Gate { position: id.into() });
        (Taken { ack: ack(kind, id), persisting: Some(persisting), opens, is_answered: true }, guard)
    }

    #[test]
    fn answers_leave_in_order_when_persisted_and_written() {
        let mut replies = Replies::default();
        assert!(replies.is_empty());
        let (first, guard) = taken(AckKind::Puback, 1);
        replies.take(first);
        replies.take(Taken { persisting: None, ..taken(AckKind::Puback, 2).0 });
        assert!(replies.persisting().is_some());
        assert!(replies.pop_persisted().is_none(), "the second waits for the first");
        drop(guard);
        let ids: Vec<u16> = std::iter::from_fn(|| replies.pop_persisted()).map(|taken| taken.ack.id).collect();
        assert_eq!(ids, [1, 2]);
        replies.answer(Ticket::DONE, Reply::Encoded(BytesMut::new()));
        replies.answer(Ticket::DONE, Reply::Ack(ack(AckKind::Puback, 1)));
        assert!(replies.blocks_messages() && replies.is_unwritten() && replies.len() == 2);
        assert_eq!(replies.pop_written(|_| false), None);
        assert_eq!(replies.pop_written(|_| true), Some(Reply::Encoded(BytesMut::new())));
        assert!(!replies.blocks_messages());
        assert_eq!(replies.pop_written(|_| true), Some(Reply::Ack(ack(AckKind::Puback, 1))));
        assert!(replies.is_empty());
    }

    #[test]
    fn what_is_persisted_after_the_connection_is_not_answered_unless_it_comes_again() {
        let mut replies = Replies::default();
        let of = [(AckKind::Puback, 1), (AckKind::Pubrec, 2), (AckKind::Pubrec, 3)];
        let (all, guards): (Vec<_>, Vec<_>) = of.map(|(kind, id)| taken(kind, id)).into_iter().unzip();
        all.into_iter().for_each(|taken| replies.take(taken));
        replies.answer(Ticket::DONE, Reply::Ack(ack(AckKind::Pubrec, 4)));
        replies.answer(Ticket::DONE, Reply::Encoded(BytesMut::new()));
        assert!(replies.renew(2) && replies.renew(4) && !replies.renew(1));
        assert!(replies.disconnect().is_empty());
        assert!(!replies.is_unwritten() && !replies.blocks_messages() && replies.len() == 2);
        assert!(replies.renew(3) && !replies.renew(4));
        drop(guards);
        let persisted = std::iter::from_fn(|| replies.pop_persisted());
        assert_eq!(
            persisted.map(|taken| (taken.ack.id, taken.is_answered)).collect::<Vec<_>>(),
            [(2, false), (3, true)]
        );
    }

    #[test]
    fn what_is_lost_holds_up_nothing_after_the_connection() {
        let mut replies = Replies::default();
        let (lost, guard) = taken(AckKind::Pubrec, 1);
        replies.take(lost);
        let (next, next_guard) = taken(AckKind::Pubrec, 2);
        replies.take(next);
        assert!(!replies.is_stuck());
        guard.lose();
        assert!(replies.is_stuck());
        next_guard.persisted();
        assert!(replies.pop_persisted().is_none(), "answers keep their order");
        let lost: Vec<u16> = replies.disconnect().into_iter().map(|taken| taken.ack.id).collect();
        assert_eq!((lost, replies.pop_persisted().unwrap().ack.id), (vec![1], 2));
    }

    #[test]
    fn what_was_not_sealed_is_known_at_the_end() {
        let mut replies = Replies::default();
        let (pubrec, _pubrec_guard) = taken(AckKind::Pubrec, 2);
        let (puback, _puback_guard) = taken(AckKind::Puback, 1);
        replies.take(pubrec);
        replies.take(puback);
        let opens: Vec<Qos2Gate> = replies.into_gates().into_iter().map(|(_, key)| key).collect();
        assert_eq!(opens, [Qos2Gate { position: 2 }]);
    }
}
