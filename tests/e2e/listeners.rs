//! TLS, WebSocket and unix listeners, with the clients that people have.

use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::common::{Gateway, Process, gatepost, program, python};

/// A file of tests/tls.
fn file(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls").join(name).to_str().unwrap().to_owned()
}

/// Every kind of listener; the one with `client_ca` lets in nobody else.
fn start() -> Gateway {
    let (cert, key, ca) = (file("localhost.pem"), file("localhost.key"), file("ca.pem"));
    let tls = format!("cert = \"{cert}\", key = \"{key}\"");
    let config = format!(
        r#"
[broker]
allow_anonymous = true
[[broker.listener]]
address = "127.0.0.1:0"
[[broker.listener]]
address = "127.0.0.1:0"
tls = {{ {tls}, client_ca = "{ca}", identity = "cn" }}
allow_anonymous = false
[[broker.listener]]
address = "127.0.0.1:0"
websocket = true
[[broker.listener]]
address = "127.0.0.1:0"
websocket = true
tls = {{ {tls} }}
[[broker.listener]]
address = "unix:mqtt.sock"
"#
    );
    Gateway::start_with(TempDir::new().unwrap(), &config)
}

fn port(gateway: &Gateway, scheme: &str) -> String {
    gateway.listener_port(scheme).to_string()
}

/// The flags of a client that trusts the test's authority and has a certificate of that name.
fn flags(client: &str) -> [String; 6] {
    let (cert, key) = (file(&format!("{client}.pem")), file(&format!("{client}.key")));
    ["--cafile".into(), file("ca.pem"), "--cert".into(), cert, "--key".into(), key]
}

fn run(program: &str, args: &[&str]) -> Output {
    Command::new(program).args(args).output().unwrap_or_else(|error| panic!("{program}: {error}"))
}

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

#[test]
fn pub_and_sub_come_over_tls() {
    let gateway = start();
    let port = port(&gateway, "mqtts");
    let identity = flags("client");
    let tls: Vec<&str> =
        ["-h", "localhost", "-p", &port].into_iter().chain(identity.iter().map(String::as_str)).collect();
    for version in ["311", "5"] {
        let message = ["-V", version, "-t", "a/b", "-m", "hello", "-r", "-q", "1"];
        let published = gatepost(&[&["pub"], &tls[..], &message].concat()).output().unwrap();
        assert_eq!(code(&published), Some(0), "{published:?}");
        let read = gatepost(&[&["sub"], &tls[..], &["-V", version, "-t", "a/b", "-C", "1", "-W", "10"]].concat());
        assert_eq!(String::from_utf8_lossy(&{ read }.output().unwrap().stdout), "hello\n");
    }
    // The user is the one of the certificate, and the log says so.
    assert!(gateway.log().iter().any(|line| line.contains("client connected") && line.contains("gatepost-client")));
    // Clients that it does not trust.
    let refused = |args: &[&str]| {
        let all =
            [&["pub", "-h", "localhost", "-p", &port, "--cafile", &identity[1], "-t", "t", "-m", "x", "-q", "1"], args];
        assert_eq!(code(&gatepost(&all.concat()).output().unwrap()), Some(1), "{args:?}");
    };
    refused(&[]);
    refused(&["--cert", &file("stranger.pem"), "--key", &file("stranger.key")]);
    for why in ["no certificate", "certificate is refused"] {
        gateway.find_log(&["connection refused", why]);
    }
}

#[test]
#[ignore = "needs mosquitto-clients"]
fn mosquitto_clients_come_over_tls_and_unix_sockets() {
    let mut gateway = start();
    let port = port(&gateway, "mqtts");
    let socket = gateway.dir().join("mqtt.sock").to_str().unwrap().to_owned();
    let identity = flags("client");
    let tls: Vec<&str> =
        ["-h", "localhost", "-p", &port].into_iter().chain(identity.iter().map(String::as_str)).collect();
    let unix = ["--unix", &socket];
    for version in ["mqttv31", "mqttv311", "mqttv5"] {
        for (publisher, subscriber) in [(&tls[..], &unix[..]), (&unix, &tls)] {
            let sub = [&["-oL", "mosquitto_sub", "-V", version, "-d", "-t", "a/#", "-C", "1", "-W", "20"], subscriber]
                .concat();
            let sub = program("stdbuf", &sub);
            sub.find("Subscribed");
            let message = ["-V", version, "-q", "2", "-t", "a/b", "-m", "hello"];
            program("mosquitto_pub", &[&message, publisher].concat()).succeed();
            assert!(sub.succeed().contains(&"hello".to_owned()));
        }
    }
    for client in ["stranger", "expired"] {
        let identity = flags(client);
        let args: Vec<&str> = ["-h", "localhost", "-p", &port, "-t", "t", "-m", "x", "-q", "1"]
            .into_iter()
            .chain(identity.iter().map(String::as_str))
            .collect();
        assert_ne!(code(&run("mosquitto_pub", &args)), Some(0), "{client}");
    }
    gateway.process().expect("certificate is refused");
    // A client that does not trust the gateway.
    let wrong = ["-h", "localhost", "-p", &port, "--cafile", &file("stranger.pem"), "-t", "t", "-m", "x"];
    assert_ne!(code(&run("mosquitto_pub", &wrong)), Some(0));
    assert!(Path::new(&socket).exists());
    gateway.terminate();
    assert!(!Path::new(&socket).exists());
}

#[test]
#[ignore = "needs Python"]
fn paho_comes_by_every_way() {
    let gateway = start();
    let (ca, cert, key) = (file("ca.pem"), file("client.pem"), file("client.key"));
    let socket = gateway.dir().join("mqtt.sock").to_str().unwrap().to_owned();
    let [mqtts, ws, wss] = ["mqtts", "ws", "wss"].map(|scheme| port(&gateway, scheme));
    for args in [
        vec!["mqtts", &mqtts, "--ca", &ca, "--cert", &cert, "--key", &key],
        vec!["ws", &ws],
        vec!["wss", &wss, "--ca", &ca],
        vec!["unix", &socket],
    ] {
        for version in [&[][..], &["--v5"]] {
            python("round_trip.py", &[&args, version].concat()).succeed();
        }
    }
}

#[test]
#[ignore = "needs Node"]
fn mqtt_js_comes_by_every_way_from_node() {
    let gateway = start();
    let (ca, cert, key) = (file("ca.pem"), file("client.pem"), file("client.key"));
    let [mqtt, mqtts, ws, wss] = ["mqtt", "mqtts", "ws", "wss"].map(|scheme| port(&gateway, scheme));
    let urls = [
        format!("mqtt://localhost:{mqtt}"),
        format!("mqtts://localhost:{mqtts}"),
        format!("ws://localhost:{ws}"),
        format!("ws://localhost:{ws}/mqtt"),
        format!("wss://localhost:{wss}/mqtt"),
    ];
    let args = ["--ca", &ca, "--cert", &cert, "--key", &key].into_iter().chain(urls.iter().map(String::as_str));
    round_trips("node.js", &args.collect::<Vec<_>>(), urls.len());
}

#[test]
#[ignore = "needs Node and Chromium"]
fn mqtt_js_comes_from_a_browser() {
    let gateway = start();
    let [ws, wss] = ["ws", "wss"].map(|scheme| port(&gateway, scheme));
    let (plain, tls) = (format!("ws://127.0.0.1:{ws}/mqtt"), format!("wss://127.0.0.1:{wss}/mqtt"));
    round_trips("browser.js", &["chromium", &plain, &tls], 2);
}

/// A script of tests/js, with the packages that `./test` installed: both versions of MQTT at so many addresses.
fn round_trips(script: &str, args: &[&str], addresses: usize) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let packages = root.join("target/js/node_modules");
    assert!(packages.join("mqtt").exists(), "{} is missing: ./test makes it", packages.display());
    let mut command = Command::new("node");
    command.arg(root.join("tests/js").join(script)).args(args).env("NODE_PATH", packages);
    let mut process = Process::spawn(command);
    for _ in 0..2 * addresses {
        process.expect("round trip done");
    }
    process.succeed();
}
