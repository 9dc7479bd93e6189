//! What is logged of a link that comes and goes.

use parking_lot::Mutex;

/// Most reasons that are remembered; further ones are not logged.
const MOST_REASONS: usize = 8;

/// Logs the ups and downs of a link: an outage once, each reason for it once, and that it is over. One that comes back at
/// the first attempt, for a reason that was given since the link was last stable, is not told again.
#[derive(Debug, Default)]
pub struct OutageLog(Mutex<Told>);

#[derive(Debug, Default)]
struct Told {
    /// That it is up was the last thing said.
    up: bool,
    /// Failures since the link was last up.
    failures: u32,
    /// Reasons that were given since the link was last stable.
    reasons: Vec<String>,
}

/// What is to be said of a link that is down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// An outage begins.
    Outage,
    /// It goes on, for another reason.
    OtherReason,
    /// Nothing.
    Old,
}

impl OutageLog {
    /// The link is down, or could not be had.
    pub fn down(&self, reason: &str) -> News {
        let mut told = self.0.lock();
        told.failures = told.failures.saturating_add(1);
        let first = told.up || told.reasons.is_empty();
        if told.reasons.len() >= MOST_REASONS || told.reasons.iter().any(|known| known == reason) {
            // What was said last must not stay untrue.
            if !told.up || told.failures < 2 {
                return News::Old;
            }
        } else {
            told.reasons.push(reason.to_owned());
        }
        told.up = false;
        if first { News::Outage } else { News::OtherReason }
    }

    /// The link is up: whether to say so.
    pub fn up(&self) -> bool {
        let mut told = self.0.lock();
        told.failures = 0;
        !std::mem::replace(&mut told.up, true)
    }

    /// The link was up for long: whatever comes is a new outage.
    pub fn stable(&self) {
        self.0.lock().reasons.clear();
    }

    /// The device was out of our hands: whatever comes is news.
    pub fn forget(&self) {
        *self.0.lock() = Told::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_told_once_with_each_of_its_reasons() {
        let log = OutageLog::default();
        assert!(log.up());
        log.stable();
        assert_eq!(log.down("unplugged"), News::Outage);
        assert_eq!(log.down("no such file"), News::OtherReason);
        assert_eq!(log.down("no such file"), News::Old);
        assert!(log.up());
        log.stable();
        assert_eq!(log.down("unplugged"), News::Outage);
    }

    #[test]
    fn a_device_that_was_released_is_told_to_be_back() {
        let log = OutageLog::default();
        assert!(log.up());
        log.forget();
        assert!(log.up());
    }

    #[test]
    fn a_link_that_comes_back_at_once_is_told_once() {
        let log = OutageLog::default();
        assert!(log.up());
        assert_eq!(log.down("closed"), News::Outage);
        assert!(log.up());
        for _ in 0..3 {
            assert_eq!(log.down("closed"), News::Old);
            assert!(!log.up());
        }
    }

    #[test]
    fn what_was_said_last_is_true() {
        let log = OutageLog::default();
        assert!(log.up());
        for reason in ["unplugged", "no such file"] {
            log.down(reason);
        }
        assert!(log.up());
        assert_eq!(log.down("unplugged"), News::Old);
        assert_eq!(log.down("no such file"), News::Outage);
        assert_eq!(log.down("no such file"), News::Old);
        assert!(log.up());
    }

    #[test]
    fn reasons_are_bounded() {
        let log = OutageLog::default();
        let told = (0..20).filter(|reason| log.down(&reason.to_string()) != News::Old).count();
        assert_eq!(told, MOST_REASONS);
    }
}
