//! The sessions by client identifier: who gets a new connection.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::SeqCst};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::packet::Reason;
use super::session::{Attach, Call, Session, Start};
use super::{Shared, session};

/// Connections that may wait for one session; a session takes them at once, so more is an attack.
const WAITING: usize = 4;

/// Sessions kept without a connection, over all clients.
pub const KEPT: usize = 16_384;

/// Every session has an entry, and an entry ends with its session.
#[derive(Debug, Default)]
pub struct Sessions {
    state: Mutex<State>,
    /// A [`Stage`]; written under the lock of `state`.
    stage: AtomicU8,
}

/// How far a stop of the broker has come. Each stage includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Stage {
    /// No stop.
    Running,
    /// Nobody is let in, wills are published, and nothing more is taken from clients.
    Silent,
    /// Nothing more is published: what is on the bus is taken, whatever the pace of the clients.
    Draining,
    /// The store is being closed: what has not been acknowledged by now is not any more.
    Closed,
}

#[derive(Debug, Default)]
struct State {
    entries: HashMap<Arc<str>, Entry>,
}

impl State {
    fn run(&mut self, shared: &Arc<Shared>, id: Arc<str>, session: Session, start: Start) {
        let (sender, receiver) = mpsc::channel(WAITING);
        self.entries.insert(id, Entry { number: session.number(), call: sender });
        shared.tasks.spawn(session::run(session, start, receiver));
    }
}

#[derive(Debug)]
struct Entry {
    number: u64,
    call: mpsc::Sender<Call>,
}

impl Sessions {
    /// Hands a connection to the session of its client identifier, or to a new one. A connection that cannot be had
    /// comes back with the reason.
    pub fn attach(&self, shared: &Arc<Shared>, mut attach: Box<Attach>) -> Result<(), (Reason, Box<Attach>)> {
        let mut state = self.state.lock();
        if self.stage() > Stage::Running {
            return Err((Reason::SERVER_SHUTTING_DOWN, attach));
        }
        let id: Arc<str> = attach.terms.client_id.as_str().into();
        if let Some(entry) = state.entries.get(&id) {
            match entry.call.try_send(Call::Attach(attach)) {
                Ok(()) => return Ok(()),
                Err(mpsc::error::TrySendError::Full(Call::Attach(attach))) => {
                    return Err((Reason::SERVER_BUSY, attach));
                }
                // Its task is gone without a word, which only a panic can do.
                Err(mpsc::error::TrySendError::Closed(Call::Attach(returned))) => attach = returned,
                Err(mpsc::error::TrySendError::Full(Call::Look) | mpsc::error::TrySendError::Closed(Call::Look)) => {
                    return Ok(());
                }
            }
        } else if state.entries.len() >= KEPT + shared.settings.read().max_connections {
            return Err((Reason::QUOTA_EXCEEDED, attach));
        }
        let session = Session::new(shared.clone(), id.clone());
        state.run(shared, id, session, Start::Connected(attach));
        Ok(())
    }

    /// Goes on with a session that was on disk, whose client may come until `expires`.
    pub fn resume(&self, shared: &Arc<Shared>, session: Session, expires: Option<Instant>) {
        self.state.lock().run(shared, session.client_id().into(), session, Start::Restored(expires));
    }

    /// A session ends: its entry goes, unless a connection has come in the meantime.
    pub fn leave(&self, session: &Session, waiting: &mut mpsc::Receiver<Call>) -> Option<Box<Attach>> {
        let mut state = self.state.lock();
        while let Ok(call) = waiting.try_recv() {
            if let Call::Attach(attach) = call {
                return Some(attach);
            }
        }
        if state.entries.get(session.client_id()).is_some_and(|entry| entry.number == session.number()) {
            state.entries.remove(session.client_id());
        }
        None
    }

    /// Makes every session look at what is in force now. One that has so many connections waiting that it cannot be told
    /// looks anyway when it takes the next of them.
    pub fn look(&self) {
        for entry in self.state.lock().entries.values() {
            let _ = entry.call.try_send(Call::Look);
        }
    }

    /// How far the stop has come.
    pub fn stage(&self) -> Stage {
        match self.stage.load(SeqCst) {
            0 => Stage::Running,
            1 => Stage::Silent,
            2 => Stage::Draining,
            _ => Stage::Closed,
        }
    }

    /// Begins the next stage of a stop, unless it has come further already, and makes every session look.
    pub fn enter(&self, stage: Stage) {
        let state = self.state.lock();
        let before = self.stage.fetch_max(stage as u8, SeqCst);
        drop(state);
        if before < stage as u8 {
            self.look();
        }
    }

    /// Tells every session to end, by closing its channel. No connection must come any more.
    pub fn stop(&self) {
        self.state.lock().entries = HashMap::new();
    }
}
