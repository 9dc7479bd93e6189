//! A durable reader's account with the bus: what it has filed of the lanes it reads.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use parking_lot::Mutex;

use super::bus::Shared;
use super::filing::Marks;
use super::lane::{Lane, LaneSet};
use super::message::Message;
use super::store::HoldKey;

/// See [`Filing`](super::filing::Filing). Dropping it ends the reader's being durable: its session is no more, or has no
/// claim to what it has not filed. One that goes while its session lives on, on disk, [stays](Filer::stay).
pub(super) struct Filer {
    shared: Arc<Shared>,
    marks: Arc<Marks>,
    lanes: Mutex<LaneSet>,
    /// Whether there are any.
    active: AtomicBool,
}

/// The last message of a batch that was dealt with: told to the publishers at the end, or when the lane changes.
pub(super) struct Batch<'a> {
    filer: &'a Filer,
    last: Option<(Lane, u64)>,
}

impl Filer {
    pub(super) fn new(shared: Arc<Shared>) -> Filer {
        Filer { shared, marks: Arc::new(Marks::new()), lanes: Mutex::default(), active: AtomicBool::new(false) }
    }

    /// Is durable on exactly `lanes` from now on. They must be read before and until after.
    pub(super) fn set_lanes(&self, lanes: LaneSet) {
        let mut known = self.lanes.lock();
        // Before the lanes are joined: what comes by them must not be passed over.
        if !lanes.is_empty() {
            self.active.store(true, SeqCst);
        }
        self.shared.filing.leave(known.difference(lanes), &self.marks);
        self.shared.filing.join(&self.shared.flow, lanes.difference(*known), &self.marks);
        *known = lanes;
        if lanes.is_empty() {
            self.active.store(false, SeqCst);
        }
    }

    /// Files nothing more, and is waited for all the same: what it has not filed by now is never acknowledged.
    pub(super) fn stay(&self) {
        *self.lanes.lock() = LaneSet::EMPTY;
    }

    /// Begins to file messages.
    pub(super) fn batch(&self) -> Batch<'_> {
        Batch { filer: self, last: None }
    }

    /// By what a message is held until its publisher's packet identifier is on disk. Not, if the publisher did not
    /// know of this reader and does not wait for it.
    pub(super) fn hold(&self, message: &Message) -> Option<HoldKey> {
        HoldKey::of(message).filter(|key| self.marks.is_awaited(key.lane, key.position))
    }
}

impl Batch<'_> {
    /// All that follows from `message` was given to the store.
    pub(super) fn filed(&mut self, message: &Message) {
        if self.filer.active.load(SeqCst) {
            let lane = Lane::of(message.topic());
            if self.last.is_some_and(|(last, _)| last != lane) {
                self.tell();
            }
            self.last = Some((lane, message.position()));
        }
    }

    /// Lets the publishers know now.
    pub(super) fn tell(&mut self) {
        if let Some((lane, position)) = self.last.take() {
            self.filer.shared.filing.file(lane, &self.filer.marks, position);
        }
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        self.tell();
    }
}

impl Drop for Filer {
    fn drop(&mut self) {
        self.set_lanes(LaneSet::EMPTY);
    }
}

impl fmt::Debug for Filer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Filer").field("lanes", &*self.lanes.lock()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::bus::{Bus, BusSettings};
    use crate::broker::message::{Draft, Envelope};
    use crate::qos::Qos;
    use crate::topic::TopicFilter;

    #[test]
    fn what_a_reader_has_not_filed_is_filed_when_it_gives_it_up_and_never_when_it_is_taken_away() {
        let bus = Bus::start(BusSettings { max_retained: 1, direct_readers: 64 }).unwrap();
        let (mut reader, lane) = (bus.reader(), Lane::of("a"));
        reader.set_lanes(LaneSet::of(&TopicFilter::new("a").unwrap()));
        let durable = || {
            let filer = bus.filer();
            filer.set_lanes(LaneSet::of(&TopicFilter::new("a").unwrap()));
            filer
        };
        let publish = || {
            let (payload, properties) = (&b"1"[..], &b""[..]);
            let qos = Qos::AtLeastOnce;
            let draft = Draft { topic: "a", payload, qos, retain: false, origin: 1, expires: None, properties };
            bus.try_publish(Envelope::new(&draft)).unwrap().position
        };
        let unsubscribed = durable();
        let first = publish();
        assert!(!bus.is_filed(lane, first) && bus.behind() == 1);
        drop(unsubscribed);
        assert!(bus.is_filed(lane, first) && bus.behind() == 0);
        let kept = durable();
        let second = publish();
        kept.stay();
        drop((kept, reader));
        assert!(bus.is_filed(lane, first) && !bus.is_filed(lane, second) && bus.behind() == 1);
    }
}
