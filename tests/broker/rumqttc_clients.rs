//! A client library that people use, in both versions.

use std::time::Duration;

use gatepost::broker::Broker;

use crate::client::*;
use crate::tls;

#[tokio::test]
async fn version_4() {
    use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
    let broker = broker().await;
    let options = options(&broker, |host, port| MqttOptions::new("rumqttc4", host, port));
    let (client, mut events) = AsyncClient::new(options, 10);
    client.subscribe("smarthome/+/office", QoS::ExactlyOnce).await.unwrap();
    let mut got = Vec::new();
    while got.len() < 3 {
        match tokio::time::timeout(PATIENCE, events.poll()).await.unwrap().unwrap() {
            Event::Incoming(Packet::SubAck(_)) => {
                for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
                    client.publish("smarthome/lights/office", qos, false, format!("{qos:?}")).await.unwrap();
                }
            }
            Event::Incoming(Packet::Publish(publish)) => got.push((format!("{:?}", publish.qos), publish.payload)),
            _ => {}
        }
    }
    for (qos, payload) in got {
        assert_eq!(qos.as_bytes(), payload);
    }
}

#[tokio::test]
async fn version_5() {
    use rumqttc::v5::mqttbytes::QoS;
    use rumqttc::v5::mqttbytes::v5::{Packet, PublishProperties};
    use rumqttc::v5::{AsyncClient, Event, MqttOptions};
    let broker = broker().await;
    let options = options(&broker, |host, port| MqttOptions::new("rumqttc5", host, port));
    let (client, mut events) = AsyncClient::new(options, 10);
    client.subscribe("t/#", QoS::ExactlyOnce).await.unwrap();
    let properties = PublishProperties {
        user_properties: vec![("unit".into(), "°C".into())],
        content_type: Some("text/plain".into()),
        ..PublishProperties::default()
    };
    let mut got = Vec::new();
    while got.len() < 3 {
        match tokio::time::timeout(PATIENCE, events.poll()).await.unwrap().unwrap() {
            Event::Incoming(Packet::SubAck(_)) => {
                for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
                    let payload = format!("{qos:?}");
                    client.publish_with_properties("t/1", qos, false, payload, properties.clone()).await.unwrap();
                }
            }
            Event::Incoming(Packet::Publish(publish)) => got.push(publish),
            _ => {}
        }
    }
    for publish in got {
        assert_eq!(format!("{:?}", publish.qos).as_bytes(), publish.payload);
        let received = publish.properties.unwrap();
        assert_eq!(received.user_properties, properties.user_properties);
        assert_eq!(received.content_type, properties.content_type);
    }
}

fn options<T>(broker: &Broker, new: impl FnOnce(String, u16) -> T) -> T {
    let address = broker.local_addrs()[0];
    new(address.ip().to_string(), address.port())
}

/// The keep-alive of a real client keeps it alive.
#[tokio::test]
async fn pings_count_as_life() {
    use rumqttc::{AsyncClient, Event, MqttOptions, Outgoing};
    let broker = broker().await;
    let mut options = options(&broker, |host, port| MqttOptions::new("pinger", host, port));
    options.set_keep_alive(Duration::from_secs(1));
    let (_client, mut events) = AsyncClient::new(options, 10);
    let mut pings = 0;
    while pings < 3 {
        if let Event::Outgoing(Outgoing::PingReq) =
            tokio::time::timeout(PATIENCE, events.poll()).await.unwrap().unwrap()
        {
            pings += 1;
        }
    }
}

#[tokio::test]
async fn both_versions_come_over_tls() {
    use rumqttc::{TlsConfiguration, Transport};
    let listeners = vec![tls::tls_listener(tls::for_users(), false)];
    let broker = start(gatepost::config::Broker { listeners, ..settings() }).await;
    let transport = || {
        let config = tls::client_config(Some("client"), rustls::ALL_VERSIONS);
        Transport::tls_with_config(TlsConfiguration::Rustls(config))
    };

    let mut v4 = options(&broker, |host, port| rumqttc::MqttOptions::new("rumqttc4", host, port));
    v4.set_transport(transport());
    let (client, mut events) = rumqttc::AsyncClient::new(v4, 10);
    client.subscribe("t/#", rumqttc::QoS::ExactlyOnce).await.unwrap();
    let wait_for_suback = async {
        use rumqttc::{Event, Packet};
        while !matches!(events.poll().await.unwrap(), Event::Incoming(Packet::SubAck(_))) {}
    };
    tokio::time::timeout(PATIENCE, wait_for_suback).await.unwrap();

    let mut v5 = options(&broker, |host, port| rumqttc::v5::MqttOptions::new("rumqttc5", host, port));
    v5.set_transport(transport());
    let (publisher, mut sent) = rumqttc::v5::AsyncClient::new(v5, 10);
    publisher.publish("t/1", rumqttc::v5::mqttbytes::QoS::ExactlyOnce, false, "hello").await.unwrap();
    let arrival = async {
        loop {
            tokio::select! {
                event = events.poll() => if let rumqttc::Event::Incoming(rumqttc::Packet::Publish(publish)) = event.unwrap() {
                    return publish;
                },
                event = sent.poll() => drop(event.unwrap()),
            }
        }
    };
    let publish = tokio::time::timeout(PATIENCE, arrival).await.unwrap();
    assert_eq!((&*publish.topic, &publish.payload[..]), ("t/1", &b"hello"[..]));
}
