//! Where `sub` prints: on a terminal nothing that somebody published moves the cursor or sets the title.

use std::io::{self, Write};

use crate::cli::escape;

/// Writes what others have published: byte by byte as it came, but to a terminal [`escape::visible`]. Each write holds
/// whole characters, or the escapes show where it was cut.
pub struct Screen<W> {
    out: W,
    is_terminal: bool,
}

impl<W: Write> Screen<W> {
    /// Over `out`.
    pub fn new(out: W, is_terminal: bool) -> Screen<W> {
        Screen { out, is_terminal }
    }

    /// For what does not come from outside.
    pub fn as_it_is(&mut self) -> &mut W {
        &mut self.out
    }
}

impl<W: Write> Write for Screen<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.is_terminal {
            true => self.out.write_all(&escape::visible(bytes)).map(|()| bytes.len()),
            false => self.out.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
