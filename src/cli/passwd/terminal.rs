//! Questions on the terminal whose answers are not shown.

use std::fs::File;
use std::io::{self, Read, Write};

use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};

/// Ctrl-C.
const INTERRUPT: u8 = 3;

/// The longest line that the kernel takes from a terminal (termios(3), canonical mode).
const LONGEST_LINE: usize = 4096;

/// The controlling terminal with echo off, until it is dropped. Echo goes off before the first question, so that no
/// answer is too quick for it.
pub struct Terminal {
    file: File,
    before: Termios,
}

impl Terminal {
    /// Opens it. Fails where there is none.
    pub fn open() -> io::Result<Terminal> {
        let file = File::options().read(true).write(true).open("/dev/tty")?;
        let before = tcgetattr(&file)?;
        let mut quiet = before.clone();
        quiet.local_modes -= LocalModes::ECHO | LocalModes::ECHONL;
        // Ctrl-C ends the line instead of the process, which would leave the terminal without echo.
        quiet.local_modes -= LocalModes::ISIG;
        quiet.local_modes |= LocalModes::ICANON;
        quiet.special_codes[SpecialCodeIndex::VEOL] = INTERRUPT;
        tcsetattr(&file, OptionalActions::Now, &quiet)?;
        Ok(Terminal { file, before })
    }

    /// Asks, and returns the line that was typed.
    pub fn ask(&mut self, question: &str) -> io::Result<String> {
        self.file.write_all(question.as_bytes())?;
        // In canonical mode one read is one line.
        let mut bytes = [0; LONGEST_LINE];
        let length = self.file.read(&mut bytes)?;
        self.file.write_all(b"\n")?;
        match &bytes[..length] {
            [line @ .., b'\n'] => Ok(std::str::from_utf8(line).map_err(io::Error::other)?.to_owned()),
            [.., INTERRUPT] => Err(io::Error::new(io::ErrorKind::Interrupted, "interrupted")),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // There is nobody left to tell.
        let _ = tcsetattr(&self.file, OptionalActions::Now, &self.before);
    }
}
