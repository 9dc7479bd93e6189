//! What a configuration takes from the process it is read in.

use std::fs::File;
use std::path::{Path, PathBuf};

/// Below it systemd puts what `LoadCredential=` gives to each service (systemd.exec(5)).
const CREDENTIALS: &str = "/run/credentials";

/// Set for a service that is given any.
pub(super) const CREDENTIALS_DIRECTORY: &str = "CREDENTIALS_DIRECTORY";

/// What a configuration takes from the process it is read in.
pub(super) struct Environment {
    pub(super) host_name: String,
    /// Whether the process is root's.
    pub(super) is_root: bool,
    /// Whether it only looks at a configuration that is for another process.
    pub(super) looks_on: bool,
    variables: Box<Variables>,
}

type Variables = dyn Fn(&str) -> Option<String>;

impl Environment {
    pub(super) fn new(
        host_name: impl Into<String>,
        variables: impl Fn(&str) -> Option<String> + 'static,
    ) -> Environment {
        Environment { host_name: host_name.into(), is_root: false, looks_on: false, variables: Box::new(variables) }
    }

    /// This process and this machine.
    pub(super) fn of_this_process() -> Environment {
        let host_name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let is_root = rustix::process::geteuid().is_root();
        Environment { is_root, ..Environment::new(host_name, |name| std::env::var(name).ok()) }
    }

    /// Of somebody who looks at the configuration of a service: `gatepost check` in a shell.
    pub(super) fn of_onlooker() -> Environment {
        Environment { looks_on: true, ..Environment::of_this_process() }
    }

    /// Whether credentials are for another process to read.
    pub(super) fn has_no_credentials(&self) -> bool {
        self.looks_on && self.variable(CREDENTIALS_DIRECTORY).is_none()
    }

    /// Whether `path` is that of a credential which another process will be able to read.
    pub(super) fn is_kept_from(&self, path: &Path) -> bool {
        self.has_no_credentials() && path.starts_with(CREDENTIALS) && File::open(path).is_err()
    }

    /// The first of the directories in a variable that systemd sets: with several it separates them with colons.
    pub(super) fn directory(&self, name: &str) -> Option<PathBuf> {
        self.variable(name).and_then(|list| list.split(':').next().map(PathBuf::from))
    }

    /// An environment variable; an empty one counts as not set.
    pub(super) fn variable(&self, name: &str) -> Option<String> {
        (self.variables)(name).filter(|value| !value.is_empty())
    }
}
