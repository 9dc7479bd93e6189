//! Wills: kept with the connection, and after it for the will delay.

use std::time::{Duration, Instant};

use super::message::{Draft, Envelope};
use super::packet::WillRequest;
use super::session_expiry::SessionExpiry;

/// When a will is due after its connection ended at `ended`: after its delay, but no later than the end of the session
/// (MQTT 5.0, section 3.1.3.2.2).
pub fn due(will: &WillRequest, ended: Instant, session_expiry: SessionExpiry) -> Instant {
    let delay = Duration::from_secs(will.delay.into());
    match session_expiry {
        SessionExpiry::After(interval) => ended + delay.min(interval),
        SessionExpiry::Never => ended + delay,
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

    #[test]
    fn a_will_waits_for_its_delay_but_not_beyond_the_session() {
        let mut will = WillRequest {
            topic: "t".into(),
            payload: Bytes::new(),
            qos: Qos::AtMostOnce,
            retain: false,
            properties: Bytes::new(),
            expiry: None,
            delay: 0,
        };
        let ended = Instant::now();
        let seconds = Duration::from_secs;
        let after = |interval| SessionExpiry::After(seconds(interval));
        assert_eq!(due(&will, ended, after(100)), ended);
        will.delay = 10;
        assert_eq!(due(&will, ended, after(100)), ended + seconds(10));
        assert_eq!(due(&will, ended, after(3)), ended + seconds(3));
        assert_eq!(due(&will, ended, after(0)), ended);
        assert_eq!(due(&will, ended, SessionExpiry::Never), ended + seconds(10));
    }
}
