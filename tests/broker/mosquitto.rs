//! Where MQTT leaves a choice, the broker does what mosquitto does: clients, and tests of clients, count on it.

use std::time::Duration;

use gatepost::config;
use gatepost::qos::Qos;

use crate::client::*;

#[tokio::test]
async fn without_settings_the_connack_is_the_same_byte_for_byte() {
    let broker = broker().await;
    let (_client, connack) = Client::connack(&broker, &Connect::v5("c")).await;
    assert_eq!(connack.1, [0, 0, 6, 0x22, 0, 10, 0x21, 0, 20]);
}

#[tokio::test]
async fn settings_stand_in_the_connack_in_the_same_order() {
    let limits = config::Broker {
        max_inflight: 1,
        max_qos: Qos::AtLeastOnce,
        retained: false,
        max_keepalive: Some(Duration::from_secs(30)),
        max_packet_size: 40,
        ..settings()
    };
    let broker = start(limits).await;
    let (_client, connack) = Client::connack(&broker, &Connect::v5("c")).await;
    let expected = [0x13, 0, 30, 0x22, 0, 10, 0x25, 0, 0x27, 0, 0, 0, 40, 0x21, 0, 1, 0x24, 1];
    assert_eq!(connack.1, [&[0, 0, 18][..], &expected].concat());
}

#[tokio::test]
async fn an_assigned_client_id_is_a_uuid() {
    let broker = broker().await;
    let (_client, connack) = Client::connack(&broker, &Connect::v5("")).await;
    let id = std::str::from_utf8(&connack.1[9..50]).unwrap();
    let lengths: Vec<usize> = id.split('-').map(str::len).collect();
    assert_eq!((lengths, &id[..5]), (vec![4, 8, 4, 4, 4, 12], "auto-"));
    assert!(id[19..].starts_with('4') && "89ab".contains(&id[24..25]), "version and variant of {id}");
}

#[tokio::test]
async fn a_broken_connect_is_closed_without_an_answer() {
    let broker = broker().await;
    let will = |topic| Some(Will { topic, payload: b"", qos: 0, retain: false, properties: vec![] });
    let deep: &'static str = "/".repeat(201).leak();
    for connect in [Connect::v3("c"), Connect::v5("c")] {
        for topic in ["", "a/#", "$CONTROL/dynamic-security/v1", deep] {
            let mut client = Client::open(broker.local_addrs()[0]).await;
            client.send(&Connect { will: will(topic), ..connect.clone() }.bytes()).await;
            assert_eq!(client.next().await, None, "{topic:?}");
        }
    }
}

#[tokio::test]
async fn a_will_that_is_not_to_be_had_is_not_authorized_in_mqtt_3() {
    let broker = start(config::Broker { max_payload_size: 2, ..settings() }).await;
    let will = Will { topic: "t", payload: b"big", qos: 0, retain: false, properties: vec![] };
    let v3 = Connect { will: Some(will.clone()), ..Connect::v3("c") };
    assert_eq!(Client::connack(&broker, &v3).await.1.1, [0, 5]);
    let v5 = Connect { will: Some(will), ..Connect::v5("c") };
    assert_eq!(Client::connack(&broker, &v5).await.1.1, [0, 0x95, 0]);
}

#[tokio::test]
async fn a_client_that_cannot_take_the_connack_is_refused() {
    let broker = broker().await;
    for (limit, code) in [(4, None), (5, Some(0x95)), (10, Some(0x95)), (11, Some(0))] {
        let mut client = Client::open(broker.local_addrs()[0]).await;
        client.send(&Connect { properties: vec![0x27, 0, 0, 0, limit], ..Connect::v5("c") }.bytes()).await;
        assert_eq!(client.next().await.map(|connack| connack.1[1]), code, "{limit}");
    }
}

#[tokio::test]
async fn no_filter_ends_the_connection() {
    let broker = broker().await;
    for filter in ["a#", "a/#/b", "+a", ""] {
        for connect in [Connect::v3("c"), Connect::v5("c")] {
            let properties: &[u8] = if connect.v5 { &[0] } else { &[] };
            for (first, options) in [(0x82, &[0][..]), (0xA2, &[])] {
                let mut client = Client::connect(&broker, &connect).await;
                client.send(&packet(first, &[&[0, 1], properties, &string(filter), options].concat())).await;
                client.expect_end(0x81).await;
            }
        }
    }
}

#[tokio::test]
async fn broken_packets_have_the_same_codes() {
    let broker = broker().await;
    let table: [(&str, u8, &[u8], u8); 9] = [
        ("another packet's property in PUBLISH", 0x30, b"\0\x01t\x02\x24\x01", 0x82),
        ("another packet's property in PUBACK", 0x40, b"\0\x01\0\x02\x24\x01", 0x82),
        ("another packet's property in SUBSCRIBE", 0x82, b"\0\x01\x02\x24\x01\0\x01t\0", 0x81),
        ("another packet's property in UNSUBSCRIBE", 0xA2, b"\0\x01\x02\x24\x01\0\x01t", 0x81),
        ("subscription identifier 0", 0x82, b"\0\x01\x02\x0B\0\0\x01t\0", 0x81),
        ("SUBSCRIBE with packet identifier 0", 0x82, b"\0\0\0\0\x01t\0", 0x81),
        ("PUBREL with packet identifier 0", 0x62, b"\0\0", 0x82),
        ("PUBLISH without topic or alias", 0x30, b"\0\0\0", 0x81),
        ("flags in SUBACK", 0x91, b"\0\x01\0\0", 0x81),
    ];
    for (name, first, body, code) in table {
        let mut client = Client::connect(&broker, &Connect::v5("c")).await;
        client.send(&packet(first, body)).await;
        assert_eq!(client.next().await, Some(Packet(0xE0, vec![code])), "{name}");
    }
}

#[tokio::test]
async fn a_publisher_learns_that_nobody_subscribes() {
    let broker = broker().await;
    let mut v5 = Client::connect(&broker, &Connect::v5("5")).await;
    for (flags, topic) in [(2, "a"), (3, "a/b"), (2, "$SYS/broker/connection/me/state")] {
        v5.publish(flags, 7, topic, b"x").await;
        assert_eq!(v5.recv().await, Packet(0x40, vec![0, 7, 0x10]), "{topic}");
    }
    let mut v3 = Client::connect(&broker, &Connect::v3("3")).await;
    v3.publish(2, 7, "a", b"x").await;
    assert_eq!(v3.recv().await, Packet(0x40, vec![0, 7]));
    v3.subscribe(1, "a", 0).await;
    v5.publish(2, 7, "a", b"x").await;
    assert_eq!(v5.recv().await, Packet(0x40, vec![0, 7]));
}

#[tokio::test]
async fn topics_of_the_broker_are_not_published_to() {
    let broker = broker().await;
    let mut client = Client::connect(&broker, &Connect::v5("c")).await;
    for topic in ["$SYS/broker/uptime", "$SYS/broker/connection/me", "$SYS/broker/connection/a/b/state", "$share/g/t"] {
        client.publish(2, 7, topic, b"x").await;
        assert_eq!(client.recv().await, Packet(0x40, vec![0, 7, 0x87]), "{topic}");
    }
}

#[tokio::test]
async fn topics_have_at_most_201_levels() {
    let broker = broker().await;
    let (deep, deeper) = ("/".repeat(200), "/".repeat(201));
    for connect in [Connect::v3("c"), Connect::v5("c")] {
        let mut client = Client::connect(&broker, &connect).await;
        assert_eq!(client.subscribe(1, &deep, 0).await, 0);
        client.publish(0, 0, &deep, b"x").await;
        assert_eq!(client.payload().await, b"x");
        client.publish(0, 0, &deeper, b"x").await;
        client.expect_end(0x81).await;

        let mut client = Client::connect(&broker, &connect).await;
        let properties: &[u8] = if connect.v5 { &[0] } else { &[] };
        client.send(&packet(0x82, &[&[0, 1][..], properties, &string(&deeper), &[0]].concat())).await;
        client.expect_end(0x81).await;
    }
}

#[tokio::test]
async fn what_makes_libmosquitto_close_its_connection_is_malformed() {
    let broker = broker().await;
    for text in ["a\tb", "\u{1b}[2J", "\u{7f}", "\u{85}", "\u{fdd0}", "\u{ffff}", "\u{1fffe}"] {
        for connect in [Connect::v3("c"), Connect::v5("c")] {
            let properties: &[u8] = if connect.v5 { &[0] } else { &[] };
            let subscribe = |filter: &str| packet(0x82, &[&[0, 1], properties, &string(filter), &[0]].concat());
            let publish = packet(0x30, &[&string(text), properties, b"x"].concat());
            let shared = [format!("$share/{text}/a"), format!("$share/a/{text}")].map(|filter| subscribe(&filter));
            for packet in [publish, subscribe(text)].into_iter().chain(shared) {
                let mut client = Client::connect(&broker, &connect).await;
                client.send(&packet).await;
                client.expect_end(0x81).await;
            }
            let topic: &'static str = text.to_owned().leak();
            let will = Some(Will { topic, payload: b"", qos: 0, retain: false, properties: vec![] });
            for wrong in [Connect { will, ..connect.clone() }, Connect { id: topic, ..connect.clone() }] {
                let mut client = Client::open(broker.local_addrs()[0]).await;
                client.send(&wrong.bytes()).await;
                assert_eq!(client.next().await, None, "{text:?}");
            }
        }
        let pair = |key: &str, value: &str| [&[0x26][..], &string(key), &string(value)].concat();
        let others = [&[3][..], &[8]].map(|id| [id, &string(text)].concat());
        for properties in [pair(text, "v"), pair("k", text)].into_iter().chain(others) {
            let mut client = Client::connect(&broker, &Connect::v5("c")).await;
            client.publish_with(0, 0, "t", &properties, b"x").await;
            client.expect_end(0x81).await;
            let will = Will { topic: "t", payload: b"", qos: 0, retain: false, properties };
            let mut client = Client::open(broker.local_addrs()[0]).await;
            client.send(&Connect { will: Some(will), ..Connect::v5("c") }.bytes()).await;
            assert_eq!(client.next().await, None, "{text:?}");
        }
        // mosquitto takes no such string anywhere; one that nobody else is sent does no harm.
        let connect = Connect { properties: pair(text, text), ..Connect::v5("c") };
        Client::connect(&broker, &connect).await.ping().await;
    }
}

#[tokio::test]
async fn a_qos_2_message_may_come_twice_on_one_connection() {
    let broker = broker().await;
    for connect in [Connect::v3("c").kept(), Connect::v5("c").kept()] {
        let mut client = Client::connect(&broker, &connect).await;
        for flags in [4, 12] {
            client.publish(flags, 1, "t", b"x").await;
            assert_eq!(client.recv().await, Packet(0x50, vec![0, 1]));
        }
        client.publish(12, 1, "t", b"x").await;
        client.expect_end(0x82).await;
        let mut client = Client::connect(&broker, &connect).await;
        client.publish(12, 1, "t", b"x").await;
        assert_eq!(client.recv().await, Packet(0x50, vec![0, 1]), "a new connection is a new chance");
        client.ack(0x62, 1).await;
        assert_eq!(client.recv().await.0, 0x70);
    }
}

#[tokio::test]
async fn the_wrong_acknowledgement_ends_the_connection() {
    let broker = broker().await;
    let mut publisher = Client::connect(&broker, &Connect::v3("publisher")).await;
    for connect in [Connect::v3("c"), Connect::v5("c")] {
        for (flags, wrong) in [(2, 0x50), (2, 0x70), (4, 0x40), (4, 0x70)] {
            let mut client = Client::connect(&broker, &connect).await;
            client.subscribe(1, "t", 2).await;
            publisher.publish(flags, 9, "t", b"x").await;
            publisher.recv().await;
            let id = client.recv_publish().await.id;
            client.ack(wrong, id).await;
            client.expect_end(0x82).await;
            if flags == 4 {
                publisher.ack(0x62, 9).await;
                publisher.recv().await;
            }
        }
    }
}

#[tokio::test]
async fn a_message_that_is_not_sent_uses_up_its_identifier() {
    let broker = broker().await;
    let small = Connect { properties: vec![0x27, 0, 0, 0, 30], ..Connect::v5("c") };
    let mut client = Client::connect(&broker, &small).await;
    client.subscribe(1, "t", 1).await;
    let mut publisher = Client::connect(&broker, &Connect::v5("p")).await;
    publisher.publish_acked("t", &[b'x'; 30]).await;
    publisher.publish_acked("t", b"small").await;
    assert_eq!(client.recv_publish().await.id, 2);

    let mut kept = Client::connect(&broker, &Connect::v5("k").kept()).await;
    kept.subscribe(1, "e", 1).await;
    drop(kept);
    publisher.publish_with(2, 1, "e", &[2, 0, 0, 0, 1], b"short-lived").await;
    publisher.recv().await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    publisher.publish_acked("e", b"long-lived").await;
    let mut kept = Client::connect(&broker, &Connect::v5("k").kept()).await;
    let publish = kept.recv_publish().await;
    assert_eq!((publish.id, &publish.payload[..]), (2, &b"long-lived"[..]));
}

/// [MQTT-3.1.2-6]: a session that was to end with its connection is not resumed by the client that takes over.
#[tokio::test]
async fn a_clean_session_is_not_taken_over() {
    let broker = broker().await;
    let mut watcher = Client::connect(&broker, &Connect::v3("watcher")).await;
    watcher.subscribe(1, "will", 0).await;
    for (first, second) in [(Connect::v3("c"), Connect::v3("c").kept()), (Connect::v5("c"), Connect::v5("c").kept())] {
        let will = Will { topic: "will", payload: b"gone", qos: 0, retain: false, properties: vec![] };
        let mut old = Client::connect(&broker, &Connect { will: Some(will), ..first }).await;
        old.subscribe(1, "t", 0).await;
        let (mut new, present) = Client::connect_as(&broker, &second).await;
        assert!(!present);
        assert_eq!(watcher.payload().await, b"gone");
        new.publish(0, 0, "t", b"x").await;
        new.ping().await;
        new.disconnect().await;
    }
}

#[tokio::test]
async fn whoever_comes_as_others_go_is_let_in() {
    let broker = start(config::Broker { max_connections: 3, ..settings() }).await;
    for _ in 0..5 {
        let mut clients = Vec::new();
        for id in ["1", "2", "3"] {
            clients.push(Client::connect(&broker, &Connect::v5(id)).await);
        }
    }
    assert_eq!(broker.stats().over_limit.get(), 0);
}
