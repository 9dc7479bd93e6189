//! `gatepost doctor`: names what is wrong, and the command that mends it.
//!
//! One file a group of findings. Each gathers facts and judges them apart, so that the judgement can be tested with
//! facts that are hard to make. Nothing is changed, and no port is opened but with `--probe`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::ports::name_to_write;
use super::{exit, output};
use crate::config::{self, Device, Diagnostic, Loaded, SerialPort, Transport};
use crate::transport::serial;

mod answer;
mod broker;
mod console;
mod finding;
mod host;
mod listener;
mod machine;
mod modem_manager;
mod port;
mod probe;
mod running;
mod service;
mod sockets;
mod verdict;

use finding::{Finding, Severity};
use machine::Machine;
use port::Probing;
use probe::Target;
use running::Running;

/// Find out what is wrong, and what to do.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Looks at the configuration, each serial port in it (missing, permission, who holds it,
ModemManager, console on the UART, FTDI latency, a name that changes), the broker's ports,
the disk, the clock and the limits. Changes nothing.

--probe listens to the ports at several speeds, says which gives text, and prints the TOML.
It opens the ports, which resets many boards, and leaves alone those that a program has open.

Examples:
  gatepost doctor                            /etc/gatepost/gatepost.toml, or the defaults
  gatepost doctor -c gatepost.toml
  gatepost doctor -c gatepost.toml --probe   listen to every serial port in it, too
  gatepost doctor --probe /dev/ttyUSB0       learn speed and framing, without a configuration

--json prints {\"problems\": N, \"warnings\": N, \"findings\": [..]}, each finding with
severity (problem, warning or fine), subject, what, why, and fix (an array of strings).

Which programs of other users have a port open is seen by root only.

Exit codes: 0 no problem, warnings or not; 1 a problem.")]
pub struct Args {
    /// The configuration [default: /etc/gatepost/gatepost.toml if it exists]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Listen to the serial ports of the configuration, or to PORT alone (a path or usb:VVVV:PPPP[:SERIAL])
    #[arg(long, value_name = "PORT", num_args = 0..=1)]
    probe: Option<Option<SerialPort>>,
    /// With --probe: listen so many seconds at each speed
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: Args) -> ExitCode {
    let mut machine = Machine::gather(Path::new("/"));
    let mut findings = match &args.probe {
        Some(Some(port)) => {
            machine.service = None;
            probe_port(&machine, port, &args)
        }
        _ => {
            machine.service.take_if(|_| !is_of_service(&args));
            examine(&mut machine, &args)
        }
    };
    if !machine.holders.is_complete() {
        let what = "programs of other users that have a port open are seen by root only";
        findings.push(Finding::fine("doctor", what).fix("sudo gatepost doctor"));
    }
    let text = if args.json { finding::json(&findings) } else { finding::text(&findings) };
    let is_wrong = findings.iter().any(|finding| finding.severity == Severity::Problem);
    output::print(&text, if is_wrong { exit::FAILURE } else { exit::OK })
}

/// Whether it is the configuration that the service runs with, and not one that somebody tries out.
fn is_of_service(args: &Args) -> bool {
    args.config.as_deref().unwrap_or(Path::new(config::DEFAULT_PATH)) == Path::new(config::DEFAULT_PATH)
}

/// Everything, as far as the configuration can be read.
fn examine(machine: &mut Machine, args: &Args) -> Vec<Finding> {
    // Before 1970 is before any other limit.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let mut findings = vec![host::clock(machine, now)];
    let loaded = match config::inspect(args.config.as_deref()) {
        Ok(loaded) => loaded,
        Err(errors) => {
            let file = args.config.as_deref().unwrap_or(Path::new(config::DEFAULT_PATH)).display();
            let finding =
                Finding::problem("configuration", format!("{file} is refused; what it says was not looked at"))
                    .why(errors.to_string())
                    .fix(format!("gatepost check -c {file}    # after mending it"));
            findings.push(as_the_service_reads(machine, finding));
            return findings;
        }
    };
    machine.running = Running::find(loaded.config.gateway.control.as_deref(), machine.service.is_some());
    findings.push(configuration(&loaded));
    findings.extend(loaded.warnings.iter().map(|diagnostic| noticed(machine, diagnostic)));
    for device in loaded.config.devices.values() {
        if let Transport::Serial(serial) = &device.transport {
            findings.extend(examine_device(machine, args, device, serial));
        }
    }
    let file = loaded.files.first().map_or(Path::new(config::DEFAULT_PATH), PathBuf::as_path);
    findings.extend(broker::examine(machine, &loaded.config.broker, file));
    findings.extend(machine.service.iter().flat_map(|service| service.examine(&loaded, &machine.accounts)));
    let state_dir = state_dir(machine, &loaded);
    let database = loaded.config.broker.database.as_ref().and_then(|path| path.file_name());
    findings.extend(host::disk(machine, state_dir, database.map(|name| state_dir.join(name)).as_deref()));
    findings.push(host::files(machine, &loaded.config));
    findings
}

/// What only the service may read is no fault of the configuration.
fn as_the_service_reads(machine: &Machine, finding: Finding) -> Finding {
    if machine.service.is_none() || rustix::process::geteuid().is_root() {
        finding
    } else {
        finding.fix("sudo gatepost doctor    # if it is only that this user may not read it")
    }
}

/// Where to add listeners beside `config_file`: a drop-in takes a table that the file has too. Without the file drop-ins
/// are not read.
fn drop_in(config_file: &Path) -> PathBuf {
    if config_file.exists() {
        config_file.with_file_name("conf.d").join("listener.toml")
    } else {
        config_file.to_owned()
    }
}

/// Where the gateway keeps its state; the environment of the service says something else than that of whoever asks.
fn state_dir<'a>(machine: &Machine, loaded: &'a Loaded) -> &'a Path {
    let folder = &loaded.config.gateway.state_dir;
    let is_default = *folder == config::default_state_dir();
    if machine.service.is_some() && is_default { Path::new(service::STATE_DIR) } else { folder }
}

fn configuration(loaded: &Loaded) -> Finding {
    let files: Vec<String> = loaded.files.iter().map(|file| file.display().to_string()).collect();
    let place = if files.is_empty() {
        format!("there is no {}: the defaults are in effect", config::DEFAULT_PATH)
    } else {
        format!("{} can be used", files.join(", "))
    };
    let finding = Finding::fine("configuration", place);
    if loaded.config.devices.is_empty() {
        return finding
            .why("It has no device that is enabled.")
            .fix("gatepost ports    # the serial ports to choose from");
    }
    finding
}

/// What was noticed while the configuration was read.
fn noticed(machine: &Machine, diagnostic: &Diagnostic) -> Finding {
    const CREDENTIALS: &str = "/run/credentials/gatepost.service";
    let place = diagnostic
        .excerpt
        .as_ref()
        .map_or(diagnostic.file.clone(), |excerpt| format!("{}:{}:{}", diagnostic.file, excerpt.line, excerpt.column));
    let why = format!("{place}: {}", diagnostic.key);
    if diagnostic.severity != config::Severity::Note {
        let finding = Finding::warning("configuration", diagnostic.message.clone()).why(why);
        return finding
            .fix(diagnostic.hint.clone().unwrap_or_else(|| format!("gatepost check -c {}", diagnostic.file)));
    }
    let finding = Finding::fine("configuration", diagnostic.message.clone()).why(why);
    // While the service runs, root may read them.
    if machine.service.is_some() && machine.exists(CREDENTIALS.trim_start_matches('/')) {
        finding.fix(format!("sudo CREDENTIALS_DIRECTORY={CREDENTIALS} gatepost doctor    # as the service has them"))
    } else {
        finding
    }
}

fn examine_device(machine: &Machine, args: &Args, device: &Device, serial: &config::Serial) -> Vec<Finding> {
    let subject = format!("device {}", device.name);
    let (mut findings, probing) = port::examine(machine, &subject, &serial.port);
    match (probing, &args.probe) {
        (Probing::Possible(path), Some(_)) => {
            let port = serial::place(&serial.port);
            let configured = Some((serial, &device.framing));
            let target = Target { subject: &subject, name: &device.name, port, path: &path, configured };
            findings.push(listen(&target, args));
        }
        (Probing::Possible(_), None) => {
            let what = format!("whether {} baud is right shows only when one listens", serial.baud);
            let config = args.config.as_ref().map(|file| format!("-c {} ", file.display())).unwrap_or_default();
            findings.push(Finding::fine(&subject, what).fix(format!("gatepost doctor {config}--probe")));
        }
        (Probing::HeldByGateway, Some(_)) => {
            findings.push(Finding::fine(&subject, NOT_PROBED).fix(STOP_GATEWAY));
        }
        _ => {}
    }
    findings
}

const NOT_PROBED: &str = "not probed: the gateway has the port open";
const STOP_GATEWAY: &str = "sudo systemctl stop gatepost    # then probe again";

/// `--probe PORT`, without a configuration.
fn probe_port(machine: &Machine, port: &SerialPort, args: &Args) -> Vec<Finding> {
    let subject = serial::place(port);
    let (mut findings, probing) = port::examine(machine, &subject, port);
    // Who asks to listen to this one port, and cannot, has a problem.
    let is_told = findings.iter().any(|finding| finding.severity == Severity::Problem);
    match probing {
        Probing::Possible(path) => {
            let known = machine.ports.iter().find(|port| port.path == path);
            let name = known.map_or_else(|| subject.clone(), |port| name_to_write(port, &machine.ports));
            let target = Target { subject: &subject, name: "mydevice", port: name, path: &path, configured: None };
            findings.push(listen(&target, args));
        }
        Probing::HeldByGateway => findings.push(Finding::problem(&subject, NOT_PROBED).fix(STOP_GATEWAY)),
        Probing::Impossible if is_told => {}
        Probing::Impossible => {
            let fix = format!("sudo gatepost doctor --probe {subject}");
            findings.push(Finding::problem(&subject, "not probed: this user may not open it").fix(fix));
        }
    }
    findings
}

fn listen(target: &Target<'_>, args: &Args) -> Finding {
    let time = Duration::from_secs(args.seconds);
    probe::examine(target, time, |rate| {
        if !args.json {
            output::complain(format_args!("listening to {} at {rate} baud…", target.path.display()));
        }
    })
}
