//! TLS, with rustls and ring.

pub mod client;
pub mod server;
