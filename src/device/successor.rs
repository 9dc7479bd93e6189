//! A device that is restarted: another one comes in its place, and nothing of what is meant for it gets lost between.
//!
//! From the moment it is told to stop commands are for its successor, which takes them as when its link is down. The device
//! writes those that came before; what it cannot write in time the successor has to write first.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::Device;

impl Device {
    /// Makes this, which does not run yet, take the place of `old`: it goes on counting where that stands, and is released
    /// while that is.
    pub fn take_over(&mut self, old: &Device) {
        self.state.stats = old.state.stats.clone();
        self.drop_log = old.drop_log.clone();
        self.hold.follow(&old.hold);
    }

    /// Names who comes in its place. To be called before it is told to stop, by who sees to it that the successor reads its
    /// [`Inbox`](super::Inbox).
    pub fn hand_over_to(&self, successor: Arc<Device>) {
        // There is one stop, and so one successor.
        let _ = self.successor.set(successor);
    }

    /// Who comes in its place.
    pub(super) fn successor(&self) -> Option<&Device> {
        self.successor.get().map(Arc::as_ref)
    }

    /// Commands that wait, here or with the successor.
    pub(super) fn queued(&self) -> usize {
        self.links.queued() + self.successor().map_or(0, |successor| successor.links.queued())
    }

    /// No more will be written: what waits is the successor's, or dropped.
    pub(super) fn leave_queue(&self) {
        self.has_left.store(true, Relaxed);
        if let Some(successor) = self.successor() {
            successor.links.take_over(&self.links, self.losses());
        }
        self.links.clear(self.losses());
        self.say_queue_drops();
    }

    /// After a command was queued: when no more will be written, it goes the way of those before it. (Whoever leaves the
    /// queue says so before locking it; so one of the two sees what the other did.)
    pub(super) fn leave_late(&self) {
        if self.has_left.load(Relaxed) {
            self.leave_queue();
        }
    }
}
