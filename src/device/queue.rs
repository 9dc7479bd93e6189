//! Commands that wait for a device.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;

use super::receipt::{Fate, Receipt};
use super::rules::Command;
use crate::config;
use crate::stats::{DropReason, Drops};

/// Bytes of frames that wait in one queue.
const MAX_BYTES: usize = 16 << 20;

/// The commands that wait for one link, first in first out. What it drops it counts.
///
/// At most `queue.max` commands and 16 MiB of frames wait; beyond that the oldest goes (`queue_full`).
/// A command that waited longer than its `max_age` is not written (`expired`). While the link is offline commands are
/// dropped (`offline`), also those that wait when it goes, unless the queue keeps them.
#[derive(Debug)]
pub struct CommandQueue {
    waiting: VecDeque<Waiting>,
    bytes: usize,
    limits: config::CommandQueue,
    online: bool,
}

#[derive(Debug)]
struct Waiting {
    outgoing: Outgoing,
    /// `None`: never, or so late that no `Instant` can name it.
    expires: Option<Instant>,
}

/// A frame that is to be written.
#[derive(Debug)]
pub struct Outgoing {
    /// Before framing.
    pub frame: Bytes,
    /// Who waits for it.
    pub receipt: Option<Receipt>,
}

impl CommandQueue {
    /// An empty queue of a link that is offline.
    pub fn new(limits: config::CommandQueue) -> CommandQueue {
        CommandQueue { waiting: VecDeque::new(), bytes: 0, limits, online: false }
    }

    /// Other bounds from now on; what is too much goes.
    pub fn set_limits(&mut self, limits: config::CommandQueue, drops: &Drops) {
        self.limits = limits;
        if !self.online {
            self.set_online(false, drops);
        }
        self.shrink(drops);
    }

    /// Adds a command; its target has done its work by now.
    pub fn push(&mut self, now: Instant, command: Command, receipt: Option<Receipt>, drops: &Drops) {
        let outgoing = Outgoing { frame: command.frame, receipt };
        if !self.online && !self.limits.keep_while_offline {
            return outgoing.dropped(DropReason::Offline, drops);
        }
        let expires = command.max_age.and_then(|age| now.checked_add(age));
        self.bytes += outgoing.frame.len();
        self.waiting.push_back(Waiting { outgoing, expires });
        self.shrink(drops);
    }

    fn shrink(&mut self, drops: &Drops) {
        while self.waiting.len() > self.limits.max || self.bytes > MAX_BYTES {
            let Some(oldest) = self.take() else { return };
            oldest.outgoing.dropped(DropReason::QueueFull, drops);
        }
    }

    /// Takes the oldest command that has not expired.
    pub fn pop(&mut self, now: Instant, drops: &Drops) -> Option<Outgoing> {
        loop {
            let command = self.take()?;
            if command.expires.is_none_or(|expires| now <= expires) {
                return Some(command.outgoing);
            }
            command.outgoing.dropped(DropReason::Expired, drops);
        }
    }

    /// Tells whether the link is up.
    pub fn set_online(&mut self, online: bool, drops: &Drops) {
        self.online = online;
        if !online && !self.limits.keep_while_offline {
            self.clear(DropReason::Offline, drops);
        }
    }

    /// Drops all that waits, for instance as [`DropReason::Stopped`] when the gateway stops.
    pub fn clear(&mut self, reason: DropReason, drops: &Drops) {
        for command in self.waiting.drain(..) {
            command.outgoing.dropped(reason, drops);
        }
        self.bytes = 0;
    }

    /// Commands that wait, expired ones included.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    fn take(&mut self) -> Option<Waiting> {
        let command = self.waiting.pop_front()?;
        self.bytes -= command.outgoing.frame.len();
        Some(command)
    }
}

impl Outgoing {
    fn dropped(self, reason: DropReason, drops: &Drops) {
        drops.count(reason);
        if let Some(receipt) = self.receipt {
            receipt.tell(Fate::Dropped(reason));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::rules::Target;
    use super::*;

    fn queue(max: usize, keep_while_offline: bool) -> (CommandQueue, Drops) {
        (CommandQueue::new(config::CommandQueue { max, keep_while_offline }), Drops::default())
    }

    fn command(frame: impl Into<Bytes>, max_age: Option<u64>) -> Command {
        Command { frame: frame.into(), target: Target::All, max_age: max_age.map(Duration::from_secs) }
    }

    fn pop(queue: &mut CommandQueue, now: Instant, drops: &Drops) -> Option<Bytes> {
        queue.pop(now, drops).map(|outgoing| outgoing.frame)
    }

    #[test]
    fn commands_come_out_in_order() {
        let (mut queue, drops) = queue(3, false);
        let now = Instant::now();
        queue.set_online(true, &drops);
        for frame in ["1", "2", "3"] {
            queue.push(now, command(frame, None), None, &drops);
        }
        assert_eq!(queue.len(), 3);
        let popped: Vec<Bytes> = std::iter::from_fn(|| pop(&mut queue, now, &drops)).collect();
        assert_eq!(popped, ["1", "2", "3"]);
        assert!(queue.is_empty() && drops.nonzero().next().is_none());
    }

    #[test]
    fn a_full_queue_gives_up_the_oldest() {
        let (mut queue, drops) = queue(2, true);
        let now = Instant::now();
        for frame in ["1", "2", "3"] {
            queue.push(now, command(frame, None), None, &drops);
        }
        assert_eq!((queue.len(), drops.get(DropReason::QueueFull)), (2, 1));
        assert_eq!(pop(&mut queue, now, &drops).unwrap(), "2");
    }

    #[test]
    fn bytes_are_bounded_too() {
        let (mut queue, drops) = queue(1000, true);
        let big = Bytes::from(vec![0; MAX_BYTES / 2]);
        for _ in 0..3 {
            queue.push(Instant::now(), command(big.clone(), None), None, &drops);
        }
        assert_eq!((queue.len(), drops.get(DropReason::QueueFull)), (2, 1));
    }

    #[test]
    fn old_commands_expire() {
        let (mut queue, drops) = queue(9, true);
        let start = Instant::now();
        for (frame, max_age) in [("1", Some(1)), ("2", Some(3)), ("3", None), ("4", Some(u64::MAX))] {
            queue.push(start, command(frame, max_age), None, &drops);
        }
        let later = start + Duration::from_secs(3);
        assert_eq!(pop(&mut queue, later, &drops).unwrap(), "2");
        assert_eq!(drops.get(DropReason::Expired), 1);
        assert_eq!(pop(&mut queue, later + Duration::from_secs(99), &drops).unwrap(), "3");
        assert_eq!(pop(&mut queue, later, &drops).unwrap(), "4");
        assert_eq!(pop(&mut queue, later, &drops), None);
    }

    #[test]
    fn offline_commands_are_dropped_or_kept() {
        let now = Instant::now();
        let (mut dropping, drops) = queue(9, false);
        dropping.push(now, command("1", None), None, &drops);
        dropping.set_online(true, &drops);
        dropping.push(now, command("2", None), None, &drops);
        dropping.set_online(false, &drops);
        assert_eq!((dropping.len(), drops.get(DropReason::Offline)), (0, 2));

        let (mut keeping, drops) = queue(9, true);
        keeping.push(now, command("1", None), None, &drops);
        keeping.set_online(true, &drops);
        keeping.set_online(false, &drops);
        assert_eq!((keeping.len(), drops.get(DropReason::Offline)), (1, 0));
        keeping.clear(DropReason::Stopped, &drops);
        assert_eq!((pop(&mut keeping, now, &drops), drops.get(DropReason::Stopped)), (None, 1));
    }

    #[tokio::test]
    async fn who_waits_is_told() {
        let (mut queue, drops) = queue(1, false);
        let now = Instant::now();
        let (receipt, mut fates) = super::super::receipt::receipt();
        queue.push(now, command("1", None), Some(receipt.clone()), &drops);
        queue.set_online(true, &drops);
        queue.push(now, command("2", None), Some(receipt.clone()), &drops);
        queue.push(now, command("3", Some(0)), Some(receipt), &drops);
        assert!(queue.pop(now + Duration::from_secs(1), &drops).is_none());
        for reason in [DropReason::Offline, DropReason::QueueFull, DropReason::Expired] {
            assert_eq!(fates.next().await, Some(Fate::Dropped(reason)));
        }
        assert_eq!(fates.next().await, None);
    }
}
