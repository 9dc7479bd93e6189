//! Why the broker did not start.

use std::io;

use super::auth::FileError;
use super::bus::BusError;
use crate::config;

/// Why the broker did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener's address is taken.
    #[error(
        "cannot listen on {address}: {source}; hint: another gatepost or mosquitto may be there: \
         `ss -ltnp` (of a unix socket, `ss -lxp`) shows who, `systemctl stop mosquitto` stops mosquitto"
    )]
    InUse {
        /// As configured.
        address: String,
        /// EADDRINUSE.
        source: io::Error,
    },
    /// A listener cannot be bound for another reason.
    #[error("cannot listen on {address}: {source}{}", hint(address, source))]
    Bind {
        /// As configured.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The certificates or keys of a listener cannot be used.
    #[error("cannot speak TLS on {address}: {source}")]
    Tls {
        /// As configured.
        address: String,
        /// Why.
        source: config::TlsError,
    },
    /// `password_file` or `acl_file` cannot be used.
    #[error(transparent)]
    Access(#[from] FileError),
    /// The router did not start.
    #[error("cannot start the message router: {0}")]
    Bus(#[from] BusError),
}

/// Everything that is wrong with `password_file` and `acl_file`.
#[derive(Debug)]
pub struct AccessErrors(pub Vec<FileError>);

impl std::fmt::Display for AccessErrors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let lines: Vec<String> = self.0.iter().map(|error| format!("error: {error}")).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for AccessErrors {}

fn hint(address: &str, error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied if !address.starts_with("unix:") => {
            "; hint: a port below 1024 takes AmbientCapabilities=CAP_NET_BIND_SERVICE and \
             CapabilityBoundingSet=CAP_NET_BIND_SERVICE in the unit (`systemctl edit gatepost`)"
        }
        io::ErrorKind::AddrNotAvailable => "; hint: `ip address` shows which this machine has; 0.0.0.0 is all of them",
        // What the resolver says has no number; all that sockets say has one.
        _ if error.raw_os_error().is_none() && !address.starts_with("unix:") => {
            "; hint: `getent hosts NAME` shows what this machine knows of a name: correct it or add it to /etc/hosts, or \
             listen on an address, such as 0.0.0.0 for all that this machine has"
        }
        _ => "",
    }
}

impl StartError {
    /// Whether the configuration is to blame, and not the machine.
    pub fn is_config(&self) -> bool {
        matches!(self, StartError::Tls { .. } | StartError::Access(_))
    }

    /// A listener at `address` cannot be bound.
    pub(super) fn bind(address: &str, source: io::Error) -> StartError {
        let address = address.to_owned();
        match source.kind() {
            io::ErrorKind::AddrInUse => StartError::InUse { address, source },
            _ => StartError::Bind { address, source },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::ToSocketAddrs;

    use super::*;

    #[test]
    fn a_name_that_nobody_knows_has_a_hint() {
        // A label has 63 letters at most (RFC 1035, section 2.3.4): no name server is asked.
        let address = format!("{}:1883", "a".repeat(64));
        let error = StartError::bind(&address, address.to_socket_addrs().unwrap_err()).to_string();
        assert!(error.contains("; hint: `getent hosts NAME`"), "{error}");
    }
}
