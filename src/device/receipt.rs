//! What became of a command, for who waits for it.

use tokio::sync::mpsc;

use crate::stats::DropReason;

/// The end of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The kernel has taken its bytes.
    Written,
    /// It was not written.
    Dropped(DropReason),
}

/// Goes with a command to each link that it is for. Dropped without a word: the link's task was ended by force.
#[derive(Clone, Debug)]
pub struct Receipt(mpsc::UnboundedSender<Fate>);

/// The other end: one [`Fate`] for each link, so it never holds more than the device has links.
#[derive(Debug)]
pub struct Fates(mpsc::UnboundedReceiver<Fate>);

/// A receipt, and where its news arrive.
pub fn receipt() -> (Receipt, Fates) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (Receipt(sender), Fates(receiver))
}

impl Receipt {
    /// Tells; nobody may be waiting any more.
    pub fn tell(self, fate: Fate) {
        let _ = self.0.send(fate);
    }
}

impl Fates {
    /// The next; `None` when no receipt is left. Cancel safe.
    pub async fn next(&mut self) -> Option<Fate> {
        self.0.recv().await
    }
}
