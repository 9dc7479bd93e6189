//! QoS 1 and 2 messages on the way to one client. Pure: the session does the I/O.

use std::collections::VecDeque;

use crate::broker::packet::AckKind;
use crate::broker::store::{Qos2Gate, RowId, Ticket};
use crate::qos::Qos;

/// Packet identifiers run from 1 to this.
const IDS: usize = 65_535;

/// How far the newest message may be ahead of the oldest that is not acknowledged. A client acknowledges in order
/// [MQTT-4.6.0-2], so only a broken one gets there; it then waits for itself.
const SPAN: usize = 16_384;

/// The messages sent and not yet acknowledged, in the order they were first sent. It outlives the connection.
///
/// Identifiers are given out in turn and a slot stays until all before it are done, so an identifier tells its slot.
#[derive(Debug)]
pub struct Inflight<T> {
    slots: VecDeque<Slot<T>>,
    first_id: u16,
    window: usize,
    /// Slots before this index were sent on this connection.
    sent: usize,
    /// Of those, the ones not done.
    on_the_way: usize,
}

#[derive(Debug)]
struct Slot<T> {
    state: State<T>,
    /// Whether it went out before, if only on an earlier connection.
    was_sent: bool,
    persisted: Option<Persisted>,
}

#[derive(Debug)]
enum State<T> {
    Publish { message: T, qos: Qos },
    Released,
    Done,
}

/// The place of a message on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Persisted {
    /// Its row.
    pub row: RowId,
    /// QoS 2: when this is done the next packet of the exchange may go out.
    pub ticket: Ticket,
    /// QoS 2: the message must not be behind this gate any more either.
    pub gate: Option<Qos2Gate>,
}

/// A message that was on its way when the gateway ended.
#[derive(Debug)]
pub struct Unfinished<T> {
    /// Its identifier.
    pub id: u16,
    /// Its place on disk.
    pub row: RowId,
    /// `None`: released.
    pub message: Option<(T, Qos)>,
}

/// What is to be sent: again on a new connection, or for the first time when it is on disk.
#[derive(Debug, PartialEq, Eq)]
pub enum Resend<'a, T> {
    /// PUBLISH.
    Publish {
        /// The identifier it had.
        id: u16,
        /// The QoS it had.
        qos: Qos,
        /// Whether it was sent before: DUP [MQTT-4.4.0-1].
        dup: bool,
        /// The message.
        message: &'a T,
    },
    /// PUBREL.
    Pubrel {
        /// The identifier of its PUBLISH.
        id: u16,
    },
    /// Nothing before the disk has it.
    Unwritten,
}

/// What an acknowledgement calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acked {
    /// The message is done, and its place on disk can go.
    Done(Option<RowId>),
    /// PUBREL is to be sent, when the disk knows that, for which [`Inflight::released`] is to be called.
    Release(Option<RowId>),
    /// Nothing waits under that identifier.
    Unknown,
    /// Something waits, but for another acknowledgement.
    Unexpected,
}

impl<T> Default for Inflight<T> {
    fn default() -> Inflight<T> {
        Inflight { slots: VecDeque::new(), first_id: 1, window: 0, sent: 0, on_the_way: 0 }
    }
}

impl<T> Inflight<T> {
    /// A new connection that takes `window` messages at once; everything has to be sent again.
    pub fn connect(&mut self, window: u16) {
        self.window = usize::from(window);
        self.sent = 0;
        self.on_the_way = 0;
    }

    /// Takes in what was on its way when the gateway ended. Identifiers must be distinct.
    pub fn restore(&mut self, mut unfinished: Vec<Unfinished<T>>) {
        unfinished.sort_unstable_by_key(|one| one.id);
        // They were given out in turn, so the oldest stands behind the largest gap.
        let gap = |index: usize| {
            let before = unfinished[(index + unfinished.len() - 1) % unfinished.len()].id;
            (usize::from(unfinished[index].id) + IDS - usize::from(before) - 1) % IDS
        };
        let Some(oldest) = (0..unfinished.len()).max_by_key(|&index| gap(index)) else { return };
        unfinished.rotate_left(oldest);
        self.slots.clear();
        self.first_id = unfinished[0].id;
        for Unfinished { id, row, message } in unfinished {
            while self.next_id() != id {
                self.slots.push_back(Slot { state: State::Done, was_sent: true, persisted: None });
            }
            let state = message.map_or(State::Released, |(message, qos)| State::Publish { message, qos });
            let persisted = Persisted { row, ticket: Ticket::DONE, gate: None };
            self.slots.push_back(Slot { state, was_sent: true, persisted: Some(persisted) });
        }
    }

    /// The next message to send, if the window has room. `is_written` says whether the disk is as far as that. Call
    /// until `None` or [`Resend::Unwritten`].
    pub fn resend(&mut self, is_written: impl Fn(&Persisted) -> bool) -> Option<Resend<'_, T>> {
        while self.on_the_way < self.window && self.sent < self.slots.len() {
            if matches!(self.slots[self.sent].state, State::Done) {
                self.sent += 1;
                continue;
            }
            let id = self.id_at(self.sent);
            let slot = &mut self.slots[self.sent];
            let waits = !matches!(slot.state, State::Publish { qos: Qos::AtMostOnce | Qos::AtLeastOnce, .. });
            if waits && slot.persisted.as_ref().is_some_and(|persisted| !is_written(persisted)) {
                return Some(Resend::Unwritten);
            }
            self.sent += 1;
            self.on_the_way += 1;
            let dup = std::mem::replace(&mut slot.was_sent, true);
            return match &slot.state {
                State::Publish { message, qos } => Some(Resend::Publish { id, qos: *qos, dup, message }),
                _ => Some(Resend::Pubrel { id }),
            };
        }
        None
    }

    /// Whether a new message may be taken in.
    pub fn has_room(&self) -> bool {
        let unsent = self.slots.len() - self.sent;
        self.on_the_way + unsent < self.window && self.slots.len() < SPAN.max(self.window)
    }

    /// Whether nothing waits to be sent, so that a new message may be sent at once.
    pub fn is_level(&self) -> bool {
        self.sent == self.slots.len()
    }

    /// The identifier that the next message will have.
    pub fn next_id(&self) -> u16 {
        self.id_at(self.slots.len())
    }

    /// Takes in a message that is sent now and returns its identifier. Call only if [`Inflight::has_room`] and
    /// [`Inflight::is_level`].
    pub fn push(&mut self, message: T, qos: Qos, persisted: Option<Persisted>) -> u16 {
        debug_assert!(self.has_room() && self.is_level() && qos > Qos::AtMostOnce);
        let id = self.next_id();
        self.slots.push_back(Slot { state: State::Publish { message, qos }, was_sent: true, persisted });
        self.sent += 1;
        self.on_the_way += 1;
        id
    }

    /// Takes in a message that [`Inflight::resend`] will give out in its turn. Call only if [`Inflight::has_room`].
    pub fn line_up(&mut self, message: T, qos: Qos, persisted: Option<Persisted>) {
        debug_assert!(self.has_room() && qos > Qos::AtMostOnce);
        self.slots.push_back(Slot { state: State::Publish { message, qos }, was_sent: false, persisted });
    }

    /// Leaves out the next identifier, as if a message had been sent with it and acknowledged.
    pub fn skip_id(&mut self) {
        self.sent += usize::from(self.is_level());
        self.slots.push_back(Slot { state: State::Done, was_sent: true, persisted: None });
        self.trim();
    }

    /// An acknowledgement came; `failed`: with a reason code of 0x80 or above, which ends the exchange.
    pub fn acknowledge(&mut self, kind: AckKind, id: u16, failed: bool) -> Acked {
        let index = self.index_of(id);
        let Some(slot) = self.slots.get_mut(index).filter(|slot| slot.was_sent) else { return Acked::Unknown };
        match (kind, &slot.state) {
            (_, State::Done) => return Acked::Unknown,
            (AckKind::Puback, State::Publish { qos: Qos::AtLeastOnce, .. }) | (AckKind::Pubcomp, State::Released) => {}
            (AckKind::Pubrec, State::Publish { qos: Qos::ExactlyOnce, .. }) if failed => {}
            (AckKind::Pubrec, State::Publish { qos: Qos::ExactlyOnce, .. } | State::Released) => {
                slot.state = State::Released;
                return Acked::Release(slot.persisted.map(|persisted| persisted.row));
            }
            _ => return Acked::Unexpected,
        }
        Acked::Done(self.finish(index))
    }

    /// PUBREL for `id` may go out, now or on a later connection, when `ticket` is done.
    pub fn released(&mut self, id: u16, ticket: Ticket) {
        let index = self.index_of(id);
        if let Some(persisted) = self.slots.get_mut(index).and_then(|slot| slot.persisted.as_mut()) {
            (persisted.ticket, persisted.gate) = (ticket, None);
        }
    }

    /// Gives up a message that cannot be sent on this connection; returns its place on disk.
    pub fn abandon(&mut self, id: u16) -> Option<RowId> {
        let index = self.index_of(id);
        self.slots.get(index).filter(|slot| !matches!(slot.state, State::Done))?;
        self.finish(index)
    }

    /// The messages that were sent and not taken over by the client.
    pub fn into_messages(self) -> impl Iterator<Item = T> {
        self.slots.into_iter().filter_map(|slot| match slot.state {
            State::Publish { message, .. } => Some(message),
            State::Released | State::Done => None,
        })
    }

    /// All that is not done, oldest first: the identifier, the message unless it is released, the place on disk.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (u16, Option<&mut T>, &mut Option<Persisted>)> {
        let first = self.first_id;
        self.slots.iter_mut().enumerate().filter_map(move |(index, slot)| {
            let message = match &mut slot.state {
                State::Publish { message, .. } => Some(message),
                State::Released => None,
                State::Done => return None,
            };
            Some((id_at(first, index), message, &mut slot.persisted))
        })
    }

    /// Messages not acknowledged.
    pub fn len(&self) -> usize {
        self.slots.iter().filter(|slot| !matches!(slot.state, State::Done)).count()
    }

    /// Messages sent on this connection, or the last one, and not acknowledged.
    pub fn on_the_way(&self) -> usize {
        self.on_the_way
    }

    fn finish(&mut self, index: usize) -> Option<RowId> {
        let slot = &mut self.slots[index];
        slot.state = State::Done;
        let row = slot.persisted.take().map(|persisted| persisted.row);
        if index < self.sent {
            self.on_the_way -= 1;
        }
        self.trim();
        row
    }

    /// Forgets what is done, up to the oldest that is not.
    fn trim(&mut self) {
        while matches!(self.slots.front(), Some(Slot { state: State::Done, .. })) {
            self.slots.pop_front();
            self.first_id = self.id_at(1);
            self.sent = self.sent.saturating_sub(1);
        }
    }

    fn index_of(&self, id: u16) -> usize {
        (usize::from(id) + IDS - usize::from(self.first_id)) % IDS
    }

    fn id_at(&self, index: usize) -> u16 {
        id_at(self.first_id, index)
    }
}

fn id_at(first: u16, index: usize) -> u16 {
    // At most 65 535, because of the remainder.
    ((usize::from(first) - 1 + index) % IDS + 1) as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::broker::store::Store;

    fn filled(window: u16, qos: &[Qos]) -> Inflight<usize> {
        let mut inflight = Inflight::default();
        inflight.connect(window);
        for (message, &qos) in qos.iter().enumerate() {
            inflight.push(message, qos, None);
        }
        inflight
    }

    #[test]
    fn the_window_closes_and_opens() {
        let mut inflight = filled(2, &[Qos::AtLeastOnce, Qos::AtLeastOnce]);
        assert!(!inflight.has_room());
        assert_eq!(inflight.acknowledge(AckKind::Puback, 2, false), Acked::Done(None));
        assert!(inflight.has_room());
        assert_eq!(inflight.push(2, Qos::AtLeastOnce, None), 3);
        assert_eq!(inflight.acknowledge(AckKind::Puback, 2, false), Acked::Unknown);
    }

    #[test]
    fn an_identifier_can_be_left_out() {
        let mut inflight = filled(3, &[]);
        inflight.skip_id();
        assert_eq!((inflight.len(), inflight.push(1, Qos::AtLeastOnce, None)), (0, 2));
        inflight.skip_id();
        assert_eq!(inflight.push(2, Qos::AtLeastOnce, None), 4);
        assert_eq!(inflight.acknowledge(AckKind::Puback, 3, false), Acked::Unknown);
        assert_eq!(inflight.acknowledge(AckKind::Puback, 2, false), Acked::Done(None));
        assert_eq!(inflight.acknowledge(AckKind::Puback, 4, false), Acked::Done(None));
        assert_eq!((inflight.len(), inflight.next_id()), (0, 5));
    }

    #[test]
    fn qos_2_takes_two_steps() {
        let mut inflight = filled(5, &[Qos::ExactlyOnce, Qos::ExactlyOnce]);
        assert_eq!(inflight.acknowledge(AckKind::Puback, 1, false), Acked::Unexpected);
        assert_eq!(inflight.acknowledge(AckKind::Pubcomp, 1, false), Acked::Unexpected);
        assert_eq!(inflight.acknowledge(AckKind::Pubrec, 1, false), Acked::Release(None));
        assert_eq!(inflight.acknowledge(AckKind::Puback, 1, false), Acked::Unexpected);
        assert_eq!(inflight.acknowledge(AckKind::Pubrec, 1, false), Acked::Release(None));
        assert_eq!(inflight.acknowledge(AckKind::Pubcomp, 1, false), Acked::Done(None));
        assert_eq!(inflight.acknowledge(AckKind::Pubrec, 2, true), Acked::Done(None));
        assert_eq!(inflight.len(), 0);
    }

    #[test]
    fn a_new_connection_gets_all_again_in_order() {
        let mut inflight = filled(5, &[Qos::AtLeastOnce, Qos::ExactlyOnce, Qos::AtLeastOnce]);
        inflight.acknowledge(AckKind::Pubrec, 2, false);
        inflight.acknowledge(AckKind::Puback, 3, false);
        inflight.connect(1);
        assert!(!inflight.has_room(), "nothing new before the old");
        assert_eq!(
            inflight.resend(|_| true),
            Some(Resend::Publish { id: 1, qos: Qos::AtLeastOnce, dup: true, message: &0 })
        );
        assert_eq!(inflight.resend(|_| true), None, "the window is full");
        inflight.acknowledge(AckKind::Puback, 1, false);
        assert_eq!(inflight.resend(|_| true), Some(Resend::Pubrel { id: 2 }));
        inflight.acknowledge(AckKind::Pubcomp, 2, false);
        assert_eq!(inflight.resend(|_| true), None);
        assert_eq!((inflight.has_room(), inflight.push(9, Qos::AtLeastOnce, None)), (true, 4));
    }

    #[test]
    fn identifiers_wrap_without_zero() {
        let mut inflight = filled(1, &[]);
        for round in 0..70_000usize {
            let id = inflight.push(round, Qos::AtLeastOnce, None);
            assert_eq!(usize::from(id), round % 65_535 + 1);
            assert_eq!(inflight.acknowledge(AckKind::Puback, id, false), Acked::Done(None));
        }
    }

    #[test]
    fn a_client_that_never_acknowledges_one_message_stops_itself() {
        let mut inflight = filled(2, &[Qos::AtLeastOnce]);
        let mut sent = 1;
        while inflight.has_room() {
            let id = inflight.push(sent, Qos::AtLeastOnce, None);
            inflight.acknowledge(AckKind::Puback, id, false);
            sent += 1;
        }
        assert_eq!(sent, SPAN);
        inflight.acknowledge(AckKind::Puback, 1, false);
        assert!(inflight.has_room());
    }

    fn persisted(ticket: Ticket) -> Option<Persisted> {
        Some(Persisted { row: Store::off().next_row(), ticket, gate: None })
    }

    #[test]
    fn what_waits_for_the_disk_holds_up_what_is_behind_it() {
        let mut inflight = filled(3, &[]);
        inflight.line_up(0, Qos::ExactlyOnce, persisted(Ticket::DONE));
        inflight.line_up(1, Qos::AtLeastOnce, persisted(Ticket::DONE));
        assert!(inflight.has_room() && !inflight.is_level());
        assert_eq!(inflight.resend(|_| false), Some(Resend::Unwritten));
        assert_eq!(inflight.acknowledge(AckKind::Pubrec, 1, false), Acked::Unknown, "it was never sent");
        assert!(matches!(inflight.resend(|_| true), Some(Resend::Publish { id: 1, dup: false, message: 0, .. })));
        assert!(matches!(inflight.resend(|_| false), Some(Resend::Publish { id: 2, dup: false, message: 1, .. })));
        assert!(inflight.has_room() && inflight.is_level());
        let Acked::Release(Some(_)) = inflight.acknowledge(AckKind::Pubrec, 1, false) else { panic!() };
        inflight.released(1, Ticket::DONE);
        inflight.connect(3);
        assert_eq!(inflight.resend(|_| false), Some(Resend::Unwritten), "PUBREL waits too");
        assert_eq!(inflight.resend(|_| true), Some(Resend::Pubrel { id: 1 }));
        assert!(matches!(inflight.resend(|_| false), Some(Resend::Publish { id: 2, dup: true, .. })));
        assert!(matches!(inflight.acknowledge(AckKind::Puback, 2, false), Acked::Done(Some(_))));
    }

    #[test]
    fn what_was_restored_keeps_its_identifiers_and_its_order() {
        let unfinished = |id, message: Option<usize>| Unfinished {
            id,
            row: Store::off().next_row(),
            message: message.map(|message| (message, Qos::ExactlyOnce)),
        };
        let mut inflight = Inflight::default();
        inflight.restore(vec![unfinished(2, Some(7)), unfinished(65_534, None), unfinished(1, Some(6))]);
        inflight.connect(10);
        assert_eq!((inflight.len(), inflight.next_id()), (3, 3));
        let ids: Vec<_> = inflight.iter_mut().map(|(id, message, _)| (id, message.copied())).collect();
        assert_eq!(ids, [(65_534, None), (1, Some(6)), (2, Some(7))]);
        assert_eq!(inflight.resend(|_| true), Some(Resend::Pubrel { id: 65_534 }));
        assert!(matches!(inflight.resend(|_| true), Some(Resend::Publish { id: 1, dup: true, message: 6, .. })));
        assert!(matches!(inflight.resend(|_| true), Some(Resend::Publish { id: 2, dup: true, message: 7, .. })));
        assert_eq!(inflight.resend(|_| true), None);
        let mut none: Inflight<usize> = Inflight::default();
        none.restore(Vec::new());
        assert_eq!(none.next_id(), 1);
    }

    proptest! {
        /// Whatever a client acknowledges, the window holds and identifiers in use are distinct.
        #[test]
        fn any_acknowledgements_keep_the_window(window in 1u16..8, steps in proptest::collection::vec((0u8..6, 1u16..12), 0..200)) {
            let mut inflight = Inflight::default();
            inflight.connect(window);
            for (step, id) in steps {
                match step {
                    0 | 1 if inflight.has_room() && inflight.is_level() => {
                        inflight.push((), if step == 0 { Qos::AtLeastOnce } else { Qos::ExactlyOnce }, None);
                    }
                    2 => drop(inflight.acknowledge(AckKind::Puback, id, false)),
                    3 => drop(inflight.acknowledge(AckKind::Pubrec, id, false)),
                    4 => drop(inflight.acknowledge(AckKind::Pubcomp, id, false)),
                    5 => {
                        inflight.connect(window);
                        while inflight.resend(|_| true).is_some() {}
                    }
                    _ => {}
                }
                prop_assert!(inflight.len() <= usize::from(window));
                prop_assert!(inflight.on_the_way <= usize::from(window));
            }
        }
    }
}
