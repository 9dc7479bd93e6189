//! Load averages: what happened a minute, smoothed over one, five and fifteen minutes. Pure.
//!
//! Each is what mosquitto calls so: an average that forgets exponentially, as the kernel's load averages do. The time
//! between two updates may be any: what happened meanwhile counts as spread evenly over it.

use std::time::Instant;

use crate::broker::figures::Figures;

/// Names of the spans, and how long they are in seconds.
const SPANS: [(&str, f64); 3] = [("1min", 60.0), ("5min", 300.0), ("15min", 900.0)];

/// How many figures have load averages.
const FIGURES: usize = 9;

/// The averages.
#[derive(Debug)]
pub struct Loads {
    updated: Instant,
    counted: [u64; FIGURES],
    averages: [[f64; SPANS.len()]; FIGURES],
}

/// The figures that have load averages, with their names.
fn counters(figures: &Figures) -> [(&'static str, u64); FIGURES] {
    let Figures { received, sent, .. } = figures;
    [
        ("messages/received", received.packets),
        ("messages/sent", sent.packets),
        ("publish/dropped", figures.dropped_messages()),
        ("publish/received", received.messages),
        ("publish/sent", sent.messages),
        ("bytes/received", received.bytes),
        ("bytes/sent", sent.bytes),
        ("sockets", figures.sockets),
        ("connections", figures.accepted + figures.refused),
    ]
}

impl Loads {
    /// Those of a broker that starts at `now`: 0.
    pub fn new(now: Instant) -> Loads {
        Loads { updated: now, counted: [0; FIGURES], averages: [[0.0; SPANS.len()]; FIGURES] }
    }

    /// Takes in what has been counted up to `now`.
    pub fn update(&mut self, figures: &Figures, now: Instant) {
        let elapsed = now.saturating_duration_since(self.updated).as_secs_f64();
        if elapsed <= 0.0 {
            return;
        }
        self.updated = now;
        for (index, (_, count)) in counters(figures).into_iter().enumerate() {
            let since = count.saturating_sub(std::mem::replace(&mut self.counted[index], count));
            let a_minute = since as f64 * 60.0 / elapsed;
            for (average, (_, span)) in self.averages[index].iter_mut().zip(SPANS) {
                *average = a_minute + (-elapsed / span).exp() * (*average - a_minute);
            }
        }
    }

    /// Name, span and value of every average.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &'static str, f64)> {
        let names = counters(&Figures::default()).map(|(name, _)| name);
        names.into_iter().zip(self.averages).flat_map(|(name, averages)| {
            SPANS.into_iter().zip(averages).map(move |((span, _), average)| (name, span, average))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn with(sockets: u64) -> Figures {
        Figures { sockets, ..Figures::default() }
    }

    fn of(loads: &Loads, wanted: &str) -> [f64; 3] {
        let averages: Vec<f64> =
            loads.iter().filter(|(name, ..)| *name == wanted).map(|(.., average)| average).collect();
        averages.try_into().unwrap()
    }

    fn assert_close(averages: [f64; 3], expected: [f64; 3]) {
        for (average, expected) in averages.into_iter().zip(expected) {
            assert!((average - expected).abs() < 1e-9 * expected.max(1.0), "{averages:?}");
        }
    }

    /// A constant rate of 60 a minute for t seconds gives 60 × (1 − e^(−t/span)).
    fn risen(seconds: f64) -> [f64; 3] {
        SPANS.map(|(_, span)| 60.0 * (1.0 - (-seconds / span).exp()))
    }

    #[test]
    fn a_constant_rate_gives_the_same_however_often_it_is_looked_at() {
        let start = Instant::now();
        let (mut often, mut once) = (Loads::new(start), Loads::new(start));
        for second in 1..=120 {
            often.update(&with(second), start + Duration::from_secs(second));
        }
        once.update(&with(120), start + Duration::from_secs(120));
        assert_close(of(&often, "sockets"), risen(120.0));
        assert_close(of(&once, "sockets"), risen(120.0));
        assert_close(of(&once, "connections"), [0.0; 3]);
    }

    #[test]
    fn silence_is_forgotten_over_any_gap() {
        let start = Instant::now();
        let mut loads = Loads::new(start);
        loads.update(&with(600), start + Duration::from_secs(600));
        loads.update(&with(600), start + Duration::from_secs(600 + 300));
        let decay = SPANS.map(|(_, span)| (-300.0 / span).exp());
        let expected = [0, 1, 2].map(|index| risen(600.0)[index] * decay[index]);
        assert_close(of(&loads, "sockets"), expected);
        loads.update(&with(600), start + Duration::from_secs(30 * 24 * 3600));
        assert_close(of(&loads, "sockets"), [0.0; 3]);
    }

    #[test]
    fn a_moment_of_no_length_changes_nothing() {
        let start = Instant::now();
        let mut loads = Loads::new(start);
        loads.update(&with(5), start);
        loads.update(&with(60), start + Duration::from_secs(60));
        assert_close(of(&loads, "sockets"), risen(60.0));
    }
}
