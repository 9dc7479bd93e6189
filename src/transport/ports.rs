//! The serial ports of this machine, from /sys. All of this blocks; keep it off the runtime.

use std::fs;
use std::path::{Path, PathBuf};

/// A serial port that has hardware behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// `/dev/ttyUSB0`; changes with the order of plugging in.
    pub path: PathBuf,
    /// A path that stays with the device: from /dev/serial/by-id, or /dev/serial0 and the like on a Raspberry Pi.
    pub stable_path: Option<PathBuf>,
    /// The kernel's driver: `ftdi_sio`, `cdc_acm`, `serial8250`…
    pub driver: Option<String>,
    /// For a port on USB.
    pub usb: Option<Usb>,
}

/// What a USB device says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usb {
    /// Vendor id.
    pub vendor: u16,
    /// Product id.
    pub product: u16,
    /// Serial number.
    pub serial: Option<String>,
    /// Its maker's name.
    pub manufacturer: Option<String>,
    /// Its name.
    pub name: Option<String>,
    /// `bInterfaceNumber`: which port of a device with several.
    pub interface: Option<u8>,
}

/// The ports, by path.
pub fn list() -> Vec<Port> {
    list_in(Path::new("/"))
}

/// As [`list`], of the machine whose /sys and /dev stand below `root`.
pub fn list_in(root: &Path) -> Vec<Port> {
    let dev = root.join("dev");
    let stable = stable_paths(&dev);
    let Ok(ttys) = fs::read_dir(root.join("sys/class/tty")) else { return Vec::new() };
    let mut ports: Vec<Port> = ttys.flatten().filter_map(|tty| port(&tty.path(), &dev, &stable)).collect();
    // ttyS2 before ttyS10.
    ports.sort_by_cached_key(|port| (port.path.as_os_str().len(), port.path.clone()));
    ports.sort_by_cached_key(|port| {
        let path = port.path.to_string_lossy();
        path.trim_end_matches(|c: char| c.is_ascii_digit()).to_owned()
    });
    ports
}

fn port(tty: &Path, dev: &Path, stable: &[(PathBuf, PathBuf)]) -> Option<Port> {
    // A console or pty has no device behind it.
    let device = fs::canonicalize(tty.join("device")).ok()?;
    // PORT_UNKNOWN: one of the ttyS that exist without hardware.
    if attribute(tty, "type").is_some_and(|kind| kind == "0") {
        return None;
    }
    let path = dev.join(tty.file_name()?);
    if !path.exists() {
        return None;
    }
    let stable_path = stable.iter().find(|(_, target)| *target == path).map(|(link, _)| link.clone());
    Some(Port { stable_path, driver: driver(&device), usb: usb(&device), path })
}

/// Links to ports, and the ports.
fn stable_paths(dev: &Path) -> Vec<(PathBuf, PathBuf)> {
    let mut links: Vec<PathBuf> =
        fs::read_dir(dev.join("serial/by-id")).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    links.sort();
    // The names of the on-board UARTs of a Raspberry Pi.
    links.extend(["serial0", "serial1"].map(|name| dev.join(name)));
    links.into_iter().filter_map(|link| Some((link.clone(), fs::canonicalize(&link).ok()?))).collect()
}

fn driver(device: &Path) -> Option<String> {
    // Since Linux 6.5 an on-board port has two devices of the serial core between it and its hardware.
    const SERIAL_CORE: [&str; 2] = ["port", "ctrl"];
    device.ancestors().take(3).find_map(|device| {
        let driver = fs::read_link(device.join("driver")).ok()?.file_name()?.to_str()?.to_owned();
        (!SERIAL_CORE.contains(&&*driver)).then_some(driver)
    })
}

fn usb(device: &Path) -> Option<Usb> {
    let interface = device.ancestors().find_map(|device| attribute(device, "bInterfaceNumber"));
    let device = device.ancestors().find(|device| device.join("idVendor").exists())?;
    let id = |name| u16::from_str_radix(&attribute(device, name)?, 16).ok();
    Some(Usb {
        vendor: id("idVendor")?,
        product: id("idProduct")?,
        serial: attribute(device, "serial"),
        manufacturer: attribute(device, "manufacturer"),
        name: attribute(device, "product"),
        interface: interface.and_then(|number| u8::from_str_radix(&number, 16).ok()),
    })
}

/// The text of a file in /sys, if there is any.
fn attribute(device: &Path, name: &str) -> Option<String> {
    let value = fs::read(device.join(name)).ok()?;
    let value = String::from_utf8_lossy(&value).trim().to_owned();
    (!value.is_empty()).then_some(value)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A tree as the kernel and udev make it.
    fn machine() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        let file = |path: &str, text: &str| {
            fs::create_dir_all(at(path).parent().unwrap()).unwrap();
            fs::write(at(path), text).unwrap();
        };
        let link = |path: &str, target: &str| {
            fs::create_dir_all(at(path).parent().unwrap()).unwrap();
            symlink(at(target), at(path)).unwrap();
        };
        let usb = "sys/devices/usb1/1-1";
        for (name, text) in [
            ("idVendor", "0403\n"),
            ("idProduct", "6001\n"),
            ("serial", "A50285BI\n"),
            ("manufacturer", "FTDI\n"),
            ("product", "FT232R USB UART\n"),
            ("1-1:1.0/bInterfaceNumber", "00\n"),
            ("1-1:1.0/ttyUSB0/port_number", "0\n"),
        ] {
            file(&format!("{usb}/{name}"), text);
        }
        fs::create_dir_all(at("sys/bus/drivers/ftdi_sio")).unwrap();
        link(&format!("{usb}/1-1:1.0/ttyUSB0/driver"), "sys/bus/drivers/ftdi_sio");
        link("sys/class/tty/ttyUSB0/device", &format!("{usb}/1-1:1.0/ttyUSB0"));
        for (name, kind) in [("ttyS0", "4\n"), ("ttyS1", "0\n"), ("ttyS10", "4\n"), ("ttyS2", "4\n")] {
            file(&format!("sys/class/tty/{name}/type"), kind);
            fs::create_dir_all(at(&format!("sys/devices/pnp/ctrl/{name}"))).unwrap();
            link(&format!("sys/class/tty/{name}/device"), &format!("sys/devices/pnp/ctrl/{name}"));
            file(&format!("dev/{name}"), "");
        }
        fs::create_dir_all(at("sys/bus/drivers/port")).unwrap();
        fs::create_dir_all(at("sys/bus/drivers/serial")).unwrap();
        link("sys/devices/pnp/ctrl/ttyS0/driver", "sys/bus/drivers/port");
        link("sys/devices/pnp/driver", "sys/bus/drivers/serial");
        file("sys/class/tty/tty0/dev", "4:0\n");
        file("dev/tty0", "");
        file("dev/ttyUSB0", "");
        link("dev/serial/by-id/usb-FTDI_FT232R_USB_UART_A50285BI-if00-port0", "dev/ttyUSB0");
        link("dev/serial0", "dev/ttyS0");
        root
    }

    #[test]
    fn lists_ports_with_hardware() {
        let machine = machine();
        let ports = list_in(machine.path());
        let names: Vec<_> = ports.iter().map(|port| port.path.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["ttyS0", "ttyS2", "ttyS10", "ttyUSB0"]);
        assert_eq!(ports[0].driver.as_deref(), Some("serial"));
        assert_eq!(ports[0].stable_path, Some(machine.path().join("dev/serial0")));
        assert_eq!(ports[0].usb, None);
        assert_eq!(
            ports[3],
            Port {
                path: machine.path().join("dev/ttyUSB0"),
                stable_path: Some(machine.path().join("dev/serial/by-id/usb-FTDI_FT232R_USB_UART_A50285BI-if00-port0")),
                driver: Some("ftdi_sio".into()),
                usb: Some(Usb {
                    vendor: 0x0403,
                    product: 0x6001,
                    serial: Some("A50285BI".into()),
                    manufacturer: Some("FTDI".into()),
                    name: Some("FT232R USB UART".into()),
                    interface: Some(0),
                }),
            }
        );
    }

    #[test]
    fn a_machine_without_ports_has_none() {
        assert_eq!(list_in(tempfile::tempdir().unwrap().path()), []);
    }
}
