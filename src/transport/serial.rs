//! Serial ports. The only file that names tokio-serial.
//!
//! A port is opened twice over. The first descriptor tells why it cannot be opened, in the system's own terms, and sets
//! what tokio-serial does not (HUPCL); it is closed when tokio-serial has opened its own, so that DTR does not fall
//! between the two. Opening raises DTR and RTS, which Linux does before anybody can object: a board that resets on that
//! edge resets at the first opening, and with `hangup = false` not again, as closing then leaves the lines up.

use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::termios::{ControlModes, OptionalActions, ioctl_tiocnxcl, isatty, tcgetattr, tcsetattr};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep, timeout};
use tokio_serial::{ClearBuffer, ErrorKind, SerialPort as _, SerialStream};

use super::{Opened, Stream, ports};
use crate::config::{ControlLine, FlowControl, Parity, Serial, SerialPort};
use crate::machine::holders::{Holders, is_pty};

mod error;

pub use error::SerialError;

/// Longest that a driver may take to open a port.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// Between looks at what is still to be sent, on [`shutdown`](AsyncWrite::poll_shutdown) only.
const DRAIN_INTERVAL: Duration = Duration::from_millis(10);

/// Ports that are being opened. One that hangs in its driver keeps its thread; a second attempt would take another.
static OPENING: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// An open serial port.
#[derive(Debug)]
pub struct Port {
    stream: SerialStream,
    draining: Option<Pin<Box<Sleep>>>,
}

/// Opens the port as configured, flushes what had arrived before, and compares what the driver made of the settings.
///
/// # Errors
/// What stands in the way. A driver that hangs is given up on after 10 s.
pub async fn open(config: &Serial) -> Result<Opened, SerialError> {
    let place = place(&config.port);
    let hung = || SerialError::Hung { place: place.clone(), after: OPEN_TIMEOUT };
    let attempt = Attempt::begin(&place).ok_or_else(hung)?;
    let config = config.clone();
    let opening = tokio::task::spawn_blocking(move || {
        let opened = open_blocking(&config);
        drop(attempt);
        opened
    });
    match timeout(OPEN_TIMEOUT, opening).await {
        Ok(Ok(opened)) => opened,
        Ok(Err(error)) => Err(SerialError::Io { place, source: error.into() }),
        Err(_) => Err(hung()),
    }
}

/// The port as the configuration names it.
pub fn place(port: &SerialPort) -> String {
    match port {
        SerialPort::Path(path) => path.display().to_string(),
        SerialPort::Usb { vendor, product, serial: None } => format!("usb:{vendor:04x}:{product:04x}"),
        SerialPort::Usb { vendor, product, serial: Some(serial) } => format!("usb:{vendor:04x}:{product:04x}:{serial}"),
    }
}

/// An entry in [`OPENING`].
struct Attempt(String);

impl Attempt {
    fn begin(place: &str) -> Option<Attempt> {
        OPENING.lock().insert(place.to_owned()).then(|| Attempt(place.to_owned()))
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        OPENING.lock().remove(&self.0);
    }
}

/// Runs on a thread for blocking work, within the runtime's context.
fn open_blocking(config: &Serial) -> Result<Opened, SerialError> {
    let path = find(&config.port, ports::list)?;
    let probe = probe(&path, config.hangup).map_err(|errno| SerialError::of_opening(&path, errno))?;
    let mut stream = match open_stream(config, &path) {
        Ok(stream) => stream,
        Err(error) => {
            // Or it would be counted among those who have the port.
            drop(probe);
            return Err(refused(&path, error));
        }
    };
    if rustix::fs::fstat(&probe).is_ok_and(|stat| is_pty(stat.st_rdev)) {
        // It would keep TIOCEXCL for as long as its other end is open, whoever closes it or dies here. A lock is enough.
        let _ = ioctl_tiocnxcl(&probe);
    }
    drop(probe);
    let io = |source: tokio_serial::Error| SerialError::Io { place: path.display().to_string(), source: source.into() };
    stream.clear(ClearBuffer::Input).map_err(io)?;
    let mut warnings = set_control_lines(&mut stream, config);
    warnings.extend(read_back(&stream, config));
    if config.exclusive {
        warnings.extend(shared_with(&path));
    }
    let place = match &config.port {
        SerialPort::Path(path) => path.display().to_string(),
        usb @ SerialPort::Usb { .. } => format!("{} ({})", place(usb), path.display()),
    };
    Ok(Opened { stream: Stream::Serial(Port { stream, draining: None }), peer: None, place, warnings })
}

/// The path of the port; `list` is asked for the ports of this machine if the name is not a path itself.
///
/// # Errors
/// No device has the USB ids, or several have.
pub fn find(port: &SerialPort, list: impl FnOnce() -> Vec<ports::Port>) -> Result<PathBuf, SerialError> {
    let (vendor, product, serial) = match port {
        SerialPort::Path(path) => return Ok(path.clone()),
        SerialPort::Usb { vendor, product, serial } => (vendor, product, serial),
    };
    let is_meant = |usb: &ports::Usb| {
        (usb.vendor, usb.product) == (*vendor, *product) && (serial.is_none() || usb.serial == *serial)
    };
    let mut found = list();
    found.retain(|port| port.usb.as_ref().is_some_and(is_meant));
    match &found[..] {
        [] => Err(SerialError::NoUsbDevice { place: place(port) }),
        [one] => Ok(one.path.clone()),
        several => Err(SerialError::several_usb_devices(place(port), several)),
    }
}

/// Opens without waiting for a carrier and sets HUPCL.
fn probe(path: &Path, hangup: bool) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let probe = rustix::fs::open(path, flags, Mode::empty())?;
    if !isatty(&probe) {
        return Err(Errno::NOTTY);
    }
    let mut settings = tcgetattr(&probe)?;
    settings.control_modes.set(ControlModes::HUPCL, hangup);
    tcsetattr(&probe, OptionalActions::Now, &settings)?;
    Ok(probe)
}

fn open_stream(config: &Serial, path: &Path) -> tokio_serial::Result<SerialStream> {
    let not_utf8 = || tokio_serial::Error::new(ErrorKind::Io(io::ErrorKind::InvalidInput), "the path is not UTF-8");
    let name = path.to_str().ok_or_else(not_utf8)?;
    let builder = tokio_serial::new(name, config.baud)
        .data_bits(data_bits(config.data_bits))
        .parity(parity(config.parity))
        .stop_bits(if config.stop_bits == 2 { tokio_serial::StopBits::Two } else { tokio_serial::StopBits::One })
        .flow_control(flow_control(config.flow_control))
        .exclusive(config.exclusive);
    SerialStream::open(&builder)
}

/// Why a port that could be opened a moment ago cannot be had.
fn refused(path: &Path, error: tokio_serial::Error) -> SerialError {
    match error.kind() {
        // Another has it locked.
        ErrorKind::NoDevice => SerialError::busy(path),
        _ => SerialError::Io { place: path.display().to_string(), source: error.into() },
    }
}

fn data_bits(bits: u8) -> tokio_serial::DataBits {
    match bits {
        5 => tokio_serial::DataBits::Five,
        6 => tokio_serial::DataBits::Six,
        7 => tokio_serial::DataBits::Seven,
        _ => tokio_serial::DataBits::Eight,
    }
}

fn parity(parity: Parity) -> tokio_serial::Parity {
    match parity {
        Parity::None => tokio_serial::Parity::None,
        Parity::Even => tokio_serial::Parity::Even,
        Parity::Odd => tokio_serial::Parity::Odd,
    }
}

fn flow_control(flow_control: FlowControl) -> tokio_serial::FlowControl {
    match flow_control {
        FlowControl::None => tokio_serial::FlowControl::None,
        FlowControl::Software => tokio_serial::FlowControl::Software,
        FlowControl::Hardware => tokio_serial::FlowControl::Hardware,
    }
}

/// Sets DTR and RTS. Opening has raised both, so only what is to be low can fail in a way that matters; with hardware
/// flow control RTS is the driver's.
fn set_control_lines(stream: &mut SerialStream, config: &Serial) -> Vec<String> {
    let mut failed = Vec::new();
    let mut note = |line: &str, state: ControlLine, result: tokio_serial::Result<()>| {
        if let (ControlLine::Off, Err(error)) = (state, result) {
            failed.push(format!("{line} could not be lowered: {error}"));
        }
    };
    if config.dtr != ControlLine::Keep {
        note("dtr", config.dtr, stream.write_data_terminal_ready(config.dtr == ControlLine::On));
    }
    if config.rts != ControlLine::Keep && config.flow_control != FlowControl::Hardware {
        note("rts", config.rts, stream.write_request_to_send(config.rts == ControlLine::On));
    }
    if config.rts == ControlLine::Off && config.flow_control == FlowControl::Hardware {
        failed.push("rts = \"off\" has no effect: flow_control = \"hardware\" drives that line".into());
    }
    failed
}

/// What the driver did not take, a sentence each.
fn read_back(stream: &SerialStream, config: &Serial) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut compare = |setting: &str, asked: String, actual: tokio_serial::Result<String>| match actual {
        Ok(actual) if actual == asked => {}
        Ok(actual) => warnings.push(format!("{setting} is {actual}, not {asked}: the driver ignored the setting")),
        Err(error) => warnings.push(format!("{setting} could not be read back: {error}")),
    };
    // Drivers report the speed that their divisor makes.
    let close = |actual: u32| u64::from(actual.abs_diff(config.baud)) * 50 <= u64::from(config.baud);
    let baud = stream.baud_rate().map(|actual| if close(actual) { config.baud } else { actual });
    compare("baud", config.baud.to_string(), baud.map(|baud| baud.to_string()));
    let lower = |value: &dyn std::fmt::Debug| format!("{value:?}").to_lowercase();
    compare("data_bits", lower(&data_bits(config.data_bits)), stream.data_bits().map(|bits| lower(&bits)));
    compare("parity", lower(&config.parity), stream.parity().map(|parity| lower(&parity)));
    let stop_bits = if config.stop_bits == 2 { "two" } else { "one" };
    compare("stop_bits", stop_bits.into(), stream.stop_bits().map(|bits| lower(&bits)));
    compare("flow_control", lower(&config.flow_control), stream.flow_control().map(|control| lower(&control)));
    warnings
}

/// A program that opened the port before it was locked and reads from it. The maker of a pty may well keep it open.
fn shared_with(path: &Path) -> Option<String> {
    let path = path.canonicalize().ok()?;
    if path.starts_with("/dev/pts") {
        return None;
    }
    let holders = Holders::scan();
    let other = holders.of(&path).iter().find(|holder| holder.pid != std::process::id())?;
    Some(format!("{other} has the port open too and may take its bytes; hint: stop that program"))
}

impl Drop for Port {
    fn drop(&mut self) {
        // Closing would wait up to 30 s for it to be sent. (A pty never says that there is any, and keeps it.)
        if let Ok(bytes @ 1..) = self.stream.bytes_to_write() {
            let _ = self.stream.clear(ClearBuffer::Output);
            let port = self.stream.name();
            tracing::warn!(
                port,
                bytes,
                "closed before the driver had sent all that was written: the rest is thrown away"
            );
        }
    }
}

impl AsyncRead for Port {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Port {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    /// Nothing to do. (tokio-serial would block the thread in tcdrain(3).)
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Waits until the driver has sent what was written. There is no event for that, so it looks every 10 ms.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.stream.bytes_to_write().is_ok_and(|bytes| bytes > 0) {
            let draining = self.draining.get_or_insert_with(|| Box::pin(sleep(DRAIN_INTERVAL)));
            ready!(draining.as_mut().poll(cx));
            self.draining = None;
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
pub(crate) mod tests;
