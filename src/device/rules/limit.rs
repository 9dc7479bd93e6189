//! `on_change` and `min_interval`: what has last gone out on each topic, and what waits.
//!
//! Both look at the topic, whichever rule of the device published there. `on_change` compares with what last went out,
//! not with what waits: with both set, a value that swings away and back within the interval publishes nothing.
//! A message that is not limited also counts as the last one, and takes the place of one that waits.
//!
//! Memory is bounded by [`MAX_TOPICS`] and [`MAX_BYTES`]. Beyond them the topic that was quiet longest is forgotten: its
//! next message passes as a first one does, and if one waits there, it is dropped (`queue_full`).

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Outcome, Publication};
use crate::stats::DropReason;
use crate::topic::TopicName;

/// Topics of one device that are remembered.
const MAX_TOPICS: usize = 4096;

/// Bytes of those topics' names and of the payloads that wait.
const MAX_BYTES: usize = 16 << 20;

/// Payloads up to so many bytes are compared byte by byte, longer ones by length and a keyed 64-bit hash.
const EXACT_BYTES: usize = 64;

/// Longer intervals are as good as this one, and an `Instant` can always bear it.
const LONGEST_INTERVAL: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// What a rule asks for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit {
    pub(super) on_change: bool,
    pub(super) min_interval: Duration,
}

impl Limit {
    fn is_none(&self) -> bool {
        !self.on_change && self.min_interval.is_zero()
    }
}

/// What is known of the topics of one device.
#[derive(Debug, Default)]
pub(super) struct Limits {
    topics: HashMap<TopicName, Topic>,
    /// The topics by their last use.
    by_use: BTreeMap<u64, TopicName>,
    /// The topics where a message waits, by the time it is due; its use number tells equal times apart.
    by_due: BTreeMap<(Instant, u64), TopicName>,
    /// Counts uses.
    uses: u64,
    bytes: usize,
    hasher: RandomState,
}

#[derive(Debug)]
struct Topic {
    last: Fingerprint,
    /// When that went out.
    at: Instant,
    waiting: Option<Waiting>,
    used: u64,
}

#[derive(Debug)]
struct Waiting {
    publication: Publication,
    fingerprint: Fingerprint,
    due: (Instant, u64),
}

#[derive(Debug)]
enum Fingerprint {
    Exact(Box<[u8]>),
    Hash { length: usize, hash: u64 },
}

impl Limits {
    /// Whether `on_change` stops a message with this content. If so nothing waits on the topic any more: what did has
    /// been overtaken by a value that is out already.
    pub(super) fn is_unchanged(&mut self, topic: &TopicName, content: &[u8], out: &mut Vec<Outcome>) -> bool {
        let unchanged = self.topics.get(topic).is_some_and(|known| known.last.is_of(content, &self.hasher));
        if unchanged {
            self.drop_waiting(topic, DropReason::Superseded, out);
            self.touch(topic);
            out.push(dropped(DropReason::Unchanged));
        }
        unchanged
    }

    /// Publishes now, or keeps the message until the topic's interval is over. `content` is what `on_change` is to
    /// compare the next message with.
    pub(super) fn offer(
        &mut self,
        publication: Publication,
        content: &[u8],
        limit: Limit,
        now: Instant,
        out: &mut Vec<Outcome>,
    ) {
        let topic = publication.topic.clone();
        if limit.is_none() && !self.topics.contains_key(&topic) {
            out.push(Outcome::Publish(publication));
            return;
        }
        self.drop_waiting(&topic, DropReason::Superseded, out);
        let last = Fingerprint::of(content, &self.hasher);
        let due = self.topics.get(&topic).map(|known| known.at + limit.min_interval.min(LONGEST_INTERVAL));
        match due.filter(|&due| now < due) {
            Some(due) => self.keep(publication, last, due),
            None => {
                self.remember(&topic, last, now);
                out.push(Outcome::Publish(publication));
            }
        }
        self.touch(&topic);
        self.forget_quietest(out);
    }

    /// When the next waiting message is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.by_due.keys().next().map(|&(due, _)| due)
    }

    /// Publishes what is due at `now`, in the order it fell due.
    pub(super) fn due(&mut self, now: Instant, out: &mut Vec<Outcome>) {
        while self.next_due().is_some_and(|due| due <= now) {
            self.publish_next(now, out);
        }
    }

    /// Publishes all that waits, in the order it would fall due.
    pub(super) fn flush(&mut self, now: Instant, out: &mut Vec<Outcome>) {
        while !self.by_due.is_empty() {
            self.publish_next(now, out);
        }
    }

    fn publish_next(&mut self, now: Instant, out: &mut Vec<Outcome>) {
        let Some((_, topic)) = self.by_due.pop_first() else { return };
        let Some(waiting) = self.topics.get_mut(&topic).and_then(|known| known.waiting.take()) else { return };
        self.bytes -= waiting.publication.payload.len();
        self.remember(&topic, waiting.fingerprint, now);
        out.push(Outcome::Publish(waiting.publication));
    }

    fn keep(&mut self, mut publication: Publication, fingerprint: Fingerprint, due: Instant) {
        let Some(known) = self.topics.get_mut(&publication.topic) else { return };
        // A copy of its own: a slice would hold on to the whole read buffer.
        publication.payload = Bytes::copy_from_slice(&publication.payload);
        let due = (due, self.uses);
        self.bytes += publication.payload.len();
        self.by_due.insert(due, publication.topic.clone());
        known.waiting = Some(Waiting { publication, fingerprint, due });
    }

    fn remember(&mut self, topic: &TopicName, last: Fingerprint, at: Instant) {
        if let Some(known) = self.topics.get_mut(topic) {
            (known.last, known.at) = (last, at);
        } else {
            self.bytes += topic.as_str().len();
            self.topics.insert(topic.clone(), Topic { last, at, waiting: None, used: 0 });
        }
    }

    fn touch(&mut self, topic: &TopicName) {
        let Some(known) = self.topics.get_mut(topic) else { return };
        self.uses += 1;
        self.by_use.remove(&known.used);
        known.used = self.uses;
        self.by_use.insert(self.uses, topic.clone());
    }

    fn drop_waiting(&mut self, topic: &TopicName, reason: DropReason, out: &mut Vec<Outcome>) {
        if let Some(waiting) = self.topics.get_mut(topic).and_then(|known| known.waiting.take()) {
            self.by_due.remove(&waiting.due);
            self.bytes -= waiting.publication.payload.len();
            out.push(dropped(reason));
        }
    }

    fn forget_quietest(&mut self, out: &mut Vec<Outcome>) {
        while self.topics.len() > MAX_TOPICS || self.bytes > MAX_BYTES {
            let Some((_, topic)) = self.by_use.pop_first() else { return };
            self.drop_waiting(&topic, DropReason::QueueFull, out);
            self.topics.remove(&topic);
            self.bytes -= topic.as_str().len();
        }
    }
}

impl Fingerprint {
    fn of(content: &[u8], hasher: &RandomState) -> Fingerprint {
        if content.len() <= EXACT_BYTES {
            Fingerprint::Exact(content.into())
        } else {
            Fingerprint::Hash { length: content.len(), hash: hasher.hash_one(content) }
        }
    }

    fn is_of(&self, content: &[u8], hasher: &RandomState) -> bool {
        match self {
            Fingerprint::Exact(exact) => **exact == *content,
            Fingerprint::Hash { length, hash } => *length == content.len() && *hash == hasher.hash_one(content),
        }
    }
}

fn dropped(reason: DropReason) -> Outcome {
    Outcome::Dropped { reason, detail: None }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::qos::Qos;

    const UNLIMITED: Limit = Limit { on_change: false, min_interval: Duration::ZERO };

    fn publication(topic: &str, payload: &[u8]) -> Publication {
        let payload = Bytes::copy_from_slice(payload);
        Publication { topic: TopicName::new(topic).unwrap(), payload, qos: Qos::AtMostOnce, retain: false }
    }

    /// As a rule does.
    fn pass(limits: &mut Limits, message: &Publication, limit: Limit, now: Instant, out: &mut Vec<Outcome>) {
        if !(limit.on_change && limits.is_unchanged(&message.topic, &message.payload, out)) {
            limits.offer(message.clone(), &message.payload, limit, now, out);
        }
    }

    /// Lets fall due what is until `now`, each at its time, as the task around the rules does.
    fn advance(limits: &mut Limits, now: Instant, out: &mut Vec<Outcome>) {
        while let Some(due) = limits.next_due().filter(|&due| due <= now) {
            limits.due(due, out);
        }
    }

    /// Short names: `=a` published, `unchanged` and so on dropped.
    fn names(out: &mut Vec<Outcome>) -> Vec<String> {
        let name = |outcome| match outcome {
            Outcome::Publish(message) => format!("={}", String::from_utf8_lossy(&message.payload)),
            Outcome::Dropped { reason, .. } => reason.as_str().to_owned(),
        };
        out.drain(..).map(name).collect()
    }

    /// Offers `(second, payload)` one after another on one topic, letting fall due what is; then what comes last.
    fn timeline(limit: Limit, offers: &[(u64, &str)]) -> Vec<String> {
        let (mut limits, start, mut out) = (Limits::default(), Instant::now(), Vec::new());
        for (second, payload) in offers {
            let now = start + Duration::from_secs(*second);
            advance(&mut limits, now, &mut out);
            pass(&mut limits, &publication("t", payload.as_bytes()), limit, now, &mut out);
        }
        advance(&mut limits, start + Duration::from_secs(1000), &mut out);
        assert_eq!((limits.next_due(), limits.bytes), (None, 1));
        names(&mut out)
    }

    #[test]
    fn on_change_stops_what_is_out_already() {
        let limit = Limit { on_change: true, ..UNLIMITED };
        let long = "x".repeat(EXACT_BYTES + 1);
        let offers = [(0, "a"), (1, "a"), (2, "b"), (3, "a"), (4, &long), (5, &long), (6, "")];
        let long = format!("={long}");
        assert_eq!(timeline(limit, &offers), ["=a", "unchanged", "=b", "=a", &long, "unchanged", "="]);
    }

    #[test]
    fn min_interval_passes_the_first_and_then_the_newest() {
        let limit = Limit { min_interval: Duration::from_secs(10), ..UNLIMITED };
        let offers = [(0, "a"), (1, "b"), (2, "c"), (11, "d"), (40, "e"), (41, "e")];
        assert_eq!(timeline(limit, &offers), ["=a", "superseded", "=c", "=d", "=e", "=e"]);
    }

    #[test]
    fn with_both_a_swing_within_the_interval_publishes_nothing() {
        let limit = Limit { on_change: true, min_interval: Duration::from_secs(10) };
        assert_eq!(timeline(limit, &[(0, "a"), (1, "b"), (2, "a")]), ["=a", "superseded", "unchanged"]);
        assert_eq!(timeline(limit, &[(0, "a"), (1, "b"), (2, "c")]), ["=a", "superseded", "=c"]);
        assert_eq!(timeline(limit, &[(0, "a"), (1, "b"), (11, "b")]), ["=a", "=b", "unchanged"]);
    }

    #[test]
    fn an_unlimited_message_counts_as_the_last_one() {
        let (mut limits, now, mut out) = (Limits::default(), Instant::now(), Vec::new());
        let limited = Limit { on_change: true, min_interval: Duration::from_secs(10) };
        for (payload, limit) in [("1", limited), ("2", limited), ("0", UNLIMITED), ("0", limited), ("1", limited)] {
            pass(&mut limits, &publication("t", payload.as_bytes()), limit, now, &mut out);
        }
        assert_eq!(names(&mut out), ["=1", "superseded", "=0", "unchanged"]);
        limits.flush(now, &mut out);
        assert_eq!(names(&mut out), ["=1"]);
    }

    #[test]
    fn a_message_that_waits_is_due_at_the_end_of_the_interval() {
        let (mut limits, now, mut out) = (Limits::default(), Instant::now(), Vec::new());
        let interval = |seconds| Limit { min_interval: Duration::from_secs(seconds), ..UNLIMITED };
        assert_eq!(limits.next_due(), None);
        for (topic, seconds) in [("slow", 60), ("fast", 1), ("never", u64::MAX)] {
            pass(&mut limits, &publication(topic, b"1"), interval(seconds), now, &mut out);
            pass(&mut limits, &publication(topic, topic.as_bytes()), interval(seconds), now, &mut out);
        }
        out.clear();
        let later = |milliseconds| now + Duration::from_millis(milliseconds);
        assert_eq!(limits.next_due(), Some(later(1000)));
        limits.due(later(999), &mut out);
        assert!(out.is_empty());
        limits.due(later(1000), &mut out);
        assert_eq!((names(&mut out), limits.next_due()), (vec!["=fast".to_owned()], Some(later(60_000))));
        limits.flush(later(1000), &mut out);
        assert_eq!((names(&mut out), limits.next_due()), (vec!["=slow".to_owned(), "=never".to_owned()], None));
    }

    #[test]
    fn the_quietest_topic_is_forgotten() {
        let (mut limits, now, mut out) = (Limits::default(), Instant::now(), Vec::new());
        let limit = Limit { on_change: true, min_interval: Duration::from_secs(10) };
        let mut pass = |topic: &str, payload: &[u8], out: &mut Vec<Outcome>| {
            pass(&mut limits, &publication(topic, payload), limit, now, out);
            (limits.topics.len(), limits.by_use.len(), limits.by_due.len())
        };
        pass("waits", b"1", &mut out);
        pass("waits", b"2", &mut out);
        for n in 0..MAX_TOPICS - 1 {
            pass(&format!("t{n}"), b"", &mut out);
        }
        pass("t0", b"", &mut out);
        out.clear();
        assert_eq!(pass("new", b"", &mut out), (MAX_TOPICS, MAX_TOPICS, 0));
        assert_eq!(names(&mut out), ["=", "queue_full"]);
        pass("newer", b"", &mut out);
        pass("t0", b"", &mut out);
        pass("t1", b"", &mut out);
        assert_eq!(names(&mut out), ["=", "unchanged", "="]);
    }

    #[test]
    fn waiting_bytes_are_bounded() {
        let (mut limits, now, mut out) = (Limits::default(), Instant::now(), Vec::new());
        let limit = Limit { min_interval: Duration::from_secs(10), ..UNLIMITED };
        for payload in [vec![0; 1], vec![0; MAX_BYTES / 2]] {
            for topic in ["a", "b"] {
                pass(&mut limits, &publication(topic, &payload), limit, now, &mut out);
            }
        }
        let dropped = Outcome::Dropped { reason: DropReason::QueueFull, detail: None };
        assert_eq!(out.last(), Some(&dropped));
        assert_eq!((limits.topics.len(), limits.by_due.len(), limits.bytes), (1, 1, 1 + MAX_BYTES / 2));
    }

    /// The same rules without bounds and indexes: a list that is searched from the front.
    #[derive(Default)]
    struct Model {
        states: Vec<State>,
        published: Vec<(u8, Vec<u8>)>,
    }

    struct State {
        topic: u8,
        last: Vec<u8>,
        at: Instant,
        waiting: Option<(Instant, Vec<u8>)>,
    }

    impl Model {
        fn next_due(&self) -> Option<Instant> {
            self.states.iter().filter_map(|state| Some(state.waiting.as_ref()?.0)).min()
        }

        fn advance(&mut self, now: Instant) {
            while let Some(next) = self.next_due().filter(|&due| due <= now) {
                for state in &mut self.states {
                    if let Some((due, payload)) = state.waiting.take_if(|(due, _)| *due == next) {
                        self.published.push((state.topic, payload.clone()));
                        (state.last, state.at) = (payload, due);
                    }
                }
            }
        }

        fn pass(&mut self, topic: u8, payload: &[u8], limit: Limit, now: Instant) {
            let payload = payload.to_vec();
            let Some(state) = self.states.iter_mut().find(|state| state.topic == topic) else {
                self.published.push((topic, payload.clone()));
                if !limit.is_none() {
                    self.states.push(State { topic, last: payload, at: now, waiting: None });
                }
                return;
            };
            state.waiting = None;
            if limit.on_change && state.last == payload {
            } else if now < state.at + limit.min_interval {
                state.waiting = Some((state.at + limit.min_interval, payload));
            } else {
                (state.last, state.at) = (payload.clone(), now);
                self.published.push((topic, payload));
            }
        }
    }

    proptest! {
        #[test]
        fn limits_do_as_the_model_does(
            steps in prop::collection::vec((0..5u8, 0..3usize, any::<bool>(), 0..7u64, 0..4u64), 0..120),
        ) {
            let (mut limits, mut model) = (Limits::default(), Model::default());
            let (mut now, mut out) = (Instant::now(), Vec::new());
            for (count, (topic, payload, on_change, interval, pause)) in steps.iter().enumerate() {
                // Never two due at once: in which order those go is left open.
                now += Duration::from_millis(pause * 1000) + Duration::from_micros(count as u64 + 1);
                let limit = Limit { on_change: *on_change, min_interval: Duration::from_secs(*interval) };
                let payload = vec![b'x'; payload * EXACT_BYTES];
                advance(&mut limits, now, &mut out);
                model.advance(now);
                pass(&mut limits, &publication(&topic.to_string(), &payload), limit, now, &mut out);
                model.pass(*topic, &payload, limit, now);
                prop_assert_eq!(limits.next_due(), model.next_due());
            }
            limits.flush(now, &mut out);
            model.advance(now + LONGEST_INTERVAL);
            let published: Vec<_> = out
                .iter()
                .filter_map(|outcome| match outcome {
                    Outcome::Publish(message) => Some((message.topic.as_str().parse().unwrap(), message.payload.to_vec())),
                    Outcome::Dropped { .. } => None,
                })
                .collect();
            prop_assert_eq!(published, model.published);
            // Nothing is lost uncounted.
            prop_assert_eq!(out.len(), steps.len());
        }
    }
}
