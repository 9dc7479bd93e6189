//! The payload forms of publish rules.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use super::compose::{Composition, Missing, Origin, Source};
use super::fields::Fields;
use super::json;
use crate::config::Payload;

/// 9999-12-31T23:59:59Z, the last second RFC 3339 has four digits for.
const LAST_SECOND: Duration = Duration::from_secs(253_402_300_799);

/// A payload form, compiled. An envelope is no such form: see [`envelope`].
#[derive(Debug)]
pub(super) enum Form {
    Raw,
    Text,
    Hex,
    Base64,
    Fields,
    Template(Composition),
}

impl Form {
    /// `None` for an envelope.
    pub(super) fn new(payload: &Payload, origin: &Origin) -> Option<Form> {
        Some(match payload {
            Payload::Raw => Form::Raw,
            Payload::Text => Form::Text,
            Payload::Hex => Form::Hex,
            Payload::Base64 => Form::Base64,
            Payload::Fields => Form::Fields,
            Payload::Template(template) => Form::Template(Composition::payload(template, origin)),
            Payload::Envelope => return None,
        })
    }

    /// Whether fields of the frame are needed.
    pub(super) fn wants_fields(&self) -> bool {
        match self {
            Form::Raw | Form::Text | Form::Hex | Form::Base64 => false,
            Form::Fields => true,
            Form::Template(template) => template.wants_fields(),
        }
    }

    /// The payload. Raw, and text that is UTF-8, are the frame itself.
    pub(super) fn render(&self, source: &Source<'_>) -> Result<Bytes, Missing> {
        let frame = source.frame;
        Ok(match self {
            Form::Raw => frame.clone(),
            Form::Text if std::str::from_utf8(frame).is_ok() => frame.clone(),
            Form::Text => String::from_utf8_lossy(frame).into_owned().into(),
            Form::Hex => hex::encode(frame).into(),
            Form::Base64 => STANDARD.encode(frame).into(),
            Form::Fields => {
                let mut payload = Vec::with_capacity(frame.len() + 32);
                push_fields(&mut payload, source.fields);
                payload.into()
            }
            Form::Template(template) => template.render_payload(source)?,
        })
    }
}

/// `at` in UTC with milliseconds (RFC 3339).
pub fn rfc3339(at: SystemTime) -> impl std::fmt::Display {
    // Outside these bounds RFC 3339 has no name for the time.
    humantime::format_rfc3339_millis(at.clamp(UNIX_EPOCH, UNIX_EPOCH + LAST_SECOND))
}

/// `{"time":…,"seq":…,"gateway":…,"device":…,"text"|"hex":…,"fields":{…}}`: `hex` for a frame that is not UTF-8,
/// `fields` only when there are some, time in UTC with milliseconds (RFC 3339).
pub(super) fn envelope(source: &Source<'_>, origin: &Origin, sequence: u64, wall: SystemTime) -> Bytes {
    let mut out = Vec::with_capacity(source.frame.len() + 128);
    let time = rfc3339(wall);
    out.extend_from_slice(format!("{{\"time\":\"{time}\",\"seq\":{sequence},\"gateway\":").as_bytes());
    json::push_string(&mut out, origin.gateway.as_bytes());
    out.extend_from_slice(b",\"device\":");
    json::push_string(&mut out, origin.device.as_bytes());
    if std::str::from_utf8(source.frame).is_ok() {
        out.extend_from_slice(b",\"text\":");
        json::push_string(&mut out, source.frame);
    } else {
        out.extend_from_slice(b",\"hex\":");
        json::push_string(&mut out, hex::encode(source.frame).as_bytes());
    }
    if !source.fields.is_empty() {
        out.extend_from_slice(b",\"fields\":");
        push_fields(&mut out, source.fields);
    }
    out.push(b'}');
    out.into()
}

fn push_fields(out: &mut Vec<u8>, fields: &Fields<'_>) {
    out.push(b'{');
    for (index, (name, value)) in fields.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        json::push_string(out, name.as_bytes());
        out.push(b':');
        value.push_json(out);
    }
    out.push(b'}');
}

#[cfg(test)]
mod tests {
    use super::super::fields::Extractor;
    use super::super::fixture::matching;
    use super::*;
    use crate::template::Template;

    fn origin() -> Origin {
        Origin { gateway: "hut".to_owned(), device: "board".to_owned() }
    }

    fn with_source<T>(frame: &Bytes, pattern: &str, then: impl FnOnce(&Source<'_>) -> T) -> T {
        let mut extractor = Extractor::new(&matching(pattern, "t"), true);
        let fields = extractor.extract(frame).unwrap().unwrap();
        then(&Source { frame, peer: None, fields: &fields })
    }

    fn rendered(payload: &Payload, frame: &'static [u8], pattern: &str) -> Bytes {
        let form = Form::new(payload, &origin()).unwrap();
        with_source(&Bytes::from_static(frame), pattern, |source| form.render(source).unwrap())
    }

    #[test]
    fn each_form_is_as_the_contract_says() {
        let template = Payload::Template(Template::parse(r#"{"t":{temp}}"#));
        assert_eq!(rendered(&Payload::Raw, b"\xff\0", ""), &b"\xff\0"[..]);
        assert_eq!(rendered(&Payload::Text, b"a\xffb", ""), "a\u{fffd}b");
        assert_eq!(rendered(&Payload::Hex, b"\xfe\x01", ""), "fe01");
        assert_eq!(rendered(&Payload::Base64, b"\xff\xff", ""), "//8=");
        assert_eq!(rendered(&template, b"T=21.50", "T=(?<temp>.*)"), r#"{"t":21.50}"#);
        let fields = rendered(&Payload::Fields, b"21.50 007 \"", "(?<a>[^ ]*) (?<b>[^ ]*) (?<c>.*)");
        assert_eq!(fields, r#"{"a":21.50,"b":"007","c":"\""}"#);
        assert_eq!(rendered(&Payload::Fields, b"x", ""), "{}");
    }

    #[test]
    fn the_frame_itself_goes_on_where_nothing_changes() {
        let frame = Bytes::from_static(b"text");
        for payload in [Payload::Raw, Payload::Text, Payload::Template(Template::parse("{payload}"))] {
            let form = Form::new(&payload, &origin()).unwrap();
            let out = with_source(&frame, "", |source| form.render(source).unwrap());
            assert_eq!(out.as_ptr(), frame.as_ptr(), "{payload:?}");
        }
    }

    #[test]
    fn envelopes_carry_time_origin_frame_and_fields() {
        let wall = UNIX_EPOCH + Duration::from_millis(1_700_000_000_050);
        let text = Bytes::from_static(b"T=1");
        let made = with_source(&text, "T=(?<t>.)", |source| envelope(source, &origin(), 7, wall));
        let expected = concat!(
            r#"{"time":"2023-11-14T22:13:20.050Z","seq":7,"gateway":"hut","device":"board","#,
            r#""text":"T=1","fields":{"t":1}}"#
        );
        assert_eq!(made, expected);

        let binary = Bytes::from_static(b"\xff\x00");
        let made = with_source(&binary, "", |source| envelope(source, &origin(), 8, wall));
        assert!(made.ends_with(br#""device":"board","hex":"ff00"}"#), "{made:?}");
    }

    #[test]
    fn times_without_a_name_are_moved_to_the_nearest_with_one() {
        let frame = Bytes::from_static(b"x");
        for (wall, year) in [
            (UNIX_EPOCH - Duration::from_secs(1), "1970-01-01T00:00:00.000Z"),
            (UNIX_EPOCH + LAST_SECOND + Duration::from_secs(1), "9999-12-31T23:59:59.000Z"),
        ] {
            let made = with_source(&frame, "", |source| envelope(source, &origin(), 1, wall));
            assert!(String::from_utf8(made.to_vec()).unwrap().contains(year));
        }
    }
}
