//! A condition that repeats is logged once a minute and counted in between.

use std::time::{Duration, Instant};

/// At most one report in this time.
const INTERVAL: Duration = Duration::from_secs(60);

/// Decides which of many equal events is logged.
#[derive(Debug, Default)]
pub struct LogLimit {
    last: Option<Instant>,
    suppressed: u64,
}

impl LogLimit {
    /// `n` events happened: returns how many to report now, those passed over since the last report included.
    pub fn events(&mut self, now: Instant, n: u64) -> Option<u64> {
        self.suppressed += n;
        if n == 0 || self.last.is_some_and(|last| now < last + INTERVAL) {
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once_a_minute_with_the_count() {
        let start = Instant::now();
        let mut limit = LogLimit::default();
        assert_eq!(limit.events(start, 0), None);
        assert_eq!(limit.events(start, 1), Some(1));
        assert_eq!(limit.events(start + Duration::from_secs(1), 3), None);
        assert_eq!(limit.events(start + Duration::from_secs(60), 1), Some(4));
    }
}
