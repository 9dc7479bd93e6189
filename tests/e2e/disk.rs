//! A disk that does not answer, or cannot be read: an SD card at its end, a file system that is frozen, a cable that is loose.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::common::{DEADLINE, Mqtt, Process, gatepost};
use crate::notify::{Manager, port};

/// A library in `dir` that makes the disk behave as the file of this name in tests/c says.
fn disk(dir: &Path, name: &str) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c").join(name).with_extension("c");
    let library = dir.join(name).with_extension("so");
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source).status().unwrap();
    assert!(built.success());
    library
}

fn status(socket: &Path, json: bool) -> String {
    let mut command = gatepost(&["status", "--socket", socket.to_str().unwrap()]);
    let output = command.args(json.then_some("--json")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn store(socket: &Path) -> Value {
    serde_json::from_str::<Value>(&status(socket, true)).unwrap()["broker"]["store"].take()
}

/// Waits for WATCHDOG=1, which says that the runtime and the router answer, until STATUS begins with `status`.
fn fed_until(manager: &Manager, status: &str) -> String {
    let (start, mut fed) = (Instant::now(), 0);
    loop {
        assert!(start.elapsed() < DEADLINE, "no {status}");
        let text = manager.expect("");
        fed += u32::from(text == "WATCHDOG=1");
        if text.starts_with(&format!("STATUS={status}")) {
            assert!(fed > 0, "the watchdog starves");
            return text;
        }
    }
}

#[test]
fn a_disk_that_does_not_answer_is_told_and_is_no_reason_to_be_killed() {
    let manager = Manager::new();
    manager.configure("");
    let hangs = manager.dir().join("hangs");
    let mut command = manager.command(Some(Duration::from_secs(1)));
    command
        .env("LD_PRELOAD", disk(manager.dir(), "hanging_disk"))
        .env("TEST_DISK_HANGS", &hangs)
        .env("RUNTIME_DIRECTORY", manager.dir());
    let mut gateway = Process::spawn(command);
    gateway.find("ready");
    let socket = manager.dir().join("control.sock");
    let mqtt = Mqtt::connect(port(&gateway));
    mqtt.subscribe("live", 1);
    mqtt.subscribe("$SYS/broker/store/#", 1);
    mqtt.expect("$SYS/broker/store/state", "healthy");
    mqtt.retain("kept", "before");

    std::fs::write(&hangs, "").unwrap();
    let waiting = std::thread::spawn({
        let port = port(&gateway);
        move || Mqtt::connect(port).retain("kept", "after")
    });
    fed_until(&manager, "the disk has not answered for 5 s; 0 of 0 devices online, ");
    gateway.find_all(&["WARN", "the disk has not answered for 5 s", "hint:"]);
    let state = store(&socket);
    assert_eq!((&state["state"], &state["stalls"]), (&"stalled".into(), &1.into()), "{state}");
    assert!(state["stalled_for"].as_u64().unwrap() >= 5, "{state}");
    let text = status(&socket, false);
    assert!(text.contains("disk      stalled: the disk has not answered for "), "{text}");
    let sys = Mqtt::subscriber(port(&gateway), "$SYS/broker/store/state");
    sys.expect("$SYS/broker/store/state", "stalled");
    // All else goes on, and is told that it does.
    mqtt.publish("live", "still", 1);
    mqtt.expect("live", "still");
    assert!(!waiting.is_finished(), "what is to be kept waits");
    fed_until(&manager, "the disk has not answered for 1");

    std::fs::remove_file(&hangs).unwrap();
    waiting.join().unwrap();
    fed_until(&manager, "0 of 0 devices online");
    gateway.find_all(&["INFO", "the disk answers again, after 1"]);
    assert_eq!(store(&socket)["state"], "healthy");
    let warnings = gateway.lines().iter().filter(|line| line.contains("the disk has not answered")).count();
    assert_eq!(warnings, 1, "once, not each second");

    // Nor does it hold up the end.
    std::fs::write(&hangs, "").unwrap();
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.wait(Duration::from_secs(5)).code(), Some(0));
}

/// What cannot be read is not lost yet: a cable is pushed in again, and it can.
#[test]
fn a_store_that_the_disk_does_not_give_back_is_left_alone() {
    let manager = Manager::new();
    manager.configure("");
    let fails = manager.dir().join("fails");
    let start = || {
        let mut command = manager.command(None);
        command
            .env("LD_PRELOAD", disk(manager.dir(), "failing_disk"))
            .env("TEST_DISK_FAILS", &fails)
            .env("RUNTIME_DIRECTORY", manager.dir());
        let gateway = Process::spawn(command);
        gateway.find("ready");
        gateway
    };
    let mut gateway = start();
    Mqtt::connect(port(&gateway)).retain("kept", "before");
    gateway.kill();

    std::fs::write(&fails, "").unwrap();
    let mut gateway = start();
    gateway.find_all(&["ERROR", "nothing is kept on disk", "cannot read ", "hint:"]);
    assert_eq!(store(&manager.dir().join("control.sock"))["state"], "degraded");
    Mqtt::connect(port(&gateway)).retain("kept", "meanwhile");
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.wait(Duration::from_secs(5)).code(), Some(0));

    std::fs::remove_file(&fails).unwrap();
    let gateway = start();
    Mqtt::subscriber(port(&gateway), "kept").expect("kept", "before");
}
