//! What happened between two looks.

use std::collections::HashMap;
use std::time::Instant;

use crate::cli::status::snapshot::{Device, Snapshot};

/// An answer, and when it came.
pub(super) struct Sample {
    pub(super) status: Snapshot,
    pub(super) at: Instant,
}

/// A second's worth.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rates {
    pub(super) frames_in: f64,
    pub(super) frames_out: f64,
    pub(super) bytes_in: f64,
    pub(super) bytes_out: f64,
}

impl Sample {
    /// `status` came `at`.
    pub(super) fn new(status: Snapshot, at: Instant) -> Sample {
        Sample { status, at }
    }

    /// The rates of the devices since `before`, in the order of this sample.
    pub(super) fn rates_since(&self, before: &Sample) -> Vec<Rates> {
        let old: HashMap<&str, &Device> = before.status.devices.iter().map(|device| (&*device.name, device)).collect();
        let rates = self.status.devices.iter().map(|device| {
            let Some(old) = old.get(&*device.name) else { return Rates::default() };
            let rate = |counter: fn(&Device) -> u64| self.rate(before, counter(device), counter(old));
            Rates {
                frames_in: rate(|device| device.frames_in),
                frames_out: rate(|device| device.written),
                bytes_in: rate(|device| device.bytes_in),
                bytes_out: rate(|device| device.bytes_out),
            }
        });
        rates.collect()
    }

    /// The rate of a figure of the broker since `before`.
    pub(super) fn broker_rate(&self, before: &Sample, pointer: &str) -> f64 {
        self.rate(before, self.status.broker(pointer), before.status.broker(pointer))
    }

    /// A counter that fell belongs to a new start: then all of it is new.
    fn rate(&self, before: &Sample, now: u64, old: u64) -> f64 {
        let seconds = self.at.saturating_duration_since(before.at).as_secs_f64();
        let new = now.checked_sub(old).unwrap_or(now);
        if seconds > 0.0 { new as f64 / seconds } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    #[test]
    fn rates_are_of_the_time_between() {
        let start = Instant::now();
        let sample = |frames: u64, received: u64, seconds| {
            let status = json!({
                "broker": {"received": {"messages": received}},
                "devices": [{"name": "a", "frames_in": frames}],
            });
            Sample::new(Snapshot::new(&status), start + Duration::from_secs(seconds))
        };
        let (first, second) = (sample(10, 5, 0), sample(30, 5, 2));
        assert_eq!(second.rates_since(&first), [Rates { frames_in: 10.0, ..Rates::default() }]);
        assert_eq!(sample(7, 1, 3).rates_since(&second)[0].frames_in, 7.0, "a restart");
        assert_eq!(sample(7, 9, 3).broker_rate(&second, "/received/messages"), 4.0);
        let none = Sample::new(Snapshot::default(), start);
        assert_eq!(second.rates_since(&none), [Rates::default()]);
        assert_eq!(second.rates_since(&second)[0].frames_in, 0.0);
    }
}
