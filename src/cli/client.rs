//! The other end of the control socket: how the commands talk to a running gateway.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;

use super::{exit, output};
use crate::config::{MAX_SOCKET_PATH, SYSTEM_CONTROL, default_control_socket};
use crate::control::protocol::{Answer, Code, Request};
use crate::machine::accounts::Accounts;

/// How long an answer may take that needs nothing but the gateway itself.
pub(super) const ANSWER_TIME: Duration = Duration::from_secs(10);

/// The group of the packaged service.
const SERVICE_GROUP: &str = "gatepost";

/// `--socket`, for each command that asks a running gateway.
#[derive(Debug, clap::Args)]
pub struct Socket {
    /// The gateway's control socket [default: $RUNTIME_DIRECTORY/control.sock, /run/gatepost/control.sock for root,
    /// $XDG_RUNTIME_DIR/gatepost/control.sock, else that of root's gateway]
    #[arg(long = "socket", value_name = "PATH")]
    path: Option<PathBuf>,
}

/// A connection to the gateway.
#[derive(Debug)]
pub(super) struct Client {
    stream: BufReader<UnixStream>,
}

/// Why a command failed, and how it ends.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) exit: u8,
    pub(super) message: String,
    /// The gateway is there, but had no answer in time.
    pub(super) is_late: bool,
}

impl Failure {
    fn unavailable(message: impl Into<String>) -> Failure {
        Failure { exit: exit::UNAVAILABLE, message: message.into(), is_late: false }
    }

    /// Says why on stderr.
    pub(super) fn report(&self) -> ExitCode {
        // What a reload finds is said in the way of `gatepost check`, which has the word already.
        let lead = if self.message.starts_with("error: ") { "" } else { "error: " };
        output::complain(format_args!("{lead}{}", self.message));
        ExitCode::from(self.exit)
    }
}

impl Socket {
    /// Where a gateway may be, in the order in which that is tried.
    fn places(&self) -> Vec<PathBuf> {
        if let Some(path) = &self.path {
            return vec![path.clone()];
        }
        let mut places: Vec<PathBuf> = default_control_socket().into_iter().collect();
        if places.iter().all(|place| place != Path::new(SYSTEM_CONTROL)) {
            places.push(SYSTEM_CONTROL.into());
        }
        places
    }

    /// Connects to the first gateway that is there.
    pub(super) fn connect(&self) -> Result<Client, Failure> {
        let places = self.places();
        let mut absent = Vec::new();
        for place in &places {
            match UnixStream::connect(place) {
                Ok(stream) => return Ok(Client { stream: BufReader::new(stream) }),
                Err(error) if is_absent(&error) => absent.push(place.display().to_string()),
                Err(error) => return Err(Failure::unavailable(unreachable(place, &error))),
            }
        }
        Err(Failure::unavailable(format!(
            "no gateway runs: nobody answers at {}\nhint: `systemctl status gatepost` says how the service is, `sudo \
             systemctl start gatepost` starts it, and `gatepost run -c FILE` starts one without a service; if its \
             [gateway] control is another path, name that with --socket",
            absent.join(" or at ")
        )))
    }

    /// Connects, asks and returns what is answered.
    pub(super) fn ask(&self, request: &Request, limit: Duration) -> Result<Value, Failure> {
        self.connect()?.ask(request, limit)
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::NotADirectory)
}

fn unreachable(place: &Path, error: &io::Error) -> String {
    let hint = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            let gid = fs::metadata(place).ok().map(|file| file.gid());
            who_may(&Accounts::read(Path::new("/")), rustix::process::geteuid().as_raw(), gid)
        }
        io::ErrorKind::InvalidInput => format!("the path of a socket has at most {MAX_SOCKET_PATH} bytes"),
        _ => return format!("cannot talk to the gateway at {}: {error}", place.display()),
    };
    format!("cannot talk to the gateway at {}: {error}\nhint: {hint}", place.display())
}

/// How the user `uid` gets to a socket of the group `gid`; `None`: that is in a folder that he may not look into.
fn who_may(accounts: &Accounts, uid: u32, gid: Option<u32>) -> String {
    // To be in root's group is more than anybody should need.
    if gid == Some(0) {
        return "use sudo; a gateway that runs as user and group gatepost lets that group".to_owned();
    }
    let group =
        gid.map_or_else(|| SERVICE_GROUP.to_owned(), |gid| accounts.group_name(gid).unwrap_or_else(|| gid.to_string()));
    let user = accounts.user_name(uid).and_then(|name| accounts.user(&name));
    if user.is_some_and(|user| gid.is_some_and(|gid| user.groups.contains(&gid))) {
        return format!("you are in the group {group}, but not yet in this session: log in again, or `newgrp {group}`");
    }
    format!("the group {group} may: `sudo usermod -aG {group} $USER`, then log in again; or use sudo")
}

impl Client {
    /// Asks, and returns what is answered within `limit`.
    pub(super) fn ask(&mut self, request: &Request, limit: Duration) -> Result<Value, Failure> {
        let mut line = serde_json::to_vec(request).map_err(|error| Failure::unavailable(error.to_string()))?;
        line.push(b'\n');
        self.set_limit(Some(limit))?;
        // A gateway that has too many connections says so and closes: what it said tells more than a broken pipe.
        let asked = self.stream.get_mut().write_all(&line);
        let answer = self.line()?;
        match answer.as_deref().map(serde_json::from_str) {
            Some(Ok(Answer::Ok(value))) => Ok(value),
            Some(Ok(Answer::Error(refusal))) => {
                let exit = match refusal.code {
                    Code::Config => exit::CONFIG,
                    Code::Unavailable => exit::UNAVAILABLE,
                    Code::BadRequest | Code::UnknownDevice | Code::NotWritten | Code::Failed => exit::FAILURE,
                };
                Err(Failure { exit, message: refusal.message, is_late: false })
            }
            Some(Err(error)) => Err(Failure::unavailable(format!("what answers is no gateway: {error}"))),
            None => Err(match asked {
                Ok(()) => Failure::unavailable("the gateway has stopped"),
                Err(error) => lost(&error),
            }),
        }
    }

    /// The next line; `None` when the gateway has closed.
    pub(super) fn line(&mut self) -> Result<Option<String>, Failure> {
        let mut line = String::new();
        match self.stream.read_line(&mut line) {
            Ok(0) => Ok(None),
            Ok(_) => Ok(Some(line)),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(None),
            Err(error) => Err(lost(&error)),
        }
    }

    /// Whether the next line has to be waited for.
    pub(super) fn is_drained(&self) -> bool {
        self.stream.buffer().is_empty()
    }

    /// How long [`Client::line`] waits; `None`: for ever.
    pub(super) fn set_limit(&mut self, limit: Option<Duration>) -> Result<(), Failure> {
        self.stream.get_ref().set_read_timeout(limit).map_err(|error| lost(&error))
    }
}

fn lost(error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            let message = "the gateway is there, but has not answered in time\nhint: `journalctl -u gatepost -e` shows \
                           what it does; `sudo systemctl restart gatepost` starts it afresh";
            Failure { is_late: true, ..Failure::unavailable(message) }
        }
        _ => Failure::unavailable(format!("the gateway is gone: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_gateway_it_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let socket = Socket { path: Some(path.clone()) };
        let failure = socket.connect().unwrap_err();
        assert_eq!(failure.exit, 69);
        assert!(failure.message.contains("gatepost run") && failure.message.contains("--socket"), "{failure:?}");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert_eq!(socket.connect().unwrap_err(), failure, "a socket of the dead is as good as none");
    }

    #[test]
    fn a_gateway_that_hangs_is_told_from_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        // Connections wait there, and nobody takes them.
        let _hung = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let failure = Socket { path: Some(path) }.ask(&Request::Status, Duration::from_millis(10)).unwrap_err();
        assert!(failure.is_late && failure.exit == 69, "{failure:?}");
        assert!(failure.message.contains("hint: "), "{failure:?}");
    }

    #[test]
    fn who_is_in_the_way_of_the_rights_is_told_what_to_do() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        fs::write(root.path().join("etc/passwd"), "pi:x:1000:1000::/home/pi:/bin/bash\n").unwrap();
        fs::write(root.path().join("etc/group"), "gatepost:x:996:\nadm:x:4:pi\n").unwrap();
        let accounts = Accounts::read(root.path());
        let add = "the group gatepost may: `sudo usermod -aG gatepost $USER`, then log in again; or use sudo";
        assert_eq!(who_may(&accounts, 1000, Some(996)), add);
        assert_eq!(who_may(&accounts, 1000, None), add);
        assert!(who_may(&accounts, 1000, Some(4)).contains("`newgrp adm`"));
        assert!(who_may(&accounts, 1000, Some(0)).starts_with("use sudo"));
        assert!(who_may(&accounts, 7, Some(987_654)).contains("-aG 987654 "));
    }
}
