//! What is in hand: counted if it gets lost there.

use super::Device;
use crate::stats::DropReason;

/// Frames or messages on their way. Those that are not settled when it is dropped, for only the end of the device can keep
/// them from arriving, are counted.
pub(super) struct Pending<'a> {
    device: &'a Device,
    pub(super) count: u64,
}

impl<'a> Pending<'a> {
    /// None as yet.
    pub(super) fn new(device: &'a Device) -> Pending<'a> {
        Pending { device, count: 0 }
    }

    /// One.
    pub(super) fn one(device: &'a Device) -> Pending<'a> {
        Pending { device, count: 1 }
    }

    /// They have arrived: returns how many.
    pub(super) fn settle(&mut self) -> u64 {
        std::mem::take(&mut self.count)
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.device.count_drop(forced_end(), self.count, None);
    }
}

/// Why something in hand is dropped just now, when no link failed.
pub(super) fn forced_end() -> DropReason {
    if std::thread::panicking() { DropReason::Panicked } else { DropReason::Stopped }
}
