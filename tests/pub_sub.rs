//! `gatepost pub` and `gatepost sub` beside mosquitto's clients, on a real mosquitto: same bytes, same exit codes.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const GATEPOST: &str = env!("CARGO_BIN_EXE_gatepost");

/// A mosquitto that ends with the test.
struct Broker {
    child: Child,
    port: u16,
    directory: tempfile::TempDir,
}

impl Broker {
    fn start(settings: &str) -> Broker {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let directory = tempfile::tempdir().unwrap();
        Broker { child: Broker::launch(&directory, port, settings), port, directory }
    }

    fn open() -> Broker {
        Broker::start("allow_anonymous true")
    }

    fn launch(directory: &tempfile::TempDir, port: u16, settings: &str) -> Child {
        let file = directory.path().join("mosquitto.conf");
        fs::write(&file, format!("user root\nlistener {port} 127.0.0.1\n{settings}\n")).unwrap();
        let mut command = Command::new("mosquitto");
        let child = command.arg("-c").arg(file).stderr(Stdio::null()).spawn().expect("mosquitto is installed");
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "mosquitto did not start");
            std::thread::yield_now();
        }
        child
    }

    fn stop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn command(&self, program: Program, arguments: &[&str]) -> Command {
        let mut command = program.command();
        command.args(["-h", "localhost", "-p", &self.port.to_string()]).args(arguments);
        command
    }

    fn run(&self, program: Program, arguments: &[&str]) -> Output {
        self.command(program, arguments).output().unwrap()
    }

    /// Both programs of a pair must print the same and end the same.
    fn compare(&self, ours: Program, arguments: &[&str]) -> String {
        let (us, them) = (self.run(ours, arguments), self.run(ours.model(), arguments));
        assert_eq!(show(&us), show(&them), "{arguments:?}\nours said {}", String::from_utf8_lossy(&us.stderr));
        show(&us)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.stop();
    }
}

fn show(output: &Output) -> String {
    format!("{}: {}", output.status.code().unwrap_or(-1), output.stdout.escape_ascii())
}

#[derive(Clone, Copy)]
enum Program {
    Sub,
    Pub,
    MosquittoSub,
    MosquittoPub,
}

impl Program {
    fn command(self) -> Command {
        let (program, subcommand) = match self {
            Program::Sub => (GATEPOST, Some("sub")),
            Program::Pub => (GATEPOST, Some("pub")),
            Program::MosquittoSub => ("mosquitto_sub", None),
            Program::MosquittoPub => ("mosquitto_pub", None),
        };
        let mut command = Command::new(program);
        command.args(subcommand).env("TZ", "Asia/Kolkata").stdin(Stdio::null());
        command
    }

    fn model(self) -> Program {
        match self {
            Program::Sub | Program::MosquittoSub => Program::MosquittoSub,
            Program::Pub | Program::MosquittoPub => Program::MosquittoPub,
        }
    }
}

#[test]
#[ignore = "needs mosquitto"]
fn sub_prints_what_mosquitto_sub_prints() {
    let broker = Broker::open();
    let payloads: [(&str, &[u8]); 5] = [
        ("r/text", b"hello world"),
        ("r/json", br#"{"t": 21.5, "list": [1, 2], "s": "a \"b\" c"}"#),
        ("r/umlaut", "größe".as_bytes()),
        ("r/control", b"tab\tquote\"back\\slash\x01"),
        ("r/binary", &[1, 2, 0xff, 0xfe, b'\n', b'\r', 0x80]),
    ];
    for (topic, payload) in payloads {
        let mut publish = broker.command(Program::MosquittoPub, &["-t", topic, "-r", "-s", "-q", "1"]);
        let mut child = publish.stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(payload).unwrap();
        assert!(child.wait().unwrap().success());
    }
    let formats = [
        "%t %p",
        "%q %r %l",
        "%x %X",
        "[%20t][%-20t][%.3t][%10.4t]",
        "[%5l][%05l][%-5l]",
        "[%20p][%-20p][%4p][%020p]",
        "[%40x][%-40X][%6x]",
        "%% @@ \\\\ \\t \\n \\r \\a \\e \\v",
        "a\\0b",
        "@z @Z",
        "[%C][%4C][%R][%D][%P]",
        "[%A][%3A][%03E][%F][%S]",
        "plain text",
        "%m",
    ];
    for version in ["mqttv311", "5"] {
        for (topic, _) in payloads {
            for format in formats {
                broker.compare(Program::Sub, &["-t", topic, "-C", "1", "-W", "5", "-V", version, "-F", format]);
            }
            for flags in [&["-v"][..], &[], &["-N"], &["-v", "-N"], &["-q", "1", "-F", "%q %r %t %l"]] {
                broker.compare(Program::Sub, &[&["-t", topic, "-C", "1", "-W", "5", "-V", version], flags].concat());
            }
        }
    }
    let all = broker.compare(Program::Sub, &["-t", "r/#", "-v", "--retained-only", "-C", "5", "-W", "5"]);
    assert_eq!(all.matches("r/").count(), 5, "{all}");
    broker.compare(Program::Sub, &["-t", "r/text", "-t", "r/umlaut", "-C", "2", "-W", "5"]);
    broker.compare(Program::Sub, &["-t", "r/+", "-T", "r/json", "-T", "r/b/#", "-v", "-C", "4", "-W", "5"]);
    broker.compare(Program::Sub, &["-t", "r/text", "-R", "-W", "1"]);
    broker.compare(Program::Sub, &["-t", "r/nothing", "-W", "1"]);
}

#[test]
#[ignore = "needs mosquitto"]
fn json_has_the_fields_of_mosquitto_sub() {
    let broker = Broker::open();
    assert!(broker.run(Program::Pub, &["-t", "j", "-m", r#"{"a": [1, "x y"]}"#, "-r", "-q", "1"]).status.success());
    for format in ["%j", "%J"] {
        let arguments = ["-t", "j", "-q", "1", "-C", "1", "-W", "5", "-F", format];
        // The time is another one, and 2.0.11 writes a Z into it that later versions do not.
        let tail = |program| {
            let text = String::from_utf8(broker.run(program, &arguments).stdout).unwrap();
            let (time, tail) = text.split_once(",\"topic\"").unwrap();
            assert!(time.starts_with("{\"tst\":\"20") && time.ends_with("+0530\""), "{time}");
            tail.to_owned()
        };
        assert_eq!(tail(Program::Sub), tail(Program::MosquittoSub));
    }
}

#[test]
#[ignore = "needs mosquitto"]
fn debug_prints_the_packets_of_mosquitto() {
    let broker = Broker::open();
    for (qos, version) in [("0", "311"), ("1", "311"), ("2", "311"), ("1", "5"), ("2", "5")] {
        // mosquitto prints a message after acknowledging it, gatepost before: only the order differs.
        let lines = |program: Program, arguments: &[&str]| {
            let output = broker.run(program, &[&["-d", "-i", "me", "-q", qos, "-V", version], arguments].concat());
            let mut lines: Vec<_> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        let publish = ["-t", "d", "-m", "hello", "-r"];
        assert_eq!(lines(Program::Pub, &publish), lines(Program::MosquittoPub, &publish));
        let mut ours = lines(Program::Sub, &["-t", "d", "-C", "1", "-W", "5"]);
        let mut theirs = lines(Program::MosquittoSub, &["-t", "d", "-C", "1", "-W", "5"]);
        // Whether the last PUBCOMP is logged before the end differs from run to run.
        for lines in [&mut ours, &mut theirs] {
            lines.retain(|line| !line.contains("PUBCOMP") && !line.contains("sending PUBACK"));
        }
        assert_eq!(ours, theirs);
        assert!(
            ours.iter()
                .any(|line| line == "Subscribed (mid: 1): ".to_owned().as_str() || line.starts_with("Subscribed"))
        );
    }
}

#[test]
#[ignore = "needs mosquitto"]
fn exit_codes_are_those_of_mosquitto() {
    let broker = Broker::start("allow_anonymous false");
    for (version, code) in [("311", "5"), ("5", "135")] {
        for user in [&[][..], &["-u", "me", "-P", "wrong"]] {
            let refused = broker.compare(Program::Sub, &[&["-t", "a", "-V", version], user].concat());
            assert!(refused.starts_with(&format!("{code}:")), "{refused}");
            let refused = broker.run(Program::Pub, &[&["-t", "a", "-m", "x", "-V", version], user].concat());
            assert_eq!(refused.status.code().unwrap().to_string(), code);
        }
    }
    let refused = broker.run(Program::Sub, &["-t", "a"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("not authorised (code 5)") && said.contains("hint: check -u and -P"), "{said}");
    assert!(broker.run(Program::Sub, &["-t", "a", "--quiet"]).stderr.is_empty());

    let mut gone = Broker::open();
    gone.stop();
    gone.compare(Program::Sub, &["-t", "a"]);
    gone.compare(Program::Pub, &["-t", "a", "-m", "x"]);
    gone.compare(Program::Sub, &["-t", "a/#/b"]);
    gone.compare(Program::Sub, &[]);
    gone.compare(Program::Pub, &["-t", "a/+", "-m", "x"]);
    gone.child = Command::new("true").spawn().unwrap();
}

/// As a TLS port answers CONNECT: an alert.
#[test]
fn a_port_that_does_not_speak_mqtt_is_told_with_what_to_do() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    for version in ["311", "5"] {
        let mut command = Command::new(GATEPOST);
        command.args(["pub", "-p", &port, "-V", version, "-t", "a", "-m", "x"]);
        let child = command.stderr(Stdio::piped()).spawn().unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_exact(&mut [0; 14]).unwrap();
        stream.write_all(&[0x15, 3, 3, 0, 2, 2, 10]).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            said.contains(&format!("{port} answered is not MQTT\nhint: the port may speak TLS (--cafile)")),
            "{said}"
        );
    }
}

#[test]
#[ignore = "needs mosquitto"]
fn pub_sends_what_mosquitto_pub_sends() {
    let broker = Broker::open();
    let file = broker.directory.path().join("all-bytes");
    let bytes: Vec<u8> = (0..=255).cycle().take(70_000).collect();
    fs::write(&file, &bytes).unwrap();
    let lines: &[u8] = b"one\n\n two \r\nlast";
    let file = file.to_str().unwrap();
    let table: &[(&[&str], &[u8], usize)] = &[
        (&["-m", "hello"], b"", 1),
        (&["-m", "-5"], b"", 1),
        (&["-m", ""], b"", 1),
        (&["-n"], b"", 1),
        (&["-f", file], b"", 1),
        (&["-s"], &bytes, 1),
        (&["-l"], lines, 4),
        (&["-m", "again", "--repeat", "3"], b"", 3),
        (&["-m", "again", "--repeat", "2", "--repeat-delay", "0.05"], b"", 2),
    ];
    for version in ["311", "5"] {
        for qos in &["0", "1", "2"] {
            for (flags, stdin, messages) in table {
                let [ours, theirs] = [Program::Pub, Program::MosquittoPub].map(|program| {
                    let session = ["-t", "p/#", "-c", "-i", "reader", "-q", "2"];
                    assert!(broker.run(Program::MosquittoSub, &[&session[..], &["-E"]].concat()).status.success());
                    // The session keeps QoS 1 and 2; a plain one that is surely there takes QoS 0 too.
                    let count = messages.to_string();
                    let show = ["-F", "%t %q %r %l %x", "-C", &count, "-W", "5"];
                    let arguments = [&["-t", "p/x", "-q", qos, "-V", version], *flags].concat();
                    let reader = (*qos == "0").then(|| {
                        let mut reader = Command::new("stdbuf");
                        reader.args(["-oL", "mosquitto_sub", "-p", &broker.port.to_string(), "-t", "p/#"]).args(show);
                        Talker::subscriber(reader)
                    });
                    let mut publish = broker.command(program, &arguments).stdin(Stdio::piped()).spawn().unwrap();
                    publish.stdin.take().unwrap().write_all(stdin).unwrap();
                    assert!(publish.wait().unwrap().success(), "{flags:?}");
                    let output = match reader {
                        Some(reader) => reader.output(),
                        None => broker.run(Program::MosquittoSub, &[&session[..], &show[..]].concat()).stdout,
                    };
                    // The queue of the session is emptied for the next one.
                    broker.run(Program::MosquittoSub, &["-t", "p/#", "-i", "reader", "-E"]);
                    String::from_utf8(output).unwrap()
                });
                assert_eq!(ours, theirs, "{flags:?} -q {qos} -V {version}");
                assert_eq!(ours.lines().count(), *messages, "{flags:?} {ours}");
            }
        }
    }
}

/// A program that prints its packets, so that it is known how far it is.
struct Talker {
    child: Child,
    out: BufReader<std::process::ChildStdout>,
}

impl Talker {
    fn start(mut command: Command, until: &str) -> Talker {
        command.arg("-d").stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let mut talker = Talker { child, out };
        talker.wait_for(until);
        talker
    }

    fn subscriber(command: Command) -> Talker {
        Talker::start(command, "Subscribed")
    }

    fn wait_for(&mut self, text: &str) {
        let mut line = String::new();
        while !line.contains(text) {
            line.clear();
            assert!(self.out.read_line(&mut line).unwrap() > 0, "ended before {text}");
        }
    }

    /// The messages it printed, without the packets.
    fn output(mut self) -> Vec<u8> {
        let mut all = Vec::new();
        self.out.read_to_end(&mut all).unwrap();
        self.child.wait().unwrap();
        let messages = all.split_inclusive(|byte| *byte == b'\n').filter(|line| !line.starts_with(b"Client "));
        messages.collect::<Vec<_>>().concat()
    }
}

#[test]
#[ignore = "needs mosquitto"]
fn a_kept_session_gives_each_message_once_whatever_the_count() {
    let broker = Broker::open();
    for version in ["311", "5"] {
        for qos in ["1", "2"] {
            let session = ["-t", "k", "-c", "-i", "keeper", "-q", qos, "-V", version, "-W", "5"];
            assert!(broker.run(Program::Sub, &[&session[..], &["-E"]].concat()).status.success());
            let mut publish = broker.command(Program::Pub, &["-t", "k", "-l", "-q", qos, "-V", version]);
            let mut publish = publish.stdin(Stdio::piped()).spawn().unwrap();
            let sent: String = (0..60).map(|n| format!("{n}\n")).collect();
            publish.stdin.take().unwrap().write_all(sent.as_bytes()).unwrap();
            assert!(publish.wait().unwrap().success());
            let parts = ["1", "2", "7", "50"].map(|count| {
                let output = broker.run(Program::Sub, &[&session[..], &["-C", count]].concat());
                assert_eq!(output.status.code(), Some(0), "-C {count} -q {qos} -V {version}");
                String::from_utf8(output.stdout).unwrap()
            });
            assert_eq!(parts.concat(), sent, "-q {qos} -V {version}");
            broker.run(Program::MosquittoSub, &["-t", "k", "-i", "keeper", "-E"]);
        }
    }
}

#[test]
#[ignore = "needs mosquitto"]
fn a_lost_connection_comes_back() {
    let mut broker = Broker::open();
    for version in ["311", "5"] {
        let command = broker.command(Program::Sub, &["-t", "back", "-V", version, "-C", "1"]);
        let mut reader = Talker::subscriber(command);
        let mut command = broker.command(Program::Pub, &["-t", "back", "-l", "-q", "1", "-V", version]);
        command.stdin(Stdio::piped());
        let mut lines = Talker::start(command, "CONNACK (0)");
        broker.stop();
        broker.child = Broker::launch(&broker.directory, broker.port, "allow_anonymous true");
        let mut said = BufReader::new(reader.child.stderr.take().unwrap()).lines().map(Result::unwrap);
        assert!(said.next().unwrap().ends_with("trying again each second"));
        assert_eq!(said.next().unwrap(), "Warning: connected again");
        reader.wait_for("Subscribed");
        lines.child.stdin.take().unwrap().write_all(b"still here").unwrap();
        assert!(lines.child.wait().unwrap().success());
        assert_eq!(reader.output(), b"still here\n");
    }
}

#[test]
#[ignore = "needs mosquitto"]
fn wills_signals_and_closed_pipes() {
    let broker = Broker::open();
    let will = ["-t", "x", "--will-topic", "w", "--will-payload", "gone", "--will-qos", "1", "--will-retain"];
    let [mut polite, mut killed] = ["9", "w"].map(|topic| {
        let will: Vec<_> = will.iter().map(|flag| if *flag == "w" { topic } else { flag }).collect();
        Talker::subscriber(broker.command(Program::Sub, &will))
    });
    Command::new("kill").args(["-INT", &polite.child.id().to_string()]).status().unwrap();
    assert_eq!(polite.child.wait().unwrap().code(), Some(0));
    killed.child.kill().unwrap();
    let told = broker.run(Program::Sub, &["-t", "w", "-t", "9", "-v", "-C", "1", "-W", "5"]);
    assert_eq!(show(&told), "0: w gone\\n");

    let mut closed = Talker::subscriber(broker.command(Program::Sub, &["-t", "pipe"]));
    drop(closed.out);
    for _ in 0..2 {
        assert!(broker.run(Program::Pub, &["-t", "pipe", "-m", "x", "-q", "1"]).status.success());
    }
    assert_eq!(closed.child.wait().unwrap().code(), Some(0));
    let mut said = String::new();
    closed.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "");
}

#[test]
#[ignore = "needs mosquitto"]
fn tls_checks_the_chain_the_name_and_shows_a_certificate() {
    let file = |name: &str| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/tls").join(name);
    let text = |name: &str| file(name).to_str().unwrap().to_owned();
    let serve = |name: &str| {
        let part = |end: &str| file(&format!("{name}.{end}"));
        let (cafile, certfile, keyfile) = (file("ca.pem"), part("pem"), part("key"));
        let [ca, cert, key] = [&cafile, &certfile, &keyfile].map(|path: &PathBuf| Path::display(path).to_string());
        Broker::start(&format!(
            "allow_anonymous true\ncafile {ca}\ncertfile {cert}\nkeyfile {key}\nrequire_certificate true"
        ))
    };
    let (ca, cert, key) = (text("ca.pem"), text("client.pem"), text("client.key"));
    let identity = ["--cafile", &ca, "--cert", &cert, "--key", &key];
    let message = ["-t", "t", "-m", "x", "-q", "1", "-r"];

    let right = serve("localhost");
    for version in ["311", "5"] {
        let published = right.run(Program::Pub, &[&identity[..], &message, &["-V", version]].concat());
        assert_eq!(published.status.code(), Some(0), "{}", String::from_utf8_lossy(&published.stderr));
        let read = right.run(Program::Sub, &[&identity[..], &["-t", "t", "-C", "1", "-W", "5"]].concat());
        assert_eq!(show(&read), "0: x\\n");
    }
    // Without a certificate, without the authority, and on the wrong name.
    assert_eq!(right.run(Program::Pub, &[&["--cafile", &ca], &message[..]].concat()).status.code(), Some(1));
    let url = format!("mqtts://localhost:{}/t", right.port);
    let unknown = right.run(Program::Pub, &["-L", &url, "-m", "x"]);
    assert_eq!(unknown.status.code(), Some(1));
    let wrong = serve("elsewhere");
    let refused = wrong.run(Program::Pub, &[&identity[..], &message].concat());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--insecure"), "{refused:?}");
    assert_eq!(refused.status.code(), Some(1));
    let ignored = wrong.run(Program::Pub, &[&identity[..], &message, &["--insecure"]].concat());
    assert_eq!(ignored.status.code(), Some(0), "{}", String::from_utf8_lossy(&ignored.stderr));
}
