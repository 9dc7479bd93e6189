//! Events as records of systemd's journal, in its native protocol (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>).
//!
//! MESSAGE is the whole line, fields included, for that is all that `journalctl` and logcheck show. Each field is also one
//! of the record's own: `journalctl -u gatepost DEVICE=arduino`.

use std::fmt::{self, Write as _};
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{DefaultFields, Writer};
use tracing_subscriber::layer::Context;

use super::queue::{Guard, Queue};

/// Where journald listens.
pub(super) const SOCKET: &str = "/run/systemd/journal/socket";

/// Most bytes of one field of a record, and of its message: a datagram has to hold them all.
const MAX_VALUE: usize = 32 << 10;

/// A connection to journald.
pub(super) struct Journal {
    socket: UnixDatagram,
    path: PathBuf,
}

/// Makes a record of each event.
pub(super) struct Records(Queue);

impl Journal {
    /// Fails if nobody is there.
    pub(super) fn open(path: &Path) -> io::Result<Journal> {
        let socket = UnixDatagram::unbound()?;
        // An empty datagram is no record; that it is taken says that journald is there.
        socket.send_to(&[], path)?;
        Ok(Journal { socket, path: path.to_owned() })
    }

    /// Sends records from now on.
    pub(super) fn layer(self) -> io::Result<(Records, Guard)> {
        let (queue, guard) = Queue::new(move |record| self.socket.send_to(record, &self.path).map(drop))?;
        Ok((Records(queue), guard))
    }
}

impl<S: Subscriber> Layer<S> for Records {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = String::new();
        // Formatting into a string fails only if a field's own formatting does.
        let _ = DefaultFields::new().format_fields(Writer::new(&mut line), event);
        let mut record = Record::default();
        record.field("MESSAGE", &line);
        record.field("PRIORITY", priority(event.metadata().level()));
        record.field("SYSLOG_IDENTIFIER", "gatepost");
        record.field("TARGET", event.metadata().target());
        event.record(&mut record);
        self.0.push(record.0);
    }
}

/// As syslog(3) counts.
fn priority(level: &Level) -> &'static str {
    match *level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        _ => "7",
    }
}

#[derive(Default)]
struct Record(Vec<u8>);

impl Record {
    fn field(&mut self, name: &str, value: &str) {
        let mut end = value.len().min(MAX_VALUE);
        while !value.is_char_boundary(end) {
            end -= 1;
        }
        let value = &value.as_bytes()[..end];
        self.0.extend_from_slice(name.as_bytes());
        if value.contains(&b'\n') {
            self.0.push(b'\n');
            self.0.extend_from_slice(&(value.len() as u64).to_le_bytes());
        } else {
            self.0.push(b'=');
        }
        self.0.extend_from_slice(value);
        self.0.push(b'\n');
    }
}

impl Visit for Record {
    fn record_str(&mut self, field: &Field, value: &str) {
        // What the message says stands in the line.
        if field.name() != "message" {
            self.field(&field.name().to_ascii_uppercase(), value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = String::new();
        let _ = write!(text, "{value:?}");
        self.record_str(field, &text);
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::Registry;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    /// What journald gets.
    fn records(events: impl FnOnce()) -> Vec<Vec<u8>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let journald = UnixDatagram::bind(&path).unwrap();
        journald.set_nonblocking(true).unwrap();
        let (layer, guard) = Journal::open(&path).unwrap().layer().unwrap();
        tracing::subscriber::with_default(Registry::default().with(layer), events);
        drop(guard);
        let mut buffer = vec![0; 256 << 10];
        let mut records = Vec::new();
        while let Ok(length) = journald.recv(&mut buffer) {
            records.push(buffer[..length].to_vec());
        }
        assert!(records.remove(0).is_empty());
        records
    }

    #[test]
    fn a_record_has_the_line_and_each_field() {
        let records = records(|| tracing::warn!(device = %"arduino", reason = "unplugged", n = 3, "device offline"));
        let text = String::from_utf8(records.concat()).unwrap();
        let expected = [
            "MESSAGE=device offline device=arduino reason=\"unplugged\" n=3",
            "PRIORITY=4",
            "SYSLOG_IDENTIFIER=gatepost",
            "TARGET=gatepost::log::journald::tests",
            "DEVICE=arduino",
            "REASON=unplugged",
            "N=3",
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn lines_of_a_value_make_no_fields() {
        let records = records(|| tracing::info!(text = "a\nPRIORITY=0", "news"));
        let record = String::from_utf8_lossy(&records[0]).into_owned();
        assert!(record.contains("TEXT\n\u{c}\0\0\0\0\0\0\0a\nPRIORITY=0\n"), "{record:?}");
    }

    #[test]
    fn what_is_too_long_is_cut() {
        let records = records(|| tracing::error!(text = "\u{20AC}".repeat(100_000), "much"));
        assert!(records[0].len() < 3 * MAX_VALUE && records[0].ends_with("\u{20AC}\n".as_bytes()));
    }

    #[test]
    fn without_journald_there_is_an_error() {
        assert!(Journal::open(Path::new("/nowhere/socket")).is_err());
    }
}
