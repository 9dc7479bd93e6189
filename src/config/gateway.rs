//! `[gateway]` and `[log]`.

use std::path::PathBuf;

use tracing_subscriber::EnvFilter;

use super::broker::socket_path;
use super::environment::Environment;
use super::error::{Fault, nearest};
use super::reader::{self, Table, Value};
use crate::template::{Piece, Template};
use crate::topic::TopicName;

/// `[gateway]`
#[derive(Clone, Debug, PartialEq)]
pub struct Gateway {
    /// `[A-Za-z0-9_-]{1,64}`; by default made from the host name.
    pub name: String,
    /// Where state is kept. Not created by loading the config.
    pub state_dir: PathBuf,
    /// Root of the gateway's own topics, with `{gateway}` filled in.
    pub topic: TopicName,
    /// The control socket's path. `None`: none is named, and the environment has no place for one.
    pub control: Option<PathBuf>,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// A level or an `EnvFilter` directive string, checked.
    pub level: String,
    /// `format`
    pub format: LogFormat,
}

/// `[log] format`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// journald under systemd, else pretty on a terminal, else plain.
    Auto,
    /// Colours, for people.
    Pretty,
    /// The same without colours.
    Plain,
    /// One JSON object a line.
    Json,
    /// Structured journald records.
    Journald,
}

/// `[log] format`, by word.
pub(super) const LOG_FORMATS: &[(&str, LogFormat)] = &[
    ("auto", LogFormat::Auto),
    ("pretty", LogFormat::Pretty),
    ("plain", LogFormat::Plain),
    ("json", LogFormat::Json),
    ("journald", LogFormat::Journald),
];

/// The control socket of a gateway that root or systemd started.
pub const SYSTEM_CONTROL: &str = "/run/gatepost/control.sock";

const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

impl Gateway {
    pub(super) fn read(mut table: Table<'_>, environment: &Environment) -> Gateway {
        let name = table.get("name").and_then(|value| value.parsed(reader::name));
        let name = name.unwrap_or_else(|| default_name(&environment.host_name));
        let state_dir = table.get("state_dir").and_then(|value| value.path());
        let state_dir = state_dir.unwrap_or_else(|| state_dir_of(environment));
        let topic = table.get("topic").and_then(|value| value.parsed(|text| root_topic(text, &name)));
        // `name` has no wildcard and is not too long.
        let topic = topic.unwrap_or_else(|| TopicName::new(format!("gatepost/{name}")).expect("a valid topic"));
        let control = table.get("control").and_then(|value| socket_path(&value));
        let control = control.or_else(|| default_control(environment));
        table.finish();
        Gateway { name, state_dir, topic, control }
    }
}

impl Log {
    pub(super) fn read(mut table: Table<'_>) -> Log {
        let level = table.get("level").and_then(|value| value.parsed(level));
        let format = table.get("format").and_then(|value| value.choice(LOG_FORMATS));
        table.finish();
        Log { level: level.unwrap_or_else(|| "info".to_owned()), format: format.unwrap_or(LogFormat::Auto) }
    }
}

/// The first label of the host name; characters that a name cannot have become `-`.
fn default_name(host_name: &str) -> String {
    let label = host_name.split('.').next().unwrap_or_default();
    let good = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '_' | '-') { c } else { '-' };
    let name: String = label.chars().map(good).take(64).collect();
    if name.is_empty() { "gatepost".to_owned() } else { name }
}

/// systemd's state directory, else the user's (XDG Base Directory Specification).
fn state_dir_of(environment: &Environment) -> PathBuf {
    let of_service = environment.directory("STATE_DIRECTORY");
    let of_user = || {
        let absolute = |path: &PathBuf| path.is_absolute();
        let state = environment.variable("XDG_STATE_HOME").map(PathBuf::from).filter(absolute);
        let state = state.or_else(|| environment.variable("HOME").map(|home| PathBuf::from(home).join(".local/state")));
        state.map(|state| state.join("gatepost"))
    };
    of_service.or_else(of_user).unwrap_or_else(|| PathBuf::from("/var/lib/gatepost"))
}

/// Where the state is kept when no configuration says where.
pub fn default_state_dir() -> PathBuf {
    state_dir_of(&Environment::of_this_process())
}

/// systemd's runtime directory, else root's or the user's.
fn default_control(environment: &Environment) -> Option<PathBuf> {
    let of_service = || Some(environment.directory("RUNTIME_DIRECTORY")?.join("control.sock"));
    let of_root = || environment.is_root.then(|| PathBuf::from(SYSTEM_CONTROL));
    let of_user = || Some(PathBuf::from(environment.variable("XDG_RUNTIME_DIR")?).join("gatepost/control.sock"));
    of_service().or_else(of_root).or_else(of_user).filter(|path| path.is_absolute())
}

/// Where a control socket is when no configuration names one; `None` for a user whose environment has no
/// `XDG_RUNTIME_DIR`.
pub fn default_control_socket() -> Option<PathBuf> {
    default_control(&Environment::of_this_process())
}

fn root_topic(text: &str, gateway: &str) -> Result<TopicName, Fault> {
    let mut topic = String::new();
    for piece in Template::parse(text).pieces() {
        match piece {
            Piece::Literal(literal) => topic.push_str(literal),
            Piece::Placeholder { name, argument: None } if name == "gateway" => topic.push_str(gateway),
            Piece::Placeholder { name, .. } => {
                return Err(
                    Fault::new(format!("unknown placeholder `{{{name}}}`")).hint("only {gateway} is known here")
                );
            }
        }
    }
    if topic.starts_with('$') {
        let fault = Fault::new("topics that begin with $ belong to the broker");
        return Err(fault.hint("begin it with another character"));
    }
    let topic = TopicName::new(topic).map_err(|error| Fault::new(error.to_string()))?;
    // The longest of what is below it.
    TopicName::check(&format!("{topic}/device/{}/status", "x".repeat(reader::MAX_NAME)))
        .map_err(|error| Fault::new(format!("with the topics below it: {error}")))?;
    Ok(topic)
}

/// Checks a level or a list of `EnvFilter` directives.
fn level(text: &str) -> Result<String, Fault> {
    let words = "write error, warn, info, debug, trace, or for example \"info,gatepost::device=debug\"";
    // EnvFilter takes any lone word for the name of a module, a misspelt level too.
    if text.chars().all(|c| c.is_alphanumeric()) && !LEVELS.iter().any(|level| level.eq_ignore_ascii_case(text)) {
        let hint = nearest(text, LEVELS).map_or(words.to_owned(), |near| format!("did you mean \"{near}\"?"));
        return Err(Fault::new(format!("\"{text}\" is not a log level")).hint(hint));
    }
    EnvFilter::builder()
        .parse(text)
        .map(|_| text.to_owned())
        .map_err(|error| Fault::new(format!("not a log filter: {error}")).hint(words))
}

/// Whether `value` is a topic root, for tables that are only checked.
pub(super) fn check_gateway_template(value: &Value<'_>, gateway: &Gateway) {
    value.parsed(|text| root_topic(text, &gateway.name));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_comes_from_the_host() {
        for (host, name) in [("greenhouse.example.com", "greenhouse"), ("gräs haus", "gr-s-haus"), ("", "gatepost")] {
            assert_eq!(default_name(host), name);
        }
        assert_eq!(default_name(&"x".repeat(100)).len(), 64);
    }

    #[test]
    fn the_state_directory_is_found() {
        let found = |set: &'static [(&str, &str)]| {
            let variable = |name: &str| set.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string());
            state_dir_of(&Environment::new("host", variable)).display().to_string()
        };
        assert_eq!(found(&[("STATE_DIRECTORY", "/var/lib/a:/var/lib/b"), ("HOME", "/root")]), "/var/lib/a");
        assert_eq!(found(&[("XDG_STATE_HOME", "/state"), ("HOME", "/root")]), "/state/gatepost");
        assert_eq!(found(&[("XDG_STATE_HOME", "relative"), ("HOME", "/root")]), "/root/.local/state/gatepost");
        assert_eq!(found(&[("STATE_DIRECTORY", ""), ("HOME", "/root")]), "/root/.local/state/gatepost");
        assert_eq!(found(&[]), "/var/lib/gatepost");
    }

    #[test]
    fn the_control_socket_is_found() {
        let found = |is_root: bool, set: &'static [(&str, &str)]| {
            let variable = |name: &str| set.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string());
            let mut environment = Environment::new("host", variable);
            environment.is_root = is_root;
            default_control(&environment).map(|path| path.display().to_string())
        };
        let both = &[("RUNTIME_DIRECTORY", "/run/a:/run/b"), ("XDG_RUNTIME_DIR", "/run/user/7")];
        for is_root in [true, false] {
            assert_eq!(found(is_root, both).unwrap(), "/run/a/control.sock");
        }
        assert_eq!(found(true, &both[1..]).unwrap(), "/run/gatepost/control.sock");
        assert_eq!(found(false, &both[1..]).unwrap(), "/run/user/7/gatepost/control.sock");
        assert_eq!(found(false, &[("XDG_RUNTIME_DIR", "relative")]), None);
        assert_eq!(found(false, &[]), None);
    }

    #[test]
    fn levels_and_filters_are_checked() {
        for good in ["info", "WARN", "off", "info,gatepost::device=debug", "gatepost[span]=trace"] {
            assert!(level(good).is_ok(), "{good}");
        }
        for bad in ["", "inof", "loud", "gatepost=loud", "a=b=c"] {
            assert!(level(bad).is_err(), "{bad}");
        }
    }
}
