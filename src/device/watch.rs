//! What happens to a device's frames, live, for whoever watches.
//!
//! While nobody watches a frame costs one load of an atomic. A watcher that does not read in time loses events of its
//! own view only, and is told how many.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::rules::Publication;
use crate::stats::DropReason;
use crate::topic::TopicName;

/// Events that one watcher may be behind.
const MAX_EVENTS: usize = 1024;
/// Bytes of frames and messages in them.
const MAX_BYTES: usize = 4 << 20;
/// What an event takes beside them, about.
const EVENT_BYTES: usize = 256;

/// Something that happened.
#[derive(Debug, Clone)]
pub struct Event {
    /// When.
    pub time: SystemTime,
    /// What.
    pub what: What,
}

/// What happened.
#[derive(Debug, Clone)]
pub enum What {
    /// A frame came. There is one of these for each that `frames_in` counts.
    In {
        /// The frame, without its framing.
        frame: Bytes,
        /// Who sent it, for TCP.
        peer: Option<SocketAddr>,
        /// What became of it. Empty: `min_interval` holds it back.
        made: Vec<Made>,
    },
    /// Messages that `min_interval` had held back, or what took their place.
    Later {
        /// What became of them.
        made: Vec<Made>,
    },
    /// Bytes that did not become a frame.
    Discarded {
        /// Why.
        reason: DropReason,
        /// How many, in the units of the counter.
        count: u64,
    },
    /// A message came for the device.
    Command {
        /// On this topic.
        topic: TopicName,
        /// The message.
        payload: Bytes,
        /// What the rules made of it: [`Made::Queued`] or [`Made::Dropped`].
        made: Vec<Made>,
    },
    /// A frame was written, or left its queue otherwise: each that was queued has one of these for each link it was for.
    Out {
        /// The frame, without its framing.
        frame: Bytes,
        /// To whom, for TCP.
        peer: Option<SocketAddr>,
        /// Why it was not written.
        dropped: Option<DropReason>,
    },
    /// The link came up, or went.
    State {
        /// Which.
        online: bool,
    },
    /// Events that this watcher was too slow for.
    Missed(Missed),
}

/// What the rules made of a frame or a message.
#[derive(Debug, Clone)]
pub enum Made {
    /// A message was published.
    Published(Publication),
    /// A frame for the device; [`What::Out`] tells what becomes of it.
    Queued(Bytes),
    /// It went no further.
    Dropped {
        /// Why, for the counter.
        reason: DropReason,
        /// Why, for people.
        detail: Option<String>,
    },
}

/// Events that were not shown, by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Missed {
    /// [`What::In`].
    pub frames_in: u64,
    /// [`What::Out`].
    pub frames_out: u64,
    /// All others.
    pub others: u64,
}

/// The watchers of one device.
#[derive(Debug, Default)]
pub struct Watch {
    /// How many `views` there are; read for each frame.
    count: AtomicUsize,
    views: Mutex<Vec<Arc<View>>>,
}

/// One who watches. Dropping it ends that.
#[derive(Debug)]
pub struct Watcher {
    watch: Arc<Watch>,
    view: Arc<View>,
}

#[derive(Debug, Default)]
struct View {
    waiting: Mutex<Waiting>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
    /// Those after the last of `events`.
    missed: Missed,
    ended: bool,
}

impl Watch {
    /// Whether anybody watches: only then is it worth making an event.
    pub fn is_watched(&self) -> bool {
        self.count.load(Ordering::Relaxed) > 0
    }

    /// Shows an event of now to all watchers; `what` is asked only if there are some.
    pub fn tell(&self, what: impl FnOnce() -> What) {
        if self.is_watched() {
            self.show(Event { time: SystemTime::now(), what: what() });
        }
    }

    /// Shows `event` to all watchers.
    pub fn show(&self, event: Event) {
        let event = Arc::new(event);
        for view in &*self.views.lock() {
            view.waiting.lock().push(&event);
            view.news.notify_one();
        }
    }

    /// Everything from now on.
    pub fn watch(self: &Arc<Watch>) -> Watcher {
        let view = Arc::new(View::default());
        let mut views = self.views.lock();
        views.push(view.clone());
        self.count.store(views.len(), Ordering::Relaxed);
        Watcher { watch: self.clone(), view }
    }

    /// The device has ended: no more will come.
    pub fn end(&self) {
        for view in &*self.views.lock() {
            view.waiting.lock().ended = true;
            view.news.notify_one();
        }
    }
}

impl Watcher {
    /// The next event; `None` after the last. Cancel safe.
    pub async fn next(&mut self) -> Option<Arc<Event>> {
        loop {
            {
                let mut waiting = self.view.waiting.lock();
                if let Some(event) = waiting.pop() {
                    return Some(event);
                }
                if waiting.ended {
                    return None;
                }
            }
            self.view.news.notified().await;
        }
    }

    /// The next event, if there is one already.
    pub fn try_next(&mut self) -> Option<Arc<Event>> {
        self.view.waiting.lock().pop()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let mut views = self.watch.views.lock();
        views.retain(|view| !Arc::ptr_eq(view, &self.view));
        self.watch.count.store(views.len(), Ordering::Relaxed);
    }
}

impl Waiting {
    fn push(&mut self, event: &Arc<Event>) {
        let size = event.what.size();
        // A single event that is larger than all the room is shown, too, if nothing else waits.
        let fits = self.events.is_empty() || self.bytes + size <= MAX_BYTES;
        if self.events.len() >= MAX_EVENTS || !fits {
            return self.missed.count(&event.what);
        }
        self.mark_missed();
        self.bytes += size;
        self.events.push_back(event.clone());
    }

    fn pop(&mut self) -> Option<Arc<Event>> {
        if self.events.is_empty() {
            self.mark_missed();
        }
        let event = self.events.pop_front()?;
        self.bytes -= event.what.size();
        Some(event)
    }

    /// Puts what was missed in its place among the events.
    fn mark_missed(&mut self) {
        if self.missed != Missed::default() {
            let what = What::Missed(std::mem::take(&mut self.missed));
            self.bytes += what.size();
            self.events.push_back(Arc::new(Event { time: SystemTime::now(), what }));
        }
    }
}

impl What {
    fn size(&self) -> usize {
        let made = |made: &[Made]| made.iter().map(Made::size).sum::<usize>();
        EVENT_BYTES
            + match self {
                What::In { frame, made: outcomes, .. } => frame.len() + made(outcomes),
                What::Later { made: outcomes } => made(outcomes),
                What::Command { payload, made: outcomes, .. } => payload.len() + made(outcomes),
                What::Out { frame, .. } => frame.len(),
                What::Discarded { .. } | What::State { .. } | What::Missed(_) => 0,
            }
    }
}

impl Made {
    fn size(&self) -> usize {
        EVENT_BYTES
            + match self {
                Made::Published(message) => message.topic.as_str().len() + message.payload.len(),
                Made::Queued(frame) => frame.len(),
                Made::Dropped { detail, .. } => detail.as_ref().map_or(0, String::len),
            }
    }
}

impl Missed {
    fn count(&mut self, what: &What) {
        match what {
            What::In { .. } => self.frames_in += 1,
            What::Out { .. } => self.frames_out += 1,
            _ => self.others += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(bytes: usize) -> What {
        What::Out { frame: Bytes::from(vec![0; bytes]), peer: None, dropped: None }
    }

    /// Frames shown, and the frames missed after each.
    async fn drain(watcher: &mut Watcher) -> Vec<u64> {
        let mut missed = vec![0];
        while let Some(event) = watcher.next().await {
            match &event.what {
                What::Missed(now) => *missed.last_mut().unwrap() += now.frames_out,
                _ => missed.push(0),
            }
        }
        missed
    }

    #[tokio::test]
    async fn who_does_not_read_misses_and_is_told_where() {
        let watch = Arc::new(Watch::default());
        let (mut slow, mut late) = (watch.watch(), watch.watch());
        for _ in 0..MAX_EVENTS + 5 {
            watch.tell(|| frame(1));
        }
        // Room for one event more, and for the mark before it.
        for _ in 0..2 {
            assert!(slow.next().await.is_some());
        }
        watch.tell(|| frame(2));
        watch.tell(|| frame(2));
        watch.end();
        let shown = drain(&mut slow).await;
        assert_eq!(shown.len() - 1, MAX_EVENTS - 2 + 1, "the mark takes a place");
        assert_eq!((shown[MAX_EVENTS - 2], shown[MAX_EVENTS - 1]), (5, 1));
        let shown = drain(&mut late).await;
        assert_eq!((shown.len() - 1, shown[MAX_EVENTS]), (MAX_EVENTS, 7));
    }

    #[tokio::test]
    async fn bytes_are_bounded_too() {
        let watch = Arc::new(Watch::default());
        let mut watcher = watch.watch();
        watch.tell(|| frame(2 * MAX_BYTES));
        watch.tell(|| frame(1));
        watch.end();
        assert_eq!(drain(&mut watcher).await, [0, 1]);
    }

    #[test]
    fn nothing_is_made_while_nobody_watches() {
        let watch = Arc::new(Watch::default());
        drop(watch.watch());
        watch.tell(|| unreachable!());
    }
}
