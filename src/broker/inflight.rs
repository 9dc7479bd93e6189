//! QoS 1 and 2 messages on the way to one client. Pure: the session does the I/O.

use std::collections::VecDeque;

use super::packet::AckKind;
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
enum Slot<T> {
    Publish { message: T, qos: Qos },
    Released,
    Done,
}

/// What is to be sent again on a new connection.
#[derive(Debug, PartialEq, Eq)]
pub enum Resend<'a, T> {
    /// PUBLISH with DUP [MQTT-4.4.0-1].
    Publish {
        /// The identifier it had.
        id: u16,
        /// The QoS it had.
        qos: Qos,
        /// The message.
        message: &'a T,
    },
    /// PUBREL.
    Pubrel {
        /// The identifier of its PUBLISH.
        id: u16,
    },
}

/// What an acknowledgement calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acked {
    /// The message is done.
    Done,
    /// PUBREL is to be sent.
    Release,
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

    /// The next message to send again, if the window has room. Call until `None`, then [`Inflight::has_room`].
    pub fn resend(&mut self) -> Option<Resend<'_, T>> {
        while self.on_the_way < self.window && self.sent < self.slots.len() {
            let index = self.sent;
            let id = self.id_at(index);
            self.sent += 1;
            if !matches!(self.slots[index], Slot::Done) {
                self.on_the_way += 1;
                return match &self.slots[index] {
                    Slot::Publish { message, qos } => Some(Resend::Publish { id, qos: *qos, message }),
                    _ => Some(Resend::Pubrel { id }),
                };
            }
        }
        None
    }

    /// Whether a new message may be sent.
    pub fn has_room(&self) -> bool {
        self.sent == self.slots.len() && self.on_the_way < self.window && self.slots.len() < SPAN.max(self.window)
    }

    /// The identifier that the next message will have.
    pub fn next_id(&self) -> u16 {
        self.id_at(self.slots.len())
    }

    /// Takes in a message that is sent now and returns its identifier. Call only if [`Inflight::has_room`].
    pub fn push(&mut self, message: T, qos: Qos) -> u16 {
        debug_assert!(self.has_room() && qos > Qos::AtMostOnce);
        let id = self.next_id();
        self.slots.push_back(Slot::Publish { message, qos });
        self.sent += 1;
        self.on_the_way += 1;
        id
    }

    /// Leaves out the next identifier, as if a message had been sent with it and acknowledged.
    pub fn skip_id(&mut self) {
        self.slots.push_back(Slot::Done);
        self.sent += 1;
        self.trim();
    }

    /// An acknowledgement came; `failed`: with a reason code of 0x80 or above, which ends the exchange.
    pub fn acknowledge(&mut self, kind: AckKind, id: u16, failed: bool) -> Acked {
        let index = (usize::from(id) + IDS - usize::from(self.first_id)) % IDS;
        let Some(slot) = self.slots.get_mut(index) else { return Acked::Unknown };
        match (kind, &*slot) {
            (_, Slot::Done) => return Acked::Unknown,
            (AckKind::Puback, Slot::Publish { qos: Qos::AtLeastOnce, .. }) | (AckKind::Pubcomp, Slot::Released) => {}
            (AckKind::Pubrec, Slot::Publish { qos: Qos::ExactlyOnce, .. }) if failed => {}
            (AckKind::Pubrec, Slot::Publish { qos: Qos::ExactlyOnce, .. } | Slot::Released) => {
                *slot = Slot::Released;
                return Acked::Release;
            }
            _ => return Acked::Unexpected,
        }
        self.finish(index);
        Acked::Done
    }

    /// Gives up a message that cannot be sent on this connection.
    pub fn abandon(&mut self, id: u16) {
        let index = (usize::from(id) + IDS - usize::from(self.first_id)) % IDS;
        if self.slots.get(index).is_some_and(|slot| !matches!(slot, Slot::Done)) {
            self.finish(index);
        }
    }

    /// The messages that were sent and not taken over by the client.
    pub fn into_messages(self) -> impl Iterator<Item = T> {
        self.slots.into_iter().filter_map(|slot| match slot {
            Slot::Publish { message, .. } => Some(message),
            Slot::Released | Slot::Done => None,
        })
    }

    /// Messages not acknowledged.
    pub fn len(&self) -> usize {
        self.slots.iter().filter(|slot| !matches!(slot, Slot::Done)).count()
    }

    /// Messages sent on this connection, or the last one, and not acknowledged.
    pub fn on_the_way(&self) -> usize {
        self.on_the_way
    }

    fn finish(&mut self, index: usize) {
        self.slots[index] = Slot::Done;
        if index < self.sent {
            self.on_the_way -= 1;
        }
        self.trim();
    }

    /// Forgets what is done, up to the oldest that is not.
    fn trim(&mut self) {
        while matches!(self.slots.front(), Some(Slot::Done)) {
            self.slots.pop_front();
            self.first_id = self.id_at(1);
            self.sent = self.sent.saturating_sub(1);
        }
    }

    fn id_at(&self, index: usize) -> u16 {
        // At most 65 535, because of the remainder.
        ((usize::from(self.first_id) - 1 + index) % IDS + 1) as u16
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn filled(window: u16, qos: &[Qos]) -> Inflight<usize> {
        let mut inflight = Inflight::default();
        inflight.connect(window);
        for (message, &qos) in qos.iter().enumerate() {
            inflight.push(message, qos);
        }
        inflight
    }

    #[test]
    fn the_window_closes_and_opens() {
        let mut inflight = filled(2, &[Qos::AtLeastOnce, Qos::AtLeastOnce]);
        assert!(!inflight.has_room());
        assert_eq!(inflight.acknowledge(AckKind::Puback, 2, false), Acked::Done);
        assert!(inflight.has_room());
        assert_eq!(inflight.push(2, Qos::AtLeastOnce), 3);
        assert_eq!(inflight.acknowledge(AckKind::Puback, 2, false), Acked::Unknown);
    }

    #[test]
    fn an_identifier_can_be_left_out() {
        let mut inflight = filled(3, &[]);
        inflight.skip_id();
        assert_eq!((inflight.len(), inflight.push(1, Qos::AtLeastOnce)), (0, 2));
        inflight.skip_id();
        assert_eq!(inflight.push(2, Qos::AtLeastOnce), 4);
        assert_eq!(inflight.acknowledge(AckKind::Puback, 3, false), Acked::Unknown);
        assert_eq!(inflight.acknowledge(AckKind::Puback, 2, false), Acked::Done);
        assert_eq!(inflight.acknowledge(AckKind::Puback, 4, false), Acked::Done);
        assert_eq!((inflight.len(), inflight.next_id()), (0, 5));
    }

    #[test]
    fn qos_2_takes_two_steps() {
        let mut inflight = filled(5, &[Qos::ExactlyOnce, Qos::ExactlyOnce]);
        assert_eq!(inflight.acknowledge(AckKind::Puback, 1, false), Acked::Unexpected);
        assert_eq!(inflight.acknowledge(AckKind::Pubcomp, 1, false), Acked::Unexpected);
        assert_eq!(inflight.acknowledge(AckKind::Pubrec, 1, false), Acked::Release);
        assert_eq!(inflight.acknowledge(AckKind::Puback, 1, false), Acked::Unexpected);
        assert_eq!(inflight.acknowledge(AckKind::Pubrec, 1, false), Acked::Release);
        assert_eq!(inflight.acknowledge(AckKind::Pubcomp, 1, false), Acked::Done);
        assert_eq!(inflight.acknowledge(AckKind::Pubrec, 2, true), Acked::Done);
        assert_eq!(inflight.len(), 0);
    }

    #[test]
    fn a_new_connection_gets_all_again_in_order() {
        let mut inflight = filled(5, &[Qos::AtLeastOnce, Qos::ExactlyOnce, Qos::AtLeastOnce]);
        inflight.acknowledge(AckKind::Pubrec, 2, false);
        inflight.acknowledge(AckKind::Puback, 3, false);
        inflight.connect(1);
        assert!(!inflight.has_room(), "nothing new before the old");
        assert_eq!(inflight.resend(), Some(Resend::Publish { id: 1, qos: Qos::AtLeastOnce, message: &0 }));
        assert_eq!(inflight.resend(), None, "the window is full");
        inflight.acknowledge(AckKind::Puback, 1, false);
        assert_eq!(inflight.resend(), Some(Resend::Pubrel { id: 2 }));
        inflight.acknowledge(AckKind::Pubcomp, 2, false);
        assert_eq!(inflight.resend(), None);
        assert_eq!((inflight.has_room(), inflight.push(9, Qos::AtLeastOnce)), (true, 4));
    }

    #[test]
    fn identifiers_wrap_without_zero() {
        let mut inflight = filled(1, &[]);
        for round in 0..70_000usize {
            let id = inflight.push(round, Qos::AtLeastOnce);
            assert_eq!(usize::from(id), round % 65_535 + 1);
            assert_eq!(inflight.acknowledge(AckKind::Puback, id, false), Acked::Done);
        }
    }

    #[test]
    fn a_client_that_never_acknowledges_one_message_stops_itself() {
        let mut inflight = filled(2, &[Qos::AtLeastOnce]);
        let mut sent = 1;
        while inflight.has_room() {
            let id = inflight.push(sent, Qos::AtLeastOnce);
            inflight.acknowledge(AckKind::Puback, id, false);
            sent += 1;
        }
        assert_eq!(sent, SPAN);
        inflight.acknowledge(AckKind::Puback, 1, false);
        assert!(inflight.has_room());
    }

    proptest! {
        /// Whatever a client acknowledges, the window holds and identifiers in use are distinct.
        #[test]
        fn any_acknowledgements_keep_the_window(window in 1u16..8, steps in proptest::collection::vec((0u8..6, 1u16..12), 0..200)) {
            let mut inflight = Inflight::default();
            inflight.connect(window);
            for (step, id) in steps {
                match step {
                    0 | 1 if inflight.has_room() => {
                        inflight.push((), if step == 0 { Qos::AtLeastOnce } else { Qos::ExactlyOnce });
                    }
                    2 => drop(inflight.acknowledge(AckKind::Puback, id, false)),
                    3 => drop(inflight.acknowledge(AckKind::Pubrec, id, false)),
                    4 => drop(inflight.acknowledge(AckKind::Pubcomp, id, false)),
                    5 => {
                        inflight.connect(window);
                        while inflight.resend().is_some() {}
                    }
                    _ => {}
                }
                prop_assert!(inflight.len() <= usize::from(window));
                prop_assert!(inflight.on_the_way <= usize::from(window));
            }
        }
    }
}
