//! A weather board on a serial port, simulated: a pseudo terminal with the pace of 9600 baud.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::fs::{Mode, OFlags, fcntl_getfl, fcntl_setfl, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::screen::Sighting;

/// Ten bits a byte at 9600 baud.
const BYTE_TIME: Duration = Duration::from_micros(1042);
/// Between two readings.
const INTERVAL: Duration = Duration::from_secs(1);
/// Longest command; what is longer is taken for two.
const MAX_COMMAND: u64 = 128;

/// Says `T=21.4 H=40` each second, takes `LED ON` and `LED OFF`, and answers `LED=ON`.
pub struct Board {
    sends: pipe::Sender,
    hears: BufReader<pipe::Receiver>,
    /// Holds the gateway's end open, so that its closing is no hang-up for the board.
    _port: OwnedFd,
    path: String,
    weather: Weather,
    said: u64,
    sightings: mpsc::Sender<Sighting>,
}

impl Board {
    /// Makes the pseudo terminal. Must be called on a tokio runtime.
    pub fn new(sightings: mpsc::Sender<Sighting>) -> io::Result<Board> {
        let wire = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&wire)?;
        unlockpt(&wire)?;
        let mut settings = tcgetattr(&wire)?;
        settings.make_raw();
        tcsetattr(&wire, OptionalActions::Now, &settings)?;
        let path = ptsname(&wire, Vec::new())?.into_string().map_err(io::Error::other)?;
        let port = open(path.as_str(), OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
        fcntl_setfl(&wire, fcntl_getfl(&wire)? | OFlags::NONBLOCK)?;
        // tokio has no terminal of its own; one that is not blocking is read and written as a pipe is.
        let hears = BufReader::new(pipe::Receiver::from_owned_fd_unchecked(wire.try_clone()?)?);
        let sends = pipe::Sender::from_owned_fd_unchecked(wire)?;
        let weather = Weather { tenths: 214, humidity: 40 };
        Ok(Board { sends, hears, _port: port, path, weather, said: 0, sightings })
    }

    /// The serial port, for the configuration.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Lines it has said, all of them whole.
    pub fn said(&self) -> u64 {
        self.said
    }

    /// Works until `silence`, and hands itself back: the port is there until it is dropped.
    pub async fn run(mut self, silence: CancellationToken) -> Board {
        let mut readings = interval(INTERVAL);
        readings.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut command = Vec::new();
        loop {
            let line = tokio::select! {
                () = silence.cancelled() => return self,
                _ = readings.tick() => self.weather.next(fastrand::i16(-3..=3)),
                heard = hear(&mut self.hears, &mut command) => {
                    // Without its terminal the board has nothing to do; the gateway will say so.
                    if heard.is_err() {
                        return self;
                    }
                    let text = String::from_utf8_lossy(&std::mem::take(&mut command)).trim().to_owned();
                    self.tell(false, &text).await;
                    answer(&text).to_owned()
                }
            };
            self.tell(true, &line).await;
            if say(&mut self.sends, &line).await.is_err() {
                return self;
            }
            self.said += 1;
        }
    }

    async fn tell(&self, from_device: bool, line: &str) {
        let sighting = Sighting { device: "board", from_device, line: line.to_owned() };
        // Nobody listens any more when the demo ends.
        let _ = self.sightings.send(sighting).await;
    }
}

/// A room with the window ajar.
struct Weather {
    tenths: i16,
    humidity: i16,
}

impl Weather {
    /// The next reading; `change` in tenths of a degree.
    fn next(&mut self, change: i16) -> String {
        self.tenths = (self.tenths + change).clamp(180, 260);
        self.humidity = (self.humidity - change / 2).clamp(30, 60);
        format!("T={}.{} H={}", self.tenths / 10, self.tenths % 10, self.humidity)
    }
}

fn answer(command: &str) -> &'static str {
    match command.to_ascii_uppercase().as_str() {
        "LED ON" => "LED=ON",
        "LED OFF" => "LED=OFF",
        _ => "ERR say LED ON or LED OFF",
    }
}

/// Reads up to a line feed. May be dropped while it waits: what came is in `command`.
async fn hear(wire: &mut BufReader<pipe::Receiver>, command: &mut Vec<u8>) -> io::Result<()> {
    let room = MAX_COMMAND.saturating_sub(command.len() as u64);
    match wire.take(room).read_until(b'\n', command).await? {
        0 if room > 0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

/// Byte by byte, as the UART would.
async fn say(wire: &mut pipe::Sender, line: &str) -> io::Result<()> {
    for byte in line.bytes().chain(*b"\r\n") {
        wire.write_all(&[byte]).await?;
        sleep(BYTE_TIME).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{BufRead, BufReader, Write};

    use super::*;

    #[test]
    fn weather_stays_within_reason() {
        let mut weather = Weather { tenths: 214, humidity: 40 };
        assert_eq!(weather.next(3), "T=21.7 H=39");
        for _ in 0..100 {
            weather.next(3);
        }
        assert_eq!(weather.next(3), "T=26.0 H=30");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn talks_and_obeys_on_a_real_terminal() {
        let (sightings, mut seen) = mpsc::channel(64);
        let board = Board::new(sightings).unwrap();
        let port = File::options().read(true).write(true).open(board.path()).unwrap();
        let silence = CancellationToken::new();
        let task = tokio::spawn(board.run(silence.clone()));
        (&port).write_all(b"LED on\n").unwrap();
        let lines = tokio::task::spawn_blocking(move || {
            BufReader::new(port).lines().map(Result::unwrap).take(2).collect::<Vec<_>>()
        });
        let mut lines = lines.await.unwrap();
        lines.sort();
        assert_eq!(lines[0], "LED=ON");
        assert!(lines[1].starts_with("T=2"), "{lines:?}");
        let first = seen.recv().await.unwrap();
        assert_eq!(first.device, "board");
        silence.cancel();
        assert!(task.await.unwrap().said() >= 2);
    }
}
