//! Why a serial port cannot be opened, and what to do about it.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;

use crate::machine::accounts::Accounts;
use crate::machine::holders::{Holder, Holders};
use crate::transport::ports::Port;

/// Why a serial port could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum SerialError {
    /// ENOENT
    #[error(
        "cannot open serial port {place}: there is no such file; hint: plug it in; `gatepost ports` lists the ports"
    )]
    NotFound {
        /// The path.
        place: String,
    },
    /// EACCES
    #[error("cannot open serial port {place}: permission denied: {owner}; hint: {hint}")]
    Permission {
        /// The path.
        place: String,
        /// Who may open it.
        owner: String,
        /// How to become one of them.
        hint: String,
    },
    /// EBUSY, or locked by another.
    #[error("cannot open serial port {place}: {holders}; hint: {hint}")]
    Busy {
        /// The path.
        place: String,
        /// Who has it open.
        holders: String,
        /// How to get it from them.
        hint: String,
    },
    /// ENOTTY
    #[error("cannot open serial port {place}: it is not a serial port; hint: `gatepost ports` lists the ports")]
    NotSerial {
        /// The path.
        place: String,
    },
    /// ENXIO, ENODEV or EIO: a file is there, a device is not.
    #[error(
        "cannot open serial port {place}: there is no hardware behind it ({source}); hint: `gatepost ports` lists the ports"
    )]
    NoHardware {
        /// The path.
        place: String,
        /// What the system says.
        source: io::Error,
    },
    /// `usb:…`: not plugged in.
    #[error("cannot open serial port {place}: no such device is plugged in; hint: `gatepost ports` lists the ports")]
    NoUsbDevice {
        /// As configured.
        place: String,
    },
    /// `usb:…`: several fit.
    #[error("cannot open serial port {place}: {count} ports fit: {ports}; hint: {hint}")]
    SeveralUsbDevices {
        /// As configured.
        place: String,
        /// How many fit.
        count: usize,
        /// Which.
        ports: String,
        /// How to name one.
        hint: &'static str,
    },
    /// The driver does not answer, now or since an earlier attempt.
    #[error(
        "cannot open serial port {place}: its driver has not answered for {after:?}; hint: unplug it and plug it in again"
    )]
    Hung {
        /// As configured.
        place: String,
        /// How long an attempt may take.
        after: Duration,
    },
    /// Anything else.
    #[error("cannot open serial port {place}: {source}")]
    Io {
        /// The path.
        place: String,
        /// What the system says.
        source: io::Error,
    },
}

impl SerialError {
    /// What `errno` means when a port is opened.
    pub(in crate::transport) fn of_opening(path: &Path, errno: Errno) -> SerialError {
        let place = path.display().to_string();
        match errno {
            Errno::NOENT => SerialError::NotFound { place },
            Errno::ACCESS => SerialError::permission(path),
            Errno::BUSY => SerialError::busy(path),
            Errno::NOTTY => SerialError::NotSerial { place },
            Errno::NXIO | Errno::NODEV | Errno::IO => SerialError::NoHardware { place, source: errno.into() },
            _ => SerialError::Io { place, source: errno.into() },
        }
    }

    /// Somebody else has the port.
    pub(in crate::transport) fn busy(path: &Path) -> SerialError {
        let place = path.display().to_string();
        let names: Vec<String> = Holders::scan().of(path).iter().map(Holder::to_string).collect();
        let (holders, hint) = if names.is_empty() {
            ("it is in use by another program".into(), format!("`sudo fuser -v {place}` shows which; stop it"))
        } else {
            (format!("it is in use by {}", names.join(", ")), "stop that program, or take the port from it".into())
        };
        SerialError::Busy { place, holders, hint }
    }

    pub(super) fn several_usb_devices(place: String, found: &[Port]) -> SerialError {
        let serial = |port: &Port| port.usb.as_ref().and_then(|usb| usb.serial.clone());
        let list = found.iter().map(|port| match serial(port) {
            Some(serial) => format!("{} (serial number {serial})", port.path.display()),
            None => port.path.display().to_string(),
        });
        let first = serial(&found[0]);
        let told_apart = first.is_some() && found[1..].iter().all(|port| serial(port) != first);
        let hint = if told_apart {
            "add the serial number: usb:VVVV:PPPP:SERIAL"
        } else {
            "name one by its path in /dev/serial/by-id or /dev/serial/by-path"
        };
        SerialError::SeveralUsbDevices { place, count: found.len(), ports: list.collect::<Vec<_>>().join(", "), hint }
    }

    fn permission(path: &Path) -> SerialError {
        let place = path.display().to_string();
        let accounts = Accounts::read(Path::new("/"));
        let group = fs::metadata(path)
            .ok()
            .filter(|port| port.gid() != 0 && port.mode() & 0o060 == 0o060)
            .and_then(|port| accounts.group_name(port.gid()));
        let Some(group) = group else {
            let owner = "only root may open it".into();
            let hint = "give it to a group with a udev rule: MODE=\"0660\", GROUP=\"dialout\"".into();
            return SerialError::Permission { place, owner, hint };
        };
        let user = accounts.user_name(rustix::process::geteuid().as_raw()).unwrap_or_else(|| "USER".into());
        let hint =
            format!("sudo usermod -aG {group} {user}, then log in again (for a service: SupplementaryGroups={group})");
        SerialError::Permission { place, owner: format!("it belongs to the group {group}"), hint }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown};

    use super::*;
    use crate::transport::ports::Usb;

    #[test]
    fn permission_names_the_group() {
        let port = tempfile::NamedTempFile::new().unwrap();
        fs::set_permissions(port.path(), fs::Permissions::from_mode(0o660)).unwrap();
        let own = fs::metadata(port.path()).unwrap().gid();
        // Only root can give a file away; others test with their own group.
        let group = if chown(port.path(), None, Some(20)).is_ok() { 20 } else { own };
        let text = SerialError::of_opening(port.path(), Errno::ACCESS).to_string();
        match Accounts::read(Path::new("/")).group_name(group).filter(|_| group != 0) {
            Some(name) => assert!(text.contains(&format!("sudo usermod -aG {name} ")), "{text}"),
            None => assert!(text.contains("udev"), "{text}"),
        }
        fs::set_permissions(port.path(), fs::Permissions::from_mode(0o600)).unwrap();
        assert!(SerialError::of_opening(port.path(), Errno::ACCESS).to_string().contains("only root may open it"));
    }

    #[test]
    fn several_usb_devices_are_told_apart() {
        let port = |path: &str, serial: &str| Port {
            path: path.into(),
            stable_path: None,
            driver: None,
            usb: Some(Usb {
                vendor: 1,
                product: 2,
                serial: Some(serial.into()),
                manufacturer: None,
                name: None,
                interface: None,
            }),
        };
        let of = |ports: &[Port]| SerialError::several_usb_devices("usb:0001:0002".into(), ports).to_string();
        assert_eq!(
            of(&[port("/dev/ttyUSB0", "A"), port("/dev/ttyUSB1", "B")]),
            "cannot open serial port usb:0001:0002: 2 ports fit: /dev/ttyUSB0 (serial number A), \
             /dev/ttyUSB1 (serial number B); hint: add the serial number: usb:VVVV:PPPP:SERIAL"
        );
        assert!(of(&[port("/dev/ttyUSB0", "A"), port("/dev/ttyUSB1", "A")]).contains("by-path"));
    }
}
