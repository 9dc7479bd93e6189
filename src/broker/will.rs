//! Wills: when they are due, the message they become, and those that are on disk.

use std::time::{Duration, Instant};

use super::message::{Draft, Envelope};
use super::packet::WillRequest;
use super::session_expiry::SessionExpiry;
pub use kept::{KeptWill, Wills, publish, restore};

mod kept;

/// When a will is due after its connection ended at `ended`: after its delay, but no later than the end of the session
/// (MQTT 5.0, section 3.1.3.2.2).
pub fn due(will: &WillRequest, ended: Instant, session_expiry: SessionExpiry) -> Instant {
    ended + delay(will, session_expiry)
}

fn delay(will: &WillRequest, session_expiry: SessionExpiry) -> Duration {
    let delay = Duration::from_secs(will.delay.into());
    match session_expiry {
        SessionExpiry::After(interval) => delay.min(interval),
        SessionExpiry::Never => delay,
    }
}

/// The message a will becomes when it is published at `now` for the session `origin`.
pub fn envelope(will: &WillRequest, origin: u64, now: Instant) -> Envelope {
    Envelope::new(&Draft {
        topic: &will.topic,
        payload: &will.payload,
        qos: will.qos,
        retain: will.retain,
        origin,
        expires: will.expiry.map(|seconds| now + Duration::from_secs(seconds.into())),
        properties: &will.properties,
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::qos::Qos;

    pub(super) fn request(delay: u32) -> WillRequest {
        WillRequest {
            topic: "t".into(),
            payload: Bytes::new(),
            qos: Qos::AtMostOnce,
            retain: false,
            properties: Bytes::new(),
            expiry: None,
            delay,
        }
    }

    #[test]
    fn a_will_waits_for_its_delay_but_not_beyond_the_session() {
        let will = request(0);
        let ended = Instant::now();
        let seconds = Duration::from_secs;
        let after = |interval| SessionExpiry::After(seconds(interval));
        assert_eq!(due(&will, ended, after(100)), ended);
        let will = request(10);
        assert_eq!(due(&will, ended, after(100)), ended + seconds(10));
        assert_eq!(due(&will, ended, after(3)), ended + seconds(3));
        assert_eq!(due(&will, ended, after(0)), ended);
        assert_eq!(due(&will, ended, SessionExpiry::Never), ended + seconds(10));
    }
}
