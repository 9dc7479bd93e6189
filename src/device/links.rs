//! The links of a device: always the same one for a port or a TCP client, any number for a TCP server.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::Device;
use super::outbox::Outbox;
use super::rules::{Command, Target};
use crate::config::{self, Transport};
use crate::stats::{DropReason, Drops};

/// Where the commands of a device go.
#[derive(Debug)]
pub struct Links {
    /// The one link of a port or a TCP client; for a server it stays empty.
    single: Outbox,
    /// The connections of a TCP server by their `{peer}`; `None` where there is one link only.
    peers: Option<Mutex<BTreeMap<String, Arc<Outbox>>>>,
}

impl Links {
    /// No link is up yet.
    pub fn new(config: &config::Device) -> Links {
        let is_server = matches!(config.transport, Transport::TcpServer(_));
        Links { single: Outbox::new(config), peers: is_server.then(Mutex::default) }
    }

    /// The one link of a port or a TCP client.
    pub fn single(&self) -> &Outbox {
        &self.single
    }

    /// A peer has connected.
    pub fn add_peer(&self, peer: String, outbox: Arc<Outbox>) {
        if let Some(peers) = &self.peers {
            peers.lock().insert(peer, outbox);
        }
    }

    /// A peer has gone.
    pub fn remove_peer(&self, peer: &str) {
        if let Some(peers) = &self.peers {
            peers.lock().remove(peer);
        }
    }

    /// Queues `command` for the link or links it is meant for; `device` counts what is dropped.
    pub fn push(&self, command: Command, device: &Device) {
        let drops = &device.state.stats.dropped;
        let Some(peers) = &self.peers else {
            return self.single.push(command, drops);
        };
        let peers = peers.lock();
        match &command.target {
            Target::All if peers.is_empty() => device.count_drop(DropReason::NoPeer, 1, None),
            Target::All => peers.values().for_each(|outbox| outbox.push(command.clone(), drops)),
            Target::Peer(peer) => match peers.get(peer) {
                Some(outbox) => outbox.push(command, drops),
                None => device.count_drop(DropReason::NoPeer, 1, Some(peer)),
            },
        }
    }

    /// Commands that wait, over all links.
    pub fn queued(&self) -> usize {
        let of_peers = self.peers.as_ref().map_or(0, |peers| peers.lock().values().map(|outbox| outbox.len()).sum());
        self.single.len() + of_peers
    }

    /// Drops all that waits, as [`DropReason::Stopped`].
    pub fn clear(&self, drops: &Drops) {
        self.single.clear(DropReason::Stopped, drops);
        for outbox in self.peers.iter().flat_map(|peers| peers.lock().values().cloned().collect::<Vec<_>>()) {
            outbox.clear(DropReason::Stopped, drops);
        }
    }
}
