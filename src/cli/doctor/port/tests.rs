//! Facts from files as the kernel, udev and systemd make them, and from real ptys.

use std::os::unix::fs::symlink;

use rustix::fs::OFlags;
use tempfile::TempDir;

use super::super::finding::Severity;
use super::*;
use crate::transport::serial::tests::{eventually, pty};

/// A machine with an FTDI adapter ttyUSB0, an Arduino ttyACM0 and a UART ttyAMA0.
struct Fake {
    root: TempDir,
}

impl Fake {
    fn new() -> Fake {
        let fake = Fake { root: TempDir::new().unwrap() };
        fake.usb("1-1", "ttyUSB0", "ftdi_sio", ["0403", "6001", "A50285BI"]);
        fake.usb("1-2", "ttyACM0", "cdc_acm", ["2341", "0043", "7543"]);
        fake.file("sys/class/tty/ttyAMA0/type", "4\n");
        fake.file("sys/devices/uart/ttyAMA0/x", "");
        fake.link("sys/class/tty/ttyAMA0/device", "sys/devices/uart/ttyAMA0");
        fake.file("dev/ttyAMA0", "");
        fake.link("dev/serial0", "dev/ttyAMA0");
        fake.link("dev/serial/by-id/usb-FTDI-if00", "dev/ttyUSB0");
        fake
    }

    fn usb(&self, at: &str, tty: &str, driver: &str, [vendor, product, serial]: [&str; 3]) {
        let device = format!("sys/devices/usb1/{at}");
        for (name, text) in [("idVendor", vendor), ("idProduct", product), ("serial", serial), ("dev", "189:4")] {
            self.file(&format!("{device}/{name}"), text);
        }
        let port = format!("{device}/{at}:1.0/{tty}");
        self.file(&format!("{port}/port_number"), "0\n");
        self.file(&format!("sys/bus/drivers/{driver}/x"), "");
        self.link(&format!("{port}/driver"), &format!("sys/bus/drivers/{driver}"));
        self.link(&format!("sys/class/tty/{tty}/device"), &port);
        self.file(&format!("sys/class/tty/{tty}/dev"), "188:0\n");
        self.file(&format!("dev/{tty}"), "");
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    fn file(&self, path: &str, text: &str) {
        fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
        fs::write(self.path(path), text).unwrap();
    }

    fn link(&self, path: &str, target: &str) {
        fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
        symlink(self.path(target), self.path(path)).unwrap();
    }

    fn process(&self, pid: u32, name: &str, arguments: &str) {
        self.file(&format!("proc/{pid}/comm"), &format!("{name}\n"));
        self.file(&format!("proc/{pid}/cmdline"), &arguments.replace(' ', "\0"));
    }

    fn machine(&self) -> Machine {
        Machine::gather(self.root.path())
    }

    fn consoles(&self, tty: &str) -> Vec<Finding> {
        console::examine(&self.machine(), "device a", &self.path("dev").join(tty))
    }

    fn modem_manager(&self, tty: &str) -> Option<Finding> {
        modem_manager::examine(&self.machine(), "device a", &self.path("dev").join(tty))
    }
}

#[test]
fn a_missing_port_is_told_with_those_that_are_there() {
    let fake = Fake::new();
    let missing = |port: SerialPort| *locate(&fake.machine(), "device a", &port).unwrap_err();
    let finding = missing(SerialPort::Path(fake.path("dev/ttyUSB1")));
    assert_eq!(finding.severity, Severity::Problem);
    assert!(finding.what.ends_with("ttyUSB1 is missing: there is no such port"), "{finding:?}");
    assert_eq!(finding.fix.len(), 3);
    assert!(finding.fix[0].starts_with("port = \"usb:0403:6001:A50285BI\"    # "), "{finding:?}");
    fs::remove_file(fake.path("dev/ttyUSB0")).unwrap();
    fake.process(7, "brltty", "brltty");
    let finding = missing(SerialPort::Path(fake.path("dev/serial/by-id/usb-FTDI-if00")));
    assert!(finding.what.contains("the link points to a port that is gone"), "{finding:?}");
    assert!(finding.fix.last().unwrap().contains("apt remove brltty"), "{finding:?}");
    let finding = missing(SerialPort::Usb { vendor: 0x0403, product: 0x6001, serial: None });
    assert!(finding.what.contains("no such device is plugged in"), "{finding:?}");
    let finding = missing(SerialPort::Path(fake.path("etc")));
    assert!(finding.what.contains("missing"), "{finding:?}");
    let finding = missing(SerialPort::Path(fake.path("dev/ttyAMA0")));
    assert!(finding.what.ends_with("ttyAMA0 is not a serial port"), "{finding:?}");
    let null = SerialPort::Path("/dev/null".into());
    let finding = *locate(&Machine::gather(Path::new("/")), "device a", &null).unwrap_err();
    assert_eq!(finding.what, "/dev/null is not a serial port");
    let none = TempDir::new().unwrap();
    let finding = missing_in(none.path());
    assert!(finding.fix[0].contains("dmesg"), "{finding:?}");
}

fn missing_in(root: &Path) -> Finding {
    *locate(&Machine::gather(root), "device a", &SerialPort::Path(root.join("dev/ttyS0"))).unwrap_err()
}

#[test]
fn permission_is_judged_for_the_user_and_for_the_service() {
    let path = Path::new("/dev/ttyUSB0");
    let good = Access {
        user_may: true,
        user: Some("pi".into()),
        user_in_group: false,
        service_may: None,
        owner: "root".into(),
        group: Some("dialout".into()),
        mode: 0o660,
    };
    assert_eq!(permission("device a", path, &good), None);
    let judge = |access: Access| permission("device a", path, &access).unwrap();
    let finding = judge(Access { user_may: false, ..good.clone() });
    assert_eq!(finding.severity, Severity::Problem);
    assert!(finding.fix[0].starts_with("sudo usermod -aG dialout pi "), "{finding:?}");
    let finding = judge(Access { user_may: false, user_in_group: true, ..good.clone() });
    assert!(finding.fix[0].starts_with("newgrp dialout"), "{finding:?}");
    let finding = judge(Access { service_may: Some(false), ..good.clone() });
    assert_eq!(finding.severity, Severity::Problem);
    assert_eq!(finding.fix, ["sudo usermod -aG dialout gatepost && sudo systemctl restart gatepost"]);
    let finding = judge(Access { user_may: false, service_may: Some(true), ..good.clone() });
    assert_eq!(finding.severity, Severity::Fine);
    let finding = judge(Access { user_may: false, group: None, mode: 0o600, ..good });
    assert!(finding.fix.iter().any(|fix| fix.contains("udev")), "{finding:?}");
}

#[test]
fn a_holder_is_named_but_not_the_maker_alone() {
    let (_far, near) = pty();
    let open = || {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        rustix::fs::open(&near, flags, rustix::fs::Mode::empty()).unwrap()
    };
    let port = SerialPort::Path(near.clone());
    let look = || examine(&Machine::gather(Path::new("/")), "device a", &port);
    let is = |severity: Severity, says: String, probing: Probing| {
        let seen = eventually(look, |(findings, free)| findings[0].what.contains(&says) && *free == probing);
        assert_eq!(seen.0.iter().map(|finding| finding.severity).collect::<Vec<_>>(), [severity]);
        seen.0.into_iter().flat_map(|finding| finding.fix).collect::<Vec<_>>()
    };
    is(Severity::Fine, "is free".to_owned(), Probing::Possible(near.clone()));
    let _own = open();
    is(Severity::Warning, format!("(pid {}", std::process::id()), Probing::Possible(near.clone()));
    let mut sleeps = [0, 1].map(|_| std::process::Command::new("sleep").arg("60").stdin(open()).spawn().unwrap());
    sleeps.sort_by_key(std::process::Child::id);
    let ids = sleeps.each_ref().map(std::process::Child::id);
    eventually(look, |(findings, _)| ids.iter().all(|id| findings[0].what.contains(&format!("sleep (pid {id}"))));
    let fix = is(Severity::Problem, "in use by sleep (pid".to_owned(), Probing::Impossible);
    for sleep in &mut sleeps {
        sleep.kill().unwrap();
        sleep.wait().unwrap();
    }
    let kill = |id| fix.contains(&format!("sudo kill {id}"));
    assert!(ids.into_iter().all(kill) || fix[0].contains("systemctl"), "{fix:?}");
}

#[test]
fn the_latency_timer_of_an_adapter_is_read() {
    let fake = Fake::new();
    let look = || latency(&fake.machine(), "device a", &fake.path("dev/ttyUSB0"));
    let file = "sys/bus/usb-serial/devices/ttyUSB0/latency_timer";
    assert_eq!(look(), None);
    fake.file(file, "16\n");
    let finding = look().unwrap();
    assert_eq!(finding.severity, Severity::Warning);
    assert_eq!(finding.fix[0], format!("echo 1 | sudo tee /{file}"));
    assert!(finding.fix[1].contains("ATTR{latency_timer}=\"1\""));
    fake.file(file, "1\n");
    assert_eq!(look(), None);
}

#[test]
fn a_name_that_changes_is_told_where_there_is_a_better_one() {
    let fake = Fake::new();
    let look = |path: &str| unstable(&fake.machine(), "device a", &SerialPort::Path(fake.path(path)));
    assert!(look("dev/ttyUSB0").unwrap().fix[0].starts_with("port = \"usb:0403:6001:A50285BI\""));
    assert_eq!(look("dev/serial/by-id/usb-FTDI-if00"), None);
    assert_eq!(look("dev/ttyACM0"), None, "there is no other path");
}

#[test]
fn a_login_prompt_is_found_running_and_waiting() {
    let fake = Fake::new();
    assert_eq!(fake.consoles("ttyAMA0"), []);
    let wanted = "etc/systemd/system/getty.target.wants/serial-getty@ttyAMA0.service";
    fake.link(wanted, "usr/lib/systemd/system/serial-getty@.service");
    assert!(fake.consoles("ttyAMA0")[0].what.contains("is set up on ttyAMA0"));
    assert_eq!(fake.consoles("ttyUSB0"), []);
    fs::remove_file(fake.path(wanted)).unwrap();
    fake.process(412, "agetty", "/sbin/agetty -o -p 115200 ttyAMA0 vt102");
    let finding = &fake.consoles("ttyAMA0")[0];
    assert!(finding.what.contains("agetty (pid 412)"), "{finding:?}");
    assert_eq!(finding.fix, ["sudo systemctl disable --now serial-getty@ttyAMA0.service"]);
}

#[test]
fn the_kernels_console_is_found_by_each_of_its_names() {
    let fake = Fake::new();
    fake.file("proc/cmdline", "console=tty1 root=/dev/mmcblk0p2 quiet\n");
    assert_eq!(fake.consoles("ttyAMA0"), []);
    fake.file("proc/cmdline", "console=serial0,115200 console=tty1 root=/dev/mmcblk0p2\n");
    let finding = &fake.consoles("ttyAMA0")[0];
    assert_eq!(finding.severity, Severity::Problem);
    assert!(finding.fix[0].contains("take console=serial0,115200 out of GRUB"), "{finding:?}");
    fake.file("boot/firmware/cmdline.txt", "console=serial0,115200 console=tty1\n");
    let finding = &fake.consoles("ttyAMA0")[0];
    assert!(finding.fix[0].contains("raspi-config"), "{finding:?}");
    assert!(finding.fix[1].contains("sed -i 's/console=serial0,115200 *//' /boot/firmware/cmdline.txt"), "{finding:?}");
    fake.file("proc/cmdline", "quiet\n");
    fake.file("sys/class/tty/console/active", "tty0 ttyAMA0\n");
    assert!(fake.consoles("ttyAMA0")[0].what.contains("console=ttyAMA0"));
    assert_eq!(fake.consoles("ttyUSB0"), []);
}

#[test]
fn modem_manager_is_told_of_unless_udev_keeps_it_away() {
    let fake = Fake::new();
    assert_eq!(fake.modem_manager("ttyACM0"), None);
    fake.process(99, "ModemManager", "/usr/sbin/ModemManager");
    let finding = fake.modem_manager("ttyACM0").unwrap();
    assert_eq!(finding.severity, Severity::Problem);
    assert!(finding.what.starts_with("ModemManager (pid 99) runs"), "{finding:?}");
    assert!(finding.fix[1].contains(r#"ATTRS{idVendor}=="2341", ATTRS{idProduct}=="0043""#), "{finding:?}");
    assert_eq!(fake.modem_manager("ttyUSB0").unwrap().severity, Severity::Warning);
    assert_eq!(fake.modem_manager("ttyAMA0").unwrap().severity, Severity::Fine);
    // As udev keeps it for the device (189:4), of which the port is a part, or for the port itself.
    for entry in ["run/udev/data/c189:4", "run/udev/data/c188:0"] {
        fake.file(entry, "S:x\nE:ID_MM_DEVICE_IGNORE=1\n");
        assert_eq!(fake.modem_manager("ttyACM0"), None, "{entry}");
        fs::remove_file(fake.path(entry)).unwrap();
    }
}
