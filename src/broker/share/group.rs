//! One group of a shared subscription: who of its members gets a message.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::consume_budget;
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;

use super::mailbox::{Mailbox, Readiness};
use super::{Groups, Outgoing, ShareFilter, ShareOptions};
use crate::broker::auth::acl::Rights;
use crate::broker::bus::{Durability, Reader, Received};
use crate::broker::message::Message;
use crate::broker::pace::Pace;
use crate::broker::shutdown::Stage;
use crate::broker::stats::BrokerStats;
use crate::broker::store::{Change, Qos2Gate, RowId, SessionId, Store, StoredMessage};
use crate::log_limit::LogLimit;
use crate::qos::Qos;
use crate::stats::DropReason;

/// The members of one group.
pub struct Group {
    pub(super) share: ShareFilter,
    /// As a client writes it.
    text: Arc<str>,
    store: Store,
    /// Of its reader, while there are members on disk.
    durability: Durability,
    state: Mutex<State>,
    /// There may be room where there was none.
    pub(super) changed: Notify,
    /// The last member has left.
    pub(super) ended: CancellationToken,
}

#[derive(Debug, Default)]
struct State {
    members: Vec<Member>,
    /// Whose turn it is.
    next: usize,
    drop_log: LogLimit,
}

/// A session that is a member of a group.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) mailbox: Arc<Mailbox<Outgoing>>,
    pub(super) options: ShareOptions,
    /// `None`: it may read everything.
    pub(super) rights: Option<Arc<Rights>>,
}

/// Where a message comes from.
#[derive(Clone, Copy, Debug)]
enum Source {
    /// The bus, and the gate it is behind, if it is behind one.
    Bus(Option<Qos2Gate>),
    /// Another member, and where it waited on disk, if it did.
    Member(Option<(SessionId, RowId)>),
}

/// What [`State::choose`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    /// This member.
    Member(usize, Readiness),
    /// There are only sessions without a connection, which do not keep QoS 0.
    Offline,
    /// No member may read it.
    Denied,
    /// There is no member.
    Nobody,
}

impl Group {
    pub(super) fn new(durability: Durability, store: Store, share: ShareFilter) -> Group {
        Group {
            text: share.text(),
            share,
            store,
            durability,
            state: Mutex::default(),
            changed: Notify::new(),
            ended: CancellationToken::new(),
        }
    }

    /// As a client writes it.
    pub fn text(&self) -> &Arc<str> {
        &self.text
    }

    /// From now on publishers wait until its messages are with the store, for there is a member on disk, or will be one in a
    /// moment.
    pub(super) fn be_durable(&self) {
        let _state = self.state.lock();
        self.durability.set(true);
    }

    /// A member may have gone from the disk. When this returns, no message is on its way to it in the store.
    pub(super) fn be_durable_if_needed(&self) {
        let state = self.state.lock();
        if state.members.iter().all(|member| member.mailbox.session().is_none()) {
            self.durability.set(false);
        }
    }

    /// Adds a member, or replaces what it wanted.
    pub(super) fn enter(&self, member: Member) {
        if member.mailbox.session().is_some() {
            self.be_durable();
        }
        let mut state = self.state.lock();
        match state.members.iter_mut().find(|known| Arc::ptr_eq(&known.mailbox, &member.mailbox)) {
            Some(known) => *known = member,
            None => state.members.push(member),
        }
        self.changed.notify_one();
    }

    /// Changes what a member may read.
    pub(super) fn set_rights(&self, mailbox: &Arc<Mailbox<Outgoing>>, rights: &Option<Arc<Rights>>) {
        let mut state = self.state.lock();
        if let Some(member) = state.members.iter_mut().find(|known| Arc::ptr_eq(&known.mailbox, mailbox)) {
            member.rights.clone_from(rights);
        }
        self.changed.notify_one();
    }

    /// Removes a member; says whether it was the last one.
    pub(super) fn exit(&self, mailbox: &Arc<Mailbox<Outgoing>>) -> bool {
        let mut state = self.state.lock();
        if let Some(index) = state.members.iter().position(|known| Arc::ptr_eq(&known.mailbox, mailbox)) {
            state.members.remove(index);
            state.next -= usize::from(index < state.next);
        }
        self.changed.notify_one();
        let is_last = state.members.is_empty();
        drop(state);
        self.be_durable_if_needed();
        is_last
    }

    /// Gives what comes from the bus to the members. While all of them are full it waits, if they are quick ones and the
    /// broker does not stop.
    pub(super) async fn distribute(self: &Arc<Self>, groups: &Groups, mut reader: Reader) {
        let stats = &*groups.stats;
        let may_wait = || groups.shutdown.stage() < Stage::Draining;
        let mut batch = VecDeque::new();
        let (mut pace, mut given) = (Pace::default(), 0);
        while reader.recv(&mut batch).await.is_ok() {
            for received in batch.drain(..) {
                consume_budget().await;
                let mut offered = self.offer(stats, &received);
                while !offered && may_wait() && pace.hold(Instant::now(), true, given) {
                    let deadline = pace.deadline().unwrap_or_else(Instant::now);
                    tokio::select! {
                        () = self.changed.notified() => {}
                        () = sleep_until(deadline.into()) => {}
                    }
                    offered = self.offer(stats, &received);
                }
                if offered {
                    given += 1;
                } else {
                    self.give(stats, received.message.clone(), Source::Bus(received.gate()));
                }
                received.persisted();
            }
        }
    }

    /// Gives `message` to a member, unless all that are connected are full.
    fn offer(self: &Arc<Self>, stats: &BrokerStats, received: &Received) -> bool {
        let (message, mut state) = (&received.message, self.state.lock());
        let choice = state.choose(message.topic(), message.qos());
        let full = matches!(choice, Choice::Member(_, Readiness::Full));
        if !full {
            self.hand_over(&mut state, stats, message.clone(), (Source::Bus(received.gate()), choice));
        }
        !full
    }

    /// Gives `message`, which a member will not send, to a member; `place` is where it waited on disk.
    pub(super) fn hand_on(self: &Arc<Self>, stats: &BrokerStats, message: Message, place: Option<(SessionId, RowId)>) {
        self.give(stats, message, Source::Member(place));
    }

    /// Gives `message` to a member, where the policy of its queue decides what goes if it is full.
    fn give(self: &Arc<Self>, stats: &BrokerStats, message: Message, source: Source) {
        let mut state = self.state.lock();
        let choice = state.choose(message.topic(), message.qos());
        self.hand_over(&mut state, stats, message, (source, choice));
    }

    fn hand_over(
        self: &Arc<Self>,
        state: &mut State,
        stats: &BrokerStats,
        message: Message,
        (source, choice): (Source, Choice),
    ) {
        let mut is_moved = false;
        let (reason, dropped) = match choice {
            Choice::Member(index, _) => {
                state.next = index + 1;
                let Member { mailbox, options, .. } = &state.members[index];
                let (size, session) = (message.size(), mailbox.session());
                let mut outgoing = Outgoing {
                    qos: options.qos.min(message.qos()),
                    retain: options.retain_as_published && message.retain(),
                    ids: options.id.into_iter().collect(),
                    group: Some(self.clone()),
                    row: None,
                    is_persisted: false,
                    message,
                };
                if let Some(session) = session.filter(|_| outgoing.qos > Qos::AtMostOnce) {
                    self.enqueue(session, &mut outgoing, source);
                    is_moved = true;
                }
                let given_up = |outgoing: Outgoing| self.dequeue(session, outgoing.row);
                (DropReason::QueueFull, mailbox.push(outgoing, size, given_up))
            }
            Choice::Offline => (DropReason::Offline, 1),
            // As with a subscription of one client's own, that is no loss.
            Choice::Denied => (DropReason::Denied, 0),
            Choice::Nobody => (DropReason::Stopped, 1),
        };
        match source {
            Source::Member(Some((session, row))) if !is_moved => self.dequeue(Some(session), Some(row)),
            _ => {}
        }
        stats.dropped.add(reason, dropped);
        if let Some(messages) = state.drop_log.events(Instant::now(), dropped) {
            let (name, filter) = (&*self.share.name, self.share.filter.as_str());
            let reason = reason.as_str();
            tracing::warn!(name, filter, reason, messages, "messages for a shared subscription were dropped");
        }
    }

    /// `outgoing` waits for a member on disk.
    fn enqueue(&self, session: SessionId, outgoing: &mut Outgoing, source: Source) {
        let row = self.store.next_row();
        (outgoing.row, outgoing.is_persisted) = (Some(row), true);
        let message = StoredMessage::from(&*outgoing);
        self.store.submit(match source {
            Source::Bus(gate) => Change::Enqueue { session, row, outgoing: message, gate },
            // Its publisher may have its answer already: then nothing would ever open a gate.
            Source::Member(None) => Change::Enqueue { session, row, outgoing: message, gate: None },
            Source::Member(Some(from)) => Change::Move { from, session, row, outgoing: message },
        });
    }

    /// A message is not for this member any more.
    pub(super) fn dequeue(&self, session: Option<SessionId>, row: Option<RowId>) {
        if let (Some(session), Some(row)) = (session, row) {
            self.store.submit(Change::Dequeue { session, row });
        }
    }
}

impl State {
    /// The next one in turn that is free; if nobody is, the readiest, and of the equally ready who has least.
    fn choose(&self, topic: &str, qos: Qos) -> Choice {
        let count = self.members.len();
        let (mut best, mut denied) = (None, 0);
        for index in (self.next..count).chain(0..self.next.min(count)) {
            let Member { mailbox, options, rights } = &self.members[index];
            if rights.as_ref().is_some_and(|rights| !rights.may_read(topic)) {
                denied += 1;
                continue;
            }
            let (readiness, load) = mailbox.readiness();
            if readiness == Readiness::Free {
                return Choice::Member(index, readiness);
            }
            let kept = readiness != Readiness::Offline || qos.min(options.qos) > Qos::AtMostOnce;
            if kept && best.is_none_or(|(least, _)| (readiness, load) > least) {
                best = Some(((readiness, load), index));
            }
        }
        match best {
            Some(((readiness, _), index)) => Choice::Member(index, readiness),
            None if count == 0 => Choice::Nobody,
            None if denied == count => Choice::Denied,
            None => Choice::Offline,
        }
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group").field("share", &self.share).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::auth::acl::Acl;
    use crate::broker::bus::{Bus, BusSettings};
    use crate::broker::queue::QueueLimits;
    use crate::config::QueueFull;

    fn member(qos: Qos, connected: bool) -> Member {
        let mailbox = Mailbox::new(
            QueueLimits { messages: 10, bytes: 1000, full: QueueFull::DropOldest },
            BrokerStats::default().queued.part(),
        );
        mailbox.set_connected(connected);
        Member {
            mailbox: Arc::new(mailbox),
            options: ShareOptions { qos, retain_as_published: false, id: None },
            rights: None,
        }
    }

    #[test]
    fn who_is_offline_gets_only_what_nobody_else_can_take() {
        let mut state = State::default();
        assert_eq!(state.choose("t", Qos::AtLeastOnce), Choice::Nobody);
        state.members.push(member(Qos::AtMostOnce, false));
        assert_eq!(state.choose("t", Qos::AtLeastOnce), Choice::Offline);
        state.members.push(member(Qos::AtLeastOnce, false));
        assert_eq!(state.choose("t", Qos::AtMostOnce), Choice::Offline);
        assert_eq!(state.choose("t", Qos::AtLeastOnce), Choice::Member(1, Readiness::Offline));
        state.members.push(member(Qos::AtMostOnce, true));
        assert_eq!(state.choose("t", Qos::AtLeastOnce), Choice::Member(2, Readiness::Free));
    }

    #[test]
    fn who_may_not_read_a_topic_is_passed_over() {
        let rights = |text| Some(Arc::new(Acl::parse(text).unwrap().rights("c", None)));
        let mut state = State::default();
        state.members.push(Member { rights: rights("topic read a/#"), ..member(Qos::AtLeastOnce, true) });
        state.members.push(Member { rights: rights("topic read b/#"), ..member(Qos::AtLeastOnce, true) });
        assert_eq!(state.choose("b/x", Qos::AtLeastOnce), Choice::Member(1, Readiness::Free));
        assert_eq!(state.choose("a/x", Qos::AtLeastOnce), Choice::Member(0, Readiness::Free));
        assert_eq!(state.choose("c/x", Qos::AtLeastOnce), Choice::Denied);
    }

    #[test]
    fn turns_go_round_and_pass_over_who_left() {
        let share = ShareFilter::parse("$share/g/a").unwrap().unwrap();
        let bus = Bus::start(BusSettings { max_retained: 1, direct_readers: 1 }).unwrap();
        let group = Group::new(bus.reader().durability(), Store::off(), share);
        let members: Vec<_> = (0..3).map(|_| member(Qos::AtLeastOnce, true)).collect();
        members.iter().for_each(|member| group.enter(member.clone()));
        let turn = || {
            let mut state = group.state.lock();
            let Choice::Member(index, Readiness::Free) = state.choose("t", Qos::AtMostOnce) else { panic!() };
            state.next = index + 1;
            members.iter().position(|member| Arc::ptr_eq(&member.mailbox, &state.members[index].mailbox))
        };
        assert_eq!([0; 4].map(|_| turn()), [Some(0), Some(1), Some(2), Some(0)]);
        assert!(!group.exit(&members[0].mailbox));
        assert_eq!([0; 3].map(|_| turn()), [Some(1), Some(2), Some(1)]);
        assert!(!group.exit(&members[2].mailbox) && group.exit(&members[1].mailbox));
    }
}
