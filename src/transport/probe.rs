//! Listens to a serial port without knowing its speed: what comes at a given one, and how much of it was damaged.
//!
//! Nothing is written to the port. Opening it raises DTR and RTS, as any opening does, so a board that resets on that
//! edge resets once; changing the speed does not. The settings are put back in the end. Blocks; keep it off the runtime.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fd::OwnedFd;
use rustix::fs::{FlockOperation, Mode, OFlags, fcntl_getfl, fcntl_setfl, flock};
use rustix::io::Errno;
use rustix::termios::{
    ControlModes, InputModes, OptionalActions, QueueSelector, SpecialCodeIndex, Termios, ioctl_tiocexcl,
    ioctl_tiocnxcl, isatty, tcflush, tcgetattr, tcsetattr,
};

use super::serial::SerialError;

/// A silence that a sender makes between two frames, and a USB adapter does not make within one: it keeps bytes back
/// for 16 ms at most.
pub const PAUSE: Duration = Duration::from_millis(50);
/// A read that finds nothing waits so long: VTIME counts in tenths of a second.
const WAIT: Duration = Duration::from_millis(100);

/// An open port, locked against others.
#[derive(Debug)]
pub struct Probe {
    port: OwnedFd,
    before: Termios,
}

/// What came at one speed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// The bytes, those that came damaged too.
    pub bytes: Vec<u8>,
    /// Bytes with a framing or parity error, and breaks. A pseudo terminal has none.
    pub errors: usize,
    /// Where in `bytes` a silence of at least [`PAUSE`] came before the byte.
    pub pauses: Vec<usize>,
}

impl Probe {
    /// Opens and locks the port.
    ///
    /// # Errors
    /// As opening for the gateway; a port that somebody has locked is [`SerialError::Busy`].
    pub fn open(path: &Path) -> Result<Probe, SerialError> {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let of = |errno| SerialError::of_opening(path, errno);
        let port = rustix::fs::open(path, flags, Mode::empty()).map_err(of)?;
        if !isatty(&port) {
            return Err(of(Errno::NOTTY));
        }
        match flock(&port, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                // Or this process would be counted among those who have the port.
                drop(port);
                return Err(SerialError::busy(path));
            }
            Err(errno) => return Err(of(errno)),
        }
        ioctl_tiocexcl(&port).map_err(of)?;
        let before = tcgetattr(&port).map_err(of)?;
        // NONBLOCK was for opening without a carrier; from here on reads wait as VTIME says.
        let flags = fcntl_getfl(&port).map_err(of)?;
        fcntl_setfl(&port, flags - OFlags::NONBLOCK).map_err(of)?;
        Ok(Probe { port, before })
    }

    /// Listens at `baud`, 8N1, until `limit` is over or `enough` bytes are there, whichever is first; at most one read
    /// more of each.
    ///
    /// # Errors
    /// The driver does not take the speed (`InvalidInput`), or the port is gone (`UnexpectedEof` or what the system
    /// says).
    pub fn listen(&self, baud: u32, limit: Duration, enough: usize) -> io::Result<Heard> {
        tcsetattr(&self.port, OptionalActions::Now, &self.settings(baud)?)?;
        tcflush(&self.port, QueueSelector::IFlush)?;
        let start = Instant::now();
        let mut last = start;
        let (mut raw, mut pauses, mut buffer) = (Vec::new(), Vec::new(), [0; 256]);
        while raw.len() < enough && start.elapsed() < limit {
            let asked = Instant::now();
            let length = match rustix::io::read(&self.port, &mut buffer) {
                Err(Errno::INTR) => continue,
                read => read?,
            };
            if length == 0 {
                // A port that was pulled out reads as ended at once, and for ever.
                if asked.elapsed() < WAIT / 2 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                continue;
            }
            if !raw.is_empty() && last.elapsed() >= PAUSE {
                pauses.push(raw.len());
            }
            last = Instant::now();
            raw.extend_from_slice(&buffer[..length]);
        }
        Ok(unmark(&raw, &pauses))
    }

    fn settings(&self, baud: u32) -> io::Result<Termios> {
        let mut settings = self.before.clone();
        settings.make_raw();
        // Damaged bytes come marked; see `unmark`.
        settings.input_modes |= InputModes::INPCK | InputModes::PARMRK;
        settings.input_modes -= InputModes::IGNPAR | InputModes::IGNBRK | InputModes::IXOFF | InputModes::IXANY;
        settings.control_modes -= ControlModes::CSTOPB | ControlModes::CRTSCTS | ControlModes::PARENB;
        settings.control_modes |= ControlModes::CLOCAL | ControlModes::CREAD | ControlModes::CS8;
        settings.special_codes[SpecialCodeIndex::VMIN] = 0;
        settings.special_codes[SpecialCodeIndex::VTIME] = 1;
        settings.set_speed(baud)?;
        Ok(settings)
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        // Who has the port open otherwise (the maker of a pty) gets it back as it was.
        let _ = tcsetattr(&self.port, OptionalActions::Now, &self.before);
        let _ = ioctl_tiocnxcl(&self.port);
    }
}

/// Undoes PARMRK (termios(3)): 0xFF 0x00 X is a damaged X, 0xFF 0xFF is 0xFF.
fn unmark(raw: &[u8], pauses: &[usize]) -> Heard {
    let mut heard = Heard::default();
    let (mut at, mut pauses) = (0, pauses.iter().peekable());
    while let Some(&byte) = raw.get(at) {
        while pauses.next_if(|&&pause| pause <= at).is_some() {
            heard.pauses.push(heard.bytes.len());
        }
        let (byte, length, damaged) = match (byte, raw.get(at + 1), raw.get(at + 2)) {
            (0xFF, Some(0x00), Some(&damaged)) => (damaged, 3, true),
            (0xFF, Some(0xFF), _) => (0xFF, 2, false),
            // Cut off in the middle of a mark.
            (0xFF, None | Some(0x00), None) => break,
            (byte, ..) => (byte, 1, false),
        };
        heard.errors += usize::from(damaged);
        heard.bytes.push(byte);
        at += length;
    }
    heard
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::transport::serial::tests::{eventually, pty};

    #[test]
    fn marks_are_undone() {
        let heard = unmark(b"ab\xFF\x00\xA5c\xFF\xFFd\xFF\x00\x00\xFF\x00", &[2, 5]);
        assert_eq!(heard.bytes, b"ab\xA5c\xFFd\0");
        assert_eq!(heard.errors, 2);
        assert_eq!(heard.pauses, [2, 3]);
        assert_eq!(unmark(b"", &[]), Heard::default());
    }

    #[test]
    fn hears_every_byte_and_puts_the_settings_back() {
        let (mut far, near) = pty();
        let kept = rustix::fs::open(&near, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let before = tcgetattr(&kept).unwrap();
        let probe = Probe::open(&near).unwrap();
        let bytes: Vec<u8> = (0..=255).collect();
        let writer = std::thread::spawn(move || {
            // What comes before the speed is set is thrown away, so it goes on until somebody has enough.
            while far.write_all(&bytes).is_ok() {
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let heard = probe.listen(115_200, Duration::from_secs(10), 1024).unwrap();
        assert!(heard.bytes.len() >= 512, "{}", heard.bytes.len());
        let first = heard.bytes[0];
        assert!(heard.bytes.iter().enumerate().all(|(at, byte)| *byte == first.wrapping_add(at as u8)), "{heard:?}");
        assert_eq!(heard.errors, 0);
        // The gateway locks its port so, too.
        assert!(matches!(Probe::open(&near), Err(SerialError::Busy { .. })));
        drop(probe);
        let after = tcgetattr(&kept).unwrap();
        assert_eq!((after.input_modes, after.local_modes), (before.input_modes, before.local_modes));
        eventually(|| Probe::open(&near), Result::is_ok).unwrap();
        drop(kept);
        drop(writer);
    }

    #[test]
    fn a_silent_port_is_listened_to_no_longer_than_asked() {
        let (far, near) = pty();
        let probe = Probe::open(&near).unwrap();
        let start = Instant::now();
        assert_eq!(probe.listen(9600, Duration::from_millis(150), 1).unwrap(), Heard::default());
        assert!((Duration::from_millis(150)..Duration::from_secs(5)).contains(&start.elapsed()));
        drop(far);
        assert!(probe.listen(9600, Duration::from_secs(10), 1).is_err(), "it was pulled out");
        assert!(matches!(Probe::open(Path::new("/dev/null")), Err(SerialError::NotSerial { .. })));
    }
}
