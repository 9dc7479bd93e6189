//! Clients of the broker, connected or away.

use std::mem;

use gatepost::broker::Broker;
use gatepost::config;
use tempfile::TempDir;

use crate::callgrind::count;
use crate::client::{Client, Connect, start};
use crate::scenes::{client, roomy, with};

/// What every client subscribes to, with its number, and a topic that only this matches.
const SUBSCRIPTIONS: [(&str, &str, &str); 4] = [
    ("a message, by dev/N/state", "dev/{}/state", "dev/{}/state"),
    ("a message, by room/N/+", "room/{}/+", "room/{}/light"),
    ("a message, by +/N/alarm", "+/{}/alarm", "house/{}/alarm"),
    ("a message, by $share/gN/job/N", "$share/g{}/job/{}", "job/{}"),
];

/// Sessions that the work changes are few in any case: so what it finds does not depend on how many others there are.
const FEW: usize = 10;

/// Each has a keep-alive and some subscriptions of its own.
pub async fn connected(others: usize) {
    let broker = start(roomy()).await;
    let mut clients = Vec::new();
    for number in 0..others {
        let mut client = Client::connect(&broker, &connect(number)).await;
        for (_, filter, _) in SUBSCRIPTIONS {
            client.subscribe(1, &with(filter, number), 1).await;
        }
        clients.push(client);
    }
    let mut one = client(&broker).await;
    for (name, _, topic) in SUBSCRIPTIONS {
        count(name, others, async |number| {
            one.publish_acked(&with(topic, number), b"21.5").await;
            assert_eq!(clients[number].payload().await, b"21.5");
        })
        .await;
    }
    let nobody = async |number| one.publish_acked(&with("nobody/{}", number), b"21.5").await;
    count("a message that matches nobody", others, nobody).await;
    for (name, filter) in [("SUBSCRIBE, UNSUBSCRIBE of dev/N/on", "dev/{}/on"), ("the same of dev/N/+", "dev/{}/+")] {
        count(name, others, async |number| {
            assert_eq!(one.subscribe(1, &with(filter, number), 1).await, 1);
            one.unsubscribe(2, &with(filter, number)).await;
        })
        .await;
    }
    count("PINGREQ", others, async |number| clients[number].ping().await).await;
    come_and_go(&broker, others).await;
}

async fn come_and_go(broker: &Broker, others: usize) {
    count("CONNECT, SUBSCRIBE, DISCONNECT", others, async |number| {
        let mut client = client(broker).await;
        client.subscribe(1, &with("room/{}/+", number), 1).await;
        client.disconnect().await;
    })
    .await;
    let connects: Vec<Connect> = (0..FEW).map(|number| connect(others + number)).collect();
    let mut clients = Vec::new();
    for connect in &connects {
        clients.push(Client::connect(broker, connect).await);
    }
    count("CONNECT that takes over", others, async |number| {
        let number = number % FEW;
        let next = Client::connect(broker, &connects[number]).await;
        mem::replace(&mut clients[number], next).expect_end(0x8E).await;
    })
    .await;
}

/// The CONNECT of the client of that number. What makes up its identifier lives as long as the process.
fn connect(number: usize) -> Connect {
    Connect { keep_alive: 3600, ..Connect::v5(format!("client{number}").leak()) }
}

/// All are away; their sessions are kept, on disk too.
pub async fn away(others: usize) {
    let folder = TempDir::new().unwrap();
    let broker = start(config::Broker { database: Some(folder.path().join("broker.db")), ..roomy() }).await;
    let connects: Vec<Connect> = (0..others).map(|number| connect(number).kept()).collect();
    for (number, connect) in connects.iter().enumerate() {
        let mut client = Client::connect(&broker, connect).await;
        client.subscribe(1, &with("dev/{}/#", number), 1).await;
        client.disconnect().await;
    }
    let store = broker.store();
    store.done(store.latest()).await;
    let mut one = client(&broker).await;
    let nobody = async |number| one.publish_acked(&with("nobody/{}", number), b"21.5").await;
    count("matches nobody, sessions away", others, nobody).await;
    count("kept: CONNECT, SUBSCRIBE, DISCONNECT", others, async |number| {
        let number = number % FEW;
        let mut client = Client::connect(&broker, &connects[number]).await;
        client.subscribe(1, &with("dev/{}/set", number), 1).await;
        client.disconnect().await;
    })
    .await;
}
