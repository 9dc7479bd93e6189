//! What is in hand: counted if it gets lost there.

use super::Device;
use crate::stats::DropReason;

/// Frames or messages on their way. Those that are not settled when it is dropped, because a write failed or the link
/// was given up, are counted.
pub(super) struct Pending<'a> {
    pub(super) device: &'a Device,
    pub(super) reason: DropReason,
    pub(super) count: u64,
}

impl<'a> Pending<'a> {
    /// None as yet.
    pub(super) fn new(device: &'a Device, reason: DropReason) -> Pending<'a> {
        Pending { device, reason, count: 0 }
    }

    /// One, which only the end of the device can keep from arriving.
    pub(super) fn one(device: &'a Device) -> Pending<'a> {
        Pending { device, reason: DropReason::Stopped, count: 1 }
    }

    /// They have arrived: returns how many.
    pub(super) fn settle(&mut self) -> u64 {
        std::mem::take(&mut self.count)
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        let reason = if self.reason == DropReason::Stopped { forced_end() } else { self.reason };
        self.device.count_drop(reason, self.count, None);
    }
}

/// Why something in hand is dropped just now, when no link failed.
pub(super) fn forced_end() -> DropReason {
    if std::thread::panicking() { DropReason::Panicked } else { DropReason::Stopped }
}
