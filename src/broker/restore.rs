//! The start from what is on disk.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use super::session::{Context, Session, Sessions, has_expired};
use super::store::{Change, Restored, Store, StoreSettings, StoredSession};
use super::will;
use crate::log_limit::excerpt;

/// Opens the store at `path`; without one nothing is kept.
pub async fn open(path: Option<PathBuf>) -> (Store, Restored) {
    let Some(path) = path else { return (Store::off(), Restored::default()) };
    let opened = tokio::task::spawn_blocking(move || Store::open(&path, StoreSettings::default())).await;
    opened.unwrap_or_else(|error| {
        tracing::error!(%error, "the store did not open: a bug in gatepost; nothing is kept on disk until the next start");
        (Store::off(), Restored::default())
    })
}

/// Takes in retained messages, sessions and wills. When this returns, all sessions read the bus.
pub fn all(context: &Arc<Context>, sessions: &Arc<Sessions>, restored: Restored) {
    if !context.store.is_on() {
        return;
    }
    let Restored { retained, sessions: stored, wills, unfit } = restored;
    drop_unfit(&context.store, unfit);
    let (found, left) = (retained.len(), wills.len());
    let refused = context.bus.restore(retained);
    if refused > 0 {
        let limit = context.settings.get().max_retained;
        tracing::warn!(refused, limit, "retained messages on disk were dropped: there are more than max_retained");
    }
    let (now, mut kept, mut messages) = (SystemTime::now(), 0_usize, 0);
    let (expired, living): (Vec<_>, Vec<_>) = stored.into_iter().partition(|stored| has_expired(&stored.record, now));
    for stored in living {
        (kept, messages) = (kept + 1, messages + stored.queue.len());
        resume(context, sessions, stored);
    }
    // They end as if they had ended while the gateway ran: others of their groups, who are there now, get what they can.
    expired.into_iter().for_each(|stored| resume(context, sessions, stored));
    tracing::info!(sessions = kept, messages, retained = found - refused, wills = left, "state restored from disk");
    will::restore(&context.wills, wills);
    context.shutdown.tasks.spawn(save_anew(context.clone()));
}

/// What was kept with a topic or properties that are malformed today: a reader made with libmosquitto would close its
/// connection on it.
fn drop_unfit(store: &Store, unfit: Vec<(Arc<str>, Change)>) {
    if let Some((topic, _)) = unfit.first() {
        // As it would stand in Rust source: the log may be read on a terminal.
        let topic = excerpt(topic).escape_debug();
        let messages = unfit.len();
        tracing::warn!(messages, %topic, "messages on disk were dropped: their topics or properties hold control characters or noncharacters");
    }
    for (_, change) in unfit {
        store.submit(change);
    }
}

fn resume(context: &Arc<Context>, sessions: &Arc<Sessions>, stored: StoredSession) {
    let (session, expires) = Session::restore(context.clone(), stored);
    sessions.resume(session, expires);
}

/// Gives the retained messages and the wills to the store whenever it has lost what it had.
async fn save_anew(context: Arc<Context>) {
    let mut number = 0;
    loop {
        tokio::select! {
            () = context.shutdown.drained.cancelled() => return,
            next = context.store.resync(number) => number = next,
        }
        context.bus.save();
        context.wills.save();
    }
}
