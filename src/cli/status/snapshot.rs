//! An answer to `status`, as far as people are shown it. What another version left out counts as 0.

use std::time::SystemTime;

use serde::Deserialize;
use serde_json::Value;

use crate::cli::escape;

/// The whole answer.
#[derive(Debug, Default)]
pub(in crate::cli) struct Snapshot {
    pub(in crate::cli) version: String,
    pub(in crate::cli) pid: u64,
    pub(in crate::cli) devices: Vec<Device>,
    broker: Value,
}

/// A device.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::cli) struct Device {
    pub(in crate::cli) name: String,
    pub(in crate::cli) kind: String,
    pub(in crate::cli) address: String,
    pub(in crate::cli) state: String,
    since: Option<String>,
    /// Of a `tcp_server`.
    pub(in crate::cli) peers: Option<u64>,
    pub(in crate::cli) bytes_in: u64,
    pub(in crate::cli) bytes_out: u64,
    pub(in crate::cli) frames_in: u64,
    pub(in crate::cli) published: u64,
    pub(in crate::cli) commands: u64,
    pub(in crate::cli) written: u64,
    pub(in crate::cli) queued: u64,
    pub(in crate::cli) reconnects: u64,
    pub(in crate::cli) panics: u64,
    #[serde(deserialize_with = "counts")]
    pub(in crate::cli) dropped: Vec<(String, u64)>,
    pub(in crate::cli) last_error: Option<String>,
}

impl Snapshot {
    /// What `status` says.
    pub(in crate::cli) fn new(status: &Value) -> Snapshot {
        let devices = status["devices"].as_array().into_iter().flatten();
        Snapshot {
            version: status["version"].as_str().unwrap_or_default().to_owned(),
            pid: status["pid"].as_u64().unwrap_or_default(),
            devices: devices.filter_map(|device| Device::deserialize(device).ok()).collect(),
            broker: status["broker"].clone(),
        }
    }

    /// A figure of the broker, by its JSON pointer.
    pub(in crate::cli) fn broker(&self, pointer: &str) -> u64 {
        self.broker.pointer(pointer).and_then(Value::as_u64).unwrap_or_default()
    }

    /// What is kept on disk: `healthy`, `off`, `stalled`, `degraded`; `None` where nothing is said of it.
    pub(in crate::cli) fn disk(&self) -> Option<&str> {
        self.broker["store"]["state"].as_str()
    }

    /// What is wrong with the disk.
    pub(in crate::cli) fn disk_trouble(&self) -> Option<String> {
        let (state, error) = (self.disk()?, self.broker["store"]["error"].as_str()?);
        Some(format!("{state}: {}", escape::encode(error.as_bytes())))
    }

    /// The broker's drops by reason.
    pub(in crate::cli) fn broker_dropped(&self) -> Vec<(String, u64)> {
        reasons(&self.broker["dropped"])
    }
}

impl Device {
    /// When the link came up, or went.
    pub(in crate::cli) fn since(&self) -> Option<SystemTime> {
        humantime::parse_rfc3339(self.since.as_deref()?).ok()
    }

    /// Drops for any reason.
    pub(in crate::cli) fn all_dropped(&self) -> u64 {
        self.dropped.iter().map(|(_, count)| count).sum()
    }
}

fn reasons(value: &Value) -> Vec<(String, u64)> {
    let counts = value.as_object().into_iter().flatten();
    counts.map(|(reason, count)| (reason.clone(), count.as_u64().unwrap_or_default())).collect()
}

fn counts<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<(String, u64)>, D::Error> {
    Value::deserialize(deserializer).map(|value| reasons(&value))
}
