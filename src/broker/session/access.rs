//! What the client may do, and what becomes of a session when that changes.

use std::time::Instant;

use super::Session;
use crate::broker::packet::PacketError;
use crate::stats::DropReason;
use crate::topic::TopicFilter;

impl Session {
    /// Takes over the rules in force: rights, and what of the waiting messages is left with them.
    ///
    /// # Errors
    /// The client would not be let in any more.
    pub(super) fn apply_rules(&mut self) -> Result<(), PacketError> {
        let rules = self.rules.borrow_and_update().clone();
        self.rights = rules.rights(&self.client_id, &self.login);
        self.shares.set_rights(self.rights.clone());
        if let Some(rights) = &self.rights {
            let left = self.backlog.len();
            self.backlog.retain(|outgoing| rights.may_read(outgoing.message.topic()));
            let queued = self.queue.retain(|outgoing| rights.may_read(outgoing.message.topic()));
            let denied = queued + (left - self.backlog.len()) as u64;
            self.dropped(DropReason::Denied, denied, Instant::now());
        }
        rules.allow(&self.login)
    }

    /// Whether the client may be sent messages on `topic`.
    pub(super) fn may_read(&self, topic: &str) -> bool {
        self.rights.as_ref().is_none_or(|rights| rights.may_read(topic))
    }

    /// Whether the client may publish to `topic`.
    pub(super) fn may_write(&self, topic: &str) -> bool {
        self.rights.as_ref().is_none_or(|rights| rights.may_write(topic))
    }

    /// Whether the client may subscribe to `filter`.
    pub(super) fn may_subscribe(&self, filter: &TopicFilter) -> bool {
        self.rights.as_ref().is_none_or(|rights| rights.may_subscribe(filter))
    }
}
