//! Exponential backoff with jitter.

use std::time::Duration;

/// Delays between attempts: doubling from `min` to `max`, each with jitter.
///
/// The jitter takes away up to half, so that many devices that lost one host do not come back in step.
#[derive(Clone, Debug)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    /// Begins at `min`; `max` below `min` counts as `min`.
    pub fn new(min: Duration, max: Duration) -> Backoff {
        Backoff { min, max: max.max(min), next: min }
    }

    /// The delay before the next attempt, and doubles the one after it. `random` is uniform in 0.0..1.0.
    pub fn next_delay(&mut self, random: f64) -> Duration {
        let delay = self.next;
        self.next = (self.next * 2).min(self.max);
        delay.mul_f64(1.0 - random.clamp(0.0, 1.0) / 2.0)
    }

    /// Back to `min`: the link has been stable.
    pub fn reset(&mut self) {
        self.next = self.min;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_to_the_maximum_and_resets() {
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(3));
        let delays: Vec<_> = (0..5).map(|_| backoff.next_delay(0.0).as_millis()).collect();
        assert_eq!(delays, [500, 1000, 2000, 3000, 3000]);
        backoff.reset();
        assert_eq!(backoff.next_delay(1.0), Duration::from_millis(250));
    }
}
