//! The sessions by client identifier: who gets a new connection.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use super::calls::{self, CallError, Caller, Calls};
use super::crowd::Crowd;
use super::{Attach, Call, Context, Session, Start};
use crate::broker::packet::Reason;
use crate::broker::shutdown::Stage;
use parking_lot::Mutex;

/// Connections that may wait for one session; a session takes them at once, so more is an attack.
const WAITING: usize = 4;

/// Sessions kept without a connection, over all clients.
pub const KEPT: usize = 16_384;

/// Every session has an entry, and an entry ends with its session.
#[derive(Debug)]
pub struct Sessions {
    context: Arc<Context>,
    entries: Mutex<HashMap<Arc<str>, Entry>>,
    crowd: Crowd,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    call: Caller<Call>,
}

impl Sessions {
    /// None.
    pub fn new(context: Arc<Context>) -> Sessions {
        Sessions { context, entries: Mutex::default(), crowd: Crowd::default() }
    }

    /// How many there have been.
    pub fn crowd(&self) -> &Crowd {
        &self.crowd
    }

    /// Hands a connection to the session of its client identifier, or to a new one. A connection that cannot be had
    /// comes back with the reason.
    pub fn attach(self: &Arc<Self>, mut attach: Box<Attach>) -> Result<(), (Reason, Box<Attach>)> {
        let mut entries = self.entries.lock();
        if self.context.shutdown.stage() > Stage::Running {
            return Err((Reason::SERVER_SHUTTING_DOWN, attach));
        }
        let id: Arc<str> = attach.terms.client_id.as_str().into();
        if let Some(entry) = entries.get(&id) {
            match entry.call.call(Call::Attach(attach)) {
                Ok(()) => return Ok(()),
                Err(CallError::Full(Call::Attach(attach))) => {
                    return Err((Reason::SERVER_BUSY, attach));
                }
                // Its task is gone without a word, which only a panic can do.
                Err(CallError::Closed(Call::Attach(returned))) => attach = returned,
                Err(CallError::Full(Call::Recheck) | CallError::Closed(Call::Recheck)) => {
                    return Ok(());
                }
            }
        } else if entries.len() >= KEPT + self.context.settings.get().max_connections {
            return Err((Reason::QUOTA_EXCEEDED, attach));
        }
        let session = Session::new(self.context.clone(), id);
        self.run(&mut entries, session, Start::Connected(attach));
        Ok(())
    }

    /// Goes on with a session that was on disk, whose client may come until `expires`.
    pub fn resume(self: &Arc<Self>, session: Session, expires: Option<Instant>) {
        self.run(&mut self.entries.lock(), session, Start::Restored(expires));
    }

    fn run(self: &Arc<Self>, entries: &mut HashMap<Arc<str>, Entry>, session: Session, start: Start) {
        let (sender, receiver) = calls::channel(WAITING);
        entries.insert(session.client_id.clone(), Entry { number: session.number(), call: sender });
        self.crowd.began(entries.len());
        // In the future itself it would be there once for each function that it goes through.
        self.context.shutdown.tasks.spawn(super::run(Box::new(session), start, receiver, self.clone()));
    }

    /// A session ends: its entry goes, unless a connection has come in the meantime.
    pub fn leave(&self, session: &Session, waiting: &mut Calls<Call>) -> Option<Box<Attach>> {
        let mut entries = self.entries.lock();
        while let Some(call) = waiting.try_next() {
            if let Call::Attach(attach) = call {
                return Some(attach);
            }
        }
        if entries.get(session.client_id()).is_some_and(|entry| entry.number == session.number()) {
            entries.remove(session.client_id());
            self.crowd.ended();
            if entries.len() * 4 < entries.capacity() {
                entries.shrink_to_fit();
            }
        }
        None
    }

    /// Makes every session look at what is in force now. One that has so many connections waiting that it cannot be told
    /// looks anyway when it takes the next of them.
    pub fn recheck(&self) {
        for entry in self.entries.lock().values() {
            let _ = entry.call.call(Call::Recheck);
        }
    }

    /// Begins the next stage of a stop, unless it has come further already, and makes every session look.
    pub fn enter(&self, stage: Stage) {
        // Under the lock: no connection is handed over meanwhile.
        let entries = self.entries.lock();
        let is_new = self.context.shutdown.enter(stage);
        drop(entries);
        if is_new {
            self.recheck();
        }
    }

    /// Tells every session to end, by closing its channel. No connection must come any more.
    pub fn stop(&self) {
        *self.entries.lock() = HashMap::new();
    }
}
