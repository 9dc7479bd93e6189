//! `--probe`: listens to a port at several speeds and says which is right, and how frames end.

use std::io;
use std::path::Path;
use std::time::Duration;

use super::finding::Finding;
use super::verdict::{self, End, Kind};
use crate::config::{Framing, Parity, Serial};
use crate::transport::probe::{Heard, Probe};

/// Tried in this order after the configured one: the likeliest first.
const RATES: [u32; 10] = [9600, 115_200, 19_200, 38_400, 57_600, 4800, 2400, 1200, 230_400, 460_800];
/// So many bytes suffice for a judgement.
const ENOUGH: usize = 256;

/// The port to listen to.
#[derive(Debug)]
pub struct Target<'a> {
    /// What findings are about.
    pub subject: &'a str,
    /// Name of the device in the TOML that is printed.
    pub name: &'a str,
    /// What to write as `port`.
    pub port: String,
    /// The port's path.
    pub path: &'a Path,
    /// What the configuration says now.
    pub configured: Option<(&'a Serial, &'a Framing)>,
}

/// Listens for at most `time` at each rate; ends early where a rate fits.
pub fn examine(target: &Target<'_>, time: Duration, report: impl Fn(u32)) -> Finding {
    let probe = match Probe::open(target.path) {
        Ok(probe) => probe,
        Err(error) => return Finding::problem(target.subject, format!("not probed: {error}")),
    };
    let configured = target.configured.map(|(serial, _)| serial.baud);
    let rates = configured.into_iter().chain(RATES.into_iter().filter(|rate| Some(*rate) != configured));
    let mut samples: Vec<(u32, Heard)> = Vec::new();
    for rate in rates {
        report(rate);
        let heard = match probe.listen(rate, time, ENOUGH) {
            Ok(heard) => heard,
            // The hardware does not do this speed.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => continue,
            Err(error) => {
                return Finding::problem(target.subject, format!("{} was lost: {error}", target.path.display()))
                    .why("It was pulled out, or its power failed, while it was listened to.");
            }
        };
        samples.push((rate, heard));
        if samples.last().is_some_and(|(_, heard)| is_settled(target, heard, samples.len())) {
            break;
        }
    }
    judge(target, &samples, time)
}

/// Whether further rates would tell no more. A wrong rate turns bytes into others, but not into silence.
fn is_settled(target: &Target<'_>, heard: &Heard, rates: usize) -> bool {
    match verdict::kind(heard) {
        Kind::Text | Kind::SevenBits(_) => true,
        Kind::Silent => rates == 1,
        Kind::Noise => heard.errors == 0 && rates == 1 && expects_binary(target),
        Kind::Little => false,
    }
}

fn expects_binary(target: &Target<'_>) -> bool {
    target.configured.is_some_and(|(_, framing)| verdict::is_binary(framing))
}

/// What the samples, one a rate, in the order of listening, say.
fn judge(target: &Target<'_>, samples: &[(u32, Heard)], time: Duration) -> Finding {
    let subject = target.subject;
    let place = target.path.display();
    let Some((rate, heard)) = samples.last() else {
        return Finding::problem(subject, format!("{place} takes none of the usual speeds"));
    };
    match verdict::kind(heard) {
        kind @ (Kind::Text | Kind::SevenBits(_)) => text(target, samples, *rate, kind, heard),
        Kind::Noise if heard.errors == 0 && samples.len() == 1 && expects_binary(target) => Finding::fine(
            subject,
            format!("{} bytes came at {rate} baud, none damaged: binary, as configured", heard.bytes.len()),
        ),
        _ if samples.iter().all(|(_, heard)| heard.bytes.is_empty()) => {
            Finding::warning(subject, format!("{place} said nothing for {time:?}: its speed is not known"))
                .why("It speaks seldom or only when asked, its wires RX and TX are swapped, or it has no power.")
                .fix(format!(
                    "gatepost doctor --probe {} --seconds 60    # listens longer; make the device say something",
                    target.port
                ))
        }
        _ => noise(target, samples),
    }
}

/// The device speaks text at `rate`.
fn text(target: &Target<'_>, samples: &[(u32, Heard)], rate: u32, kind: Kind, heard: &Heard) -> Finding {
    let subject = target.subject;
    let end = verdict::end(heard, kind);
    let bits = match kind {
        Kind::SevenBits(parity) => (7, parity),
        _ => (8, Parity::None),
    };
    let ends =
        end.map_or("; no end of a frame was seen".to_owned(), |end| format!(", each frame ends with {}", end.name()));
    let spoken =
        format!("it speaks text at {rate} baud{}{ends}", if bits.0 == 7 { ", 7 bits with parity" } else { "" });
    let Some((serial, framing)) = target.configured else {
        return Finding::fine(subject, spoken).why("The configuration for it:").fix(toml(target, rate, kind, end));
    };
    if serial.baud != rate {
        let what = format!("wrong baud: {} is configured, and {spoken}", serial.baud);
        return Finding::problem(subject, what).why(shares(samples)).fix(toml(target, rate, kind, end));
    }
    if (serial.data_bits, serial.parity) != bits {
        let what = format!("wrong data_bits or parity: {spoken}");
        return Finding::problem(subject, what).fix(toml(target, rate, kind, end));
    }
    let mask = if bits.0 == 7 { 0x7F } else { 0xFF };
    let bytes: Vec<u8> = heard.bytes.iter().map(|byte| byte & mask).collect();
    if end.is_some() && !verdict::fits(framing, &bytes) {
        return Finding::problem(subject, format!("wrong framing: {spoken}, which is not what `framing` says"))
            .why("Frames are not told apart: nothing is published until max_length is reached.")
            .fix(toml(target, rate, kind, end));
    }
    Finding::fine(subject, format!("{spoken}, as configured"))
}

fn noise(target: &Target<'_>, samples: &[(u32, Heard)]) -> Finding {
    let what = format!("{} sends no text at any usual speed: much of it is not text", target.path.display());
    let mut finding = Finding::warning(target.subject, what).why(format!(
        "{}\nIt has a binary protocol, or another speed, or signals that are inverted or too weak.",
        shares(samples)
    ));
    // Only a UART tells of damage; then the one speed without it is the right one.
    let whole: Vec<u32> = samples
        .iter()
        .filter(|(_, heard)| heard.errors == 0 && !heard.bytes.is_empty())
        .map(|(rate, _)| *rate)
        .collect();
    if let (&[rate], true) = (&whole[..], samples.len() > 1) {
        finding.why.push_str(&format!("\nAt {rate} baud nothing came damaged: that may be its speed."));
        finding = finding.fix(toml(target, rate, Kind::Noise, Some(End::Gap)));
    }
    finding.fix("look up speed, parity and protocol in the device's manual")
}

/// `at 9600 baud 43 % of 210 bytes are not text, 12 came damaged`, a line each
fn shares(samples: &[(u32, Heard)]) -> String {
    let line = |(rate, heard): &(u32, Heard)| match heard.bytes.len() {
        0 => format!("at {rate} baud nothing came"),
        length => {
            let share = verdict::odd_share(&heard.bytes);
            let damaged = if heard.errors > 0 { format!(", {} came damaged", heard.errors) } else { String::new() };
            format!("at {rate} baud {share} % of {length} bytes are not text{damaged}")
        }
    };
    samples.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// The device's table, as far as it was learned.
fn toml(target: &Target<'_>, rate: u32, kind: Kind, end: Option<End>) -> String {
    let bits = match kind {
        Kind::SevenBits(Parity::Even) => ", data_bits = 7, parity = \"even\"",
        Kind::SevenBits(_) => ", data_bits = 7, parity = \"odd\"",
        _ => "",
    };
    let name = target.name;
    let mut toml = format!("[device.{name}]\nserial  = {{ port = {:?}, baud = {rate}{bits} }}", target.port);
    if let Some(end) = end {
        toml.push_str(&format!("\nframing = {}", end.framing()));
    }
    if target.configured.is_none() {
        toml.push_str(&format!("\npublish = \"{name}/text\""));
    }
    toml
}

#[cfg(test)]
mod tests {
    use super::super::finding::Severity;
    use super::*;

    const TIME: Duration = Duration::from_secs(1);

    fn heard(bytes: &[u8]) -> Heard {
        Heard { bytes: bytes.to_vec(), ..Heard::default() }
    }

    fn garbage() -> Heard {
        heard(&[0x00, 0xFE, 0x80, 0x00, 0xE0, 0xFE, 0x00, 0x00, 0xF8, 0x80])
    }

    fn target<'a>(configured: Option<(&'a Serial, &'a Framing)>) -> Target<'a> {
        let port = "/dev/serial/by-id/usb-A \"quoted\"".to_owned();
        Target { subject: "device a", name: "a", port, path: Path::new("/dev/ttyUSB0"), configured }
    }

    fn configured(text: &str) -> (Serial, Framing) {
        let text = format!("[device.a]\nserial = {{ port = \"/dev/ttyUSB0\", {text}");
        let mut loaded = crate::config::parse(&text, "t", Path::new("/")).unwrap();
        let device = loaded.config.devices.remove("a").unwrap();
        let crate::config::Transport::Serial(serial) = device.transport else { panic!("not serial") };
        (serial, device.framing)
    }

    #[test]
    fn the_toml_for_an_unknown_device_is_a_configuration() {
        let even: Vec<u8> =
            b"12.50 kg\r\n12.51 kg\r\n".iter().map(|b| if b.count_ones() % 2 == 0 { *b } else { b | 0x80 }).collect();
        let finding = judge(&target(None), &[(9600, garbage()), (1200, heard(&even))], TIME);
        assert_eq!(finding.severity, Severity::Fine);
        let loaded = crate::config::parse(&finding.fix[0], "t", Path::new("/")).unwrap();
        let device = &loaded.config.devices["a"];
        let crate::config::Transport::Serial(serial) = &device.transport else { panic!("not serial") };
        assert_eq!((serial.baud, serial.data_bits, serial.parity), (1200, 7, Parity::Even));
        assert_eq!(serial.port, target(None).port.parse().unwrap());
    }

    #[test]
    fn a_wrong_baud_is_told_with_the_right_one() {
        let (serial, framing) = configured("baud = 9600 }");
        let target = target(Some((&serial, &framing)));
        let text = heard(b"T=21.5\r\nT=21.6\r\n");
        let finding = judge(&target, &[(9600, garbage()), (115_200, text.clone())], TIME);
        assert_eq!(finding.severity, Severity::Problem);
        assert!(finding.what.starts_with("wrong baud: 9600 is configured"), "{finding:?}");
        assert!(finding.why.contains("at 9600 baud 100 % of 10 bytes are not text"), "{finding:?}");
        assert!(finding.fix[0].contains("baud = 115200"));
        assert_eq!(judge(&target, &[(9600, text)], TIME).severity, Severity::Fine);
        let etx = judge(&target, &[(9600, heard(b"4006381333931\x034006381333931\x03"))], TIME);
        assert!(etx.what.starts_with("wrong framing"), "{etx:?}");
        assert!(etx.fix[0].contains("\\u0003"), "{etx:?}");
        let silent = judge(&target, &[(9600, heard(b""))], TIME);
        assert_eq!(silent.severity, Severity::Warning);
        assert!(silent.what.contains("said nothing"));
    }

    #[test]
    fn binary_bytes_are_as_configured_or_told() {
        let (serial, framing) = configured("baud = 9600 }\nframing = \"cobs\"");
        let binary = target(Some((&serial, &framing)));
        assert!(is_settled(&binary, &garbage(), 1));
        assert_eq!(judge(&binary, &[(9600, garbage())], TIME).severity, Severity::Fine);
        let damaged = Heard { errors: 5, ..garbage() };
        assert!(!is_settled(&binary, &damaged, 1));
        let finding = judge(&binary, &[(9600, damaged.clone()), (115_200, garbage()), (19_200, damaged)], TIME);
        assert_eq!(finding.severity, Severity::Warning);
        assert!(finding.fix[0].contains("baud = 115200"), "{finding:?}");
        let finding = judge(&target(None), &[(9600, garbage()), (115_200, garbage())], TIME);
        assert_eq!(finding.fix.len(), 1, "no speed is better than another: {finding:?}");
    }
}
