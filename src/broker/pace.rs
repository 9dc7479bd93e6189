//! Whether publishers are held to the pace of a session, or the session's queue gives way.

use std::time::{Duration, Instant};

/// Over which time progress is measured.
const WINDOW: Duration = Duration::from_millis(100);

/// Messages in one window that make a client a quick one: 1000 a second.
const QUICK: u64 = 100;

/// Messages for each look at the client that make it a quick one, too: on a machine with much to do a session has few
/// turns, and a client can acknowledge no more in one than its in-flight window.
const QUICK_A_TURN: u64 = 16;

/// Windows in a row in which a client may fall short: on a machine with much to do anyone may come to a halt for a
/// moment, and what that drops was acknowledged to its publisher.
const PATIENCE: u32 = 10;

/// A window looked at so late says nothing: there was nothing to do, or no time to do it.
const STALE: Duration = Duration::from_secs(1);

/// Watches a session in whose queue messages wait.
///
/// A quick client is worth waiting for: once its queue is more than half full its session stops taking messages,
/// publishers to it are slowed and nothing is lost. A slow one slows nobody: messages go on coming and the queue's
/// policy decides.
#[derive(Debug)]
pub struct Pace {
    window: Option<Window>,
    /// Windows that may fall short until the client counts as slow.
    patience: u32,
}

#[derive(Debug)]
struct Window {
    began: Instant,
    delivered: u64,
    /// Turns of the session, after the one it began in, in which the queue was more than half full.
    turns: u64,
}

impl Window {
    fn new(began: Instant, delivered: u64) -> Window {
        Window { began, delivered, turns: 0 }
    }

    /// Whether so many messages were delivered in it that the client is a quick one.
    fn is_quick(&self, delivered: u64) -> bool {
        let enough = if self.turns == 0 { QUICK } else { QUICK.min(QUICK_A_TURN * self.turns) };
        delivered - self.delivered >= enough
    }
}

impl Default for Pace {
    fn default() -> Pace {
        Pace { window: None, patience: PATIENCE }
    }
}

impl Pace {
    /// Whether to stop taking messages in this turn. `delivered` only grows and counts what the client has taken. Windows
    /// run on while the queue is less than half full: a quick client never leaves it above that for long.
    pub fn hold(&mut self, now: Instant, over_half: bool, delivered: u64) -> bool {
        let Some(window) = &mut self.window else {
            self.window = Some(Window::new(now, delivered));
            return over_half && self.patience > 0;
        };
        window.turns += u64::from(over_half);
        let age = now - window.began;
        if age >= WINDOW {
            match age < STALE {
                true if window.is_quick(delivered) => self.patience = PATIENCE,
                true if window.turns > 0 => self.patience = self.patience.saturating_sub(1),
                _ => {}
            }
            *window = Window::new(now, delivered);
        }
        over_half && self.patience > 0
    }

    /// When to ask again, if it holds. A session that does not hold asks when messages come; that needs no timer.
    pub fn deadline(&self) -> Option<Instant> {
        self.window.as_ref().filter(|_| self.patience > 0).map(|window| window.began + WINDOW)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quick_client_is_waited_for_and_a_stalled_one_not_for_long() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut pace = Pace::default();
        assert!(pace.hold(at(0), true, 1000), "the benefit of the doubt");
        assert_eq!(pace.deadline(), Some(at(100)));
        assert!((1..100).all(|n| pace.hold(at(n * 10), true, 1000 + n * 9)));
        assert!(!pace.hold(at(1000), true, 1900), "90 in each window, in ten turns, are too few");
        assert_eq!(pace.deadline(), None, "no timer while nothing is held");
        assert!(!pace.hold(at(5000), true, 9000), "long ago says nothing");
        assert!(pace.hold(at(5100), true, 9100), "100 in a window are quick");
        assert!((52..61).all(|n| pace.hold(at(n * 100), true, 9100)), "a halt after that is forgiven");
        assert!(!pace.hold(at(6100), true, 9100));
        assert!(!pace.hold(at(6101), false, 9100));
        assert!(!pace.hold(at(6102), true, 9100), "still the slow one it was");
    }

    #[test]
    fn a_client_that_is_seldom_looked_at_is_quick_if_it_uses_its_turns() {
        let start = Instant::now();
        for (a_turn, held) in [(32, true), (16, true), (7, false)] {
            let mut pace = Pace::default();
            let last = (0..40u64).map(|n| pace.hold(start + Duration::from_millis(n * 50), true, n * a_turn)).last();
            assert_eq!(last, Some(held), "{a_turn} in each of two turns a window");
        }
    }

    #[test]
    fn a_queue_around_half_full_tells_quick_from_slow() {
        let start = Instant::now();
        for (per_ms, held) in [(20, true), (0, false)] {
            let mut pace = Pace::default();
            let last =
                (0..2000u64).map(|ms| pace.hold(start + Duration::from_millis(ms), ms % 2 == 1, ms * per_ms)).last();
            assert_eq!(last, Some(held), "{per_ms} messages a millisecond");
        }
    }
}
