//! A serial port that can be pulled out: a pty behind a stable path, as `/dev/serial/by-id/…` is.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::Timespec;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

use super::DEADLINE;

/// The device's end of a port. The gateway's end is [`Port::path`].
pub struct Port {
    path: PathBuf,
    device: Option<File>,
}

impl Port {
    /// Nothing is plugged in.
    pub fn absent(dir: &Path, name: &str) -> Port {
        Port { path: dir.join(name), device: None }
    }

    /// Plugged in.
    pub fn plugged(dir: &Path, name: &str) -> Port {
        let mut port = Port::absent(dir, name);
        port.plug();
        port
    }

    /// What the config names.
    pub fn path(&self) -> &str {
        self.path.to_str().unwrap()
    }

    /// Makes a new pty, in raw mode from the first byte on, and lets the path show it.
    pub fn plug(&mut self) {
        let device = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&device).unwrap();
        unlockpt(&device).unwrap();
        let mut settings = tcgetattr(&device).unwrap();
        settings.make_raw();
        tcsetattr(&device, OptionalActions::Now, &settings).unwrap();
        let name = ptsname(&device, Vec::new()).unwrap();
        std::os::unix::fs::symlink(name.to_str().unwrap(), &self.path).unwrap();
        self.device = Some(File::from(device));
    }

    /// The path goes, and whoever has the port open sees a hang-up.
    pub fn unplug(&mut self) {
        std::fs::remove_file(&self.path).unwrap();
        self.device = None;
    }

    /// The device's end, for another program to write to.
    pub fn device_end(&self) -> File {
        self.device().try_clone().unwrap()
    }

    fn device(&self) -> &File {
        self.device.as_ref().expect("not plugged in")
    }

    /// The device sends.
    pub fn write(&self, bytes: impl AsRef<[u8]>) {
        self.device().write_all(bytes.as_ref()).unwrap();
    }

    /// The device takes exactly `length` bytes.
    pub fn read(&self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        let mut filled = 0;
        while filled < length {
            self.wait_readable(&bytes[..filled]);
            filled += self.device().read(&mut bytes[filled..]).unwrap();
        }
        bytes
    }

    /// The device takes bytes up to and with `end`.
    pub fn read_until(&self, end: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        while !bytes.ends_with(end) {
            bytes.extend(self.read(1));
        }
        bytes
    }

    /// The device takes all that comes, as fast as it can, until it ends with `end`.
    pub fn read_all(&self, end: &[u8]) -> Vec<u8> {
        let (mut bytes, mut chunk) = (Vec::new(), [0; 4096]);
        while !bytes.ends_with(end) {
            self.wait_readable(&bytes);
            let taken = self.device().read(&mut chunk).unwrap();
            bytes.extend_from_slice(&chunk[..taken]);
        }
        bytes
    }

    /// Whether bytes for the device come within `limit`.
    pub fn readable_within(&self, limit: Duration) -> bool {
        let mut fds = [PollFd::new(self.device(), PollFlags::IN)];
        let limit = Timespec::try_from(limit).unwrap();
        poll(&mut fds, Some(&limit)).unwrap() > 0 && fds[0].revents().contains(PollFlags::IN)
    }

    /// POLLHUP, while nobody has the gateway's end open, is not a byte: ask again.
    fn wait_readable(&self, so_far: &[u8]) {
        let start = Instant::now();
        while !self.readable_within(DEADLINE) {
            assert!(start.elapsed() < DEADLINE, "the device got only {:?}", String::from_utf8_lossy(so_far));
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
