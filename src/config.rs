//! The configuration, validated: after [`load`] nothing that must be there is missing, topics and filters are
//! parsed, durations and sizes are typed.
//!
//! Loading goes in two steps. `raw` merges the files into one tree in which every key and value knows its place;
//! the files of this directory turn parts of it into checked types through `reader`, which collects every error
//! instead of stopping at the first. [`ConfigErrors`] is how a configuration is refused. Nothing is created here, and
//! nothing opened but the files that the configuration names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

mod access;
mod address;
mod broker;
mod certificates;
mod conflicts;
mod device;
mod environment;
mod error;
mod files;
mod framing;
mod gateway;
mod loops;
mod parse;
mod placeholders;
mod print;
mod publish;
mod raw;
mod reader;
mod reconnect;
mod secret;
mod serial;
mod source;
mod subscribe;
mod tcp;
mod tls;
mod units;
mod unsupported;

pub use address::Network;
pub use broker::{Broker, Listener, MAX_SOCKET_PATH, QueueFull};
pub use certificates::{Part as TlsPart, TlsError};
pub use device::{CommandQueue, Device, Transport};
pub use error::{ConfigErrors, Diagnostic, Severity, nearest};
pub use framing::{Checksum, Endian, Framing, FramingKind};
pub use gateway::{Gateway, Log, LogFormat, SYSTEM_CONTROL, default_control_socket, default_state_dir};
pub use parse::Parse;
pub use publish::{Payload, PublishRule};
pub use reconnect::Reconnect;
pub use secret::Secret;
pub use serial::{ControlLine, FlowControl, Parity, Serial, SerialPort};
pub use source::Excerpt;
pub use subscribe::{CommandPayload, SubscribeRule};
pub use tcp::{Tcp, TcpServer};
pub use tls::{Identity, PrivateKey, ServerTls};

use environment::Environment;
use reader::{Context, Outcome, Table};
use source::Source;

/// The file that is read when none is named.
pub const DEFAULT_PATH: &str = "/etc/gatepost/gatepost.toml";

/// Everything `gatepost.toml` and its drop-ins say, with defaults filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `[gateway]`
    pub gateway: Gateway,
    /// `[log]`
    pub log: Log,
    /// `[broker]`
    pub broker: Broker,
    /// `[device.*]` with `enabled = true`, by name.
    pub devices: BTreeMap<String, Device>,
}

/// A configuration and what was noticed while it was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// What is in effect.
    pub config: Config,
    /// The files it came from, in the order in which they were merged; none for the defaults.
    pub files: Vec<PathBuf>,
    /// Devices with `enabled = false`, which are checked but left out.
    pub disabled: Vec<String>,
    /// What works, but probably not as meant.
    pub warnings: Vec<Diagnostic>,
}

impl Default for Loaded {
    /// Without a file: a broker for this machine only, and no device.
    fn default() -> Loaded {
        let source = Source::new(DEFAULT_PATH, "", "");
        let context = Context::new(vec![source], Environment::of_this_process());
        let (config, disabled) = read(&context, &raw::Table::new());
        Loaded { config, files: Vec::new(), disabled, warnings: Vec::new() }
    }
}

impl Config {
    /// The whole configuration as TOML, defaults included and secrets masked; [`parse`] reads it again.
    pub fn to_toml(&self) -> String {
        print::config(self)
    }
}

/// Reads `path` and the drop-ins `conf.d/*.toml` beside it, merged in the order of their names.
///
/// # Errors
/// Every error of every file, sorted by place: a file that cannot be read, syntax, unknown keys, wrong values, keys
/// that two files set, and what contradicts each other.
pub fn load(path: &Path) -> Result<Loaded, ConfigErrors> {
    let (sources, files) = files::read(path)?;
    check(sources, files, Environment::of_this_process())
}

/// [`load`]s `path` if one is given, else [`DEFAULT_PATH`]; if that file is missing too, [`Loaded::default`].
///
/// # Errors
/// As [`load`].
pub fn load_or_default(path: Option<&Path>) -> Result<Loaded, ConfigErrors> {
    match path {
        Some(path) => load(path),
        None if has_no_default() => Ok(Loaded::default()),
        None => load(Path::new(DEFAULT_PATH)),
    }
}

/// As [`load_or_default`], for somebody who looks at the configuration of a service from outside: the credentials that
/// only the service is given (`LoadCredential=`, systemd.exec(5)) are not read, and each is named by a
/// [`Severity::Note`] among the warnings. For such a configuration what is loaded is not for running.
///
/// # Errors
/// As [`load`].
pub fn inspect(path: Option<&Path>) -> Result<Loaded, ConfigErrors> {
    let read = |path: &Path| {
        let (sources, files) = files::read(path)?;
        check(sources, files, Environment::of_onlooker())
    };
    match path {
        Some(path) => read(path),
        None if has_no_default() => Ok(Loaded::default()),
        None => read(Path::new(DEFAULT_PATH)),
    }
}

/// Whether `path`, which cannot be read here, is that of a credential that only the service is given.
pub fn is_credential_of_service(path: &Path) -> bool {
    Environment::of_onlooker().is_kept_from(path)
}

fn has_no_default() -> bool {
    Path::new(DEFAULT_PATH).try_exists().is_ok_and(|exists| !exists)
}

/// Reads `text` as if it stood in `file`; relative paths in it are relative to `base`.
///
/// # Errors
/// As [`load`].
pub fn parse(text: &str, file: &str, base: &Path) -> Result<Loaded, ConfigErrors> {
    let base = std::path::absolute(base).unwrap_or_else(|_| base.to_owned());
    let source = Source::new(file, base, text);
    check(vec![source], vec![PathBuf::from(file)], Environment::of_this_process())
}

/// Most errors that are shown; a file of noise has one in each line.
const MOST_ERRORS: usize = 200;

fn check(sources: Vec<Source>, files: Vec<PathBuf>, environment: Environment) -> Result<Loaded, ConfigErrors> {
    let context = Context::new(sources, environment);
    let mut syntax = Vec::new();
    let mut root = raw::Table::new();
    for (index, source) in context.sources.iter().enumerate() {
        let table = raw::parse(index, source, MOST_ERRORS + 1, &mut syntax);
        raw::merge(&mut root, table, "", &mut syntax);
    }
    let (config, disabled) = read(&context, &root);
    let Outcome { errors, warnings, more } = context.into_diagnostics(syntax, MOST_ERRORS);
    if errors.is_empty() {
        Ok(Loaded { config, files, disabled, warnings })
    } else {
        Err(ConfigErrors::new(errors, more))
    }
}

/// Reads the whole tree; what is wrong is in the context afterwards, and has a stand-in in the result.
fn read(context: &Context, root: &raw::Table) -> (Config, Vec<String>) {
    let start = source::Place { file: 0, start: 0, end: 0 };
    let mut table = Table::new(context, root, start, String::new());
    let gateway = Gateway::read(table.section("gateway"), &context.environment);
    let log = Log::read(table.section("log"));
    let (broker, listeners) = Broker::read(table.section("broker"), &gateway.state_dir);
    let checked = device::read_all(table.get("device"), &gateway);
    unsupported::read(&mut table, &gateway);
    table.finish();
    conflicts::report(context, &broker, &listeners, &checked);
    let (mut devices, mut disabled) = (BTreeMap::new(), Vec::new());
    for device in checked {
        if device.enabled {
            devices.insert(device.device.name.clone(), device.device);
        } else {
            disabled.push(device.device.name);
        }
    }
    (Config { gateway, log, broker, devices }, disabled)
}
