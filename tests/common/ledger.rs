//! Whether a device's figures add up: nothing it took is unaccounted for.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::{DEADLINE, Gateway};

/// Dropped after a frame has been counted as one that came in.
const UP: [&str; 9] =
    ["echo", "no_rule", "parse", "missing_field", "unchanged", "superseded", "bad_topic", "refused", "denied"];

/// Dropped after a command has been counted.
const DOWN: [&str; 7] = ["queue_full", "offline", "expired", "retained", "render", "no_peer", "write_failed"];

/// Either way.
const BOTH: [&str; 2] = ["stopped", "panicked"];

/// Of a command, or of what never was a frame.
const EITHER: [&str; 2] = ["too_long", "bad_frame"];

/// The figures of one device, from `status` or its stats topic.
#[derive(Clone, Debug)]
pub struct Ledger(Value);

impl Ledger {
    /// From the JSON.
    pub fn new(figures: Value) -> Ledger {
        Ledger(figures)
    }

    /// Fails the test unless what came in was all published, and all commands were written.
    pub fn expect_nothing_dropped(&self) {
        assert!(self.adds_up() && self.dropped_at_all() == 0, "{:#}", self.0);
    }

    /// The counter of that name.
    pub fn count(&self, name: &str) -> u64 {
        self.0[name].as_u64().unwrap_or_else(|| panic!("no {name} in {:#}", self.0))
    }

    /// Dropped for `reason`.
    pub fn dropped(&self, reason: &str) -> u64 {
        self.0["dropped"][reason].as_u64().unwrap_or_default()
    }

    /// Dropped for any reason.
    pub fn dropped_at_all(&self) -> u64 {
        self.0["dropped"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum()
    }

    /// Frames in = published + dropped, and commands = written + waiting + dropped, each frame and each command once. For
    /// devices whose frames are taken by one rule that makes one message of them. Drops of the framing stand beside: what
    /// they count never was a frame.
    pub fn adds_up(&self) -> bool {
        let sum = |reasons: &[&str]| reasons.iter().map(|reason| self.dropped(reason)).sum::<u64>();
        let up = self.count("frames_in").checked_sub(self.count("published") + sum(&UP));
        let down = self.count("commands").checked_sub(self.count("written") + self.count("queued") + sum(&DOWN));
        let rest = sum(&BOTH)..=sum(&BOTH) + sum(&EITHER);
        up.zip(down).is_some_and(|(up, down)| rest.contains(&(up + down)))
    }
}

impl Gateway {
    /// The figures of a device that has nothing in hand, or soon will: fails the test if they do not add up.
    pub fn ledger(&self, device: &str) -> Ledger {
        let start = Instant::now();
        loop {
            let ledger = Ledger::new(self.device_status(device));
            if ledger.adds_up() {
                return ledger;
            }
            assert!(start.elapsed() < DEADLINE, "the figures of {device} do not add up: {:#}", ledger.0);
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
