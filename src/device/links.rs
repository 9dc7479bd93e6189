//! The links of a device: always the same one for a port or a TCP client, any number for a TCP server.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;

use super::Device;
use super::outbox::Outbox;
use super::outcome::OutcomeSender;
use super::queue::{Losses, Outgoing};
use super::rules::{Command, Target, peer_name};
use crate::config::{self, Transport};
use crate::stats::DropReason;

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
            single: Outbox::new(limits, drop_echo, None),
            peers: is_server.then(Mutex::default),
        }
    }

    /// The one link of a port or a TCP client.
    pub fn single(&self) -> &Outbox {
        &self.single
    }

    /// Other bounds for the queues of all links, from now on; what is too much goes.
    pub fn set_limits(&self, limits: config::CommandQueue, losses: Losses<'_>) {
        *self.limits.lock() = limits;
        self.single.set_limits(limits, losses);
        for outbox in self.of_peers() {
            outbox.set_limits(limits, losses);
        }
    }

    fn of_peers(&self) -> Vec<Arc<Outbox>> {
        self.peers.iter().flat_map(|peers| peers.lock().values().cloned().collect::<Vec<_>>()).collect()
    }

    /// Queues `command`, which is counted once, for the link or links it is meant for; `device` counts that they are more.
    /// What is dropped is among its losses. `on_outcome` goes with it.
    pub fn push(&self, command: Command, on_outcome: Option<OutcomeSender>, device: &Device) {
        let losses = device.losses();
        let Some(peers) = &self.peers else {
            return self.single.push(command, on_outcome, losses);
        };
        let peers = peers.lock();
        let nobody = match &command.target {
            Target::All if peers.is_empty() => None,
            Target::All => {
                device.state.stats.commands.add(peers.len() as u64 - 1);
                return peers.values().for_each(|outbox| outbox.push(command.clone(), on_outcome.clone(), losses));
            }
            Target::Peer(peer) => match peers.get(peer) {
                Some(outbox) => return outbox.push(command, on_outcome, losses),
                None => Some(peer.as_str()),
            },
        };
        device.count_drop(DropReason::NoPeer, 1, nobody);
        losses.tell(Outgoing { frame: command.frame, on_outcome, expires: None }, None, DropReason::NoPeer);
    }

    /// The connections of a TCP server.
    pub fn peers(&self) -> Option<usize> {
        self.peers.as_ref().map(|peers| peers.lock().len())
    }

    /// Commands that wait, over all links.
    pub fn queued(&self) -> usize {
        let of_peers = self.peers.as_ref().map_or(0, |peers| peers.lock().values().map(|outbox| outbox.len()).sum());
        self.single.len() + of_peers
    }

    /// Takes what waits for the one link of `old`, where this has one link too; it goes before what waits here. What is too
    /// much for the queue here is among the losses.
    pub fn take_over(&self, old: &Links, losses: Losses<'_>) {
        if self.peers.is_none() {
            self.single.take_over(&old.single, losses);
        }
    }

    /// Drops all that waits, as [`DropReason::Stopped`].
    pub fn clear(&self, losses: Losses<'_>) {
        self.single.clear(DropReason::Stopped, losses);
        for outbox in self.of_peers() {
            outbox.clear(DropReason::Stopped, losses);
        }
    }
}

/// The link of one peer of a TCP server, until it is dropped.
#[derive(Debug)]
pub struct PeerLink<'a> {
    device: &'a Device,
    name: String,
    /// Its commands.
    pub outbox: Arc<Outbox>,
}

impl PeerLink<'_> {
    /// A peer has connected to `device`.
    pub fn new(device: &Device, peer: SocketAddr) -> PeerLink<'_> {
        let links = &device.links;
        let outbox = Arc::new(Outbox::new(*links.limits.lock(), links.drop_echo, Some(peer)));
        outbox.set_online(true, device.losses());
        let name = peer_name(peer);
        if let Some(peers) = &links.peers {
            peers.lock().insert(name.clone(), outbox.clone());
        }
        PeerLink { device, name, outbox }
    }
}

/// Also when the task of the connection is aborted: nothing is lost uncounted.
impl Drop for PeerLink<'_> {
    fn drop(&mut self) {
        if let Some(peers) = &self.device.links.peers {
            peers.lock().remove(&self.name);
        }
        let reason = if self.device.is_stopping() { DropReason::Stopped } else { DropReason::Offline };
        self.outbox.clear(reason, self.device.losses());
        self.device.say_queue_drops();
    }
}
