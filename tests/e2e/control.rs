//! The control socket and the commands behind it.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use rustix::termios::{Winsize, tcgetattr, tcsetwinsize};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{DEADLINE, Gateway, LISTENER, Mqtt, Port, Process, gatepost, wait_until};

/// A gateway with a serial `board`, which is online.
fn board() -> (Gateway, Port) {
    let dir = TempDir::new().unwrap();
    let port = Port::plugged(dir.path(), "ttyUSB0");
    let config = format!(
        "[device.board]\nserial = {{ port = \"{}\", baud = 115200 }}\nsubscribe = \"board/set\"\n\
         [[device.board.publish]]\nmatch = '^T='\ntopic = \"board/out\"\n",
        port.path()
    );
    let gateway = Gateway::start_in(dir, &config);
    wait_for_state(&gateway, "board", "online");
    (gateway, port)
}

fn wait_for_state(gateway: &Gateway, device: &str, state: &str) {
    wait_until(state, || gateway.device_status(device)["state"] == state);
}

fn run(command: &mut Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.stdin(Stdio::null()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

/// A client that speaks the protocol by hand.
struct Raw(BufReader<UnixStream>);

impl Raw {
    fn connect(gateway: &Gateway) -> Raw {
        let stream = UnixStream::connect(gateway.control()).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        Raw(BufReader::new(stream))
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).unwrap();
    }

    /// `None`: closed.
    fn line(&mut self) -> Option<Value> {
        let mut line = String::new();
        match self.0.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => Some(serde_json::from_str(&line).unwrap()),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => None,
            Err(error) => panic!("no line: {error}"),
        }
    }

    fn ask(&mut self, request: Value) -> Value {
        self.write(format!("{request}\n").as_bytes());
        self.line().unwrap()
    }
}

#[test]
fn the_socket_is_for_user_and_group_and_goes_with_the_gateway() {
    let (gateway, _port) = board();
    let path = gateway.control();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    let folder = TempDir::new().unwrap();
    let taken = format!("[gateway]\ncontrol = \"{}\"\n[broker]\nlistener = []\n", path.display());
    let file = folder.path().join("gatepost.toml");
    std::fs::write(&file, taken).unwrap();
    let second = Process::spawn(gatepost(&["run", "-c", file.to_str().unwrap()]));
    second.find("ready");
    let line = second.find("cannot make the control socket");
    assert!(line.contains("hint"), "{line}");
    second.signal(Signal::TERM);
    assert_eq!(second.finish().0, 0, "it goes on without");
    assert_eq!(gateway.device_status("board")["state"], "online", "the first one's socket is still there");
    let dir = gateway.kill9();
    assert!(path.exists());
    let gateway = Gateway::start_in(dir, "");
    assert_eq!(gateway.status()["devices"], json!([]), "the socket of the killed one is replaced");
    let path = gateway.control();
    gateway.terminate();
    assert!(!path.exists());
}

#[test]
fn without_a_gateway_every_command_exits_69() {
    let dir = TempDir::new().unwrap();
    let socket = dir.path().join("none.sock");
    let socket = socket.to_str().unwrap();
    let commands: [&[&str]; 7] = [
        &["status"],
        &["status", "--json"],
        &["monitor", "board"],
        &["send", "board", "x"],
        &["release", "board"],
        &["acquire", "board"],
        &["reload"],
    ];
    for command in commands {
        let (code, _, error) = run(&mut gatepost(&[command, &["--socket", socket]].concat()));
        assert_eq!(code, 69, "{command:?}: {error}");
        assert!(error.contains("gatepost run") && error.contains(socket), "{error}");
    }
    let mut default = gatepost(&["status"]);
    default.env("RUNTIME_DIRECTORY", dir.path());
    let (code, _, error) = run(&mut default);
    assert!(error.contains(dir.path().join("control.sock").to_str().unwrap()) || code == 0, "{error}");
}

#[test]
fn unknown_devices_are_named_with_the_nearest() {
    let (gateway, _port) = board();
    for (command, rest) in [("monitor", None), ("send", Some("x")), ("release", None), ("acquire", None)] {
        let args: Vec<&str> = ["bord"].into_iter().chain(rest).collect();
        let (code, _, error) = run(&mut gateway.command(command, &args));
        assert_eq!(code, 1, "{command}: {error}");
        assert!(error.contains("\"bord\"") && error.contains("did you mean board?"), "{error}");
    }
}

#[test]
fn status_reconciles_and_is_for_people_too() {
    let (gateway, port) = board();
    let mqtt = Mqtt::subscriber(gateway.port(), "board/out");
    port.write("T=1\nnoise\nT=2\n");
    mqtt.expect("board/out", "T=2");
    mqtt.publish("board/set", "ON", 1);
    assert_eq!(port.read_until(b"\n"), b"ON\n");
    wait_until("the count of what was written", || gateway.device_status("board")["written"] == 1);
    let status = gateway.status();
    let device = &status["devices"][0];
    let part = |key: &str| device[key].as_u64().unwrap();
    assert_eq!((part("frames_in"), part("published"), &device["dropped"]), (3, 2, &json!({"no_rule": 1})));
    assert_eq!((part("bytes_in"), part("commands"), part("written"), part("bytes_out")), (14, 1, 1, 3));
    assert_eq!((device["state"].as_str(), device["kind"].as_str()), (Some("online"), Some("serial")));
    assert!(device["since"].as_str().unwrap().ends_with('Z'));
    assert_eq!(status["broker"]["clients"]["connected"], 1);
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["pid"], gateway.id());
    let (code, text, _) = run(&mut gateway.command("status", &[]));
    assert_eq!(code, 0);
    for part in ["board  online for", "3 frames (14 B), 2 published", "dropped no_rule 1", "clients   1 connected"] {
        assert!(text.contains(part), "{part:?} is missing in: {text}");
    }
}

#[test]
fn monitor_shows_both_ways_and_what_the_rules_made() {
    let (gateway, port) = board();
    let mut monitor = Process::spawn(gateway.command("monitor", &["board", "--hex"]));
    // It watches from its answer on; a frame that comes before that is not shown, so try until one is.
    wait_until("the first line", || {
        port.write("T=0\n");
        monitor.lines().iter().any(|line| line.contains("T=0"))
    });
    let mqtt = Mqtt::connect(gateway.port());
    port.write(b"noise\x1b[2J\n");
    assert!(monitor.expect("noise").contains(r"in        noise\x1b[2J"));
    monitor.expect("|noise.[2J|");
    monitor.expect("dropped   no_rule");
    port.write("T=21\n");
    monitor.expect("in        T=21");
    monitor.expect("published board/out (qos 1) T=21");
    mqtt.publish("board/set", "ON", 1);
    monitor.expect("command   board/set ON");
    monitor.expect("queued    ON");
    monitor.expect("out       ON");
    port.read_until(b"ON\n");
    gateway.terminate();
    monitor.expect("the gateway has stopped");
    assert_eq!(monitor.finish().0, 0);
}

#[test]
fn send_writes_one_frame_or_says_why_not() {
    let (gateway, mut port) = board();
    let (code, _, error) = run(&mut gateway.command("send", &["board", r"LED \x02\xff"]));
    assert_eq!(code, 0, "{error}");
    assert_eq!(port.read_until(b"\n"), b"LED \x02\xff\n");
    let device = gateway.device_status("board");
    assert_eq!((&device["written"], &device["commands"]), (&json!(1), &json!(1)));
    port.unplug();
    wait_for_state(&gateway, "board", "offline");
    let (code, _, error) = run(&mut gateway.command("send", &["board", "x"]));
    assert!(code == 1 && error.contains("offline"), "{code} {error}");
    let device = gateway.device_status("board");
    assert_eq!(device["dropped"], json!({"offline": 1}));
    assert_eq!(device["commands"], 2);
}

#[test]
fn send_reaches_one_peer_or_all() {
    let gateway = Gateway::start(
        "[device.scanners]\ntcp_server = { listen = \"127.0.0.1:0\" }\npublish = \"scanners/{peer}\"\n\
         framing = { type = \"lines\", max_length = \"64B\" }\n\
         [device.kept]\ntcp = { connect = \"127.0.0.1:1\" }\npublish = \"kept\"\nqueue = { while_offline = \"keep\" }\n",
    );
    let address = ("127.0.0.1", gateway.device_port("scanners"));
    let (code, _, error) = run(&mut gateway.command("send", &["scanners", "x"]));
    assert!(code == 1 && error.contains("nobody is connected"), "{code} {error}");
    let mut peers = [TcpStream::connect(address).unwrap(), TcpStream::connect(address).unwrap()];
    wait_until("both peers", || gateway.log().iter().filter(|line| line.contains("connected")).count() >= 2);
    assert_eq!(run(&mut gateway.command("send", &["scanners", "ALL"])).0, 0);
    let first = format!("127.0.0.1_{}", peers[0].local_addr().unwrap().port());
    assert_eq!(run(&mut gateway.command("send", &["scanners", "ONE", "--peer", &first])).0, 0);
    let mut text = [0; 8];
    peers[0].read_exact(&mut text).unwrap();
    assert_eq!(&text, b"ALL\nONE\n");
    peers[1].read_exact(&mut text[..4]).unwrap();
    assert_eq!(&text[..4], b"ALL\n");
    assert_eq!(run(&mut gateway.command("send", &["scanners", "x", "--peer", "10.0.0.1_1"])).0, 1);
    let (code, _, error) = run(&mut gateway.command("send", &["scanners", &"x".repeat(65)]));
    assert!(code == 1 && error.contains("max_length"), "{code} {error}");
    let ledger = gateway.ledger("scanners");
    assert_eq!((ledger.count("commands"), ledger.count("written")), (7, 3), "each link counts");
    assert_eq!((ledger.dropped("no_peer"), ledger.dropped("too_long")), (2, 2));
    let (code, _, error) = run(&mut gateway.command("send", &["kept", "x", "--timeout", "50ms"]));
    assert!(code == 1 && error.contains("waits in the queue"), "{code} {error}");
    assert_eq!(gateway.device_status("kept")["queued"], 1);
}

#[test]
fn a_released_port_is_another_program_s_until_it_is_acquired() {
    let (gateway, port) = board();
    let exclusive = || {
        let file = File::options().read(true).write(true).open(port.path()).ok()?;
        rustix::termios::ioctl_tiocexcl(&file).ok()?;
        Some(file)
    };
    let (code, text, error) = run(&mut gateway.command("release", &["board"]));
    assert_eq!((code, text.as_str()), (0, "board is released until `gatepost acquire`\n"), "{error}");
    let mut flasher = exclusive().expect("the port is free as soon as the command returns");
    flasher.write_all(b"firmware").unwrap();
    assert_eq!(port.read(8), b"firmware");
    let device = gateway.device_status("board");
    assert_eq!((device["state"].as_str(), device["last_error"].as_str()), (Some("released"), Some("released")));
    assert_eq!(run(&mut gateway.command("send", &["board", "x"])).0, 1);
    rustix::termios::ioctl_tiocnxcl(&flasher).unwrap();
    drop(flasher);
    assert_eq!(run(&mut gateway.command("acquire", &["board"])), (0, "board is taken back\n".into(), String::new()));
    wait_for_state(&gateway, "board", "online");
    assert_eq!(gateway.device_status("board")["last_error"], Value::Null, "it is not released any more");
    assert_eq!(run(&mut gateway.command("acquire", &["board"])).1, "board was not released\n");
    for none in ["0s", "999us"] {
        let (code, _, error) = run(&mut gateway.command("release", &["board", "--for", none]));
        assert!(code == 2 && error.contains("at least 1ms"), "{code} {error}");
    }
    assert_eq!(gateway.device_status("board")["state"], "online");
    let mqtt = Mqtt::subscriber(gateway.port(), "board/out");
    port.write("T=back\n");
    mqtt.expect("board/out", "T=back");
    assert_eq!(run(&mut gateway.command("release", &["board", "--for", "200ms"])).0, 0);
    wait_for_state(&gateway, "board", "online");
    gateway.terminate();
}

#[test]
fn a_released_server_closes_and_listens_again() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let gateway = Gateway::start(&format!("[device.s]\ntcp_server = {{ listen = \"{free}\" }}\npublish = \"s\"\n"));
    wait_for_state(&gateway, "s", "online");
    let mut peer = TcpStream::connect(free).unwrap();
    assert_eq!(run(&mut gateway.command("release", &["s"])).0, 0);
    assert_eq!(peer.read(&mut [0]).unwrap_or(0), 0);
    drop(peer);
    drop(TcpListener::bind(free).expect("the address is free"));
    assert_eq!(run(&mut gateway.command("acquire", &["s"])).0, 0);
    wait_for_state(&gateway, "s", "online");
    TcpStream::connect(free).unwrap();
}

#[test]
fn reload_answers_with_what_changed_or_with_78() {
    let (gateway, _port) = board();
    let file = gateway.dir().join("gatepost.toml");
    let config = std::fs::read_to_string(&file).unwrap();
    let (code, text, error) = run(&mut gateway.command("reload", &[]));
    assert!(code == 0 && text.contains("nothing") && text.contains("users"), "{code} {text} {error}");
    std::fs::write(&file, config.replace("baud = 115200", "bawd = 1")).unwrap();
    let (code, _, error) = run(&mut gateway.command("reload", &[]));
    assert_eq!(code, 78, "{error}");
    assert!(error.contains("gatepost.toml:") && error.contains("bawd"), "{error}");
    assert!(error.starts_with("error: ") && !error.contains("error: error"), "{error}");
    assert_eq!(gateway.device_status("board")["state"], "online");
    assert_eq!(run(&mut gateway.command("release", &["board"])).0, 0);
    std::fs::write(&file, config.replace("baud = 115200", "baud = 9600")).unwrap();
    let (code, text, error) = run(&mut gateway.command("reload", &[]));
    assert!(code == 0 && text.contains("board"), "{code} {text} {error}");
    wait_for_state(&gateway, "board", "released");
    assert_eq!(run(&mut gateway.command("acquire", &["board"])).0, 0);
    wait_for_state(&gateway, "board", "online");
}

#[test]
fn what_nobody_reads_changes_no_exit_code_but_a_full_disk_does() {
    let (gateway, _port) = board();
    let (config, socket) = (gateway.dir().join("gatepost.toml"), gateway.control());
    let (config, socket) = (config.to_str().unwrap(), socket.to_str().unwrap());
    let commands: [(&[&str], i32); 11] = [
        (&["reload", "--socket", socket], 0),
        (&["release", "board", "--socket", socket], 0),
        (&["acquire", "board", "--socket", socket], 0),
        (&["monitor", "board", "--socket", "/none"], 69),
        (&["status", "--socket", socket], 0),
        (&["status", "--json", "--socket", socket], 0),
        (&["ports", "--json"], 0),
        (&["check", "--print", "-c", config], 0),
        (&["route", "-c", config, "--device", "board", "T=1"], 0),
        (&["route", "-c", config, "--topic", "no/such", "x"], 2),
        (&["doctor", "-c", "/none"], 1),
    ];
    let closed = || OwnedFd::from(UnixStream::pair().unwrap().1);
    let full = || File::options().write(true).open("/dev/full").unwrap();
    for (args, expected) in commands {
        let code = |command: &mut Command| command.status().unwrap().code();
        assert_eq!(code(gatepost(args).stdout(closed()).stderr(closed())), Some(expected), "{args:?}");
        if expected == 69 {
            assert_eq!(code(gatepost(args).stderr(full())), Some(expected), "{args:?}");
            continue;
        }
        let (ended, _, error) = run(gatepost(args).stdout(full()));
        assert_eq!(ended, 74, "{args:?}: {error}");
        assert!(error.contains("error: cannot write to standard output: No space left"), "{error}");
        assert_eq!(code(gatepost(args).stdout(full()).stderr(full())), Some(74), "{args:?}");
    }
}

#[test]
fn garbage_and_long_lines_are_refused_and_harm_nobody() {
    let (gateway, _port) = board();
    for garbage in [&b"\n"[..], b"hello\n", b"{}\n", b"\xff\xfe\n", b"[[[[\n", b"{\"command\":\"send\",\"device\":7}\n"]
    {
        let mut raw = Raw::connect(&gateway);
        raw.write(garbage);
        assert_eq!(raw.line().unwrap()["error"]["code"], "bad_request", "{garbage:?}");
        assert_eq!(raw.line(), None, "closed");
    }
    let mut raw = Raw::connect(&gateway);
    let long = vec![b'x'; 2 << 20];
    // It may close before it has all of it.
    let _ = raw.0.get_mut().write_all(&long);
    assert!(raw.line().is_none_or(|line| line["error"]["code"] == "bad_request"));
    let mut raw = Raw::connect(&gateway);
    assert_eq!(raw.ask(json!({"command": "send", "device": "board", "hex": "0"}))["error"]["code"], "bad_request");
    assert_eq!(
        raw.ask(json!({"command": "send", "device": "board", "peer": "a", "text": "x"}))["error"]["code"],
        "bad_request"
    );
    // Several requests at once are answered in their order, the last after a close without a line's end is none.
    raw.write(b"{\"command\":\"acquire\",\"device\":\"board\"}\n{\"command\":\"status\"}\n{\"command\":\"rel");
    assert_eq!(raw.line().unwrap(), json!({"ok": {"acquired": false}}));
    assert!(raw.line().unwrap()["ok"]["devices"].is_array());
    raw.0.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(raw.line(), None);
    assert_eq!(gateway.device_status("board")["state"], "online");
}

#[test]
fn two_hundred_connections_leave_room_again() {
    let (gateway, port) = board();
    let mut crowd: Vec<Raw> = (0..200).map(|_| Raw::connect(&gateway)).collect();
    let refused = crowd[64..].iter_mut().map(|raw| raw.line().unwrap());
    let refused = refused.filter(|line| {
        let message = line["error"]["message"].as_str().unwrap_or_default();
        line["error"]["code"] == "unavailable" && message.contains("hint: ")
    });
    let refused = refused.count();
    assert_eq!(refused, 200 - 64);
    assert_eq!(run(&mut gateway.command("status", &[])).0, 69);
    drop(crowd);
    wait_until("room", || run(&mut gateway.command("status", &[])).0 == 0);
    let mqtt = Mqtt::subscriber(gateway.port(), "board/out");
    port.write("T=1\n");
    mqtt.expect("board/out", "T=1");
}

#[test]
fn a_slow_watcher_costs_only_its_own_view() {
    const FRAMES: u64 = 50_000;
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    let gateway = Gateway::start(&format!(
        "[device.flood]\ntcp = {{ connect = \"{address}\" }}\n[[device.flood.publish]]\ntopic = \"flood\"\nqos = 0\n"
    ));
    let (mut wire, _) = server.accept().unwrap();
    wait_for_state(&gateway, "flood", "online");
    let mut watcher = Raw::connect(&gateway);
    assert_eq!(watcher.ask(json!({"command": "monitor", "device": "flood"})), json!({"ok": {}}));
    for batch in 0..FRAMES / 1000 {
        let lines: String = (0..1000).map(|i| format!("{:08}\n", batch * 1000 + i)).collect();
        wire.write_all(lines.as_bytes()).unwrap();
    }
    // The watcher reads nothing until all is through.
    wait_until("the flood to pass", || gateway.device_status("flood")["frames_in"] == FRAMES);
    wait_until("all of it to be published", || gateway.device_status("flood")["published"] == FRAMES);
    drop(wire);
    wait_for_state(&gateway, "flood", "offline");
    let (mut shown, mut missed) = (0, 0);
    while shown + missed < FRAMES {
        let line = watcher.line().unwrap();
        match line["event"].as_str() {
            Some("in") => {
                let number: u64 = line["text"].as_str().unwrap().parse().unwrap();
                assert_eq!(number, shown + missed, "each gap is told where it is");
                shown += 1;
            }
            Some("missed") => missed += line["frames_in"].as_u64().unwrap(),
            _ => {}
        }
    }
    assert!(missed > 0, "the watcher was fast enough");
    assert_eq!(shown + missed, FRAMES);
}

/// `top` on a terminal of 80 × 24, which the test plays.
#[test]
fn top_shows_the_devices_and_leaves_the_terminal_as_it_was() {
    let (gateway, _port) = board();
    let terminal = Port::plugged(gateway.dir(), "terminal");
    let tty = || File::options().read(true).write(true).open(terminal.path()).unwrap();
    let held = tty();
    tcsetwinsize(&held, Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    let before = tcgetattr(&held).unwrap();
    for end in ["q", "\x03", "term"] {
        let mut top = gateway.command("top", &[]);
        let mut top = top.stdin(tty()).stdout(tty()).stderr(tty()).spawn().unwrap();
        terminal.read_until(b"\x1b[?1049h");
        terminal.read_until(b"board");
        terminal.read_until(b"online");
        match end {
            "term" => {
                let id = rustix::process::Pid::from_raw(top.id().try_into().unwrap()).unwrap();
                rustix::process::kill_process(id, Signal::TERM).unwrap();
            }
            key => terminal.write(key),
        }
        terminal.read_until(b"\x1b[?1049l");
        wait_until("the end of top", || top.try_wait().unwrap().is_some());
        assert_eq!(top.wait().unwrap().code(), Some(0), "{end:?}");
        let after = tcgetattr(&held).unwrap();
        assert_eq!((after.local_modes, after.input_modes), (before.local_modes, before.input_modes));
    }
    let (code, _, error) = run(&mut gateway.command("top", &[]));
    assert!(code == 1 && error.contains("gatepost status"), "{code} {error}");
    let mut dumb = gateway.command("top", &[]);
    let output = dumb.env("TERM", "dumb").stdin(tty()).stdout(tty()).stderr(Stdio::piped()).spawn().unwrap();
    let output = output.wait_with_output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && error.contains("gatepost status"), "{error}");
}

#[test]
fn an_idle_socket_costs_no_wake_up() {
    let gateway = Gateway::start_with(TempDir::new().unwrap(), &format!("[broker]\nsys_interval = \"0s\"\n{LISTENER}"));
    assert_eq!(gateway.status()["devices"], json!([]));
    let switches = || {
        let status = std::fs::read_to_string(format!("/proc/{0}/task/{0}/status", gateway.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
        line.trim().parse::<u64>().unwrap()
    };
    let at = || std::thread::sleep(Duration::from_millis(500));
    at();
    let before = switches();
    at();
    at();
    assert!(switches() - before <= 2, "{} wake-ups in a second", switches() - before);
}
