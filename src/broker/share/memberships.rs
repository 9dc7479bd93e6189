//! The shared subscriptions of one session.

use std::collections::HashMap;
use std::sync::Arc;

use super::group::Member;
use super::mailbox::Mailbox;
use super::{Group, Groups, Outgoing, ShareFilter, ShareOptions, TooManyGroups};
use crate::broker::auth::acl::Rights;
use crate::broker::queue::QueueLimits;
use crate::broker::store::SessionId;
use crate::stats::DropReason;

/// The groups a session is a member of, and what they gave to it. Dropping it leaves them all.
#[derive(Debug)]
pub struct Memberships {
    all: Arc<Groups>,
    mailbox: Arc<Mailbox<Outgoing>>,
    groups: HashMap<ShareFilter, (Arc<Group>, ShareOptions)>,
    rights: Option<Arc<Rights>>,
}

impl Memberships {
    /// None.
    pub fn new(all: Arc<Groups>, limits: QueueLimits) -> Memberships {
        let mailbox = Arc::new(Mailbox::new(limits, all.stats.queued.part()));
        Memberships { all, mailbox, groups: HashMap::new(), rights: None }
    }

    /// Joins a group, or changes what is wanted from it. What is published after this returns goes to its members.
    pub fn join(&mut self, share: ShareFilter, options: ShareOptions) -> Result<(), TooManyGroups> {
        let member = Member { mailbox: self.mailbox.clone(), options, rights: self.rights.clone() };
        let group = self.all.join(&share, member)?;
        self.groups.insert(share, (group, options));
        Ok(())
    }

    /// Leaves a group, whose other members get what waited here. Returns whether there was a membership.
    pub fn leave(&mut self, share: &ShareFilter) -> bool {
        let Some((group, _)) = self.groups.remove(share) else { return false };
        self.all.leave(&group, &self.mailbox);
        let of_group = |outgoing: &Outgoing| outgoing.group.as_ref().is_some_and(|other| Arc::ptr_eq(other, &group));
        self.hand_on(self.mailbox.extract(of_group, |outgoing| outgoing.message.size()));
        true
    }

    /// Leaves every group. Others get what waited here and what is in `unfinished`.
    pub fn leave_all(&mut self, unfinished: Vec<Outgoing>) {
        for (_, (group, _)) in self.groups.drain() {
            self.all.leave(&group, &self.mailbox);
        }
        self.hand_on(unfinished);
        self.hand_on(self.mailbox.extract(|_| true, |_| 0));
    }

    /// Other bounds for what waits here.
    pub fn set_limits(&self, limits: QueueLimits) {
        self.mailbox.set_limits(limits);
    }

    /// Says what the session may read; `None`: everything.
    pub fn set_rights(&mut self, rights: Option<Arc<Rights>>) {
        if rights.is_none() && self.rights.is_none() {
            return;
        }
        self.rights = rights;
        self.groups.values().for_each(|(group, _)| group.set_rights(&self.mailbox, &self.rights));
    }

    /// Says whether the session has a connection. When it has none others get what waited here, if there are any.
    pub fn set_connected(&self, connected: bool) {
        let was_connected = self.mailbox.set_connected(connected);
        self.groups.values().for_each(|(group, _)| group.changed.notify_one());
        if was_connected && !connected {
            self.hand_on(self.mailbox.extract(|_| true, |_| 0));
        }
    }

    /// The next message, if it can be sent now.
    pub fn take_if(&self, can_send: impl FnOnce(&Outgoing) -> bool) -> Option<Outgoing> {
        let (outgoing, awaited) = self.mailbox.take_if(can_send);
        if awaited {
            self.groups.values().for_each(|(group, _)| group.changed.notify_one());
        }
        outgoing
    }

    /// Waits until a message has come, if none was there. Cancel safe.
    pub async fn arrived(&self) {
        self.mailbox.arrived().await;
    }

    /// The broker stops, and the session stays a member of its groups on disk: what waits is there, and so is what comes
    /// from members whose sessions end later.
    pub fn put_away(&mut self) {
        self.groups.clear();
        self.mailbox.extract(|_| true, |_| 0);
    }

    /// The session is on disk from now on, or no longer: then no group has anything on the way to it there.
    pub fn set_session(&self, session: Option<SessionId>) {
        if session.is_some() {
            self.groups.values().for_each(|(group, _)| group.be_durable());
        }
        self.mailbox.set_session(session);
        if session.is_none() {
            self.groups.values().for_each(|(group, _)| group.be_durable_if_needed());
            self.mailbox.for_each(|outgoing| (outgoing.row, outgoing.is_persisted) = (None, false));
        }
    }

    /// The group of `share`, if the session is a member of it.
    pub fn group(&self, share: &ShareFilter) -> Option<&Arc<Group>> {
        self.groups.get(share).map(|(group, _)| group)
    }

    /// Puts back what waited when the gateway ended.
    pub fn restore(&self, group: &Arc<Group>, mut outgoing: Outgoing) {
        let (session, size) = (self.mailbox.session(), outgoing.message.size());
        outgoing.group = Some(group.clone());
        let dropped = self.mailbox.push(outgoing, size, |outgoing| group.dequeue(session, outgoing.row));
        self.all.stats.dropped.add(DropReason::QueueFull, dropped);
    }

    /// The filters, as the client wrote them, and what is wanted.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, ShareOptions)> {
        self.groups.values().map(|(group, options)| (group.text(), *options))
    }

    /// Calls `look` for all that waits, oldest first.
    pub fn for_each_waiting(&self, look: impl FnMut(&mut Outgoing)) {
        self.mailbox.for_each(look);
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
        let session = self.mailbox.session();
        for Outgoing { message, group, row, .. } in messages {
            if let Some(group) = group {
                group.hand_on(&self.all.stats, message, session.zip(row));
            }
        }
    }
}

impl Drop for Memberships {
    fn drop(&mut self) {
        self.leave_all(Vec::new());
    }
}
