//! Any frame and any message through rules of every kind: nothing panics, raw is untouched, JSON is JSON.
#![no_main]

use std::path::Path;

use bytes::Bytes;
use gatepost::config;
use gatepost::device::rules::{CommandOutcome, CommandRules, Now, Outcome, PublishRules};
use libfuzzer_sys::fuzz_target;

/// `json…` topics get JSON, `raw` and the first subscribe rule the bytes as they came.
const CONFIG: &str = r#"
[device.d]
tcp_server = { listen = "127.0.0.1:0" }
publish = [
    { continue = true, topic = "raw" },
    { continue = true, topic = "json/fields", match = '(?s-u)^(?<a>.*?)=(?<b>.*)$', payload = "fields" },
    { continue = true, topic = "json/{peer}", parse = "json", payload = "envelope", on_change = true },
    { continue = true, topic = "json/csv", parse = { csv = ["a", "", "b"] }, payload = "fields" },
    { continue = true, topic = "json/pairs", parse = { key_value = "=" }, payload = "fields" },
    { continue = true, topic = "each/{peer_ip}", parse = "json", each_field = true, min_interval = "1s" },
    { continue = true, topic = "of/{a}", parse = { csv = ["a", "b"] }, template = "{a}-{b}", on_change = true },
    { continue = true, topic = "text", payload = "text" },
    { continue = true, topic = "hex", payload = "hex" },
    { topic = "base64", payload = "base64" },
]
subscribe = [
    { topic = "in/{peer}" },
    { topic = "in/+", payload = "hex", write = "{topic} {topic:2} {payload}" },
    { topic = "in/+", payload = "base64" },
    { topic = "in/+", write = "{json:/a/0/b} {json:}" },
]
"#;

thread_local! {
    static LOADED: config::Config =
        config::parse(CONFIG, "fuzz.toml", Path::new("/")).expect("the configuration is right").config;
}

fuzz_target!(|data: &[u8]| LOADED.with(|config| {
    let device = &config.devices["d"];
    let bytes = Bytes::copy_from_slice(data);
    let (mut publish, mut out) = (PublishRules::new(device, &config.gateway), Vec::new());
    for _ in 0..2 {
        publish.apply(&bytes, "[::1]:9".parse().ok(), Now::read(), &mut out);
    }
    publish.flush(Now::read(), &mut out);
    for outcome in &out {
        let Outcome::Publish(message) = outcome else { continue };
        match message.topic.as_str() {
            "raw" => assert_eq!(message.payload, bytes),
            topic if topic.starts_with("json/") => {
                serde_json::from_slice::<&serde_json::value::RawValue>(&message.payload).expect("the payload is JSON");
            }
            _ => {}
        }
    }
    let mut out = Vec::new();
    CommandRules::new(device, "hut").render("in/all", &bytes, false, &mut out);
    assert!(matches!(&out[0], CommandOutcome::Command(command) if command.frame == bytes));
}));
