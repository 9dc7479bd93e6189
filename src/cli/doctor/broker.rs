//! Findings about the broker: who has its ports, whether it answers, whether other machines reach it.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::Path;

use super::drop_in;
use super::finding::Finding;
use super::listener::Place;
use super::machine::Machine;
use super::sockets;
use crate::config;

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
                    findings.extend(Place { machine, settings, config_file, listener }.examine(address));
                }
            }
            Err(error) => {
                let what = format!("the listener {} cannot be looked up: {error}", listener.address);
                let host = listener.address.rsplit_once(':').map_or(&*listener.address, |(host, _)| host);
                findings.push(Finding::problem("broker", what).fix(format!("getent hosts {host}")));
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
        "Other machines that connect to {own}:{port} are refused. If they are meant to, write this and give each a user:"
    ));
    let drop_in = drop_in(config_file);
    let passwd = settings.password_file.clone().unwrap_or_else(|| config_file.with_file_name("passwd"));
    // Relative it would be beside the drop-in.
    let passwd = std::path::absolute(&passwd).unwrap_or(passwd);
    let users = || format!("[broker]\npassword_file = {:?}", passwd.display().to_string());
    let users = settings.password_file.is_none().then(users);
    let listener = format!("[[broker.listener]]\naddress = \"0.0.0.0:{port}\"");
    // Only of the listeners that nobody has configured one is optional, and they go as soon as there is another.
    let finding = if settings.listeners.iter().any(|listener| listener.optional) {
        let users = users.map(|users| format!("{users}\n\n")).unwrap_or_default();
        finding.fix(format!("# in {}\n{users}{listener}", drop_in.display()))
    } else {
        let finding = users
            .into_iter()
            .fold(finding, |finding, users| finding.fix(format!("# in {}\n{users}", drop_in.display())));
        let old = format!("in place of the one on {first}, without allow_anonymous = true");
        finding.fix(format!("# in {}, {old}\n{listener}", config_file.display()))
    };
    Some(finding.fix(format!("sudo gatepost passwd {} USER", passwd.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_for_this_machine_only_is_told_in_a_network() {
        let loopback: Vec<SocketAddr> = vec!["127.0.0.1:1883".parse().unwrap(), "[::1]:1883".parse().unwrap()];
        let own: Vec<IpAddr> = vec!["192.168.1.7".parse().unwrap()];
        let file = Path::new("/etc/gatepost/gatepost.toml");
        let read = |text: &str| crate::config::parse(text, "t", Path::new("/")).map(|loaded| loaded.config.broker);
        let default = read("").unwrap();
        let finding = reach(&loopback, &own, &default, file).unwrap();
        assert!(finding.why.contains("192.168.1.7:1883"), "{finding:?}");
        assert!(finding.fix[0].contains("password_file = \"/etc/gatepost/passwd\""), "{finding:?}");
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
        let place = "# in /etc/g.toml, in place of the one on 127.0.0.1:1884, without allow_anonymous = true\n";
        assert!(finding.fix[1].starts_with(place), "{finding:?}");
        assert!(finding.fix[0].contains("password_file = \"/etc/passwd\""), "{finding:?}");
        settings.password_file = Some("/etc/users".into());
        let finding = reach(&settings).unwrap();
        assert!(!finding.fix[0].contains("password_file") && finding.fix[1].contains(" /etc/users "), "{finding:?}");
    }
}
