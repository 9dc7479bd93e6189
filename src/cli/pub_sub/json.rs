//! `-F %j` and `%J`: a message as one JSON object, as mosquitto_sub prints it.

use std::io::{self, Write};

use jiff::Zoned;
use serde_json::{Map, Value, json};

use crate::cli::escape;
use crate::cli::output::complain;
use crate::mqtt_client::{Message, PublishProperties};

/// Writes the object. With `escaped` the payload is a string, otherwise it must be JSON itself; a payload that is
/// not is reported on stderr and nothing is written.
pub fn write(message: &Message, now: &Zoned, escaped: bool, out: &mut impl Write) -> io::Result<()> {
    let payload = match (message.payload.is_empty(), escaped) {
        (true, _) => "null".to_owned(),
        (false, true) => Value::from(String::from_utf8_lossy(&message.payload)).to_string(),
        (false, false) => match compact(&message.payload) {
            Some(json) => json,
            None => {
                let topic = escape::encode(&message.topic);
                complain(format_args!("Error: Message payload is not valid JSON on topic {topic}."));
                return Ok(());
            }
        },
    };
    let mut head = Map::new();
    head.insert("tst".to_owned(), now.strftime("%Y-%m-%dT%H:%M:%S.%6f%z").to_string().into());
    head.insert("topic".to_owned(), String::from_utf8_lossy(&message.topic).into());
    head.insert("qos".to_owned(), message.qos.into());
    head.insert("retain".to_owned(), u8::from(message.retain).into());
    head.insert("payloadlen".to_owned(), message.payload.len().into());
    if message.qos > 0 {
        head.insert("mid".to_owned(), message.packet_id.into());
    }
    if let Some(properties) = &message.properties {
        head.insert("properties".to_owned(), properties_object(properties));
    }
    let head = Value::Object(head).to_string();
    // The payload goes in as text: numbers keep the digits they came with.
    write!(out, "{},\"payload\":{payload}}}", head.strip_suffix('}').unwrap_or(&head))
}

/// JSON without the white space between its tokens; `None` if it is not JSON.
fn compact(payload: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(payload).ok()?;
    serde_json::from_str::<serde::de::IgnoredAny>(text).ok()?;
    let (mut compact, mut in_string, mut escaped) = (String::with_capacity(text.len()), false, false);
    for c in text.chars() {
        if in_string || !c.is_ascii_whitespace() {
            compact.push(c);
        }
        match c {
            '"' if !escaped => in_string = !in_string,
            _ => {}
        }
        escaped = in_string && c == '\\' && !escaped;
    }
    Some(compact)
}

fn properties_object(properties: &PublishProperties) -> Value {
    let mut object = Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            object.insert(name.to_owned(), value);
        }
    };
    put("payload-format-indicator", properties.payload_format_indicator.map(Value::from));
    put("message-expiry-interval", properties.message_expiry_interval.map(Value::from));
    put("content-type", properties.content_type.clone().map(Value::from));
    put("response-topic", properties.response_topic.clone().map(Value::from));
    let correlation = properties.correlation_data.as_deref();
    put("correlation-data", correlation.map(|data| String::from_utf8_lossy(data).into()));
    put("subscription-identifier", properties.subscription_identifiers.first().map(|id| json!(id)));
    put("topic-alias", properties.topic_alias.map(Value::from));
    if !properties.user_properties.is_empty() {
        let pairs = properties.user_properties.iter().map(|(name, value)| (name.clone(), value.clone().into()));
        put("user-properties", Some(Value::Object(pairs.collect())));
    }
    Value::Object(object)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    fn show(message: &Message, escaped: bool) -> String {
        let now = "2020-05-06T22:12:00.000012+01:00[+01:00]".parse().unwrap();
        let mut out = Vec::new();
        write(message, &now, escaped, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn message(payload: &'static [u8]) -> Message {
        Message { topic: Bytes::from_static(b"foo"), payload: Bytes::from_static(payload), ..Message::default() }
    }

    #[test]
    fn payload_as_a_string() {
        assert_eq!(
            show(&message(b"hello \"world\"\n"), true),
            r#"{"tst":"2020-05-06T22:12:00.000012+0100","topic":"foo","qos":0,"retain":0,"payloadlen":14,"payload":"hello \"world\"\n"}"#
        );
        let message = Message { qos: 2, packet_id: 9, retain: true, ..message(b"") };
        assert_eq!(
            show(&message, true),
            r#"{"tst":"2020-05-06T22:12:00.000012+0100","topic":"foo","qos":2,"retain":1,"payloadlen":0,"mid":9,"payload":null}"#
        );
    }

    #[test]
    fn payload_as_json_keeps_its_digits() {
        let shown = show(&message(br#"{ "t": 27.0, "s" : "a \" b\\" , "n":[1, 2]}"#), false);
        assert!(shown.ends_with(r#","payload":{"t":27.0,"s":"a \" b\\","n":[1,2]}}"#), "{shown}");
        assert_eq!(show(&message(b"not json"), false), "");
    }

    proptest! {
        #[test]
        fn whatever_comes_the_object_is_json(payload: Vec<u8>, topic: String) {
            let message = Message { payload: payload.clone().into(), topic: topic.clone().into(), ..Message::default() };
            let value: Value = serde_json::from_str(&show(&message, true)).unwrap();
            prop_assert_eq!(&value["topic"], &topic);
        }

        #[test]
        fn compacting_keeps_the_value(texts in proptest::collection::vec(any::<String>(), 0..4)) {
            let value = json!({ "k": texts, "n": [1.5, null, true] });
            let pretty = serde_json::to_string_pretty(&value).unwrap();
            prop_assert_eq!(compact(pretty.as_bytes()), Some(value.to_string()));
        }
    }
}
