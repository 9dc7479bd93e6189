//! What keeps the log small: a condition that repeats is logged once a minute and counted in between, and of a text that
//! a client chose only the beginning is shown.

use std::time::{Duration, Instant};

/// At most one report in this time.
const INTERVAL: Duration = Duration::from_secs(60);

/// Bytes of a client's text in a log line. A client identifier may have 65,535.
const EXCERPT: usize = 256;

/// The beginning of `text`, at most 256 bytes.
pub fn excerpt(text: &str) -> &str {
    if text.len() <= EXCERPT {
        return text;
    }
    let end = (0..=EXCERPT).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    &text[..end]
}

/// Decides which of many equal events is logged.
#[derive(Debug, Default)]
pub struct LogLimit {
    last: Option<Instant>,
    suppressed: u64,
}

impl LogLimit {
    /// `n` events happened: returns how many to report now, those passed over since the last report included.
    pub fn events(&mut self, now: Instant, n: u64) -> Option<u64> {
        self.suppressed += n;
        if n == 0 || self.last.is_some_and(|last| now < last + INTERVAL) {
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_long_text_the_beginning_is_shown() {
        assert_eq!((excerpt(""), excerpt("id")), ("", "id"));
        assert_eq!(excerpt(&"a".repeat(65_535)), "a".repeat(256));
        assert_eq!(excerpt(&format!("a{}", "\u{20AC}".repeat(100))).len(), 256);
        assert_eq!(excerpt(&format!("ab{}", "\u{20AC}".repeat(100))).len(), 254, "no character is cut");
    }

    #[test]
    fn once_a_minute_with_the_count() {
        let start = Instant::now();
        let mut limit = LogLimit::default();
        assert_eq!(limit.events(start, 0), None);
        assert_eq!(limit.events(start, 1), Some(1));
        assert_eq!(limit.events(start + Duration::from_secs(1), 3), None);
        assert_eq!(limit.events(start + Duration::from_secs(60), 1), Some(4));
    }
}
