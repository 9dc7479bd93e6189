//! Bytes between this machine's programs and other peers, whatever is spoken over them.

pub mod limits;
pub mod socket;
pub mod stream;
pub mod tls;
pub mod websocket;
