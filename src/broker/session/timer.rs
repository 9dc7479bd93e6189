//! A timer for deadlines that mostly move away.

use std::pin::Pin;
use std::time::Instant;

use tokio::time::{Sleep, sleep_until};

/// Armed at the first need, and armed anew only for an earlier deadline: traffic that moves a deadline costs nothing,
/// a wake-up too early costs one look at the clock.
#[derive(Debug, Default)]
pub struct Timer(Option<Pin<Box<Sleep>>>);

impl Timer {
    /// Waits until `deadline` or some time before it; for ever without one. Cancel safe.
    pub async fn wait(&mut self, deadline: Option<Instant>) {
        let Some(deadline) = deadline.map(Into::into) else { return std::future::pending().await };
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.is_elapsed() || deadline < sleep.deadline() {
            sleep.as_mut().reset(deadline);
        }
        sleep.await;
    }
}
