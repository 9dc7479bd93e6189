//! mosquitto as a bridge to us: a mosquitto user keeps his brokers where they are and points one of them here.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::common::{Gateway, Mqtt, Process, program};

/// A mosquitto on a unix socket that carries everything both ways.
struct Bridge {
    socket: String,
    _process: Process,
    _dir: TempDir,
}

impl Bridge {
    fn start(gateway: &Gateway, version: &str) -> Bridge {
        let dir = TempDir::new().unwrap();
        let socket = path(dir.path(), "mosquitto.sock");
        let config = format!(
            "listener 0 {socket}\nallow_anonymous true\nuser root\n\
             connection ours\naddress 127.0.0.1:{}\ntopic # both 1\nbridge_protocol_version {version}\n\
             restart_timeout 1\n",
            gateway.port()
        );
        let file = path(dir.path(), "mosquitto.conf");
        std::fs::write(&file, config).unwrap();
        let process = program("mosquitto", &["-c", &file, "-v"]);
        // Its subscription is granted.
        process.find("Received SUBACK");
        Bridge { socket, _process: process, _dir: dir }
    }

    fn subscriber(&self, filter: &str) -> Process {
        let args =
            ["-oL", "mosquitto_sub", "--unix", &self.socket, "-d", "-q", "1", "-t", filter, "-F", "got %t %p r%r"];
        let process = program("stdbuf", &args);
        process.find("Subscribed");
        process
    }

    fn publish(&self, args: &[&str]) {
        let socket = ["--unix", &self.socket, "-q", "1"];
        let output = Command::new("mosquitto_pub").args(socket).args(args).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}

fn path(dir: &Path, name: &str) -> String {
    dir.join(name).to_str().unwrap().to_owned()
}

/// The next message that mosquitto_sub prints.
fn next(subscriber: &mut Process) -> String {
    subscriber.expect("got ").trim_start_matches("got ").to_owned()
}

/// What goes back where it came from would come before what is published there later.
fn messages_flow_both_ways_once(version: &str) {
    let gateway = Gateway::start("");
    let ours = Mqtt::subscriber(gateway.port(), "a/#");
    ours.retain("kept/here", "1");
    let bridge = Bridge::start(&gateway, version);
    let mut kept = bridge.subscriber("kept/#");
    assert_eq!(next(&mut kept), "kept/here 1 r1", "what was retained here is retained there");
    let mut theirs = bridge.subscriber("a/#");
    for round in 0..20 {
        let (here, there) = (format!("here {round}"), format!("there {round}"));
        ours.publish("a/b", here.as_str(), 1);
        assert_eq!(next(&mut theirs), format!("a/b {here} r0"));
        let own = ours.receive();
        assert_eq!((own.topic.as_str(), own.text()), ("a/b", here));
        bridge.publish(&["-t", "a/c", "-m", &there]);
        let message = ours.receive();
        assert_eq!((message.topic.as_str(), message.text(), message.qos), ("a/c", there.clone(), 1));
        assert_eq!(next(&mut theirs), format!("a/c {there} r0"));
    }
    bridge.publish(&["-t", "kept/there", "-m", "2", "-r"]);
    assert_eq!(next(&mut kept), "kept/there 2 r0");
    ours.publish("a/end", "", 1);
    assert_eq!(next(&mut theirs), "a/end  r0");
    assert_eq!(ours.receive().topic, "a/end");
    let late = Mqtt::subscriber(gateway.port(), "kept/there");
    assert!(late.expect("kept/there", "2").retain);
}

#[test]
#[ignore = "needs mosquitto"]
fn messages_flow_both_ways_once_with_mqtt_3_1_1() {
    messages_flow_both_ways_once("mqttv311");
}

#[test]
#[ignore = "needs mosquitto"]
fn messages_flow_both_ways_once_with_mqtt_5() {
    messages_flow_both_ways_once("mqttv50");
}
