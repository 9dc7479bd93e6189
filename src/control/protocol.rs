//! What is said on the control socket: see [`control`](super).

use std::time::SystemTime;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::device::rules::{Publication, peer_name, rfc3339};
use crate::device::watch::{Event, Made, What};
use crate::stats::DropReason;

/// A line to the gateway.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Request {
    /// What runs, and all counters.
    Status,
    /// Live frames of a device.
    Monitor {
        /// Its name.
        device: String,
    },
    /// Writes one frame.
    Send {
        /// To this device.
        device: String,
        /// Of a `tcp_server`: to this connection only, by its `{peer}`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        peer: Option<String>,
        /// The frame, without its framing.
        #[serde(flatten)]
        frame: Data,
    },
    /// Closes a device and leaves it alone.
    Release {
        /// Its name.
        device: String,
        /// For so long; until `acquire` without it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        for_ms: Option<u64>,
    },
    /// Takes a device back.
    Acquire {
        /// Its name.
        device: String,
    },
    /// Applies the configuration as it is now.
    Reload,
}

/// Bytes in JSON: as text if they are UTF-8, else as hexadecimal digits. Never both.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case", try_from = "Fields")]
pub enum Data {
    /// UTF-8.
    Text(String),
    /// Two digits a byte.
    Hex(String),
}

/// The fields that [`Data`] is read from.
#[derive(Deserialize)]
struct Fields {
    text: Option<String>,
    hex: Option<String>,
}

impl TryFrom<Fields> for Data {
    type Error = &'static str;

    fn try_from(fields: Fields) -> Result<Data, &'static str> {
        match (fields.text, fields.hex) {
            (Some(text), None) => Ok(Data::Text(text)),
            (None, Some(digits)) => Ok(Data::Hex(digits)),
            (None, None) => Err("`text` or `hex` is missing: the bytes as UTF-8, or as hexadecimal digits"),
            (Some(_), Some(_)) => Err("`text` and `hex` are both there: which of them is meant?"),
        }
    }
}

/// A line from the gateway that is no event: `{"ok": …}` or `{"error": …}`.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It was done; what came of it depends on the request.
    Ok(Value),
    /// It was not done.
    Error(Refusal),
}

/// Why something was not done.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Refusal {
    /// For programs.
    pub code: Code,
    /// For people; may have several lines, with hints.
    pub message: String,
}

/// Kinds of refusals.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The request is not one of [`Request`], or not in time or bounds. The connection is closed.
    BadRequest,
    /// No device has that name.
    UnknownDevice,
    /// The frame was not written.
    NotWritten,
    /// The configuration is wrong; the old one goes on.
    Config,
    /// Too many connections, an earlier reload that does not end, or the gateway stops.
    Unavailable,
    /// Anything else.
    Failed,
}

impl Data {
    /// As text if that is possible.
    pub fn new(bytes: &[u8]) -> Data {
        match std::str::from_utf8(bytes) {
            Ok(text) => Data::Text(text.to_owned()),
            Err(_) => Data::Hex(hex::encode(bytes)),
        }
    }

    /// The bytes; `None` for what are no hexadecimal digits.
    pub fn bytes(&self) -> Option<Bytes> {
        match self {
            Data::Text(text) => Some(Bytes::copy_from_slice(text.as_bytes())),
            Data::Hex(digits) => hex::decode(digits).ok().map(Bytes::from),
        }
    }
}

/// A line of `monitor`.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Line {
    /// When, RFC 3339 in UTC with milliseconds.
    pub time: String,
    /// What.
    #[serde(flatten)]
    pub event: Shown,
}

/// What a line of `monitor` is about; see [`What`].
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Shown {
    /// A frame came.
    In {
        /// Who sent it: a `{peer}`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        peer: Option<String>,
        /// The frame.
        #[serde(flatten)]
        frame: Data,
        /// What the rules made of it.
        made: Vec<ShownMade>,
    },
    /// `min_interval` let something go.
    Later {
        /// What became of it.
        made: Vec<ShownMade>,
    },
    /// Bytes that are no frame.
    Discarded {
        /// Why: a name from the stats topics.
        reason: String,
        /// How many, as the counter counts.
        count: u64,
    },
    /// A message for the device.
    Command {
        /// On this topic.
        topic: String,
        /// Its payload.
        #[serde(flatten)]
        payload: Data,
        /// What the rules made of it.
        made: Vec<ShownMade>,
    },
    /// A frame was written; with `dropped` it left its queue otherwise.
    Out {
        /// To whom.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        peer: Option<String>,
        /// The frame.
        #[serde(flatten)]
        frame: Data,
        /// Why it was not written.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        dropped: Option<String>,
    },
    /// The link came up or went.
    State {
        /// Whether it is up.
        online: bool,
    },
    /// Lines that are not shown, because they were not read in time.
    Missed {
        /// [`Shown::In`].
        frames_in: u64,
        /// [`Shown::Out`].
        frames_out: u64,
        /// All others.
        others: u64,
    },
}

/// What the rules made; see [`Made`].
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum ShownMade {
    /// A message.
    Published {
        /// Its topic.
        topic: String,
        /// Its QoS.
        qos: u8,
        /// Whether it is retained.
        retain: bool,
        /// Its payload.
        #[serde(flatten)]
        payload: Data,
    },
    /// A frame for the device; [`Shown::Out`] tells what becomes of it.
    Queued(Data),
    /// Nothing.
    Dropped {
        /// Why: a name from the stats topics.
        reason: String,
        /// Why, for people.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        detail: Option<String>,
    },
}

impl Line {
    /// How `event` is shown.
    pub fn new(event: &Event) -> Line {
        Line { time: time(event.time), event: Shown::new(&event.what) }
    }
}

/// RFC 3339 in UTC with milliseconds.
pub fn time(at: SystemTime) -> String {
    rfc3339(at).to_string()
}

impl Shown {
    fn new(what: &What) -> Shown {
        let name = |reason: &DropReason| reason.as_str().to_owned();
        match what {
            What::In { frame, peer, made } => {
                Shown::In { peer: peer.map(peer_name), frame: Data::new(frame), made: shown(made) }
            }
            What::Later { made } => Shown::Later { made: shown(made) },
            What::Discarded { reason, count } => Shown::Discarded { reason: name(reason), count: *count },
            What::Command { topic, payload, made } => {
                Shown::Command { topic: topic.to_string(), payload: Data::new(payload), made: shown(made) }
            }
            What::Out { frame, peer, dropped } => {
                let dropped = dropped.as_ref().map(name);
                Shown::Out { peer: peer.map(peer_name), frame: Data::new(frame), dropped }
            }
            What::State { online } => Shown::State { online: *online },
            What::Missed(missed) => {
                Shown::Missed { frames_in: missed.frames_in, frames_out: missed.frames_out, others: missed.others }
            }
        }
    }
}

fn shown(made: &[Made]) -> Vec<ShownMade> {
    let show = |made: &Made| match made {
        Made::Published(Publication { topic, payload, qos, retain }) => ShownMade::Published {
            topic: topic.to_string(),
            qos: *qos as u8,
            retain: *retain,
            payload: Data::new(payload),
        },
        Made::Queued(frame) => ShownMade::Queued(Data::new(frame)),
        Made::Dropped { reason, detail } => {
            ShownMade::Dropped { reason: reason.as_str().to_owned(), detail: detail.clone() }
        }
    };
    made.iter().map(show).collect()
}

impl Answer {
    /// `{"error": …}`
    pub fn error(code: Code, message: impl Into<String>) -> Answer {
        Answer::Error(Refusal { code, message: message.into() })
    }

    /// `{"ok": {}}`
    pub fn done() -> Answer {
        Answer::Ok(json!({}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_as_documented() {
        let table = [
            (r#"{"command":"status"}"#, Request::Status),
            (r#"{"command":"monitor","device":"d"}"#, Request::Monitor { device: "d".to_owned() }),
            (
                r#"{"command":"send","device":"d","text":"ON"}"#,
                Request::Send { device: "d".to_owned(), peer: None, frame: Data::Text("ON".to_owned()) },
            ),
            (
                r#"{"command":"send","device":"d","peer":"10.0.0.1_7","hex":"ff00"}"#,
                Request::Send {
                    device: "d".to_owned(),
                    peer: Some("10.0.0.1_7".to_owned()),
                    frame: Data::Hex("ff00".to_owned()),
                },
            ),
            (
                r#"{"command":"release","device":"d","for_ms":60000}"#,
                Request::Release { device: "d".to_owned(), for_ms: Some(60_000) },
            ),
            (r#"{"command":"acquire","device":"d"}"#, Request::Acquire { device: "d".to_owned() }),
            (r#"{"command":"reload"}"#, Request::Reload),
        ];
        for (line, request) in table {
            assert_eq!(serde_json::from_str::<Request>(line).unwrap(), request, "{line}");
            assert_eq!(serde_json::to_string(&request).unwrap(), line);
        }
        for bad in ["", "{}", "7", r#"{"command":"stop"}"#, r#"{"command":"send","device":"d"}"#] {
            assert!(serde_json::from_str::<Request>(bad).is_err(), "{bad}");
        }
        for (rest, says) in [("", "`text` or `hex` is missing"), (r#","text":"a","hex":"ff""#, "both there")] {
            let line = format!(r#"{{"command":"send","device":"d"{rest}}}"#);
            let error = serde_json::from_str::<Request>(&line).unwrap_err().to_string();
            assert!(error.contains(says), "{line}: {error}");
        }
    }

    #[test]
    fn lines_are_read_as_they_are_written() {
        let made = vec![
            Made::Published(Publication {
                topic: crate::topic::TopicName::new("a/b").unwrap(),
                payload: Bytes::from_static(b"\xff"),
                qos: crate::qos::Qos::AtLeastOnce,
                retain: false,
            }),
            Made::Dropped { reason: DropReason::Parse, detail: Some("no".to_owned()) },
            Made::Queued(Bytes::from_static(b"x")),
        ];
        let what = What::In { frame: Bytes::from_static(b"T=1"), peer: "[::1]:7".parse().ok(), made };
        let line = Line::new(&Event { time: SystemTime::UNIX_EPOCH, what });
        let text = serde_json::to_string(&line).unwrap();
        assert_eq!(
            text,
            r#"{"time":"1970-01-01T00:00:00.000Z","event":"in","peer":"::1_7","text":"T=1","made":[{"published":{"topic":"a/b","qos":1,"retain":false,"hex":"ff"}},{"dropped":{"reason":"parse","detail":"no"}},{"queued":{"text":"x"}}]}"#
        );
        assert_eq!(serde_json::from_str::<Line>(&text).unwrap(), line);
    }

    #[test]
    fn bytes_survive() {
        for bytes in [&b"text"[..], b"\xff\x00", b""] {
            assert_eq!(Data::new(bytes).bytes().unwrap(), bytes);
        }
        assert_eq!(Data::Hex("f".to_owned()).bytes(), None);
    }
}
