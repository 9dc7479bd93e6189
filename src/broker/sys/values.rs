//! The topics and their values.

use std::borrow::Cow;

use super::load::Loads;
use crate::broker::figures::{Figures, Traffic};

/// A whole topic name.
pub type Topic = Cow<'static, str>;

/// What is published for `figures`: mosquitto's topics in its words, and after them those that it has not.
pub fn of(figures: &Figures, loads: &Loads) -> Vec<(Topic, String)> {
    let mut values: Vec<(Topic, String)> = vec![
        ("$SYS/broker/version".into(), concat!("gatepost version ", env!("CARGO_PKG_VERSION")).to_owned()),
        ("$SYS/broker/uptime".into(), format!("{} seconds", figures.uptime)),
    ];
    let store = ("$SYS/broker/store/state".into(), figures.store.state.as_str().to_owned());
    let numbers = numbers(figures);
    values.extend(numbers.into_iter().map(|(topic, number)| (topic.into(), number.to_string())));
    values.extend(
        loads.iter().map(|(name, span, load)| (format!("$SYS/broker/load/{name}/{span}").into(), format!("{load:.2}"))),
    );
    values.push(store);
    values.extend(
        figures.dropped.iter().map(|(reason, number)| {
            (format!("$SYS/broker/publish/messages/dropped/{reason}").into(), number.to_string())
        }),
    );
    values
}

fn numbers(figures: &Figures) -> Vec<(&'static str, u64)> {
    let Figures { clients, retained, queued, store, memory, .. } = figures;
    let Traffic { bytes, packets, messages, payload } = figures.received;
    let sent = figures.sent;
    // A message that waits for several clients counts for each, other than with mosquitto.
    let stored = retained.messages + queued.messages + figures.inflight;
    vec![
        ("$SYS/broker/clients/total", clients.connected + clients.disconnected),
        ("$SYS/broker/clients/maximum", clients.maximum),
        ("$SYS/broker/clients/inactive", clients.disconnected),
        ("$SYS/broker/clients/disconnected", clients.disconnected),
        ("$SYS/broker/clients/active", clients.connected),
        ("$SYS/broker/clients/connected", clients.connected),
        ("$SYS/broker/clients/expired", clients.expired),
        ("$SYS/broker/messages/stored", stored),
        ("$SYS/broker/store/messages/count", stored),
        ("$SYS/broker/store/messages/bytes", retained.bytes + queued.bytes),
        ("$SYS/broker/messages/inflight", figures.inflight),
        ("$SYS/broker/messages/queued", queued.messages),
        ("$SYS/broker/subscriptions/count", figures.subscriptions),
        ("$SYS/broker/shared_subscriptions/count", figures.shared_subscriptions),
        ("$SYS/broker/retained messages/count", retained.messages),
        ("$SYS/broker/heap/current", memory.current),
        ("$SYS/broker/heap/maximum", memory.maximum),
        ("$SYS/broker/messages/received", packets),
        ("$SYS/broker/messages/sent", sent.packets),
        ("$SYS/broker/publish/messages/dropped", figures.dropped_messages()),
        ("$SYS/broker/publish/messages/received", messages),
        ("$SYS/broker/publish/messages/sent", sent.messages),
        ("$SYS/broker/bytes/received", bytes),
        ("$SYS/broker/bytes/sent", sent.bytes),
        ("$SYS/broker/publish/bytes/received", payload),
        ("$SYS/broker/publish/bytes/sent", sent.payload),
        ("$SYS/broker/store/commits", store.commits),
        ("$SYS/broker/store/bytes/written", store.written),
        ("$SYS/broker/store/pending", store.pending),
        ("$SYS/broker/store/failures", store.failures),
        ("$SYS/broker/store/dropped", store.dropped),
        ("$SYS/broker/store/stalls", store.stalls),
        ("$SYS/broker/store/stalled", store.stalled_for),
        ("$SYS/broker/store/size", store.size),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};
    use std::time::Instant;

    #[test]
    fn every_topic_comes_once_and_below_sys() {
        let dropped = BTreeMap::from([("queue_full", 7), ("expired", 2)]);
        let figures = Figures { uptime: 12, dropped, ..Figures::default() };
        let values = of(&figures, &Loads::new(Instant::now()));
        let topics: BTreeSet<&str> = values.iter().map(|(topic, _)| &**topic).collect();
        assert_eq!((topics.len(), values.len()), (2 + 34 + 27 + 1 + 2, 2 + 34 + 27 + 1 + 2));
        assert!(topics.iter().all(|topic| topic.starts_with("$SYS/broker/")));
        let value = |topic: &str| &*values.iter().find(|(name, _)| name == topic).unwrap().1;
        assert_eq!(value("$SYS/broker/uptime"), "12 seconds");
        assert_eq!(value("$SYS/broker/load/publish/dropped/15min"), "0.00");
        assert_eq!(value("$SYS/broker/store/state"), "off");
        assert_eq!(value("$SYS/broker/publish/messages/dropped"), "9");
        assert_eq!(value("$SYS/broker/publish/messages/dropped/queue_full"), "7");
    }
}
