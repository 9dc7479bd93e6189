//! The memory of argon2: so much that it has to go back to the system after each hash.

use argon2::Block;

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
