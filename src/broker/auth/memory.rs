//! The memory of argon2: so much that it has to go back to the system after each hash.

use std::sync::Arc;

use argon2::Block;
use parking_lot::Mutex;

/// glibc maps each allocation above its `mmap` threshold and unmaps it when it is freed. The threshold rises to the size
/// of what was freed, but never above this (`DEFAULT_MMAP_THRESHOLD_MAX`, mallopt(3)); below it every arena, which is to
/// say every thread that has ever hashed, keeps the memory.
const MMAP_THRESHOLD_MAX: usize = 32 << 20;

/// The least that is reserved. What is above the blocks in use is never touched, so it costs addresses and no memory.
const LEAST_BLOCKS: usize = MMAP_THRESHOLD_MAX / Block::SIZE + 1024;

/// The system has no memory for a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no memory to check a password")]
pub struct NoMemory;

/// Blocks of a hash that is done, for the next in line: to get them from the system anew takes half as long as the hash.
/// They go back as soon as nobody waits, and when those of another size are wanted, so they are never beside more than
/// all that run may have.
#[derive(Debug, Default)]
pub struct Spare(Mutex<Line>);

#[derive(Debug, Default)]
struct Line {
    waiting: usize,
    blocks: Vec<Vec<Block>>,
}

/// A hash that waits.
#[derive(Debug)]
pub struct Waiting(Arc<Spare>);

impl Spare {
    /// Joins the line.
    pub fn wait(self: &Arc<Spare>) -> Waiting {
        self.0.lock().waiting += 1;
        Waiting(self.clone())
    }

    /// Keeps `blocks` if somebody waits.
    pub fn give(&self, blocks: Vec<Block>) {
        let mut line = self.0.lock();
        if line.waiting > 0 {
            line.blocks.push(blocks);
        }
    }
}

impl Waiting {
    /// So many blocks, with anything in them; the wait is over.
    pub fn take(self, count: usize) -> Result<Vec<Block>, NoMemory> {
        let mut line = self.0.0.lock();
        match line.blocks.pop().filter(|spare| spare.len() == count) {
            Some(spare) => Ok(spare),
            None => {
                line.blocks.clear();
                drop(line);
                blocks(count)
            }
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut line = self.0.0.lock();
        line.waiting -= 1;
        if line.waiting == 0 {
            line.blocks = Vec::new();
        }
    }
}

/// So many zeroed blocks, whose memory is the system's again when they are dropped.
pub fn blocks(count: usize) -> Result<Vec<Block>, NoMemory> {
    let mut blocks = Vec::new();
    blocks.try_reserve_exact(count.max(LEAST_BLOCKS)).map_err(|_| NoMemory)?;
    blocks.resize(count, Block::new());
    Ok(blocks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_next_in_line_gets_what_is_spare() {
        let spare = Arc::new(Spare::default());
        let kept = || spare.0.lock().blocks.len();
        let [first, second, third] = [(); 3].map(|()| spare.wait());
        let blocks = first.take(8).unwrap();
        let place = blocks.as_ptr();
        spare.give(blocks);
        let blocks = second.take(8).unwrap();
        assert_eq!((blocks.as_ptr(), kept()), (place, 0));
        spare.give(blocks);
        assert_eq!((third.take(16).unwrap().len(), kept()), (16, 0), "another size");
        spare.give(super::blocks(8).unwrap());
        assert_eq!(kept(), 0, "nobody waits");
        let [one, other] = [(); 2].map(|()| spare.wait());
        spare.give(super::blocks(8).unwrap());
        drop(one);
        assert_eq!(kept(), 1);
        // Its client is gone, or was let in by what another proved.
        drop(other);
        assert_eq!(kept(), 0);
    }

    /// tests/e2e/endurance/logins.rs looks at what becomes of it.
    #[test]
    fn each_is_large_enough_to_be_mapped() {
        for count in [8, 19 * 1024, 64 * 1024] {
            let blocks = blocks(count).unwrap();
            assert_eq!(blocks.len(), count);
            assert!(blocks.capacity() * Block::SIZE > MMAP_THRESHOLD_MAX);
        }
        assert_eq!(blocks(usize::MAX / Block::SIZE).err(), Some(NoMemory));
    }
}
