use bytes::{BufMut, BytesMut};
use proptest::prelude::*;

use super::*;

fn frame(body: &[u8]) -> Frame {
    Frame { first: 0x10, body: Bytes::copy_from_slice(body) }
}

fn refusal(body: &[u8]) -> (Option<Version>, Reason) {
    let error = Connect::parse(&frame(body)).unwrap_err();
    (error.version, error.error.reason)
}

#[test]
fn versions_are_told_apart() {
    let v31 = Connect::parse(&frame(b"\0\x06MQIsdp\x03\x02\0\x3C\0\x01a")).unwrap();
    assert_eq!((v31.version, &*v31.client_id, v31.is_bridge), (Version::V31, "a", false));
    let v311 = Connect::parse(&frame(b"\0\x04MQTT\x04\x02\0\x3C\0\x01a")).unwrap();
    assert_eq!((v311.version, &*v311.client_id, v311.clean_start, v311.keep_alive), (Version::V311, "a", true, 60));
    let v5 = Connect::parse(&frame(b"\0\x04MQTT\x05\0\0\0\x05\x11\0\0\0\x09\0\0")).unwrap();
    assert_eq!((v5.version, &*v5.client_id, v5.session_expiry), (Version::V5, "", Some(9)));
    for (bridge, version) in
        [(&b"\0\x06MQIsdp\x83\x02\0\0\0\x01a"[..], Version::V31), (b"\0\x04MQTT\x84\x02\0\0\0\x01a", Version::V311)]
    {
        let connect = Connect::parse(&frame(bridge)).unwrap();
        assert_eq!((connect.version, connect.is_bridge), (version, true));
    }
    let unsupported = (Some(Version::V311), Reason::UNSUPPORTED_PROTOCOL_VERSION);
    assert_eq!(refusal(b"\0\x06MQIsdp\x04\x02\0\x3C\0\x01a"), unsupported);
    assert_eq!(refusal(b"\0\x04MQTT\x03\x02\0\x3C\0\x01a"), unsupported);
    assert_eq!(refusal(b"\0\x04MQTT\x06\x02\0\x3C\0\0\x01a"), unsupported);
    assert_eq!(refusal(b"\0\x04HTTP\x04\x02\0\x3C\0\x01a").0, None);
    assert_eq!(refusal(b"").0, None);
}

#[test]
fn flags_are_checked() {
    for flags in [0x03u8, 0x0A, 0x22, 0x1E, 0x42] {
        let body = [b"\0\x04MQTT\x04", &[flags][..], b"\0\0\0\x01a\0\x01t\0\x01p"].concat();
        assert_eq!(refusal(&body).1, Reason::MALFORMED_PACKET, "{flags:#x}");
    }
    let flagged = |body: &[u8]| Connect::parse(&Frame { first: 0x14, body: Bytes::copy_from_slice(body) });
    assert!(flagged(b"\0\x04MQTT\x04\x02\0\0\0\x01a").is_err());
    assert!(flagged(b"\0\x06MQIsdp\x03\x03\0\0\0\x01a").is_ok(), "3.1 reserves no flags");
}

#[test]
fn a_user_name_of_3_1_may_be_missing() {
    let connect = Connect::parse(&frame(b"\0\x06MQIsdp\x03\xC2\0\0\0\x01a")).unwrap();
    assert_eq!((connect.username, connect.password), (None, None));
    assert_eq!(refusal(b"\0\x04MQTT\x04\xC2\0\0\0\x01a").1, Reason::MALFORMED_PACKET);
    let v5 = Connect::parse(&frame(b"\0\x04MQTT\x05\x42\0\0\0\0\x01a\0\x02pw")).unwrap();
    assert_eq!((v5.username, v5.password.as_deref()), (None, Some(&b"pw"[..])), "a password alone");
}

#[test]
fn wills_are_read() {
    let body = b"\0\x04MQTT\x05\x2E\0\0\0\0\x01c\x0C\x18\0\0\0\x05\x02\0\0\0\x07\x01\x01\0\x01t\0\x01p";
    let will = Connect::parse(&frame(body)).unwrap().will.unwrap();
    let expected = WillRequest {
        topic: "t".into(),
        payload: Bytes::from_static(b"p"),
        qos: Qos::AtLeastOnce,
        retain: true,
        properties: Bytes::from_static(&[1, 1]),
        expiry: Some(7),
        delay: 5,
    };
    assert_eq!(will, expected);
    assert_eq!(refusal(b"\0\x04MQTT\x04\x06\0\0\0\x01c\0\x01#\0\x01p").1, Reason::MALFORMED_PACKET);
}

#[test]
fn properties_of_connect() {
    let connect = |properties: &[u8]| {
        let length = [properties.len() as u8];
        Connect::parse(&frame(&[&b"\0\x04MQTT\x05\x02\0\0"[..], &length, properties, b"\0\x01a"].concat()))
    };
    let read = connect(b"\x21\0\x05\x27\0\0\0\x64\x22\0\x07\x17\0\x19\x01\x26\0\x01k\0\x01v").unwrap();
    assert_eq!((read.receive_maximum, read.maximum_packet_size, read.topic_alias_maximum), (5, 100, 7));
    assert_eq!((read.problem_information, read.session_expiry), (Some(false), Some(0)));
    assert_eq!(connect(b"").unwrap().problem_information, None);
    assert!(connect(b"\x15\0\x01m\x16\0\x01d").unwrap().has_authentication_method);
    for properties in [&b"\x16\0\x01d"[..], b"\x17\x02", b"\x21\0\0", b"\x21\0\x05\x21\0\x05", b"\x24\0"] {
        assert_eq!(connect(properties).unwrap_err().error.reason, Reason::PROTOCOL_ERROR, "{properties:?}");
    }
}

#[test]
fn nothing_secret_is_shown() {
    let connect =
        Connect::parse(&frame(b"\0\x04MQTT\x04\xC6\0\0\0\x01c\0\x01t\0\x05loved\0\x01u\0\x06secret")).unwrap();
    let shown = format!("{connect:?}");
    assert!(shown.contains("\"u\"") && !shown.contains("secret") && !shown.contains("loved"), "{shown}");
}

/// CONNECT as a client writes it.
fn write(connect: &Connect) -> BytesMut {
    let mut out = BytesMut::new();
    let field = |out: &mut BytesMut, bytes: &[u8]| {
        out.put_u16(bytes.len() as u16);
        out.put_slice(bytes);
    };
    let (name, level) = match connect.version {
        Version::V31 => ("MQIsdp", 3),
        Version::V311 => ("MQTT", 4),
        Version::V5 => ("MQTT", 5),
    };
    field(&mut out, name.as_bytes());
    out.put_u8(level | (u8::from(connect.is_bridge) << 7));
    let will = connect.will.as_ref().map_or(0, |will| 4 | ((will.qos as u8) << 3) | (u8::from(will.retain) << 5));
    let login = (u8::from(connect.username.is_some()) << 7) | (u8::from(connect.password.is_some()) << 6);
    out.put_u8(will | login | (u8::from(connect.clean_start) << 1));
    out.put_u16(connect.keep_alive);
    let v5 = connect.version == Version::V5;
    if v5 {
        let mut properties = BytesMut::new();
        property::put_four(&mut properties, id::SESSION_EXPIRY_INTERVAL, connect.session_expiry.unwrap());
        property::put_two(&mut properties, id::RECEIVE_MAXIMUM, connect.receive_maximum);
        property::put_four(&mut properties, id::MAXIMUM_PACKET_SIZE, connect.maximum_packet_size as u32);
        property::put_two(&mut properties, id::TOPIC_ALIAS_MAXIMUM, connect.topic_alias_maximum);
        if let Some(asked) = connect.problem_information {
            property::put_flag(&mut properties, id::REQUEST_PROBLEM_INFORMATION, asked);
        }
        if connect.has_authentication_method {
            property::put_text(&mut properties, id::AUTHENTICATION_METHOD, "m");
        }
        Recipient::put_properties(&mut out, &properties);
    }
    field(&mut out, connect.client_id.as_bytes());
    if let Some(will) = &connect.will {
        if v5 {
            let mut properties = BytesMut::from(&will.properties[..]);
            property::put_four(&mut properties, id::WILL_DELAY_INTERVAL, will.delay);
            if let Some(expiry) = will.expiry {
                property::put_four(&mut properties, id::MESSAGE_EXPIRY_INTERVAL, expiry);
            }
            Recipient::put_properties(&mut out, &properties);
        }
        field(&mut out, will.topic.as_bytes());
        field(&mut out, &will.payload);
    }
    connect.username.iter().for_each(|name| field(&mut out, name.as_bytes()));
    connect.password.iter().for_each(|password| field(&mut out, password));
    out
}

prop_compose! {
    fn any_will(v5: bool)(topic in "[a-zä/]{1,20}", payload in proptest::collection::vec(any::<u8>(), 0..50), qos in 0u8..3,
        retain: bool, expiry: Option<u32>, delay: u32) -> WillRequest {
        WillRequest {
            topic,
            payload: payload.into(),
            qos: Qos::from_u8(qos).unwrap(),
            retain,
            properties: if v5 { Bytes::from_static(b"\x03\0\x01t\x26\0\0\0\0") } else { Bytes::new() },
            expiry: expiry.filter(|_| v5),
            delay: if v5 { delay } else { 0 },
        }
    }
}

fn any_connect() -> impl Strategy<Value = Connect> {
    (0usize..3).prop_flat_map(connect_of)
}

prop_compose! {
    fn connect_of(version: usize)(will in proptest::option::of(any_will(version == 2)), is_bridge: bool,
        client_id in "[a-zä]{0,30}", clean_start: bool, keep_alive: u16, numbers: (u32, u16, u32, u16),
        asked: Option<bool>, method: bool, username in proptest::option::of("[a-zä]{0,9}"),
        password in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..9))) -> Connect {
        let v5 = version == 2;
        let (session_expiry, receive_maximum, maximum_packet_size, topic_alias_maximum) = numbers;
        Connect {
            version: [Version::V31, Version::V311, Version::V5][version],
            is_bridge,
            client_id,
            clean_start,
            keep_alive,
            session_expiry: v5.then_some(session_expiry),
            receive_maximum: if v5 { receive_maximum.max(1) } else { u16::MAX },
            maximum_packet_size: if v5 { maximum_packet_size.max(1) as usize } else { usize::MAX },
            topic_alias_maximum: if v5 { topic_alias_maximum } else { 0 },
            problem_information: asked.filter(|_| v5),
            has_authentication_method: method && v5,
            will,
            password: password.filter(|_| v5 || username.is_some()).map(Bytes::from),
            username,
        }
    }
}

proptest! {
    #[test]
    fn written_is_read_again(connect in any_connect()) {
        let body = write(&connect);
        prop_assert_eq!(&Connect::parse(&frame(&body)).unwrap(), &connect);
        // Whatever ends too soon is refused, but for the login of 3.1, which may be left out.
        let needed = body.len() - match connect.version {
            Version::V31 => connect.username.as_ref().map_or(0, |name| 2 + name.len())
                + connect.password.as_ref().map_or(0, |password| 2 + password.len()),
            _ => 0,
        };
        for length in 0..needed {
            prop_assert!(Connect::parse(&frame(&body[..length])).is_err(), "{} of {}", length, body.len());
        }
    }
}
