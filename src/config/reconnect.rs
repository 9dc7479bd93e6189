//! `reconnect = {…}`

use std::time::Duration;

use super::error::Fault;
use super::reader::Value;
use super::units::MAX_WAIT;

/// `reconnect = {…}`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reconnect {
    /// First delay.
    pub min: Duration,
    /// Longest delay; a link that was up for so long resets the backoff.
    pub max: Duration,
}

impl Default for Reconnect {
    fn default() -> Reconnect {
        Reconnect { min: Duration::from_millis(500), max: Duration::from_secs(30) }
    }
}

impl Reconnect {
    /// Reads `reconnect = { min = …, max = … }`.
    pub(super) fn read(value: &Value<'_>) -> Reconnect {
        let default = Reconnect::default();
        let Some(mut table) = value.table() else { return default };
        let delay = |v: Option<Value<'_>>| v.and_then(|v| v.duration(Duration::from_millis(1)..=MAX_WAIT));
        let (min, max) = (delay(table.get("min")), delay(table.get("max")));
        table.finish();
        let reconnect = match (min, max) {
            (Some(min), Some(max)) => Reconnect { min, max },
            // The other default moves out of the way of a bound that was set.
            (Some(min), None) => Reconnect { min, max: default.max.max(min) },
            (None, Some(max)) => Reconnect { min: default.min.min(max), max },
            (None, None) => default,
        };
        if reconnect.min > reconnect.max {
            value.fail::<()>(Fault::new("`min` is longer than `max`"));
        }
        reconnect
    }
}
