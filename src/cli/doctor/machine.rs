//! What the findings about ports draw on: the ports, who has them open, processes, accounts.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::running::Running;
use super::service::{self, Service};
use crate::machine::accounts::Accounts;
use crate::machine::holders::{Holder, Holders};
use crate::transport::ports::{self, Port};

/// The machine as it was when it was looked at.
#[derive(Debug)]
pub struct Machine {
    /// What /dev, /etc, /proc, /run and /sys stand below: `/` but in tests.
    pub root: PathBuf,
    /// Serial ports with hardware.
    pub ports: Vec<Port>,
    /// Who has which device file open; always of the real /proc.
    pub holders: Holders,
    /// What runs.
    pub processes: Vec<Process>,
    /// Users and groups.
    pub accounts: Accounts,
    /// The gateway as a service, where that is what is looked at.
    pub service: Option<Service>,
    /// The gateway that is looked at.
    pub running: Running,
}

/// A process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Process id.
    pub pid: u32,
    /// As the kernel knows it: at most 15 bytes.
    pub name: String,
    /// Its arguments, the program first.
    pub arguments: Vec<String>,
    /// The systemd unit it belongs to.
    pub unit: Option<Unit>,
}

/// A systemd service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// `mosquitto.service`
    pub name: String,
    /// Whether it is one of a user's own manager.
    pub of_user: bool,
}

impl Unit {
    /// The command that governs it.
    pub fn manager(&self) -> &'static str {
        if self.of_user { "systemctl --user" } else { "sudo systemctl" }
    }
}

impl Machine {
    /// Looks at the machine below `root`.
    pub fn gather(root: &Path) -> Machine {
        let (processes, accounts) = (processes(&root.join("proc")), Accounts::read(root));
        Machine {
            root: root.to_owned(),
            ports: ports::list_in(root),
            holders: Holders::scan(),
            service: Service::find(root, &processes, &accounts),
            processes,
            accounts,
            running: Running::Unknown,
        }
    }

    /// The text of a file below the root, if it can be read.
    pub fn read(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.root.join(path)).ok()
    }

    /// Whether a file is there below the root.
    pub fn exists(&self, path: &str) -> bool {
        self.root.join(path).exists()
    }

    /// The first process of that name.
    pub fn running(&self, names: &[&str]) -> Option<&Process> {
        self.processes.iter().find(|process| names.contains(&&*process.name))
    }

    /// The gateway that is looked at, if it runs.
    pub fn gateway(&self) -> Option<&Process> {
        self.processes.iter().find(|process| self.is_gateway(process))
    }

    /// Whether a process is the gateway that is looked at: the one with its control socket, and the service if that is
    /// what counts. A `demo`, a gateway with another configuration, or one that somebody has started beside the service
    /// is in its way as any program is. Where it is not known who has the socket, each that runs may be it.
    pub fn is_gateway(&self, process: &Process) -> bool {
        let is_it = match self.running {
            Running::As(pid) => process.pid == pid,
            Running::No => false,
            Running::Unknown => {
                process.is_gatepost() && process.arguments.get(1).is_some_and(|command| command == "run")
            }
        };
        let by_systemd = self.service.is_some() && self.exists("run/systemd/system");
        let is_service = process.unit.as_ref().is_some_and(|unit| unit.name == service::UNIT && !unit.of_user);
        is_it && (is_service || !by_systemd)
    }

    /// The number of the user that a process runs as.
    pub fn uid_of(&self, process: &Process) -> Option<u32> {
        fs::metadata(self.root.join("proc").join(process.pid.to_string())).ok().map(|folder| folder.uid())
    }

    /// The process that a holder is.
    pub fn process(&self, holder: &Holder) -> Process {
        let known = self.processes.iter().find(|process| process.pid == holder.pid).cloned();
        known.unwrap_or_else(|| Process {
            pid: holder.pid,
            name: holder.name.clone(),
            arguments: Vec::new(),
            unit: None,
        })
    }
}

/// `mosquitto (pid 7), socat (pid 8)`
pub fn names(processes: &[&Process]) -> String {
    processes.iter().map(|process| process.to_string()).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {}", self.name, self.pid)?;
        if let Some(unit) = &self.unit {
            write!(f, ", {}", unit.name)?;
        }
        f.write_str(")")
    }
}

impl Process {
    /// The command that ends it.
    pub fn stop(&self) -> String {
        match &self.unit {
            Some(unit) => format!("{} stop {}", unit.manager(), unit.name.trim_end_matches(".service")),
            None => format!("sudo kill {}", self.pid),
        }
    }

    /// The command that starts it anew.
    pub fn restart(&self) -> String {
        match &self.unit {
            Some(unit) => format!("{} restart {}", unit.manager(), unit.name.trim_end_matches(".service")),
            None => format!("sudo kill {}    # then start it again", self.pid),
        }
    }

    /// The command that ends it, so that it does not come back.
    pub fn disable(&self) -> String {
        match &self.unit {
            Some(unit) => format!("{} disable --now {}", unit.manager(), unit.name.trim_end_matches(".service")),
            None => self.stop(),
        }
    }

    /// Whether it is this program, whatever the command.
    pub fn is_gatepost(&self) -> bool {
        self.name == "gatepost"
    }
}

fn processes(proc: &Path) -> Vec<Process> {
    let entries = fs::read_dir(proc).into_iter().flatten().flatten();
    let mut found: Vec<Process> = entries
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let read = |name| fs::read(entry.path().join(name)).map(|text| String::from_utf8_lossy(&text).into_owned());
            let arguments = read("cmdline").unwrap_or_default();
            Some(Process {
                pid,
                name: read("comm").ok()?.trim_end().to_owned(),
                arguments: arguments.split_terminator('\0').map(str::to_owned).collect(),
                unit: read("cgroup").ok().and_then(|text| unit(&text)),
            })
        })
        .collect();
    found.sort_by_key(|process| process.pid);
    found
}

/// The service that /proc/PID/cgroup names (cgroups(7)): the innermost. A login session is none.
fn unit(cgroup: &str) -> Option<Unit> {
    let find = |path: &str| {
        let parts: Vec<&str> = path.split('/').collect();
        let at = parts.iter().rposition(|part| part.ends_with(".service"))?;
        let is_manager = |part: &&str| part.starts_with("user@");
        let name = (!is_manager(&parts[at])).then(|| parts[at].to_owned())?;
        Some(Unit { name, of_user: parts[..at].iter().any(is_manager) })
    };
    cgroup.lines().filter_map(|line| line.splitn(3, ':').nth(2)).find_map(find)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_is_named_by_the_cgroup() {
        let service = |name: &str, of_user| Some(Unit { name: name.into(), of_user });
        assert_eq!(unit("0::/system.slice/mosquitto.service\n"), service("mosquitto.service", false));
        assert_eq!(
            unit("0::/system.slice/system-serial\\x2dgetty.slice/serial-getty@ttyS0.service\n"),
            service("serial-getty@ttyS0.service", false)
        );
        assert_eq!(
            unit("0::/user.slice/user-1000.slice/user@1000.service/app.slice/nodered.service\n"),
            service("nodered.service", true)
        );
        assert_eq!(unit("0::/user.slice/user-1000.slice/user@1000.service/app.slice/term.scope\n"), None);
        assert_eq!(unit("0::/user.slice/user-1000.slice/session-2.scope\n"), None);
        assert_eq!(unit("1:name=systemd:/system.slice/a.service\n0::/\n"), service("a.service", false));
        assert_eq!(unit("odd"), None);
    }

    #[test]
    fn this_process_is_seen() {
        let machine = Machine::gather(Path::new("/"));
        let own = machine.processes.iter().find(|process| process.pid == std::process::id()).unwrap();
        assert_eq!(own.arguments, std::env::args().collect::<Vec<_>>());
        assert_eq!(machine.running(&[&own.name]).unwrap().name, own.name);
        assert!(own.stop().contains(&own.pid.to_string()) || own.unit.is_some());
    }
}
