//! What the client may do, and what becomes of a session when that changes.

use std::time::Instant;

use super::Session;
use crate::broker::packet::{PacketError, Reason};
use crate::broker::queue::QueueLimits;
use crate::broker::share::Outgoing;
use crate::stats::DropReason;
use crate::topic::TopicFilter;

impl Session {
    /// Takes over what is in force now: the bounds of the queue, rights, and what of the waiting messages is left with
    /// them.
    ///
    /// # Errors
    /// The client would not be let in any more.
    pub(super) fn recheck(&mut self) -> Result<(), PacketError> {
        let limits = QueueLimits::of(&self.context.settings.get());
        self.queue.set_limits(limits);
        self.shares.set_limits(limits);
        let rules = self.context.auth.rules();
        self.rights = rules.rights(&self.client_id, &self.login);
        self.shares.set_rights(self.rights.clone());
        if let Some(rights) = &self.rights {
            let left = self.backlog.len();
            let journal = self.journal.as_ref();
            let may_read = |outgoing: &Outgoing| {
                let may_read = rights.may_read(outgoing.message.topic());
                if let Some(journal) = journal.filter(|_| !may_read) {
                    journal.discard(outgoing);
                }
                may_read
            };
            self.backlog.retain(may_read);
            let queued = self.queue.retain(may_read);
            let denied = queued + (left - self.backlog.len()) as u64;
            self.dropped(DropReason::Denied, denied, Instant::now());
        }
        let Some(entrance) = &self.entrance else { return Ok(()) };
        if entrance.closed.is_cancelled() {
            let what = "its listener was removed, or speaks something else now";
            return Err(PacketError { reason: Reason::ADMINISTRATIVE_ACTION, what });
        }
        rules.allow(&self.login, entrance.allow_anonymous())
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
