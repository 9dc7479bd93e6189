//! A TCP server device: one session for each peer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use super::Device;
use super::links::PeerLink;
use super::session::{self, Link};
use crate::config::TcpServer;
use crate::transport::Stream;
use crate::transport::tcp_server::{self, Listener};

/// Listens, and serves peers, until the gateway stops.
pub async fn serve(device: &Arc<Device>, server: &TcpServer) {
    let mut backoff = device.backoff();
    while !device.stop.drain.is_cancelled() {
        if device.hold.is_released() {
            device.stay_released().await;
            continue;
        }
        let drain = device.hold.links();
        match tcp_server::bind(server).await {
            Ok(listener) => {
                backoff.reset();
                device.set_online(&format!("listening on {}", listener.local_addr())).await;
                accept(device, server, listener, &drain).await;
                device.set_offline().await;
            }
            Err(error) => device.wait_for_next_attempt(&error.to_string(), &mut backoff).await,
        }
    }
}

/// Accepts until `drain`, then waits for the sessions to end.
async fn accept(device: &Arc<Device>, server: &TcpServer, listener: Listener, drain: &CancellationToken) {
    let idle = server.idle_timeout.into_iter().chain(device.config.idle_timeout).min();
    let refused = &device.state.stats.refused_peers;
    let mut sessions = JoinSet::new();
    loop {
        tokio::select! {
            (stream, peer) = listener.accept(refused) => {
                if sessions.len() >= server.max_connections {
                    refused.increment();
                    tracing::warn!(device = device.name(), %peer, limit = server.max_connections,
                        "connection refused: max_connections is reached");
                } else {
                    sessions.spawn(serve_peer(device.clone(), idle, stream, peer, drain.clone()));
                }
            }
            Some(ended) = sessions.join_next() => note_end(device, ended),
            () = drain.cancelled() => break,
        }
    }
    drop(listener);
    while let Some(ended) = sessions.join_next().await {
        note_end(device, ended);
    }
}

fn note_end(device: &Device, ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        device.state.stats.panics.increment();
        tracing::error!(device = device.name(), %error, "the task of a connection panicked");
    }
}

async fn serve_peer(
    device: Arc<Device>,
    idle: Option<Duration>,
    mut stream: Stream,
    peer: SocketAddr,
    drain: CancellationToken,
) {
    let of_peer = PeerLink::new(&device, peer);
    tracing::info!(device = device.name(), %peer, "connected");
    let link = Link { device: &device, peer: Some(peer), outbox: &of_peer.outbox, idle, drain };
    let end = match session::prepare(&mut stream, &device, &link.drain).await {
        Ok(()) => session::run(stream, &link).await,
        Err(end) => end,
    };
    drop(of_peer);
    tracing::info!(device = device.name(), %peer, reason = %end, "disconnected");
}
