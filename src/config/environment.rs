//! What a configuration takes from the process it is read in.

use std::path::PathBuf;

/// What a configuration takes from the process it is read in.
pub(super) struct Environment {
    pub(super) host_name: String,
    /// Whether the process is root's.
    pub(super) is_root: bool,
    variables: Box<Variables>,
}

type Variables = dyn Fn(&str) -> Option<String>;

impl Environment {
    pub(super) fn new(
        host_name: impl Into<String>,
        variables: impl Fn(&str) -> Option<String> + 'static,
    ) -> Environment {
        Environment { host_name: host_name.into(), is_root: false, variables: Box::new(variables) }
    }

    /// This process and this machine.
    pub(super) fn of_this_process() -> Environment {
        let host_name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let is_root = rustix::process::geteuid().is_root();
        Environment { is_root, ..Environment::new(host_name, |name| std::env::var(name).ok()) }
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
