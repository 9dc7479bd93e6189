//! The broker through real sockets: raw packets, and rumqttc in both versions.

mod auth;
mod client;
mod connect;
mod delivery;
mod durable;
mod flow;
mod hostile;
mod limits;
mod liveness;
mod mosquitto;
mod reload;
mod retained;
mod rumqttc_clients;
mod sessions;
mod shared;
mod sys;
mod tls;
mod unix;
mod websocket;
mod wills;
