//! Tasks that wait for something to become true, counted: so that whoever makes it true can see cheaply that none does.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use tokio::sync::Notify;

/// Tasks that wait.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    count: AtomicUsize,
    changed: Notify,
}

impl Waiters {
    /// Whether there are any. A task first counts itself, then looks whether `done`; who changes what it looks at must
    /// first change it, then ask here: so either this sees the task, or the task sees the change.
    pub(super) fn any(&self) -> bool {
        self.count.load(SeqCst) > 0
    }

    /// Makes all of them look again.
    pub(super) fn wake(&self) {
        self.changed.notify_waiters();
    }

    /// Waits until `done`. Cancel safe.
    pub(super) async fn until(&self, done: impl Fn() -> bool) {
        let _counted = Counted::new(&self.count);
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if done() {
                return;
            }
            changed.await;
        }
    }
}

struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicUsize) -> Counted<'a> {
        count.fetch_add(1, SeqCst);
        Counted(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}
