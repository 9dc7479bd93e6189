//! From the client: every packet after CONNECT.

use std::time::{Duration, Instant};

use super::replies::MAX_REPLIES;
use super::wire::{Held, Wire};
use super::{End, Session, journal};
use crate::broker::admission::receive_maximum;
use crate::broker::bus::TryPublishError;
use crate::broker::message::{Draft, Envelope};
use crate::broker::packet::{
    Ack, AckKind, Frame, IncomingPublish, Packet, PacketError, Reason, Subscribe, SubscribeEntry, Unsubscribe, Version,
    check_answer, write_pingresp, write_suback, write_unsuback,
};
use crate::broker::session_expiry::SessionExpiry;
use crate::broker::share::{Outgoing, ShareError, ShareFilter, ShareOptions, TooManyGroups};
use crate::broker::store::{Store, StoredSubscription};
use crate::broker::subscriptions::{RetainHandling, Subscription, SubscriptionOptions};
use crate::qos::Qos;
use crate::stats::DropReason;
use crate::topic::{TopicFilter, is_reserved, is_too_deep};

/// What a SUBSCRIBE asks for.
enum Wanted {
    Own(TopicFilter),
    Shared(ShareFilter),
}

impl Wanted {
    /// What is no filter breaks the protocol: the codes of SUBACK and UNSUBACK are for filters that are well-formed
    /// (MQTT 5.0, sections 3.9.3 and 3.11.3), and mosquitto closes too.
    fn parse(text: &str) -> Result<Wanted, PacketError> {
        // The share name counts, too, as with mosquitto.
        if is_too_deep(text) {
            return Err(PacketError::malformed("a topic of more than 201 levels"));
        }
        match ShareFilter::parse(text) {
            Some(Ok(share)) => Ok(Wanted::Shared(share)),
            Some(Err(ShareError)) => {
                Err(PacketError::protocol("a shared subscription without a name or a filter [MQTT-4.8.2-1, -2]"))
            }
            None => TopicFilter::new(text)
                .map(Wanted::Own)
                .map_err(|_| PacketError::malformed("no topic filter [MQTT-4.7.1]")),
        }
    }

    fn filter(&self) -> &TopicFilter {
        match self {
            Wanted::Own(filter) => filter,
            Wanted::Shared(share) => share.filter(),
        }
    }
}

/// Subscriptions of one session, shared ones included.
const MAX_SUBSCRIPTIONS: usize = 65_536;

/// Batches taken from the bus before a subscription begins; see [`Session::catch_up`].
const CATCH_UP: usize = 16;

impl Session {
    /// Handles the packets that have come, until one has to wait.
    pub(super) fn handle_input(&mut self, wire: &mut Wire, now: Instant) -> Result<(), End> {
        loop {
            wire.is_paused = self.replies.len() >= MAX_REPLIES;
            if !wire.takes_packets() {
                break;
            }
            let Some(frame) = Frame::split(&mut wire.input, self.settings.max_packet_size)? else { break };
            wire.liveness.heard(now);
            self.counters.packets_in += 1;
            match Packet::parse(wire.version, frame)? {
                Packet::Publish(publish) if self.is_silent() => {
                    // Not acknowledged: with QoS 1 and 2 it comes again.
                    self.counters.message_in(publish.payload.len());
                    self.dropped(DropReason::Refused, 1, now);
                }
                Packet::Publish(publish) => self.publish(wire, publish, now)?,
                Packet::Ack(ack) => self.acknowledged(wire, ack)?,
                Packet::Subscribe(packet) => self.subscribe(wire, packet, now)?,
                Packet::Unsubscribe(packet) => self.unsubscribe(wire, packet)?,
                Packet::Pingreq => write_pingresp(&mut wire.output),
                Packet::Disconnect { reason, session_expiry } => {
                    self.change_expiry(wire, session_expiry)?;
                    return Err(End::Disconnect(reason));
                }
            }
        }
        Ok(())
    }

    fn publish(&mut self, wire: &mut Wire, mut publish: IncomingPublish, now: Instant) -> Result<(), End> {
        if let Some(alias) = publish.alias {
            publish.topic = wire.aliases.resolve(publish.topic, alias)?;
        }
        self.check_publish(&publish)?;
        if publish.qos == Qos::ExactlyOnce {
            if self.received.contains(&publish.id) {
                if !wire.repeated.insert(publish.id) {
                    // On one connection nothing is to be sent again at all [MQTT-4.4.0-1]; once is forgiven.
                    return Err(PacketError::protocol("a QoS 2 message for the third time").into());
                }
                if !self.replies.renew(publish.id) {
                    self.reply(wire, Ack { kind: AckKind::Pubrec, id: publish.id, reason: Reason::SUCCESS });
                }
                return Ok(());
            }
            if wire.version == Version::V5 && self.received.len() >= usize::from(receive_maximum(&self.settings)) {
                let what = "more than Receive Maximum [MQTT-3.3.4-9]";
                return Err(PacketError { reason: Reason::RECEIVE_MAXIMUM_EXCEEDED, what }.into());
            }
        }
        self.counters.message_in(publish.payload.len());
        // The parser has checked it.
        let topic = std::str::from_utf8(&publish.topic).unwrap_or_default();
        let refused = match is_reserved(topic) {
            true => Some(DropReason::Refused),
            false => (!self.may_write(topic)).then_some(DropReason::Denied),
        };
        if let Some(reason) = refused {
            self.dropped(reason, 1, now);
            self.answer(wire, publish.qos, publish.id, Reason::NOT_AUTHORIZED, None);
            return Ok(());
        }
        let envelope = Envelope::new(&Draft {
            topic,
            payload: &publish.payload,
            qos: publish.qos,
            retain: publish.retain,
            origin: self.number,
            expires: publish.expiry.map(|seconds| now + Duration::from_secs(seconds.into())),
            properties: &publish.properties,
        });
        let opens = publish.qos == Qos::ExactlyOnce && self.journal.is_some();
        let envelope = if opens { envelope.gated() } else { envelope };
        self.hand_over(wire, envelope, publish.id)
    }

    /// Gives a message to the bus and acknowledges it, or holds it until the bus has room.
    pub(super) fn hand_over(&mut self, wire: &mut Wire, envelope: Envelope, id: u16) -> Result<(), End> {
        let qos = envelope.qos();
        match self.context.bus.try_publish(envelope) {
            Ok(published) => {
                // In QoS 2 the server tells it nobody (as mosquitto): the client may take it for a failure.
                let unread = !published.is_read() && qos == Qos::AtLeastOnce;
                let reason = if unread { Reason::NO_MATCHING_SUBSCRIBERS } else { Reason::SUCCESS };
                self.answer(wire, qos, id, reason, Some(published));
                Ok(())
            }
            Err(TryPublishError::Busy(envelope, room)) => {
                wire.held = Some(Held { envelope, id, room });
                Ok(())
            }
            Err(TryPublishError::Bus(error)) => Err(error.into()),
        }
    }

    fn check_publish(&self, publish: &IncomingPublish) -> Result<(), PacketError> {
        let settings = &self.settings;
        let refuse = |reason, what| Err(PacketError { reason, what });
        if publish.qos > settings.max_qos {
            return refuse(Reason::QOS_NOT_SUPPORTED, "a QoS above max_qos [MQTT-3.2.2-11]");
        }
        if publish.retain && !settings.retained {
            return refuse(Reason::RETAIN_NOT_SUPPORTED, "RETAIN 1, and retained is false [MQTT-3.2.2-14]");
        }
        if publish.payload.len() > settings.max_payload_size {
            return refuse(Reason::PACKET_TOO_LARGE, "a payload larger than max_payload_size");
        }
        Ok(())
    }

    fn change_expiry(&self, wire: &mut Wire, seconds: Option<u32>) -> Result<(), PacketError> {
        let Some(seconds) = seconds else { return Ok(()) };
        if wire.session_expiry.is_zero() && seconds > 0 {
            return Err(PacketError::protocol("a session expiry interval in DISCONNECT after 0 in CONNECT"));
        }
        wire.session_expiry = SessionExpiry::grant(seconds, self.settings.session_expiry_limit);
        Ok(())
    }

    /// Subscribes, answers with SUBACK, and puts the retained messages behind it.
    fn subscribe(&mut self, wire: &mut Wire, mut packet: Subscribe, now: Instant) -> Result<(), End> {
        check_answer(&wire.recipient, packet.entries.len())?;
        if packet.entries.iter().any(|entry| entry.no_local && ShareFilter::parse(&entry.filter).is_some()) {
            return Err(PacketError::protocol("No Local for a shared subscription [MQTT-3.8.3-4]").into());
        }
        let wanted = packet.entries.iter().map(|entry| Wanted::parse(&entry.filter));
        let wanted = wanted.collect::<Result<Vec<_>, _>>()?;
        if wire.is_bridge {
            for entry in &mut packet.entries {
                (entry.no_local, entry.retain_as_published) = (true, true);
            }
        }
        self.catch_up(wire, now);
        // Retained messages of earlier subscriptions wait for a client that does not read them.
        let backlogged = self.backlog.len() > self.settings.max_retained;
        let allowed: Vec<bool> = wanted.iter().map(|wanted| self.may_subscribe(wanted.filter())).collect();
        let mut codes = Vec::with_capacity(wanted.len());
        for ((entry, wanted), allowed) in packet.entries.iter().zip(wanted).zip(allowed) {
            let qos = entry.qos.min(self.settings.max_qos);
            let full = self.subscriptions.len() + self.shares.len() >= MAX_SUBSCRIPTIONS;
            codes.push(match wanted {
                _ if !allowed => Reason::NOT_AUTHORIZED,
                _ if full => Reason::QUOTA_EXCEEDED,
                Wanted::Shared(share) => self.join_group(share, entry, qos, packet.subscription_id),
                Wanted::Own(_) if backlogged => Reason::QUOTA_EXCEEDED,
                Wanted::Own(filter) => {
                    self.add_subscription(filter, entry, qos, packet.subscription_id);
                    Reason(qos as u8)
                }
            });
        }
        self.reply_encoded(wire, |output, version| write_suback(output, version, packet.id, &codes));
        Ok(())
    }

    /// Joins the group of a shared subscription. Retained messages do not come by it (MQTT 5.0, section 4.8.2).
    fn join_group(&mut self, share: ShareFilter, entry: &SubscribeEntry, qos: Qos, id: Option<u32>) -> Reason {
        let options = ShareOptions { qos, retain_as_published: entry.retain_as_published, id };
        match self.shares.join(share, options) {
            Ok(()) => {
                if let Some(journal) = &self.journal {
                    journal.subscribe(journal::shared(entry.filter.as_str().into(), options));
                }
                Reason(qos as u8)
            }
            Err(TooManyGroups) => Reason::QUOTA_EXCEEDED,
        }
    }

    /// Adds or replaces one subscription and takes its retained messages.
    fn add_subscription(&mut self, filter: TopicFilter, entry: &SubscribeEntry, qos: Qos, id: Option<u32>) {
        // Before the retained messages are looked up: what is published meanwhile comes live.
        self.reader.subscribe(&filter);
        let before = self.subscriptions.get(&filter).copied();
        let retain_handling = match entry.retain_handling {
            0 => RetainHandling::Always,
            1 => RetainHandling::IfNew,
            _ => RetainHandling::Never,
        };
        let mut retained_floor = before.map_or(0, |subscription| subscription.retained_floor);
        let wants_retained = match retain_handling {
            RetainHandling::Always => true,
            RetainHandling::IfNew => before.is_none(),
            RetainHandling::Never => false,
        };
        if wants_retained {
            let snapshot = self.context.bus.retained(&filter);
            retained_floor = snapshot.version;
            let messages = snapshot.messages.into_iter();
            let mine = messages.filter(|message| !(entry.no_local && message.origin() == self.number));
            let rights = self.rights.as_deref();
            let mine = mine.filter(|message| rights.is_none_or(|rights| rights.may_read(message.topic())));
            // Their place in the order on disk is here; they are written when they are sent, or left over.
            let store = self.journal.as_ref().map(|_| &self.context.store);
            self.backlog.extend(mine.map(|message| Outgoing {
                qos: message.qos().min(qos),
                retain: true,
                ids: id.into_iter().collect(),
                group: None,
                row: store.filter(|_| message.qos().min(qos) > Qos::AtMostOnce).map(Store::next_row),
                is_persisted: false,
                message,
            }));
        }
        let options = SubscriptionOptions {
            qos,
            no_local: entry.no_local,
            retain_as_published: entry.retain_as_published,
            retain_handling,
        };
        if let Some(journal) = &self.journal {
            journal.subscribe(StoredSubscription { filter: filter.as_str().into(), options, id });
        }
        self.subscriptions.insert(filter, Subscription { options, id, retained_floor });
    }

    fn unsubscribe(&mut self, wire: &mut Wire, packet: Unsubscribe) -> Result<(), PacketError> {
        check_answer(&wire.recipient, packet.filters.len())?;
        let unwanted = packet.filters.iter().map(|filter| Wanted::parse(filter));
        let unwanted = unwanted.collect::<Result<Vec<_>, _>>()?;
        let remove = |unwanted| {
            let existed = match unwanted {
                Wanted::Shared(share) => self.shares.leave(&share),
                Wanted::Own(filter) => {
                    self.reader.unsubscribe(&filter);
                    self.subscriptions.remove(&filter)
                }
            };
            if existed { Reason::SUCCESS } else { Reason::NO_SUBSCRIPTION_EXISTED }
        };
        let codes: Vec<Reason> = unwanted.into_iter().map(remove).collect();
        if let Some(journal) = &self.journal {
            for (filter, _) in packet.filters.iter().zip(&codes).filter(|(_, code)| **code == Reason::SUCCESS) {
                journal.unsubscribe(filter);
            }
        }
        self.reply_encoded(wire, |output, recipient| write_unsuback(output, recipient, packet.id, &codes));
        Ok(())
    }

    /// Matches what was published before a SUBSCRIBE against the subscriptions before it: a client that publishes and
    /// then subscribes does not expect to meet its own message.
    fn catch_up(&mut self, wire: &mut Wire, now: Instant) {
        for _ in 0..CATCH_UP {
            self.pump(wire, now);
            if !self.inbox.is_empty() || !self.reader.take(&mut self.inbox) {
                break;
            }
        }
    }
}
