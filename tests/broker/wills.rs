//! Wills.

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
