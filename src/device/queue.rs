//! Commands that wait for a device.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;

use super::outcome::{Outcome, OutcomeSender};
use super::rules::Command;
use super::watch::{Watch, What};
use crate::config;
use crate::stats::{DropReason, Drops};

/// Bytes of frames that wait in one queue.
const MAX_BYTES: usize = 16 << 20;

/// What becomes of commands that are not written: they are counted, and whoever watches or waits is told.
#[derive(Clone, Copy, Debug)]
pub struct Losses<'a> {
    /// The counters.
    pub drops: &'a Drops,
    /// Who watches.
    pub watch: &'a Watch,
}

/// The commands that wait for one link, first in first out. What it drops is among its [`Losses`].
///
/// At most `queue.max` commands and 16 MiB of frames wait; beyond that the oldest goes (`queue_full`).
/// A command that waited longer than its `max_age` is not written (`expired`). While the link is offline commands are
/// dropped (`offline`), also those that wait when it goes, unless the queue keeps them.
#[derive(Debug)]
pub struct CommandQueue {
    waiting: VecDeque<Outgoing>,
    bytes: usize,
    limits: config::CommandQueue,
    online: bool,
    /// The other end, of a `tcp_server`.
    peer: Option<SocketAddr>,
}

/// A frame that is to be written.
#[derive(Debug)]
pub struct Outgoing {
    /// Before framing.
    pub frame: Bytes,
    /// Who waits for it.
    pub on_outcome: Option<OutcomeSender>,
    /// When it is too old to be written. `None`: never, or so late that no `Instant` can name it.
    pub expires: Option<Instant>,
}

impl CommandQueue {
    /// An empty queue of a link that is offline; to `peer`, of a `tcp_server`.
    pub fn new(limits: config::CommandQueue, peer: Option<SocketAddr>) -> CommandQueue {
        CommandQueue { waiting: VecDeque::new(), bytes: 0, limits, online: false, peer }
    }

    /// Other bounds from now on; what is too much goes.
    pub fn set_limits(&mut self, limits: config::CommandQueue, losses: Losses<'_>) {
        self.limits = limits;
        if !self.online {
            self.set_online(false, losses);
        }
        self.shrink(losses);
    }

    /// Adds a command; its target has done its work by now.
    pub fn push(&mut self, now: Instant, command: Command, on_outcome: Option<OutcomeSender>, losses: Losses<'_>) {
        let expires = command.max_age.and_then(|age| now.checked_add(age));
        let outgoing = Outgoing { frame: command.frame, on_outcome, expires };
        if !self.online && !self.limits.keep_while_offline {
            return losses.add(outgoing, self.peer, DropReason::Offline);
        }
        self.bytes += outgoing.frame.len();
        self.waiting.push_back(outgoing);
        self.shrink(losses);
    }

    /// Takes all that waits in `old`, which is older than what waits here. What this would not have taken goes.
    pub fn take_over(&mut self, old: &mut CommandQueue, losses: Losses<'_>) {
        let newer = std::mem::replace(&mut self.waiting, std::mem::take(&mut old.waiting));
        self.waiting.extend(newer);
        self.bytes += std::mem::take(&mut old.bytes);
        self.set_limits(self.limits, losses);
    }

    /// Takes back what was popped last, in its order, as it was not written after all. The bounds hold as ever.
    pub fn put_back(&mut self, popped: impl DoubleEndedIterator<Item = Outgoing>, losses: Losses<'_>) {
        for outgoing in popped.rev() {
            self.bytes += outgoing.frame.len();
            self.waiting.push_front(outgoing);
        }
        self.set_limits(self.limits, losses);
    }

    fn shrink(&mut self, losses: Losses<'_>) {
        while self.waiting.len() > self.limits.max || self.bytes > MAX_BYTES {
            let Some(oldest) = self.take() else { return };
            losses.add(oldest, self.peer, DropReason::QueueFull);
        }
    }

    /// Takes the oldest command that has not expired.
    pub fn pop(&mut self, now: Instant, losses: Losses<'_>) -> Option<Outgoing> {
        loop {
            let command = self.take()?;
            if command.expires.is_none_or(|expires| now <= expires) {
                return Some(command);
            }
            losses.add(command, self.peer, DropReason::Expired);
        }
    }

    /// Tells whether the link is up.
    pub fn set_online(&mut self, online: bool, losses: Losses<'_>) {
        self.online = online;
        if !online && !self.limits.keep_while_offline {
            self.clear(DropReason::Offline, losses);
        }
    }

    /// Drops all that waits, for instance as [`DropReason::Stopped`] when the gateway stops.
    pub fn clear(&mut self, reason: DropReason, losses: Losses<'_>) {
        for command in self.waiting.drain(..) {
            losses.add(command, self.peer, reason);
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

    fn take(&mut self) -> Option<Outgoing> {
        let command = self.waiting.pop_front()?;
        self.bytes -= command.frame.len();
        Some(command)
    }
}

impl Losses<'_> {
    /// `outgoing`, which was for `peer`, is not written.
    fn add(&self, outgoing: Outgoing, peer: Option<SocketAddr>, reason: DropReason) {
        self.drops.count(reason);
        self.tell(outgoing, peer, reason);
    }

    /// The same, where it was counted already.
    pub fn tell(&self, outgoing: Outgoing, peer: Option<SocketAddr>, reason: DropReason) {
        let Outgoing { frame, on_outcome, .. } = outgoing;
        self.watch.tell(|| What::Out { frame, peer, dropped: Some(reason) });
        if let Some(on_outcome) = on_outcome {
            on_outcome.tell(Outcome::Dropped(reason));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::super::rules::Target;
    use super::*;

    fn queue(max: usize, keep_while_offline: bool) -> (CommandQueue, Lost) {
        (CommandQueue::new(config::CommandQueue { max, keep_while_offline }, None), Lost::default())
    }

    #[derive(Default)]
    struct Lost {
        drops: Drops,
        watch: Arc<Watch>,
    }

    impl Lost {
        fn losses(&self) -> Losses<'_> {
            Losses { drops: &self.drops, watch: &self.watch }
        }

        fn get(&self, reason: DropReason) -> u64 {
            self.drops.get(reason)
        }
    }

    fn command(frame: impl Into<Bytes>, max_age: Option<u64>) -> Command {
        Command { frame: frame.into(), target: Target::All, max_age: max_age.map(Duration::from_secs) }
    }

    fn pop(queue: &mut CommandQueue, now: Instant, lost: &Lost) -> Option<Bytes> {
        queue.pop(now, lost.losses()).map(|outgoing| outgoing.frame)
    }

    #[test]
    fn commands_come_out_in_order() {
        let (mut queue, lost) = queue(3, false);
        let now = Instant::now();
        queue.set_online(true, lost.losses());
        for frame in ["1", "2", "3"] {
            queue.push(now, command(frame, None), None, lost.losses());
        }
        assert_eq!(queue.len(), 3);
        let popped: Vec<Bytes> = std::iter::from_fn(|| pop(&mut queue, now, &lost)).collect();
        assert_eq!(popped, ["1", "2", "3"]);
        assert!(queue.is_empty() && lost.drops.nonzero().next().is_none());
    }

    #[test]
    fn a_full_queue_gives_up_the_oldest() {
        let (mut queue, lost) = queue(2, true);
        let now = Instant::now();
        for frame in ["1", "2", "3"] {
            queue.push(now, command(frame, None), None, lost.losses());
        }
        assert_eq!((queue.len(), lost.get(DropReason::QueueFull)), (2, 1));
        assert_eq!(pop(&mut queue, now, &lost).unwrap(), "2");
    }

    #[test]
    fn bytes_are_bounded_too() {
        let (mut queue, lost) = queue(1000, true);
        let big = Bytes::from(vec![0; MAX_BYTES / 2]);
        for _ in 0..3 {
            queue.push(Instant::now(), command(big.clone(), None), None, lost.losses());
        }
        assert_eq!((queue.len(), lost.get(DropReason::QueueFull)), (2, 1));
    }

    #[test]
    fn old_commands_expire() {
        let (mut queue, lost) = queue(9, true);
        let start = Instant::now();
        for (frame, max_age) in [("1", Some(1)), ("2", Some(3)), ("3", None), ("4", Some(u64::MAX))] {
            queue.push(start, command(frame, max_age), None, lost.losses());
        }
        let later = start + Duration::from_secs(3);
        assert_eq!(pop(&mut queue, later, &lost).unwrap(), "2");
        assert_eq!(lost.get(DropReason::Expired), 1);
        assert_eq!(pop(&mut queue, later + Duration::from_secs(99), &lost).unwrap(), "3");
        assert_eq!(pop(&mut queue, later, &lost).unwrap(), "4");
        assert_eq!(pop(&mut queue, later, &lost), None);
    }

    #[test]
    fn offline_commands_are_dropped_or_kept() {
        let now = Instant::now();
        let (mut dropping, lost) = queue(9, false);
        dropping.push(now, command("1", None), None, lost.losses());
        dropping.set_online(true, lost.losses());
        dropping.push(now, command("2", None), None, lost.losses());
        dropping.set_online(false, lost.losses());
        assert_eq!((dropping.len(), lost.get(DropReason::Offline)), (0, 2));

        let (mut keeping, lost) = queue(9, true);
        keeping.push(now, command("1", None), None, lost.losses());
        keeping.set_online(true, lost.losses());
        keeping.set_online(false, lost.losses());
        assert_eq!((keeping.len(), lost.get(DropReason::Offline)), (1, 0));
        keeping.clear(DropReason::Stopped, lost.losses());
        assert_eq!((pop(&mut keeping, now, &lost), lost.get(DropReason::Stopped)), (None, 1));
    }

    #[test]
    fn what_is_taken_over_comes_first() {
        let now = Instant::now();
        let ((mut old, lost), (mut successor, _)) = (queue(9, true), queue(3, true));
        for frame in ["1", "2", "3"] {
            old.push(now, command(frame, (frame == "2").then_some(1)), None, lost.losses());
        }
        successor.push(now, command("4", None), None, lost.losses());
        successor.take_over(&mut old, lost.losses());
        assert_eq!((old.len(), old.bytes, successor.len(), successor.bytes), (0, 0, 3, 3));
        assert_eq!(lost.get(DropReason::QueueFull), 1);
        assert_eq!(
            pop(&mut successor, now + Duration::from_secs(2), &lost).unwrap(),
            "3",
            "1 was too much and 2 too old"
        );
        assert_eq!((lost.get(DropReason::Expired), pop(&mut successor, now, &lost).unwrap()), (1, "4".into()));

        let (mut dropping, _) = queue(9, false);
        old.push(now, command("5", None), None, lost.losses());
        dropping.take_over(&mut old, lost.losses());
        assert_eq!((dropping.len(), lost.get(DropReason::Offline)), (0, 1));
    }

    #[test]
    fn what_is_put_back_comes_first() {
        let now = Instant::now();
        let (mut queue, lost) = queue(3, true);
        for frame in ["1", "2", "3"] {
            queue.push(now, command(frame, (frame == "2").then_some(1)), None, lost.losses());
        }
        let popped: Vec<Outgoing> = (0..2).filter_map(|_| queue.pop(now, lost.losses())).collect();
        queue.push(now, command("4", None), None, lost.losses());
        queue.put_back(popped.into_iter(), lost.losses());
        assert_eq!((queue.len(), queue.bytes, lost.get(DropReason::QueueFull)), (3, 3, 1), "1 was too much");
        assert_eq!(pop(&mut queue, now + Duration::from_secs(2), &lost).unwrap(), "3", "2 was too old by then");
        assert_eq!(lost.get(DropReason::Expired), 1);
    }

    #[tokio::test]
    async fn who_waits_is_told() {
        let (mut queue, lost) = queue(1, false);
        let now = Instant::now();
        let (on_outcome, mut outcomes) = super::super::outcome::channel();
        queue.push(now, command("1", None), Some(on_outcome.clone()), lost.losses());
        queue.set_online(true, lost.losses());
        queue.push(now, command("2", None), Some(on_outcome.clone()), lost.losses());
        queue.push(now, command("3", Some(0)), Some(on_outcome), lost.losses());
        assert!(queue.pop(now + Duration::from_secs(1), lost.losses()).is_none());
        for reason in [DropReason::Offline, DropReason::QueueFull, DropReason::Expired] {
            assert_eq!(outcomes.next().await, Some(Outcome::Dropped(reason)));
        }
        assert_eq!(outcomes.next().await, None);
    }

    #[test]
    fn who_watches_sees_the_end_of_each() {
        let (queue, lost) = queue(1, false);
        let peer = "10.0.0.7:4711".parse().ok();
        let mut queue = CommandQueue { peer, ..queue };
        let mut watcher = lost.watch.watch();
        let now = Instant::now();
        queue.push(now, command("1", None), None, lost.losses());
        queue.set_online(true, lost.losses());
        queue.push(now, command("2", None), None, lost.losses());
        queue.push(now, command("3", Some(0)), None, lost.losses());
        assert_eq!(pop(&mut queue, now + Duration::from_secs(1), &lost), None);
        queue.push(now, command("4", None), None, lost.losses());
        queue.clear(DropReason::Stopped, lost.losses());
        let reasons = [DropReason::Offline, DropReason::QueueFull, DropReason::Expired, DropReason::Stopped];
        for (wanted, reason) in ["1", "2", "3", "4"].into_iter().zip(reasons) {
            let event = watcher.try_next().unwrap();
            let What::Out { frame, peer: to, dropped } = &event.what else { panic!("{event:?}") };
            assert_eq!((&frame[..], *to, *dropped), (wanted.as_bytes(), peer, Some(reason)));
        }
        assert!(watcher.try_next().is_none());
    }
}
