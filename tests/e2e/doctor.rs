//! `gatepost doctor`: each fault is made for real.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::common::{Gateway, LISTENER, Mqtt, Port, Process, gatepost, program, wait_until};

/// A child that is killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Writes a config with a listener on any free port, so that nothing on this machine is in its way.
fn config(dir: &TempDir, text: &str) -> String {
    config_with(dir, &format!("{LISTENER}{text}"))
}

fn config_with(dir: &TempDir, text: &str) -> String {
    let file = dir.path().join("gatepost.toml");
    fs::write(&file, format!("[gateway]\nname = \"test\"\nstate_dir = \"state\"\n{text}")).unwrap();
    file.to_str().unwrap().to_owned()
}

fn device(port: &str) -> String {
    format!("[device.board]\nserial = {{ port = {port:?}, baud = 9600 }}\npublish = \"board\"\n")
}

/// Exit code and output.
fn run(mut command: Command) -> (i32, String) {
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

/// Exit code and text; whatever it finds comes with what to do.
fn doctor(config: &str) -> (i32, String) {
    for finding in all_findings(config) {
        let is_fine = finding["severity"] == "fine";
        assert!(is_fine || !finding["fix"].as_array().unwrap().is_empty(), "nothing to do: {finding:#}");
    }
    run(gatepost(&["doctor", "-c", config]))
}

/// The findings on `subject` as JSON.
fn findings(config: &str, subject: &str) -> Vec<Value> {
    all_findings(config).into_iter().filter(|finding| finding["subject"] == subject).collect()
}

fn all_findings(config: &str) -> Vec<Value> {
    let (_, text) = run(gatepost(&["doctor", "--json", "-c", config]));
    let value: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    value["findings"].as_array().unwrap().clone()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// As a user who is not root. The folder of the build may be closed to others.
fn as_nobody(dir: &TempDir, args: &[&str]) -> Command {
    run_as(65_534, dir, args)
}

fn run_as(user: u32, dir: &TempDir, args: &[&str]) -> Command {
    let command = gatepost(args);
    if !is_root() {
        return command;
    }
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let binary = dir.path().join("gatepost-of-others");
    let _ = fs::remove_file(&binary);
    fs::hard_link(command.get_program(), &binary)
        .or_else(|_| fs::copy(command.get_program(), &binary).map(drop))
        .unwrap();
    let mut command = Command::new(binary);
    command.args(args).uid(user).gid(user);
    command
}

#[test]
fn a_good_configuration_has_no_problem() {
    let dir = TempDir::new().unwrap();
    let port = Port::plugged(dir.path(), "tty");
    let config = config(&dir, &device(port.path()));
    let (code, text) = doctor(&config);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("ok: device board: ") && !text.contains("problem"), "{text}");
    assert!(text.contains(&format!("→ gatepost doctor -c {config} --probe")), "{text}");
}

#[test]
fn a_missing_port_is_a_problem() {
    let dir = TempDir::new().unwrap();
    let config = config(&dir, &device("/dev/ttyNONE7"));
    let (code, text) = doctor(&config);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("problem: device board: /dev/ttyNONE7 is missing"), "{text}");
    assert!(text.trim_end().ends_with("1 problem") || text.contains("1 problem, "), "{text}");
    assert_eq!(findings(&config, "device board")[0]["severity"], "problem");
}

#[test]
fn a_port_that_may_not_be_opened_is_a_problem() {
    let dir = TempDir::new().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let port = Port::plugged(dir.path(), "tty");
    fs::set_permissions(port.path(), fs::Permissions::from_mode(0o000)).unwrap();
    let config = config(&dir, &device(port.path()));
    // Root may open everything.
    let (code, text) = run(as_nobody(&dir, &["doctor", "-c", &config]));
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("problem: device board: permission denied: "), "{text}");
    assert!(text.contains("mode 0000") && text.contains("udev"), "{text}");
}

#[test]
fn who_holds_the_port_is_named() {
    let dir = TempDir::new().unwrap();
    let port = Port::plugged(dir.path(), "tty");
    let config = config(&dir, &device(port.path()));
    let near = fs::OpenOptions::new().read(true).write(true).open(port.path()).unwrap();
    let sleep = Running(Command::new("sleep").arg("600").stdin(near).spawn().unwrap());
    let (code, text) = doctor(&config);
    assert_eq!(code, 1, "{text}");
    let holder = format!("is in use by sleep (pid {}", sleep.0.id());
    assert!(text.contains(&holder), "{text}");
    let (code, text) = run(gatepost(&["doctor", "--probe", port.path()]));
    assert_eq!(code, 1, "{text}");
    assert!(text.contains(&holder) && !text.contains("listening"), "a port in use is not listened to: {text}");
}

/// The maker of a pty may keep this end of it open without reading from it, so the port is tried.
#[test]
fn who_has_locked_the_port_is_named_and_never_the_doctor_itself() {
    let dir = TempDir::new().unwrap();
    let port = Port::plugged(dir.path(), "tty");
    fs::set_permissions(port.path(), fs::Permissions::from_mode(0o666)).unwrap();
    let near = fs::OpenOptions::new().read(true).write(true).open(port.path()).unwrap();
    rustix::fs::flock(&near, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let probe = ["doctor", "--probe", port.path(), "--seconds", "1"];
    let (code, text) = run(gatepost(&probe));
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("not probed") && text.contains(&format!("(pid {})", std::process::id())), "{text}");
    assert!(!text.contains("this gatepost"), "{text}");
    if is_root() {
        let (code, text) = run(as_nobody(&dir, &probe));
        assert_eq!(code, 1, "{text}");
        let known = "is there and may be opened; only root sees whether a program of another user has it";
        assert!(text.contains(known) && text.contains("it is in use by another program"), "{text}");
        assert!(!text.contains("is free") && !text.contains("this gatepost"), "{text}");
    }
}

/// A container counts its pseudo terminals from 0, too.
#[test]
#[ignore = "needs root, namespaces and Python"]
fn the_terminals_of_a_container_are_not_ours() {
    let dir = TempDir::new().unwrap();
    let port = Port::plugged(dir.path(), "tty");
    let config = config(&dir, &device(port.path()));
    let near = fs::canonicalize(port.path()).unwrap();
    let number: u32 = near.file_name().unwrap().to_str().unwrap().parse().unwrap();
    let script = "mount -t devpts -o newinstance,ptmxmode=0666 none /dev/pts; mount --bind /dev/pts/ptmx /dev/ptmx
        exec python3 -c \"import os, time; kept = [os.openpty() for _ in range($COUNT)]; print('open', flush=True); time.sleep(600)\"";
    let mut container = Command::new("unshare");
    container.args(["-m", "sh", "-ec", script]).env("COUNT", (number + 1).to_string());
    let container = Process::spawn(container);
    container.find("open");
    let (code, text) = doctor(&config);
    assert!(code == 0 && !text.contains("python3"), "{text}");
    let _held = fs::OpenOptions::new().read(true).write(true).open(&near).unwrap();
    let (_, text) = doctor(&config);
    assert!(text.contains(&format!("(pid {}", std::process::id())) && !text.contains("python3"), "{text}");
}

/// A config for a gateway on `address`, with its own control socket in `dir`.
fn config_on(dir: &TempDir, address: SocketAddr, text: &str) -> String {
    let listener = format!("[[broker.listener]]\naddress = \"{address}\"\nallow_anonymous = true\n");
    config_with(dir, &format!("control = \"control.sock\"\n{listener}{text}"))
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// `gatepost run` by the name of `binary`, ready.
fn running(binary: &Path, config: &str) -> Process {
    let mut command = Command::new(binary);
    command.args(["run", "-c", config]).env_remove("GATEPOST_LOG");
    let gateway = Process::spawn(command);
    gateway.find("ready");
    gateway
}

#[test]
fn a_running_gateway_is_no_fault_and_is_left_alone() {
    let dir = TempDir::new().unwrap();
    let port = Port::plugged(dir.path(), "tty");
    let path = port.path().to_owned();
    let address = free_address();
    let config = config_on(&dir, address, &device(&path));
    // Its name does not matter.
    let other_name = dir.path().join("gatepost-now");
    std::os::unix::fs::symlink(gatepost(&[]).get_program(), &other_name).unwrap();
    let near = Path::new(&path).canonicalize().unwrap();
    for (binary, name) in [(Path::new(gatepost(&[]).get_program()), "gatepost"), (&*other_name, "gatepost-now")] {
        let gateway = running(binary, &config);
        let is_open = || {
            let mut files = fs::read_dir(format!("/proc/{}/fd", gateway.id())).unwrap().flatten();
            files.any(|file| fs::read_link(file.path()).is_ok_and(|target| target == near))
        };
        wait_until("the gateway to open the port", is_open);
        let (code, text) = doctor(&config);
        assert_eq!(code, 0, "{text}");
        let gateway = format!("{name} (pid {}", gateway.id());
        assert!(text.contains(&format!("is open in {gateway}")), "{text}");
        assert!(text.contains(&format!("{gateway}) listens on {address}: CONNECT is accepted")), "{text}");
        let (code, text) = run(gatepost(&["doctor", "-c", &config, "--probe"]));
        assert_eq!(code, 0, "{text}");
        assert!(text.contains("not probed") && !text.contains("listening"), "{text}");
        // Without a configuration nobody knows whose gateway it is.
        let (code, text) = run(gatepost(&["doctor", "--probe", &path]));
        assert_eq!(code, 1, "{text}");
        assert!(text.contains(&gateway) && !text.contains("listening"), "{text}");
    }
}

/// Which `run` with this one would end with 71 for.
#[test]
fn a_gateway_with_another_configuration_is_in_the_way() {
    let dir = TempDir::new().unwrap();
    let port = Port::plugged(dir.path(), "tty");
    let address = free_address();
    let path = port.path();
    let gateway = running(Path::new(gatepost(&[]).get_program()), &config_on(&dir, address, &device(path)));
    let near = Path::new(path).canonicalize().unwrap();
    let is_open = || {
        let mut files = fs::read_dir(format!("/proc/{}/fd", gateway.id())).unwrap().flatten();
        files.any(|file| fs::read_link(file.path()).is_ok_and(|target| target == near))
    };
    wait_until("the gateway to open the port", is_open);
    let other = TempDir::new().unwrap();
    let config = config_on(&other, address, &device(path));
    let (code, text) = doctor(&config);
    assert_eq!(code, 1, "{text}");
    let holder = format!("is in use by gatepost (pid {}", gateway.id());
    assert!(text.contains(&format!("problem: broker: {address} {holder}")), "{text}");
    assert!(text.contains(&format!("problem: device board: {path} {holder}")), "{text}");
    assert_eq!(run(gatepost(&["run", "-c", &config])).0, 71);
}

#[test]
fn a_broker_port_that_another_has_is_a_problem() {
    let dir = TempDir::new().unwrap();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap();
    let config = config_with(&dir, &format!("[[broker.listener]]\naddress = \"{address}\"\nallow_anonymous = true\n"));
    let (code, text) = doctor(&config);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains(&format!("problem: broker: {address} is in use by ")), "{text}");
    assert!(text.contains(&format!("(pid {}", std::process::id())), "{text}");
    // What it says to write instead is a gateway for the same clients.
    let findings = findings(&config, "broker");
    let fixes = findings.iter().flat_map(|finding| finding["fix"].as_array().unwrap());
    let fix = fixes.map(|fix| fix.as_str().unwrap()).find(|fix| fix.contains("[[broker.listener]]")).unwrap();
    let gateway = Gateway::start_with(TempDir::new().unwrap(), fix);
    let messages = Mqtt::subscriber(gateway.port(), "a");
    messages.publish("a", "anonymous", 1);
    messages.expect("a", "anonymous");
    gateway.terminate();
}

#[test]
fn a_demo_on_the_brokers_port_is_in_the_way() {
    let dir = TempDir::new().unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let demo = program(gatepost(&[]).get_program().to_str().unwrap(), &["demo", "--port", &free.port().to_string()]);
    wait_until("the demo to listen", || std::net::TcpStream::connect(free).is_ok());
    let config = config_with(&dir, &format!("[[broker.listener]]\naddress = \"{free}\"\nallow_anonymous = true\n"));
    let (code, text) = doctor(&config);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains(&format!("{free} is in use by gatepost (pid {}", demo.id())), "{text}");
}

#[test]
#[ignore = "needs mosquitto"]
fn mosquitto_on_the_brokers_port_is_named() {
    let dir = TempDir::new().unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mosquitto = program("mosquitto", &["-p", &free.port().to_string()]);
    mosquitto.find("running");
    let config = config_with(&dir, &format!("[[broker.listener]]\naddress = \"{free}\"\nallow_anonymous = true\n"));
    let (code, text) = doctor(&config);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains(&format!("{free} is in use by mosquitto (pid {}", mosquitto.id())), "{text}");
    assert!(text.contains("systemctl disable --now ") && text.contains("password and ACL files"), "{text}");
}

/// `script` in namespaces of its own, where it is root; `$CONFIG` names the config, `$GATEPOST` the binary.
fn unshared(kind: &str, config: &str, script: &str) -> (i32, String) {
    let mut command = Command::new("unshare");
    let binary = gatepost(&[]).get_program().to_owned();
    command.args(if is_root() { vec![kind] } else { vec!["-r", kind] });
    command.args(["sh", "-ec", script]).env("CONFIG", config).env("GATEPOST", binary);
    run(command)
}

/// As in a container that was started with `--user 54321`.
#[test]
fn a_user_without_a_name_is_told_by_number() {
    if !is_root() {
        return;
    }
    let dir = TempDir::new().unwrap();
    // With a control socket of its own, no other gateway counts.
    let config = config_with(&dir, &format!("control = \"control.sock\"\n{LISTENER}"));
    let doctor = || run_as(54_321, &dir, &["doctor", "-c", &config]);
    let (code, text) = run(doctor());
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("problem: disk: uid 54321 may not write to ") && !text.contains("$USER"), "{text}");
    assert!(text.contains("sudo install -d -o 54321 -m 0750 "), "{text}");
    let state = dir.path().join("state");
    fs::create_dir(&state).unwrap();
    std::os::unix::fs::chown(&state, Some(54_321), None).unwrap();
    fs::write(state.join("broker.db"), "").unwrap();
    let (code, text) = run(doctor());
    assert_eq!(code, 1, "{text}");
    assert!(text.contains(&format!("sudo chown 54321 {}/broker.db*", state.display())), "{text}");
}

#[test]
#[ignore = "needs namespaces"]
fn a_full_disk_is_a_problem() {
    let dir = TempDir::new().unwrap();
    fs::create_dir(dir.path().join("state")).unwrap();
    let config = config(&dir, "");
    let mount = "cd \"$(dirname \"$CONFIG\")\"; mount -t tmpfs -o size=24m none state";
    let doctor = "exec \"$GATEPOST\" doctor -c \"$CONFIG\"";
    let (code, text) = unshared("-m", &config, &format!("{mount}; {doctor}"));
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("ok: disk: "), "{text}");
    let (code, text) = unshared("-m", &config, &format!("{mount}; head -c 20000000 /dev/zero > state/x; {doctor}"));
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("problem: disk: disk full: ") && text.contains("of 24.0 MiB are free"), "{text}");
    assert!(text.contains("→ df -h "), "{text}");
    let (code, text) = unshared("-m", &config, &format!("{mount}; mount -o remount,ro state; {doctor}"));
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("problem: disk: the file system of state_dir"), "{text}");
}

/// As on a system with the package: a service user, its configuration in /etc, its state in /var/lib. `$USER_ID` looks.
#[test]
#[ignore = "needs root and namespaces"]
fn on_a_packaged_system_the_user_of_the_service_is_judged() {
    let dir = TempDir::new().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let port = Port::plugged(dir.path(), "tty");
    std::os::unix::fs::chown(port.path(), None, Some(20)).unwrap();
    fs::set_permissions(port.path(), fs::Permissions::from_mode(0o660)).unwrap();
    let file = dir.path().join("packaged.toml");
    fs::write(&file, format!("[broker]\npassword_file = \"passwd\"\n{LISTENER}{}", device(port.path()))).unwrap();
    let system = "\
mount -t tmpfs none /etc; mount -t tmpfs none /var/lib; mkdir -p /etc/gatepost /var/lib/gatepost
cp \"$CONFIG\" /etc/gatepost/gatepost.toml; : > /etc/gatepost/passwd; chmod 0640 /etc/gatepost/passwd
echo 'root:x:0:0::/root:/bin/sh
gatepost:x:990:990::/:/bin/false
pi:x:65534:65534::/:/bin/sh' > /etc/passwd
chown 0:990 /etc/gatepost/passwd; chown 990:990 /var/lib/gatepost
printf 'dialout:x:20:%s\\ngatepost:x:990:pi\\n' \"$DIALOUT\" > /etc/group
";
    let binary = dir.path().join("gatepost-for-all");
    fs::copy(gatepost(&[]).get_program(), &binary).unwrap();
    let look = |user: &str, dialout: &str, more: &str| {
        let script = format!(
            "{system}{more}\nexec setpriv --reuid {user} --regid {user} --groups 990 {} doctor",
            binary.display()
        );
        unshared("-m", file.to_str().unwrap(), &format!("DIALOUT={dialout}; {script}"))
    };
    for user in ["0", "65534"] {
        let (code, text) = look(user, "", "");
        assert_eq!(code, 1, "{text}");
        assert!(text.contains("the service user gatepost may not open"), "{text}");
        assert!(text.contains("sudo usermod -aG dialout gatepost && sudo systemctl restart gatepost"), "{text}");
        let (code, text) = look(user, "gatepost", "");
        assert_eq!(code, 0, "{text}");
        assert!(!text.contains("warning: device") && text.contains("state_dir /var/lib/gatepost has room"), "{text}");
    }
    let (_, text) = look("65534", "gatepost", "");
    assert!(
        text.contains("ok: device board: the service user gatepost may open") && text.contains("pi may not"),
        "{text}"
    );
    let (code, text) = look("0", "gatepost", "chown 0:0 /etc/gatepost/passwd");
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("problem: service: the service user gatepost may not read /etc/gatepost/passwd"), "{text}");
    assert!(
        text.contains("sudo chgrp gatepost /etc/gatepost/passwd && sudo chmod 0640 /etc/gatepost/passwd"),
        "{text}"
    );
    let (code, text) = look("65534", "gatepost", "chown 0:0 /etc/gatepost/passwd");
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("→ sudo gatepost doctor"), "{text}");
    let (code, text) = look("0", "gatepost", "chown 0:0 /var/lib/gatepost");
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("problem: disk: the service user gatepost may not write to /var/lib/gatepost"), "{text}");
    assert!(text.contains("sudo chown -R gatepost: /var/lib/gatepost"), "{text}");
    // As somebody leaves it who has started it with sudo once.
    let (code, text) = look("0", "gatepost", "(umask 077; : > /var/lib/gatepost/broker.db)");
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("the service user gatepost may not write to /var/lib/gatepost/broker.db"), "{text}");
    assert!(text.contains("sudo chown -R gatepost: /var/lib/gatepost"), "{text}");
}

/// The default listeners, in a network of its own: the ports are free there.
#[test]
#[ignore = "needs namespaces"]
fn a_broker_for_this_machine_only_is_told_in_a_network() {
    let dir = TempDir::new().unwrap();
    let config = config_with(&dir, "");
    let doctor = "exec \"$GATEPOST\" doctor -c \"$CONFIG\"";
    let (code, text) = unshared("-n", &config, &format!("ip link set lo up; {doctor}"));
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("127.0.0.1:1883 is free") && !text.contains("only this machine"), "{text}");
    let (code, text) = unshared("-n", &config, &format!("ip link set lo up; ip addr add 10.1.2.3/24 dev lo; {doctor}"));
    assert_eq!(code, 0, "a warning is no problem: {text}");
    assert!(text.contains("warning: broker: only this machine reaches the broker"), "{text}");
    assert!(text.contains("10.1.2.3:1883") && text.contains("password_file"), "{text}");
}

#[test]
fn a_bad_configuration_is_a_problem_and_the_rest_is_looked_at() {
    let dir = TempDir::new().unwrap();
    let config = config(&dir, "[device.board]\nserail = { port = \"/dev/ttyUSB0\" }\n");
    let (code, text) = doctor(&config);
    assert_eq!(code, 1, "{text}");
    for part in ["problem: configuration: ", "serail", "serial", "clock: ", "→ gatepost check -c "] {
        assert!(text.contains(part), "{part:?} is missing in {text}");
    }
}

/// A device that says `octal` (as printf(1) writes it) again and again.
fn talking(dir: &TempDir, octal: &str) -> (Port, Running) {
    let port = Port::plugged(dir.path(), "tty");
    let script = format!("while :; do printf '{octal}'; sleep 0.01; done");
    let mut command = Command::new("sh");
    command.args(["-c", &script]).stdin(Stdio::null()).stdout(port.device_end());
    (port, Running(command.spawn().unwrap()))
}

#[test]
fn probe_learns_where_frames_end() {
    for (says, framing) in [
        (r"T=21.5 H=60\r\n", r#"framing = { type = "lines", terminator = "\r\n" }"#),
        (r"T=21.5 H=60\n", r#"framing = "lines""#),
        (r"4006381333931\003", r#"framing = { type = "delimited", delimiter = "\u0003" }"#),
    ] {
        let dir = TempDir::new().unwrap();
        let (port, _device) = talking(&dir, says);
        let (code, text) = run(gatepost(&["doctor", "--probe", port.path(), "--seconds", "10"]));
        assert_eq!(code, 0, "{text}");
        assert!(text.contains(framing), "{says}: {text}");
        let toml: Vec<&str> = text.lines().skip_while(|line| !line.contains("[device.")).take(4).collect();
        let toml = toml.join("\n").replace("→ ", "");
        let check = run(gatepost(&["check", "-c", &config(&dir, &toml)]));
        assert_eq!(check.0, 0, "what it prints is a configuration: {check:?} {toml}");
    }
}

#[test]
fn probe_tells_noise_and_a_framing_that_does_not_fit() {
    let dir = TempDir::new().unwrap();
    let (port, noisy) = talking(&dir, r"\000\376\200\000\340\376\000\000\370\200\216\346");
    let config = config(&dir, &device(port.path()));
    let probe = ["doctor", "-c", &config, "--probe", "--seconds", "1"];
    let (code, text) = run(gatepost(&probe));
    assert_eq!(code, 0, "it may well be binary: {text}");
    assert!(text.contains("warning: device board: ") && text.contains("at 9600 baud 100 % of "), "{text}");
    drop(noisy);
    drop(port);
    fs::remove_file(dir.path().join("tty")).unwrap();
    let (_port, _device) = talking(&dir, r"4006381333931\003");
    let (code, text) = run(gatepost(&probe));
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("problem: device board: wrong framing: it speaks text at 9600 baud"), "{text}");
    assert!(text.contains(r#"delimiter = "\u0003""#), "{text}");
}

#[test]
fn a_device_that_says_nothing_is_told() {
    let dir = TempDir::new().unwrap();
    let port = Port::plugged(dir.path(), "tty");
    let (code, text) = run(gatepost(&["doctor", "--probe", port.path(), "--seconds", "1"]));
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("said nothing for 1s"), "{text}");
    assert!(text.contains(&format!("--probe {} --seconds 60", port.path())), "{text}");
}
