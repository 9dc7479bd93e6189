//! What a service manager sees: its socket is one of the test, which is all that systemd is to the gateway.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::common::{DEADLINE, LISTENER, Mqtt, Process, gatepost};

pub struct Manager {
    socket: UnixDatagram,
    dir: TempDir,
}

impl Manager {
    pub fn new() -> Manager {
        let dir = TempDir::new().unwrap();
        let socket = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        Manager { socket, dir }
    }

    pub fn configure(&self, devices: &str) {
        let text = format!(
            "[gateway]\nname = \"test\"\nstate_dir = \"state\"\n[log]\nformat = \"plain\"\n\
             {LISTENER}{devices}"
        );
        std::fs::write(self.dir.path().join("gatepost.toml"), text).unwrap();
    }

    /// Where the config and the state are.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn start(&self, watchdog: Option<Duration>) -> Process {
        Process::spawn(self.command(watchdog))
    }

    /// The gateway, not started yet.
    pub fn command(&self, watchdog: Option<Duration>) -> Command {
        let mut command = gatepost(&["run", "-c"]);
        command.arg(self.dir.path().join("gatepost.toml")).env("NOTIFY_SOCKET", self.dir.path().join("notify"));
        if let Some(period) = watchdog {
            command.env("WATCHDOG_USEC", period.as_micros().to_string());
        }
        command
    }

    fn next(&self) -> String {
        let mut buffer = [0; 1000];
        let size = self.socket.recv(&mut buffer).expect("a message");
        String::from_utf8(buffer[..size].to_vec()).unwrap()
    }

    /// Skips messages until one begins so.
    pub fn expect(&self, beginning: &str) -> String {
        loop {
            let text = self.next();
            if text.starts_with(beginning) {
                return text;
            }
        }
    }
}

pub fn port(process: &Process) -> u16 {
    let line = process.find_all(&["listening", "address="]);
    let address = line.split("address=").nth(1).unwrap().split_whitespace().next().unwrap();
    address.parse::<std::net::SocketAddr>().unwrap().port()
}

#[test]
fn ready_reloading_status_and_stopping_are_told() {
    let manager = Manager::new();
    manager.configure("");
    let mut gateway = manager.start(None);
    assert_eq!(manager.next(), "READY=1");
    let client = Mqtt::connect(port(&gateway));
    assert_eq!(manager.expect("STATUS=0 of 0 devices online, 1"), "STATUS=0 of 0 devices online, 1 clients");

    manager.configure("[device.s]\ntcp_server = { listen = \"127.0.0.1:0\" }\npublish = \"s\"\n");
    gateway.signal(Signal::HUP);
    let reloading = manager.expect("RELOADING=1");
    let since = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap().parse::<u64>().unwrap();
    assert!(since > 0);
    manager.expect("READY=1");
    manager.expect("STATUS=1 of 1 devices online, 1 clients");
    drop(client);
    manager.expect("STATUS=1 of 1 devices online, 0 clients");

    // A reload that fails is over too.
    manager.configure("[devise]\n");
    gateway.signal(Signal::HUP);
    manager.expect("RELOADING=1");
    manager.expect("READY=1");

    gateway.signal(Signal::TERM);
    manager.expect("STOPPING=1");
    assert_eq!(gateway.wait(Duration::from_secs(5)).code(), Some(0));
}

#[test]
fn an_idle_gateway_says_nothing_more() {
    let manager = Manager::new();
    manager.configure("");
    let _gateway = manager.start(None);
    manager.expect("STATUS=");
    manager.socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    assert!(manager.socket.recv(&mut [0; 100]).is_err());
}

#[test]
fn the_watchdog_is_fed_in_half_of_its_time() {
    let manager = Manager::new();
    manager.configure("");
    let period = Duration::from_millis(400);
    let _gateway = manager.start(Some(period));
    manager.expect("WATCHDOG=1");
    let start = Instant::now();
    for _ in 0..5 {
        manager.expect("WATCHDOG=1");
    }
    // Early ones would be wake-ups for nothing; late ones depend on the machine.
    assert!(start.elapsed() >= period * 2, "{:?}", start.elapsed());
}

#[test]
#[cfg(feature = "testing")]
fn the_watchdog_starves_when_the_runtime_hangs() {
    use std::io::Write;

    let manager = Manager::new();
    let device = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = device.local_addr().unwrap();
    manager.configure(&format!("[device.d]\ntcp = {{ connect = \"{address}\" }}\npublish = \"d\"\n"));
    let _gateway = manager.start(Some(Duration::from_millis(200)));
    manager.expect("WATCHDOG=1");
    let (mut link, _) = device.accept().unwrap();
    link.write_all(b"gatepost-test-hang\n").unwrap();
    manager.socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let start = Instant::now();
    while manager.socket.recv(&mut [0; 100]).is_ok() {
        assert!(start.elapsed() < DEADLINE, "it is fed for ever");
    }
}
