//! The scenes, and what they have in common.

use std::future::Future;
use std::pin::Pin;

use gatepost::broker::Broker;
use gatepost::config::{self, Listener};
use tokio::runtime::Builder;

use crate::client::{Client, Connect, listener, settings};
use crate::{clients, devices, retained};

/// A scene with so many others.
type Scene = fn(usize) -> Pin<Box<dyn Future<Output = ()>>>;

const SCENES: &[(&str, Scene)] = &[
    ("clients", |others| Box::pin(clients::connected(others))),
    ("away", |others| Box::pin(clients::away(others))),
    ("retained", |others| Box::pin(retained::scene(others))),
    ("devices", |others| Box::pin(devices::scene(others))),
];

/// In the order of the table.
pub fn names() -> impl Iterator<Item = &'static str> {
    SCENES.iter().map(|&(name, _)| name)
}

/// Plays a scene, on one thread, as the gateway does.
pub fn play(name: &str, others: usize) {
    let (_, scene) = SCENES.iter().find(|(other, _)| *other == name).expect("a scene of the table");
    Builder::new_current_thread().enable_all().build().unwrap().block_on(scene(others));
}

/// A broker's settings with room for all.
pub fn roomy() -> config::Broker {
    let max_connections = 100_000;
    let listeners = vec![Listener { max_connections, ..listener("127.0.0.1:0") }];
    config::Broker { max_connections, max_connections_per_address: max_connections, listeners, ..settings() }
}

/// A client that nobody knows yet.
pub async fn client(broker: &Broker) -> Client {
    Client::connect(broker, &Connect::v5("")).await
}

/// A pattern, with the number in place of `{}`.
pub fn with(pattern: &str, number: usize) -> String {
    pattern.replace("{}", &number.to_string())
}
