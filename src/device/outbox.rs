//! The queue of commands for one link, and the wake-up of the task that writes them.

use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::outcome::OutcomeSender;
use super::queue::{CommandQueue, Losses, Outgoing};
use super::rules::Command;
use crate::config;
use crate::stats::DropReason;

/// Commands on their way to one link. Filled by the device's subscription, emptied by the link's writer.
#[derive(Debug)]
pub struct Outbox {
    queue: Mutex<CommandQueue>,
    filled: Notify,
    /// With `echo = "drop"`: the frame written last, while it is still looked for among the frames read.
    written: Option<Mutex<Option<Bytes>>>,
}

impl Outbox {
    /// An empty one of a link that is offline; to `peer`, of a `tcp_server`.
    pub fn new(limits: config::CommandQueue, drop_echo: bool, peer: Option<SocketAddr>) -> Outbox {
        Outbox {
            queue: Mutex::new(CommandQueue::new(limits, peer)),
            filled: Notify::new(),
            written: drop_echo.then(Mutex::default),
        }
    }

    /// Other bounds from now on.
    pub fn set_limits(&self, limits: config::CommandQueue, losses: Losses<'_>) {
        self.queue.lock().set_limits(limits, losses);
    }

    /// Queues `command`; what is dropped for it is among the losses.
    pub fn push(&self, command: Command, on_outcome: Option<OutcomeSender>, losses: Losses<'_>) {
        self.queue.lock().push(Instant::now(), command, on_outcome, losses);
        self.filled.notify_one();
    }

    /// Takes what waits in `old`, before what waits here.
    pub fn take_over(&self, old: &Outbox, losses: Losses<'_>) {
        self.queue.lock().take_over(&mut old.queue.lock(), losses);
    }

    /// The next frame to write. `None`: `drain` is cancelled and nothing is left. Cancel safe.
    pub async fn next(&self, drain: &CancellationToken, losses: Losses<'_>) -> Option<Outgoing> {
        loop {
            if let Some(frame) = self.try_next(losses) {
                return Some(frame);
            }
            tokio::select! {
                () = self.filled.notified() => {}
                () = drain.cancelled() => return self.try_next(losses),
            }
        }
    }

    /// The next frame to write, if one waits.
    pub fn try_next(&self, losses: Losses<'_>) -> Option<Outgoing> {
        self.queue.lock().pop(Instant::now(), losses)
    }

    /// Takes back what was taken last and not written.
    pub fn put_back(&self, taken: impl DoubleEndedIterator<Item = Outgoing>, losses: Losses<'_>) {
        self.queue.lock().put_back(taken, losses);
    }

    /// Tells whether the link is up.
    pub fn set_online(&self, online: bool, losses: Losses<'_>) {
        self.queue.lock().set_online(online, losses);
    }

    /// Drops what is left, for `reason`.
    pub fn clear(&self, reason: DropReason, losses: Losses<'_>) {
        self.queue.lock().clear(reason, losses);
    }

    /// Commands that wait.
    pub fn len(&self) -> usize {
        self.queue.lock().len()
    }

    /// Remembers a frame that goes out, to know its echo by.
    pub fn remember_written(&self, frame: &Bytes) {
        if let Some(written) = &self.written {
            *written.lock() = Some(frame.clone());
        }
    }

    /// Whether `frame` is the echo of the frame written last. Each frame written has one echo.
    pub fn is_echo(&self, frame: &Bytes) -> bool {
        self.written.as_ref().is_some_and(|written| written.lock().take_if(|last| last == frame).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::rules::Target;
    use crate::device::watch::Watch;
    use crate::stats::Drops;

    fn outbox() -> Outbox {
        Outbox::new(config::CommandQueue { max: 1000, keep_while_offline: false }, true, None)
    }

    fn command(frame: &'static str) -> Command {
        Command { frame: Bytes::from_static(frame.as_bytes()), target: Target::All, max_age: None }
    }

    #[tokio::test]
    async fn what_is_queued_is_written_before_the_stop() {
        let (outbox, drops, watch) = (outbox(), Drops::default(), Watch::default());
        let (losses, drain) = (Losses { drops: &drops, watch: &watch }, CancellationToken::new());
        outbox.set_online(true, losses);
        outbox.push(command("ON"), None, losses);
        drain.cancel();
        assert_eq!(outbox.next(&drain, losses).await.unwrap().frame, "ON");
        assert!(outbox.next(&drain, losses).await.is_none());
    }

    #[test]
    fn a_written_frame_has_one_echo() {
        let outbox = outbox();
        let frame = Bytes::from_static(b"PING");
        assert!(!outbox.is_echo(&frame));
        outbox.remember_written(&frame);
        assert!(!outbox.is_echo(&Bytes::from_static(b"PONG")));
        assert!(outbox.is_echo(&frame));
        assert!(!outbox.is_echo(&frame));
    }
}
