//! `$SYS` as tools read it, and that nobody pays for it while nobody does.

use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::common::{Gateway, LISTENER, Mqtt, python, wait_until};

fn gateway(sys_interval: &str) -> Gateway {
    let config = format!("[broker]\nsys_interval = \"{sys_interval}\"\n{LISTENER}");
    Gateway::start_with(TempDir::new().unwrap(), &config)
}

/// Context switches of all threads so far: each time one of them was woken makes at least one.
fn context_switches(pid: u32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let of_task = |status: String| -> u64 {
        let fields = status.lines().filter_map(|line| line.split_once("ctxt_switches:"));
        fields.map(|(_, number)| number.trim().parse::<u64>().unwrap()).sum()
    };
    tasks.map(|task| of_task(std::fs::read_to_string(task.unwrap().path().join("status")).unwrap())).sum()
}

/// Waits for one and a half seconds in which no thread was woken.
fn wait_until_idle(gateway: &Gateway) {
    wait_until("an idle gateway", || {
        let before = context_switches(gateway.id());
        std::thread::sleep(Duration::from_millis(1500));
        context_switches(gateway.id()) == before
    });
}

#[test]
fn an_idle_gateway_is_not_woken_unless_somebody_listens() {
    let gateway = gateway("100ms");
    let listener = Mqtt::subscriber(gateway.port(), "#");
    listener.expect("gatepost/test/status", "online");
    wait_until_idle(&gateway);
    let watcher = Mqtt::subscriber(gateway.port(), "$SYS/broker/uptime");
    assert!(watcher.receive().retain);
    let before = context_switches(gateway.id());
    assert!(!watcher.receive().retain, "the next one comes by itself");
    assert!(context_switches(gateway.id()) > before);
    drop(watcher);
    wait_until_idle(&gateway);
    assert_eq!(listener.next_message(Duration::ZERO), None);
}

/// What mosquitto_sub prints with these arguments, and its exit code.
fn mosquitto_sub(gateway: &Gateway, args: &[&str]) -> (Option<i32>, Vec<String>) {
    let output = Command::new("mosquitto_sub").args(["-p", &gateway.port_text()]).args(args).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    (output.status.code(), text.lines().map(str::to_owned).collect())
}

#[test]
#[ignore = "needs mosquitto-clients"]
fn mosquitto_sub_shows_what_mosquitto_would_show() {
    let gateway = gateway("10s");
    let (code, lines) = mosquitto_sub(&gateway, &["-t", "$SYS/#", "-v", "-W", "2"]);
    assert_eq!(code, Some(27), "timed out, as it was told to");
    let version = format!("$SYS/broker/version gatepost version {}", env!("CARGO_PKG_VERSION"));
    for line in [version.as_str(), "$SYS/broker/clients/connected 1", "$SYS/broker/retained messages/count 1"] {
        assert!(lines.iter().any(|other| other == line), "no {line:?} in {lines:#?}");
    }
    for version in ["mqttv311", "mqttv5"] {
        let args = ["-V", version, "-t", "$SYS/broker/clients/connected", "-C", "1", "-W", "20"];
        assert_eq!(mosquitto_sub(&gateway, &args), (Some(0), vec!["1".to_owned()]));
    }
}

#[test]
#[ignore = "needs Python"]
fn paho_reads_it_at_once_and_then_every_interval() {
    let gateway = gateway("100ms");
    let mut watcher = python("subscriber.py", &[&gateway.port_text(), "$SYS/broker/clients/connected", "--v5"]);
    let first = watcher.expect("message ");
    assert!(first.contains(r#""payload": "1", "qos": 1, "retain": true"#), "{first}");
    let _another = Mqtt::connect(gateway.port());
    let second = watcher.expect("message ");
    assert!(second.contains(r#""payload": "2", "qos": 1, "retain": false"#), "{second}");
}
