//! Who may use the control socket, and what is said to everybody else.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::common::{Gateway, LISTENER, Process, gatepost};

/// The group of serial ports, in every Debian.
const DIALOUT: u32 = 20;
const NOBODY: u32 = 65_534;

fn open_to_all(dir: &TempDir) {
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
}

/// The binary where everybody may run it: the folder of the build may be closed to others.
fn public_binary(dir: &Path) -> OsString {
    let (build, copy) = (gatepost(&[]), dir.join("gatepost-for-all"));
    fs::hard_link(build.get_program(), &copy).or_else(|_| fs::copy(build.get_program(), &copy).map(drop)).unwrap();
    copy.into()
}

fn run(command: &mut Command) -> (i32, String) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    (output.status.code().unwrap(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

#[test]
#[ignore = "needs root"]
fn who_is_not_in_the_group_is_told_how_to_get_there() {
    let dir = TempDir::new().unwrap();
    open_to_all(&dir);
    let gateway = Gateway::start_in(dir, "");
    let socket = gateway.control();
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o660);
    let binary = public_binary(gateway.dir());
    let ask = |command: &[&str], group: u32| {
        let mut client = Command::new(&binary);
        client.args(command).arg("--socket").arg(&socket).uid(NOBODY).gid(group);
        run(&mut client)
    };
    let (code, text) = ask(&["status"], NOBODY);
    assert!(code == 69 && text.contains("use sudo"), "the group root is not for giving away: {code} {text}");
    chown(&socket, None, Some(DIALOUT)).unwrap();
    let commands: [&[&str]; 6] =
        [&["status"], &["monitor", "d"], &["send", "d", "x"], &["release", "d"], &["acquire", "d"], &["reload"]];
    for command in commands {
        let (code, text) = ask(command, NOBODY);
        assert_eq!(code, 69, "{command:?}: {text}");
        for part in [socket.to_str().unwrap(), "ermission denied", "`sudo usermod -aG dialout $USER`", "log in again"] {
            assert!(text.contains(part), "{part:?} is missing in {text}");
        }
    }
    let (code, text) = ask(&["status"], DIALOUT);
    assert!(code == 0 && text.contains("no devices"), "its group may: {code} {text}");
}

/// As in /etc/gatepost, which is root's and the group's of the service.
#[test]
#[ignore = "needs root"]
fn what_root_adds_a_user_to_can_be_read_by_the_service() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("passwd");
    let add = |user: &str| {
        let (code, text) = run(gatepost(&["passwd", "--batch"]).arg(&file).args([user, "secret"]));
        assert_eq!(code, 0, "{text}");
        let found = fs::metadata(&file).unwrap();
        (found.uid(), found.gid(), found.mode() & 0o777)
    };
    assert_eq!(add("ann"), (0, 0, 0o600), "the group root is nobody's");
    fs::remove_file(&file).unwrap();
    chown(dir.path(), None, Some(DIALOUT)).unwrap();
    assert_eq!(add("ann"), (0, DIALOUT, 0o640));
    assert_eq!(add("bob"), (0, DIALOUT, 0o640));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(add("cid"), (0, DIALOUT, 0o600), "who closed it meant it");
}

/// As somebody leaves it who has started it as root once.
#[test]
#[ignore = "needs root"]
fn a_store_of_another_user_is_told_and_the_gateway_works_without() {
    let dir = TempDir::new().unwrap();
    open_to_all(&dir);
    let state = dir.path().join("state");
    fs::create_dir(&state).unwrap();
    chown(&state, Some(NOBODY), Some(NOBODY)).unwrap();
    let database = state.join("broker.db");
    fs::write(&database, "").unwrap();
    fs::set_permissions(&database, fs::Permissions::from_mode(0o600)).unwrap();
    let file = dir.path().join("gatepost.toml");
    fs::write(&file, "[gateway]\nstate_dir = \"state\"\ncontrol = \"state/control\"\n[broker]\nlistener = []\n")
        .unwrap();
    let mut command = Command::new(public_binary(dir.path()));
    command.args(["run", "-c", file.to_str().unwrap()]).uid(NOBODY).gid(NOBODY);
    let gateway = Process::spawn(command);
    let line = gateway.find("broker.db");
    assert!(line.contains("Permission denied") && line.contains("started as root once"), "{line}");
    gateway.find("ready");
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.finish().0, 0);
    assert_eq!(fs::read(&database).unwrap(), b"", "it is left alone");
}

/// A gateway without a network listener that is to use `control`; its log is awaited up to `said`.
fn with_control(dir: &TempDir, control: &Path, said: &str) -> (Process, String) {
    let file = dir.path().join("gatepost.toml");
    fs::write(&file, format!("[gateway]\nstate_dir = \"state\"\ncontrol = {control:?}\n[broker]\nlistener = []\n"))
        .unwrap();
    let process = Process::spawn(gatepost(&["run", "-c", file.to_str().unwrap()]));
    process.find("ready");
    let line = process.find(said);
    (process, line)
}

#[test]
fn a_place_that_cannot_be_used_is_told_and_the_gateway_works_without() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("file"), "precious").unwrap();
    let nowhere = dir.path().join("no/such/control.sock");
    for (control, why) in [
        (nowhere.as_path(), "make its directory first"),
        (&dir.path().join("file"), "it is no socket"),
        (&dir.path().join("file/control.sock"), "ot a directory"),
    ] {
        let (gateway, line) = with_control(&dir, control, "cannot make the control socket");
        assert!(line.contains(control.to_str().unwrap()) && line.contains(why) && line.contains("hint: "), "{line}");
        gateway.signal(Signal::TERM);
        assert_eq!(gateway.finish().0, 0);
    }
    assert_eq!(fs::read_to_string(dir.path().join("file")).unwrap(), "precious");
    // A folder that is missing alone is made.
    let fresh = dir.path().join("fresh/control.sock");
    let (gateway, _) = with_control(&dir, &fresh, "control socket");
    assert_eq!(run(&mut gatepost(&["status", "--socket", fresh.to_str().unwrap()])).0, 0);
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.finish().0, 0);
}

#[test]
fn a_path_that_is_too_long_for_a_socket_is_told() {
    let dir = TempDir::new().unwrap();
    let long = dir.path().join("x".repeat(108));
    let file = dir.path().join("gatepost.toml");
    fs::write(&file, format!("[gateway]\ncontrol = {long:?}\n{LISTENER}")).unwrap();
    let (code, text) = run(&mut gatepost(&["run", "-c", file.to_str().unwrap()]));
    assert!(code == 78 && text.contains("gateway.control") && text.contains("at most 107 bytes"), "{code} {text}");
    // By default it is in a folder that the environment names.
    fs::write(&file, "[gateway]\nstate_dir = \"state\"\n[broker]\nlistener = []\n").unwrap();
    let mut command = gatepost(&["run", "-c", file.to_str().unwrap()]);
    command.env("RUNTIME_DIRECTORY", &long);
    let gateway = Process::spawn(command);
    let line = gateway.find("cannot make the control socket");
    assert!(line.contains("hint: name a shorter one"), "{line}");
    gateway.find("ready");
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.finish().0, 0);
    let (code, text) = run(&mut gatepost(&["status", "--socket", long.to_str().unwrap()]));
    assert!(code == 69 && text.contains("at most 107 bytes"), "{code} {text}");
}

/// A client of a user with a folder of his own for sockets; `system` is what root's folder for sockets shows him.
#[test]
#[ignore = "needs root and namespaces"]
fn the_gateway_of_the_package_is_found_by_every_user_of_its_group() {
    let dir = TempDir::new().unwrap();
    open_to_all(&dir);
    let gateway = Gateway::start_in(dir, "");
    chown(gateway.control(), None, Some(DIALOUT)).unwrap();
    let own = gateway.dir().join("user");
    fs::create_dir(&own).unwrap();
    let binary = public_binary(gateway.dir());
    // Where the service has its socket, for this namespace only.
    let script = "mount -t tmpfs none /run; mkdir -p /run/gatepost; [ -z \"$SOCKET\" ] || ln -s \"$SOCKET\" /run/gatepost/control.sock
        exec setpriv --reuid 65534 --regid \"$GROUP\" --clear-groups \"$GATEPOST\" status";
    let status = |socket: &Path, group: u32| {
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-ec", script]).env("GATEPOST", &binary).env("XDG_RUNTIME_DIR", &own);
        command.env("SOCKET", socket).env("GROUP", group.to_string()).env_remove("RUNTIME_DIRECTORY");
        run(&mut command)
    };
    let (code, text) = status(&gateway.control(), DIALOUT);
    assert!(code == 0 && text.contains("no devices"), "{code} {text}");
    let (code, text) = status(&gateway.control(), NOBODY);
    assert!(code == 69 && text.contains("/run/gatepost/control.sock") && text.contains("usermod"), "{code} {text}");
    // One of his own that is gone is as good as none.
    fs::create_dir(own.join("gatepost")).unwrap();
    let own = own.join("gatepost/control.sock");
    drop(UnixListener::bind(&own).unwrap());
    fs::set_permissions(&own, fs::Permissions::from_mode(0o666)).unwrap();
    let (code, text) = status(&gateway.control(), DIALOUT);
    assert_eq!(code, 0, "{text}");
    let (code, text) = status(Path::new(""), DIALOUT);
    assert_eq!(code, 69, "{text}");
    for part in [own.to_str().unwrap(), "/run/gatepost/control.sock", "systemctl status gatepost", "gatepost run -c"] {
        assert!(text.contains(part), "{part:?} is missing in {text}");
    }
}
