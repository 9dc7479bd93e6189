//! The start from what is on disk.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use super::Shared;
use super::session::{Session, has_expired};
use super::store::{Change, Restored, Store, StoreSettings};

/// Opens the store at `path`; without one nothing is kept.
pub async fn open(path: Option<PathBuf>) -> (Store, Restored) {
    let Some(path) = path else { return (Store::off(), Restored::default()) };
    let opened = tokio::task::spawn_blocking(move || Store::open(&path, StoreSettings::default())).await;
    opened.unwrap_or_else(|error| {
        tracing::error!(%error, "the store did not open: a bug in gatepost; nothing is kept on disk until the next start");
        (Store::off(), Restored::default())
    })
}

/// Takes in retained messages and sessions. When this returns, all sessions read the bus.
pub fn all(shared: &Arc<Shared>, restored: Restored) {
    if !shared.store.is_on() {
        return;
    }
    let Restored { retained, sessions } = restored;
    let found = retained.len();
    let refused = shared.bus.restore(retained);
    if refused > 0 {
        let limit = shared.settings.max_retained;
        tracing::warn!(refused, limit, "retained messages on disk were dropped: there are more than max_retained");
    }
    let (now, mut kept, mut messages) = (SystemTime::now(), 0_usize, 0);
    for stored in sessions {
        if has_expired(&stored.record, now) {
            shared.store.submit(Change::EndSession { session: stored.session });
            continue;
        }
        (kept, messages) = (kept + 1, messages + stored.queue.len());
        let (session, expires) = Session::restore(shared.clone(), stored);
        shared.sessions.resume(shared, session, expires);
    }
    tracing::info!(sessions = kept, messages, retained = found - refused, "state restored from disk");
    shared.tasks.spawn(save_anew(shared.clone()));
}

/// Gives the retained messages to the store whenever it has lost what it had.
async fn save_anew(shared: Arc<Shared>) {
    let mut number = 0;
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => return,
            next = shared.store.resync(number) => number = next,
        }
        shared.bus.save();
    }
}
