//! A message on its way to one client.

use std::sync::Arc;
use std::time::Instant;

use super::Group;
use crate::broker::message::Message;
use crate::broker::packet::SubscriptionIds;
use crate::broker::store::RowId;
use crate::qos::Qos;

/// A message on its way to one client, of its own subscriptions or of a group's.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// The message.
    pub message: Message,
    /// Lowered to the subscription's.
    pub qos: Qos,
    /// The RETAIN flag it is sent with.
    pub retain: bool,
    /// Subscription identifiers.
    pub ids: SubscriptionIds,
    /// The group of a shared subscription that it came by.
    pub group: Option<Arc<Group>>,
    /// Its place on disk, if the session is there.
    pub row: Option<RowId>,
    /// Whether the store has it under that row.
    pub is_persisted: bool,
}

impl Outgoing {
    /// Whether it is of no interest any more at `now`.
    pub fn is_expired(&self, now: Instant) -> bool {
        self.message.expires().is_some_and(|expires| expires <= now)
    }
}
