//! What became of a command, for who waits for it.

use tokio::sync::mpsc;

use crate::stats::DropReason;

/// The end of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The kernel has taken its bytes.
    Written,
    /// It was not written.
    Dropped(DropReason),
}

/// Goes with a command to each link that it is for. Dropped without a word: the link's task was ended by force.
#[derive(Clone, Debug)]
pub struct OutcomeSender(mpsc::UnboundedSender<Outcome>);

/// The other end: one [`Outcome`] for each link, so it never holds more than the device has links.
#[derive(Debug)]
pub struct Outcomes(mpsc::UnboundedReceiver<Outcome>);

/// The two ends of what becomes of a command.
pub fn channel() -> (OutcomeSender, Outcomes) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (OutcomeSender(sender), Outcomes(receiver))
}

impl OutcomeSender {
    /// Tells; nobody may be waiting any more.
    pub fn tell(self, outcome: Outcome) {
        let _ = self.0.send(outcome);
    }
}

impl Outcomes {
    /// The next; `None` when no sender is left. Cancel safe.
    pub async fn next(&mut self) -> Option<Outcome> {
        self.0.recv().await
    }
}
