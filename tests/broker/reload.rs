//! Other settings while clients are there: listeners and limits.

use gatepost::broker::{Broker, StartError};
use gatepost::config::{self, Listener};
use tokio::net::TcpStream;

use crate::client::*;

fn with(listeners: &[&str]) -> config::Broker {
    config::Broker { listeners: listeners.iter().map(|address| listener(address)).collect(), ..settings() }
}

/// Ports that were free a moment ago.
fn free_ports<const N: usize>() -> [u16; N] {
    let sockets = [(); N].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    sockets.map(|socket| socket.local_addr().unwrap().port())
}

async fn connect_to(port: u16, id: &'static str) -> Client {
    let mut client = Client::open(([127, 0, 0, 1], port).into()).await;
    assert_eq!(client.start(&Connect::v5(id)).await.1[1], 0);
    client
}

fn ports(broker: &Broker) -> Vec<u16> {
    broker.local_addrs().iter().map(|address| address.port()).collect()
}

#[tokio::test]
async fn listeners_come_and_go_and_only_their_clients_notice() {
    let [a, b, c] = free_ports().map(|port| format!("127.0.0.1:{port}"));
    let broker = start(with(&[&a, &b])).await;
    let [on_a, on_b] = ports(&broker)[..] else { panic!() };
    let (mut stays, mut goes) = (connect_to(on_a, "stays").await, connect_to(on_b, "goes").await);
    let half_open = TcpStream::connect(("127.0.0.1", on_b)).await.unwrap();
    broker.reload(&with(&[&c, &a])).await.unwrap();
    goes.expect_end(0x98).await;
    stays.ping().await;
    let now = ports(&broker);
    assert_eq!(now[1], on_a);
    connect_to(now[0], "new").await.ping().await;
    assert!(TcpStream::connect(("127.0.0.1", on_b)).await.is_err());
    assert_eq!(Client::over(half_open).next().await, None);
    // And back: what is left is what a start gives.
    broker.reload(&with(&[&a, &b])).await.unwrap();
    assert_eq!(ports(&broker), [on_a, on_b]);
    stays.ping().await;
}

#[tokio::test]
async fn a_listener_that_cannot_bind_changes_nothing() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let [a, b] = free_ports().map(|port| format!("127.0.0.1:{port}"));
    let broker = start(with(&[&a])).await;
    let [on_a] = ports(&broker)[..] else { panic!() };
    let mut client = connect_to(on_a, "c").await;
    for listeners in [&[b.as_str(), &taken][..], &[&a, &b, &taken]] {
        let error = broker.reload(&with(listeners)).await.unwrap_err();
        assert!(matches!(error, StartError::InUse { .. }), "{error}");
        assert_eq!(ports(&broker), [on_a]);
        client.ping().await;
        connect_to(on_a, "other").await.ping().await;
    }
    // What was bound for it is free again.
    drop(std::net::TcpListener::bind(&b).unwrap());
}

#[tokio::test]
async fn an_address_may_overlap_with_the_one_it_takes_the_place_of() {
    let [port] = free_ports();
    let (narrow, wide) = (format!("127.0.0.1:{port}"), format!("0.0.0.0:{port}"));
    let broker = start(with(&[&narrow])).await;
    let mut client = connect_to(port, "old").await;
    broker.reload(&with(&[&wide])).await.unwrap();
    client.expect_end(0x98).await;
    assert!(broker.local_addrs()[0].ip().is_unspecified());
    connect_to(port, "new").await.ping().await;
    // One that has to leave IPv4 to another now.
    let both = format!("[::]:{port}");
    if std::net::TcpListener::bind("[::1]:0").is_ok() {
        broker.reload(&with(&[&wide, &both])).await.unwrap();
        broker.reload(&with(&[&both])).await.unwrap();
        connect_to(port, "newer").await.ping().await;
    }
}

#[tokio::test]
async fn what_is_spoken_at_an_address_may_change() {
    let [port] = free_ports();
    let address = format!("127.0.0.1:{port}");
    let broker = start(with(&[&address])).await;
    let mut plain = connect_to(port, "plain").await;
    let web = Listener { websocket: true, ..listener(&address) };
    broker.reload(&config::Broker { listeners: vec![web], ..settings() }).await.unwrap();
    plain.expect_end(0x98).await;
    let mut refused = Client::open(broker.local_addrs()[0]).await;
    refused.send(&Connect::v5("x").bytes()).await;
    assert_ne!(refused.next().await.map(|packet| packet.0), Some(0x20));
    broker.reload(&with(&[&address])).await.unwrap();
    connect_to(port, "again").await.ping().await;
}

#[tokio::test]
async fn limits_hold_from_the_next_connection_on() {
    let broker = start(settings()).await;
    let [port] = ports(&broker)[..] else { panic!() };
    let mut first = connect_to(port, "first").await;
    let narrow = config::Broker { max_connections: 1, max_payload_size: 4, ..settings() };
    broker.reload(&narrow).await.unwrap();
    let mut second = Client::open(broker.local_addrs()[0]).await;
    assert_eq!(second.next().await, None);
    first.publish(0, 0, "t", b"larger").await;
    first.ping().await;
    drop(first);
    broker.reload(&config::Broker { max_connections: 2, ..narrow }).await.unwrap();
    let mut third = connect_to(port, "third").await;
    connect_to(port, "fourth").await.ping().await;
    third.publish(0, 0, "t", b"larger").await;
    third.expect_end(0x95).await;
}
