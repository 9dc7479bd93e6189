//! CONNECT, CONNACK, and how connections end.

use std::time::Duration;

use gatepost::broker::StartError;
use gatepost::config;
use gatepost::qos::Qos;

use crate::client::*;

#[tokio::test]
async fn both_versions_share_a_port() {
    let broker = broker().await;
    let mut v3 = Client::connect(&broker, &Connect::v3("three")).await;
    let mut v5 = Client::connect(&broker, &Connect::v5("five")).await;
    assert_eq!(v3.subscribe(1, "a/b", 0).await, 0);
    v5.publish(0, 0, "a/b", b"hello").await;
    assert_eq!(v3.recv_publish().await.payload, b"hello");
    assert_eq!(broker.stats().connected.get(), 2);
}

#[tokio::test]
async fn refusals_have_the_codes_of_the_version() {
    let strict = config::Broker { allow_empty_client_id: false, max_qos: Qos::AtLeastOnce, ..settings() };
    let broker = start(strict).await;
    let will = Will { topic: "t", payload: b"", qos: 2, retain: false, properties: vec![] };
    let table = [
        (Connect::v3(""), vec![0, 2]),
        (Connect::v5(""), vec![0, 0x85]),
        (Connect { will: Some(will), ..Connect::v5("w") }, vec![0, 0x9B]),
        (Connect { properties: vec![0x15, 0, 1, b'x'], ..Connect::v5("a") }, vec![0, 0x8C]),
    ];
    for (connect, codes) in table {
        let (mut client, connack) = Client::connack(&broker, &connect).await;
        assert_eq!(connack.1[..2], codes, "{connect:?}");
        assert_eq!(client.next().await, None);
    }
    assert_eq!((broker.stats().refused.get(), broker.stats().connections.get()), (4, 0));
}

#[tokio::test]
async fn unknown_protocols_are_refused() {
    let broker = broker().await;
    let refusals: [(&[u8], Option<Packet>); 7] = [
        (b"\x10\x0F\0\x06MQIsdp\x04\x02\0\0\0\x01a", Some(Packet(0x20, vec![0, 1]))),
        (b"\x10\x0E\0\x06MQIsdp\x03\x02\0\0\0\0", Some(Packet(0x20, vec![0, 2]))),
        (b"\x10\x0E\0\x04MQTT\x06\x02\0\0\0\0\x01a", Some(Packet(0x20, vec![0, 1]))),
        (b"\x10\x0E\0\x04MQTT\x05\x82\0\0\0\0\x01a", None),
        (b"\x10\x0D\0\x04MQXX\x04\x02\0\0\0\x01a", None),
        (b"GET / HTTP/1.1\r\n\r\n", None),
        (b"\x82\x06\0\x01\0\x01a\0", None),
    ];
    for (bytes, answer) in refusals {
        let mut client = Client::open(broker.local_addrs()[0]).await;
        client.send(bytes).await;
        assert_eq!(client.next().await, answer, "{bytes:?}");
        if answer.is_some() {
            assert_eq!(client.next().await, None);
        }
    }
}

#[tokio::test]
async fn mqtt_3_1_is_served() {
    let broker = broker().await;
    let mut client = Client::open(broker.local_addrs()[0]).await;
    client.send(b"\x10\x0F\0\x06MQIsdp\x03\x02\0\0\0\x01a").await;
    assert_eq!(client.recv().await, Packet(0x20, vec![0, 0]));
    // With the DUP flag, which 3.1 allows there.
    client.send(b"\x8A\x06\0\x01\0\x01t\x01").await;
    assert_eq!(client.recv().await, Packet(0x90, vec![0, 1, 1]));
    client.publish(2, 7, "t", b"x").await;
    let packets = [client.recv().await, client.recv().await];
    assert!(
        packets.contains(&Packet(0x40, vec![0, 7])) && packets.iter().any(|packet| packet.kind() == 3),
        "{packets:?}"
    );
}

/// mosquitto's bridges set bit 7 of the protocol level, and count on not getting back what they send.
#[tokio::test]
async fn a_bridge_hears_others_with_their_retain_flag_and_not_itself() {
    let broker = broker().await;
    let mut bridge = Client::open(broker.local_addrs()[0]).await;
    bridge.send(b"\x10\x0D\0\x04MQTT\x84\x02\0\0\0\x01b").await;
    assert_eq!(bridge.recv().await, Packet(0x20, vec![0, 0]));
    assert_eq!(bridge.subscribe(1, "t", 0).await, 0);
    bridge.publish(0, 0, "t", b"own").await;
    let mut other = Client::connect(&broker, &Connect::v5("other")).await;
    other.publish(1, 0, "t", b"kept").await;
    let heard = bridge.recv_publish().await;
    assert_eq!((&heard.payload[..], heard.retain), (&b"kept"[..], true));
}

/// A client that asks gets the reason in words, one that forbids it does not.
#[tokio::test]
async fn reasons_in_words_are_for_who_may_have_them() {
    let broker = broker().await;
    for (asked, in_words) in [(vec![0x17, 1], true), (vec![0x17, 0], false), (vec![], false)] {
        let mut client = Client::connect(&broker, &Connect { properties: asked, ..Connect::v5("c") }).await;
        client.send(&packet(0x30, b"\0\x01#\0")).await;
        let Packet(first, body) = client.recv().await;
        assert_eq!((first, body[0], body.len() > 1), (0xE0, 0x81, in_words));
    }
    // Nothing is sent that is larger than the client takes.
    let tiny = Connect { properties: vec![0x27, 0, 0, 0, 4], ..Connect::v5("c") };
    let mut client = Client::open(broker.local_addrs()[0]).await;
    client.send(&tiny.bytes()).await;
    assert_eq!(client.next().await, None);
}

/// An acknowledgement of another kind than the message calls for.
#[tokio::test]
async fn the_wrong_acknowledgement_is_a_protocol_error() {
    let broker = broker().await;
    let mut publisher = Client::connect(&broker, &Connect::v5("publisher")).await;
    for (qos, answers) in [(1, &[0x50][..]), (1, &[0x70]), (2, &[0x40]), (2, &[0x70]), (2, &[0x50, 0x40])] {
        let mut client = Client::connect(&broker, &Connect::v5("c")).await;
        client.subscribe(1, "t", qos).await;
        publisher.publish(qos << 1, 5, "t", b"x").await;
        let id = client.recv_publish().await.id;
        for &answer in answers {
            client.ack(answer, id).await;
            if answer == 0x50 && qos == 2 {
                assert_eq!(client.recv().await, Packet(0x62, id.to_be_bytes().to_vec()));
            }
        }
        client.expect_end(0x82).await;
        publisher.recv().await;
        if qos == 2 {
            publisher.ack(0x62, 5).await;
            publisher.recv().await;
        }
    }
}

#[tokio::test]
async fn anonymous_clients_need_a_listener_that_allows_them() {
    let closed = config::Listener { allow_anonymous: false, ..listener("127.0.0.1:0") };
    let broker = start(config::Broker { listeners: vec![closed], ..settings() }).await;
    assert_eq!(Client::connack(&broker, &Connect::v3("a")).await.1.1, [0, 5]);
    assert_eq!(Client::connack(&broker, &Connect::v5("a")).await.1.1, [0, 0x87, 0]);
    // More than the code is not told, whatever is asked.
    let curious = Connect { properties: vec![0x17, 1], ..Connect::v5("a") };
    let told = Client::connack(&broker, &curious).await.1.1;
    assert_eq!(told, [&[0, 0x87, 17, 0x1F][..], &string("not authorized")].concat());
}

#[tokio::test]
async fn connack_tells_what_is_offered() {
    let limits = config::Broker {
        max_qos: Qos::AtLeastOnce,
        retained: false,
        max_keepalive: Some(Duration::from_secs(30)),
        session_expiry_limit: Duration::from_secs(60),
        max_packet_size: 5000,
        ..settings()
    };
    let broker = start(limits).await;
    let connect = Connect { properties: vec![0x11, 0, 0, 1, 0], ..Connect::v5("") };
    let (_client, connack) = Client::connack(&broker, &connect).await;
    let has = |property: &[u8]| connack.1.windows(property.len()).any(|window| window == property);
    assert!(has(&[0x24, 1]) && has(&[0x25, 0]) && !has(&[0x2A, 0]) && has(&[0x13, 0, 30]), "{connack:?}");
    assert!(has(&[0x11, 0, 0, 0, 60]) && has(&[0x27, 0, 0, 0x13, 0x88]) && has(b"\x12\0\x29auto-"), "{connack:?}");
}

#[tokio::test]
async fn a_second_connection_takes_over() {
    let broker = broker().await;
    for connect in [Connect::v3("same"), Connect::v5("same")] {
        let mut first = Client::connect(&broker, &connect).await;
        let mut second = Client::connect(&broker, &connect).await;
        first.expect_end(0x8E).await;
        second.ping().await;
        second.disconnect().await;
    }
}

#[tokio::test]
async fn silence_ends_the_connection_and_keep_alive_0_does_not() {
    let broker = broker().await;
    let mut silent = Client::connect(&broker, &Connect { keep_alive: 1, ..Connect::v5("silent") }).await;
    let mut patient = Client::connect(&broker, &Connect::v5("patient")).await;
    let started = tokio::time::Instant::now();
    silent.expect_end(0x8D).await;
    assert!(started.elapsed() >= Duration::from_millis(1500));
    patient.ping().await;
}

#[tokio::test]
async fn connections_above_the_limit_are_closed_and_counted() {
    let broker = start(config::Broker { max_connections: 1, ..settings() }).await;
    let mut first = Client::connect(&broker, &Connect::v3("1")).await;
    let mut second = Client::open(broker.local_addrs()[0]).await;
    assert_eq!(second.next().await, None);
    assert_eq!(broker.stats().over_limit.get(), 1);
    first.ping().await;
}

#[tokio::test]
async fn a_taken_port_says_who_may_be_there() {
    let first = broker().await;
    let address = first.local_addrs()[0].to_string();
    let taken = config::Broker { listeners: vec![listener(&address)], ..settings() };
    let error = gatepost::broker::Broker::start(&taken).await.unwrap_err();
    assert!(matches!(error, StartError::InUse { .. }));
    let text = error.to_string();
    assert!(text.contains(&address) && text.contains("mosquitto") && text.contains("ss -ltnp"), "{text}");
}

#[tokio::test]
async fn stopping_says_goodbye() {
    let broker = broker().await;
    let mut v5 = Client::connect(&broker, &Connect::v5("5").kept()).await;
    let mut v3 = Client::connect(&broker, &Connect::v3("3")).await;
    let address = broker.local_addrs()[0];
    let goodbye = async {
        v5.expect_end(0x8B).await;
        v3.expect_end(0).await;
        drop((v5, v3));
    };
    let (done, ()) = tokio::join!(broker.stop(PATIENCE), goodbye);
    assert!(done);
    assert!(tokio::net::TcpStream::connect(address).await.is_err(), "nobody listens any more");
}
