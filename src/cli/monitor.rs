//! `gatepost monitor`.

use std::io::{self, Write};
use std::process::ExitCode;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::client::{ANSWER_TIME, Failure, Socket};
use super::{escape, exit, output};
use crate::control::protocol::{Data, Line, Request, Shown, ShownMade};

/// Show the frames of a device as they come and go, and what the rules make of them
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Each line begins with the time and with what happened:
  in         a frame came, and below it what became of it: published, dropped, or waiting for min_interval
  later      what min_interval had held back
  command    a message came on a topic that the device subscribes to, and below it the frames that it makes
  out        a frame was written, or below it why it was dropped: expired, offline, pushed out of the queue, …
  discarded  bytes that are no frame
Bytes that are no text are shown as \\xHH, as `gatepost route` takes them. Frames are shown without their framing.
The gateway does not wait for this command: when that is too slow, frames are left out and counted.
It ends when the device does, also when a reload restarts that.

Examples:
  gatepost monitor arduino
  gatepost monitor meter --hex

Exit codes: 0 the device was removed or restarted, or the gateway stopped; 1 no such device; 69 no gateway runs.")]
pub struct Args {
    /// The device, by its name in the configuration
    device: String,
    /// Show frames and messages as hexadecimal digits, too
    #[arg(long)]
    hex: bool,
    #[command(flatten)]
    socket: Socket,
}

/// Runs the command.
pub fn run(args: Args) -> ExitCode {
    match watch(&args) {
        Ok(written) => output::finish(written, exit::OK),
        Err(failure) => failure.report(),
    }
}

/// Prints until no more comes, or can be written.
fn watch(args: &Args) -> Result<io::Result<()>, Failure> {
    let mut client = args.socket.connect()?;
    client.ask(&Request::Monitor { device: args.device.clone() }, ANSWER_TIME)?;
    client.set_limit(None)?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    let zone = TimeZone::system();
    loop {
        // What is there already goes out together.
        let mut written = if client.is_drained() { out.flush() } else { Ok(()) };
        if written.is_err() {
            return Ok(written);
        }
        let Some(text) = client.line()? else { break };
        // What a newer gateway may say is left out.
        let Ok(line) = serde_json::from_str::<Line>(&text) else { continue };
        let text = Printer { zone: &zone, hex: args.hex }.print(&line);
        written = out.write_all(text.as_bytes());
        if written.is_err() {
            return Ok(written);
        }
    }
    let written = out.flush();
    let why = "the device was removed or restarted, or the gateway has stopped";
    output::complain(format_args!("{}: no more; {why}", args.device));
    Ok(written)
}

struct Printer<'a> {
    zone: &'a TimeZone,
    hex: bool,
}

impl Printer<'_> {
    fn print(&self, line: &Line) -> String {
        let time = match line.time.parse::<Timestamp>() {
            Ok(time) => time.to_zoned(self.zone.clone()).strftime("%H:%M:%S%.3f").to_string(),
            Err(_) => line.time.clone(),
        };
        let mut text = String::new();
        let head = |event: &str, rest: &str| format!("{time} {event:<9} {rest}").trim_end().to_owned() + "\n";
        match &line.event {
            Shown::In { peer, frame, made } => {
                text += &head("in", &from(peer.as_deref(), frame));
                text += &self.dump(frame);
                if made.is_empty() {
                    text += &detail("waits", "for min_interval");
                }
                text += &self.made(made);
            }
            Shown::Later { made } => {
                text += &head("later", "");
                text += &self.made(made);
            }
            Shown::Discarded { reason, count } => text += &head("discarded", &format!("{reason} {count}")),
            Shown::Command { topic, payload, made } => {
                text += &head("command", &format!("{} {}", shown(topic), show(payload)));
                text += &self.dump(payload);
                text += &self.made(made);
            }
            Shown::Out { peer, frame, dropped } => {
                text += &head("out", &from(peer.as_deref(), frame));
                text += &self.dump(frame);
                if let Some(reason) = dropped {
                    text += &detail("dropped", reason);
                }
            }
            Shown::State { online } => text += &head(if *online { "online" } else { "offline" }, ""),
            Shown::Missed { frames_in, frames_out, others } => {
                text += &format!("… {} frames not shown", frames_in + frames_out);
                text += &format!(" ({frames_in} in, {frames_out} out), {others} other events\n");
            }
        }
        text
    }

    fn made(&self, made: &[ShownMade]) -> String {
        let mut text = String::new();
        for made in made {
            match made {
                ShownMade::Published { topic, qos, retain, payload } => {
                    let retained = if *retain { ", retained" } else { "" };
                    let message = format!("{} (qos {qos}{retained}) {}", shown(topic), show(payload));
                    text += &detail("published", &message);
                    text += &self.dump(payload);
                }
                ShownMade::Queued(frame) => text += &detail("queued", &show(frame)),
                ShownMade::Dropped { reason, detail: why } => {
                    let why = why.as_deref().map(|why| format!(": {}", shown(why))).unwrap_or_default();
                    text += &detail("dropped", &format!("{reason}{why}"));
                }
            }
        }
        text
    }

    /// With `--hex`, 16 bytes a line.
    fn dump(&self, data: &Data) -> String {
        let bytes = data.bytes().filter(|_| self.hex).unwrap_or_default();
        let line = |(number, chunk): (usize, &[u8])| {
            let visible = |&byte: &u8| if (b' '..=b'~').contains(&byte) { char::from(byte) } else { '.' };
            let text: String = chunk.iter().map(visible).collect();
            format!("             {:06x}  {:<47}  |{text}|\n", number * 16, escape::hex(chunk))
        };
        bytes.chunks(16).enumerate().map(line).collect()
    }
}

fn detail(name: &str, rest: &str) -> String {
    format!("             {name:<9} {rest}").trim_end().to_owned() + "\n"
}

fn from(peer: Option<&str>, frame: &Data) -> String {
    match peer {
        Some(peer) => format!("{} {}", shown(peer), show(frame)),
        None => show(frame),
    }
}

fn show(data: &Data) -> String {
    data.bytes().map(|bytes| escape::encode(&bytes)).unwrap_or_default()
}

/// Nothing that comes from outside moves the cursor.
fn shown(text: &str) -> String {
    escape::encode(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(line: &str, hex: bool) -> String {
        Printer { zone: &TimeZone::UTC, hex }.print(&serde_json::from_str(line).unwrap())
    }

    #[test]
    fn frames_are_shown_with_what_became_of_them() {
        let line = r#"{"time":"2026-01-31T12:00:00.5Z","event":"in","peer":"10.0.0.1_7","text":"T=1\u001b","made":[
            {"published":{"topic":"a/b","qos":1,"retain":true,"hex":"ff41"}},
            {"dropped":{"reason":"parse","detail":"not JSON"}}]}"#;
        let expected = "\
12:00:00.500 in        10.0.0.1_7 T=1\\x1b
             published a/b (qos 1, retained) \\xffA
             dropped   parse: not JSON
";
        assert_eq!(printed(line, false), expected);
        let dumped = printed(line, true);
        assert!(dumped.contains("\n             000000  54 3d 31 1b "), "{dumped}");
        assert!(dumped.contains("  |.A|\n"), "{dumped}");
    }

    #[test]
    fn all_else_is_a_line_each() {
        let at = |rest: &str| printed(&format!(r#"{{"time":"2026-01-31T12:00:00.000Z",{rest}}}"#), false);
        assert_eq!(at(r#""event":"state","online":true"#), "12:00:00.000 online\n");
        assert_eq!(at(r#""event":"discarded","reason":"too_long","count":2"#), "12:00:00.000 discarded too_long 2\n");
        assert_eq!(at(r#""event":"out","text":"ON"}"#.trim_end_matches('}')), "12:00:00.000 out       ON\n");
        assert_eq!(
            at(r#""event":"in","text":"x","made":[]"#),
            "12:00:00.000 in        x\n             waits     for min_interval\n"
        );
        assert_eq!(
            at(r#""event":"missed","frames_in":12,"frames_out":1,"others":3"#),
            "… 13 frames not shown (12 in, 1 out), 3 other events\n"
        );
    }
}
