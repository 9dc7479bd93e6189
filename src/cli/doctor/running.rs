//! Which process is the gateway of a configuration: the one that has its control socket, whatever its name.

use std::io;
use std::path::{Path, PathBuf};

use rustix::net::sockopt::socket_peercred;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::config::{SYSTEM_CONTROL, default_control_socket};

/// The gateway that runs with the configuration that is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Running {
    /// With this process id.
    As(u32),
    /// None does.
    No,
    /// There is no configuration, it has no control socket, or whoever asks may not connect to it.
    Unknown,
}

impl Running {
    /// Looks for the one with the control socket of a configuration; `of_service`: it is the one that the service runs with.
    pub fn find(control: Option<&Path>, of_service: bool) -> Running {
        places(control, of_service).iter().map(|path| Running::at(path)).find(|found| *found != Running::No).unwrap_or(
            match control {
                Some(_) => Running::No,
                None => Running::Unknown,
            },
        )
    }

    /// Connects to the socket at `path` and says nothing: whose it is the kernel knows, even if the gateway hangs.
    fn at(path: &Path) -> Running {
        let connect = || {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            // One that hangs may have no room for another connection.
            socket.set_nonblocking(true)?;
            socket.connect(&SockAddr::unix(path)?)?;
            Ok(socket_peercred(&socket)?.pid.as_raw_nonzero().get())
        };
        match connect() {
            // 0: it is in a container that is not ours.
            Ok(pid) => u32::try_from(pid).ok().filter(|&pid| pid > 0).map_or(Running::Unknown, Running::As),
            Err(error) if is_absent(&error) => Running::No,
            Err(_) => Running::Unknown,
        }
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::NotADirectory)
}

/// Where its control socket is. If the configuration names none, that depends on who starts the gateway: not on whoever
/// asks about the service, and with sudo on the user who has called that, too.
fn places(control: Option<&Path>, of_service: bool) -> Vec<PathBuf> {
    let is_default = control == default_control_socket().as_deref();
    if of_service && is_default {
        return vec![SYSTEM_CONTROL.into()];
    }
    let mut places: Vec<PathBuf> = control.map(Path::to_owned).into_iter().collect();
    let caller = sudo_user().filter(|_| is_default);
    places.extend(caller.map(|user| PathBuf::from(format!("/run/user/{user}/gatepost/control.sock"))));
    places
}

/// Who has called sudo.
fn sudo_user() -> Option<u32> {
    std::env::var("SUDO_UID").ok().filter(|_| rustix::process::geteuid().is_root())?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn who_has_the_socket_is_known_without_an_answer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let find = |path: &Path| Running::find(Some(path), false);
        assert_eq!(find(&path), Running::No);
        let listener = UnixListener::bind(&path).unwrap();
        assert_eq!(find(&path), Running::As(std::process::id()));
        drop(listener);
        assert_eq!(find(&path), Running::No, "a socket of the dead is as good as none");
        assert_eq!(find(&path.join("below")), Running::No);
        assert_eq!(find(Path::new(&"x".repeat(500))), Running::Unknown);
    }

    #[test]
    fn a_gateway_with_no_room_for_a_connection_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        socket.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        socket.listen(0).unwrap();
        let _first = std::os::unix::net::UnixStream::connect(&path).unwrap();
        assert_eq!(Running::find(Some(&path), false), Running::Unknown);
    }

    #[test]
    fn the_service_has_the_socket_of_the_system() {
        let default = default_control_socket();
        assert_eq!(places(default.as_deref(), true), [Path::new(SYSTEM_CONTROL)]);
        let named = Path::new("/run/other.sock");
        assert_eq!(places(Some(named), true), [named]);
        assert_eq!(places(Some(named), false), [named]);
    }
}
