//! `gatepost run` as a user starts it, on a free port and in a folder of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use super::process::Process;

const HEAD: &str = r#"
[gateway]
name = "test"
state_dir = "state"
control = "control.sock"
"#;

const LOG: &str = r#"
[log]
level = "info"
format = "plain"
"#;

/// A log without the clients of a storm.
pub const QUIET_LOG: &str = r#"
[log]
level = "info,gatepost::broker=error,gatepost::broker::listener=info"
format = "plain"
"#;

/// A listener on a free port, which lets everybody in.
pub const LISTENER: &str = r#"
[[broker.listener]]
address = "127.0.0.1:0"
allow_anonymous = true
"#;

/// Killed when dropped; its log is shown if the test fails.
pub struct Gateway {
    process: Process,
    dir: TempDir,
    port: u16,
}

/// The binary under test with `args`. `GATEPOST_BIN` names another build of it.
pub fn gatepost(args: &[&str]) -> Command {
    let binary = std::env::var_os("GATEPOST_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_gatepost").into());
    let mut command = Command::new(binary);
    command.args(args).env_remove("GATEPOST_LOG").env_remove("STATE_DIRECTORY").env_remove("RUNTIME_DIRECTORY");
    command
}

impl Gateway {
    /// Starts with the given devices beside a listener on a free port, and waits until it is ready.
    pub fn start(devices: &str) -> Gateway {
        Gateway::start_in(TempDir::new().unwrap(), devices)
    }

    /// As [`Gateway::start`], in a folder that holds what the config names.
    pub fn start_in(dir: TempDir, devices: &str) -> Gateway {
        Gateway::start_with(dir, &format!("{LISTENER}{devices}"))
    }

    /// Starts with a config that brings its own `[broker]`.
    pub fn start_with(dir: TempDir, config: &str) -> Gateway {
        let process = Gateway::spawn(dir.path(), config);
        process.find("ready");
        let port = port_of(&process.find_all(&["listening", "address="]));
        Gateway { process, dir, port }
    }

    /// As [`Gateway::start_in`], by a shell that does `before` first.
    pub fn start_after(dir: TempDir, before: &str) -> Gateway {
        Gateway::start_by(dir, Command::new("sh"), before)
    }

    /// The same, with a mount namespace of its own, where `before` is root.
    pub fn start_unshared(dir: TempDir, before: &str) -> Gateway {
        let mut unshare = Command::new("unshare");
        unshare.args(if rustix::process::getuid().is_root() { &["-m", "sh"][..] } else { &["-r", "-m", "sh"] });
        Gateway::start_by(dir, unshare, before)
    }

    fn start_by(dir: TempDir, mut shell: Command, before: &str) -> Gateway {
        let file = dir.path().join("gatepost.toml");
        std::fs::write(&file, format!("{HEAD}{LOG}{LISTENER}")).unwrap();
        let run = gatepost(&["run", "-c", file.to_str().unwrap()]);
        shell.args(["-c", &format!("{before}; exec \"$0\" \"$@\"")]).arg(run.get_program()).args(run.get_args());
        shell.env_remove("GATEPOST_LOG").env_remove("STATE_DIRECTORY");
        let process = Process::spawn(shell);
        process.find("ready");
        let port = port_of(&process.find_all(&["listening", "address="]));
        Gateway { process, dir, port }
    }

    /// Starts `gatepost run` with a config written into `dir`, without waiting. The log is at info unless `config` has a
    /// `[log]` of its own.
    pub fn spawn(dir: &Path, config: &str) -> Process {
        let file = dir.join("gatepost.toml");
        write(dir, config);
        Process::spawn(gatepost(&["run", "-c", file.to_str().unwrap()]))
    }

    /// Writes another config, with the same listener on a free port.
    pub fn write(&self, devices: &str) {
        self.write_with(&format!("{LISTENER}{devices}"));
    }

    /// Writes another config that brings its own `[broker]`.
    pub fn write_with(&self, config: &str) {
        write(self.dir.path(), config);
    }

    /// SIGHUP; returns the line that says how it went.
    pub fn reload(&mut self) -> String {
        self.process.signal(Signal::HUP);
        self.process.expect("reloaded:")
    }

    /// The broker's port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The same as text, for arguments.
    pub fn port_text(&self) -> String {
        self.port.to_string()
    }

    /// The port that a `tcp_server` device with port 0 was given.
    pub fn device_port(&self, device: &str) -> u16 {
        port_of(&self.process.find_all(&["listening", &format!("device=\"{device}\"")]))
    }

    /// The port of the listener that speaks `scheme` (mqtt, mqtts, ws or wss).
    pub fn listener_port(&self, scheme: &str) -> u16 {
        port_of(&self.find_log(&["listening", &format!("scheme=\"{scheme}\"")]))
    }

    /// The first line of its log, now or later, with all of `texts`.
    pub fn find_log(&self, texts: &[&str]) -> String {
        self.process.find_all(texts)
    }

    /// Where its config lies.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// `gatepost COMMAND --socket … ARGS`, not started yet.
    pub fn command(&self, command: &str, args: &[&str]) -> Command {
        let socket = self.control();
        gatepost(&[&[command, "--socket", socket.to_str().unwrap()], args].concat())
    }

    /// The path of its control socket.
    pub fn control(&self) -> PathBuf {
        self.dir().join("control.sock")
    }

    /// What `gatepost status --json` says.
    pub fn status(&self) -> serde_json::Value {
        let output = self.command("status", &["--json"]).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// The same of one device.
    pub fn device_status(&self, name: &str) -> serde_json::Value {
        let status = self.status();
        let device = status["devices"].as_array().unwrap().iter().find(|device| device["name"] == name);
        device.unwrap_or_else(|| panic!("no {name} in {status:#}")).clone()
    }

    /// Process id, for /proc.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// The first line of its log that contains all of `texts`.
    pub fn expect_line(&self, texts: &[&str]) -> String {
        self.process.find_all(texts)
    }

    /// Its log so far.
    pub fn log(&self) -> Vec<String> {
        self.process.lines()
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// SIGTERM; asserts exit 0 within the 5 s of the contract and returns the log.
    pub fn terminate(self) -> Vec<String> {
        self.stop_with(Signal::TERM)
    }

    /// As [`Gateway::terminate`], with another signal.
    pub fn stop_with(mut self, signal: Signal) -> Vec<String> {
        self.process.signal(signal);
        let status: ExitStatus = self.process.wait(Duration::from_secs(5));
        assert_eq!(status.code(), Some(0), "exit code after {signal:?}");
        self.process.lines()
    }

    /// SIGTERM, as [`Gateway::terminate`]; the folder stays for the next start.
    pub fn stop(mut self) -> TempDir {
        self.process.signal(Signal::TERM);
        let status: ExitStatus = self.process.wait(Duration::from_secs(5));
        assert_eq!(status.code(), Some(0), "exit code after SIGTERM");
        self.dir
    }

    /// SIGKILL; the folder stays for the next start.
    pub fn kill9(mut self) -> TempDir {
        self.process.kill();
        self.dir
    }
}

fn write(dir: &Path, config: &str) {
    let log = if config.contains("[log]") { "" } else { LOG };
    std::fs::write(dir.join("gatepost.toml"), format!("{HEAD}{log}{config}")).unwrap();
}

/// The port of the first address in a log line.
fn port_of(line: &str) -> u16 {
    let mut words = line.split(|c: char| c.is_whitespace() || "=\",".contains(c));
    let address = words.find_map(|word| word.parse::<SocketAddr>().ok());
    address.unwrap_or_else(|| panic!("no address in {line:?}")).port()
}
