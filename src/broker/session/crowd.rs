//! Gives the system its memory back when many sessions have ended.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;

use crate::machine::heap::HeapTrimmer;

/// So many sessions at once are a crowd; so many that end leave memory behind that is worth giving back.
const CROWD: usize = 256;

/// When none has ended for so long, those that end together have.
const DEPARTURE: Duration = Duration::from_millis(500);

/// Where some always end, memory is given back after so many times as long.
const DEPARTURES: usize = 10;

/// How many sessions there have been.
#[derive(Debug, Default)]
pub struct Crowd {
    /// At one time.
    most: AtomicUsize,
    /// That have ended since memory was given back.
    ended: AtomicUsize,
    /// One of them has reached [`CROWD`]. For one task.
    changed: Notify,
}

impl Crowd {
    /// A session has begun, and there are `sessions` now.
    pub fn began(&self, sessions: usize) {
        if self.most.fetch_max(sessions, Relaxed) < CROWD && sessions >= CROWD {
            self.changed.notify_one();
        }
    }

    /// A session has ended.
    pub fn ended(&self) {
        if self.ended.fetch_add(1, Relaxed) + 1 == CROWD {
            self.changed.notify_one();
        }
    }

    /// Gives memory back after each departure of a crowd, for ever. Costs nothing where there is none.
    pub async fn give_back_memory(&self) {
        self.until(|| self.most.load(Relaxed) >= CROWD).await;
        grow_run_queue().await;
        let mut heap = HeapTrimmer::new();
        loop {
            self.until(|| self.ended.load(Relaxed) >= CROWD).await;
            for _ in 0..DEPARTURES {
                let ended = self.ended.load(Relaxed);
                sleep(DEPARTURE).await;
                if self.ended.load(Relaxed) == ended {
                    break;
                }
            }
            self.ended.store(0, Relaxed);
            heap.trim();
        }
    }

    async fn until(&self, condition: impl Fn() -> bool) {
        while !condition() {
            self.changed.notified().await;
        }
    }
}

/// tokio's queue of tasks that can run keeps the size that it needed once. If that is first when thousands of sessions end,
/// it stays at the far end of a heap that is otherwise empty. With this size the allocator has it apart from the heap.
async fn grow_run_queue() {
    const LENGTH: usize = 8192 + 1;
    // Together: the last is queued before the first has run.
    let tasks: Vec<_> = (0..LENGTH).map(|_| tokio::spawn(async {})).collect();
    for task in tasks {
        let _ = task.await;
    }
}
