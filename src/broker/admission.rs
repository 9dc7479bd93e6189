//! Whether a CONNECT is accepted, whoever sends it, and on what terms. Pure.

use std::time::Duration;

use super::packet::{Connack, Connect, PacketError, Reason, Version, WillRequest};
use super::session_expiry::{NEVER, SessionExpiry};
use crate::config;
use crate::topic::is_reserved;

/// Topic aliases that one client may set, as many as with mosquitto.
pub const TOPIC_ALIAS_MAXIMUM: u16 = 10;

/// The terms of an accepted connection.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Silence after which the connection is closed: one and a half times the keep-alive [MQTT-3.1.2-22].
    pub silence: Option<Duration>,
    /// How long the session is kept after the connection.
    pub session_expiry: SessionExpiry,
    /// What the client is told. Session Present is filled in by the session.
    pub connack: Connack,
    /// The client's id, or the one chosen for it.
    pub client_id: String,
}

/// Decides on `connect`. The error's text says which setting stood in the way.
pub fn admit(connect: &Connect, settings: &config::Broker) -> Result<Terms, PacketError> {
    let refuse = |reason, what| Err(PacketError { reason, what });
    if connect.has_authentication_method {
        return refuse(Reason::BAD_AUTHENTICATION_METHOD, "enhanced authentication is not offered");
    }
    let (client_id, assigned) = client_id(connect, settings)?;
    if let Some(will) = &connect.will {
        check_will(will, settings)?;
    }
    let keep_alive = keep_alive(connect, settings)?;
    let session_expiry = match (connect.session_expiry, connect.clean_start) {
        (Some(seconds), _) => SessionExpiry::grant(seconds, settings.session_expiry_limit),
        (None, true) => SessionExpiry::After(Duration::ZERO),
        (None, false) => SessionExpiry::grant(NEVER, settings.session_expiry_limit),
    };
    let connack = Connack {
        session_present: false,
        session_expiry: connect.session_expiry.and_then(|asked| differs(session_expiry.seconds(), asked)),
        receive_maximum: receive_maximum(settings),
        maximum_qos: differs(settings.max_qos, crate::qos::Qos::ExactlyOnce),
        retain_available: settings.retained,
        maximum_packet_size: maximum_packet_size(settings),
        assigned_client_id: assigned.then(|| client_id.clone()),
        topic_alias_maximum: TOPIC_ALIAS_MAXIMUM,
        server_keep_alive: differs(keep_alive, connect.keep_alive),
    };
    if connack.size(connect.version) > connect.maximum_packet_size {
        return refuse(Reason::PACKET_TOO_LARGE, "the client's maximum packet size has no room for CONNACK");
    }
    let silence = (keep_alive > 0).then(|| Duration::from_millis(u64::from(keep_alive) * 1500));
    Ok(Terms { silence, session_expiry, connack, client_id })
}

/// QoS 1 and 2 messages taken from one client at once (MQTT 5 Receive Maximum): `max_inflight`, whose default stands for
/// the 20 of mosquitto.
pub fn receive_maximum(settings: &config::Broker) -> u16 {
    if settings.max_inflight == config::Broker::MAX_INFLIGHT { 20 } else { settings.max_inflight }
}

/// The Maximum Packet Size that clients are told. Not the default: without settings the CONNACK is, byte for byte, the one
/// that clients know from mosquitto.
fn maximum_packet_size(settings: &config::Broker) -> Option<u32> {
    let told = differs(settings.max_packet_size, config::Broker::MAX_PACKET_SIZE)?;
    Some(u32::try_from(told).unwrap_or(u32::MAX))
}

fn differs<T: PartialEq>(value: T, assumed: T) -> Option<T> {
    (value != assumed).then_some(value)
}

/// The id, and whether it was chosen here [MQTT-3.1.3-6 to -9].
fn client_id(connect: &Connect, settings: &config::Broker) -> Result<(String, bool), PacketError> {
    let refuse = |what| Err(PacketError { reason: Reason::CLIENT_ID_NOT_VALID, what });
    if !connect.client_id.is_empty() {
        return Ok((connect.client_id.clone(), false));
    }
    if !settings.allow_empty_client_id {
        return refuse("an empty client identifier, and allow_empty_client_id is false");
    }
    if connect.version == Version::V31 {
        return refuse("an empty client identifier in 3.1");
    }
    if connect.version == Version::V311 && !connect.clean_start {
        return refuse("an empty client identifier with Clean Session 0 [MQTT-3.1.3-8]");
    }
    Ok((chosen_client_id(), true))
}

/// A random one in the form that mosquitto gives it: `auto-` and a UUID.
fn chosen_client_id() -> String {
    let id = uuid_bits(fastrand::u128(..));
    let (a, b, c, d, e) = (id >> 96, id >> 80 & 0xFFFF, id >> 64 & 0xFFFF, id >> 48 & 0xFFFF, id & 0xFFFF_FFFF_FFFF);
    format!("auto-{a:08x}-{b:04x}-{c:04x}-{d:04x}-{e:012x}")
}

/// Marks `random` as a random UUID (RFC 9562, section 5.4).
fn uuid_bits(random: u128) -> u128 {
    random & !(0xF << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62
}

fn check_will(will: &WillRequest, settings: &config::Broker) -> Result<(), PacketError> {
    let refuse = |reason, what| Err(PacketError { reason, what });
    if will.qos > settings.max_qos {
        return refuse(Reason::QOS_NOT_SUPPORTED, "the will's QoS is above max_qos");
    }
    if will.retain && !settings.retained {
        return refuse(Reason::RETAIN_NOT_SUPPORTED, "a retained will, and retained is false");
    }
    if will.payload.len() > settings.max_payload_size {
        return refuse(Reason::PACKET_TOO_LARGE, "the will is larger than max_payload_size");
    }
    if is_reserved(&will.topic) {
        return refuse(Reason::NOT_AUTHORIZED, "a will on a $SYS or $share topic");
    }
    if will.topic.starts_with("$CONTROL/") {
        return refuse(Reason::PROTOCOL_ERROR, "a will on a $CONTROL topic");
    }
    Ok(())
}

/// Seconds; 0: none.
fn keep_alive(connect: &Connect, settings: &config::Broker) -> Result<u16, PacketError> {
    let Some(limit) = settings.max_keepalive else { return Ok(connect.keep_alive) };
    let limit = u16::try_from(limit.as_secs()).unwrap_or(u16::MAX).max(1);
    if (1..=limit).contains(&connect.keep_alive) {
        return Ok(connect.keep_alive);
    }
    match connect.version {
        Version::V5 => Ok(limit),
        // MQTT 3 has no code for it; this one is what mosquitto sends.
        Version::V31 | Version::V311 => {
            Err(PacketError { reason: Reason::CLIENT_ID_NOT_VALID, what: "the keep-alive is above max_keepalive" })
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::qos::Qos;

    fn settings() -> config::Broker {
        config::Broker {
            max_connections: 10,
            max_connections_per_address: 10,
            max_packet_size: 1000,
            max_inflight: 10,
            max_keepalive: None,
            max_qos: Qos::ExactlyOnce,
            retained: true,
            max_payload_size: 100,
            allow_empty_client_id: true,
            max_queued: 10,
            max_queued_bytes: 1000,
            queue_full: config::QueueFull::DropOldest,
            session_expiry_limit: Duration::from_secs(1000),
            max_retained: 10,
            database: None,
            sys_interval: None,
            password_file: None,
            acl_file: None,
            listeners: Vec::new(),
        }
    }

    fn connect(version: Version) -> Connect {
        Connect {
            version,
            is_bridge: false,
            client_id: "c".into(),
            clean_start: false,
            keep_alive: 60,
            session_expiry: (version == Version::V5).then_some(0),
            receive_maximum: 10,
            maximum_packet_size: usize::MAX,
            topic_alias_maximum: 0,
            problem_information: None,
            has_authentication_method: false,
            will: None,
            username: None,
            password: None,
        }
    }

    fn reason(connect: &Connect, settings: &config::Broker) -> u8 {
        admit(connect, settings).map_or_else(|error| error.reason.0, |_| 0)
    }

    #[test]
    fn keep_alive_is_one_and_a_half_times() {
        let terms = admit(&connect(Version::V311), &settings()).unwrap();
        assert_eq!(terms.silence, Some(Duration::from_secs(90)));
        let none = Connect { keep_alive: 0, ..connect(Version::V5) };
        assert_eq!(admit(&none, &settings()).unwrap().silence, None);
    }

    #[test]
    fn a_keep_alive_above_the_limit_is_lowered_or_refused() {
        let settings = config::Broker { max_keepalive: Some(Duration::from_secs(30)), ..settings() };
        for (asked, told, silence) in [(20, None, 30), (30, None, 45), (31, Some(30), 45), (0, Some(30), 45)] {
            let v5 = Connect { keep_alive: asked, ..connect(Version::V5) };
            let terms = admit(&v5, &settings).unwrap();
            assert_eq!((terms.connack.server_keep_alive, terms.silence), (told, Some(Duration::from_secs(silence))));
            let v311 = Connect { keep_alive: asked, ..connect(Version::V311) };
            assert_eq!(reason(&v311, &settings), if told.is_some() { 0x85 } else { 0 });
        }
    }

    #[test]
    fn session_expiry_is_capped_and_told() {
        let terms = |seconds| {
            let connect = Connect { session_expiry: Some(seconds), ..connect(Version::V5) };
            let terms = admit(&connect, &settings()).unwrap();
            (terms.session_expiry, terms.connack.session_expiry)
        };
        let after = |seconds| SessionExpiry::After(Duration::from_secs(seconds));
        assert_eq!(terms(0), (after(0), None));
        assert_eq!(terms(1000), (after(1000), None));
        assert_eq!(terms(1001), (after(1000), Some(1000)));
        assert_eq!(terms(u32::MAX), (after(1000), Some(1000)));
        assert_eq!(SessionExpiry::grant(u32::MAX, Duration::MAX), SessionExpiry::Never);
        let v311 = admit(&connect(Version::V311), &settings()).unwrap();
        assert_eq!((v311.session_expiry, v311.connack.session_expiry), (after(1000), None));
        let clean = Connect { clean_start: true, ..connect(Version::V311) };
        assert!(admit(&clean, &settings()).unwrap().session_expiry.is_zero());
    }

    #[test]
    fn client_identifiers() {
        let empty = |version, clean_start| Connect { client_id: String::new(), clean_start, ..connect(version) };
        assert_eq!(reason(&empty(Version::V311, false), &settings()), 0x85);
        let terms = admit(&empty(Version::V311, true), &settings()).unwrap();
        assert!(!terms.client_id.is_empty());
        assert_eq!(reason(&empty(Version::V31, true), &settings()), 0x85);
        let terms = admit(&empty(Version::V5, false), &settings()).unwrap();
        assert_eq!(terms.connack.assigned_client_id, Some(terms.client_id));
        let settings = config::Broker { allow_empty_client_id: false, ..settings() };
        assert_eq!(reason(&empty(Version::V5, true), &settings), 0x85);
    }

    #[test]
    fn what_is_not_offered_is_refused() {
        let method = Connect { has_authentication_method: true, ..connect(Version::V5) };
        assert_eq!(reason(&method, &settings()), 0x8C);
        let tiny = Connect { maximum_packet_size: 4, ..connect(Version::V5) };
        assert_eq!(reason(&tiny, &settings()), 0x95);
    }

    #[test]
    fn wills_are_checked_at_connect() {
        let will = |topic: &str, size, qos, retain| WillRequest {
            topic: topic.into(),
            payload: vec![0; size].into(),
            qos,
            retain,
            properties: Bytes::new(),
            expiry: None,
            delay: 0,
        };
        let strict = config::Broker { max_qos: Qos::AtLeastOnce, retained: false, ..settings() };
        let table = [
            (will("t", 100, Qos::AtLeastOnce, false), 0),
            (will("t", 101, Qos::AtLeastOnce, false), 0x95),
            (will("t", 0, Qos::ExactlyOnce, false), 0x9B),
            (will("t", 0, Qos::AtLeastOnce, true), 0x9A),
            (will("$SYS/x", 0, Qos::AtLeastOnce, false), 0x87),
        ];
        for (will, expected) in table {
            let connect = Connect { will: Some(will.clone()), ..connect(Version::V5) };
            assert_eq!(reason(&connect, &strict), expected, "{will:?}");
        }
    }
}
