//! paho-mqtt 2 as its tutorials use it.

use serde_json::Value;

use crate::common::{Gateway, Process, python};

/// A light that is always there, switched by tests/python/light_switch.py.
#[test]
#[ignore = "needs Python"]
fn the_light_switch_tutorial_works_as_written() {
    let mut light = python("light.py", &[]);
    let port = light.expect("listening on").rsplit(' ').next().unwrap().to_owned();
    let gateway = Gateway::start(&format!(
        r#"
[device.light]
tcp = {{ connect = "127.0.0.1:{port}" }}
publish = "smarthome/lights/office/state"
subscribe = "smarthome/lights/office"
"#
    ));
    light.expect("connected from");
    let lines = python("light_switch.py", &[&gateway.port_text()]).succeed();
    assert!(lines.contains(&"connected: Success".to_owned()), "{lines:#?}");
    for got in ["got ON", "got OFF", "got ON"] {
        light.expect(got);
    }
}

fn subscriber(gateway: &Gateway, filter: &str, flags: &[&str]) -> Process {
    let port = gateway.port_text();
    let mut process = python("subscriber.py", &[&[port.as_str(), filter], flags].concat());
    process.expect("Subscribed");
    process
}

fn publish(gateway: &Gateway, topic: &str, flags: &[&str]) {
    let port = gateway.port_text();
    python("publisher.py", &[&[port.as_str(), topic], flags].concat()).succeed();
}

fn message(process: &mut Process) -> Value {
    let line = process.expect("message ");
    serde_json::from_str(line.trim_start_matches("message ")).unwrap()
}

#[test]
#[ignore = "needs Python"]
fn every_quality_of_service_comes_out_as_the_lower_of_both_sides() {
    let gateway = Gateway::start("");
    for version in [&[][..], &["--v5"]] {
        for subscribed in ["0", "1", "2"] {
            let flags = [&["--qos", subscribed, "--count", "6"], version].concat();
            let mut process = subscriber(&gateway, "smarthome/lights/office", &flags);
            for published in ["0", "1", "2"] {
                let flags = [&["--qos", published, "ON", "OFF"], version].concat();
                publish(&gateway, "smarthome/lights/office", &flags);
                for payload in ["ON", "OFF"] {
                    let message = message(&mut process);
                    assert_eq!(message["payload"], payload);
                    assert_eq!(message["retain"], false);
                    let lower = published.min(subscribed).parse::<u64>().unwrap();
                    assert_eq!(message["qos"], lower, "published {published}, subscribed {subscribed}");
                }
            }
            process.succeed();
        }
    }
}

#[test]
#[ignore = "needs Python"]
fn a_kept_session_gets_what_it_missed() {
    let gateway = Gateway::start("");
    for (id, version) in [("panel", &[][..]), ("panel5", &["--v5"])] {
        let keep = [&["--keep", id, "--qos", "2"], version].concat();
        let mut panel = subscriber(&gateway, "doors/+", &keep);
        panel.find("session present False");
        panel.kill();
        drop(panel);
        publish(&gateway, "doors/front", &["--qos", "1", "one", "two"]);
        publish(&gateway, "doors/back", &["--qos", "2", "three"]);

        let panel = subscriber(&gateway, "doors/+", &[&keep[..], &["--count", "3"]].concat());
        panel.find("session present True");
        let lines = panel.succeed();
        let payloads: Vec<&String> = lines.iter().filter(|line| line.starts_with("message ")).collect();
        assert_eq!(payloads.len(), 3, "{lines:#?}");
        for (line, payload) in payloads.iter().zip(["one", "two", "three"]) {
            assert!(line.contains(payload), "{lines:#?}");
        }
    }
}

#[test]
#[ignore = "needs Python"]
fn mqtt_5_properties_come_through() {
    let gateway = Gateway::start("");
    let mut process = subscriber(&gateway, "ask/#", &["--v5", "--count", "1"]);
    publish(&gateway, "ask/me", &["--v5", "--qos", "1", "question"]);
    let properties = message(&mut process)["properties"].clone();
    assert_eq!(properties["ContentType"], "text/plain");
    assert_eq!(properties["ResponseTopic"], "answers/here");
    assert_eq!(properties["CorrelationData"], "00ff");
    assert_eq!(properties["UserProperty"], serde_json::json!([["room", "office"], ["room", "hall"]]));
    process.succeed();
}

#[test]
#[ignore = "needs Python"]
fn a_retained_state_meets_the_late_subscriber_of_either_version() {
    let gateway = Gateway::start("");
    publish(&gateway, "smarthome/lights/office/state", &["--qos", "1", "--retain", "ON"]);
    for version in [&[][..], &["--v5"]] {
        let flags = [&["--count", "1"], version].concat();
        let mut process = subscriber(&gateway, "smarthome/#", &flags);
        let message = message(&mut process);
        assert_eq!((&message["payload"], &message["retain"]), (&"ON".into(), &true.into()));
        process.succeed();
    }
}

#[test]
#[ignore = "needs Python"]
fn versions_3_and_5_talk_to_each_other() {
    let gateway = Gateway::start("");
    let mut three = subscriber(&gateway, "mixed", &["--count", "1"]);
    let mut five = subscriber(&gateway, "mixed", &["--v5", "--count", "2"]);
    publish(&gateway, "mixed", &["--v5", "--qos", "1", "from five"]);
    assert_eq!(message(&mut three)["payload"], "from five");
    publish(&gateway, "mixed", &["--qos", "1", "from three"]);
    assert_eq!(message(&mut five)["payload"], "from five");
    assert_eq!(message(&mut five)["payload"], "from three");
    three.succeed();
    five.succeed();
}
