//! Wills.

use gatepost::broker::Broker;

use crate::client::*;

fn with_will(connect: Connect, properties: Vec<u8>) -> Connect {
    Connect { will: Some(Will { topic: "will", payload: b"gone", qos: 1, retain: true, properties }), ..connect }
}

#[tokio::test]
async fn a_lost_client_leaves_its_will_and_a_polite_one_does_not() {
    let broker = broker().await;
    let mut watcher = Client::connect(&broker, &Connect::v5("watcher")).await;
    watcher.subscribe(1, "will", 9).await;
    for connect in [Connect::v3("c"), Connect::v5("c")] {
        let mut polite = Client::connect(&broker, &with_will(connect.clone(), vec![])).await;
        polite.disconnect().await;
        watcher.expect_nothing().await;
        drop(Client::connect(&broker, &with_will(connect, vec![])).await);
        let publish = watcher.recv_publish().await;
        watcher.ack(0x40, publish.id).await;
        assert_eq!((publish.qos, publish.retain, &publish.payload[..]), (1, true, &b"gone"[..]));
    }
}

#[tokio::test]
async fn disconnect_can_ask_for_the_will() {
    let broker = broker().await;
    let mut watcher = Client::connect(&broker, &Connect::v3("watcher")).await;
    watcher.subscribe(1, "will", 0).await;
    let mut client = Client::connect(&broker, &with_will(Connect::v5("c"), vec![3, 0, 1, b'x'])).await;
    client.send(&[0xE0, 1, 4]).await;
    assert_eq!(watcher.payload().await, b"gone");
}

#[tokio::test]
async fn a_client_that_comes_back_in_time_takes_its_will_back() {
    let broker = broker().await;
    let mut watcher = Client::connect(&broker, &Connect::v3("watcher")).await;
    watcher.subscribe(1, "will", 0).await;
    let delayed = with_will(Connect::v5("c").kept(), vec![0x18, 0, 0, 0, 1]);
    drop(Client::connect(&broker, &delayed).await);
    let mut client = Client::connect(&broker, &delayed).await;
    client.disconnect().await;
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    watcher.expect_nothing().await;
    drop(Client::connect(&broker, &delayed).await);
    let dropped = tokio::time::Instant::now();
    assert_eq!(watcher.payload().await, b"gone");
    assert!(dropped.elapsed().as_millis() >= 900);
}

#[tokio::test]
async fn a_delayed_will_comes_at_the_end_of_the_session() {
    let broker = broker().await;
    let mut watcher = Client::connect(&broker, &Connect::v3("watcher")).await;
    watcher.subscribe(1, "will", 0).await;
    // The session ends with the connection.
    drop(Client::connect(&broker, &with_will(Connect::v5("c"), vec![0x18, 0, 0, 1, 0])).await);
    assert_eq!(watcher.payload().await, b"gone");
    // The session is ended by a clean start.
    let delayed = with_will(Connect::v5("c").kept(), vec![0x18, 0, 0, 1, 0]);
    drop(Client::connect(&broker, &delayed).await);
    watcher.expect_nothing().await;
    let _client = Client::connect(&broker, &Connect::v5("c")).await;
    assert_eq!(watcher.payload().await, b"gone");
}

#[tokio::test]
async fn takeover_and_protocol_errors_leave_the_will() {
    let broker = broker().await;
    let mut watcher = Client::connect(&broker, &Connect::v3("watcher")).await;
    watcher.subscribe(1, "will", 0).await;
    let mut first = Client::connect(&broker, &with_will(Connect::v3("c"), vec![])).await;
    let mut second = Client::connect(&broker, &with_will(Connect::v5("c"), vec![])).await;
    first.expect_end(0).await;
    assert_eq!(watcher.payload().await, b"gone");
    second.send(&[0x36, 0]).await;
    second.expect_end(0x81).await;
    assert_eq!(watcher.payload().await, b"gone");
}

#[tokio::test]
async fn wills_are_published_when_the_gateway_stops() {
    let broker = broker().await;
    let local = broker.client();
    let mut watcher = local
        .subscribe(vec![(gatepost::topic::TopicFilter::new("will").unwrap(), gatepost::qos::Qos::AtMostOnce)])
        .await
        .unwrap();
    let client = Client::connect(&broker, &with_will(Connect::v5("c").kept(), vec![0x18, 0, 0, 1, 0])).await;
    let stopped = tokio::spawn(async move { broker.stop(PATIENCE).await });
    let delivery = tokio::time::timeout(PATIENCE, watcher.recv()).await.unwrap().unwrap();
    assert_eq!(&delivery.payload[..], b"gone");
    drop(client);
    assert!(stopped.await.unwrap());
}

/// What a device does that says `online` as soon as it is there, and leaves `offline` behind.
fn status(connect: Connect, delay: Option<u8>) -> Connect {
    let properties = delay.map_or(vec![], |seconds| vec![0x18, 0, 0, 0, seconds]);
    Connect { will: Some(Will { topic: "status", payload: b"offline", qos: 1, retain: true, properties }), ..connect }
}

/// CONNECT, and behind it in the same write a retained `online`.
async fn come(broker: &Broker, connect: &Connect) -> Client {
    let mut client = Client::open(broker.local_addrs()[0]).await;
    let properties: &[u8] = if connect.v5 { &[0] } else { &[] };
    let online = packet(0x31, &[&string("status"), properties, b"online"].concat());
    client.send(&[connect.bytes(), online].concat()).await;
    client
}

/// What is retained now.
async fn retained(broker: &Broker) -> Vec<u8> {
    let mut late = Client::connect(broker, &Connect::v3("late")).await;
    late.subscribe(1, "status", 0).await;
    late.payload().await
}

#[tokio::test]
async fn the_will_of_a_taken_over_connection_comes_before_anything_of_the_new_one() {
    const TAKEOVERS: usize = 25;
    let expiring = |connect: Connect| Connect { properties: Connect::v5("").kept().properties, ..connect };
    let table = [
        ("MQTT 3", status(Connect::v3("c"), None), true),
        ("MQTT 3, kept", status(Connect::v3("c").kept(), None), true),
        ("MQTT 5", status(Connect::v5("c"), None), true),
        ("the session goes on", status(Connect::v5("c").kept(), None), true),
        ("a clean start ends the delay", status(expiring(Connect::v5("c")), Some(100)), true),
        ("so does the end of the session", status(Connect::v5("c"), Some(100)), true),
        ("the will is taken back", status(Connect::v5("c").kept(), Some(100)), false),
    ];
    for (name, connect, has_will) in table {
        for is_lost in [false, true] {
            let broker = broker().await;
            let mut watcher = Client::connect(&broker, &Connect::v3("watcher")).await;
            watcher.subscribe(1, "status", 0).await;
            let mut client = come(&broker, &connect).await;
            assert_eq!(watcher.payload().await, b"online", "{name}");
            for n in 0..TAKEOVERS {
                // Lost at the same moment: whichever the broker sees first.
                let old = if is_lost {
                    drop(client);
                    None
                } else {
                    Some(client)
                };
                client = come(&broker, &connect).await;
                if has_will {
                    assert_eq!(watcher.payload().await, b"offline", "{name}, takeover {n}");
                }
                assert_eq!(watcher.payload().await, b"online", "{name}, takeover {n}");
                drop(old);
            }
            assert_eq!(retained(&broker).await, b"online", "{name}");
        }
    }
}

#[tokio::test]
async fn connections_that_take_over_from_each_other_leave_their_wills_in_order() {
    const CONNECTIONS: usize = 4;
    let broker = broker().await;
    let mut watcher = Client::connect(&broker, &Connect::v3("watcher")).await;
    watcher.subscribe(1, "status", 0).await;
    for round in 0..25 {
        let mut clients = Vec::new();
        for _ in 0..CONNECTIONS {
            clients.push(come(&broker, &status(Connect::v3("c"), None)).await);
        }
        for n in 0..CONNECTIONS {
            if round + n > 0 {
                assert_eq!(watcher.payload().await, b"offline", "round {round}, connection {n}");
            }
            assert_eq!(watcher.payload().await, b"online", "round {round}, connection {n}");
        }
        assert_eq!(retained(&broker).await, b"online");
    }
}

/// Nobody reads what the old connection publishes: there is no room for its will either.
#[tokio::test]
async fn a_will_that_waits_for_room_comes_first_all_the_same() {
    let broker = broker().await;
    let filter = gatepost::topic::TopicFilter::new("status").unwrap();
    let mut reader = broker.client().subscribe(vec![(filter, gatepost::qos::Qos::AtMostOnce)]).await.unwrap();
    let connect = status(Connect::v3("c").kept(), None);
    let mut old = Client::connect(&broker, &connect).await;
    // Of the same session: it must go on reading while it waits.
    old.subscribe(1, "status", 1).await;
    for _ in 0..8 {
        old.publish(0, 0, "status", &[b'x'; 50_000]).await;
    }
    let busy = tokio::time::timeout(PATIENCE, async {
        while broker.bus().stats().busy.get() == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    });
    busy.await.expect("a message that is held");
    let _client = come(&broker, &connect).await;
    let mut came = Vec::new();
    while came.last().is_none_or(|last| last != "online") {
        let delivery = tokio::time::timeout(PATIENCE, reader.recv()).await.unwrap().unwrap();
        came.push(String::from_utf8(delivery.payload.to_vec()).unwrap());
    }
    came.retain(|payload| !payload.starts_with('x'));
    assert_eq!(came, ["offline", "online"]);
}
