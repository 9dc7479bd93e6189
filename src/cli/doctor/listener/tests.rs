use std::net::TcpListener;

use super::super::machine::Unit;
use super::super::running::Running;
use super::*;
use crate::transport::serial::tests::eventually;

fn broker(text: &str) -> config::Broker {
    config::parse(text, "t", Path::new("/")).unwrap().config.broker
}

/// What the doctor says of the first listener of `settings`.
fn look(machine: &Machine, settings: &config::Broker, address: SocketAddr) -> Option<Finding> {
    let config_file = Path::new("/etc/gatepost/gatepost.toml");
    Place { machine, settings, config_file, listener: &settings.listeners[0] }.examine(address)
}

fn listening() -> (TcpListener, SocketAddr, config::Broker) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let text = format!("[[broker.listener]]\naddress = \"{address}\"\nallow_anonymous = true\n");
    (listener, address, broker(&text))
}

#[test]
fn who_listens_is_named() {
    let machine = Machine::gather(Path::new("/"));
    let (listener, address, settings) = listening();
    let finding = look(&machine, &settings, address).unwrap();
    assert!(finding.what.contains(&format!("(pid {}", std::process::id())), "{finding:?}");
    drop(listener);
    eventually(|| look(&machine, &settings, address).unwrap(), |finding| finding.what.contains("is free"));
    // TEST-NET-1 is nobody's.
    let foreign = "192.0.2.1:1883".parse().unwrap();
    assert!(look(&machine, &settings, foreign).unwrap().what.contains("no address of this machine"));
    let mut optional = settings.clone();
    optional.listeners[0].optional = true;
    assert_eq!(look(&machine, &optional, foreign), None);
}

#[test]
fn a_free_port_stays_free_while_it_is_looked_at() {
    let machine = Machine::gather(Path::new("/"));
    let (listener, address, settings) = listening();
    drop(listener);
    let config_file = Path::new("/etc/gatepost/gatepost.toml");
    let place = Place { machine: &machine, settings: &settings, config_file, listener: &settings.listeners[0] };
    eventually(|| place.try_bind(address).is_ok(), |is_free| *is_free);
    let bound = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    bound.set_reuse_address(true).unwrap();
    bound.bind(&address.into()).unwrap();
    // As another doctor has it: neither sees the other, and a gateway can start.
    assert!(place.try_bind(address).is_ok());
    let gateway = TcpListener::bind(address).unwrap();
    assert!(place.try_bind(address).is_err());
    drop(gateway);
}

/// What is to be pasted works, for whoever it worked for before.
#[test]
fn the_way_out_is_a_configuration() {
    let machine = Machine::gather(Path::new("/"));
    let (_listener, address, mut settings) = listening();
    let way_out = |settings: &config::Broker| {
        let finding = look(&machine, settings, address).unwrap();
        let fix = finding.fix.iter().find(|fix| fix.contains("[[broker.listener]]")).unwrap().clone();
        let mut found = broker(&fix).listeners;
        assert_eq!(found.len(), 1, "{fix}");
        let listener = found.remove(0);
        let new: SocketAddr = listener.address.parse().unwrap();
        assert!(new.ip() == address.ip() && new.port() != address.port() && TcpListener::bind(new).is_ok(), "{fix}");
        (fix, listener.allow_anonymous)
    };
    let (fix, is_open) = way_out(&settings);
    assert!(is_open && fix.starts_with(&format!("# or listen elsewhere: in place of \"{address}\"")), "{fix}");
    settings.listeners[0].allow_anonymous = false;
    assert!(!way_out(&settings).1);
    // As without any configuration.
    settings.listeners[0] = Listener { optional: true, allow_anonymous: true, ..settings.listeners[0].clone() };
    let (fix, is_open) = way_out(&settings);
    assert!(is_open && !fix.contains("in place of"), "{fix}");
}

#[test]
fn another_program_of_ours_is_in_the_way() {
    let mut machine = Machine::gather(Path::new("/"));
    let (_listener, address, settings) = listening();
    let own = std::process::id();
    machine.processes.retain(|process| process.pid == own);
    let mut seen_as = |command: &str, unit: Option<&str>| {
        let unit = unit.map(|name| Unit { name: name.to_owned(), of_user: false });
        let arguments = vec!["gatepost".to_owned(), command.to_owned()];
        machine.processes[0] = Process { pid: own, name: "gatepost".to_owned(), arguments, unit };
        look(&machine, &settings, address).unwrap()
    };
    let demo = seen_as("demo", None);
    assert!(demo.what.contains("is in use by gatepost"), "{demo:?}");
    // It is silent here.
    let hung = seen_as("run", None);
    assert!(hung.what.contains("does not answer") && hung.fix[0].starts_with("sudo kill "), "{hung:?}");
    let hung = seen_as("run", Some("gatepost.service"));
    assert_eq!(hung.fix, ["sudo systemctl restart gatepost"]);
}

/// By the control socket of the configuration, not by name.
#[test]
fn the_gateway_that_is_looked_at_is_known_by_its_process() {
    let mut machine = Machine::gather(Path::new("/"));
    let (_listener, address, settings) = listening();
    let own = std::process::id();
    machine.processes.retain(|process| process.pid == own);
    let mut seen = |running: Running, name: &str| {
        let arguments = vec![name.to_owned(), "run".to_owned()];
        machine.processes[0] = Process { pid: own, name: name.to_owned(), arguments, unit: None };
        machine.running = running;
        look(&machine, &settings, address).unwrap().what
    };
    // It is silent here.
    assert!(seen(Running::As(own), "renamed").contains("renamed (pid"));
    assert!(seen(Running::As(own), "renamed").contains("does not answer"));
    for running in [Running::No, Running::As(1)] {
        let what = seen(running, "gatepost");
        assert!(what.contains(&format!("{address} is in use by gatepost (pid {own})")), "{what}");
    }
}

#[test]
fn a_low_port_is_for_a_service_with_the_capability() {
    let root = tempfile::tempdir().unwrap();
    let make = |path: &str, text: &str| {
        std::fs::create_dir_all(root.path().join(path).parent().unwrap()).unwrap();
        std::fs::write(root.path().join(path), text).unwrap();
    };
    make("etc/passwd", "gatepost:x:990:990::/:/bin/false\n");
    make("usr/lib/systemd/system/gatepost.service", "[Service]\nAmbientCapabilities=\n");
    let settings = broker("[[broker.listener]]\naddress = \"127.0.0.1:443\"\nallow_anonymous = true\n");
    let settings = &settings;
    let judge = || {
        let machine = Machine::gather(root.path());
        let listener = &settings.listeners[0];
        let place = Place { machine: &machine, settings, config_file: Path::new("g.toml"), listener };
        ["127.0.0.1:443", "127.0.0.1:1024"].map(|address| place.may_not_bind(address.parse().unwrap()))
    };
    let [low, high] = judge();
    assert!(low.unwrap().what.contains("the service may not listen there") && high.is_none());
    make("proc/sys/net/ipv4/ip_unprivileged_port_start", "80\n");
    assert_eq!(judge(), [None, None]);
    make("proc/sys/net/ipv4/ip_unprivileged_port_start", "1024\n");
    make("etc/systemd/system/gatepost.service.d/port.conf", "[Service]\nAmbientCapabilities=CAP_NET_BIND_SERVICE\n");
    assert_eq!(judge(), [None, None]);
}
