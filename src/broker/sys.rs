//! `$SYS/broker/…`, the topics on which mosquitto says how it is.
//!
//! They cost nothing while nobody listens. When somebody looks up retained messages below `$SYS`, which every
//! subscription does, the values are brought up to date in that moment; after that a timer runs for as long as the lane
//! of `$` topics has a reader. What has not changed is not published again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::time::sleep;

use super::Shared;
use super::bus::TryPublishError;
use super::figures::Figures;
use super::message::{Draft, Envelope};
use crate::qos::Qos;
use load::Loads;
use values::Topic;

mod load;
mod values;

/// As mosquitto publishes them.
const QOS: Qos = Qos::ExactlyOnce;

/// A lookup finds values no older than this. So subscribing in a loop does not flood who else listens.
const FRESH: Duration = Duration::from_millis(100);

/// What was published last.
#[derive(Debug)]
pub struct Sys {
    /// The origin of the messages.
    session: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    loads: Loads,
    updated: Option<Instant>,
    published: HashMap<Topic, String>,
}

/// Publishes while somebody listens, every `interval`, until the broker stops.
pub fn start(shared: &Arc<Shared>, interval: Duration) {
    let weak = Arc::downgrade(shared);
    shared.bus.refresh_sys_with(move || {
        if let Some(shared) = weak.upgrade() {
            shared.sys.refresh(&shared, Instant::now());
        }
    });
    shared.tasks.spawn(run(shared.clone(), interval));
}

async fn run(shared: Arc<Shared>, interval: Duration) {
    let publish = async {
        loop {
            shared.bus.system_is_read(true).await;
            tokio::select! {
                () = sleep(interval) => shared.sys.update(&shared, Instant::now()),
                () = shared.bus.system_is_read(false) => {}
            }
        }
    };
    tokio::select! {
        () = publish => {}
        () = shared.stop.cancelled() => {}
    }
}

impl Sys {
    /// Publishes as the session `session` what a broker does that starts at `now`.
    pub fn new(session: u64, now: Instant) -> Sys {
        let state = State { loads: Loads::new(now), updated: None, published: HashMap::new() };
        Sys { session, state: Mutex::new(state) }
    }

    /// Publishes what has changed, unless that was done just now.
    fn refresh(&self, shared: &Shared, now: Instant) {
        let updated = self.state.lock().updated;
        if updated.is_none_or(|updated| now.saturating_duration_since(updated) >= FRESH) {
            self.update(shared, now);
        }
    }

    /// Publishes what has changed. Never waits: what the bus has no room for is published the next time.
    fn update(&self, shared: &Shared, now: Instant) {
        // One at a time, so that counters never seem to fall.
        let mut state = self.state.lock();
        let figures = Figures::take(shared, now);
        state.updated = Some(now);
        state.loads.update(&figures, now);
        for (topic, value) in values::of(&figures, &state.loads) {
            if state.published.get(&topic) == Some(&value) {
                continue;
            }
            match shared.bus.try_publish(self.envelope(&topic, &value)) {
                Ok(_) => drop(state.published.insert(topic, value)),
                Err(TryPublishError::Busy(..)) => {}
                // Everybody is told by the bus itself.
                Err(TryPublishError::Bus(_)) => return,
            }
        }
    }

    fn envelope(&self, topic: &str, value: &str) -> Envelope {
        Envelope::new(&Draft {
            topic,
            payload: value.as_bytes(),
            qos: QOS,
            retain: true,
            origin: self.session,
            expires: None,
            properties: &[],
        })
    }
}
