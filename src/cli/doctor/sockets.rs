//! Who listens on a TCP port, and what addresses this machine has, from /proc.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use super::machine::{Machine, Process};

/// A listening socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listening {
    /// Where.
    pub address: SocketAddr,
    /// The user of the program.
    pub uid: u32,
    inode: u64,
}

/// The sockets that stand in the way of one that is to listen on `address`.
pub fn listening_on(machine: &Machine, address: SocketAddr) -> Vec<Listening> {
    let read = |file| machine.read(file).unwrap_or_default();
    let mut found = parse(&read("proc/net/tcp"));
    found.extend(parse(&read("proc/net/tcp6")));
    let clashes = |other: SocketAddr| {
        let (own, other_ip) = (address.ip().to_canonical(), other.ip().to_canonical());
        // [::] takes IPv4 too, unless told otherwise.
        let everywhere = |ip: IpAddr| ip.is_unspecified();
        other.port() == address.port() && (own == other_ip || everywhere(own) || everywhere(other_ip))
    };
    found.retain(|socket| clashes(socket.address));
    found
}

/// The processes that have one of the sockets; those of other users are seen by root only.
pub fn owners(machine: &Machine, sockets: &[Listening]) -> Vec<Process> {
    let names: Vec<String> = sockets.iter().map(|socket| format!("socket:[{}]", socket.inode)).collect();
    let has = |process: &&Process| {
        let files = fs::read_dir(machine.root.join("proc").join(process.pid.to_string()).join("fd"));
        files.into_iter().flatten().flatten().any(|file| {
            fs::read_link(file.path()).is_ok_and(|target| names.iter().any(|name| target == Path::new(name)))
        })
    };
    machine.processes.iter().filter(has).cloned().collect()
}

/// The listening sockets of /proc/net/tcp or tcp6.
fn parse(text: &str) -> Vec<Listening> {
    const LISTEN: &str = "0A";
    let line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (address, state) = (fields.get(1)?, fields.get(3)?);
        let (address, inode) = (socket_address(address)?, fields.get(9)?.parse().ok()?);
        (*state == LISTEN).then_some(Listening { address, uid: fields.get(7)?.parse().ok()?, inode })
    };
    text.lines().skip(1).filter_map(line).collect()
}

/// `0100007F:075B`: each 32 bits of the address as the machine orders them.
fn socket_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let words = (0..address.len() / 8).map(|at| u32::from_str_radix(address.get(at * 8..at * 8 + 8)?, 16).ok());
    let bytes: Vec<u8> = words.collect::<Option<Vec<u32>>>()?.into_iter().flat_map(u32::to_ne_bytes).collect();
    let ip = match (<[u8; 4]>::try_from(&bytes[..]), <[u8; 16]>::try_from(&bytes[..])) {
        (Ok(v4), _) => IpAddr::from(v4),
        (_, Ok(v6)) => IpAddr::from(v6),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// Addresses that other machines may reach: neither loopback nor link-local.
pub fn own_addresses(machine: &Machine) -> Vec<IpAddr> {
    let read = |file| machine.read(file).unwrap_or_default();
    let mut found: Vec<IpAddr> = local_v4(&read("proc/net/fib_trie")).into_iter().map(IpAddr::from).collect();
    found.extend(global_v6(&read("proc/net/if_inet6")).into_iter().map(IpAddr::from));
    found
}

/// The leaves `|-- 192.168.1.7` followed by `/32 host LOCAL`.
fn local_v4(fib_trie: &str) -> Vec<Ipv4Addr> {
    let mut found = Vec::new();
    let mut leaf: Option<Ipv4Addr> = None;
    for line in fib_trie.lines().map(str::trim_start) {
        if let Some(address) = line.strip_prefix("|-- ") {
            leaf = address.trim().parse().ok();
        } else if line.starts_with("/32 host LOCAL") {
            found.extend(leaf.filter(|address| !address.is_loopback() && !address.is_link_local()));
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// Address, interface, prefix, scope (00: global), flags, name.
fn global_v6(if_inet6: &str) -> Vec<Ipv6Addr> {
    let line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let bits = u128::from_str_radix(fields.first()?, 16).ok()?;
        (*fields.get(3)? == "00").then(|| Ipv6Addr::from_bits(bits))
    };
    if_inet6.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn listeners_are_found_with_their_process() {
        let machine = Machine::gather(Path::new("/"));
        for address in ["127.0.0.1:0", "[::1]:0"] {
            // A machine may lack IPv6.
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let address = listener.local_addr().unwrap();
            let sockets = listening_on(&machine, address);
            assert_eq!(sockets.iter().map(|socket| socket.address).collect::<Vec<_>>(), [address]);
            assert_eq!(sockets[0].uid, rustix::process::geteuid().as_raw());
            let owners = owners(&machine, &sockets);
            assert_eq!(owners.iter().map(|process| process.pid).collect::<Vec<_>>(), [std::process::id()]);
            let everywhere = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port());
            assert!(listening_on(&machine, everywhere).contains(&sockets[0]));
        }
    }

    #[test]
    fn addresses_of_this_machine_are_found() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 127.0.0.1\n        /32 host LOCAL\n     |-- 192.168.1.0\n        \
                    /24 link UNICAST\n     |-- 192.168.1.7\n        /32 host LOCAL\n     |-- 192.168.1.255\n        \
                    /32 link BROADCAST\nLocal:\n     |-- 192.168.1.7\n        /32 host LOCAL\n";
        assert_eq!(local_v4(trie), [Ipv4Addr::new(192, 168, 1, 7)]);
        let text = "00000000000000000000000000000001 01 80 10 80       lo\n\
                    20010db8000000000000000000000007 02 40 00 80     eth0\n\
                    fe80000000000000000000000000000a 02 40 20 80     eth0\n";
        assert_eq!(global_v6(text), ["2001:db8::7".parse::<Ipv6Addr>().unwrap()]);
    }

    #[test]
    fn odd_lines_are_skipped() {
        assert_eq!(parse("head\nodd\n 0: 0100007F:GGGG 0:0 0A 0 0 0 0 0 1\n"), []);
        assert_eq!(global_v6("odd\n"), Vec::<Ipv6Addr>::new());
    }
}
