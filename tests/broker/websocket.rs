//! MQTT over WebSocket, with a client of another hand: tungstenite.

use std::net::{SocketAddr, TcpStream};

use gatepost::broker::Broker;
use gatepost::config;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tokio_tungstenite::tungstenite::{self, Bytes, Message};

use crate::client::*;

type WebSocket = tungstenite::WebSocket<TcpStream>;

async fn start_websocket() -> Broker {
    let listener = config::Listener { websocket: true, ..listener("127.0.0.1:0") };
    start(config::Broker { listeners: vec![listener], ..settings() }).await
}

/// Runs the client, which blocks, on a thread of its own.
async fn with_client(client: impl FnOnce(SocketAddr) + Send + 'static) {
    let broker = start_websocket().await;
    let address = broker.local_addrs()[0];
    tokio::task::spawn_blocking(move || client(address)).await.unwrap();
    assert!(broker.stop(PATIENCE).await);
}

fn open(address: SocketAddr, path: &str, protocol: Option<&str>) -> Result<WebSocket, u16> {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut request = format!("ws://localhost{path}").into_client_request().unwrap();
    if let Some(protocol) = protocol {
        request.headers_mut().insert("sec-websocket-protocol", protocol.parse().unwrap());
    }
    match tungstenite::client(request, stream) {
        Ok((websocket, response)) => {
            let agreed = response.headers().get("sec-websocket-protocol").map(|value| value.to_str().unwrap());
            assert_eq!(agreed, protocol);
            Ok(websocket)
        }
        Err(tungstenite::HandshakeError::Failure(tungstenite::Error::Http(response))) => Err(response.status().into()),
        Err(error) => panic!("{error}"),
    }
}

fn connected(address: SocketAddr, id: &'static str) -> WebSocket {
    let mut websocket = open(address, "/mqtt", Some("mqtt")).unwrap();
    websocket.send(Message::binary(Connect::v3(id).bytes())).unwrap();
    assert_eq!(read(&mut websocket, 4), [0x20, 2, 0, 0]);
    websocket
}

/// The next `length` bytes, in any frames.
fn read(websocket: &mut WebSocket, length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < length {
        match websocket.read().unwrap() {
            Message::Binary(data) => bytes.extend_from_slice(&data),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(bytes.len(), length);
    bytes
}

fn subscribe(websocket: &mut WebSocket, topic: &str) {
    websocket.send(Message::binary(packet(0x82, &[&[0, 1][..], &string(topic), &[0]].concat()))).unwrap();
    assert_eq!(read(websocket, 5), [0x90, 3, 0, 1, 0]);
}

fn publish(topic: &str, payload: &[u8]) -> Vec<u8> {
    packet(0x30, &[&string(topic)[..], payload].concat())
}

#[tokio::test]
async fn paths_and_sub_protocols() {
    with_client(|address| {
        for (path, protocol) in [("/", Some("mqtt")), ("/mqtt", Some("mqttv3.1")), ("/mqtt", None)] {
            open(address, path, protocol).unwrap();
        }
        assert_eq!(open(address, "/mqtt/", Some("mqtt")).unwrap_err(), 404);
        assert_eq!(open(address, "/other", None).unwrap_err(), 404);
        assert_eq!(open(address, "/", Some("chat")).unwrap_err(), 400);
    })
    .await;
}

#[tokio::test]
async fn packets_and_frames_need_not_agree() {
    with_client(|address| {
        let mut websocket = connected(address, "a");
        subscribe(&mut websocket, "t");
        // One packet in frames of a byte each, with a ping in the middle.
        let whole = publish("t", b"split");
        let last = whole.len() - 1;
        for (index, byte) in whole.iter().enumerate() {
            let kind = if index == 0 { Data::Binary } else { Data::Continue };
            let frame = Frame::message(Bytes::copy_from_slice(&[*byte]), OpCode::Data(kind), index == last);
            websocket.send(Message::Frame(frame)).unwrap();
            if index == 3 {
                websocket.send(Message::Ping("still there?".into())).unwrap();
            }
        }
        assert_eq!(websocket.read().unwrap(), Message::Pong("still there?".into()));
        assert_eq!(read(&mut websocket, whole.len()), whole);
        // Many packets in one frame, larger than any packet may be.
        let packets: Vec<Vec<u8>> = (0..40u8).map(|number| publish("t", &[number; 50_000])).collect();
        websocket.send(Message::binary(packets.concat())).unwrap();
        assert_eq!(read(&mut websocket, 40 * packets[0].len()), packets.concat());
    })
    .await;
}

#[tokio::test]
async fn a_flood_that_is_read_late_arrives_whole() {
    with_client(|address| {
        let mut subscriber = connected(address, "late");
        subscribe(&mut subscriber, "flood");
        let mut publisher = connected(address, "flood");
        let packets: Vec<Vec<u8>> =
            (0..3000u32).map(|number| publish("flood", &number.to_be_bytes().repeat(500))).collect();
        for packet in &packets {
            publisher.send(Message::binary(packet.clone())).unwrap();
        }
        let mut bytes = Vec::new();
        while bytes.len() < packets.len() * packets[0].len() {
            bytes.extend_from_slice(&subscriber.read().unwrap().into_data());
        }
        assert!(bytes == packets.concat());
    })
    .await;
}

#[tokio::test]
async fn text_is_refused_and_closing_is_answered() {
    with_client(|address| {
        for mut websocket in [open(address, "/", Some("mqtt")).unwrap(), connected(address, "a")] {
            websocket.send(Message::text("hello")).unwrap();
            match websocket.read().unwrap() {
                Message::Close(Some(frame)) => assert_eq!(frame.code, CloseCode::Unsupported),
                other => panic!("{other:?}"),
            }
        }
        let mut websocket = connected(address, "b");
        websocket.close(None).unwrap();
        assert!(matches!(websocket.read().unwrap(), Message::Close(_)));
        assert!(matches!(websocket.read(), Err(tungstenite::Error::ConnectionClosed)));
        // After DISCONNECT it is the broker that closes.
        let mut websocket = connected(address, "c");
        websocket.send(Message::binary(&b"\xE0\0"[..])).unwrap();
        assert!(matches!(websocket.read().unwrap(), Message::Close(_)));
    })
    .await;
}
