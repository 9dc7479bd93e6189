//! The real binary, end to end: real ptys and sockets, and the programs people already use.
//!
//! What needs only Rust runs in `cargo test`. What needs Python, Node, Chromium, mosquitto's clients or socat, or takes minutes, is
//! ignored there; `./test` installs what is needed and runs all of it.

#[path = "../common/mod.rs"]
mod common;

mod access;
mod chaos;
mod commands;
mod control;
mod disk;
mod doctor;
mod endurance;
mod handover;
mod lifecycle;
mod listeners;
mod monitor;
mod mosquitto;
mod mosquitto_bridge;
mod noise;
mod notify;
mod paho;
mod reload;
mod rights;
mod serial;
mod soak;
mod sys;
mod tcp;
