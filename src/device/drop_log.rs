//! One line in the log for drops that go on, not one for each.

use std::time::Instant;

use parking_lot::Mutex;

use crate::log_limit::LogLimit;
use crate::stats::DropReason;

/// What has been logged of each reason.
#[derive(Debug, Default)]
pub struct DropLog(Mutex<[Known; DropReason::ALL.len()]>);

#[derive(Debug, Default)]
struct Known {
    total: u64,
    limit: LogLimit,
}

impl DropLog {
    /// `device` has dropped `total` for `reason` so far: logs what is new, each reason at most once a minute.
    ///
    /// Drops that the user asked for (`on_change`, `min_interval`, `retained`, `echo`, `settle`) stay at debug.
    pub fn say(&self, device: &str, reason: DropReason, total: u64, detail: Option<&str>) {
        let Some(count) = self.news(reason, total, Instant::now()) else { return };
        if is_wanted(reason) {
            tracing::debug!(device, reason = reason.as_str(), count, total, detail, "dropped");
        } else {
            tracing::warn!(device, reason = reason.as_str(), count, total, detail, "dropped");
        }
    }

    /// How many to report now, if any.
    fn news(&self, reason: DropReason, total: u64, now: Instant) -> Option<u64> {
        let known = &mut self.0.lock()[reason as usize];
        let new = total.saturating_sub(known.total);
        known.total += new;
        known.limit.events(now, new)
    }
}

fn is_wanted(reason: DropReason) -> bool {
    use DropReason::{Echo, Retained, Settle, Superseded, Unchanged};
    matches!(reason, Echo | Retained | Settle | Superseded | Unchanged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn each_reason_is_logged_once_a_minute() {
        let log = DropLog::default();
        let start = Instant::now();
        assert_eq!(log.news(DropReason::TooLong, 1, start), Some(1));
        assert_eq!(log.news(DropReason::TooLong, 3, start + Duration::from_secs(59)), None);
        assert_eq!(log.news(DropReason::Checksum, 2, start), Some(2));
        assert_eq!(log.news(DropReason::TooLong, 3, start + Duration::from_secs(60)), None, "nothing new");
        assert_eq!(log.news(DropReason::TooLong, 4, start + Duration::from_secs(60)), Some(3));
    }
}
