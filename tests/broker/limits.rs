//! What holds before CONNECT: time, size, and how many.

use std::time::Instant;

use gatepost::config;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::client::*;
use crate::sys::reconcile_connections;
use crate::tls::{connect_tls, server, tls_listener};

/// The beginning of a ClientHello of 512 bytes.
const HALF_HELLO: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xFC\x03\x03";

#[tokio::test]
async fn stalled_handshakes_hold_up_nobody() {
    let websocket = config::Listener { websocket: true, ..listener("127.0.0.1:0") };
    let listeners = vec![tls_listener(server("localhost"), true), websocket];
    let broker = start(config::Broker { listeners, ..settings() }).await;
    let [tls, websocket] = broker.local_addrs()[..] else { panic!("{:?}", broker.local_addrs()) };
    let mut stalled = Vec::new();
    for _ in 0..20 {
        for (address, bytes) in [(tls, HALF_HELLO), (websocket, b"GET /mqtt HTTP/1.1\r\nHost: x\r\n")] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(bytes).await.unwrap();
            stalled.push(stream);
        }
    }
    let start = Instant::now();
    let mut clients = Vec::new();
    for _ in 0..50 {
        let mut client = Client::over(connect_tls(tls, None).await.unwrap());
        assert_eq!(client.start(&Connect::v5("")).await.1[1], 0);
        clients.push(client);
    }
    assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());

    // Their time is that of CONNECT; with nothing else to do, the clock goes there at once.
    tokio::time::pause();
    for mut stream in stalled {
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert_eq!(answer, b"");
    }
    assert_eq!(broker.stats().connected.get(), 50);
    assert_eq!(broker.figures().abandoned, 40);
    reconcile_connections(&broker).await;
}

#[tokio::test]
async fn one_address_has_its_share() {
    let broker = start(config::Broker { max_connections_per_address: 2, ..settings() }).await;
    let first = Client::connect(&broker, &Connect::v3("a")).await;
    let _second = Client::connect(&broker, &Connect::v3("b")).await;
    assert_eq!(Client::open(broker.local_addrs()[0]).await.next().await, None);
    assert_eq!(broker.stats().over_limit.get(), 1);
    drop(first);
    // The socket is closed some time after the client has gone.
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        let mut third = TcpStream::connect(broker.local_addrs()[0]).await.unwrap();
        third.write_all(&Connect::v3("c").bytes()).await.unwrap();
        if matches!(timeout(PATIENCE, third.read_u8()).await.unwrap(), Ok(0x20)) {
            return;
        }
    }
    panic!("the place of the first client is not free");
}

#[tokio::test]
async fn a_connect_that_is_too_long_is_not_read() {
    let broker = broker().await;
    for length in [200 * 1024, 2 << 20] {
        let mut client = Client::open(broker.local_addrs()[0]).await;
        let header = packet(0x10, &vec![0; length]);
        client.send(&header[..10]).await;
        assert_eq!(client.next().await, None);
    }
    assert_eq!(broker.stats().refused.get(), 2);
    reconcile_connections(&broker).await;
}
