//! Wills on disk: noted while their clients are connected, so that kill -9 and power cuts do not take them along. The next
//! start publishes those of the clients that do not come back.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use tokio::time::sleep_until;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::{delay, envelope};
use crate::broker::auth::{Auth, Login};
use crate::broker::bus::{Bus, BusError, Published};
use crate::broker::message::Envelope;
use crate::broker::session_expiry::SessionExpiry;
use crate::broker::shutdown::Shutdown;
use crate::broker::stats::BrokerStats;
use crate::broker::store::{Change, Store, StoredWill, WillId};
use crate::log_limit::excerpt;
use crate::stats::DropReason;
use crate::topic::TopicName;

/// The least time that a client has to come back after a start is the silence it is allowed, one and a half times its
/// keep-alive, but no more than this; and this without a keep-alive.
const GRACE: Duration = Duration::from_secs(60);

/// All wills on disk. One for each connection that has a will, and for each session that waits for its will delay.
#[derive(Debug)]
pub struct Wills {
    auth: Arc<Auth>,
    bus: Bus,
    store: Store,
    stats: Arc<BrokerStats>,
    shutdown: Arc<Shutdown>,
    /// As last noted.
    kept: Mutex<HashMap<WillId, Arc<StoredWill>>>,
    /// Of clients that have not come back since the start, and when each is due.
    waiting: Mutex<HashMap<Arc<str>, (Instant, KeptWill)>>,
}

/// A will's place on disk, which goes with it.
#[derive(Debug)]
pub struct KeptWill {
    wills: Arc<Wills>,
    will: WillId,
}

impl Wills {
    /// None.
    pub fn new(auth: Arc<Auth>, bus: Bus, store: Store, stats: Arc<BrokerStats>, shutdown: Arc<Shutdown>) -> Wills {
        Wills { auth, bus, store, stats, shutdown, kept: Mutex::default(), waiting: Mutex::default() }
    }

    /// Notes a will, if there is a disk. Nobody waits for that.
    pub fn keep(self: &Arc<Self>, record: StoredWill) -> Option<KeptWill> {
        self.store.is_on().then(|| {
            let kept = KeptWill { wills: self.clone(), will: self.store.new_will() };
            kept.note(record);
            kept
        })
    }

    /// Gives all wills to the store, which has lost what it had.
    pub fn save(&self) {
        let kept = self.kept.lock();
        kept.iter().for_each(|(&will, record)| self.submit(will, record.clone()));
    }

    /// `client_id` has come back.
    pub fn take_back(&self, client_id: &str) {
        let waiting = self.waiting.lock().remove(client_id);
        drop(waiting);
    }

    fn submit(&self, will: WillId, record: Arc<StoredWill>) {
        self.store.submit(Change::KeepWill { will, record });
    }

    /// Takes in what was on disk. Of each client the last counts: it had connected anew.
    fn restore(self: &Arc<Self>, found: Vec<(WillId, StoredWill)>, now: Instant, wall: SystemTime) {
        for (will, record) in found {
            let (due, client_id) = (now + time_left(&record, wall), record.client_id.clone());
            // On disk it is as it is.
            self.kept.lock().insert(will, Arc::new(record));
            let kept = KeptWill { wills: self.clone(), will };
            let before = self.waiting.lock().insert(client_id, (due, kept));
            drop(before);
        }
    }

    /// Those that are due at `now`, and when the next is.
    fn due(&self, now: Instant) -> (Vec<KeptWill>, Option<Instant>) {
        let mut waiting = self.waiting.lock();
        let (due, left) = std::mem::take(&mut *waiting).into_iter().partition(|(_, (due, _))| *due <= now);
        *waiting = left;
        let next = waiting.values().map(|(due, _)| *due).min();
        (HashMap::into_values(due).map(|(_, kept)| kept).collect(), next)
    }

    fn all(&self) -> Vec<KeptWill> {
        self.waiting.lock().drain().map(|(_, (_, kept))| kept).collect()
    }
}

impl KeptWill {
    /// The connection has ended, and the will waits for its delay.
    pub fn ended(&self, expiry: SessionExpiry) {
        let Some(record) = self.record() else { return };
        self.note(StoredWill { expiry, ended_at: Some(SystemTime::now()), ..(*record).clone() });
    }

    /// It was published: waits until all that follows from it is with the store.
    pub async fn forget(self, published: Published) {
        if let Some(persisting) = published.persisting {
            persisting.done().await;
        }
    }

    /// It is not published after all, and waits for the next start.
    pub fn leave(self) {
        self.wills.kept.lock().remove(&self.will);
    }

    fn record(&self) -> Option<Arc<StoredWill>> {
        self.wills.kept.lock().get(&self.will).cloned()
    }

    fn note(&self, record: StoredWill) {
        let record = Arc::new(record);
        let mut kept = self.wills.kept.lock();
        kept.insert(self.will, record.clone());
        self.wills.submit(self.will, record);
    }
}

impl Drop for KeptWill {
    fn drop(&mut self) {
        let mut kept = self.wills.kept.lock();
        if kept.remove(&self.will).is_some() {
            self.wills.store.submit(Change::DropWill { will: self.will });
        }
    }
}

/// How long after a start a will waits for its client: what is left of its delay, but no longer than its session, and in
/// any case the time that the client has to come back.
fn time_left(record: &StoredWill, now: SystemTime) -> Duration {
    let delay = delay(&record.request, record.expiry);
    let passed = record.ended_at.and_then(|ended| now.duration_since(ended).ok()).unwrap_or_default();
    delay.saturating_sub(passed).max(record.silence.map_or(GRACE, |silence| silence.min(GRACE)))
}

/// Takes in the wills that were on disk, and begins to wait for their clients.
pub fn restore(wills: &Arc<Wills>, found: Vec<(WillId, StoredWill)>) {
    if !found.is_empty() {
        wills.restore(found, Instant::now(), SystemTime::now());
        wills.shutdown.tasks.spawn(publish_what_is_left(wills.clone(), wills.shutdown.publishers.token()));
    }
}

/// At the stop all of them, as with clients that are there; it speaks until then.
async fn publish_what_is_left(wills: Arc<Wills>, speaks: TaskTrackerToken) {
    loop {
        let (due, next) = wills.due(Instant::now());
        for kept in due {
            publish_restored(&wills, kept).await;
        }
        let Some(next) = next else { return };
        tokio::select! {
            () = sleep_until(next.into()) => {}
            () = wills.shutdown.stop.cancelled() => break,
        }
    }
    for kept in wills.all() {
        publish_restored(&wills, kept).await;
    }
    drop(speaks);
}

async fn publish_restored(wills: &Wills, kept: KeptWill) {
    let Some(record) = kept.record() else { return };
    let (client_id, request) = (excerpt(&record.client_id), &record.request);
    // What a topic is may have changed since it was written.
    if TopicName::new(request.topic.as_str()).is_err() {
        tracing::warn!(client_id, topic = excerpt(&request.topic), "will not published: its topic is none");
        return;
    }
    let rights = wills.auth.rules().rights(&record.client_id, &Login::of(record.username.clone()));
    if rights.is_some_and(|rights| !rights.may_write(&request.topic)) {
        wills.stats.dropped.count(DropReason::Denied);
        tracing::warn!(client_id, topic = excerpt(&request.topic), "will not published: acl_file does not allow it");
        return;
    }
    tracing::debug!(client_id, topic = excerpt(&request.topic), "will published: the client has not come back");
    let envelope = envelope(request, wills.bus.session_number(), Instant::now());
    if let Err(error) = publish(&wills.bus, envelope, Some(kept)).await {
        tracing::warn!(client_id, %error, "cannot publish a will");
    }
}

/// Publishes a will, and forgets it when all that follows from it is with the store.
pub async fn publish(bus: &Bus, envelope: Envelope, kept: Option<KeptWill>) -> Result<(), BusError> {
    match (bus.publish(envelope).await, kept) {
        (Ok(published), Some(kept)) => kept.forget(published).await,
        (Ok(_), None) => {}
        (Err(error), kept) => {
            kept.into_iter().for_each(KeptWill::leave);
            return Err(error);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::auth::Rules;
    use crate::broker::bus::BusSettings;
    use crate::broker::store::StoreSettings;
    use crate::broker::will::tests::request;

    fn will(client_id: &str, delay: u32, expiry: SessionExpiry, silence: Option<u64>) -> StoredWill {
        let silence = silence.map(Duration::from_secs);
        StoredWill {
            client_id: client_id.into(),
            username: None,
            request: request(delay),
            expiry,
            silence,
            ended_at: None,
        }
    }

    #[test]
    fn a_will_waits_for_its_delay_and_for_its_client_but_not_beyond_the_session() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let after = |seconds| SessionExpiry::After(Duration::from_secs(seconds));
        let left = |will: &StoredWill| time_left(will, now).as_secs();
        assert_eq!(left(&will("c", 0, after(0), Some(15))), 15);
        assert_eq!(left(&will("c", 0, after(0), Some(90))), 60);
        assert_eq!(left(&will("c", 0, after(0), None)), 60);
        assert_eq!(left(&will("c", 300, SessionExpiry::Never, Some(15))), 300);
        assert_eq!(left(&will("c", 300, after(100), Some(15))), 100);
        assert_eq!(left(&will("c", 300, after(0), Some(15))), 15);
        let ended = |seconds| {
            let ended_at = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
            StoredWill { ended_at, ..will("c", 300, SessionExpiry::Never, Some(15)) }
        };
        assert_eq!(left(&ended(900)), 200);
        assert_eq!(left(&ended(100)), 15, "the client could not come back while the gateway was down");
        assert_eq!(left(&ended(5000)), 300, "the clock is not set yet");
    }

    fn wills(store: Store) -> Wills {
        let bus = Bus::start(BusSettings { max_retained: 1, direct_readers: 1 }).unwrap();
        let auth = Arc::new(Auth::new(Rules::default()));
        Wills::new(auth, bus, store, Arc::default(), Arc::new(Shutdown::new()))
    }

    #[tokio::test]
    async fn of_a_client_the_last_will_counts_and_goes_when_it_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("broker.db");
        let (store, _) = Store::open(&path, StoreSettings::default());
        let kept = |delay| will("c", delay, SessionExpiry::Never, None);
        let before = Arc::new(wills(store.clone()));
        let (one, two) = (before.keep(kept(1)), before.keep(kept(2)));
        let other = before.keep(will("other", 0, SessionExpiry::Never, None));
        other.as_ref().unwrap().ended(SessionExpiry::Never);
        // As kill -9.
        [one, two, other].into_iter().flatten().for_each(KeptWill::leave);
        store.close(Duration::from_secs(20)).await;
        let (store, restored) = Store::open(&path, StoreSettings::default());
        assert_eq!(restored.wills.len(), 3);
        assert!(restored.wills[2].1.ended_at.is_some());
        let (wills, now) = (Arc::new(wills(store.clone())), Instant::now());
        wills.restore(restored.wills, now, SystemTime::now());
        let (due, next) = wills.due(now + GRACE - Duration::from_millis(1));
        assert!(due.is_empty() && next == Some(now + GRACE));
        wills.take_back("c");
        let (due, next) = wills.due(now + GRACE);
        assert_eq!((due.len(), next), (1, None));
        assert_eq!(&*due[0].record().unwrap().client_id, "other");
        drop(due);
        store.close(Duration::from_secs(20)).await;
        assert!(Store::open(&path, StoreSettings::default()).1.wills.is_empty());
    }
}
