//! What a configuration takes from the process it is read in.

/// What a configuration takes from the process it is read in.
pub(super) struct Environment {
    pub(super) host_name: String,
    variables: Box<Variables>,
}

type Variables = dyn Fn(&str) -> Option<String>;

impl Environment {
    pub(super) fn new(
        host_name: impl Into<String>,
        variables: impl Fn(&str) -> Option<String> + 'static,
    ) -> Environment {
        Environment { host_name: host_name.into(), variables: Box::new(variables) }
    }

    /// This process and this machine.
    pub(super) fn of_this_process() -> Environment {
        let host_name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Environment::new(host_name, |name| std::env::var(name).ok())
    }

    /// An environment variable; an empty one counts as not set.
    pub(super) fn variable(&self, name: &str) -> Option<String> {
        (self.variables)(name).filter(|value| !value.is_empty())
    }
}
