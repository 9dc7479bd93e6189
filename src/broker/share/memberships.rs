//! The shared subscriptions of one session.

use std::collections::HashMap;
use std::sync::Arc;

use super::mailbox::Mailbox;
use super::{Group, Member, ShareFilter, TooManyGroups, Wish};
use crate::broker::Shared;
use crate::broker::acl::Rights;
use crate::broker::queue::QueueLimits;
use crate::broker::session::Outgoing;

/// The groups a session is a member of, and what they gave to it. Dropping it leaves them all.
#[derive(Debug)]
pub struct Memberships {
    shared: Arc<Shared>,
    mailbox: Arc<Mailbox<Outgoing>>,
    groups: HashMap<ShareFilter, Arc<Group>>,
    rights: Option<Arc<Rights>>,
}

impl Memberships {
    /// None.
    pub fn new(shared: Arc<Shared>, limits: QueueLimits) -> Memberships {
        let mailbox = Arc::new(Mailbox::new(limits, shared.stats.queued.part()));
        Memberships { shared, mailbox, groups: HashMap::new(), rights: None }
    }

    /// Joins a group, or changes what is wanted from it. What is published after this returns goes to its members.
    pub fn join(&mut self, share: ShareFilter, wish: Wish) -> Result<(), TooManyGroups> {
        let member = Member { mailbox: self.mailbox.clone(), wish, rights: self.rights.clone() };
        let group = super::join(&self.shared, &share, member)?;
        self.groups.insert(share, group);
        Ok(())
    }

    /// Leaves a group, whose other members get what waited here. Returns whether there was a membership.
    pub fn leave(&mut self, share: &ShareFilter) -> bool {
        let Some(group) = self.groups.remove(share) else { return false };
        self.shared.groups.leave(&group, &self.mailbox);
        let of_group = |outgoing: &Outgoing| outgoing.group.as_ref().is_some_and(|other| Arc::ptr_eq(other, &group));
        self.hand_on(self.mailbox.extract(of_group, |outgoing| outgoing.message.size()));
        true
    }

    /// Leaves every group. Others get what waited here and what is in `unfinished`.
    pub fn leave_all(&mut self, unfinished: Vec<Outgoing>) {
        for (_, group) in self.groups.drain() {
            self.shared.groups.leave(&group, &self.mailbox);
        }
        self.hand_on(unfinished);
        self.hand_on(self.mailbox.extract(|_| true, |_| 0));
    }

    /// Says what the session may read; `None`: everything.
    pub fn set_rights(&mut self, rights: Option<Arc<Rights>>) {
        if rights.is_none() && self.rights.is_none() {
            return;
        }
        self.rights = rights;
        self.groups.values().for_each(|group| group.set_rights(&self.mailbox, &self.rights));
    }

    /// Says whether the session has a connection. When it has none others get what waited here, if there are any.
    pub fn set_connected(&self, connected: bool) {
        self.mailbox.set_connected(connected);
        self.groups.values().for_each(|group| group.changed.notify_one());
        if !connected {
            self.hand_on(self.mailbox.extract(|_| true, |_| 0));
        }
    }

    /// The next message, if it can be sent now.
    pub fn take_if(&self, can_send: impl FnOnce(&Outgoing) -> bool) -> Option<Outgoing> {
        let (outgoing, awaited) = self.mailbox.take_if(can_send);
        if awaited {
            self.groups.values().for_each(|group| group.changed.notify_one());
        }
        outgoing
    }

    /// Waits until a message has come, if none was there. Cancel safe.
    pub async fn arrived(&self) {
        self.mailbox.arrived().await;
    }

    /// Whether no message waits.
    pub fn is_idle(&self) -> bool {
        self.groups.is_empty() || self.mailbox.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.groups.len()
    }

    fn hand_on(&self, messages: Vec<Outgoing>) {
        for Outgoing { message, group, .. } in messages {
            if let Some(group) = group {
                group.give(&self.shared.stats, message);
            }
        }
    }
}

impl Drop for Memberships {
    fn drop(&mut self) {
        self.leave_all(Vec::new());
    }
}
