//! Line noise: what a wrong baud rate makes of a frame reaches neither a subscriber as a topic nor a terminal as it came.

use std::fs::File;
use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use gatepost::topic::TopicName;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use tempfile::TempDir;

use crate::common::{Gateway, Mqtt, Port, Process, gatepost, program, wait_until};

/// A rule whose topic is a field of the frame, kept and compared as people do.
fn config(port: &Port) -> String {
    format!(
        "[device.board]\nserial = {{ port = \"{}\", baud = 115200 }}\n\
         [[device.board.publish]]\nmatch = '(?s-u)^(?<name>.*?)=(?<value>.*)$'\ntopic = \"{{name}}/value\"\ntemplate = \"{{value}}\"\nretain = true\n",
        port.path()
    )
}

/// Frames with every byte that is no line end in their field, whole characters that are no such, and names of others.
fn noise() -> Vec<Vec<u8>> {
    let bytes = (0..=255u8).filter(|byte| *byte != b'\n' && *byte != b'=').map(|byte| vec![byte]);
    let characters = ["\u{80}", "\u{9b}2J", "\u{fdd0}", "\u{ffff}", "\u{10fffe}", "\u{1b}]0;owned\u{7}", "\u{202e}"];
    let fields = bytes.chain(characters.map(|text| text.as_bytes().to_vec()));
    fields.map(|field| [&field[..], b"=1\n"].concat()).collect()
}

#[test]
fn every_topic_that_noise_makes_is_a_topic_name_and_nobody_elses() {
    let dir = TempDir::new().unwrap();
    let port = Port::plugged(dir.path(), "ttyUSB0");
    let gateway = Gateway::start_in(dir, &config(&port).replace("{name}/value", "{name}/{gateway}/status"));
    let mqtt = Mqtt::subscriber(gateway.port(), "+/test/status");
    mqtt.expect("gatepost/test/status", "online");
    mqtt.subscribe("$SYS/#", 0);
    wait_until("online", || gateway.device_status("board")["state"] == "online");
    let noise = noise();
    noise.iter().for_each(|frame| port.write(frame));
    port.write("gatepost=forged\n$SYS=forged\n$=forged\n$share=forged\n");
    port.write("the end=1\n");
    let mut topics = 0;
    loop {
        let message = mqtt.receive();
        assert_ne!(message.payload, b"forged", "{message:?}");
        if message.topic.starts_with("$SYS/") {
            continue;
        }
        TopicName::check(&message.topic).unwrap();
        topics += 1;
        if message.topic == "the end/test/status" {
            break;
        }
    }
    // All but `$`, which is one of the bytes, and the last.
    assert_eq!(topics, noise.len() as u64);
    let device = gateway.device_status("board");
    assert_eq!(device["dropped"], serde_json::json!({ "reserved": 5 }));
    assert_eq!(device["frames_in"].as_u64().unwrap(), topics + 5);
    gateway.find_log(&["WARN", "dropped", "reason=\"reserved\""]);
    let watcher = Mqtt::subscriber(gateway.port(), "gatepost/test/status");
    watcher.expect("gatepost/test/status", "online");
}

#[test]
#[ignore = "needs mosquitto-clients"]
fn mosquitto_sub_stays_connected_while_noise_comes() {
    let dir = TempDir::new().unwrap();
    let port = Port::plugged(dir.path(), "ttyUSB0");
    let gateway = Gateway::start_in(dir, &config(&port));
    let text = gateway.port_text();
    let readers: Vec<Process> = ["mqttv311", "mqttv5"]
        .map(|version| {
            let reader = program(
                "stdbuf",
                &["-oL", "mosquitto_sub", "-p", &text, "-d", "-v", "-q", "1", "-t", "#", "-V", version],
            );
            reader.find("Subscribed");
            reader
        })
        .into();
    wait_until("online", || gateway.device_status("board")["state"] == "online");
    noise().iter().for_each(|frame| port.write(frame));
    port.write("the end=1\n");
    for mut reader in readers {
        reader.expect("the end/value 1");
        let count = |text: &str| reader.lines().iter().filter(|line| line.contains(text)).count();
        assert_eq!((count("sending CONNECT"), count("Subscribed")), (1, 1), "{:#?}", reader.lines());
    }
    // One that comes later gets all of it, retained.
    let late = Command::new("mosquitto_sub").args(["-p", &text, "-t", "#", "-W", "2", "-v", "-d"]).output().unwrap();
    let shown = String::from_utf8_lossy(&late.stdout);
    assert_eq!(shown.matches("sending CONNECT").count(), 1, "{shown}");
    assert!(shown.contains("the end/value 1"), "{shown}");
}

/// What a command shows on a terminal.
struct Terminal {
    child: std::process::Child,
    shown: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Terminal {
    /// Starts `command` with its output and its errors on a terminal, which adds nothing to them.
    fn start(mut command: Command) -> Terminal {
        let mut terminal =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).map(File::from).unwrap();
        grantpt(&terminal).unwrap();
        unlockpt(&terminal).unwrap();
        let mut settings = tcgetattr(&terminal).unwrap();
        settings.make_raw();
        tcsetattr(&terminal, OptionalActions::Now, &settings).unwrap();
        let name = ptsname(&terminal, Vec::new()).unwrap();
        let side = File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
        let stdio = || Stdio::from(side.try_clone().unwrap());
        let child = command.stdin(Stdio::null()).stdout(stdio()).stderr(stdio()).spawn().unwrap();
        drop((command, side));
        let shown = Arc::new(Mutex::new(Vec::new()));
        let sink = shown.clone();
        let reader = std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // The end of a terminal that nobody has open is an error.
            while let Ok(read @ 1..) = terminal.read(&mut bytes) {
                sink.lock().unwrap().extend_from_slice(&bytes[..read]);
            }
        });
        Terminal { child, shown, reader: Some(reader) }
    }

    /// Whether it has shown `text`.
    fn shows(&self, text: &str) -> bool {
        String::from_utf8_lossy(&self.shown.lock().unwrap()).contains(text)
    }

    /// All that it showed when the command has ended, which moved no cursor.
    fn finish(mut self) -> String {
        self.child.wait().unwrap();
        self.reader.take().unwrap().join().unwrap();
        let shown = std::mem::take(&mut *self.shown.lock().unwrap());
        let shown = String::from_utf8(shown).unwrap();
        let obeyed = |c: char| (c.is_control() && c != '\n' && c != '\t') || ('\u{202a}'..='\u{202e}').contains(&c);
        assert!(!shown.contains(obeyed), "{shown:?}");
        shown
    }
}

/// Clears the screen, sets the title, rings, and turns the line round.
const ESCAPES: &str = "\u{1b}[2J\u{1b}]0;owned\u{7}\u{9b}2J\u{202e}\u{7f}";

#[test]
fn nothing_that_somebody_sent_moves_the_cursor_of_a_terminal() {
    let dir = TempDir::new().unwrap();
    let port = Port::plugged(dir.path(), "ttyUSB0");
    let gateway = Gateway::start_in(dir, &(config(&port) + "[[device.board.subscribe]]\ntopic = \"set/+/x\"\n"));
    wait_until("online", || gateway.device_status("board")["state"] == "online");
    let file = gateway.dir().join("gatepost.toml");
    let (file, broker) = (file.to_str().unwrap(), gateway.port_text());
    let frame = format!("{ESCAPES}={ESCAPES}");
    let broken = format!("$\u{202e}{ESCAPES}=1");

    let monitor = Terminal::start(gateway.command("monitor", &["board", "--hex"]));
    let mqtt = Mqtt::connect(gateway.port());
    wait_until("the first line", || {
        mqtt.publish("set/\u{202e}/x", ESCAPES, 1);
        monitor.shows("command")
    });
    let subscribers: Vec<Terminal> = [&["-v"][..], &["-F", "%t %p %P %j"], &["-d"]]
        .map(|args| {
            let sub = [&["sub", "-p", &broker, "-t", "+/value", "-t", "end", "-t", "set/#", "-C", "3"], args].concat();
            Terminal::start(gatepost(&sub))
        })
        .into();
    wait_until("subscribed", || gateway.status()["broker"]["clients"]["connected"].as_u64() == Some(4));
    for terminal in &subscribers {
        wait_until("a message", || {
            mqtt.publish("set/\u{202e}/x", ESCAPES, 1);
            port.write(format!("{frame}\n{broken}\n"));
            terminal.shows("value") || terminal.shows("set/")
        });
    }
    wait_until("three messages", || {
        mqtt.publish("end", "1", 1);
        gateway.status()["broker"]["clients"]["connected"].as_u64() == Some(1)
    });
    for terminal in subscribers {
        let shown = terminal.finish();
        assert!(shown.contains(r"\x1b[2J\x1b]0;owned\x07\xc2\x9b2J\xe2\x80\xae\x7f"), "{shown}");
    }
    for args in [
        &["route", "-c", file, "--device", "board", &frame, &broken][..],
        &["route", "-c", file, "--topic", "set/\u{202e}/x", ESCAPES],
        &["status", "--socket", gateway.control().to_str().unwrap()],
        &["status", "--json", "--socket", gateway.control().to_str().unwrap()],
        &["ports"],
        &["doctor", "-c", file],
        &["check", "--print", "-c", file],
    ] {
        Terminal::start(gatepost(args)).finish();
    }
    // Into a pipe a message comes as it is, as with mosquitto_sub.
    let piped = gatepost(&["sub", "-p", &broker, "-t", "+/value", "-C", "1", "-v"]).output().unwrap().stdout;
    assert!(piped.ends_with(format!("/value {ESCAPES}\n").as_bytes()), "{piped:?}");
    drop(mqtt);
    gateway.terminate();
    let shown = monitor.finish();
    assert!(shown.contains(r"\x1b[2J\x1b]0;owned\x07"), "{shown}");
}
