//! Reading a file of lines, and what is wrong with them.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Most bytes of a password or ACL file.
pub const MAX_BYTES: u64 = 16 << 20;

/// Faults that are spelled out; the rest is counted.
const MOST_FAULTS: usize = 10;

/// What is wrong with one line. Its text never contains a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// From 1.
    pub line: usize,
    /// What, and what to do.
    pub problem: String,
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot read the {what} {}: {source}{}", path.display(), hint(source))]
    Read {
        /// `password_file` or `acl_file`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Lines in it are wrong.
    #[error("the {what} {} is wrong: {}", path.display(), Faults(faults))]
    Lines {
        /// `password_file` or `acl_file`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Each of them, in order; not empty.
        faults: Vec<Fault>,
    },
}

impl FileError {
    /// The file.
    pub fn path(&self) -> &Path {
        let (FileError::Read { path, .. } | FileError::Lines { path, .. }) = self;
        path
    }
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "; hint: the user that gatepost runs as must be allowed to read it",
        io::ErrorKind::InvalidData => "; hint: save it as UTF-8",
        _ => "",
    }
}

struct Faults<'a>(&'a [Fault]);

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.problem)
    }
}

impl fmt::Display for Faults<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().take(MOST_FAULTS).enumerate() {
            write!(f, "{}{fault}", if index > 0 { " | " } else { "" })?;
        }
        match self.0.len().saturating_sub(MOST_FAULTS) {
            0 => Ok(()),
            more => write!(f, " | and {more} lines more"),
        }
    }
}

/// Reads `path` and gives its text to `parse`. Blocks.
pub fn load<T>(
    what: &'static str,
    path: &Path,
    parse: impl FnOnce(&str) -> Result<T, Vec<Fault>>,
) -> Result<T, FileError> {
    let text = read(path).map_err(|source| FileError::Read { what, path: path.to_owned(), source })?;
    // Some editors put a byte order mark there.
    parse(text.strip_prefix('\u{feff}').unwrap_or(&text)).map_err(|faults| FileError::Lines {
        what,
        path: path.to_owned(),
        faults,
    })
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MAX_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is larger than {MAX_BYTES} bytes")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_noise_is_refused_in_one_bounded_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        std::fs::write(&path, "x\n".repeat(1000)).unwrap();
        let parse = |text: &str| {
            let faults = (1..=text.lines().count()).map(|line| Fault { line, problem: "no".to_owned() });
            Err::<(), _>(faults.collect())
        };
        let shown = load("acl_file", &path, parse).unwrap_err().to_string();
        assert!(shown.contains("line 1: no | line 2: no") && shown.ends_with("line 10: no | and 990 lines more"));
        assert!(!shown.contains('\n'));
        std::fs::write(&path, b"\xff").unwrap();
        assert!(load("acl_file", &path, |_| Ok(())).unwrap_err().to_string().contains("UTF-8"));
        std::fs::write(&path, "\u{feff}a\n").unwrap();
        assert_eq!(load("acl_file", &path, |text| Ok(text.to_owned())).unwrap(), "a\n");
        let missing = load("acl_file", &path.with_extension("no"), |_| Ok(())).unwrap_err().to_string();
        assert!(missing.contains("f.no") && missing.contains("acl_file"), "{missing}");
    }
}
