//! Retained messages: ten times as many as there would be others.

use bytes::Bytes;
use gatepost::broker::local::Publish;
use gatepost::qos::Qos;
use gatepost::topic::TopicName;

use crate::callgrind::count;
use crate::client::start;
use crate::scenes::{client, roomy, with};

pub async fn scene(others: usize) {
    let broker = start(roomy()).await;
    let (local, count_of_topics) = (broker.client(), 10 * others);
    for number in 0..count_of_topics {
        let topic = TopicName::new(with("site/{}/value", number)).unwrap();
        let payload = Bytes::from_static(b"21.5");
        local.try_publish(Publish { topic, payload, qos: Qos::AtLeastOnce, retain: true }).unwrap();
    }
    let mut one = client(&broker).await;
    for (name, filter) in [("retained, found by site/N/value", "site/{}/value"), ("the same by site/N/+", "site/{}/+")]
    {
        count(name, count_of_topics, async |number| {
            one.subscribe(1, &with(filter, number), 1).await;
            assert_eq!(one.payload().await, b"21.5");
            one.unsubscribe(2, &with(filter, number)).await;
        })
        .await;
    }
    count("retained, replaced", count_of_topics, async |number| {
        one.publish(3, 7, &with("site/{}/value", number), b"22.5").await;
        assert_eq!(one.recv().await.kind(), 4);
    })
    .await;
    count("retained, new and deleted", count_of_topics, async |number| {
        for payload in [&b"1"[..], b""] {
            one.publish(3, 7, &with("site/{}/other", number), payload).await;
            assert_eq!(one.recv().await.kind(), 4);
        }
    })
    .await;
}
