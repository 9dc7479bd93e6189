//! TLS, with rustls and ring.

pub mod server;
