//! What the end-to-end tests share: the real binary, the far ends of its wires, and MQTT clients.
//!
//! Nothing here sleeps and hopes: every wait ends with an event, or fails the test after [`DEADLINE`].
#![allow(dead_code)] // each test target uses a part

mod gateway;
pub mod holdings;
mod ledger;
mod mqtt;
pub mod peer;
mod process;
mod pty;
mod raw;
pub mod wire;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

pub use gateway::{Gateway, LISTENER, QUIET_LOG, gatepost};
pub use holdings::Holdings;
pub use ledger::Ledger;
pub use mqtt::Mqtt;
pub use process::Process;
pub use pty::Port;
pub use raw::RawSubscriber;

/// Nothing that a test waits for takes so long on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// The payload that finds out whether bytes are mangled.
pub fn all_bytes() -> Vec<u8> {
    (0..=255).collect()
}

/// Waits until `done` says so, for what sends no event (files below /proc).
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !done() {
        assert!(start.elapsed() < DEADLINE, "still waiting for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A script of tests/python, run with the interpreter that `./test` made.
pub fn python(script: &str, args: &[&str]) -> Process {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let interpreter: PathBuf = root.join("target/venv/bin/python");
    assert!(interpreter.exists(), "{} is missing: ./test makes it", interpreter.display());
    let script = root.join("tests/python").join(script);
    assert!(script.exists(), "{} is missing", script.display());
    let mut command = Command::new(interpreter);
    command.arg("-u").arg(script).args(args);
    Process::spawn(command)
}

/// Any other program, with its arguments.
pub fn program(name: &str, args: &[&str]) -> Process {
    let mut command = Command::new(name);
    command.args(args);
    Process::spawn(command)
}
