//! Requests: lines with a bound, in time.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;

/// Longest request: what `send` of the longest argument of a command line takes in hex, and more.
pub const MAX_LINE: usize = 512 * 1024;
/// How long the other side may take from one answer to the end of the next request.
const REQUEST_TIME: Duration = Duration::from_secs(60);
/// Room for one read.
const READ_SIZE: usize = 4096;

/// Takes the lines from a stream.
#[derive(Debug)]
pub struct Lines<R> {
    stream: R,
    buffer: Vec<u8>,
    /// Bytes of `buffer` without a line's end.
    searched: usize,
}

/// Why there is no further request.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// A line without end.
    #[error("a request has at most {MAX_LINE} bytes")]
    TooLong,
    /// Half a line, or none.
    #[error("no whole request came for {} s", REQUEST_TIME.as_secs())]
    TooSlow,
    /// The stream failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl<R: AsyncRead + Unpin> Lines<R> {
    /// Those of `stream`.
    pub fn new(stream: R) -> Lines<R> {
        Lines { stream, buffer: Vec::new(), searched: 0 }
    }

    /// The next line without its end; `None` when the other side has closed. Half a line before that does not count.
    ///
    /// # Errors
    /// The stream is of no use any more.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, LineError> {
        timeout(REQUEST_TIME, self.read_line()).await.unwrap_or(Err(LineError::TooSlow))
    }

    /// Resolves when the other side has closed. What it sends meanwhile waits for [`Lines::next`].
    pub async fn closed(&mut self) {
        while self.buffer.len() < MAX_LINE {
            self.buffer.reserve(READ_SIZE);
            if !self.stream.read_buf(&mut self.buffer).await.is_ok_and(|n| n > 0) {
                return;
            }
        }
        // It has filled all the room; writing to it will tell.
        std::future::pending().await
    }

    async fn read_line(&mut self) -> Result<Option<Vec<u8>>, LineError> {
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.buffer[self.searched..]) {
                let rest = self.buffer.split_off(self.searched + end + 1);
                let mut line = std::mem::replace(&mut self.buffer, rest);
                line.pop();
                self.searched = 0;
                return Ok(Some(line));
            }
            self.searched = self.buffer.len();
            if self.searched >= MAX_LINE {
                return Err(LineError::TooLong);
            }
            self.buffer.reserve(READ_SIZE);
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn lines_are_cut_and_bounded() {
        let mut lines = Lines::new(&b"one\n\ntwo\nhalf"[..]);
        for line in ["one", "", "two"] {
            assert_eq!(lines.next().await.unwrap().unwrap(), line.as_bytes());
        }
        assert!(lines.next().await.unwrap().is_none());
        let long = vec![b'x'; MAX_LINE + 1];
        assert!(matches!(Lines::new(&long[..]).next().await, Err(LineError::TooLong)));
        let (_writer, reader) = tokio::io::duplex(1);
        assert!(matches!(Lines::new(reader).next().await, Err(LineError::TooSlow)));
    }
}
