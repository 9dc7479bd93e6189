//! Memory that was freed, back to the system.
//!
//! glibc gives back only the end of the heap. A thread keeps the last few blocks that it freed of each size for itself
//! (its tcache), wherever they lie: after a flood one of them is near the end of the heap, and all below it stays with the
//! process, tens of MiB for a few hundred bytes. `malloc_trim` would help and cannot be called from safe code; what can
//! be done is to have the thread keep other blocks.

use std::hint::black_box;
use std::mem::MaybeUninit;

/// The sizes that glibc keeps for a thread, up to version 2.41: one in each class, as a program asks for them.
const SIZES: std::ops::RangeInclusive<usize> = 24..=1032;
const CLASS: usize = 16;

/// How many it keeps of each.
const KEPT: usize = 7;

/// After so many it keeps none: those that it kept, and those that it took over from what was free in the same size.
const ALL: usize = 8 * KEPT;

/// Freeing so much makes glibc join what is free, and give back the end of the heap. Still from the heap: larger blocks
/// may be mapped each by itself.
const LARGE: usize = 100 * 1024;

type Block = Vec<MaybeUninit<u8>>;

/// Gives back what the thread that calls it has freed.
#[derive(Debug)]
pub struct HeapTrimmer {
    /// As many blocks of each size as a thread keeps, low in the heap.
    low: Vec<Block>,
}

impl HeapTrimmer {
    /// Make it before the flood: it takes some 250 KiB where the heap ends now, and frees what is above. Another one,
    /// on another thread, has its own.
    #[allow(clippy::new_without_default)] // it is about when and where it is made
    pub fn new() -> HeapTrimmer {
        HeapTrimmer { low: kept() }
    }

    /// Gives back the end of the heap that is free, but for 128 KiB, or twice the largest block that was ever mapped by
    /// itself and freed. What lies below a block that is in use stays. Takes less than a millisecond, and the time of the
    /// system; does no harm, and no good, with an allocator that is not glibc's.
    pub fn trim(&mut self) {
        let mut low = std::mem::take(&mut self.low).into_iter();
        // Large enough not to be kept itself; it must not grow.
        let mut taken: Vec<Block> = Vec::with_capacity(ALL + KEPT);
        for size in sizes() {
            taken.extend(low.by_ref().take(KEPT));
            taken.extend((0..ALL).map(|_| block(size)));
            // Now the thread keeps nothing. It takes the first that are freed, and then it has enough.
            taken.sort_unstable_by_key(|block| block.as_ptr().addr());
            taken.drain(..).for_each(drop);
        }
        drop((taken, low));
        drop(block(LARGE));
        self.low = kept();
    }
}

/// What a thread keeps, if it keeps anything.
fn kept() -> Vec<Block> {
    let mut kept = Vec::with_capacity(sizes().count() * KEPT);
    for size in sizes() {
        kept.extend((0..KEPT).map(|_| block(size)));
    }
    kept
}

fn sizes() -> impl Iterator<Item = usize> {
    SIZES.step_by(CLASS)
}

/// Not touched, so that it costs no more than its header.
fn block(size: usize) -> Block {
    black_box(Block::with_capacity(size))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Set: this process is the child, on whose heap nobody else is.
    const CHILD: &str = "GATEPOST_TEST_HEAP";

    /// Heap and stacks of this process in KiB.
    fn anonymous() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// 50,000 blocks, most of the sizes that are kept, freed in random order. Then some are in use for a moment, so that
    /// the thread keeps more of some sizes and fewer of others.
    fn flood(random: &mut fastrand::Rng) {
        let mut all: Vec<Vec<u8>> = (0..50_000).map(|_| vec![1; random.usize(1..1200)]).collect();
        random.shuffle(&mut all);
        all.into_iter().for_each(drop);
        for _ in 0..random.usize(0..200) {
            let size = random.usize(1..1200);
            drop((0..random.usize(0..8)).map(|_| vec![1; size]).collect::<Vec<Vec<u8>>>());
        }
    }

    #[test]
    fn child() {
        if std::env::var_os(CHILD).is_none() {
            return;
        }
        let mut random = fastrand::Rng::with_seed(1);
        let mut heap = HeapTrimmer::new();
        let before = anonymous();
        for round in 0..20 {
            flood(&mut random);
            let left = anonymous() - before;
            heap.trim();
            let after = anonymous().saturating_sub(before);
            println!("round {round}: {left} KiB left, {after} after");
            assert!(left > 20_000, "nothing to give back: {left} KiB");
            // Twice the list of the blocks, which is mapped, is what glibc does not bother about.
            assert!(after < 3_000, "{after} KiB more than before");
        }
    }

    #[test]
    #[cfg(target_env = "gnu")]
    fn what_was_freed_goes_back_to_the_system() {
        let name = format!("{}::child", module_path!().split_once("::").unwrap().1);
        let mut child = Command::new(std::env::current_exe().unwrap());
        let output = child.args(["--exact", &name, "--nocapture"]).env(CHILD, "").output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && said.contains("round 19"),
            "{said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}
