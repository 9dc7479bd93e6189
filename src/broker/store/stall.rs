//! Whether the disk answers at all. One that fails says so, and [`Health::Degraded`](super::Health) tells of it; one
//! that hangs, as an SD card does at its end, says nothing: the thread that writes waits for it, and whoever waits for
//! a ticket waits with it. Only a clock shows that.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{sleep, sleep_until};

/// How long the disk may take for a transaction. A card that tidies itself up takes a second or two.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// When the disk was asked for something.
#[derive(Debug, Default)]
pub(super) struct Disk {
    /// Since when the thread waits for it.
    asked: Mutex<Option<Instant>>,
    /// It was asked; who waits here looks at the clock once in [`PATIENCE`], not for each transaction.
    began: Notify,
    /// It has answered after more than [`PATIENCE`].
    answered: Notify,
}

impl Disk {
    /// The thread asks it for something at `now`.
    pub(super) fn ask(&self, now: Instant) {
        *self.asked.lock() = Some(now);
        self.began.notify_one();
    }

    /// It has answered at `now`, if only that it cannot.
    pub(super) fn answer(&self, now: Instant) {
        let asked = self.asked.lock().take();
        if asked.is_some_and(|asked| now.saturating_duration_since(asked) >= PATIENCE) {
            self.answered.notify_one();
        }
    }

    /// For how long it has not answered, if that is longer than it may take.
    pub(super) fn stalled(&self, now: Instant) -> Option<Duration> {
        let asked = (*self.asked.lock())?;
        Some(now.saturating_duration_since(asked)).filter(|waited| *waited >= PATIENCE)
    }

    /// Resolves when the disk has not answered for [`PATIENCE`], with the moment it was asked; for one task. While
    /// nothing is written nothing wakes it.
    pub(super) async fn until_stalled(&self) -> Instant {
        loop {
            self.began.notified().await;
            sleep(PATIENCE).await;
            while let Some(asked) = self.asked() {
                if asked.elapsed() >= PATIENCE {
                    return asked;
                }
                sleep_until((asked + PATIENCE).into()).await;
            }
        }
    }

    /// Resolves when the disk has answered what it was asked at `asked`; for one task.
    pub(super) async fn until_answered(&self, asked: Instant) {
        while self.asked() == Some(asked) {
            self.answered.notified().await;
        }
    }

    fn asked(&self) -> Option<Instant> {
        *self.asked.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_long_wait_is_a_stall() {
        let (disk, start) = (Disk::default(), Instant::now());
        assert_eq!(disk.stalled(start), None, "nothing was asked");
        disk.ask(start);
        assert_eq!(disk.stalled(start + PATIENCE / 2), None);
        assert_eq!(disk.stalled(start + 2 * PATIENCE), Some(2 * PATIENCE));
        disk.answer(start + 3 * PATIENCE);
        assert_eq!(disk.stalled(start + 4 * PATIENCE), None);
    }

    #[tokio::test(start_paused = true)]
    async fn who_watches_is_told_of_the_beginning_and_of_the_end() {
        let disk = Disk::default();
        let long_ago = Instant::now().checked_sub(2 * PATIENCE).unwrap();
        for _ in 0..2 {
            // Quick answers tell nobody anything.
            disk.ask(Instant::now());
            disk.answer(Instant::now());
            disk.ask(long_ago);
            assert_eq!(disk.until_stalled().await, long_ago);
            let (ended, ()) = tokio::join!(disk.until_answered(long_ago), async { disk.answer(Instant::now()) });
            assert_eq!((ended, disk.stalled(Instant::now())), ((), None));
        }
    }
}
