//! What is on disk after a crash at any point, held against a naive model.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;
use std::path::Path;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::change::*;
use super::database::Database;
use super::fixture::{connected, draft_message, stored, will};
use super::ledger::{Ledger, Work};
use super::opening;
use super::{StoreSettings, Urgency};
use crate::qos::Qos;

/// What is to be there, and what is gated.
#[derive(Clone, Debug, Default, PartialEq)]
struct Naive {
    retained: BTreeMap<String, Vec<u8>>,
    sessions: BTreeMap<u64, Session>,
    wills: BTreeMap<u64, StoredWill>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Session {
    client_id: String,
    subscriptions: BTreeSet<String>,
    rows: BTreeMap<u64, Phase>,
    received: BTreeSet<u16>,
}

impl Naive {
    fn of(restored: Restored) -> Naive {
        let retained = restored.retained.iter();
        let session = |session: StoredSession| {
            let subscriptions = session.subscriptions.into_iter().map(|sub| sub.filter.to_string()).collect();
            let rows = session.queue.into_iter().map(|row| (row.row.get(), row.phase)).collect();
            let received = session.received.into_iter().collect();
            let client_id = session.client_id.to_string();
            (session.session.get(), Session { client_id, subscriptions, rows, received })
        };
        Naive {
            retained: retained.map(|message| (message.topic().to_owned(), message.payload_bytes().to_vec())).collect(),
            sessions: restored.sessions.into_iter().map(session).collect(),
            wills: restored.wills.into_iter().map(|(will, record)| (will.get(), record)).collect(),
        }
    }

    fn rows(&mut self, session: SessionId) -> &mut BTreeMap<u64, Phase> {
        &mut self.sessions.get_mut(&session.get()).unwrap().rows
    }

    fn apply(&mut self, gated: &mut Vec<(Qos2Gate, SessionId, u64, Phase)>, change: &Change) {
        match change.clone() {
            Change::Retain(message, _) => {
                self.retained.insert(message.topic().to_owned(), message.payload_bytes().to_vec());
            }
            Change::Forget { topic, .. } => drop(self.retained.remove(&*topic)),
            Change::OpenSession { session, client_id, .. } => {
                self.sessions.entry(session.get()).or_default().client_id = client_id.to_string();
            }
            Change::EndSession { session } => {
                self.sessions.remove(&session.get());
                gated.retain(|(_, owner, ..)| *owner != session);
            }
            Change::Subscribe { session, subscription } => {
                let session = self.sessions.get_mut(&session.get()).unwrap();
                session.subscriptions.insert(subscription.filter.to_string());
            }
            Change::Unsubscribe { session, filter } => {
                self.sessions.get_mut(&session.get()).unwrap().subscriptions.remove(&*filter);
            }
            Change::Enqueue { session, row, outgoing, gate: None } => {
                self.rows(session).insert(row.get(), Phase::Queued(outgoing));
            }
            Change::Enqueue { session, row, outgoing, gate: Some(key) } => {
                gated.push((key, session, row.get(), Phase::Queued(outgoing)));
            }
            Change::Move { from: (_, from), session, row, outgoing } => {
                let phase = Phase::Queued(outgoing);
                match gated.iter_mut().find(|(_, _, gated, _)| *gated == from.get()) {
                    Some(gated) => *gated = (gated.0, session, row.get(), phase),
                    None => {
                        self.sessions.values_mut().for_each(|session| drop(session.rows.remove(&from.get())));
                        self.rows(session).insert(row.get(), phase);
                    }
                }
            }
            Change::Assign { session, row, packet_id, .. } => {
                self.phase(gated, session, row.get(), |phase| {
                    if let Phase::Queued(message) | Phase::Sent(_, message) = phase.clone() {
                        *phase = Phase::Sent(packet_id, message);
                    }
                });
            }
            Change::PubrecReceived { session, row, packet_id } => {
                self.phase(gated, session, row.get(), |phase| *phase = Phase::Released(packet_id));
            }
            Change::Dequeue { session, row } => {
                gated.retain(|(_, _, gated, _)| *gated != row.get());
                self.rows(session).remove(&row.get());
            }
            Change::PublishReceived { session, packet_id, opens } => {
                self.open_gate(gated, opens);
                self.sessions.get_mut(&session.get()).unwrap().received.insert(packet_id);
            }
            Change::PubrelReceived { session, packet_id } => {
                self.sessions.get_mut(&session.get()).unwrap().received.remove(&packet_id);
            }
            Change::KeepWill { will, record } => drop(self.wills.insert(will.get(), (*record).clone())),
            Change::DropWill { will } => drop(self.wills.remove(&will.get())),
            Change::OpenGate { gate: key } => self.open_gate(gated, Some(key)),
        }
    }

    fn phase(
        &mut self,
        gated: &mut [(Qos2Gate, SessionId, u64, Phase)],
        session: SessionId,
        row: u64,
        change: impl FnOnce(&mut Phase),
    ) {
        let gated = gated.iter_mut().find(|(_, _, gated, _)| *gated == row).map(|(.., phase)| phase);
        gated.or(self.rows(session).get_mut(&row)).map(change);
    }

    fn open_gate(&mut self, gated: &mut Vec<(Qos2Gate, SessionId, u64, Phase)>, key: Option<Qos2Gate>) {
        let (unheld, kept): (Vec<_>, Vec<_>) =
            std::mem::take(gated).into_iter().partition(|(gated, ..)| Some(*gated) == key);
        *gated = kept;
        for (_, session, row, phase) in unheld {
            self.rows(session).insert(row, phase);
        }
    }
}

/// What happens, in terms of things that may be there.
#[derive(Clone, Debug)]
enum Step {
    Retain(u8, u8, bool),
    Forget(u8, bool),
    Open(u8),
    End(u8),
    Subscribe(u8, u8),
    Unsubscribe(u8, u8),
    Enqueue(u8, Option<u8>),
    Move(prop::sample::Index, u8),
    Assign(prop::sample::Index, u16),
    Release(prop::sample::Index, u16),
    Dequeue(prop::sample::Index),
    Receive(u8, u16, Option<u8>),
    Forgive(u8, u16),
    OpenGate(u8),
    KeepWill(u8, u8),
    DropWill(u8),
    /// The writer takes what waits.
    Take,
    /// It has written it.
    Commit,
    /// It could not, and so much of it is on disk all the same: all or nothing.
    Fail(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let (session, id, index) = (0u8..3, 1u16..4, any::<prop::sample::Index>);
    prop_oneof![
        2 => (0u8..3, any::<u8>(), any::<bool>()).prop_map(|(topic, value, lazy)| Step::Retain(topic, value, lazy)),
        1 => (0u8..3, any::<bool>()).prop_map(|(topic, lazy)| Step::Forget(topic, lazy)),
        1 => session.clone().prop_map(Step::Open),
        1 => session.clone().prop_map(Step::End),
        1 => (session.clone(), 0u8..3).prop_map(|(session, filter)| Step::Subscribe(session, filter)),
        1 => (session.clone(), 0u8..3).prop_map(|(session, filter)| Step::Unsubscribe(session, filter)),
        6 => (session.clone(), prop::option::of(0u8..3)).prop_map(|(session, gate)| Step::Enqueue(session, gate)),
        3 => (index(), session.clone()).prop_map(|(row, session)| Step::Move(row, session)),
        3 => (index(), id.clone()).prop_map(|(row, id)| Step::Assign(row, id)),
        2 => (index(), id.clone()).prop_map(|(row, id)| Step::Release(row, id)),
        3 => index().prop_map(Step::Dequeue),
        2 => (session.clone(), id.clone(), prop::option::of(0u8..3)).prop_map(|(s, id, key)| Step::Receive(s, id, key)),
        2 => (session, id).prop_map(|(session, id)| Step::Forgive(session, id)),
        1 => (0u8..3).prop_map(Step::OpenGate),
        2 => (0u8..3, any::<u8>()).prop_map(|(will, value)| Step::KeepWill(will, value)),
        1 => (0u8..3).prop_map(Step::DropWill),
        4 => Just(Step::Take),
        4 => Just(Step::Commit),
        1 => any::<bool>().prop_map(Step::Fail),
    ]
}

/// The ledger and the database as the writer uses them, and the model beside them.
struct Run {
    ledger: Ledger,
    database: Database,
    now: Instant,
    taken: Option<super::pending::Pending>,
    naive: Naive,
    gated: Vec<(Qos2Gate, SessionId, u64, Phase)>,
    /// As it was when the batch was taken.
    at_take: Naive,
    /// One of these is on disk.
    on_disk: Vec<Naive>,
    /// Rows that were ever queued, with their sessions.
    rows: Vec<(SessionId, RowId)>,
    /// Of each slot; a session that has ended is not opened again.
    sessions: [u64; 3],
    last_session: u64,
}

fn key(number: u8) -> Qos2Gate {
    Qos2Gate { position: number.into() }
}

impl Run {
    fn new(path: &Path) -> Run {
        let (database, restored) = opening::open_ready(path).unwrap();
        assert_eq!(Naive::of(restored), Naive::default());
        Run {
            ledger: Ledger::new(StoreSettings::default()),
            database,
            now: Instant::now(),
            taken: None,
            naive: Naive::default(),
            gated: Vec::new(),
            at_take: Naive::default(),
            on_disk: vec![Naive::default()],
            rows: Vec::new(),
            sessions: [0; 3],
            last_session: 0,
        }
    }

    /// The change that `step` stands for, if what it is about is there.
    fn change(&mut self, step: &Step) -> Option<Change> {
        let urgency = |lazy: bool| if lazy { Urgency::Lazy } else { Urgency::Urgent };
        let name = |number: &u8| format!("name/{number}");
        let session = |slot: &u8| Some(SessionId(self.sessions[usize::from(*slot)])).filter(|id| id.get() > 0);
        let row = |index: &prop::sample::Index| {
            let there = |(session, _): &&(SessionId, RowId)| self.naive.sessions.contains_key(&session.get());
            let rows: Vec<_> = self.rows.iter().filter(there).collect();
            if rows.is_empty() { None } else { Some(*rows[index.index(rows.len())]) }
        };
        Some(match step {
            Step::Retain(topic, value, lazy) => {
                Change::Retain(draft_message(&name(topic), &[*value], Qos::AtLeastOnce, None), urgency(*lazy))
            }
            Step::Forget(topic, lazy) => Change::Forget { topic: name(topic).into(), urgency: urgency(*lazy) },
            Step::Open(slot) => {
                if self.sessions[usize::from(*slot)] == 0 {
                    self.last_session += 1;
                    self.sessions[usize::from(*slot)] = self.last_session;
                }
                let session = SessionId(self.sessions[usize::from(*slot)]);
                Change::OpenSession { session, client_id: name(slot).into(), record: connected() }
            }
            Step::End(slot) => {
                let session = session(slot)?;
                self.sessions[usize::from(*slot)] = 0;
                Change::EndSession { session }
            }
            Step::Subscribe(slot, filter) => {
                let (options, id) = (Qos::AtLeastOnce.into(), None);
                let subscription = StoredSubscription { filter: name(filter).into(), options, id };
                Change::Subscribe { session: session(slot)?, subscription }
            }
            Step::Unsubscribe(slot, filter) => {
                Change::Unsubscribe { session: session(slot)?, filter: name(filter).into() }
            }
            Step::Enqueue(slot, gate) => {
                let row = RowId(NonZeroU64::new(self.rows.len() as u64 + 1).unwrap());
                let session = session(slot)?;
                self.rows.push((session, row));
                let outgoing = stored("a", &row.get().to_le_bytes());
                Change::Enqueue { session, row, outgoing, gate: gate.map(key) }
            }
            Step::Move(index, slot) => {
                let (from, session) = (row(index)?, session(slot)?);
                let row = RowId(NonZeroU64::new(self.rows.len() as u64 + 1).unwrap());
                self.rows.push((session, row));
                Change::Move { from, session, row, outgoing: stored("a", &row.get().to_le_bytes()) }
            }
            Step::Assign(index, packet_id) => {
                let ((session, row), packet_id) = (row(index)?, *packet_id);
                // A message that was received is not sent again.
                let phases = self.naive.sessions[&session.get()].rows.iter();
                let mut phases = phases.chain(self.gated.iter().map(|(_, _, row, phase)| (row, phase)));
                if phases.any(|(id, phase)| *id == row.get() && matches!(phase, Phase::Released(_))) {
                    return None;
                }
                Change::Assign { session, row, packet_id, urgency: Urgency::Lazy }
            }
            Step::Release(index, packet_id) => {
                let ((session, row), packet_id) = (row(index)?, *packet_id);
                Change::PubrecReceived { session, row, packet_id }
            }
            Step::Dequeue(index) => {
                let (session, row) = row(index)?;
                Change::Dequeue { session, row }
            }
            Step::Receive(slot, packet_id, opens) => {
                Change::PublishReceived { session: session(slot)?, packet_id: *packet_id, opens: opens.map(key) }
            }
            Step::Forgive(slot, packet_id) => Change::PubrelReceived { session: session(slot)?, packet_id: *packet_id },
            Step::OpenGate(number) => Change::OpenGate { gate: key(*number) },
            Step::KeepWill(number, value) => {
                Change::KeepWill { will: WillId((*number).into()), record: will(&name(number), &[*value]).into() }
            }
            Step::DropWill(number) => Change::DropWill { will: WillId((*number).into()) },
            Step::Take | Step::Commit | Step::Fail(_) => return None,
        })
    }

    fn step(&mut self, step: &Step) {
        self.now += Duration::from_secs(100);
        match (step, self.taken.take()) {
            (Step::Take, None) => {
                if let Work::Commit(batch) = self.ledger.next(self.now) {
                    self.taken = Some(batch);
                    self.at_take = self.naive.clone();
                }
            }
            (Step::Commit, Some(batch)) => {
                self.database.commit(&batch, false).unwrap();
                self.ledger.committed(self.now);
                self.on_disk = vec![self.at_take.clone()];
            }
            (Step::Fail(written), Some(batch)) => {
                if *written {
                    self.database.commit(&batch, false).unwrap();
                    self.on_disk.push(self.at_take.clone());
                }
                self.ledger.failed(batch, self.now);
            }
            (step, taken) => {
                self.taken = taken;
                if let Some(change) = self.change(step) {
                    self.naive.apply(&mut self.gated, &change);
                    self.ledger.submit(change, self.now);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Up to where the writer came: all of that and nothing else, in whatever order things happened.
    #[test]
    fn after_a_crash_the_disk_holds_a_moment_of_the_past(steps in prop::collection::vec(step(), 0..80)) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("broker.db");
        let mut run = Run::new(&path);
        for step in &steps {
            run.step(step);
        }
        let Run { database, on_disk, .. } = run;
        drop(database); // Its log is not brought into the database.
        let (_, restored) = opening::open_ready(&path).unwrap();
        let found = Naive::of(restored);
        prop_assert!(on_disk.contains(&found), "found {found:#?}\nwanted one of {on_disk:#?}");
        prop_assert!(!path.with_extension("db.bad").exists());
    }
}
