//! Each command as a user types it.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::common::{Gateway, Mqtt, Process, all_bytes, gatepost};

/// Exit code, standard output, standard error.
fn run(args: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = gatepost(args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

/// `gatepost COMMAND -p PORT ARGS`, started.
fn start(command: &str, gateway: &Gateway, args: &[&str]) -> Process {
    let port = gateway.port_text();
    Process::spawn(gatepost(&[&[command, "-p", &port], args].concat()))
}

fn publish(gateway: &Gateway, args: &[&str]) {
    start("pub", gateway, args).succeed();
}

#[test]
fn help_has_examples_and_wrong_arguments_exit_2() {
    let commands = [
        "run", "check", "demo", "doctor", "ports", "pub", "sub", "route", "passwd", "status", "top", "monitor", "send",
        "release", "acquire", "reload",
    ];
    let (code, all, _) = run(&["--help"]);
    assert_eq!(code, 0);
    for command in commands {
        assert!(all.contains(command), "{command} is missing in --help");
        let (code, help, _) = run(&[command, "--help"]);
        assert_eq!(code, 0);
        let example = format!("gatepost {command}");
        assert!(help.matches(&example).count() >= 2, "an example beside the usage line of {command}: {help}");
        assert_eq!(run(&[command, "--no-such-option"]).0, 2, "{command}");
    }
    assert_eq!(run(&["no-such-command"]).0, 2);
    assert_eq!(run(&["--version"]).1, format!("gatepost {}\n", env!("CARGO_PKG_VERSION")));
}

const CONFIG: &str = r#"
[gateway]
name = "greenhouse"

[device.board]
serial = { port = "/dev/ttyUSB0", baud = 9600 }

[[device.board.publish]]
match = '^T=(?<temp>[-0-9.]+) H=(?<hum>[0-9]+)$'
topic = "{gateway}/{device}/climate"
payload = "fields"

[[device.board.subscribe]]
topic = "greenhouse/board/cmd/+"
write = "{topic:4} {payload}"

[device.scanners]
tcp_server = { listen = "127.0.0.1:0" }
publish = "scanners/{peer}/code"
"#;

fn config_file(dir: &TempDir, text: &str) -> String {
    let file = dir.path().join("gatepost.toml");
    std::fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

#[test]
fn check_accepts_prints_and_refuses() {
    let dir = TempDir::new().unwrap();
    let file = config_file(&dir, CONFIG);
    assert_eq!(run(&["check", "-c", &file]).0, 0);
    let (code, printed, _) = run(&["check", "-c", &file, "--print"]);
    assert_eq!(code, 0);
    for part in ["greenhouse", "/dev/ttyUSB0", "max_queued", "64KiB"] {
        assert!(printed.contains(part), "{part:?} is missing in: {printed}");
    }
    let wrong = config_file(&dir, &CONFIG.replace("baud = 9600", "baud = \"fast\"").replace("name =", "nmae ="));
    let (code, _, error) = run(&["check", "-c", &wrong]);
    assert_eq!(code, 78);
    for part in ["gatepost.toml:3:", "nmae", "name", "gatepost.toml:6:", "baud"] {
        assert!(error.contains(part), "{part:?} is missing in: {error}");
    }
}

#[test]
fn what_check_prints_is_itself_a_config() {
    let dir = TempDir::new().unwrap();
    let (_, printed, _) = run(&["check", "-c", &config_file(&dir, CONFIG), "--print"]);
    let again = config_file(&dir, &printed);
    let (code, same, error) = run(&["check", "-c", &again, "--print"]);
    assert_eq!(code, 0, "{error}\n{printed}");
    let settings = |text: &str| text.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n");
    assert_eq!(settings(&same), settings(&printed));
}

/// Every config that is shipped is a good one.
#[test]
fn the_shipped_configs_pass_the_check() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let mut files: Vec<_> = std::fs::read_dir(folder.join("examples")).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "toml"));
    assert!(files.len() >= 5, "{files:?}");
    files.push(folder.join("gatepost.toml"));
    for file in files {
        let (code, _, error) = run(&["check", "-c", file.to_str().unwrap()]);
        assert_eq!(code, 0, "{}: {error}", file.display());
    }
}

#[test]
fn the_configs_in_the_readme_pass_the_check() {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let begin = readme.split("```toml\n").skip(1);
    let blocks: Vec<&str> = begin.map(|rest| rest.split("```").next().unwrap_or_default()).collect();
    assert!(blocks.len() >= 6, "only {} configs in README.md", blocks.len());
    let dir = TempDir::new().unwrap();
    let tls = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls");
    for (own, named) in [("localhost.pem", "server.pem"), ("localhost.key", "server.key")] {
        std::fs::copy(tls.join(own), dir.path().join(named)).unwrap();
    }
    for file in ["passwd", "acl"] {
        std::fs::write(dir.path().join(file), "").unwrap();
    }
    for block in blocks {
        let (code, _, error) = run(&["check", "-c", &config_file(&dir, block)]);
        assert_eq!(code, 0, "{block}\n{error}");
    }
}

#[test]
fn route_shows_what_a_rule_does_both_ways() {
    let dir = TempDir::new().unwrap();
    let file = config_file(&dir, CONFIG);
    let (code, text, error) = run(&["route", "-c", &file, "--device", "board", "T=21.5 H=40"]);
    assert_eq!(code, 0, "{error}");
    for part in ["greenhouse/board/climate", r#""temp":21.5"#, r#""hum":40"#] {
        assert!(text.contains(part), "{part:?} is missing in: {text}");
    }
    assert_eq!(run(&["route", "-c", &file, "--device", "board", "nothing like it"]).0, 2);

    let args = ["route", "-c", &file, "--device", "board", "--topic", "greenhouse/board/cmd/led", "on"];
    let (code, text, error) = run(&args);
    assert_eq!(code, 0, "{error}");
    assert!(text.contains("led on"), "{text}");
    let args = ["route", "-c", &file, "--device", "board", "--topic", "elsewhere", "on"];
    assert_eq!(run(&args).0, 2);

    let (code, text, _) = run(&["route", "-c", &file, "--device", "scanners", "--peer", "10.0.0.7:4711", "4006"]);
    assert_eq!(code, 0);
    assert!(text.contains("scanners/10.0.0.7_4711/code"), "{text}");
}

#[test]
fn ports_are_listed_for_people_and_for_programs() {
    assert_eq!(run(&["ports"]).0, 0);
    let (code, json, _) = run(&["ports", "--json"]);
    assert_eq!(code, 0);
    assert!(serde_json::from_str::<serde_json::Value>(&json).unwrap().is_array(), "{json}");
}

#[test]
fn sub_and_pub_talk_at_every_quality_and_version() {
    let gateway = Gateway::start("");
    for version in ["mqttv311", "5"] {
        for qos in ["0", "1", "2"] {
            let args = ["-V", version, "-q", qos, "-t", "lights/#", "-d", "-F", "got %t %p q%q r%r", "-C", "2"];
            let mut sub = start("sub", &gateway, &args);
            sub.find("Subscribed");
            for payload in ["ON", "OFF"] {
                publish(&gateway, &["-V", version, "-q", qos, "-t", "lights/office", "-m", payload]);
                sub.expect(&format!("got lights/office {payload} q{qos} r0"));
            }
            sub.succeed();
        }
    }
}

#[test]
fn sub_tells_retained_messages_from_live_ones() {
    let gateway = Gateway::start("");
    publish(&gateway, &["-q", "1", "-r", "-t", "a/b", "-m", "kept"]);
    let messages = |args: &[&str]| start("sub", &gateway, args).finish();
    assert_eq!(messages(&["-t", "a/+", "-v", "-C", "1"]), (0, vec!["a/b kept".to_owned()]));
    let stale = start("sub", &gateway, &["-t", "a/+", "--retained-only"]);
    stale.find("kept");
    publish(&gateway, &["-t", "a/b", "-m", "live"]);
    assert_eq!(stale.succeed(), ["kept"], "--retained-only ends with the first live message");
    assert_eq!(messages(&["-t", "a/+", "-R", "-W", "1"]).0, 27, "nothing came in a second");
    assert_eq!(messages(&["-t", "a/#", "-T", "a/b", "-W", "1"]).0, 27, "-T leaves it out");
    publish(&gateway, &["-q", "1", "-r", "-n", "-t", "a/b"]);
    assert_eq!(messages(&["-t", "a/+", "-C", "1", "-W", "1"]).0, 27, "cleared");
}

#[test]
fn pub_takes_lines_files_and_whole_inputs() {
    let gateway = Gateway::start("");
    let mqtt = Mqtt::subscriber(gateway.port(), "in/#");
    let mut lines = start("pub", &gateway, &["-q", "1", "-t", "in/lines", "-l"]);
    lines.send("one");
    lines.send("two");
    lines.succeed();
    mqtt.expect("in/lines", "one");
    mqtt.expect("in/lines", "two");

    let mut whole = start("pub", &gateway, &["-q", "1", "-t", "in/whole", "-s"]);
    whole.send("one");
    whole.send("two");
    whole.succeed();
    mqtt.expect("in/whole", "one\ntwo\n");

    let file = gateway.dir().join("file");
    std::fs::write(&file, all_bytes()).unwrap();
    publish(&gateway, &["-q", "1", "-t", "in/file", "-f", file.to_str().unwrap()]);
    mqtt.expect("in/file", all_bytes());
    publish(&gateway, &["-q", "2", "-t", "in/again", "-m", "x", "--repeat", "3", "--repeat-delay", "0.01"]);
    for _ in 0..3 {
        assert_eq!(mqtt.receive().topic, "in/again");
    }
}

#[test]
fn sub_gives_binary_as_it_came() {
    let gateway = Gateway::start("");
    Mqtt::connect(gateway.port()).retain("bin", all_bytes());
    let port = gateway.port_text();
    let output = gatepost(&["sub", "-p", &port, "-t", "bin", "-C", "1", "-N"]).output().unwrap();
    assert_eq!(output.stdout, all_bytes());
    let (_, hex) = start("sub", &gateway, &["-t", "bin", "-C", "1", "-F", "%x"]).finish();
    assert_eq!(hex, [hex::encode(all_bytes())]);
}

#[test]
fn a_refused_connection_gives_the_reason_as_exit_code() {
    let closed = "[[broker.listener]]\naddress = \"127.0.0.1:0\"\nallow_anonymous = false\n";
    let gateway = Gateway::start_with(TempDir::new().unwrap(), closed);
    for (version, code) in [("311", 5), ("5", 135)] {
        let args = ["-V", version, "-t", "a", "-m", "x"];
        let (got, lines) = start("pub", &gateway, &args).finish();
        assert_eq!(got, code, "MQTT {version}: {lines:?}");
    }
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let (code, _, error) = run(&["pub", "-p", &nobody, "-t", "a", "-m", "x"]);
    assert_eq!(code, 1);
    assert!(error.contains(&nobody), "{error}");
}

#[test]
fn a_will_of_sub_is_published_when_it_dies() {
    let gateway = Gateway::start("");
    let wills = Mqtt::subscriber(gateway.port(), "wills/#");
    let mut sub = start(
        "sub",
        &gateway,
        &["-t", "x", "-d", "--will-topic", "wills/pump", "--will-payload", "lost", "--will-qos", "1"],
    );
    sub.find("Subscribed");
    sub.kill();
    wills.expect("wills/pump", "lost");
}

/// Two at once: one of them finds the usual port taken, if nobody had it before.
#[test]
fn demo_shows_both_ways_even_when_the_port_is_taken() {
    let demo = || Process::spawn(demo_command());
    for lines in [demo(), demo()].map(Process::succeed) {
        let text = lines.join("\n");
        for part in ["mosquitto_sub", "mosquitto_pub", "gatepost sub", "smarthome/lights/office"] {
            assert!(text.contains(part), "{part:?} is missing in: {text}");
        }
        assert!(!text.contains('\u{1b}'), "colours only on a terminal: {text:?}");
    }
}

fn demo_command() -> Command {
    gatepost(&["demo", "--seconds", "3"])
}
