//! Passwords and tokens.

use std::fmt;
use std::path::{Path, PathBuf};

use super::environment::{CREDENTIALS_DIRECTORY, Environment};

/// A password, token or key. Never shown: `Debug` and `Display` print `***`. Two are the same if their text is, wherever
/// it came from.
#[derive(Clone)]
pub struct Secret {
    text: String,
    source: Source,
}

/// Where a secret came from, which may be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The configuration itself.
    Inline,
    /// `{ file = … }`
    File(PathBuf),
    /// `{ credential = … }`
    Credential(String),
    /// `{ credential = … }`, which only the service can read.
    Withheld(String),
    /// `{ env = … }`
    Variable(String),
}

/// Most bytes of a file with a secret.
const MAX_BYTES: u64 = 64 * 1024;

impl Secret {
    /// Wraps `text`.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret { text: text.into(), source: Source::Inline }
    }

    fn from(self, source: Source) -> Secret {
        Secret { source, ..self }
    }

    pub(super) fn source(&self) -> &Source {
        &self.source
    }

    /// Whether it is not here: only the service is given it.
    pub(super) fn is_withheld(&self) -> bool {
        matches!(self.source, Source::Withheld(_))
    }

    /// The secret itself, to be handed to where it is needed and to nothing that prints.
    pub fn reveal(&self) -> &str {
        &self.text
    }

    /// Reads a file; a newline at its end is not part of the secret.
    pub(super) fn from_file(path: &Path) -> Result<Secret, String> {
        let text = super::source::read_bounded(path, MAX_BYTES)
            .map_err(|error| format!("cannot read the secret in {}: {error}", path.display()))?;
        let text = String::from_utf8(text).map_err(|_| format!("the secret in {} is not UTF-8", path.display()))?;
        Ok(Secret::new(text.trim_end_matches(['\r', '\n'])).from(Source::File(path.to_owned())))
    }

    /// Reads the systemd credential `name` (systemd.exec(5), LoadCredential=).
    pub(super) fn from_credential(name: &str, environment: &Environment) -> Result<Secret, String> {
        if name.is_empty() || name.contains('/') || name.starts_with('.') {
            return Err(format!("`{name}` is not the name of a credential"));
        }
        if environment.has_no_credentials() {
            return Ok(Secret::new("").from(Source::Withheld(name.to_owned())));
        }
        let directory = environment
            .variable(CREDENTIALS_DIRECTORY)
            .ok_or_else(|| format!("no credential `{name}`: $CREDENTIALS_DIRECTORY is not set"))?;
        let secret = Secret::from_file(&Path::new(&directory).join(name))?;
        Ok(secret.from(Source::Credential(name.to_owned())))
    }

    /// Reads the environment variable `name`.
    pub(super) fn from_variable(name: &str, environment: &Environment) -> Result<Secret, String> {
        environment
            .variable(name)
            .map(|text| Secret::new(text).from(Source::Variable(name.to_owned())))
            .ok_or_else(|| format!("the environment variable `{name}` is not set"))
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Secret) -> bool {
        self.text == other.text
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_shows_a_secret() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret} {secret:?}"), "*** ***");
        assert_eq!(secret.reveal(), "hunter2");
    }

    #[test]
    fn secrets_come_from_files_credentials_and_the_environment() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("cloud"), "hunter2\r\n").unwrap();
        let path = directory.path().to_str().unwrap().to_owned();
        let environment = Environment::new("host", move |name| match name {
            "CREDENTIALS_DIRECTORY" => Some(path.clone()),
            "PASS" => Some("hunter3".to_owned()),
            _ => None,
        });
        assert_eq!(Secret::from_file(&directory.path().join("cloud")), Ok(Secret::new("hunter2")));
        assert_eq!(Secret::from_credential("cloud", &environment), Ok(Secret::new("hunter2")));
        assert_eq!(Secret::from_variable("PASS", &environment), Ok(Secret::new("hunter3")));
        assert!(Secret::from_credential("../cloud", &environment).is_err());
        assert!(Secret::from_variable("NONE", &environment).is_err());
        assert!(Secret::from_file(Path::new("/does/not/exist")).is_err());
    }
}
