//! What waits for one session, bounded in number and bytes.

use std::collections::VecDeque;

use crate::config::{self, QueueFull};

/// Room kept after a burst.
const KEPT_CAPACITY: usize = 64;

/// The bounds of a [`Queue`] and what gives way when it is full.
#[derive(Clone, Copy, Debug)]
pub struct QueueLimits {
    /// Messages.
    pub messages: usize,
    /// Bytes of topics, properties and payloads.
    pub bytes: usize,
    /// Which message goes.
    pub full: QueueFull,
}

impl QueueLimits {
    /// Of a session's queue.
    pub fn of(settings: &config::Broker) -> QueueLimits {
        QueueLimits { messages: settings.max_queued, bytes: settings.max_queued_bytes, full: settings.queue_full }
    }
}

/// Messages that wait, oldest first.
#[derive(Debug)]
pub struct Queue<T> {
    items: VecDeque<(T, usize)>,
    bytes: usize,
    limits: QueueLimits,
}

impl<T> Queue<T> {
    /// An empty queue.
    pub fn new(limits: QueueLimits) -> Queue<T> {
        Queue { items: VecDeque::new(), bytes: 0, limits }
    }

    /// Other bounds from the next message on.
    pub fn set_limits(&mut self, limits: QueueLimits) {
        self.limits = limits;
    }

    /// Adds `item`, which weighs `bytes`, and returns how many were dropped: older ones, or this one, each given to
    /// `give_up`. An item that alone is above the bound is dropped.
    pub fn push(&mut self, item: T, bytes: usize, mut give_up: impl FnMut(T)) -> u64 {
        let mut dropped = 0;
        while self.items.len() >= self.limits.messages || self.bytes + bytes > self.limits.bytes {
            let keeps_old = self.limits.full == QueueFull::DropNewest || bytes > self.limits.bytes;
            let oldest = if keeps_old { None } else { self.pop() };
            dropped += 1;
            match oldest {
                Some(oldest) => give_up(oldest),
                None => {
                    give_up(item);
                    return dropped;
                }
            }
        }
        self.bytes += bytes;
        self.items.push_back((item, bytes));
        dropped
    }

    /// The oldest.
    pub fn front(&self) -> Option<&T> {
        self.items.front().map(|(item, _)| item)
    }

    /// Takes the oldest.
    pub fn pop(&mut self) -> Option<T> {
        let (item, bytes) = self.items.pop_front()?;
        self.bytes -= bytes;
        if self.items.is_empty() && self.items.capacity() > KEPT_CAPACITY {
            self.items.shrink_to(KEPT_CAPACITY);
        }
        Some(item)
    }

    /// Keeps what `keep` is true for and returns how many went.
    pub fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) -> u64 {
        let before = self.items.len();
        let mut bytes = 0;
        self.items.retain(|(item, size)| {
            let kept = keep(item);
            bytes += if kept { *size } else { 0 };
            kept
        });
        self.bytes = bytes;
        (before - self.items.len()) as u64
    }

    /// What waits, oldest first.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.items.iter_mut().map(|(item, _)| item)
    }

    /// Messages that wait.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Their bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Whether half of either bound is passed.
    pub fn is_over_half(&self) -> bool {
        self.items.len() > self.limits.messages / 2 || self.bytes > self.limits.bytes / 2
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn queue(full: QueueFull) -> Queue<u32> {
        Queue::new(QueueLimits { messages: 3, bytes: 100, full })
    }

    fn drain(mut queue: Queue<u32>) -> Vec<u32> {
        std::iter::from_fn(|| queue.pop()).collect()
    }

    #[test]
    fn the_policy_says_which_goes() {
        let mut oldest = queue(QueueFull::DropOldest);
        assert_eq!((0..5).map(|n| oldest.push(n, 1, drop)).collect::<Vec<_>>(), [0, 0, 0, 1, 1]);
        assert_eq!(drain(oldest), [2, 3, 4]);
        let mut newest = queue(QueueFull::DropNewest);
        assert_eq!((0..5).map(|n| newest.push(n, 1, drop)).collect::<Vec<_>>(), [0, 0, 0, 1, 1]);
        assert_eq!(drain(newest), [0, 1, 2]);
    }

    #[test]
    fn bytes_count_too() {
        let mut queue = queue(QueueFull::DropOldest);
        assert_eq!((queue.push(1, 60, drop), queue.push(2, 30, drop), queue.push(3, 60, drop)), (0, 0, 1));
        assert_eq!(queue.push(4, 101, drop), 1, "the one that can never fit");
        assert_eq!(drain(queue), [2, 3]);
    }

    #[test]
    fn without_room_for_one_everything_is_dropped() {
        let mut queue = Queue::new(QueueLimits { messages: 0, bytes: 100, full: QueueFull::DropOldest });
        assert_eq!((queue.push(1, 1, drop), queue.len()), (1, 0));
    }

    #[test]
    fn retain_keeps_the_count_of_bytes() {
        let mut queue = queue(QueueFull::DropNewest);
        queue.push(1, 40, drop);
        queue.push(2, 50, drop);
        assert_eq!(queue.retain(|&n| n == 2), 1);
        assert_eq!((queue.push(3, 50, drop), queue.push(4, 1, drop)), (0, 1));
    }

    proptest! {
        #[test]
        fn the_bounds_hold_and_all_are_counted(drop_oldest: bool, sizes in proptest::collection::vec(0usize..150, 0..50)) {
            let full = if drop_oldest { QueueFull::DropOldest } else { QueueFull::DropNewest };
            let mut queue = queue(full);
            let mut dropped = 0;
            for (n, size) in sizes.iter().enumerate() {
                dropped += queue.push(n as u32, *size, drop);
                prop_assert!(queue.len() <= 3 && queue.bytes <= 100);
            }
            prop_assert_eq!(dropped as usize + queue.len(), sizes.len());
        }
    }
}
