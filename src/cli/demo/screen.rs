//! What the demo prints.

use std::io::{self, IsTerminal, Write};

use serde_json::Value;

/// A line on one of the simulated wires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// The device's name.
    pub device: &'static str,
    /// Whether the device wrote it; otherwise it was written to the device.
    pub from_device: bool,
    /// Without line end.
    pub line: String,
}

/// Where it is printed.
pub struct Screen<W = io::Stdout> {
    out: W,
    colour: bool,
}

const GREEN: &str = "32";
const YELLOW: &str = "33";
const BOLD: &str = "1";
const DIM: &str = "2";

impl Screen {
    /// Standard output; in colour on a terminal unless `NO_COLOR` is set.
    pub fn on_stdout() -> Screen {
        let out = io::stdout();
        let colour = out.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Screen { out, colour }
    }
}

impl<W: Write> Screen<W> {
    /// What there is, and what to type.
    pub fn introduce(&mut self, port: u16, light: &str) -> io::Result<()> {
        let heading =
            self.paint(BOLD, "gatepost demo: a weather board on a serial port and a light on TCP, both simulated");
        let commands = [
            format!("mosquitto_sub -h 127.0.0.1 -p {port} -t 'demo/#' -t 'smarthome/#' -v"),
            format!("mosquitto_pub -h 127.0.0.1 -p {port} -t {light} -m ON"),
            format!("gatepost sub -h 127.0.0.1 -p {port} -t '#' -F '@H:@M:@S %t %p'"),
            format!("gatepost pub -h 127.0.0.1 -p {port} -t demo/board/set -m 'LED ON'"),
        ];
        writeln!(self.out, "{heading}\n\nThe broker listens on 127.0.0.1:{port}. In a second terminal type any of:")?;
        for command in commands {
            writeln!(self.out, "    {}", self.paint(BOLD, &command))?;
        }
        let (up, down) =
            (self.paint(GREEN, "up: from a wire to MQTT"), self.paint(YELLOW, "down: from MQTT to a wire"));
        writeln!(self.out, "\n{up}, {down}. Ctrl-C ends it.\n")?;
        self.out.flush()
    }

    /// A line on a wire.
    pub fn wire(&mut self, sighting: &Sighting) -> io::Result<()> {
        let Sighting { device, from_device, line } = sighting;
        match from_device {
            true => self.row(GREEN, "up  ", device, &format!("says    {line}")),
            false => self.row(YELLOW, "down", device, &format!("is told {line}")),
        }
    }

    /// A message on the broker. The gateway's own topics are left out: they are not what this is about.
    pub fn message(&mut self, topic: &str, payload: &[u8]) -> io::Result<()> {
        let text = format!("{topic} {}", printable(payload));
        match topic {
            _ if topic.starts_with("gatepost/") => Ok(()),
            "demo/weather" | "demo/board" => self.row(GREEN, "up  ", "mqtt", &text),
            _ if topic.ends_with("/state") => self.row(GREEN, "up  ", "mqtt", &text),
            _ => self.row(YELLOW, "down", "mqtt", &text),
        }
    }

    /// Totals of the devices' counters.
    pub fn sum_up(&mut self, stats: &[Value]) -> io::Result<()> {
        let sum = |key: &str| stats.iter().filter_map(|device| device[key].as_u64()).sum::<u64>();
        let dropped: u64 = stats
            .iter()
            .filter_map(|device| device["dropped"].as_object())
            .flat_map(|reasons| reasons.values().filter_map(Value::as_u64))
            .sum();
        let (published, written) = (sum("published"), sum("frames_out"));
        let line = format!("{published} messages from the wires, {written} to them, dropped {dropped}");
        writeln!(self.out, "\n{}", self.paint(BOLD, &line))?;
        self.out.flush()
    }

    fn row(&mut self, colour: &str, way: &str, who: &str, what: &str) -> io::Result<()> {
        let (way, who) = (self.paint(colour, way), self.paint(DIM, &format!("{who:<5}")));
        writeln!(self.out, "{way}  {who}  {what}")?;
        self.out.flush()
    }

    fn paint(&self, style: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{style}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Anyone on this machine may publish; their control characters do not reach the terminal.
fn printable(payload: &[u8]) -> String {
    String::from_utf8_lossy(payload).chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn printed(colour: bool, print: impl FnOnce(&mut Screen<Vec<u8>>) -> io::Result<()>) -> String {
        let mut screen = Screen { out: Vec::new(), colour };
        print(&mut screen).unwrap();
        String::from_utf8(screen.out).unwrap()
    }

    #[test]
    fn the_introduction_names_the_commands_with_the_port() {
        let text = printed(false, |screen| screen.introduce(1884, "smarthome/lights/office"));
        for part in [
            "mosquitto_sub -h 127.0.0.1 -p 1884 -t 'demo/#'",
            "mosquitto_pub -h 127.0.0.1 -p 1884 -t smarthome/lights/office -m ON",
            "gatepost sub -h 127.0.0.1 -p 1884",
        ] {
            assert!(text.contains(part), "{text}");
        }
        assert!(!text.contains('\x1b'));
        assert!(printed(true, |screen| screen.introduce(1, "l")).contains("\x1b[32mup"));
    }

    #[test]
    fn rows() {
        let said = Sighting { device: "board", from_device: true, line: "T=21.4 H=40".to_owned() };
        let told = Sighting { device: "light", from_device: false, line: "ON".to_owned() };
        assert_eq!(printed(false, |screen| screen.wire(&said)), "up    board  says    T=21.4 H=40\n");
        assert_eq!(printed(false, |screen| screen.wire(&told)), "down  light  is told ON\n");
        assert_eq!(printed(false, |screen| screen.message("a", b"x\x1b[2J")), "down  mqtt   a x?[2J\n");
        assert_eq!(printed(false, |screen| screen.message("gatepost/demo/status", b"online")), "");
    }

    #[test]
    fn totals() {
        let stats = [
            json!({ "published": 3, "frames_out": 1, "dropped": {} }),
            json!({ "published": 2, "frames_out": 4, "dropped": { "no_rule": 1, "partial": 1 } }),
        ];
        let text = printed(false, |screen| screen.sum_up(&stats));
        assert_eq!(text, "\n5 messages from the wires, 5 to them, dropped 2\n");
    }
}
