//! What a reload changes: a pure comparison of two validated configurations, and what is said of it.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use crate::broker::reload::{ListenerChanges, compare};
use crate::broker::{self, AccessErrors};
use crate::config::{self, Config, ConfigErrors, Device, Diagnostic};
use crate::topic::TopicError;

/// What differs between the configuration in force and another one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diff {
    /// `[gateway] name` or `topic`: all topics of the gateway's own move, so every device is started anew.
    pub identity: bool,
    /// Devices, by name.
    pub devices: DeviceChanges,
    /// Listeners, by their numbers in the two configurations.
    pub listeners: ListenerChanges,
    /// Keys of `[broker]`.
    pub broker: Vec<&'static str>,
    /// `[log] level`
    pub log_level: bool,
    /// Keys that cannot change while the gateway runs: they stay as they are.
    pub needs_restart: Vec<&'static str>,
}

/// What becomes of the devices. No name is in two of the lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceChanges {
    /// New.
    pub added: Vec<String>,
    /// Gone.
    pub removed: Vec<String>,
    /// To be stopped and started anew.
    pub restarted: Vec<String>,
    /// Only rules and bounds of the queue differ: the link stays up.
    pub rules_changed: Vec<String>,
}

impl DeviceChanges {
    /// Those that go.
    pub fn to_stop(&self) -> impl Iterator<Item = &String> {
        self.removed.iter().chain(&self.restarted)
    }

    /// Those that come.
    pub fn to_start(&self) -> impl Iterator<Item = &String> {
        self.added.iter().chain(&self.restarted)
    }

    fn between(old: &Config, new: &Config, identity: bool) -> DeviceChanges {
        let mut changes = DeviceChanges::default();
        for (name, device) in &new.devices {
            match old.devices.get(name) {
                None => changes.added.push(name.clone()),
                Some(before) if identity || !has_same_link(before, device) => changes.restarted.push(name.clone()),
                Some(before) if before != device => changes.rules_changed.push(name.clone()),
                Some(_) => {}
            }
        }
        changes.removed = old.devices.keys().filter(|name| !new.devices.contains_key(*name)).cloned().collect();
        changes
    }
}

/// Whether the two differ in nothing that a link is made with: rules and queue may differ.
fn has_same_link(a: &Device, b: &Device) -> bool {
    let Device { publish, subscribe, queue, allow_loop, .. } = b.clone();
    Device { publish, subscribe, queue, allow_loop, ..a.clone() } == *b
}

impl Diff {
    /// Compares what is in force with what is wanted.
    pub fn between(old: &Config, new: &Config) -> Diff {
        let identity = (&old.gateway.name, &old.gateway.topic) != (&new.gateway.name, &new.gateway.topic);
        Diff {
            identity,
            devices: DeviceChanges::between(old, new, identity),
            listeners: compare(&old.broker.listeners, &new.broker.listeners),
            broker: broker_keys(&old.broker, &new.broker),
            log_level: old.log.level != new.log.level,
            needs_restart: fixed_keys(old, new),
        }
    }

    /// Says what it changes.
    pub fn summary(&self, old: &Config, new: &Config, warnings: Vec<Diagnostic>) -> Summary {
        let mut changes = Vec::new();
        changes.extend(self.identity.then(|| "[gateway] name or topic".to_owned()));
        let DeviceChanges { added, removed, restarted, rules_changed } = &self.devices;
        changes.extend(removed.iter().map(|name| format!("device {name} removed")));
        changes.extend(restarted.iter().map(|name| format!("device {name} restarted")));
        let (before, after) = (&old.broker.listeners, &new.broker.listeners);
        let ListenerChanges { added: opened, removed: closed, kept } = &self.listeners;
        changes.extend(closed.iter().map(|&at| format!("listener {} removed", before[at].address)));
        let changed = kept.iter().filter(|&&(a, b)| before[a] != after[b]);
        changes.extend(changed.map(|&(_, at)| format!("listener {} changed", after[at].address)));
        changes.extend(opened.iter().map(|&at| format!("listener {} added", after[at].address)));
        changes.extend(self.broker.iter().map(|key| format!("[broker] {key}")));
        changes.extend(rules_changed.iter().map(|name| format!("rules of device {name} changed")));
        let level = if crate::log::is_overridden() { ", but $GATEPOST_LOG overrides it" } else { "" };
        changes.extend(self.log_level.then(|| format!("[log] level{level}")));
        changes.extend(added.iter().map(|name| format!("device {name} added")));
        Summary { changes, needs_restart: self.needs_restart.clone(), warnings }
    }
}

/// What `new` leaves in force where `old` is: all of it but the keys that need a restart.
pub fn in_force(old: &Config, mut new: Config) -> Config {
    new.gateway.state_dir.clone_from(&old.gateway.state_dir);
    new.gateway.control.clone_from(&old.gateway.control);
    new.log.format = old.log.format;
    new.broker.database.clone_from(&old.broker.database);
    new.broker.sys_interval = old.broker.sys_interval;
    new
}

fn fixed_keys(old: &Config, new: &Config) -> Vec<&'static str> {
    let differs = [
        ("[gateway] state_dir", old.gateway.state_dir != new.gateway.state_dir),
        ("[gateway] control", old.gateway.control != new.gateway.control),
        ("[log] format", old.log.format != new.log.format),
        ("[broker] persistence", old.broker.database.is_some() != new.broker.database.is_some()),
        ("[broker] sys_interval", old.broker.sys_interval != new.broker.sys_interval),
    ];
    differs.into_iter().filter_map(|(key, differs)| differs.then_some(key)).collect()
}

fn broker_keys(old: &config::Broker, new: &config::Broker) -> Vec<&'static str> {
    macro_rules! keys {
        ($($key:ident)*) => { [$((stringify!($key), old.$key != new.$key)),*] };
    }
    let differs = keys! {
        max_connections max_connections_per_address max_packet_size max_inflight max_keepalive max_qos retained
        max_payload_size allow_empty_client_id max_queued max_queued_bytes queue_full session_expiry_limit max_retained
        password_file acl_file
    };
    differs.into_iter().filter_map(|(key, differs)| differs.then_some(key)).collect()
}

/// What a reload did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    /// Each change in words, in the order in which they were made; empty if there was nothing to change but what files
    /// say that are read each time: certificates, `password_file` and `acl_file`.
    pub changes: Vec<String>,
    /// Keys whose new values hold only after a restart.
    pub needs_restart: Vec<&'static str>,
    /// What works, but probably not as meant.
    pub warnings: Vec<Diagnostic>,
}

impl Summary {
    /// Says it to the log.
    pub(super) fn log(&self) {
        self.warnings.iter().for_each(log_diagnostic);
        tracing::info!("configuration reloaded: {}", self.done());
        if !self.needs_restart.is_empty() {
            let keys = self.needs_restart.join(", ");
            tracing::warn!(keys, "cannot change while the gateway runs and stay as they are; hint: restart it");
        }
    }

    /// The changes, or that there are none. Whether the files have changed is not known here.
    fn done(&self) -> Cow<'static, str> {
        if self.changes.is_empty() {
            return "nothing has changed; the files that the configuration names (users, rights, certificates) were read again"
                .into();
        }
        self.changes.join(", ").into()
    }
}

impl fmt::Display for Summary {
    /// One line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.done())?;
        match self.needs_restart.is_empty() {
            true => Ok(()),
            false => write!(f, "; only after a restart: {}", self.needs_restart.join(", ")),
        }
    }
}

/// How long a reload waits for an earlier one. That stops devices and lets clients go in less: only a file or a name
/// server that does not answer takes longer.
pub(super) const EARLIER_TIME: Duration = Duration::from_secs(30);

/// Why a reload changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The configuration cannot be read or is wrong; all its errors. (Exit code 78 for `gatepost reload`.)
    #[error("{0}")]
    Config(ConfigErrors),
    /// `password_file` or `acl_file` is wrong; all their errors. (78)
    #[error(transparent)]
    Access(AccessErrors),
    /// A certificate (78), or a listener that cannot be bound (71).
    #[error(transparent)]
    Broker(broker::StartError),
    /// `[gateway] topic` leaves no room for the topics below it. (78)
    #[error("the topics below [gateway] topic cannot be made: {0}")]
    Topic(#[from] TopicError),
    /// An earlier reload still waits for what it reads. (69)
    #[error(
        "an earlier reload has not ended within {} s: it still reads {file}, a file that this names, or asks for the \
         address of a listener; hint: when the disk or the name server answers again, reload once more",
        EARLIER_TIME.as_secs()
    )]
    Busy {
        /// The configuration.
        file: String,
    },
    /// The gateway stops. (69)
    #[error("the gateway is stopping")]
    Stopping,
}

impl ReloadError {
    /// Whether the configuration is to blame, and not the machine.
    pub fn is_config(&self) -> bool {
        match self {
            ReloadError::Config(_) | ReloadError::Access(_) | ReloadError::Topic(_) => true,
            ReloadError::Broker(error) => error.is_config(),
            ReloadError::Busy { .. } | ReloadError::Stopping => false,
        }
    }

    /// Says it to the log, an error a line.
    pub(super) fn log(&self) {
        match self {
            ReloadError::Config(errors) => errors.all().iter().for_each(log_diagnostic),
            ReloadError::Access(errors) => errors.0.iter().for_each(|error| tracing::error!("{error}")),
            other => tracing::error!("{other}"),
        }
        tracing::error!("not reloaded: what was in force before stays in force");
    }
}

fn log_diagnostic(diagnostic: &Diagnostic) {
    let Diagnostic { severity, message, file, excerpt, key, hint, .. } = diagnostic;
    let place = excerpt.as_ref().map_or(file.clone(), |at| format!("{file}:{}:{}", at.line, at.column));
    let hint = hint.as_deref();
    match severity {
        config::Severity::Error => tracing::error!(place, key, hint, "{message}"),
        config::Severity::Warning => tracing::warn!(place, key, hint, "{message}"),
        // Only an onlooker has these.
        config::Severity::Note => tracing::debug!(place, key, hint, "{message}"),
    }
}

#[cfg(test)]
mod tests;
