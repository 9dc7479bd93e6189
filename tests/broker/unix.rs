//! Unix sockets.

use gatepost::config;
use tokio::net::UnixStream;

use crate::client::*;

#[tokio::test]
async fn clients_come_by_a_unix_socket_which_goes_with_the_broker() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mqtt.sock");
    let address = format!("unix:{}", path.display());
    let broker = start(config::Broker { listeners: vec![listener(&address)], ..settings() }).await;
    assert!(broker.local_addrs().is_empty());
    let mut client = Client::over(UnixStream::connect(&path).await.unwrap());
    assert_eq!(client.start(&Connect::v5("local")).await.1[1], 0);
    assert_eq!(client.subscribe(1, "a/b", 1).await, 1);
    client.publish(0, 0, "a/b", b"hello").await;
    assert_eq!(client.recv_publish().await.payload, b"hello");
    drop(client);
    assert!(broker.stop(PATIENCE).await);
    assert!(!path.exists());
}

#[tokio::test]
async fn limits_are_for_unix_sockets_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mqtt.sock");
    let only_one = config::Listener { max_connections: 1, ..listener(&format!("unix:{}", path.display())) };
    let broker = start(config::Broker { listeners: vec![only_one], ..settings() }).await;
    let mut client = Client::over(UnixStream::connect(&path).await.unwrap());
    client.start(&Connect::v3("first")).await;
    assert_eq!(Client::over(UnixStream::connect(&path).await.unwrap()).next().await, None);
    assert_eq!(broker.stats().over_limit.get(), 1);
}
