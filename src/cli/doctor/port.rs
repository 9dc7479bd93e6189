//! Findings about one serial port: is it there, may it be opened, does somebody else have it, will its name stay.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Access as Mode, AtFlags, CWD, accessat};

use super::finding::Finding;
use super::machine::{self, Machine, Process};
use super::running::Running;
use super::service::USER as SERVICE_USER;
use super::{console, modem_manager};
use crate::cli::ports::name_to_write;
use crate::config::SerialPort;
use crate::machine::holders::Holders;
use crate::transport::ports::Port;
use crate::transport::serial;

/// Whether the port can be listened to.
#[derive(Debug, PartialEq, Eq)]
pub enum Probing {
    /// It is there, may be opened, and nobody else uses it.
    Possible(PathBuf),
    /// A gateway has it open.
    HeldByGateway,
    /// A finding says why not.
    Impossible,
}

/// Everything about the port that can be known without opening it.
pub fn examine(machine: &Machine, subject: &str, port: &SerialPort) -> (Vec<Finding>, Probing) {
    let path = match locate(machine, subject, port) {
        Ok(path) => path,
        Err(finding) => return (vec![*finding], Probing::Impossible),
    };
    let device = path.canonicalize().unwrap_or_else(|_| path.clone());
    let access = Access::gather(machine, &path);
    let held = holder(machine, subject, &path, &device);
    let consoles = console::examine(machine, subject, &device);
    let probing = match &held {
        Some(Held::ByGateway(_)) => Probing::HeldByGateway,
        Some(Held::ByOther(_)) => Probing::Impossible,
        _ if !consoles.is_empty() || access.as_ref().is_some_and(|access| !access.user_may) => Probing::Impossible,
        _ => Probing::Possible(path.clone()),
    };
    let mut findings: Vec<Finding> =
        access.and_then(|access| permission(subject, &path, &access)).into_iter().collect();
    findings.extend(held.map(Held::into_finding));
    findings.extend(consoles);
    findings.extend(modem_manager::examine(machine, subject, &device));
    findings.extend(latency(machine, subject, &device));
    findings.extend(unstable(machine, subject, port));
    if findings.is_empty() {
        findings.push(Finding::fine(subject, usable(&path, machine.holders.is_complete())));
    }
    (findings, probing)
}

/// What is to be said of a port that nothing is known against. `complete`: whether every process could be looked into.
fn usable(path: &Path, complete: bool) -> String {
    let place = path.display();
    if complete {
        format!("{place} is there, may be opened, and is free")
    } else {
        format!("{place} is there and may be opened; only root sees whether a program of another user has it")
    }
}

/// The port's path, if a device is there.
fn locate(machine: &Machine, subject: &str, port: &SerialPort) -> Result<PathBuf, Box<Finding>> {
    let path = match serial::find(port, || machine.ports.clone()) {
        Ok(path) => path,
        Err(serial::SerialError::NoUsbDevice { place }) => {
            let what = format!("{place} is missing: no such device is plugged in");
            return Err(Box::new(missing(machine, subject, &place, what)));
        }
        Err(error) => {
            return Err(Box::new(Finding::problem(subject, error.to_string()).fix("gatepost ports")));
        }
    };
    let place = path.display();
    match fs::metadata(&path) {
        Ok(file) if is_terminal(machine, &file) => Ok(path),
        Ok(_) => {
            Err(Box::new(Finding::problem(subject, format!("{place} is not a serial port")).fix("gatepost ports")))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let what = if path.is_symlink() {
                format!("{place} is missing: the link points to a port that is gone")
            } else {
                format!("{place} is missing: there is no such port")
            };
            Err(Box::new(missing(machine, subject, &place.to_string(), what)))
        }
        Err(error) => Err(Box::new(
            Finding::problem(subject, format!("{place} cannot be looked at: {error}")).fix("sudo gatepost doctor"),
        )),
    }
}

/// Whether it is the device file of a serial port or something like it, as far as the kernel says.
fn is_terminal(machine: &Machine, file: &fs::Metadata) -> bool {
    let (major, minor) = (rustix::fs::major(file.rdev()), rustix::fs::minor(file.rdev()));
    // A pseudo terminal is not in /sys.
    let subsystem = fs::read_link(machine.root.join(format!("sys/dev/char/{major}:{minor}/subsystem")));
    file.file_type().is_char_device() && subsystem.map_or(true, |subsystem| subsystem.ends_with("tty"))
}

/// A port that is not there, with what is there instead.
fn missing(machine: &Machine, subject: &str, wanted: &str, what: String) -> Finding {
    let mut finding = Finding::problem(subject, what);
    let mut near: Vec<&Port> = machine.ports.iter().collect();
    let likeness = |port: &&Port| {
        let names = [Some(&port.path), port.stable_path.as_ref()].into_iter().flatten();
        names.map(|path| strsim::levenshtein(&path.to_string_lossy(), wanted)).min()
    };
    near.sort_by_key(likeness);
    if near.is_empty() {
        finding = finding
            .why("It is unplugged, has no power, or the cable only charges; no serial port is present at all.")
            .fix("sudo dmesg | tail -n 20    # right after plugging it in: what the kernel makes of it");
    } else {
        finding = finding.why("It is unplugged, or has another name now. Present are:");
        for port in near.into_iter().take(3) {
            let name = name_to_write(port, &machine.ports);
            finding = finding.fix(format!("port = {name:?}    # {}", describe(port)));
        }
    }
    if let Some(brltty) = machine.running(&["brltty"]) {
        finding
            .why
            .push_str(&format!("\n{brltty} runs: it takes USB adapters with a CH340 or CP210x for Braille displays."));
        finding = finding.fix("sudo apt remove brltty    # then plug the adapter in again");
    }
    finding
}

/// `/dev/ttyUSB0, FT232R USB UART`
fn describe(port: &Port) -> String {
    let name = port.usb.as_ref().and_then(|usb| usb.name.as_ref()).or(port.driver.as_ref());
    let path = port.path.display();
    name.map_or_else(|| path.to_string(), |name| format!("{path}, {name}"))
}

/// Who may open a device file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Access {
    /// Whether this process may.
    user_may: bool,
    /// Name of the user of this process.
    user: Option<String>,
    /// Whether the user is a member of the file's group as of /etc/group, and so will be after logging in again.
    user_in_group: bool,
    /// Whether the service may; `None` if there is none, or its user is not who counts.
    service_may: Option<bool>,
    /// The file's owner.
    owner: String,
    /// The file's group, if its members may read and write.
    group: Option<String>,
    /// The permission bits.
    mode: u32,
}

impl Access {
    fn gather(machine: &Machine, path: &Path) -> Option<Access> {
        let file = fs::metadata(path).ok()?;
        let accounts = &machine.accounts;
        let user = accounts.user_name(rustix::process::geteuid().as_raw());
        let listed = user.as_deref().and_then(|name| accounts.user(name));
        // Root's own group is not for giving away.
        let group = (file.mode() & 0o060 == 0o060 && file.gid() != 0).then(|| accounts.group_name(file.gid()));
        Some(Access {
            user_may: accessat(CWD, path, Mode::READ_OK | Mode::WRITE_OK, AtFlags::EACCESS).is_ok(),
            user_in_group: listed.is_some_and(|user| user.groups.contains(&file.gid())),
            user,
            service_may: machine.service.as_ref().map(|service| service.may_open(&file)),
            owner: accounts.user_name(file.uid()).unwrap_or_else(|| file.uid().to_string()),
            group: group.flatten(),
            mode: file.mode() & 0o777,
        })
    }
}

/// Whether those who need it may open the port.
fn permission(subject: &str, path: &Path, access: &Access) -> Option<Finding> {
    if access.user_may && access.service_may != Some(false) {
        return None;
    }
    let place = path.display();
    let user = access.user.as_deref().unwrap_or("this user");
    let denied = match (access.user_may, access.service_may) {
        (false, Some(false)) => format!("{user} and the service user {SERVICE_USER}"),
        (false, _) => user.to_owned(),
        (true, _) => format!("the service user {SERVICE_USER}"),
    };
    let what = format!("permission denied: {denied} may not open {place}");
    // Whoever only looks after the service need not open the port himself.
    if access.service_may == Some(true) {
        let what = format!("the service user {SERVICE_USER} may open {place}; {user} may not, and need not");
        return Some(Finding::fine(subject, what).fix("sudo gatepost doctor --probe    # to listen to it"));
    }
    let finding = Finding::problem(subject, what);
    let Some(group) = &access.group else {
        return Some(
            finding
                .why(format!("It belongs to {}, mode {:04o}: no group may read and write it.", access.owner, access.mode))
                .fix(format!("sudo chgrp dialout {place} && sudo chmod 0660 {place}    # until it is plugged in again"))
                .fix("for good, in /etc/udev/rules.d/99-serial.rules: KERNEL==\"tty[A-Z]*\", GROUP=\"dialout\", MODE=\"0660\""),
        );
    };
    let mut finding = finding.why(format!("It belongs to the group {group}, mode {:04o}.", access.mode));
    if !access.user_may && access.user_in_group {
        finding.why.push_str(&format!(" {user} is a member of {group}, but not yet in this session."));
        finding = finding.fix(format!("newgrp {group}    # or log out and in again"));
    } else if !access.user_may {
        let name = access.user.as_deref().unwrap_or("$USER");
        finding = finding.fix(format!("sudo usermod -aG {group} {name}    # then log out and in again"));
    }
    if access.service_may == Some(false) {
        finding = finding.fix(format!("sudo usermod -aG {group} {SERVICE_USER} && sudo systemctl restart gatepost"));
    }
    Some(finding)
}

/// Somebody has the port open.
enum Held {
    /// A gateway, which is as it should be.
    ByGateway(Finding),
    /// Another program.
    ByOther(Finding),
    /// The maker of a pseudo terminal, which may keep it open without reading from it.
    Shared(Finding),
}

impl Held {
    fn into_finding(self) -> Finding {
        match self {
            Held::ByGateway(finding) | Held::ByOther(finding) | Held::Shared(finding) => finding,
        }
    }
}

fn holder(machine: &Machine, subject: &str, path: &Path, device: &Path) -> Option<Held> {
    let holders = machine.holders.of(device);
    let (makers, others): (Vec<_>, Vec<_>) = holders.iter().partition(|holder| Holders::is_maker(holder, device));
    let others: Vec<Process> = others.into_iter().map(|holder| machine.process(holder)).collect();
    let place = path.display();
    if let Some(maker) = makers.first().filter(|_| others.is_empty()) {
        let maker = machine.process(maker);
        let what = format!("{maker} made {place} and has this end of it open too");
        return Some(Held::Shared(
            Finding::warning(subject, what)
                .why("Bytes that it reads do not reach the gateway.")
                .fix(format!("{}    # if it reads from this end", maker.stop())),
        ));
    }
    // Of a port alone, without a configuration, it counts as a gateway's whichever it is.
    let is_own = |process: &Process| match machine.running {
        Running::Unknown => process.is_gatepost(),
        _ => machine.is_gateway(process),
    };
    if !others.is_empty() && others.iter().all(is_own) {
        let what = format!("{place} is open in {}: the gateway runs", others[0]);
        return Some(Held::ByGateway(Finding::fine(subject, what)));
    }
    let strangers: Vec<&Process> = others.iter().filter(|process| !is_own(process)).collect();
    if strangers.is_empty() {
        return None;
    }
    let mut finding = Finding::problem(subject, format!("{place} is in use by {}", machine::names(&strangers)))
        .why("A serial port is for one program: two take each other's bytes, and a locked port cannot be opened.");
    for process in strangers {
        finding = finding.fix(process.stop());
        if let Some(unit) = &process.unit {
            let manager = unit.manager();
            finding = finding.fix(format!("{manager} disable {}    # so that it does not come back", unit.name));
        }
    }
    Some(Held::ByOther(finding))
}

/// FTDI adapters keep bytes back for 16 ms unless told otherwise.
fn latency(machine: &Machine, subject: &str, device: &Path) -> Option<Finding> {
    let name = device.file_name()?.to_str()?;
    let file = format!("sys/bus/usb-serial/devices/{name}/latency_timer");
    let timer: u32 = machine.read(&file)?.trim().parse().ok()?;
    (timer > 1).then(|| {
        Finding::warning(subject, format!("the FTDI latency timer of {name} is {timer} ms"))
            .why("The adapter keeps short messages back for so long, and glues frames together that are told apart by a gap.")
            .fix(format!("echo 1 | sudo tee /{file}"))
            .fix(
                "for good, in /etc/udev/rules.d/99-ftdi.rules: ACTION==\"add\", SUBSYSTEM==\"usb-serial\", \
                 DRIVER==\"ftdi_sio\", ATTR{latency_timer}=\"1\"",
            )
    })
}

/// A name that changes with the order of plugging in, where a better one exists.
fn unstable(machine: &Machine, subject: &str, configured: &SerialPort) -> Option<Finding> {
    let SerialPort::Path(path) = configured else { return None };
    let port = machine.ports.iter().find(|port| port.path == *path && port.stable_path.is_some())?;
    Some(
        Finding::warning(subject, format!("{} may be another port tomorrow", path.display()))
            .why("The kernel numbers ports in the order in which they are plugged in.")
            .fix(format!("port = {:?}", name_to_write(port, &machine.ports))),
    )
}

#[cfg(test)]
mod tests;
