//! How far a stop of the broker has come, and the tasks that it waits for.

use std::sync::atomic::{AtomicU8, Ordering::SeqCst};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

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

/// Of one broker.
#[derive(Debug)]
pub struct Shutdown {
    /// A [`Stage`].
    stage: AtomicU8,
    /// Owns listeners, connections, sessions and what they leave to do, groups.
    pub tasks: TaskTracker,
    /// A token for each session that may still publish.
    pub publishers: TaskTracker,
    /// Cancelled when the stop begins: listeners close.
    pub stop: CancellationToken,
    /// Cancelled when kept sessions have taken what was published.
    pub drained: CancellationToken,
}

impl Shutdown {
    /// No stop, no task.
    pub fn new() -> Shutdown {
        Shutdown {
            stage: AtomicU8::new(Stage::Running as u8),
            tasks: TaskTracker::new(),
            publishers: TaskTracker::new(),
            stop: CancellationToken::new(),
            drained: CancellationToken::new(),
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

    /// Begins `stage`, unless the stop has come so far already; says whether it had not.
    pub fn enter(&self, stage: Stage) -> bool {
        self.stage.fetch_max(stage as u8, SeqCst) < stage as u8
    }
}
