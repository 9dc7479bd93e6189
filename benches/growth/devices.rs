//! Devices, each with a TCP connection and topics of its own.

use std::collections::HashMap;
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use gatepost::config;
use gatepost::gateway::Gateway;
use gatepost::qos::Qos;
use gatepost::topic::TopicFilter;
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
        let up = TopicFilter::new("plant/+/up").unwrap();
        let mut lines = gateway.client().subscribe(vec![(up, Qos::AtMostOnce)]).await.unwrap();
        let (mut accepted, mut topics) = (Vec::new(), HashMap::new());
        // Whose wire it is a device says with the line that it got. On a slow machine some give up and connect again.
        while topics.len() < count {
            tokio::select! {
                wire = listener.accept() => {
                    let mut wire = wire.unwrap().0;
                    let _ = wire.write_all(format!("{}\n", accepted.len()).as_bytes()).await;
                    accepted.push(Some(BufReader::new(wire)));
                }
                line = lines.recv() => {
                    let line = line.unwrap();
                    let number: usize = std::str::from_utf8(&line.payload).unwrap().parse().unwrap();
                    topics.insert(line.topic.as_str().trim_end_matches("/up").to_owned(), number);
                }
            }
        }
        let take = |(topic, number): (String, usize)| (topic, accepted[number].take().unwrap());
        let wires: HashMap<_, _> = topics.into_iter().map(take).collect();
        drop(lines);
        let mut client = Client::connack_at(gateway.broker_addrs()[0], &Connect::v5("")).await.0;
        client.subscribe(1, "plant/+/up", 0).await;
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
