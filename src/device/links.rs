//! The links of a device: always the same one for a port or a TCP client, any number for a TCP server.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::Device;
use super::outbox::Outbox;
use super::receipt::{Fate, Receipt};
use super::rules::{Command, Target};
use crate::config::{self, Transport};
use crate::stats::{DropReason, Drops};

/// Where the commands of a device go.
#[derive(Debug)]
pub struct Links {
    limits: Mutex<config::CommandQueue>,
    drop_echo: bool,
    /// The one link of a port or a TCP client; for a server it stays empty.
    single: Outbox,
    /// The connections of a TCP server by their `{peer}`; `None` where there is one link only.
    peers: Option<Mutex<BTreeMap<String, Arc<Outbox>>>>,
}

impl Links {
    /// No link is up yet.
    pub fn new(config: &config::Device) -> Links {
        let is_server = matches!(config.transport, Transport::TcpServer(_));
        let (limits, drop_echo) = (config.queue, config.drop_echo);
        Links {
            limits: Mutex::new(limits),
            drop_echo,
            single: Outbox::new(limits, drop_echo),
            peers: is_server.then(Mutex::default),
        }
    }

    /// The one link of a port or a TCP client.
    pub fn single(&self) -> &Outbox {
        &self.single
    }

    /// Other bounds for the queues of all links, from now on; what is too much goes.
    pub fn set_limits(&self, limits: config::CommandQueue, drops: &Drops) {
        *self.limits.lock() = limits;
        self.single.set_limits(limits, drops);
        for outbox in self.of_peers() {
            outbox.set_limits(limits, drops);
        }
    }

    /// A peer has connected, until what is returned is dropped.
    pub fn add_peer(&self, name: String) -> PeerLink<'_> {
        let outbox = Arc::new(Outbox::new(*self.limits.lock(), self.drop_echo));
        if let Some(peers) = &self.peers {
            peers.lock().insert(name.clone(), outbox.clone());
        }
        PeerLink { links: self, name, outbox }
    }

    fn of_peers(&self) -> Vec<Arc<Outbox>> {
        self.peers.iter().flat_map(|peers| peers.lock().values().cloned().collect::<Vec<_>>()).collect()
    }

    /// Queues `command` for the link or links it is meant for; `device` counts what is dropped. `receipt` goes with it.
    pub fn push(&self, command: Command, receipt: Option<Receipt>, device: &Device) {
        let drops = &device.state.stats.dropped;
        let Some(peers) = &self.peers else {
            return self.single.push(command, receipt, drops);
        };
        let peers = peers.lock();
        let nobody = match &command.target {
            Target::All if peers.is_empty() => None,
            Target::All => {
                return peers.values().for_each(|outbox| outbox.push(command.clone(), receipt.clone(), drops));
            }
            Target::Peer(peer) => match peers.get(peer) {
                Some(outbox) => return outbox.push(command, receipt, drops),
                None => Some(peer.as_str()),
            },
        };
        device.count_drop(DropReason::NoPeer, 1, nobody);
        if let Some(receipt) = receipt {
            receipt.tell(Fate::Dropped(DropReason::NoPeer));
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
        for outbox in self.of_peers() {
            outbox.clear(DropReason::Stopped, drops);
        }
    }
}

/// The link of one peer of a TCP server.
#[derive(Debug)]
pub struct PeerLink<'a> {
    links: &'a Links,
    name: String,
    /// Its commands.
    pub outbox: Arc<Outbox>,
}

impl Drop for PeerLink<'_> {
    fn drop(&mut self) {
        if let Some(peers) = &self.links.peers {
            peers.lock().remove(&self.name);
        }
    }
}
