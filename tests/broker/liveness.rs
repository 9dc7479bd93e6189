//! Clients that are slow, and clients that are gone.

use std::time::{Duration, Instant};

use gatepost::broker::Broker;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};

use crate::client::*;

/// Of all clients here; without a sign of life they are gone after one and a half.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
const STEP: Duration = Duration::from_millis(100);

/// A client with a small receive buffer.
async fn connect(broker: &Broker) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 * 1024).unwrap();
    let mut stream = socket.connect(broker.local_addrs()[0]).await.unwrap();
    let connect = Connect { keep_alive: KEEP_ALIVE.as_secs() as u16, ..Connect::v3("slow") };
    stream.write_all(&connect.bytes()).await.unwrap();
    assert_eq!(read_exactly(&mut stream, 4).await, [0x20, 2, 0, 0]);
    stream
}

async fn read_exactly(stream: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    timeout(PATIENCE, stream.read_exact(&mut bytes)).await.expect("in time").expect("the broker stays");
    bytes
}

/// Sends `packet` in steps of so many bytes, until it is sent or the broker closes; returns after how long it closed.
async fn send_slowly(stream: &mut TcpStream, packet: &[u8], step: impl Fn(usize) -> usize) -> Option<Duration> {
    let (began, mut sent) = (Instant::now(), 0);
    while sent < packet.len() && began.elapsed() < PATIENCE {
        let next = packet.len().min(sent + step(sent));
        // The end shows in reading.
        let _ = stream.write_all(&packet[sent..next]).await;
        sent = next;
        if let Ok(read) = timeout(STEP, stream.read_u8()).await {
            assert!(read.is_err() || sent == packet.len(), "an answer to part of a packet");
            return read.is_err().then(|| began.elapsed());
        }
    }
    None
}

/// A PUBLISH of about `size` bytes, with QoS 1.
fn publish(size: usize) -> Vec<u8> {
    packet(0x32, &[string("t"), vec![0, 7], vec![b'x'; size]].concat())
}

#[tokio::test]
async fn a_packet_may_take_longer_than_the_keep_alive() {
    let broker = broker().await;
    let mut stream = connect(&broker).await;
    let packet = publish(40_000);
    let began = Instant::now();
    assert_eq!(send_slowly(&mut stream, &packet[..packet.len() - 1], |_| 1000).await, None);
    assert!(began.elapsed() > KEEP_ALIVE * 3);
    stream.write_all(b"x").await.unwrap();
    assert_eq!(read_exactly(&mut stream, 4).await, [0x40, 2, 0, 7]);
}

#[tokio::test]
async fn a_client_that_stalls_amid_a_packet_is_gone() {
    let broker = broker().await;
    let mut stream = connect(&broker).await;
    let closed = send_slowly(&mut stream, &publish(40_000), |sent| if sent < 10_000 { 1000 } else { 0 }).await;
    let closed = closed.expect("it is closed");
    assert!(closed > KEEP_ALIVE * 2 && closed < KEEP_ALIVE * 6, "{closed:?}");
}

#[tokio::test]
async fn a_client_that_trickles_is_gone_soon_after_its_keep_alive() {
    let broker = broker().await;
    let mut stream = connect(&broker).await;
    let closed = send_slowly(&mut stream, &publish(40_000), |_| 1).await.expect("it is closed");
    assert!(closed > KEEP_ALIVE && closed < KEEP_ALIVE * 5, "{closed:?}");
}

/// It does nothing but read, as clients that do one thing at a time.
#[tokio::test]
async fn a_client_that_takes_what_is_sent_slowly_gets_all_of_it() {
    const COUNT: usize = 700;
    const PAYLOAD: usize = 20_000;
    let broker = broker().await;
    let mut publisher = Client::connect(&broker, &Connect::v3("p")).await;
    for n in 0..COUNT {
        publisher.publish(1, 0, &format!("big/{n}"), &[b'x'; PAYLOAD]).await;
    }
    publisher.ping().await;
    let mut stream = connect(&broker).await;
    stream.write_all(&packet(0x82, &[&[0, 1][..], &string("big/+"), &[0]].concat())).await.unwrap();
    let (began, mut left) = (Instant::now(), COUNT * PAYLOAD);
    while left > 0 {
        sleep(STEP / 2).await;
        read_exactly(&mut stream, left.min(150_000)).await;
        left = left.saturating_sub(150_000);
    }
    assert!(began.elapsed() > KEEP_ALIVE * 4);
}
