//! ModemManager, which sends AT commands to ports that may be modems.

use std::path::Path;

use super::finding::Finding;
use super::machine::Machine;
use crate::transport::ports::Port;

/// udev properties that keep it away.
const IGNORED: [&str; 2] = ["E:ID_MM_DEVICE_IGNORE=1", "E:ID_MM_PORT_IGNORE=1"];

/// Whether ModemManager runs and may take this port. It looks at USB only.
pub fn examine(machine: &Machine, subject: &str, device: &Path) -> Option<Finding> {
    let process = machine.running(&["ModemManager"])?;
    let Some((port, usb)) = machine
        .ports
        .iter()
        .find(|port| port.path == device || port.path.canonicalize().is_ok_and(|path| path == device))
        .and_then(|port| Some((port, port.usb.as_ref()?)))
    else {
        let what = format!("{process} runs, but leaves {} alone: it is not on USB", device.display());
        return Some(Finding::fine(subject, what));
    };
    if is_ignored(machine, port) {
        return None;
    }
    let what = format!("{process} runs and has not been told to leave {} alone", device.display());
    // It tries every port of this driver, as phones and modems have it; others only when it knows them.
    let tries = port.driver.as_deref() == Some("cdc_acm");
    let finding = if tries { Finding::problem(subject, what) } else { Finding::warning(subject, what) };
    let rule = format!(
        "ATTRS{{idVendor}}==\"{:04x}\", ATTRS{{idProduct}}==\"{:04x}\", ENV{{ID_MM_DEVICE_IGNORE}}=\"1\"",
        usb.vendor, usb.product
    );
    Some(
        finding
            .why("For half a minute after plugging in it may hold the port and send AT commands to the device.")
            .fix("sudo systemctl disable --now ModemManager    # if this machine has no modem")
            .fix(format!(
                "or: echo '{rule}' | sudo tee -a /etc/udev/rules.d/99-no-modem.rules && sudo udevadm control --reload \
                 && sudo udevadm trigger"
            )),
    )
}

/// Whether udev's database has the property for the port or for a device that it is a part of.
fn is_ignored(machine: &Machine, port: &Port) -> bool {
    let Some(name) = port.path.file_name() else { return false };
    let tty = machine.root.join("sys/class/tty").join(name);
    let Ok(device) = tty.join("device").canonicalize() else { return false };
    std::iter::once(&*tty).chain(device.ancestors()).filter(|part| part.starts_with(&machine.root)).any(|part| {
        let number = std::fs::read_to_string(part.join("dev")).unwrap_or_default();
        // A tty is a character device, as is a USB device.
        let entry = machine.read(&format!("run/udev/data/c{}", number.trim())).unwrap_or_default();
        entry.lines().any(|line| IGNORED.contains(&line))
    })
}
