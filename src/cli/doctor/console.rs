//! A login prompt or the kernel's console on the port.

use std::path::Path;

use super::finding::Finding;
use super::machine::Machine;

/// Where systemd keeps which login prompts are wanted: enabled by hand, or for the kernel's console.
const WANTED: [&str; 2] = ["etc/systemd/system/getty.target.wants", "run/systemd/generator/getty.target.wants"];
/// The kernel's command line on a Raspberry Pi, newer systems first.
const CMDLINE_FILES: [&str; 2] = ["boot/firmware/cmdline.txt", "boot/cmdline.txt"];

/// What writes to the port beside the gateway.
pub fn examine(machine: &Machine, subject: &str, device: &Path) -> Vec<Finding> {
    let Some(name) = device.file_name().and_then(|name| name.to_str()) else { return Vec::new() };
    [getty(machine, subject, name), kernel_console(machine, subject, name)].into_iter().flatten().collect()
}

fn getty(machine: &Machine, subject: &str, name: &str) -> Option<Finding> {
    let unit = format!("serial-getty@{name}.service");
    let is_here = |argument: &String| argument.trim_start_matches("/dev/") == name;
    let process = machine.processes.iter().find(|process| {
        ["agetty", "getty", "mgetty"].contains(&&*process.name) && process.arguments.iter().any(is_here)
    });
    // The links point to a unit elsewhere, which need not be there.
    let wanted = WANTED.iter().any(|folder| machine.root.join(folder).join(&unit).is_symlink());
    let what = match process {
        Some(process) => format!("a login prompt runs on {name}: {process}"),
        None if wanted => format!("a login prompt is set up on {name}: {unit}"),
        None => return None,
    };
    Some(
        Finding::problem(subject, what)
            .why("It writes `login:` to the device and takes what the device says for user names.")
            .fix(format!("sudo systemctl disable --now {unit}")),
    )
}

fn kernel_console(machine: &Machine, subject: &str, name: &str) -> Option<Finding> {
    let active = machine.read("sys/class/tty/console/active").unwrap_or_default();
    let command_line = machine.read("proc/cmdline").unwrap_or_default();
    let mut given = command_line.split_whitespace().filter_map(|word| word.strip_prefix("console="));
    // On a Raspberry Pi `serial0` is a link to the port.
    let is_port = |console: &str| {
        let console = console.split(',').next().unwrap_or_default();
        let target = machine.root.join("dev").join(console).canonicalize().ok();
        console == name || target.is_some_and(|target| target.file_name().is_some_and(|target| target == name))
    };
    let given = given.find(|console| is_port(console));
    if given.is_none() && !active.split_whitespace().any(|console| console == name) {
        return None;
    }
    let word = format!("console={}", given.unwrap_or(name));
    let finding = Finding::problem(subject, format!("the kernel's console is on {name} ({word})"))
        .why("The kernel's messages go to the device, in the midst of what the gateway writes.");
    Some(match CMDLINE_FILES.iter().find(|file| machine.exists(file)) {
        Some(file) => finding
            .fix("sudo raspi-config nonint do_serial_cons 1 && sudo reboot")
            .fix(format!("or take {word} out of /{file}: sudo sed -i 's/{word} *//' /{file} && sudo reboot")),
        None => finding.fix(format!(
            "take {word} out of GRUB_CMDLINE_LINUX in /etc/default/grub, then: sudo update-grub && sudo reboot"
        )),
    })
}
