//! What `gatepost route` prints.

use std::fmt::{Display, Write as _};
use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};

use crate::cli::escape;
use crate::config::{Device, Gateway};
use crate::device::rules::{Command, CommandOutcome, CommandRules, Now, Outcome, Publication, PublishRules, Target};
use crate::framing::Codec;
use crate::stats::DropReason;
use crate::topic::TopicName;

/// What to print, and whether anything would be published or written.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) text: String,
    pub(super) matched: bool,
}

/// What `frames` from each of `devices` would publish.
pub(super) fn frames(devices: &[&Device], gateway: &Gateway, peer: Option<SocketAddr>, frames: &[Bytes]) -> Report {
    let mut report = Report::default();
    let now = Now::read();
    for device in devices {
        let mut rules = PublishRules::new(device, gateway);
        let mut outcomes = Vec::new();
        for frame in frames {
            report.heading("frame", escape::encode(frame));
            rules.apply(frame, peer, now, &mut outcomes);
            if outcomes.is_empty() {
                report.line("waits", "until min_interval is over");
            }
            report.outcomes(&mut outcomes);
        }
        rules.flush(now, &mut outcomes);
        if !outcomes.is_empty() {
            report.heading("then", "when min_interval is over");
            report.outcomes(&mut outcomes);
        }
    }
    report
}

/// What messages with `payloads` on `topic` would write to `devices`.
pub(super) fn messages(devices: &[&Device], gateway: &Gateway, topic: &TopicName, payloads: &[Bytes]) -> Report {
    let mut report = Report::default();
    for payload in payloads {
        report.heading("message", format_args!("{} {}", escape::text(topic.as_str()), escape::encode(payload)));
        let mut subscribed = false;
        for device in devices {
            let mut outcomes = Vec::new();
            CommandRules::new(device, &gateway.name).render(topic.as_str(), payload, false, &mut outcomes);
            subscribed |= !outcomes.is_empty();
            for outcome in outcomes {
                report.line("device", &device.name);
                match outcome {
                    CommandOutcome::Command(command) => report.command(device, &command),
                    CommandOutcome::Dropped { reason, detail } => report.dropped(reason, detail.as_deref()),
                }
            }
        }
        if !subscribed {
            report.line("ignored", "no subscribe rule has a filter that matches");
        }
    }
    report
}

impl Report {
    fn outcomes(&mut self, outcomes: &mut Vec<Outcome>) {
        for outcome in outcomes.drain(..) {
            match outcome {
                Outcome::Publish(publication) => self.publication(&publication),
                Outcome::Dropped { reason, detail } => self.dropped(reason, detail.as_deref()),
            }
        }
    }

    fn publication(&mut self, publication: &Publication) {
        self.matched = true;
        self.line("topic", escape::text(publication.topic.as_str()));
        self.line("qos", publication.qos as u8);
        self.line("retain", publication.retain);
        match escape::plain(&publication.payload) {
            Some(text) => self.line("payload", text),
            None => {
                self.line("payload", escape::encode(&publication.payload));
                self.line("hex", escape::hex(&publication.payload));
            }
        }
    }

    fn command(&mut self, device: &Device, command: &Command) {
        match &command.target {
            Target::All => {}
            Target::Peer(peer) => self.line("peer", escape::text(peer)),
        }
        if let Some(age) = command.max_age {
            self.line("max_age", humantime::format_duration(age));
        }
        let mut wire = BytesMut::new();
        match Codec::new(&device.framing).encode(&command.frame, &mut wire) {
            Ok(()) => {
                self.matched = true;
                self.line("writes", escape::encode(&wire));
                self.line("hex", escape::hex(&wire));
            }
            Err(error) => self.dropped(error.reason(), Some(&error.to_string())),
        }
    }

    fn dropped(&mut self, reason: DropReason, detail: Option<&str>) {
        match detail {
            Some(detail) => self.line("dropped", format_args!("{}: {}", reason.as_str(), escape::text(detail))),
            None => self.line("dropped", reason.as_str()),
        }
    }

    fn heading(&mut self, name: &str, value: impl Display) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "{name} {value}");
    }

    fn line(&mut self, name: &str, value: impl Display) {
        let _ = writeln!(self.text, "  {name:<8} {value}");
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{self, Config};

    const CONFIG: &str = r#"
        [gateway]
        name = "hut"
        [device.board]
        tcp = { connect = "127.0.0.1:1" }
        [[device.board.publish]]
        match = "^T=(?<temp>[0-9.]+)"
        topic = "{gateway}/{device}/climate"
        payload = "fields"
        retain = true
        min_interval = "5s"
        [[device.board.publish]]
        match = '(?-u)^\xff'
        topic = "binary"
        qos = 0
        [[device.board.publish]]
        match = "^\\{"
        parse = "json"
        topic = "json/{id}"
        continue = true
        [[device.board.publish]]
        match = "^\\{"
        parse = "json"
        topic = "{id}/x"
        [[device.board.subscribe]]
        topic = "board/+/set"
        write = "{topic:2}={payload}"
        max_age = "1m"
        [device.scanners]
        tcp_server = { listen = "127.0.0.1:0" }
        framing = { type = "fixed", length = 2 }
        publish = "scanners/{peer}/code"
        subscribe = "scanners/{peer}/display"
    "#;

    fn config() -> Config {
        config::parse(CONFIG, "test.toml", Path::new("/")).unwrap().config
    }

    fn shown_frames(device: &str, peer: Option<&str>, input: &[&'static [u8]]) -> (String, bool) {
        let (config, peer) = (config(), peer.map(|peer| peer.parse().unwrap()));
        let input: Vec<Bytes> = input.iter().map(|frame| Bytes::from_static(frame)).collect();
        let report = frames(&[&config.devices[device]], &config.gateway, peer, &input);
        (report.text, report.matched)
    }

    fn shown_message(topic: &str, payload: &'static [u8]) -> (String, bool) {
        let config = config();
        let devices: Vec<&Device> = config.devices.values().collect();
        let report =
            messages(&devices, &config.gateway, &TopicName::new(topic).unwrap(), &[Bytes::from_static(payload)]);
        (report.text, report.matched)
    }

    #[test]
    fn publications_are_shown() {
        let expected = "frame T=21.50\n  topic    hut/board/climate\n  qos      1\n  retain   true\n  \
                        payload  {\"temp\":21.50}\n";
        assert_eq!(shown_frames("board", None, &[b"T=21.50"]), (expected.to_owned(), true));
        let expected = "frame \\xffx\n  topic    binary\n  qos      0\n  retain   false\n  \
                        payload  \\xffx\n  hex      ff 78\n";
        assert_eq!(shown_frames("board", None, &[b"\xffx"]), (expected.to_owned(), true));
    }

    #[test]
    fn what_waits_and_what_is_dropped_is_shown() {
        let (text, _) = shown_frames("board", None, &[b"T=1", b"T=2", b"T=3"]);
        let rest = text.split_once("frame T=2\n").unwrap().1;
        let expected = "  waits    until min_interval is over\nframe T=3\n  dropped  superseded\n\
                        then when min_interval is over\n  topic    hut/board/climate\n  qos      1\n  \
                        retain   true\n  payload  {\"temp\":3}\n";
        assert_eq!(rest, expected);
        let (text, matched) = shown_frames("board", None, &[b"noise", b"{"]);
        assert!(text.contains("  dropped  no_rule\n") && text.contains("  dropped  parse: not JSON"), "{text}");
        assert!(!matched);
    }

    #[test]
    fn nothing_in_it_moves_the_cursor() {
        let frame = r#"{"id":"\u001b]0;owned\u0007\u009b2J\u202e"}"#;
        let (text, matched) = shown_frames("board", None, &[frame.as_bytes()]);
        assert!(text.contains("  topic    json/_]0;owned__2J\\xe2\\x80\\xae\n") && matched, "{text}");
        let (more, _) = shown_frames("board", None, &[b"{\"\x1b[2J\":\x9b}", b"{\"id\":\"$\xe2\x80\xae\"}"]);
        assert!(more.contains("  dropped  reserved: the topic ") && more.contains("  dropped  parse: "), "{more}");
        let (message, _) = shown_message("scanners/\u{202e}/display", b"\x1b[2J");
        assert!(message.contains("  peer     \\xe2\\x80\\xae\n"), "{message}");
        for text in [text, more, message] {
            assert!(!text.contains(|c: char| c == '\u{202e}' || (c.is_control() && c != '\n')), "{text:?}");
        }
    }

    #[test]
    fn peers_fill_in_topics() {
        let (text, matched) = shown_frames("scanners", Some("[::ffff:10.0.0.1]:7"), &[b"x"]);
        assert!(text.contains("  topic    scanners/10.0.0.1_7/code\n") && matched, "{text}");
        let (text, matched) = shown_frames("scanners", None, &[b"x"]);
        assert!(text.contains("  dropped  missing_field: ") && !matched, "{text}");
    }

    #[test]
    fn bytes_written_are_shown() {
        let expected = "message board/led/set ON\n  device   board\n  max_age  1m\n  writes   led=ON\\n\n  \
                        hex      6c 65 64 3d 4f 4e 0a\n";
        assert_eq!(shown_message("board/led/set", b"ON"), (expected.to_owned(), true));
        let expected = "message scanners/10.0.0.1_7/display \\x00\\xff\n  device   scanners\n  \
                        peer     10.0.0.1_7\n  writes   \\x00\\xff\n  hex      00 ff\n";
        assert_eq!(shown_message("scanners/10.0.0.1_7/display", b"\0\xff"), (expected.to_owned(), true));
    }

    #[test]
    fn messages_that_write_nothing_are_told_of() {
        let (text, matched) = shown_message("nobody/listens", b"x");
        assert!(text.contains("  ignored  ") && !matched, "{text}");
        let (text, matched) = shown_message("scanners/all/display", b"too long");
        assert!(text.contains("  dropped  bad_frame: ") && !matched, "{text}");
    }
}
