//! What the service manager is told, sd_notify(3): plain datagrams on the socket that `$NOTIFY_SOCKET` names. A crate for
//! it would bring more than the few lines that this takes.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// The way to the service manager, if there is one.
#[derive(Debug, Default)]
pub struct Notifier {
    socket: Option<UnixDatagram>,
    watchdog: Option<Duration>,
}

impl Notifier {
    /// As the environment says. Without `$NOTIFY_SOCKET` nothing is ever said.
    pub fn from_environment() -> Notifier {
        let Some(name) = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
            return Notifier::default();
        };
        let variable = |name| std::env::var(name).ok();
        let watchdog = watchdog(variable("WATCHDOG_USEC"), variable("WATCHDOG_PID"), std::process::id());
        match connect(&name) {
            Ok(socket) => Notifier { socket: Some(socket), watchdog },
            Err(error) => {
                tracing::warn!(socket = ?name, %error, "cannot reach the service manager by $NOTIFY_SOCKET");
                Notifier::default()
            }
        }
    }

    /// Whether somebody listens.
    pub fn is_on(&self) -> bool {
        self.socket.is_some()
    }

    /// How long the service manager waits for a sign of life, if it does.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// Everything runs as configured.
    pub fn ready(&self) {
        self.say("READY=1");
    }

    /// A reload begins; [`Notifier::ready`] says when it is over, also if it failed (`Type=notify-reload`).
    pub fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        self.say(&format!("RELOADING=1\nMONOTONIC_USEC={}", now.tv_sec * 1_000_000 + now.tv_nsec / 1000));
    }

    /// The end has begun.
    pub fn stopping(&self) {
        self.say("STOPPING=1");
    }

    /// A sign of life.
    pub fn alive(&self) {
        self.say("WATCHDOG=1");
    }

    /// One line for `systemctl status`.
    pub fn status(&self, text: &str) {
        self.say(&format!("STATUS={text}"));
    }

    fn say(&self, text: &str) {
        let Some(socket) = &self.socket else { return };
        if let Err(error) = socket.send(text.as_bytes()) {
            tracing::warn!(text, %error, "the service manager does not take a message");
        }
    }
}

/// A name that begins with `@` is one in the abstract namespace, unix(7).
fn connect(name: &OsStr) -> io::Result<UnixDatagram> {
    let address = match name.as_bytes() {
        [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest)?,
        path => SocketAddr::from_pathname(OsStr::from_bytes(path))?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// `$WATCHDOG_USEC`, unless `$WATCHDOG_PID` says that another process is meant (sd_watchdog_enabled(3)).
fn watchdog(microseconds: Option<String>, pid: Option<String>, own: u32) -> Option<Duration> {
    let is_other = pid.is_some_and(|pid| pid.parse() != Ok(own));
    let microseconds = microseconds?.parse().ok().filter(|&microseconds: &u64| microseconds > 0 && !is_other)?;
    Some(Duration::from_micros(microseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watchdog_is_for_one_process() {
        let second = || Some("1000000".to_owned());
        assert_eq!(watchdog(second(), None, 7), Some(Duration::from_secs(1)));
        assert_eq!(watchdog(second(), Some("7".to_owned()), 7), Some(Duration::from_secs(1)));
        assert_eq!(watchdog(second(), Some("8".to_owned()), 7), None);
        for nothing in [None, Some("0"), Some("soon")] {
            assert_eq!(watchdog(nothing.map(str::to_owned), None, 7), None);
        }
    }

    #[test]
    fn abstract_names_and_paths_are_reached() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let name = format!("gatepost-test-{}", fastrand::u64(..));
        let manager = |address| UnixDatagram::bind_addr(&address).unwrap();
        let managers = [
            (path.clone().into_os_string(), manager(SocketAddr::from_pathname(&path).unwrap())),
            (format!("@{name}").into(), manager(SocketAddr::from_abstract_name(&name).unwrap())),
        ];
        for (name, manager) in managers {
            let notifier = Notifier { socket: Some(connect(&name).unwrap()), watchdog: None };
            notifier.reloading();
            let mut buffer = [0; 100];
            let size = manager.recv(&mut buffer).unwrap();
            let text = std::str::from_utf8(&buffer[..size]).unwrap();
            let microseconds = text.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
            assert!(microseconds.parse::<u64>().unwrap() > 0);
        }
        assert!(connect(OsStr::new("/nowhere/notify")).is_err());
    }
}
