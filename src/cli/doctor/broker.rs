//! Findings about the broker: who has its ports, whether it answers, whether other machines reach it.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;

use super::finding::Finding;
use super::machine::{self, Machine, Process};
use super::sockets;
use crate::config::{self, Listener};

/// Debian starts it by itself as soon as it is installed.
const DISABLE_MOSQUITTO: &str = "sudo systemctl disable --now mosquitto";
/// How long a broker may take to answer.
const ANSWER_TIME: Duration = Duration::from_secs(1);

/// Looks at every listener.
pub fn examine(machine: &Machine, settings: &config::Broker, config_file: &Path) -> Vec<Finding> {
    let check = format!("gatepost check -c {}    # after mending it", config_file.display());
    let mut findings: Vec<Finding> = crate::cli::access_errors(settings)
        .map(|error| Finding::problem("broker", error.to_string()).fix(check.clone()))
        .collect();
    let mut addresses = Vec::new();
    for listener in &settings.listeners {
        if let Some(path) = listener.unix_path() {
            let what = format!("{} is a socket of this machine; not looked at", path.display());
            findings.push(Finding::fine("broker", what));
            continue;
        }
        match listener.address.to_socket_addrs() {
            Ok(found) => {
                for address in found {
                    addresses.push(address);
                    findings.extend(listener_at(machine, listener, address));
                }
            }
            Err(error) => {
                let what = format!("the listener {} is no address of this machine: {error}", listener.address);
                findings.push(Finding::problem("broker", what).fix("ip address    # those that it has"));
            }
        }
    }
    findings.extend(reach(&addresses, &sockets::own_addresses(machine), settings, config_file));
    findings
}

/// Only this machine reaches the broker, though it stands in a network.
fn reach(listeners: &[SocketAddr], own: &[IpAddr], settings: &config::Broker, config_file: &Path) -> Option<Finding> {
    let first = listeners.first().filter(|_| listeners.iter().all(|address| address.ip().is_loopback()))?;
    let own = own.first()?;
    let port = if first.port() == 0 { 1883 } else { first.port() };
    let finding = Finding::warning(
        "broker",
        format!("only this machine reaches the broker: it listens on {first} alone"),
    )
    .why(format!(
        "Other machines that connect to {own}:{port} are refused. If they are meant to, write this into {} and give \
             each a user:",
        config_file.display()
    ));
    let users = if settings.password_file.is_none() { "[broker]\npassword_file = \"passwd\"\n\n" } else { "" };
    let listener = format!("{users}[[broker.listener]]\naddress = \"0.0.0.0:{port}\"");
    // Only of the listeners that nobody has configured one is optional, and they go as soon as there is another.
    let finding = if settings.listeners.iter().any(|listener| listener.optional) {
        finding.fix(listener)
    } else {
        finding.fix(format!("{listener}    # in place of the one on {first}, without allow_anonymous = true"))
    };
    let passwd = settings.password_file.clone().unwrap_or_else(|| config_file.with_file_name("passwd"));
    Some(finding.fix(format!("sudo gatepost passwd {} USER", passwd.display())))
}

fn listener_at(machine: &Machine, listener: &Listener, address: SocketAddr) -> Option<Finding> {
    if address.port() == 0 {
        return Some(Finding::fine("broker", format!("{address}: any free port, a new one at each start")));
    }
    // As the broker will.
    let error = match TcpListener::bind(address) {
        Ok(_) => {
            let what = format!("{address} is free: no gateway runs there now");
            return Some(Finding::fine("broker", what));
        }
        Err(error) => error,
    };
    match Errno::from_io_error(&error) {
        Some(Errno::ADDRINUSE) => Some(in_use(machine, listener, address)),
        Some(Errno::ADDRNOTAVAIL | Errno::AFNOSUPPORT) if listener.optional => None,
        Some(Errno::ADDRNOTAVAIL | Errno::AFNOSUPPORT) => {
            let what = format!("the listener {address} is no address of this machine");
            Some(Finding::problem("broker", what).fix("ip address    # those that it has"))
        }
        Some(Errno::ACCESS) => Some(
            Finding::warning("broker", format!("port {} is for root: this user may not listen there", address.port()))
                .why("Ports below 1024 need a capability.")
                .fix(
                    "in a drop-in (systemctl edit gatepost): AmbientCapabilities=CAP_NET_BIND_SERVICE and \
                     CapabilityBoundingSet=CAP_NET_BIND_SERVICE",
                )
                .fix("sudo setcap cap_net_bind_service=+ep \"$(command -v gatepost)\"    # without a unit"),
        ),
        _ => Some(
            Finding::problem("broker", format!("nothing can listen on {address}: {error}"))
                .fix("ip address    # the addresses that this machine has"),
        ),
    }
}

fn in_use(machine: &Machine, listener: &Listener, address: SocketAddr) -> Finding {
    let sockets = sockets::listening_on(machine, address);
    let owners = sockets::owners(machine, &sockets);
    let strangers: Vec<&Process> = owners.iter().filter(|owner| !owner.is_gatepost()).collect();
    if !strangers.is_empty() {
        return taken(address, &strangers);
    }
    let scheme = listener.scheme();
    // TLS and WebSocket are not asked: that the port is the gateway's is enough.
    let answer = match scheme {
        "mqtt" => ask(reachable(sockets.first().map_or(address, |socket| socket.address))),
        _ => Answer::NotAsked(scheme),
    };
    let answers = matches!(answer, Answer::Connack(_) | Answer::NotAsked(_));
    match (owners.first(), machine.gateway()) {
        (Some(gateway), _) if answers => Finding::fine("broker", format!("{gateway} listens on {address}: {answer}")),
        (Some(gateway), _) => {
            Finding::problem("broker", format!("{gateway} listens on {address} but does not answer: {answer}"))
                .fix("sudo systemctl restart gatepost")
        }
        (None, Some(gateway)) if answers && is_of(machine, gateway, &sockets) => {
            let what = format!("{gateway} listens on {address}, it seems (only root sees whose port it is): {answer}");
            Finding::fine("broker", what)
        }
        (None, _) => taken_by_unknown(machine, address, &sockets, &answer),
    }
}

/// Whether the sockets are of the user that `process` runs as, as far as that can be seen.
fn is_of(machine: &Machine, process: &Process, sockets: &[sockets::Listening]) -> bool {
    machine.uid_of(process).is_none_or(|uid| sockets.iter().any(|socket| socket.uid == uid))
}

fn taken(address: SocketAddr, owners: &[&Process]) -> Finding {
    let mut finding = Finding::problem("broker", format!("{address} is in use by {}", machine::names(owners)))
        .why("The gateway cannot start its broker there (exit code 71).");
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
    finding.fix(format!("or listen elsewhere: [[broker.listener]] address = \"{}\"", elsewhere(address)))
}

fn taken_by_unknown(
    machine: &Machine,
    address: SocketAddr,
    sockets: &[sockets::Listening],
    answer: &Answer,
) -> Finding {
    let user = sockets.first().and_then(|socket| machine.accounts.user_name(socket.uid));
    let user = user.map_or_else(|| "another user".to_owned(), |user| format!("the user {user}"));
    let is_mosquitto = user == "the user mosquitto";
    let finding = Finding::problem("broker", format!("{address} is in use by a program of {user} ({answer})"))
        .why("The gateway cannot start its broker there (exit code 71). Only root sees which program it is.");
    let finding = if is_mosquitto { finding.fix(DISABLE_MOSQUITTO) } else { finding };
    finding.fix(format!("sudo ss -ltnp 'sport = :{}'", address.port()))
}

fn elsewhere(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip(), address.port().checked_add(1).unwrap_or(1884))
}

/// Where a socket that listens everywhere is reached from here.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => std::net::Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => std::net::Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// What a CONNECT got.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// CONNACK with this code; a refusal is an answer too.
    Connack(u8),
    /// No CONNECT was sent, as this is spoken there.
    NotAsked(&'static str),
    /// Something else: TLS, HTTP, or none of the kind.
    Other,
    /// Nothing.
    None(io::ErrorKind),
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Answer::Connack(0) => f.write_str("CONNECT is accepted"),
            Answer::Connack(code) => write!(f, "CONNECT without a user is refused with code {code}"),
            Answer::NotAsked(scheme) => write!(f, "{scheme}, which is not tried"),
            Answer::Other => f.write_str("what answers is not MQTT"),
            Answer::None(io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                write!(f, "no answer to CONNECT within {ANSWER_TIME:?}")
            }
            Answer::None(kind) => write!(f, "no answer to CONNECT: {kind}"),
        }
    }
}

/// CONNECT of MQTT 3.1.1: clean session, keep-alive 10 s, no client id [MQTT-3.1.3-6].
const CONNECT: [u8; 14] = [0x10, 12, 0, 4, b'M', b'Q', b'T', b'T', 4, 0x02, 0, 10, 0, 0];
const DISCONNECT: [u8; 2] = [0xE0, 0];

fn ask(address: SocketAddr) -> Answer {
    let exchange = || {
        let mut stream = TcpStream::connect_timeout(&address, ANSWER_TIME)?;
        stream.set_read_timeout(Some(ANSWER_TIME))?;
        stream.write_all(&CONNECT)?;
        let mut connack = [0; 4];
        stream.read_exact(&mut connack)?;
        // The answer is here; what becomes of the connection matters no more.
        let _ = stream.write_all(&DISCONNECT);
        Ok(connack)
    };
    match exchange() {
        Ok([0x20, 2, _, code]) => Answer::Connack(code),
        Ok(_) => Answer::Other,
        Err(error) => io::Error::kind(&error).into(),
    }
}

impl From<io::ErrorKind> for Answer {
    fn from(kind: io::ErrorKind) -> Answer {
        Answer::None(kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::serial::tests::eventually;

    #[test]
    fn a_broker_for_this_machine_only_is_told_in_a_network() {
        let loopback: Vec<SocketAddr> = vec!["127.0.0.1:1883".parse().unwrap(), "[::1]:1883".parse().unwrap()];
        let own: Vec<IpAddr> = vec!["192.168.1.7".parse().unwrap()];
        let file = Path::new("/etc/gatepost/gatepost.toml");
        let read = |text: &str| crate::config::parse(text, "t", Path::new("/")).map(|loaded| loaded.config.broker);
        let default = read("").unwrap();
        let finding = reach(&loopback, &own, &default, file).unwrap();
        assert!(finding.why.contains("192.168.1.7:1883"), "{finding:?}");
        assert!(read(&finding.fix[0].replace("password_file", "# ")).is_ok(), "{finding:?}");
        assert!(finding.fix[1].contains("/etc/gatepost/passwd"));
        assert_eq!(reach(&loopback, &[], &default, file), None);
        assert_eq!(reach(&[], &own, &default, file), None);
        assert_eq!(reach(&["0.0.0.0:1883".parse().unwrap()], &own, &default, file), None);
    }

    #[test]
    fn a_listener_that_was_configured_is_to_be_replaced() {
        let own: Vec<IpAddr> = vec!["192.168.1.7".parse().unwrap()];
        let text = "[[broker.listener]]\naddress = \"127.0.0.1:1884\"\n";
        let mut settings = crate::config::parse(text, "t", Path::new("/")).unwrap().config.broker;
        let reach = |settings: &config::Broker| {
            reach(&["127.0.0.1:1884".parse().unwrap()], &own, settings, Path::new("/etc/g.toml"))
        };
        let finding = reach(&settings).unwrap();
        // Beside the old one it would be refused: only one can listen on an address.
        assert!(
            finding.fix[0].ends_with("    # in place of the one on 127.0.0.1:1884, without allow_anonymous = true")
        );
        assert!(finding.fix[0].contains("password_file"), "{finding:?}");
        settings.password_file = Some("/etc/users".into());
        let finding = reach(&settings).unwrap();
        assert!(!finding.fix[0].contains("password_file") && finding.fix[1].contains(" /etc/users "), "{finding:?}");
    }

    /// A listener that answers with `bytes`.
    fn answering(bytes: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.read_exact(&mut [0; CONNECT.len()]).unwrap();
            stream.write_all(bytes).unwrap();
        });
        address
    }

    #[test]
    fn answers_are_told_apart() {
        assert_eq!(ask(answering(&[0x20, 2, 0, 0])), Answer::Connack(0));
        assert_eq!(ask(answering(&[0x20, 2, 0, 5])), Answer::Connack(5));
        assert_eq!(ask(answering(b"HTTP/1.1 400")), Answer::Other);
        assert!(matches!(ask(answering(&[])), Answer::None(_)));
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let answer = ask(silent.local_addr().unwrap());
        assert!(answer.to_string().contains("within 1s"), "{answer}");
    }

    #[test]
    fn who_listens_is_named() {
        let machine = Machine::gather(Path::new("/"));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let config = Listener {
            address: address.to_string(),
            allow_anonymous: true,
            max_connections: 1,
            optional: false,
            tls: None,
            websocket: false,
        };
        let finding = listener_at(&machine, &config, address).unwrap();
        assert!(finding.what.contains(&format!("(pid {}", std::process::id())), "{finding:?}");
        drop(listener);
        let look = || listener_at(&machine, &config, address).unwrap();
        eventually(look, |finding| finding.what.contains("is free"));
        // TEST-NET-1 is nobody's.
        let foreign = "192.0.2.1:1883".parse().unwrap();
        assert!(listener_at(&machine, &config, foreign).unwrap().what.contains("no address of this machine"));
        let optional = Listener { optional: true, ..config };
        assert_eq!(listener_at(&machine, &optional, foreign), None);
    }
}
