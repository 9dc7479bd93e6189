//! Where log lines go and what they look like. Always stderr, or journald's socket, by a thread of their own.
//!
//! An event is one line: when, how bad, what, and fields.
//! `2026-11-21T12:00:00.123Z WARN device offline device=arduino reason="unplugged" retry_in=500ms`

use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal, Write as _};
use std::path::Path;
use std::sync::OnceLock;

use jiff::Timestamp;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use crate::config::{Log, LogFormat};

mod journald;
mod queue;

use journald::Journal;
pub use queue::Guard;
use queue::Queue;

/// Overrides `[log] level`.
pub const VARIABLE: &str = "GATEPOST_LOG";

/// Libraries that talk to their own developers: only errors, unless the user names them. rumqttd says nothing at all: it
/// opens a span at error level for each message, which makes its router three times slower; the end of its thread is
/// noticed and logged without it.
const QUIET: &str = "rumqttd=off,rumqttc=error,rustls=error";

/// What is logged.
static LEVEL: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter is not one.
    #[error(
        "{origin} = \"{filter}\" is not a log level: {cause}\nhint: write error, warn, info, debug or trace, or e.g. \"info,gatepost::device=debug\""
    )]
    Filter {
        /// `$GATEPOST_LOG` or `[log] level`.
        origin: &'static str,
        /// What it says.
        filter: String,
        /// What is wrong with it.
        cause: tracing_subscriber::filter::ParseError,
    },
    /// `format = "journald"`, and no journal takes messages.
    #[error("cannot reach journald: {0}\nhint: format = \"auto\" in [log] uses it only where it is there")]
    Journald(io::Error),
    /// The system gives no thread.
    #[error("cannot start the thread that writes the log: {0}")]
    Thread(io::Error),
    /// [`init`] was called twice.
    #[error("logging is already set up")]
    Twice,
}

/// Sets up logging for the whole process, until what is returned is dropped. Once.
pub fn init(log: &Log) -> Result<Guard, LogError> {
    let filter = filter(variable().as_deref(), &log.level)?;
    let (filter, handle) = reload::Layer::new(filter);
    let (output, guard) = output(log.format, stderr_is_journal(), io::stderr().is_terminal())?;
    Registry::default().with(output.with_filter(filter)).try_init().map_err(|_| LogError::Twice)?;
    // Only this sets it, and it has come so far once.
    let _ = LEVEL.set(handle);
    Ok(guard)
}

/// Logs what `[log] level` says from now on, unless `$GATEPOST_LOG` says otherwise. Does nothing before [`init`].
pub fn change_level(log: &Log) {
    let Some(handle) = LEVEL.get() else { return };
    let changed = filter(variable().as_deref(), &log.level).map(|filter| handle.reload(filter));
    if !matches!(changed, Ok(Ok(()))) {
        tracing::error!(level = log.level, "the log level could not be changed");
    }
}

/// Whether `$GATEPOST_LOG` stands above `[log] level`. It does so through every reload.
pub fn is_overridden() -> bool {
    variable().is_some()
}

fn variable() -> Option<String> {
    std::env::var(VARIABLE).ok().filter(|filter| !filter.trim().is_empty())
}

/// Whether `filter` may stand in `[log] level`.
pub fn check_filter(filter: &str) -> Result<(), tracing_subscriber::filter::ParseError> {
    EnvFilter::builder().parse(filter).map(drop)
}

fn filter(variable: Option<&str>, configured: &str) -> Result<EnvFilter, LogError> {
    let (origin, filter) = match variable {
        Some(text) => ("$GATEPOST_LOG", text),
        None => ("[log] level", configured),
    };
    // The later of two directives for one target holds: the user's.
    EnvFilter::builder().parse(format!("{QUIET},{filter}")).map_err(|cause| LogError::Filter {
        origin,
        filter: filter.to_owned(),
        cause,
    })
}

type Output = Box<dyn Layer<Registry> + Send + Sync>;

fn output(format: LogFormat, journal: bool, terminal: bool) -> Result<(Output, Guard), LogError> {
    let journald = match (format, journal) {
        (LogFormat::Auto, true) => Journal::open(Path::new(journald::SOCKET)).ok(),
        (LogFormat::Journald, _) => Some(Journal::open(Path::new(journald::SOCKET)).map_err(LogError::Journald)?),
        _ => None,
    };
    if let Some(journal) = journald {
        let (layer, guard) = journal.layer().map_err(LogError::Thread)?;
        return Ok((Box::new(layer), guard));
    }
    let (lines, guard) = Queue::new(|line| io::stderr().write_all(line)).map_err(LogError::Thread)?;
    let colour = match format {
        LogFormat::Pretty => true,
        LogFormat::Auto => terminal && !journal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        _ => false,
    };
    let layer = tracing_subscriber::fmt::layer().with_writer(lines);
    let output: Output = match format {
        LogFormat::Json => {
            Box::new(layer.json().flatten_event(true).with_current_span(false).with_span_list(false).with_timer(Utc))
        }
        _ => Box::new(layer.event_format(Line).with_ansi(colour)),
    };
    Ok((output, guard))
}

/// Whether systemd connected stderr to the journal: `$JOURNAL_STREAM` is its device and inode, sd-daemon(3).
fn stderr_is_journal() -> bool {
    let stream = std::env::var("JOURNAL_STREAM").ok();
    let stat = rustix::fs::fstat(io::stderr()).ok();
    stream.zip(stat).is_some_and(|(stream, stat)| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// RFC 3339, UTC, milliseconds.
struct Utc;

impl FormatTime for Utc {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        write!(writer, "{:.3}", Timestamp::now())
    }
}

/// One event, one line. Spans are not shown: each event carries the fields it needs.
struct Line;

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let level = event.metadata().level();
        if writer.has_ansi_escapes() {
            let colour = match *level {
                Level::ERROR => "31;1",
                Level::WARN => "33",
                Level::INFO => "32",
                _ => "2",
            };
            write!(writer, "\x1b[2m{:.3}\x1b[0m \x1b[{colour}m{level}\x1b[0m ", Timestamp::now())?;
        } else {
            Utc.format_time(&mut writer)?;
            write!(writer, " {level} ")?;
        }
        let mut fields = Fields { writer: writer.by_ref(), separator: "", written: Ok(()) };
        event.record(&mut fields);
        fields.written?;
        writeln!(writer)
    }
}

/// Writes the message and then the fields. Much of it comes from outside: none of it moves the cursor of a terminal.
struct Fields<'a> {
    writer: Writer<'a>,
    separator: &'static str,
    written: fmt::Result,
}

impl Fields<'_> {
    fn write(&mut self, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
        self.writer.write_str(std::mem::replace(&mut self.separator, " "))?;
        match (field.name(), self.writer.has_ansi_escapes()) {
            ("message", _) => {}
            (name, true) => write!(self.writer, "\x1b[3m{name}\x1b[0m\x1b[2m=\x1b[0m")?,
            (name, false) => write!(self.writer, "{name}=")?,
        }
        write!(Harmless(&mut self.writer), "{value:?}")
    }
}

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if self.written.is_ok() {
            self.written = self.write(field, value);
        }
    }
}

/// Escapes control characters but for line ends, which reports of several lines have, and tabs.
struct Harmless<'a, W>(&'a mut W);

impl<W: fmt::Write> fmt::Write for Harmless<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let is_shown = |c: char| !c.is_control() || matches!(c, '\n' | '\t');
        for part in text.split_inclusive(|c| !is_shown(c)) {
            match part.char_indices().next_back() {
                Some((at, last)) if !is_shown(last) => write!(self.0, "{}{}", &part[..at], last.escape_debug())?,
                _ => self.0.write_str(part)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;
    use std::time::Duration;

    use parking_lot::Mutex;
    use tracing::{debug, error, info, warn};

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn lines(filter: EnvFilter, colour: bool, events: impl FnOnce()) -> String {
        let sink = Sink::default();
        let writer = sink.clone();
        let layer = tracing_subscriber::fmt::layer()
            .event_format(Line)
            .with_ansi(colour)
            .with_writer(move || writer.clone())
            .with_filter(filter);
        tracing::subscriber::with_default(Registry::default().with(layer), events);
        let bytes = sink.0.lock().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_plain_line_is_time_level_message_fields() {
        let line = lines(filter(None, "info").unwrap(), false, || {
            let retry_in = Duration::from_millis(500);
            warn!(device = %"arduino", reason = "unplugged", ?retry_in, "device offline");
        });
        let (time, rest) = line.split_once(' ').unwrap();
        assert_eq!(rest, "WARN device offline device=arduino reason=\"unplugged\" retry_in=500ms\n");
        assert!(time.parse::<Timestamp>().is_ok() && time.len() == 24 && time.ends_with('Z'), "{time}");
    }

    #[test]
    fn nothing_in_a_field_moves_the_cursor() {
        let text = "\u{1b}[2J\u{1b}]0;x\u{7}\u{9b}2J\r\n\u{7f}";
        for colour in [false, true] {
            let log = lines(filter(None, "info").unwrap(), colour, || {
                let error = io::Error::other(text);
                warn!(plain = text, shown = %text, debug = ?text, %error, "text {text}");
            });
            let bare = log.replace("\u{1b}[0m", "");
            let bare = ["0", "1", "2", "3", "32", "33"]
                .iter()
                .fold(bare, |bare, code| bare.replace(&format!("\u{1b}[{code}m"), ""));
            assert!(!bare.contains(|c: char| c.is_control() && c != '\n'), "{log:?}");
        }
    }

    #[test]
    fn colours_only_where_asked_for() {
        let line = lines(filter(None, "info").unwrap(), true, || error!("broken"));
        assert!(line.contains("\x1b[31;1mERROR\x1b[0m"), "{line:?}");
    }

    #[test]
    fn the_variable_wins_and_libraries_are_quiet_unless_named() {
        let emit = || {
            info!("ours");
            debug!("ours in detail");
            info!(target: "rumqttc::state", "theirs");
            error!(target: "rumqttc::state", "theirs, bad");
            error!(target: "rumqttd::router", "the router's");
        };
        let shown = |variable, configured| {
            let text = lines(filter(variable, configured).unwrap(), false, emit);
            text.lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(shown(None, "info"), ["INFO ours", "ERROR theirs, bad"]);
        assert_eq!(shown(Some("debug"), "warn"), ["INFO ours", "DEBUG ours in detail", "ERROR theirs, bad"]);
        assert_eq!(shown(None, "warn,rumqttc=info"), ["INFO theirs", "ERROR theirs, bad"]);
    }

    #[test]
    fn wrong_filters_say_where_they_stand() {
        let error = filter(Some("gatepost=loud"), "info").unwrap_err().to_string();
        assert!(error.starts_with("$GATEPOST_LOG = \"gatepost=loud\"") && error.contains("hint:"), "{error}");
        assert!(check_filter("info,gatepost::device=trace").is_ok());
        assert!(check_filter("gatepost=loud").is_err());
    }
}
