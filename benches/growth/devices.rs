//! Devices, each with a TCP connection and topics of its own.

use std::collections::HashMap;
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use gatepost::config;
use gatepost::gateway::Gateway;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::callgrind::count;
use crate::client::{Client, Connect};
use crate::scenes::with;

struct Devices {
    _gateway: Arc<Gateway>,
    /// The wires by the topic below which a device publishes.
    wires: HashMap<String, BufReader<TcpStream>>,
    /// Has a subscription to what all devices send.
    client: Client,
}

impl Devices {
    async fn start(count: usize) -> Devices {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut text = "[gateway]\nname = \"g\"\n[broker]\npersistence = false\n[[broker.listener]]\n\
                        address = \"127.0.0.1:0\"\nallow_anonymous = true\n"
            .to_owned();
        let address = listener.local_addr().unwrap();
        for number in 0..count {
            writeln!(
                text,
                "[device.d{number}]\ntcp = {{ connect = \"{address}\" }}\npublish = \"plant/d{number}/up\"\n\
                 subscribe = \"plant/d{number}/down\""
            )
            .unwrap();
        }
        let config = config::parse(&text, "growth.toml", Path::new("/")).unwrap().config;
        let gateway = Gateway::start(config, None).await.unwrap();
        let mut accepted = Vec::new();
        while accepted.len() < count {
            accepted.push(BufReader::new(listener.accept().await.unwrap().0));
        }
        // None of them has anything else to do then.
        while !gateway.devices().iter().all(|device| device.stats_json()["online"] == true) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let mut client = Client::connack_at(gateway.broker_addrs()[0], &Connect::v5("")).await.0;
        client.subscribe(1, "plant/+/up", 0).await;
        let mut wires = HashMap::new();
        for mut wire in accepted {
            // Whose it is.
            wire.write_all(b"hello\n").await.unwrap();
            let topic = client.recv_publish().await.topic;
            wires.insert(topic.trim_end_matches("/up").to_owned(), wire);
        }
        assert_eq!(wires.len(), count);
        Devices { _gateway: gateway, wires, client }
    }

    fn wire(&mut self, number: usize) -> &mut BufReader<TcpStream> {
        self.wires.get_mut(&with("plant/d{}", number)).unwrap()
    }
}

/// One of them sends and gets a line.
pub async fn scene(others: usize) {
    let mut devices = Devices::start(others).await;
    count("a line up from one device", others, async |number| {
        devices.wire(number).write_all(b"T=21.5\n").await.unwrap();
        assert_eq!(devices.client.payload().await, b"T=21.5");
    })
    .await;
    count("a line down to one device", others, async |number| {
        devices.client.publish_acked(&with("plant/d{}/down", number), b"on").await;
        let mut line = String::new();
        devices.wire(number).read_line(&mut line).await.unwrap();
        assert_eq!(line, "on\n");
    })
    .await;
}
