//! `$SYS/broker/…`, the topics on which mosquitto says how it is.
//!
//! They cost nothing while nobody listens. When somebody looks up retained messages below `$SYS`, which every
//! subscription does, the values are brought up to date in that moment; after that a timer runs for as long as somebody is
//! subscribed to a filter that begins with `$`. What has not changed is not published again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::time::sleep;

use super::bus::TryPublishError;
use super::figures::{Figures, Sources};
use super::message::{Draft, Envelope};
use super::shutdown::Shutdown;
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
    sources: Sources,
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
pub fn start(sources: Sources, interval: Duration, shutdown: Arc<Shutdown>) {
    let sys = Arc::new(Sys::new(sources, Instant::now()));
    let weak = Arc::downgrade(&sys);
    sys.sources.bus.refresh_sys_with(move || {
        if let Some(sys) = weak.upgrade() {
            sys.refresh(Instant::now());
        }
    });
    let tasks = shutdown.tasks.clone();
    tasks.spawn(run(sys, interval, shutdown));
}

async fn run(sys: Arc<Sys>, interval: Duration, shutdown: Arc<Shutdown>) {
    let publish = async {
        loop {
            sys.sources.bus.system_is_read(true).await;
            tokio::select! {
                () = sleep(interval) => sys.update(Instant::now()),
                () = sys.sources.bus.system_is_read(false) => {}
            }
        }
    };
    tokio::select! {
        () = publish => {}
        () = shutdown.stop.cancelled() => {}
    }
}

impl Sys {
    /// Publishes what a broker does that starts at `now`.
    fn new(sources: Sources, now: Instant) -> Sys {
        let session = sources.bus.session_number();
        let state = State { loads: Loads::new(now), updated: None, published: HashMap::new() };
        Sys { sources, session, state: Mutex::new(state) }
    }

    /// Publishes what has changed, unless that was done just now.
    fn refresh(&self, now: Instant) {
        let updated = self.state.lock().updated;
        if updated.is_none_or(|updated| now.saturating_duration_since(updated) >= FRESH) {
            self.update(now);
        }
    }

    /// Publishes what has changed. Never waits: what the bus has no room for is published the next time.
    fn update(&self, now: Instant) {
        // One at a time, so that counters never seem to fall.
        let mut state = self.state.lock();
        let figures = Figures::take(&self.sources, now);
        state.updated = Some(now);
        state.loads.update(&figures, now);
        for (topic, value) in values::of(&figures, &state.loads) {
            if state.published.get(&topic) == Some(&value) {
                continue;
            }
            match self.sources.bus.try_publish(self.envelope(&topic, &value)) {
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
