//! Who has a device file open, from /proc. All of this blocks; keep it off the runtime.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A process.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holder {
    /// Process id.
    pub pid: u32,
    /// As the kernel knows it: at most 15 bytes.
    pub name: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let own = if self.pid == std::process::id() { "this " } else { "" };
        write!(f, "{own}{} (pid {})", self.name, self.pid)
    }
}

/// What a device is to the kernel: its number, and for a pseudo terminal the file system it is in. Each container has
/// one of its own, and counts its terminals from 0.
type Number = (u64, u64);

fn number(file: &fs::Metadata) -> Number {
    (file.rdev(), if is_pty(file.rdev()) { file.dev() } else { 0 })
}

/// Whether a device of that number is a pseudo terminal, by the majors in the kernel's devices.txt.
pub fn is_pty(number: u64) -> bool {
    (136..=143).contains(&rustix::fs::major(number))
}

/// The device files below /dev that processes have open.
#[derive(Clone, Debug, Default)]
pub struct Holders {
    by_device: BTreeMap<Number, Vec<Holder>>,
    complete: bool,
}

impl Holders {
    /// Looks through /proc as it is now.
    pub fn scan() -> Holders {
        let mut holders = Holders { complete: true, ..Holders::default() };
        let Ok(processes) = fs::read_dir("/proc") else { return Holders::default() };
        for process in processes.flatten() {
            let pid = process.file_name().to_str().and_then(|name| name.parse().ok());
            if let Some(pid) = pid {
                holders.scan_process(pid, &process.path());
            }
        }
        holders
    }

    /// The processes that have `device` open, by process id.
    pub fn of(&self, device: &Path) -> &[Holder] {
        let number = fs::metadata(device).map(|device| number(&device)).ok();
        number.and_then(|number| self.by_device.get(&number)).map_or(&[], Vec::as_slice)
    }

    /// Whether every process could be looked into. Without root, those of others cannot.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Whether `holder` made the pseudo terminal `device`: it has the other end of it open.
    pub fn is_maker(holder: &Holder, device: &Path) -> bool {
        let index =
            device.strip_prefix("/dev/pts").ok().and_then(Path::to_str).and_then(|name| name.parse::<u32>().ok());
        let Some(index) = index else { return false };
        let process = Path::new("/proc").join(holder.pid.to_string());
        let files = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
        files.filter(|file| fs::read_link(file.path()).is_ok_and(|target| target.ends_with("ptmx"))).any(|file| {
            let info = fs::read_to_string(process.join("fdinfo").join(file.file_name())).unwrap_or_default();
            info.lines()
                .any(|line| line.strip_prefix("tty-index:").is_some_and(|number| number.trim().parse() == Ok(index)))
        })
    }

    fn scan_process(&mut self, pid: u32, process: &Path) {
        let files = match fs::read_dir(process.join("fd")) {
            Ok(files) => files,
            // Gone meanwhile.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
            Err(_) => {
                self.complete = false;
                return;
            }
        };
        let mut devices: Vec<Number> = files
            .flatten()
            .map(|file| file.path())
            .filter(|file| fs::read_link(file).is_ok_and(|target| target.starts_with("/dev")))
            .filter_map(|file| fs::metadata(file).ok())
            .filter(|device| device.rdev() != 0)
            .map(|device| number(&device))
            .collect();
        devices.sort_unstable();
        devices.dedup();
        if devices.is_empty() {
            return;
        }
        let name = fs::read_to_string(process.join("comm")).unwrap_or_default().trim_end().to_owned();
        for number in devices {
            let holders = self.by_device.entry(number).or_default();
            holders.push(Holder { pid, name: name.clone() });
            holders.sort_unstable();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process;

    use super::*;
    use crate::transport::serial::tests::{eventually, pty};

    #[test]
    fn finds_this_process() {
        let (_far, near) = pty();
        let open = fs::File::open(&near).unwrap();
        let holders = Holders::scan();
        let own = holders.of(&near).iter().find(|holder| holder.pid == process::id()).unwrap();
        assert!(Holders::is_maker(own, &near));
        assert!(!Holders::is_maker(own, Path::new("/dev/pts/999999")));
        assert!(holders.of(Path::new("/nonexistent")).is_empty());
        drop(open);
        eventually(|| Holders::scan().of(&near).to_vec(), Vec::is_empty);
    }
}
