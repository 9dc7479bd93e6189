//! What the commands print.
//!
//! Who closes the pipe has read enough: a command goes on to the exit code that it would have had. Any other error, such
//! as a full disk, is told, and ends it with [`exit::IO_ERROR`].

use std::borrow::Cow;
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use super::{escape, exit};

/// Standard output takes no more, though somebody may wait for it.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output: {0}")]
pub(super) struct OutputError(io::Error);

/// What became of writing to standard output.
pub(super) fn settle(written: io::Result<()>) -> Result<(), OutputError> {
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(OutputError(error)),
        _ => Ok(()),
    }
}

/// How a command ends that has written to standard output: with `code`, if that went well.
pub(super) fn finish(written: io::Result<()>, code: u8) -> ExitCode {
    match settle(written) {
        Ok(()) => ExitCode::from(code),
        Err(error) => {
            complain(format_args!("error: {error}"));
            ExitCode::from(exit::IO_ERROR)
        }
    }
}

/// Writes `text` to standard output, and is how the command ends then.
pub(super) fn print(text: &str, code: u8) -> ExitCode {
    let mut out = io::stdout().lock();
    let written = out.write_all(&shown(text, out.is_terminal())).and_then(|()| out.flush());
    finish(written, code)
}

/// A line on standard output. A reader that is gone is noticed when more is written.
pub(super) fn note(line: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(&shown(&format!("{line}\n"), out.is_terminal()));
}

/// A line on standard error. Where nobody can read it, the exit code has to do.
pub(super) fn complain(line: impl Display) {
    let mut out = io::stderr().lock();
    let _ = out.write_all(&shown(&format!("{line}\n"), out.is_terminal()));
}

/// Names, errors and what a device says of itself come from outside: on a terminal none of it moves the cursor.
fn shown(text: &str, is_terminal: bool) -> Cow<'_, [u8]> {
    if is_terminal { escape::visible(text.as_bytes()) } else { text.as_bytes().into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_reader_that_has_gone_is_no_failure() {
        assert!(settle(Ok(())).is_ok() && settle(Err(io::ErrorKind::BrokenPipe.into())).is_ok());
        let error = settle(Err(io::ErrorKind::StorageFull.into())).unwrap_err().to_string();
        assert!(error.starts_with("cannot write to standard output: "), "{error}");
    }
}
