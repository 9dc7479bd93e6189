//! From the bus to the client: matching, queueing, the in-flight window, encoding.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Session;
use super::inflight::{Persisted, Resend};
use super::wire::Wire;
use crate::broker::auth::acl::Rights;
use crate::broker::message::Message;
use crate::broker::packet::{Ack, AckKind, OutgoingPublish, Reason, Version, write_ack};
use crate::broker::share::Outgoing;
use crate::broker::shutdown::Stage;
use crate::log_limit::excerpt;
use crate::qos::Qos;
use crate::stats::DropReason;

impl Session {
    /// Moves messages from the inbox and the queues into the output, as far as the window and the buffer allow.
    pub(super) fn pump(&mut self, wire: &mut Wire, now: Instant) {
        if self.replies.blocks_messages() {
            // What a subscription brings comes behind its SUBACK; the rest of it can wait as long.
            return self.take_inbox(None, now);
        }
        self.resend(wire, now);
        while wire.takes_messages() {
            let queue_is_next = self.backlog.is_empty();
            let next = if queue_is_next { self.queue.front() } else { self.backlog.front() };
            if !next.is_some_and(|next| self.can_send(next.qos)) {
                break;
            }
            let taken = if queue_is_next { self.queue.pop() } else { self.backlog.pop_front() };
            if self.backlog.is_empty() {
                self.backlog.shrink_to_fit();
            }
            if let Some(outgoing) = taken {
                self.transmit(wire, outgoing, now);
            }
        }
        self.pump_shares(wire, now);
        self.take_inbox(Some(wire), now);
        if !self.inflight.is_level() {
            self.resend(wire, now);
        }
    }

    /// Whether a message may be taken in for the client.
    fn can_send(&self, qos: Qos) -> bool {
        if qos == Qos::AtMostOnce { !self.is_writing } else { self.inflight.has_room() }
    }

    /// Takes what came from the bus: to `wire`, if that takes it now, or else into the queue.
    fn take_inbox(&mut self, mut wire: Option<&mut Wire>, now: Instant) {
        let may_hold = self.context.shutdown.stage() < Stage::Draining;
        while let Some(received) = self.inbox.front() {
            let gate = received.gate();
            if let Some(mut outgoing) = self.select(&received.message) {
                let can_send = self.backlog.is_empty() && self.queue.is_empty() && self.can_send(outgoing.qos);
                let at_once = wire.as_deref_mut().filter(|wire| can_send && wire.takes_messages());
                let over_half = may_hold && self.queue.is_over_half();
                if at_once.is_none() && self.pace.hold(now, over_half, self.delivered) {
                    break;
                }
                if let Some(journal) = &self.journal {
                    journal.enqueue(&mut outgoing, gate);
                }
                match at_once {
                    Some(wire) => self.transmit(wire, outgoing, now),
                    None => self.enqueue(outgoing, now),
                }
            }
            if let Some(received) = self.inbox.pop_front() {
                received.persisted();
            }
        }
    }

    /// Sends what came by shared subscriptions. What cannot be sent at once stays where others can have it.
    fn pump_shares(&mut self, wire: &mut Wire, now: Instant) {
        if self.shares.is_idle() {
            return;
        }
        loop {
            let takes = self.backlog.is_empty() && self.queue.is_empty() && wire.takes_messages();
            let can_send = |next: &Outgoing| takes && self.can_send(next.qos);
            let Some(outgoing) = self.shares.take_if(can_send) else { break };
            if !self.may_read(outgoing.message.topic()) {
                if let Some(journal) = &self.journal {
                    journal.discard(&outgoing);
                }
                self.dropped(DropReason::Denied, 1, now);
                continue;
            }
            self.transmit(wire, outgoing, now);
        }
    }

    /// Without a connection QoS 1 and 2 are kept and QoS 0 is not (MQTT 5.0, section 4.1).
    pub(super) fn pump_offline(&mut self, now: Instant) {
        let mut skipped = 0;
        while let Some(received) = self.inbox.pop_front() {
            match self.select(&received.message) {
                Some(outgoing) if outgoing.qos == Qos::AtMostOnce => skipped += 1,
                Some(mut outgoing) => {
                    if let Some(journal) = &self.journal {
                        journal.enqueue(&mut outgoing, received.gate());
                    }
                    self.enqueue(outgoing, now);
                }
                None => {}
            }
            received.persisted();
        }
        self.dropped(DropReason::Offline, skipped, now);
    }

    fn select(&self, message: &Message) -> Option<Outgoing> {
        let found = self.subscriptions.matches(message, self.number)?;
        if !self.may_read(message.topic()) {
            return None;
        }
        Some(Outgoing {
            qos: found.qos.min(message.qos()),
            // A live message carries RETAIN 0 unless the subscription wants it kept [MQTT-3.3.1-12, MQTT-3.3.1-13].
            retain: found.retain_as_published && message.retain(),
            ids: found.ids,
            group: None,
            row: None,
            is_persisted: false,
            message: message.clone(),
        })
    }

    pub(super) fn enqueue(&mut self, outgoing: Outgoing, now: Instant) {
        let (size, journal) = (outgoing.message.size(), self.journal.as_ref());
        let dropped = self.queue.push(outgoing, size, |outgoing| {
            if let Some(journal) = journal {
                journal.dequeue(outgoing.row);
            }
        });
        self.dropped(DropReason::QueueFull, dropped, now);
    }

    /// Sends again what the last connection left unacknowledged, in the order it was first sent [MQTT-4.6.0-1], and
    /// what waited for the disk.
    fn resend(&mut self, wire: &mut Wire, now: Instant) {
        self.is_writing = false;
        while wire.takes_messages() {
            let journal = self.journal.as_ref();
            let is_written = |persisted: &Persisted| journal.is_none_or(|journal| journal.is_written(persisted));
            let (id, reason) = match self.inflight.resend(is_written) {
                None => return,
                Some(Resend::Unwritten) => {
                    self.is_writing = true;
                    return;
                }
                Some(Resend::Pubrel { id }) => {
                    let pubrel = Ack { kind: AckKind::Pubrel, id, reason: Reason::SUCCESS };
                    write_ack(&mut wire.output, &wire.recipient, pubrel);
                    continue;
                }
                // Another user may have the client id now, or fewer rights.
                Some(Resend::Publish { id, message, .. }) if !may_read(&self.rights, message) => {
                    (id, DropReason::Denied)
                }
                Some(Resend::Publish { id, message, dup, .. }) => {
                    let packet = encode(message, wire.version, id, dup, now);
                    if packet.size(wire.version) <= wire.recipient.maximum_packet_size {
                        packet.write(wire.version, &mut wire.output);
                        self.delivered += u64::from(!dup);
                        self.counters.message_out(message.message.payload_bytes().len());
                        continue;
                    }
                    (id, DropReason::TooLong)
                }
            };
            let row = self.inflight.abandon(id);
            if let Some(journal) = &self.journal {
                journal.dequeue(row);
            }
            self.dropped(reason, 1, now);
        }
    }

    /// Encodes one message for the client. With QoS 1 and 2 the window must have room.
    fn transmit(&mut self, wire: &mut Wire, mut outgoing: Outgoing, now: Instant) {
        if outgoing.is_expired(now) {
            return self.leave_out(&outgoing, DropReason::Expired, now);
        }
        let qos = outgoing.qos;
        if qos > Qos::AtMostOnce && (!self.inflight.is_level() || (qos == Qos::ExactlyOnce && self.journal.is_some())) {
            let id = self.inflight.next_id();
            let persisted = self.journal.as_ref().and_then(|journal| journal.assign(&mut outgoing, id));
            self.is_writing |= persisted.is_some();
            return self.inflight.line_up(outgoing, qos, persisted);
        }
        let topic = outgoing.message.topic();
        let mut packet = encode(&outgoing, wire.version, self.inflight.next_id(), false, now);
        let alias = wire.aliases.outgoing(topic);
        if let Some((alias, known)) = alias {
            packet.alias = Some(alias);
            packet.topic = if known { &[] } else { packet.topic };
        }
        if packet.size(wire.version) > wire.recipient.maximum_packet_size {
            // Treated as if it had been sent [MQTT-3.1.2-25].
            return self.leave_out(&outgoing, DropReason::TooLong, now);
        }
        packet.write(wire.version, &mut wire.output);
        if let Some((alias, false)) = alias {
            wire.aliases.told(topic, alias);
        }
        self.delivered += 1;
        self.counters.message_out(outgoing.message.payload_bytes().len());
        if qos > Qos::AtMostOnce {
            let id = self.inflight.next_id();
            let persisted = self.journal.as_ref().and_then(|journal| journal.assign(&mut outgoing, id));
            self.inflight.push(outgoing, qos, persisted);
        }
    }

    /// Drops a message whose turn has come, with its packet identifier: as with mosquitto, which gives them out before.
    fn leave_out(&mut self, outgoing: &Outgoing, reason: DropReason, now: Instant) {
        if outgoing.qos > Qos::AtMostOnce {
            self.inflight.skip_id();
        }
        if let Some(journal) = &self.journal {
            journal.discard(outgoing);
        }
        self.dropped(reason, 1, now);
    }

    /// Counts drops and logs them at most once a minute.
    pub(super) fn dropped(&mut self, reason: DropReason, n: u64, now: Instant) {
        if n == 0 {
            return;
        }
        self.context.stats.dropped.add(reason, n);
        if let Some(messages) = self.drop_log.events(now, n) {
            let client_id = excerpt(&self.client_id);
            tracing::warn!(client_id, reason = reason.as_str(), messages, "messages for this client were dropped");
        }
    }
}

fn may_read(rights: &Option<Arc<Rights>>, outgoing: &Outgoing) -> bool {
    rights.as_ref().is_none_or(|rights| rights.may_read(outgoing.message.topic()))
}

fn encode(outgoing: &Outgoing, version: Version, id: u16, dup: bool, now: Instant) -> OutgoingPublish<'_> {
    let Outgoing { message, qos, retain, ids, .. } = outgoing;
    OutgoingPublish {
        dup,
        qos: *qos,
        retain: *retain,
        id,
        topic: message.topic().as_bytes(),
        payload: message.payload_bytes(),
        properties: message.properties(),
        expiry: match version {
            Version::V5 => message.expires().map(|expires| remaining_seconds(expires, now)),
            Version::V31 | Version::V311 => None,
        },
        subscription_ids: ids,
        alias: None,
    }
}

/// What is left of a message expiry interval [MQTT-3.3.2-6], rounded up so that an unspent one comes out as it went in.
fn remaining_seconds(expires: Instant, now: Instant) -> u32 {
    let left = expires.saturating_duration_since(now) + Duration::from_millis(999);
    u32::try_from(left.as_secs()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remaining_interval_is_rounded_up() {
        let now = Instant::now();
        let at = |ms| remaining_seconds(now + Duration::from_millis(ms), now);
        assert_eq!((at(0), at(1), at(5000), at(4001), at(3999)), (0, 1, 5, 5, 4));
    }
}
