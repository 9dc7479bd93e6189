//! `-F`: mosquitto_sub's output formats. A format is parsed once, then rendered for each message.

use std::io::{self, Write};

use jiff::Zoned;

use super::{Screen, json};
use crate::mqtt_client::{Message, PublishProperties};

/// Why a `-F` string is not a format.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// It ends within a `%`, `@` or `\` sequence.
    #[error("the format ends in the middle of a '{0}' sequence\nhint: write {0}{0} for the character itself")]
    Incomplete(char),
    /// No such letter after `%` or `\`.
    #[error("the format has no sequence '{0}{1}'\nhint: `man mosquitto_sub` lists them under OUTPUT FORMAT")]
    Unknown(char, char),
}

/// A parsed format.
#[derive(Debug, PartialEq)]
pub struct Format(Vec<Piece>);

#[derive(Debug, PartialEq)]
enum Piece {
    Literal(Vec<u8>),
    Field(Field, Layout),
    /// `@X`, handed to strftime as `%X`.
    Time(char),
    /// `@N`
    Nanoseconds,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Field {
    TopicAlias,
    ContentType,
    CorrelationData,
    Expiry,
    PayloadFormat,
    IsoTime,
    Json,
    JsonRaw,
    Length,
    PacketId,
    UserProperties,
    Payload,
    Qos,
    ResponseTopic,
    Retain,
    SubscriptionId,
    Topic,
    UnixTime,
    HexLower,
    HexUpper,
}

/// `%-010.5t`: flags, least width, most characters.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Layout {
    left: bool,
    zero: bool,
    width: usize,
    precision: Option<usize>,
}

/// Widths beyond this are taken as this; a format cannot make one field fill the memory.
const MAX_WIDTH: usize = 65_536;

impl Format {
    /// Parses what stands after `-F`.
    pub fn parse(text: &str) -> Result<Format, FormatError> {
        let mut pieces = Vec::new();
        let mut literal = Vec::new();
        let mut rest = text.chars().peekable();
        while let Some(c) = rest.next() {
            let piece = match c {
                '%' => percent(&mut rest)?,
                '@' => match rest.next().ok_or(FormatError::Incomplete('@'))? {
                    '@' => Piece::Literal(b"@".to_vec()),
                    'N' => Piece::Nanoseconds,
                    letter => Piece::Time(letter),
                },
                '\\' => Piece::Literal(vec![escape(rest.next().ok_or(FormatError::Incomplete('\\'))?)?]),
                other => Piece::Literal(other.to_string().into_bytes()),
            };
            match piece {
                Piece::Literal(bytes) => literal.extend(bytes),
                piece => {
                    if !literal.is_empty() {
                        pieces.push(Piece::Literal(std::mem::take(&mut literal)));
                    }
                    pieces.push(piece);
                }
            }
        }
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal));
        }
        Ok(Format(pieces))
    }

    /// Writes `message` as the format says; `now` is when it came, in local time. Without a line end.
    pub fn render<W: Write>(
        &self,
        message: &Message,
        now: impl FnOnce() -> Zoned,
        out: &mut Screen<W>,
    ) -> io::Result<()> {
        let mut now = LazyTime::Pending(Some(now));
        for piece in &self.0 {
            match piece {
                // It is the user's own.
                Piece::Literal(bytes) => out.as_it_is().write_all(bytes)?,
                Piece::Nanoseconds => write!(out, "{:09}", now.get().subsec_nanosecond())?,
                Piece::Time(letter) => out.write_all(strftime(&format!("%{letter}"), now.get()).as_bytes())?,
                Piece::Field(field, layout) => write_field(*field, *layout, message, &mut now, out)?,
            }
        }
        Ok(())
    }
}

/// The clock is read when the format first asks for it, and once a message.
enum LazyTime<F> {
    Pending(Option<F>),
    Known(Zoned),
}

impl<F: FnOnce() -> Zoned> LazyTime<F> {
    fn get(&mut self) -> &Zoned {
        if let LazyTime::Pending(read) = self {
            // Pending holds its closure until the next line replaces it.
            *self = LazyTime::Known(read.take().map_or_else(Zoned::now, |read| read()));
        }
        match self {
            LazyTime::Known(time) => time,
            LazyTime::Pending(_) => unreachable!("the time was just read"),
        }
    }
}

fn percent(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<Piece, FormatError> {
    let mut layout = Layout { left: rest.next_if_eq(&'-').is_some(), ..Layout::default() };
    layout.zero = rest.next_if_eq(&'0').is_some();
    layout.width = number(rest).unwrap_or(0);
    if rest.next_if_eq(&'.').is_some() {
        layout.precision = Some(number(rest).unwrap_or(0));
    }
    let field = match rest.next().ok_or(FormatError::Incomplete('%'))? {
        '%' => return Ok(Piece::Literal(b"%".to_vec())),
        'A' => Field::TopicAlias,
        'C' => Field::ContentType,
        'D' => Field::CorrelationData,
        'E' => Field::Expiry,
        'F' => Field::PayloadFormat,
        'I' => Field::IsoTime,
        'j' => Field::Json,
        'J' => Field::JsonRaw,
        'l' => Field::Length,
        'm' => Field::PacketId,
        'P' => Field::UserProperties,
        'p' => Field::Payload,
        'q' => Field::Qos,
        'R' => Field::ResponseTopic,
        'r' => Field::Retain,
        'S' => Field::SubscriptionId,
        't' => Field::Topic,
        'U' => Field::UnixTime,
        'x' => Field::HexLower,
        'X' => Field::HexUpper,
        other => return Err(FormatError::Unknown('%', other)),
    };
    Ok(Piece::Field(field, layout))
}

fn number(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<usize> {
    let mut value = None;
    while let Some(digit) = rest.peek().and_then(|c| c.to_digit(10)) {
        rest.next();
        value = Some((value.unwrap_or(0) * 10 + digit as usize).min(MAX_WIDTH));
    }
    value
}

fn escape(letter: char) -> Result<u8, FormatError> {
    Ok(match letter {
        '\\' => b'\\',
        '0' => 0,
        'a' => 7,
        'e' => 27,
        'n' => b'\n',
        'r' => b'\r',
        't' => b'\t',
        'v' => 11,
        other => return Err(FormatError::Unknown('\\', other)),
    })
}

fn write_field<F: FnOnce() -> Zoned>(
    field: Field,
    layout: Layout,
    message: &Message,
    now: &mut LazyTime<F>,
    out: &mut impl Write,
) -> io::Result<()> {
    let properties = message.properties.as_deref();
    match field {
        Field::Topic => layout.text(Some(&message.topic), out),
        Field::Payload => layout.payload(&message.payload, Radix::Raw, out),
        Field::HexLower => layout.payload(&message.payload, Radix::Lower, out),
        Field::HexUpper => layout.payload(&message.payload, Radix::Upper, out),
        Field::Length => layout.number(Some(message.payload.len()), out),
        Field::PacketId => layout.number(Some(message.packet_id.into()), out),
        Field::Qos => write!(out, "{}", message.qos),
        Field::Retain => write!(out, "{}", u8::from(message.retain)),
        Field::IsoTime => layout.text(Some(strftime("%Y-%m-%dT%H:%M:%S%z", now.get()).as_bytes()), out),
        Field::UnixTime => {
            let time = now.get().timestamp();
            write!(out, "{}.{:09}", time.as_second(), time.subsec_nanosecond())
        }
        Field::Json => json::write(message, now.get(), true, out),
        Field::JsonRaw => json::write(message, now.get(), false, out),
        property => write_property(property, layout, properties, out),
    }
}

/// The MQTT 5 fields; each stays blank on a message without the property.
fn write_property(
    field: Field,
    layout: Layout,
    properties: Option<&PublishProperties>,
    out: &mut impl Write,
) -> io::Result<()> {
    let text = |get: fn(&PublishProperties) -> Option<&String>| properties.and_then(get).map(|text| text.as_bytes());
    match field {
        Field::TopicAlias => layout.number(properties.and_then(|p| p.topic_alias).map(usize::from), out),
        Field::Expiry => layout.number(properties.and_then(|p| p.message_expiry_interval).map(|v| v as usize), out),
        Field::PayloadFormat => {
            layout.number(properties.and_then(|p| p.payload_format_indicator).map(usize::from), out)
        }
        Field::SubscriptionId => {
            layout.number(properties.and_then(|p| p.subscription_identifiers.first().copied()), out)
        }
        Field::ContentType => layout.text(text(|p| p.content_type.as_ref()), out),
        Field::ResponseTopic => match text(|p| p.response_topic.as_ref()) {
            None => Ok(()),
            topic => layout.text(topic, out),
        },
        Field::CorrelationData => {
            out.write_all(properties.and_then(|p| p.correlation_data.as_deref()).unwrap_or_default())
        }
        _ => {
            let pairs = properties.map_or(&[][..], |p| &p.user_properties);
            for (index, (name, value)) in pairs.iter().enumerate() {
                write!(out, "{}{name}:{value}", if index > 0 { " " } else { "" })?;
            }
            Ok(())
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Radix {
    Raw,
    Lower,
    Upper,
}

impl Layout {
    fn number(self, value: Option<usize>, out: &mut impl Write) -> io::Result<()> {
        let width = self.width;
        match value {
            None => fill(if self.zero { b'0' } else { b' ' }, width, out),
            Some(value) if self.left => write!(out, "{value:<width$}"),
            Some(value) if self.zero => write!(out, "{value:0>width$}"),
            Some(value) => write!(out, "{value:>width$}"),
        }
    }

    /// Widths and the precision count bytes, as printf does.
    fn text(self, value: Option<&[u8]>, out: &mut impl Write) -> io::Result<()> {
        let value = value.unwrap_or_default();
        let value = &value[..self.precision.map_or(value.len(), |most| most.min(value.len()))];
        let padding = self.width.saturating_sub(value.len());
        if !self.left {
            fill(b' ', padding, out)?;
        }
        out.write_all(value)?;
        if self.left { fill(b' ', padding, out) } else { Ok(()) }
    }

    /// For payloads a width is the exact width: what is longer is cut. In hexadecimal mosquitto 2.0 halves what
    /// fits in the width; scripts that parse its columns rely on the sum, so that is kept.
    fn payload(self, payload: &[u8], radix: Radix, out: &mut impl Write) -> io::Result<()> {
        let (mut shown, mut padding) = (payload, 0);
        if self.width > 0 {
            shown = &payload[..payload.len().min(self.width)];
            if radix != Radix::Raw {
                shown = &shown[..shown.len() / 2];
            }
            let columns = if radix == Radix::Raw { shown.len() } else { shown.len() * 2 };
            padding = self.width - columns;
        }
        if !self.left {
            fill(if self.zero { b'0' } else { b' ' }, padding, out)?;
        }
        match radix {
            Radix::Raw => out.write_all(shown)?,
            Radix::Lower => out.write_all(hex::encode(shown).as_bytes())?,
            Radix::Upper => out.write_all(hex::encode_upper(shown).as_bytes())?,
        }
        if self.left { fill(b' ', padding, out) } else { Ok(()) }
    }
}

fn fill(byte: u8, count: usize, out: &mut impl Write) -> io::Result<()> {
    if count == 0 { Ok(()) } else { out.write_all(&vec![byte; count]) }
}

/// strftime in the C locale; a conversion that does not exist is printed as it stands, as glibc does.
fn strftime(format: &str, time: &Zoned) -> String {
    let config = jiff::fmt::strtime::Config::new().custom(jiff::fmt::strtime::PosixCustom::new());
    jiff::fmt::strtime::BrokenDownTime::from(time)
        .to_string_with_config(&config, format)
        .unwrap_or_else(|_| format.to_owned())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    fn noon() -> Zoned {
        "2016-08-10T09:47:38.000786368+01:00[+01:00]".parse().unwrap()
    }

    fn message(payload: &'static [u8]) -> Message {
        Message { topic: Bytes::from_static(b"a/topic"), payload: Bytes::from_static(payload), ..Message::default() }
    }

    fn show(format: &str, message: &Message) -> String {
        let mut out = Vec::new();
        Format::parse(format).unwrap().render(message, noon, &mut Screen::new(&mut out, false)).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn fields_with_widths() {
        let message = Message { qos: 1, retain: true, packet_id: 7, ..message(b"hello") };
        let table = [
            ("%t %p", "a/topic hello"),
            ("%q%r%m%l", "1175"),
            ("[%10t][%-10t][%10.3t][%.3t]", "[   a/topic][a/topic   ][       a/t][a/t]"),
            ("[%5l][%05l][%-5l]", "[    5][00005][5    ]"),
            ("[%8p][%-8p][%3p][%08p]", "[   hello][hello   ][hel][000hello]"),
            ("%x %X", "68656c6c6f 68656C6C6F"),
            ("[%10x]", "[      6865]"),
            ("%% @@ \\\\ \\t\\n\\e\\a\\v\\r", "% @ \\ \t\n\u{1b}\u{7}\u{b}\r"),
            ("[%C][%5C][%R][%5R][%A][%3A][%03E][%D][%P][%S]", "[][     ][][][][   ][000][][][]"),
        ];
        for (format, expected) in table {
            assert_eq!(show(format, &message), expected, "{format}");
        }
    }

    #[test]
    fn times() {
        let table = [
            ("%I", "2016-08-10T09:47:38+0100"),
            ("[%26I][%.10I]", "[  2016-08-10T09:47:38+0100][2016-08-10]"),
            ("%U", "1470818858.000786368"),
            ("@Y-@m-@d @H:@M:@S.@N", "2016-08-10 09:47:38.000786368"),
            ("@c|@x|@X|@s", "Wed Aug 10 09:47:38 2016|08/10/16|09:47:38|1470818858"),
            ("@!", "%!"),
        ];
        for (format, expected) in table {
            assert_eq!(show(format, &message(b"")), expected, "{format}");
        }
    }

    #[test]
    fn properties() {
        let properties = PublishProperties {
            payload_format_indicator: Some(1),
            message_expiry_interval: Some(60),
            topic_alias: None,
            response_topic: Some("re/ply".to_owned()),
            correlation_data: Some(Bytes::from_static(b"id-1")),
            user_properties: vec![("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())],
            subscription_identifiers: vec![9],
            content_type: Some("text/plain".to_owned()),
        };
        let message = Message { properties: Some(Box::new(properties)), ..message(b"x") };
        assert_eq!(show("%F %E %R %D %P %S %12C", &message), "1 60 re/ply id-1 a:1 b:2 9   text/plain");
    }

    #[test]
    fn wrong_formats_are_refused() {
        let table = [
            ("%", FormatError::Incomplete('%')),
            ("%-05.2", FormatError::Incomplete('%')),
            ("@", FormatError::Incomplete('@')),
            ("a\\", FormatError::Incomplete('\\')),
            ("%z", FormatError::Unknown('%', 'z')),
            ("\\z", FormatError::Unknown('\\', 'z')),
        ];
        for (format, error) in table {
            assert_eq!(Format::parse(format), Err(error), "{format}");
        }
    }

    #[test]
    fn on_a_terminal_only_the_format_itself_moves_the_cursor() {
        let properties = PublishProperties {
            user_properties: vec![("\u{1b}[2J".to_owned(), "\u{9b}".to_owned())],
            content_type: Some("\u{7}".to_owned()),
            ..PublishProperties::default()
        };
        let topic = Bytes::from_static(b"a/\x1b]0;x\x07");
        let message = Message { topic, properties: Some(Box::new(properties)), ..message(b"\x1b[2J\x9b\n") };
        let show = |format: &str, is_terminal| {
            let mut out = Vec::new();
            Format::parse(format).unwrap().render(&message, noon, &mut Screen::new(&mut out, is_terminal)).unwrap();
            out
        };
        let expected = b"\x1b[1ma/\\x1b]0;x\\x07 \\x1b[2J\\x9b\n \\x1b[2J:\\xc2\\x9b \\x07 6";
        assert_eq!(show("\\e[1m%t %p %P %C %l", true), expected);
        assert_eq!(show("\\e[1m%t %p", false), b"\x1b[1ma/\x1b]0;x\x07 \x1b[2J\x9b\n");
        assert!(!show("%j", true).iter().any(|byte| (0x7F..=0x9F).contains(byte) || *byte < b' '));
    }

    proptest! {
        #[test]
        fn any_format_parses_or_is_refused_and_never_panics(
            format in r"([%@\\]?[-0-9.]{0,3}[a-zA-Z%@ ])*", payload: Vec<u8>,
        ) {
            if let Ok(format) = Format::parse(&format) {
                let message = Message { payload: payload.into(), ..Message::default() };
                format.render(&message, noon, &mut Screen::new(Vec::new(), false)).unwrap();
            }
        }

        #[test]
        fn any_bytes_pass_unchanged(payload: Vec<u8>) {
            let mut out = Vec::new();
            let message = Message { payload: payload.clone().into(), ..Message::default() };
            Format::parse("%p").unwrap().render(&message, noon, &mut Screen::new(&mut out, false)).unwrap();
            prop_assert_eq!(out, payload);
        }
    }
}
