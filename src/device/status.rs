//! What is known of one device from outside: its counters, whether it is online, and the topics that say so.

use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;
use serde_json::{Map, Value, json};

use super::rules::rfc3339;
use crate::stats::DeviceStats;
use crate::topic::{TopicError, TopicName};

/// `…/device/<name>/status` and `/stats`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusTopics {
    /// Retained `online` or `offline`.
    pub status: TopicName,
    /// Retained JSON.
    pub stats: TopicName,
}

impl StatusTopics {
    /// The topics of device `name` below the gateway's `root`.
    ///
    /// Errors when `root` is so long that the topics exceed an MQTT string.
    pub fn new(root: &TopicName, name: &str) -> Result<StatusTopics, TopicError> {
        Ok(StatusTopics {
            status: TopicName::new(format!("{root}/device/{name}/status"))?,
            stats: TopicName::new(format!("{root}/device/{name}/stats"))?,
        })
    }
}

/// The state of one device, shared between its task and those who report it.
#[derive(Debug, Default)]
pub struct DeviceState {
    /// The counters.
    pub stats: Arc<DeviceStats>,
    link: Mutex<LinkState>,
}

#[derive(Debug, Default)]
struct LinkState {
    up_since: Option<SystemTime>,
    down_since: Option<SystemTime>,
    was_up: bool,
    last_error: Option<String>,
}

impl DeviceState {
    /// The link came up at `now`.
    pub fn set_online(&self, now: SystemTime) {
        let mut link = self.link.lock();
        if link.was_up {
            self.stats.reconnects.increment();
        }
        link.was_up = true;
        link.up_since = Some(now);
    }

    /// The link went down at `now`.
    pub fn set_offline(&self, now: SystemTime) {
        let mut link = self.link.lock();
        if link.up_since.take().is_some() {
            link.down_since = Some(now);
        }
    }

    /// When the link came up, or went; `None` if it has never been up.
    pub fn since(&self) -> Option<SystemTime> {
        let link = self.link.lock();
        link.up_since.or(link.down_since)
    }

    /// Remembers why the link failed, or could not be had. Returns whether that is news.
    pub fn set_error(&self, error: &str) -> bool {
        let mut link = self.link.lock();
        let news = link.last_error.as_deref() != Some(error);
        if news {
            link.last_error = Some(error.to_owned());
        }
        news
    }

    /// What was wrong is over.
    pub fn forget_error(&self) {
        self.link.lock().last_error = None;
    }

    /// Whether the link is up.
    pub fn is_online(&self) -> bool {
        self.link.lock().up_since.is_some()
    }

    /// The payload of the stats topic; `queued` is the number of commands that wait.
    pub fn to_json(&self, queued: usize) -> Value {
        let stats = &self.stats;
        let dropped: Map<String, Value> =
            stats.dropped.nonzero().map(|(reason, n)| (reason.as_str().to_owned(), n.into())).collect();
        let link = self.link.lock();
        json!({
            "online": link.up_since.is_some(),
            "bytes_in": stats.bytes_in.get(),
            "bytes_out": stats.bytes_out.get(),
            "frames_in": stats.frames_in.get(),
            "frames_out": stats.frames_out.get(),
            "published": stats.published.get(),
            "commands": stats.commands.get(),
            "written": stats.frames_out.get(),
            "queued": queued,
            "dropped": dropped,
            "reconnects": stats.reconnects.get(),
            "refused_peers": stats.refused_peers.get(),
            "panics": stats.panics.get(),
            "last_error": link.last_error,
            "up_since": link.up_since.map(|at| rfc3339(at).to_string()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::DropReason;

    #[test]
    fn the_first_time_up_is_no_reconnect() {
        let state = DeviceState::default();
        state.set_online(SystemTime::UNIX_EPOCH);
        assert_eq!(state.stats.reconnects.get(), 0);
        let later = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1);
        state.set_offline(later);
        state.set_offline(later + std::time::Duration::from_secs(1));
        assert_eq!((state.is_online(), state.since()), (false, Some(later)));
        state.set_online(SystemTime::UNIX_EPOCH);
        assert_eq!(state.stats.reconnects.get(), 1);
    }

    #[test]
    fn an_error_is_news_once() {
        let state = DeviceState::default();
        assert!(state.set_error("refused"));
        assert!(!state.set_error("refused"));
        assert!(state.set_error("no route"));
    }

    #[test]
    fn json_holds_only_drops_that_happened() {
        let state = DeviceState::default();
        state.stats.dropped.add(DropReason::TooLong, 2);
        state.set_online(SystemTime::UNIX_EPOCH);
        let json = state.to_json(3);
        assert_eq!(json["dropped"], json!({"too_long": 2}));
        assert_eq!(json["queued"], 3);
        assert_eq!(json["up_since"], "1970-01-01T00:00:00.000Z");
        assert_eq!(json["last_error"], Value::Null);
    }
}
