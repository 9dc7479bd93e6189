//! `host:port`, and blocks of addresses.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::error::Fault;

/// An address block, `192.168.1.0/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// Its first address.
    pub address: IpAddr,
    /// How many leading bits count.
    pub prefix: u8,
}

impl Network {
    /// Whether `peer` is in the block; an IPv4-mapped IPv6 address counts as IPv4.
    pub fn contains(&self, peer: SocketAddr) -> bool {
        let ((block, block_v4), (peer, peer_v4)) = (bits(self.address), bits(peer.ip()));
        block_v4 == peer_v4 && (self.prefix == 0 || (block ^ peer) >> (128 - u32::from(self.prefix)) == 0)
    }
}

/// The bits of an address, left-aligned, and whether it is IPv4.
fn bits(address: IpAddr) -> (u128, bool) {
    match address.to_canonical() {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()) << 96, true),
        IpAddr::V6(v6) => (v6.to_bits(), false),
    }
}

/// Reads `192.168.1.0/24`, or one address. Bits behind the prefix are cleared.
pub(super) fn network(text: &str) -> Result<Network, Fault> {
    let example = "write for example \"192.168.1.0/24\", \"fd00::/8\" or one address";
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    };
    let address: IpAddr =
        address.parse().map_err(|_| Fault::new(format!("`{address}` is not an IP address")).hint(example))?;
    let width = if address.is_ipv4() { 32 } else { 128 };
    let mut prefix = match prefix {
        None => width,
        Some(prefix) => prefix
            .parse::<u8>()
            .ok()
            .filter(|prefix| *prefix <= width)
            .ok_or_else(|| Fault::new(format!("the prefix must be a number from 0 to {width}")).hint(example))?,
    };
    if address.is_ipv6() && address.to_canonical().is_ipv4() {
        prefix = prefix
            .checked_sub(96)
            .ok_or_else(|| Fault::new("the prefix of an IPv4-mapped block must be at least 96").hint(example))?;
    }
    let (all, is_v4) = bits(address);
    let kept = if prefix == 0 { 0 } else { all & (u128::MAX << (128 - u32::from(prefix))) };
    // IPv4 is left-aligned: its 32 bits are the upper ones.
    let address = if is_v4 { IpAddr::from(((kept >> 96) as u32).to_be_bytes()) } else { Ipv6Addr::from(kept).into() };
    Ok(Network { address, prefix })
}

/// Checks `host:port`; the host is a name, an IPv4 address, or an IPv6 address in brackets. Port 0 only if `any_port`.
pub(super) fn host_port(text: &str, any_port: bool) -> Result<String, Fault> {
    let example = "write for example \"192.168.1.20:8080\", \"example.com:8080\" or \"[::1]:8080\"";
    let (host, port) = text.rsplit_once(':').ok_or_else(|| {
        let hint = match text.parse::<u16>() {
            Ok(port) => format!("write for example \"0.0.0.0:{port}\" or \"127.0.0.1:{port}\""),
            Err(_) => example.to_owned(),
        };
        Fault::new("the address has no port").hint(hint)
    })?;
    check_host(host, port)?;
    match port.parse::<u16>() {
        Ok(0) if !any_port => Err(Fault::new("port 0 is nothing to connect to").hint("ports are 1 to 65535")),
        Ok(_) if port.bytes().all(|digit| digit.is_ascii_digit()) => Ok(text.to_owned()),
        _ => Err(Fault::new(format!("`{port}` is not a port"))
            .hint("ports are 0 to 65535")
            .at(host.len() + 1..text.len())),
    }
}

fn check_host(host: &str, port: &str) -> Result<(), Fault> {
    if host.is_empty() {
        let hint = format!("write \"0.0.0.0:{port}\" for every IPv4 address of this machine, \"[::]:{port}\" for IPv6");
        return Err(Fault::new("the address has no host").hint(hint));
    }
    if let Some(inner) = host.strip_prefix('[') {
        let address = inner.strip_suffix(']').and_then(|inner| inner.parse::<Ipv6Addr>().ok());
        return match address {
            Some(_) => Ok(()),
            None => Err(Fault::new(format!("`{host}` is not an IPv6 address in brackets")).at(0..host.len())),
        };
    }
    if host.contains(':') {
        return Err(Fault::new("an IPv6 address stands in brackets").hint(format!("write \"[{host}]:{port}\"")));
    }
    let good = |label: &str| {
        (1..=63).contains(&label.len()) && label.chars().all(|c| c.is_alphanumeric() || matches!(c, '-' | '_'))
    };
    let name = host.strip_suffix('.').unwrap_or(host);
    let numeric = name.chars().all(|c| c.is_ascii_digit() || c == '.');
    if name.len() > 253 || !name.split('.').all(good) || (numeric && name.parse::<std::net::Ipv4Addr>().is_err()) {
        return Err(Fault::new(format!("`{host}` is not a host name or IP address")).at(0..host.len()));
    }
    Ok(())
}

/// Whether two addresses to listen on cannot both be bound: one port, and one host or all of its family.
pub(super) fn clash(a: &str, b: &str) -> bool {
    if a.starts_with("unix:") {
        return a == b;
    }
    match (a.parse::<SocketAddr>(), b.parse::<SocketAddr>()) {
        (Ok(a), Ok(b)) => {
            let same_host = a.ip() == b.ip()
                || (a.is_ipv4() == b.is_ipv4() && (a.ip().is_unspecified() || b.ip().is_unspecified()));
            a.port() != 0 && a.port() == b.port() && same_host
        }
        _ => a.eq_ignore_ascii_case(b) && !a.ends_with(":0"),
    }
}

/// Whether only this machine can reach what listens on `address`, be it a unix socket.
pub(super) fn is_local(address: &str) -> bool {
    address.starts_with("unix:") || is_loopback(address)
}

/// Whether only this machine can reach what listens on `host:port`.
pub(super) fn is_loopback(address: &str) -> bool {
    match address.parse::<SocketAddr>() {
        Ok(address) => address.ip().to_canonical().is_loopback(),
        Err(_) => address.rsplit_once(':').is_some_and(|(host, _)| host.eq_ignore_ascii_case("localhost")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked() {
        for good in ["0.0.0.0:1883", "[::]:1883", "localhost:1", "a-b.example.com:65535", "[fe80::1]:80", "host.:1"] {
            assert_eq!(host_port(good, false), Ok(good.to_owned()));
        }
        assert!(host_port("0.0.0.0:0", true).is_ok());
        for (bad, message) in [
            ("0.0.0.0:0", "port 0 is nothing to connect to"),
            ("1883", "the address has no port"),
            ("", "the address has no port"),
            (":1883", "the address has no host"),
            ("::1:1883", "an IPv6 address stands in brackets"),
            ("[::g]:1", "`[::g]` is not an IPv6 address in brackets"),
            ("a b:1", "`a b` is not a host name or IP address"),
            ("1.2.3:1", "`1.2.3` is not a host name or IP address"),
            ("1.2.3.256:1", "`1.2.3.256` is not a host name or IP address"),
            ("host:65536", "`65536` is not a port"),
            ("host:+1", "`+1` is not a port"),
            ("host:", "`` is not a port"),
        ] {
            assert_eq!(host_port(bad, false).unwrap_err().message, message, "{bad}");
        }
    }

    #[test]
    fn blocks_are_read_and_match() {
        let contains = |block: &str, peer: &str| network(block).unwrap().contains(peer.parse().unwrap());
        assert!(contains("192.168.1.77/24", "192.168.1.1:5"));
        assert!(!contains("192.168.1.0/24", "192.168.2.1:5"));
        assert!(contains("192.168.1.0/24", "[::ffff:192.168.1.9]:5"));
        assert!(contains("::ffff:10.0.0.0/104", "10.1.2.3:5"));
        assert!(contains("0.0.0.0/0", "1.2.3.4:5") && !contains("0.0.0.0/0", "[fd00::1]:5"));
        assert!(contains("fd00::/8", "[fd12::1]:5") && !contains("fd00::/8", "[fe00::1]:5"));
        assert!(contains("10.0.0.1", "10.0.0.1:5") && !contains("10.0.0.1", "10.0.0.2:5"));
        assert_eq!(network("192.168.1.77/24").unwrap().address.to_string(), "192.168.1.0");
        for bad in ["", "10.0.0.0/33", "fd00::/129", "10.0.0/8", "10.0.0.0/", "10.0.0.0/x", "::ffff:1.2.3.4/8"] {
            assert!(network(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn clashes_are_found() {
        for (a, b, expected) in [
            ("0.0.0.0:1883", "0.0.0.0:1883", true),
            ("0.0.0.0:1883", "127.0.0.1:1883", true),
            ("127.0.0.1:1883", "127.0.0.2:1883", false),
            ("0.0.0.0:1883", "[::]:1883", false),
            ("0.0.0.0:0", "0.0.0.0:0", false),
            ("Host:1", "host:1", true),
            ("host:1", "host:2", false),
            ("unix:/a", "unix:/a", true),
            ("unix:/a", "unix:/A", false),
            ("unix:/a:0", "unix:/a:0", true),
        ] {
            assert_eq!(clash(a, b), expected, "{a} {b}");
        }
    }
}
