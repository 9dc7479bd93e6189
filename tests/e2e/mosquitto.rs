//! mosquitto_sub and mosquitto_pub, as they are typed by hand.

use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::common::{Gateway, Mqtt, Port, Process, all_bytes, program};

/// mosquitto_sub with `-d`, when its subscription is in place. Into a pipe it would keep its lines back.
fn sub(gateway: &Gateway, args: &[&str]) -> Process {
    let port = gateway.port_text();
    let process = program("stdbuf", &[&["-oL", "mosquitto_sub", "-p", &port, "-d"], args].concat());
    process.find("Subscribed");
    process
}

/// mosquitto_sub that ends by itself: exit code and messages.
fn sub_until_end(gateway: &Gateway, args: &[&str]) -> (i32, Vec<String>) {
    let port = gateway.port_text();
    let limit = if args.contains(&"-W") { &[][..] } else { &["-W", "20"] };
    let output = Command::new("mosquitto_sub").args(["-p", &port]).args(args).args(limit).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    (output.status.code().unwrap(), text.lines().map(str::to_owned).collect())
}

fn publish(gateway: &Gateway, args: &[&str]) {
    let port = gateway.port_text();
    program("mosquitto_pub", &[&["-p", &port], args].concat()).succeed();
}

#[test]
#[ignore = "needs mosquitto-clients"]
fn a_light_on_a_wire_is_switched_from_mosquitto_pub() {
    let dir = TempDir::new().unwrap();
    let light = Port::plugged(dir.path(), "light");
    let gateway = Gateway::start_in(
        dir,
        &format!(
            "[device.light]\nserial = {{ port = \"{}\", baud = 9600 }}\n\
             publish = \"smarthome/lights/office/state\"\nsubscribe = \"smarthome/lights/office\"\n",
            light.path()
        ),
    );
    Mqtt::subscriber(gateway.port(), "gatepost/#").expect("gatepost/test/device/light/status", "online");
    let mut state = sub(&gateway, &["-t", "smarthome/lights/office/state", "-v"]);
    for version in ["mqttv311", "mqttv5"] {
        for qos in ["0", "1", "2"] {
            publish(&gateway, &["-V", version, "-q", qos, "-t", "smarthome/lights/office", "-m", "ON"]);
            assert_eq!(light.read(3), b"ON\n");
            light.write("ON\r\n");
            state.expect("smarthome/lights/office/state ON");
        }
    }
}

#[test]
#[ignore = "needs mosquitto-clients"]
fn both_ends_at_every_quality_and_version() {
    let gateway = Gateway::start("");
    for version in ["mqttv31", "mqttv311", "mqttv5"] {
        for qos in ["0", "1", "2"] {
            let mut process = sub(
                &gateway,
                &["-V", version, "-q", qos, "-t", "smarthome/lights/+", "-F", "got %t %p q%q r%r", "-C", "3"],
            );
            for payload in ["ON", "OFF", "DIM 50"] {
                publish(&gateway, &["-V", version, "-q", qos, "-t", "smarthome/lights/office", "-m", payload]);
                process.expect(&format!("got smarthome/lights/office {payload} q{qos} r0"));
            }
            process.succeed();
        }
    }
}

#[test]
#[ignore = "needs mosquitto-clients"]
fn retained_messages_are_kept_shown_and_cleared() {
    let gateway = Gateway::start("");
    for i in 0..300 {
        let topic = format!("rooms/{i}/state");
        Mqtt::connect(gateway.port()).retain(&topic, "cold");
        if i % 100 == 0 {
            publish(&gateway, &["-r", "-q", "1", "-t", &topic, "-m", "warm"]);
        }
    }
    let args = ["-t", "rooms/+/state", "-C", "300", "-F", "%t %p %r"];
    let (code, lines) = sub_until_end(&gateway, &args);
    assert_eq!((code, lines.len()), (0, 300));
    assert!(lines.contains(&"rooms/200/state warm 1".to_owned()));
    assert!(lines.contains(&"rooms/201/state cold 1".to_owned()));

    publish(&gateway, &["-r", "-n", "-q", "1", "-t", "rooms/200/state"]);
    let (code, lines) = sub_until_end(&gateway, &["-t", "rooms/200/state", "-W", "1"]);
    assert_eq!((code, lines), (27, vec![]), "cleared");
    let (_, lines) = sub_until_end(&gateway, &["-t", "rooms/100/state", "-R", "-W", "1"]);
    assert_eq!(lines, Vec::<String>::new(), "-R shows no stale ones");
    let mut stale = sub(&gateway, &["-t", "rooms/100/#", "--retained-only", "-F", "got %p"]);
    stale.expect("got warm");
    publish(&gateway, &["-t", "rooms/100/state", "-m", "live"]);
    let lines = stale.succeed();
    assert!(!lines.contains(&"got live".to_owned()), "--retained-only ends with the first live message: {lines:#?}");
}

#[test]
#[ignore = "needs mosquitto-clients"]
fn a_will_is_published_when_its_client_dies_and_not_when_it_says_goodbye() {
    let gateway = Gateway::start("");
    let wills = Mqtt::subscriber(gateway.port(), "wills/#");
    for version in ["mqttv311", "mqttv5"] {
        let will =
            ["-V", version, "--will-topic", "wills/pump", "--will-payload", "lost", "--will-qos", "1", "-t", "x"];
        let polite = sub(&gateway, &[&will[..], &["-C", "1"]].concat());
        publish(&gateway, &["-t", "x", "-m", "done"]);
        polite.succeed();
        let mut dying = sub(&gateway, &[&will[..], &["--will-retain"]].concat());
        dying.kill();
        let message = wills.receive();
        assert_eq!((message.topic.as_str(), message.text().as_str(), message.qos), ("wills/pump", "lost", 1));
        assert_eq!(wills.next_message(Duration::from_millis(300)), None, "one will for one death");
    }
    let (_, lines) = sub_until_end(&gateway, &["-t", "wills/#", "-C", "1", "-F", "%p %r"]);
    assert_eq!(lines, ["lost 1"], "the will was retained");
}

#[test]
#[ignore = "needs mosquitto-clients"]
fn a_delayed_will_waits_for_its_client() {
    let gateway = Gateway::start("");
    let wills = Mqtt::subscriber(gateway.port(), "wills/#");
    let session = ["-V", "5", "-i", "pump", "-c", "-q", "1", "-x", "3600", "-t", "x"];
    let will = ["--will-topic", "wills/pump", "--will-payload", "lost", "-D", "will", "will-delay-interval", "2"];
    let args = [&session[..], &will[..]].concat();
    sub(&gateway, &args).kill();
    let mut back = sub(&gateway, &args);
    assert_eq!(wills.next_message(Duration::from_millis(2500)), None, "it came back in time");
    let start = Instant::now();
    back.kill();
    wills.expect("wills/pump", "lost");
    assert!(start.elapsed() >= Duration::from_millis(1900), "the will did not wait");
}

#[test]
#[ignore = "needs mosquitto-clients"]
fn a_persistent_session_is_kept_over_a_disconnect() {
    let gateway = Gateway::start("");
    for (version, id) in [("mqttv311", "panel"), ("mqttv5", "panel5")] {
        let expiry: &[&str] = if version == "mqttv5" { &["-x", "3600"] } else { &[] };
        let session = ["-V", version, "-c", "-i", id, "-q", "1", "-t", "doors/#", "-v"];
        let session = [&session[..], expiry].concat();
        sub(&gateway, &session).kill();
        publish(&gateway, &["-q", "0", "-t", "doors/front", "-m", "not kept: QoS 0"]);
        for payload in ["one", "two", "three"] {
            publish(&gateway, &["-q", "2", "-t", "doors/front", "-m", payload]);
        }
        let (code, lines) = sub_until_end(&gateway, &[&session[..], &["-C", "3"]].concat());
        assert_eq!((code, lines), (0, ["one", "two", "three"].map(|p| format!("doors/front {p}")).to_vec()));
    }
}

#[test]
#[ignore = "needs mosquitto-clients"]
fn a_large_binary_file_arrives_as_it_was() {
    let gateway = Gateway::start("");
    let content: Vec<u8> = all_bytes().into_iter().cycle().take(500_000).collect();
    let file = gateway.dir().join("picture");
    std::fs::write(&file, &content).unwrap();
    publish(&gateway, &["-r", "-q", "2", "-t", "camera/picture", "-f", file.to_str().unwrap()]);
    let port = gateway.port_text();
    let output = Command::new("mosquitto_sub")
        .args(["-p", &port, "-t", "camera/picture", "-q", "2", "-C", "1", "-N", "-W", "20"])
        .output()
        .unwrap();
    assert!(output.stdout == content, "{} bytes came back", output.stdout.len());
}

#[test]
#[ignore = "needs mosquitto-clients"]
fn a_thousand_lines_from_standard_input_arrive_in_order() {
    let gateway = Gateway::start("");
    for qos in ["1", "2"] {
        let sub = sub(&gateway, &["-q", qos, "-t", "log/lines", "-C", "1000", "-F", "line %p"]);
        let port = gateway.port_text();
        let mut publisher = program("mosquitto_pub", &["-p", &port, "-q", qos, "-t", "log/lines", "-l"]);
        for i in 0..1000 {
            publisher.send(&i.to_string());
        }
        publisher.succeed();
        let lines: Vec<String> = sub.succeed().into_iter().filter(|line| line.starts_with("line ")).collect();
        assert_eq!(lines, (0..1000).map(|i| format!("line {i}")).collect::<Vec<_>>());
    }
}

#[test]
#[ignore = "needs mosquitto-clients"]
fn mqtt_5_properties_and_overlapping_subscriptions() {
    let gateway = Gateway::start("");
    let mut process = sub(&gateway, &["-V", "5", "-t", "a/#", "-t", "a/+/c", "-q", "1", "-F", "got %t %p %C %P"]);
    let properties = ["-D", "publish", "content-type", "text/plain", "-D", "publish", "user-property", "room", "hall"];
    publish(&gateway, &[&["-V", "5", "-t", "a/b/c", "-m", "first", "-q", "1"][..], &properties[..]].concat());
    publish(&gateway, &["-V", "5", "-t", "a/last", "-m", "last", "-q", "1"]);
    process.expect("got a/last last");
    let got: Vec<String> = process.lines().into_iter().filter(|line| line.starts_with("got ")).collect();
    assert_eq!(got[0], "got a/b/c first text/plain room:hall");
    assert_eq!(got.len(), 2, "an overlapping subscription gives one copy: {got:#?}");
}
