//! Shared subscriptions, `$share/NAME/FILTER` (MQTT 5.0, section 4.8.2): each message goes to one member of a group.
//!
//! A group reads the bus like a session, in a task that lives as long as the group has members, and puts each message
//! into the mailbox of one session. That sends from it what its client takes at once; the rest stays there, where the
//! others get it from when the client goes.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::bus::{Bus, Reader};
use super::shutdown::Shutdown;
use super::stats::BrokerStats;
use super::store::Store;
use crate::qos::Qos;
use crate::topic::{TopicFilter, first_unfit};
pub use group::Group;
use group::Member;
use mailbox::Mailbox;
pub use memberships::Memberships;
pub use outgoing::Outgoing;

mod group;
mod mailbox;
mod memberships;
mod outgoing;

/// Groups at one time, over all clients: each has a task and reads the bus.
pub const MAX_GROUPS: usize = 1024;

/// What makes a group: subscriptions with the same name and the same filter share.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ShareFilter {
    name: Arc<str>,
    filter: TopicFilter,
}

/// Not a valid share name, or no valid filter behind it [MQTT-4.8.2-1, MQTT-4.8.2-2].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not $share/NAME/FILTER with a name without wildcards and a valid filter")]
pub struct ShareError;

impl ShareFilter {
    /// As a client writes it.
    fn text(&self) -> Arc<str> {
        format!("$share/{}/{}", self.name, self.filter.as_str()).into()
    }

    /// Takes `text` apart if it begins with `$share/`.
    pub fn parse(text: &str) -> Option<Result<ShareFilter, ShareError>> {
        let rest = text.strip_prefix("$share/")?;
        let (name, filter) = rest.split_once('/').unwrap_or((rest, ""));
        Some(match TopicFilter::new(filter) {
            Ok(filter) if !name.is_empty() && !name.contains(['+', '#']) && first_unfit(name).is_none() => {
                Ok(ShareFilter { name: name.into(), filter })
            }
            _ => Err(ShareError),
        })
    }

    /// The filter behind the name.
    pub fn filter(&self) -> &TopicFilter {
        &self.filter
    }
}

/// What a member wants.
#[derive(Clone, Copy, Debug)]
pub struct ShareOptions {
    /// Maximum QoS.
    pub qos: Qos,
    /// Whether messages keep the RETAIN flag they were published with.
    pub retain_as_published: bool,
    /// The subscription identifier.
    pub id: Option<u32>,
}

/// There are [`MAX_GROUPS`] already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there are {MAX_GROUPS} groups of shared subscriptions already, which is the limit")]
pub struct TooManyGroups;

/// Every group that has a member. Its lock is taken before that of a group, and that before a mailbox's.
#[derive(Debug)]
pub struct Groups {
    bus: Bus,
    store: Store,
    stats: Arc<BrokerStats>,
    shutdown: Arc<Shutdown>,
    groups: Mutex<HashMap<ShareFilter, Arc<Group>>>,
}

async fn run(groups: Arc<Groups>, group: Arc<Group>, reader: Reader) {
    tokio::select! {
        () = group.ended.cancelled() => {}
        () = groups.shutdown.drained.cancelled() => {}
        () = group.distribute(&groups, reader) => {}
    }
}

impl Groups {
    /// None.
    pub fn new(bus: Bus, store: Store, stats: Arc<BrokerStats>, shutdown: Arc<Shutdown>) -> Groups {
        Groups { bus, store, stats, shutdown, groups: Mutex::default() }
    }

    /// Makes `member` one of the group of `share`, which is made if it is not there. When this returns, the group reads
    /// the bus.
    fn join(self: &Arc<Self>, share: &ShareFilter, member: Member) -> Result<Arc<Group>, TooManyGroups> {
        let mut groups = self.groups.lock();
        if let Some(group) = groups.get(share) {
            group.enter(member);
            return Ok(group.clone());
        }
        if groups.len() >= MAX_GROUPS {
            return Err(TooManyGroups);
        }
        let mut reader = self.bus.reader();
        reader.subscribe(&share.filter);
        let group = Arc::new(Group::new(reader.durability(), self.store.clone(), share.clone()));
        // It reads before it says so to publishers.
        group.enter(member);
        groups.insert(share.clone(), group.clone());
        self.shutdown.tasks.spawn(run(self.clone(), group.clone(), reader));
        Ok(group)
    }

    /// Makes every group look at its members anew.
    pub fn recheck(&self) {
        self.groups.lock().values().for_each(|group| group.changed.notify_one());
    }

    /// Takes the member with `mailbox` out of `group`, which ends with its last one.
    fn leave(&self, group: &Arc<Group>, mailbox: &Arc<Mailbox<Outgoing>>) {
        let mut groups = self.groups.lock();
        if group.exit(mailbox) {
            group.ended.cancel();
            if groups.get(&group.share).is_some_and(|known| Arc::ptr_eq(known, group)) {
                groups.remove(&group.share);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_has_a_name_and_a_filter() {
        for (text, parts) in [("$share/g/a/+", ("g", "a/+")), ("$share/g//", ("g", "/")), ("$share/g/#", ("g", "#"))] {
            let share = ShareFilter::parse(text).unwrap().unwrap();
            assert_eq!((&*share.name, share.filter.as_str()), parts);
        }
        for text in ["$share/", "$share//a", "$share/g", "$share/g/", "$share/+/a", "$share/g#/a", "$share/g/a#"] {
            assert_eq!(ShareFilter::parse(text), Some(Err(ShareError)), "{text}");
        }
        assert_eq!([ShareFilter::parse("$share"), ShareFilter::parse("a/$share/b/c")], [None, None]);
    }
}
