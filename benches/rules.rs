//! What a rule costs for one frame or message, from the plainest to the busiest kind.

use std::hint::black_box;
use std::path::Path;

use bytes::Bytes;
use criterion::Criterion;
use gatepost::config::{self, Config};
use gatepost::device::rules::{CommandRules, Now, PublishRules};

const CONFIG: &str = r#"
[device.raw]
tcp = { connect = "127.0.0.1:1" }
publish = "greenhouse/arduino"

[device.fields]
tcp = { connect = "127.0.0.1:1" }
[[device.fields.publish]]
match = "^T=(?<temp>[-0-9.]+) H=(?<hum>[0-9]+)$"
topic = "greenhouse/{device}/climate"
payload = "fields"

[device.each_field]
tcp = { connect = "127.0.0.1:1" }
[[device.each_field.publish]]
parse = "json"
topic = "greenhouse/{device}"
each_field = true

[device.on_change]
tcp = { connect = "127.0.0.1:1" }
[[device.on_change.publish]]
topic = "greenhouse/{peer}"
on_change = true

[device.untouched]
tcp = { connect = "127.0.0.1:1" }
subscribe = "lights/+/set"

[device.template]
tcp = { connect = "127.0.0.1:1" }
[[device.template.subscribe]]
topic = "lights/+/set"
write = "SET {topic:2} {json:/state}"
"#;

fn config() -> Config {
    config::parse(CONFIG, "bench.toml", Path::new("/")).expect("the configuration is right").config
}

fn publish(c: &mut Criterion) {
    let (config, mut group) = (config(), c.benchmark_group("publish"));
    let frames: [(&str, &'static [u8]); 4] = [
        ("raw", b"T=21.50 H=48"),
        ("fields", b"T=21.50 H=48"),
        ("each_field", br#"{"temp":21.50,"hum":48,"wind":{"speed":3.1,"from":"NW"},"ok":true}"#),
        ("on_change", b"T=21.50 H=48"),
    ];
    let (peer, now) = ("192.168.1.7:51234".parse().ok(), Now::read());
    for (name, frame) in frames {
        let mut rules = PublishRules::new(&config.devices[name], &config.gateway);
        let (frame, mut out) = (Bytes::from_static(frame), Vec::new());
        group.bench_function(name, |b| {
            b.iter(|| {
                out.clear();
                rules.apply(black_box(&frame), peer, now, &mut out);
                out.len()
            });
        });
    }
    group.finish();
}

fn command(c: &mut Criterion) {
    let mut group = c.benchmark_group("command");
    for name in ["untouched", "template"] {
        let rules = CommandRules::new(&config().devices[name], "bench");
        let (payload, mut out) = (Bytes::from_static(br#"{"state":"ON","level":7}"#), Vec::new());
        group.bench_function(name, |b| {
            b.iter(|| {
                out.clear();
                rules.render(black_box("lights/office/set"), &payload, false, &mut out);
                out.len()
            });
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    publish(&mut criterion);
    command(&mut criterion);
    criterion.final_summary();
}
