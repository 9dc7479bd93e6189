//! Against real ptys.

use std::ffi::CStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{InputModes, LocalModes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::transport::is_unplugged;

/// The far end of a cable, and the path of the near one.
pub(crate) fn pty() -> (File, PathBuf) {
    let far = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&far).unwrap();
    unlockpt(&far).unwrap();
    let name = ptsname(&far, Vec::new()).unwrap();
    (File::from(far), path_of(&name))
}

/// Looks until it `is` as wanted, or fails after 20 s. For locks, and for what /proc says of open files: a child that
/// another test starts has all files of this process, until it has become the program that it is to be.
#[track_caller]
pub(crate) fn eventually<T: std::fmt::Debug>(mut look: impl FnMut() -> T, is: impl Fn(&T) -> bool) -> T {
    let start = std::time::Instant::now();
    loop {
        let seen = look();
        if is(&seen) {
            return seen;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "still {seen:?}");
    }
}

fn path_of(name: &CStr) -> PathBuf {
    PathBuf::from(std::ffi::OsStr::from_bytes(name.to_bytes()))
}

fn at(path: &Path) -> Serial {
    Serial {
        port: SerialPort::Path(path.to_owned()),
        baud: 9600,
        data_bits: 8,
        parity: Parity::None,
        stop_bits: 1,
        flow_control: FlowControl::None,
        exclusive: true,
        dtr: ControlLine::On,
        rts: ControlLine::On,
        settle: Duration::ZERO,
        hangup: true,
    }
}

async fn error_of(config: &Serial) -> String {
    open(config).await.map(|opened| opened.place).unwrap_err().to_string()
}

#[tokio::test]
async fn bytes_go_both_ways_unchanged() {
    let (mut far, near) = pty();
    let opened = open(&at(&near)).await.unwrap();
    assert_eq!(opened.place, near.display().to_string());
    assert_eq!(opened.warnings, [""; 0]);
    let all: Vec<u8> = (0..=255).collect();
    let (mut read, mut write) = opened.stream.into_split();

    far.write_all(&all).unwrap();
    let mut up = [0; 256];
    read.read_exact(&mut up).await.unwrap();
    assert_eq!(&up[..], all);

    write.write_all(&all).await.unwrap();
    write.flush().await.unwrap();
    write.shutdown().await.unwrap();
    let mut down = [0; 256];
    far.read_exact(&mut down).unwrap();
    assert_eq!(&down[..], all);
}

#[tokio::test]
async fn every_setting_is_made_or_warned_of() {
    let (far, near) = pty();
    let config = Serial {
        baud: 123_456,
        data_bits: 7,
        parity: Parity::Even,
        stop_bits: 2,
        flow_control: FlowControl::Software,
        dtr: ControlLine::Off,
        rts: ControlLine::Keep,
        hangup: false,
        ..at(&near)
    };
    let opened = open(&config).await.unwrap();
    // A pty has no parity, no 7 bits and no lines.
    assert!(opened.warnings[0].starts_with("dtr could not be lowered"), "{:?}", opened.warnings);
    assert_eq!(
        opened.warnings[1..],
        [
            "data_bits is eight, not seven: the driver ignored the setting",
            "parity is none, not even: the driver ignored the setting"
        ]
    );
    let settings = tcgetattr(&far).unwrap();
    assert_eq!(settings.output_speed(), 123_456);
    assert_eq!(settings.input_speed(), 123_456);
    assert!(settings.control_modes.contains(ControlModes::CSTOPB | ControlModes::CLOCAL | ControlModes::CREAD));
    assert!(!settings.control_modes.contains(ControlModes::HUPCL));
    assert!(settings.input_modes.contains(InputModes::IXON | InputModes::IXOFF));
    assert!(!settings.local_modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG));
    drop(opened);

    let config = Serial { flow_control: FlowControl::Hardware, rts: ControlLine::Off, ..at(&near) };
    let opened = eventually(|| open_blocking(&config), Result::is_ok).unwrap();
    assert_eq!(opened.warnings, ["rts = \"off\" has no effect: flow_control = \"hardware\" drives that line"]);
    let settings = tcgetattr(&far).unwrap();
    assert!(settings.control_modes.contains(ControlModes::HUPCL | ControlModes::CRTSCTS));
    assert!(!settings.input_modes.intersects(InputModes::IXON | InputModes::IXOFF));
}

#[tokio::test]
async fn what_came_before_opening_is_flushed() {
    let (mut far, near) = pty();
    let keeps_it_up = open(&Serial { exclusive: false, ..at(&near) }).await.unwrap();
    far.write_all(b"stale").unwrap();
    let mut opened = open(&Serial { exclusive: false, ..at(&near) }).await.unwrap();
    far.write_all(b"fresh").unwrap();
    let mut fresh = [0; 5];
    opened.stream.read_exact(&mut fresh).await.unwrap();
    assert_eq!(&fresh, b"fresh");
    drop(keeps_it_up);
}

#[tokio::test]
async fn who_is_refused_is_not_named_among_those_who_have_the_port() {
    let (_far, near) = pty();
    let mut other = std::process::Command::new("flock");
    other.args(["--no-fork".as_ref(), near.as_os_str()]).args(["sh", "-c", "echo locked; exec sleep 1000"]);
    let mut other = other.stdout(std::process::Stdio::piped()).spawn().unwrap();
    other.stdout.take().unwrap().read_exact(&mut [0; 6]).unwrap();
    let error = error_of(&at(&near)).await;
    other.kill().unwrap();
    other.wait().unwrap();
    assert!(error.contains(&format!("(pid {})", other.id())) && !error.contains("this "), "{error}");
}

#[tokio::test]
async fn an_exclusive_port_says_who_has_it() {
    let (_far, near) = pty();
    let first = open(&at(&near)).await.unwrap();
    let error = error_of(&at(&near)).await;
    let own = format!("(pid {})", std::process::id());
    assert!(error.contains("it is in use by this ") && error.contains(&own), "{error}");
    assert!(error_of(&Serial { exclusive: false, ..at(&near) }).await.contains("in use"));
    drop(first);
    eventually(|| open_blocking(&at(&near)).map(drop), Result::is_ok).unwrap();
}

#[tokio::test]
async fn what_cannot_be_opened_says_why() {
    let nowhere = Path::new("/dev/nonexistent-port");
    assert_eq!(
        error_of(&at(nowhere)).await,
        "cannot open serial port /dev/nonexistent-port: there is no such file; hint: plug it in; \
         `gatepost ports` lists the ports"
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    assert!(error_of(&at(file.path())).await.contains("it is not a serial port"));
    assert!(error_of(&at(Path::new("/dev/null"))).await.contains("it is not a serial port"));
    let usb = SerialPort::Usb { vendor: 0xfffe, product: 0xfffd, serial: Some("X".into()) };
    let error = error_of(&Serial { port: usb, ..at(nowhere) }).await;
    assert!(error.starts_with("cannot open serial port usb:fffe:fffd:X: no such device is plugged in"), "{error}");
}

#[tokio::test]
async fn an_attempt_that_hangs_is_not_joined_by_another() {
    let (_far, near) = pty();
    let hanging = Attempt::begin(&place(&at(&near).port)).unwrap();
    assert!(error_of(&at(&near)).await.contains("its driver has not answered for 10s"));
    drop(hanging);
    assert!(open(&at(&near)).await.is_ok());
}

#[tokio::test]
async fn pulling_the_plug_ends_the_read_and_fails_the_write() {
    let (far, near) = pty();
    let (mut read, mut write) = open(&at(&near)).await.unwrap().stream.into_split();
    let reading = tokio::spawn(async move {
        let mut buffer = [0; 16];
        read.read(&mut buffer).await
    });
    tokio::task::yield_now().await;
    drop(far);
    match reading.await.unwrap() {
        Ok(read) => assert_eq!(read, 0),
        Err(error) => assert!(is_unplugged(&error), "{error}"),
    }
    let error = write.write_all(b"gone").await.unwrap_err();
    assert!(is_unplugged(&error), "{error}");
    write.shutdown().await.unwrap();
    drop(write);
    assert!(error_of(&at(&near)).await.contains("there is no such file"));
}

#[tokio::test]
async fn a_peer_that_does_not_read_blocks_nobody() {
    let (_far, near) = pty();
    let (_read, mut write) = open(&at(&near)).await.unwrap().stream.into_split();
    let writing = timeout(Duration::from_millis(200), write.write_all(&[b'x'; 1 << 20])).await;
    assert!(writing.is_err(), "1 MiB went into a pty that nobody reads");
}

/// A named port that comes and goes, as a USB adapter does.
#[tokio::test]
#[ignore = "needs socat"]
async fn comes_back_after_replugging() {
    let place = tempfile::tempdir().unwrap();
    let near = place.path().join("ttyUSB0");
    let far = place.path().join("far");
    for round in 0..3 {
        let mut cable = tokio::process::Command::new("socat")
            .arg(format!("PTY,link={},rawer", near.display()))
            .arg(format!("PTY,link={},rawer", far.display()))
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let opened = timeout(Duration::from_secs(10), async {
            loop {
                match open(&at(&near)).await {
                    Ok(opened) if far.exists() => break opened,
                    _ => sleep(Duration::from_millis(20)).await,
                }
            }
        });
        let mut stream = opened.await.unwrap().stream;
        let mut other = open(&at(&far)).await.unwrap().stream;
        let sent = format!("round {round}");
        other.write_all(sent.as_bytes()).await.unwrap();
        let mut line = vec![0; sent.len()];
        stream.read_exact(&mut line).await.unwrap();
        assert_eq!(line, sent.as_bytes());
        cable.kill().await.unwrap();
        match stream.read(&mut line).await {
            Ok(read) => assert_eq!(read, 0),
            Err(error) => assert!(is_unplugged(&error), "{error}"),
        }
    }
}
