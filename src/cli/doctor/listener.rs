//! Findings about one listener: whether its address can be had, who has it, and where else to listen.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use super::answer::{Answer, ask, reachable};
use super::finding::Finding;
use super::machine::{self, Machine, Process};
use super::sockets::{self, Listening};
use crate::broker;
use crate::config::{self, Listener};

/// Debian starts it by itself as soon as it is installed.
const DISABLE_MOSQUITTO: &str = "sudo systemctl disable --now mosquitto";
/// Ports that are tried for one that is free.
const ELSEWHERE: u16 = 20;

/// A listener, and what it stands in.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Whose ports these are.
    pub machine: &'a Machine,
    /// All listeners.
    pub settings: &'a config::Broker,
    /// The file that is to be changed.
    pub config_file: &'a Path,
    /// The one that is looked at.
    pub listener: &'a Listener,
}

impl Place<'_> {
    /// Looks at the listener, one of whose addresses is `address`.
    pub fn examine(&self, address: SocketAddr) -> Option<Finding> {
        if address.port() == 0 {
            return Some(Finding::fine("broker", format!("{address}: any free port, a new one at each start")));
        }
        let Err(error) = self.try_bind(address) else {
            return Some(
                self.may_not_bind(address).unwrap_or_else(|| {
                    Finding::fine("broker", format!("{address} is free: no gateway runs there now"))
                }),
            );
        };
        match Errno::from_io_error(&error) {
            Some(Errno::ADDRINUSE) => Some(self.in_use(address)),
            Some(Errno::ADDRNOTAVAIL | Errno::AFNOSUPPORT) if self.listener.optional => None,
            Some(Errno::ADDRNOTAVAIL | Errno::AFNOSUPPORT) => {
                let what = format!("the listener {address} is no address of this machine");
                Some(Finding::problem("broker", what).fix("ip address    # those that it has"))
            }
            // It is the service that will listen, not who asks.
            Some(Errno::ACCESS) if self.machine.service.is_some() => self.may_not_bind(address),
            Some(Errno::ACCESS) => Some(low_port(address, "this user")),
            _ => Some(
                Finding::problem("broker", format!("nothing can listen on {address}: {error}"))
                    .fix("ip address    # the addresses that this machine has"),
            ),
        }
    }

    /// Binds as the broker will, but does not listen: so no gateway that starts now finds the port taken, and no other
    /// doctor either (socket(7), SO_REUSEADDR).
    fn try_bind(&self, address: SocketAddr) -> io::Result<()> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        if address.is_ipv6() && broker::is_only_v6(self.listener, &self.settings.listeners) {
            socket.set_only_v6(true)?;
        }
        socket.bind(&address.into())
    }

    /// The service may not listen there, as far as its unit says, whoever asks.
    fn may_not_bind(&self, address: SocketAddr) -> Option<Finding> {
        let service = self.machine.service.as_ref()?;
        let is_low = address.port() < first_for_all(self.machine);
        (is_low && !service.may_bind_low_ports(&self.machine.root)).then(|| low_port(address, "the service"))
    }

    fn in_use(&self, address: SocketAddr) -> Finding {
        let machine = self.machine;
        let sockets = sockets::listening_on(machine, address);
        if sockets.is_empty() {
            let what = format!("{address} is in use, though nothing that can be seen listens there");
            return self.taken(Finding::problem("broker", what), address).fix(format!(
                "sudo ss -tanp 'sport = :{}'    # a connection may have this port at its own end",
                address.port()
            ));
        }
        let owners = sockets::owners(machine, &sockets);
        let strangers: Vec<&Process> = owners.iter().filter(|owner| !machine.is_gateway(owner)).collect();
        if !strangers.is_empty() {
            return self.taken_by(address, &strangers);
        }
        let scheme = self.listener.scheme();
        // TLS and WebSocket are not asked: that the port is the gateway's is enough.
        let answer = match scheme {
            "mqtt" => ask(reachable(sockets.first().map_or(address, |socket| socket.address))),
            _ => Answer::NotAsked(scheme),
        };
        let answers = matches!(answer, Answer::Connack(_) | Answer::NotAsked(_));
        let unseen = "it seems (only root sees whose port it is)";
        match (owners.first(), machine.gateway()) {
            (Some(gateway), _) if answers => {
                Finding::fine("broker", format!("{gateway} listens on {address}: {answer}"))
            }
            (Some(gateway), _) => {
                Finding::problem("broker", format!("{gateway} listens on {address} but does not answer: {answer}"))
                    .fix(gateway.restart())
            }
            (None, Some(gateway)) if answers && is_of(machine.uid_of(gateway), &sockets) => {
                Finding::fine("broker", format!("{gateway} listens on {address}, {unseen}: {answer}"))
            }
            // Where processes of others are hidden altogether.
            (None, None) if answers && machine.service.as_ref().is_some_and(|it| is_of(Some(it.uid()), &sockets)) => {
                Finding::fine("broker", format!("the service listens on {address}, {unseen}: {answer}"))
            }
            (None, _) => self.taken_by_unknown(address, &sockets, &answer),
        }
    }

    fn taken_by(&self, address: SocketAddr, owners: &[&Process]) -> Finding {
        let mut finding = Finding::problem("broker", format!("{address} is in use by {}", machine::names(owners)));
        for owner in owners {
            finding = finding.fix(if owner.name == "mosquitto" && owner.unit.is_none() {
                format!("{DISABLE_MOSQUITTO}    # or, if it is no service: {}", owner.stop())
            } else {
                owner.disable()
            });
        }
        if owners.iter().any(|owner| owner.name == "mosquitto") {
            finding = finding.fix("or let gatepost take its place: its password and ACL files can be used as they are");
        }
        self.taken(finding, address)
    }

    fn taken_by_unknown(&self, address: SocketAddr, sockets: &[Listening], answer: &Answer) -> Finding {
        let user = sockets.first().and_then(|socket| self.machine.accounts.user_name(socket.uid));
        let user = user.map_or_else(|| "another user".to_owned(), |user| format!("the user {user}"));
        let is_mosquitto = user == "the user mosquitto";
        let finding = Finding::problem("broker", format!("{address} is in use by a program of {user} ({answer})"));
        let finding = if is_mosquitto { finding.fix(DISABLE_MOSQUITTO) } else { finding };
        let look = format!("sudo ss -ltnp 'sport = :{}'    # only root sees which it is", address.port());
        self.taken(finding.fix(look), address)
    }

    /// What that means, and the way out that always is there.
    fn taken(&self, finding: Finding, address: SocketAddr) -> Finding {
        finding.why("The gateway cannot start its broker there (exit code 71).").fix(self.elsewhere(address))
    }

    /// A listener on another port for the same clients, as TOML to be pasted.
    fn elsewhere(&self, address: SocketAddr) -> String {
        let Listener { allow_anonymous, .. } = self.listener;
        let is_default = self.settings.listeners.iter().any(|listener| listener.optional);
        let (file, place) = if is_default {
            (super::drop_in(self.config_file), String::new())
        } else {
            (self.config_file.to_owned(), format!(" in place of {:?}, whose other keys stay,", self.listener.address))
        };
        format!(
            "# or listen elsewhere:{place} in {}\n[[broker.listener]]\naddress = \"{}\"\nallow_anonymous = \
             {allow_anonymous}",
            file.display(),
            self.free_near(address)
        )
    }

    /// The next port that is free and no listener's.
    fn free_near(&self, address: SocketAddr) -> SocketAddr {
        let is_own = |address: &SocketAddr| {
            let port = format!(":{}", address.port());
            self.settings.listeners.iter().any(|listener| listener.address.ends_with(&port))
        };
        let first = address.port().saturating_add(1);
        let mut near = (first..=first.saturating_add(ELSEWHERE)).map(|port| SocketAddr::new(address.ip(), port));
        near.find(|near| !is_own(near) && self.try_bind(*near).is_ok())
            .unwrap_or_else(|| SocketAddr::new(address.ip(), 11_883))
    }
}

/// Whether one of the sockets is of that user, as far as it is known.
fn is_of(uid: Option<u32>, sockets: &[Listening]) -> bool {
    uid.is_none_or(|uid| sockets.iter().any(|socket| socket.uid == uid))
}

/// The first port that needs no capability (ip_unprivileged_port_start in ip(7)).
fn first_for_all(machine: &Machine) -> u16 {
    let text = machine.read("proc/sys/net/ipv4/ip_unprivileged_port_start");
    text.and_then(|text| text.trim().parse().ok()).unwrap_or(1024)
}

fn low_port(address: SocketAddr, who: &str) -> Finding {
    Finding::warning("broker", format!("port {} is for root: {who} may not listen there", address.port()))
        .why("Ports below 1024 need a capability.")
        .fix(
            "# sudo systemctl edit gatepost\n[Service]\nAmbientCapabilities=CAP_NET_BIND_SERVICE\n\
             CapabilityBoundingSet=CAP_NET_BIND_SERVICE",
        )
        .fix("sudo setcap cap_net_bind_service=+ep \"$(command -v gatepost)\"    # without a unit")
}

#[cfg(test)]
mod tests;
