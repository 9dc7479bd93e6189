//! gatepost puts wires on MQTT: serial ports, TCP sockets and other byte streams become topics.
//!
//! The modules stand in layers; a file uses only lower ones.
//!
//! | layer | modules | what they do |
//! |---|---|---|
//! | L5 | [`cli`] | one file a command |
//! | L4 | [`gateway`], [`control`] | owns every task; start, reload, stop; the control socket |
//! | L3 | [`device`] | one device: open, session, backoff |
//! | L2 | [`broker`] | the MQTT broker and its local clients |
//! | L1 | [`transport`], [`framing`] | bytes from a wire, frames from bytes |
//! | L1 | [`net`], [`mqtt_client`] | listening sockets, TLS, WebSocket; a client of other MQTT brokers |
//! | L1 | [`machine`], [`config`], [`log`] | users, open files and the heap, the TOML file, log lines |
//! | L0 | [`topic`], [`qos`], [`template`], [`backoff`], [`stats`], [`log_limit`] | values that know nothing else |
#![forbid(unsafe_code)]

pub mod backoff;
pub mod broker;
pub mod cli;
pub mod config;
pub mod control;
pub mod device;
pub mod framing;
pub mod gateway;
pub mod log;
pub mod log_limit;
pub mod machine;
pub mod mqtt_client;
pub mod net;
pub mod qos;
pub mod stats;
pub mod template;
pub mod topic;
pub mod transport;
