//! What `broker::bus::router` relies on in rumqttd 0.20. An upgrade that changes one of these facts is seen here.

use std::time::{Duration, Instant};

use bytes::Bytes;
use rumqttd::local::{LinkBuilder, LinkError, LinkRx, LinkTx};
use rumqttd::protocol::{Packet, PingReq, Publish};
use rumqttd::{Forward, Notification, Router, RouterConfig};

const SEGMENT_SIZE: usize = 1024;
const SEGMENTS: usize = 3;

/// Opens links to one router.
type Connect = Box<dyn Fn(&str) -> Result<(LinkTx, LinkRx), Box<LinkError>>>;

fn router(max_connections: usize) -> Connect {
    let config = RouterConfig {
        max_connections,
        max_outgoing_packet_count: 100,
        max_segment_size: SEGMENT_SIZE,
        max_segment_count: SEGMENTS,
        ..RouterConfig::default()
    };
    let events = Router::new(0, config).spawn();
    assert_eq!(events.capacity(), Some(1000), "events the router lets wait before it blocks the sender");
    Box::new(move |name| {
        let (tx, rx, _) = LinkBuilder::new(name, events.clone()).topic_alias_max(0).build().map_err(Box::new)?;
        Ok((tx, rx))
    })
}

fn connect(connect: &Connect, name: &str) -> (LinkTx, LinkRx) {
    connect(name).unwrap()
}

/// `LinkTx::send` is async by name only.
fn send(tx: &mut LinkTx, packet: Packet) {
    let ready = std::pin::pin!(tx.send(packet)).poll(&mut std::task::Context::from_waker(std::task::Waker::noop()));
    assert!(matches!(ready, std::task::Poll::Ready(Ok(_))));
}

fn publish(topic: &str, payload: impl Into<Bytes>) -> Packet {
    Packet::Publish(Publish::new(Bytes::copy_from_slice(topic.as_bytes()), payload.into(), false), None)
}

/// The next notification, or none within a time in which the router, when idle, would long have sent one.
fn next(rx: &mut LinkRx) -> Option<Notification> {
    let deadline = Instant::now() + Duration::from_millis(200);
    loop {
        match rx.recv_deadline(deadline) {
            Ok(Some(notification)) => return Some(notification),
            Ok(None) => {}
            Err(_) => return None,
        }
    }
}

fn forward(rx: &mut LinkRx) -> Forward {
    match next(rx) {
        Some(Notification::Forward(forward)) => forward,
        other => panic!("expected a message, got {other:?}"),
    }
}

fn ack(rx: &mut LinkRx) {
    let notification = next(rx);
    assert!(matches!(notification, Some(Notification::DeviceAck(_))), "expected an answer, got {notification:?}");
}

fn subscribe(tx: &mut LinkTx, rx: &mut LinkRx, filter: &str) {
    tx.subscribe(filter).unwrap();
    ack(rx);
}

/// Returns when the router has handled all that was sent before.
fn handled(tx: &mut LinkTx, rx: &mut LinkRx) {
    send(tx, Packet::PingReq(PingReq));
    ack(rx);
}

#[test]
fn one_event_is_enough_for_all_that_is_in_a_links_buffer() {
    let router = router(10);
    let (mut tx, mut rx) = connect(&router, "reader");
    subscribe(&mut tx, &mut rx, "A");
    let (mut publisher, _rx) = connect(&router, "publisher");
    publisher.buffer().extend((0..99u8).map(|i| publish("A", vec![i])));
    assert!(next(&mut rx).is_none(), "without an event the router does not look");
    send(&mut publisher, publish("A", vec![99]));
    for i in 0..100 {
        assert_eq!(&forward(&mut rx).publish.payload[..], [i]);
    }
    assert!(publisher.buffer().is_empty(), "an empty buffer means that no event is on its way");
}

#[test]
fn after_200_notifications_the_router_waits_for_ready() {
    let router = router(10);
    let (mut tx, mut rx) = connect(&router, "reader");
    subscribe(&mut tx, &mut rx, "A");
    let (mut publisher, mut publisher_rx) = connect(&router, "publisher");
    for _ in 0..3 {
        publisher.buffer().extend((0..149).map(|_| publish("A", vec![1; 1])));
        send(&mut publisher, publish("A", vec![1]));
        handled(&mut publisher, &mut publisher_rx);
    }
    let mut messages = 0;
    let mut waits = 0;
    while let Some(notification) = next(&mut rx) {
        match notification {
            Notification::Forward(_) => messages += 1,
            Notification::Unschedule => {
                assert!(next(&mut rx).is_none(), "nothing comes before the answer");
                waits += 1;
                rx.ready().unwrap();
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(messages, 450);
    // How often depends on how the router cut the batches.
    assert!(waits >= 1, "the router never waited");
}

#[test]
fn a_link_with_many_literal_filters_gets_each_message_once() {
    let router = router(10);
    let (mut tx, mut rx) = connect(&router, "reader");
    for filter in ["A", "B", "C"] {
        subscribe(&mut tx, &mut rx, filter);
    }
    subscribe(&mut tx, &mut rx, "A");
    let (mut publisher, _rx) = connect(&router, "publisher");
    for topic in ["A", "B", "C"] {
        publisher.publish(topic, vec![1]).unwrap();
        assert_eq!(forward(&mut rx).publish.topic, topic);
    }
    assert!(next(&mut rx).is_none());
}

#[test]
fn a_subscription_begins_at_the_end_of_the_log_and_cursors_count_all_its_messages() {
    let router = router(10);
    let (mut early, mut early_rx) = connect(&router, "early");
    subscribe(&mut early, &mut early_rx, "A");
    let (mut publisher, _rx) = connect(&router, "publisher");
    for i in 0..5 {
        publisher.publish("A", vec![i]).unwrap();
        assert_eq!(forward(&mut early_rx).cursor, Some((0, u64::from(i))));
    }
    let (mut late, mut late_rx) = connect(&router, "late");
    subscribe(&mut late, &mut late_rx, "A");
    publisher.publish("A", vec![5]).unwrap();
    let first = forward(&mut late_rx);
    assert_eq!((&first.publish.payload[..], first.cursor), (&[5][..], Some((0, 5))));
}

#[test]
fn a_message_counts_its_topic_its_payload_and_four() {
    let router = router(10);
    let (mut tx, mut rx) = connect(&router, "reader");
    subscribe(&mut tx, &mut rx, "A");
    let (mut publisher, _rx) = connect(&router, "publisher");
    // One less than a segment, then one byte more would fill it: the third message goes into the next segment.
    for (size, segment) in [(SEGMENT_SIZE - 6 - 5, 0), (1, 0), (1, 1)] {
        publisher.publish("A", vec![0; size]).unwrap();
        assert_eq!(forward(&mut rx).cursor.unwrap().0, segment);
    }
}

/// Publishes messages of these counted sizes while a reader does not answer `Unschedule`; returns how many of them it
/// gets when it does, and how many messages its cursor says are missing.
fn read_late(sizes: &[usize]) -> (usize, u64) {
    let router = router(10);
    let (mut tx, mut rx) = connect(&router, "reader");
    subscribe(&mut tx, &mut rx, "A");
    let (mut publisher, mut publisher_rx) = connect(&router, "publisher");
    // 200 messages of 5 bytes: the reader is unscheduled, and 24 bytes are left of the first segment.
    publisher.buffer().extend((0..199).map(|_| publish("A", Bytes::new())));
    send(&mut publisher, publish("A", Bytes::new()));
    handled(&mut publisher, &mut publisher_rx);
    for &size in sizes {
        publisher.publish("A", vec![0; size - 5]).unwrap();
    }
    handled(&mut publisher, &mut publisher_rx);
    let (mut received, mut lost, mut expected) = (0, 0, 0);
    while let Some(notification) = next(&mut rx) {
        match notification {
            Notification::Forward(forward) => {
                let index = forward.cursor.unwrap().1;
                lost += index - expected;
                expected = index + 1;
                received += 1;
            }
            Notification::Unschedule => rx.ready().unwrap(),
            other => panic!("{other:?}"),
        }
    }
    (received - 200, lost)
}

#[test]
fn a_log_loses_nothing_while_all_but_one_segments_worth_is_unread() {
    const { assert!(SEGMENT_SIZE == 1024 && SEGMENTS == 3) };
    assert_eq!(read_late(&[24, 1024, 1000, 100_000]), (4, 0), "2048 unread, and then one of any size");
    assert_eq!(read_late(&[24, 1024, 1024, 6]), (3, 1), "2072 unread: the cursor jumps over what was lost");
}

#[test]
fn the_payload_arrives_in_the_allocation_it_was_published_in() {
    let router = router(10);
    let (mut tx, mut rx) = connect(&router, "reader");
    subscribe(&mut tx, &mut rx, "A");
    let (mut publisher, _rx) = connect(&router, "publisher");
    let payload = Bytes::from(vec![7; 100]);
    send(&mut publisher, publish("A", payload.clone()));
    let forward = forward(&mut rx);
    assert_eq!(forward.publish.payload.as_ptr(), payload.as_ptr());
    assert_eq!((forward.publish.payload, forward.properties), (payload, None));
}

#[test]
fn when_the_router_dies_its_links_end() {
    let router = router(10);
    let (mut tx, mut rx) = connect(&router, "publisher");
    let (_idle, mut idle_rx) = connect(&router, "idle");
    // A topic that begins with a letter of two bytes: `topic[..1]` panics in `protocol::matches`, if there is a filter.
    subscribe(&mut tx, &mut rx, "A");
    send(&mut tx, publish("\u{fc}", "1"));
    assert!(rx.recv().is_err() && idle_rx.recv().is_err());
    // The channel of events closes a moment after the links.
    let deadline = Instant::now() + Duration::from_secs(10);
    while tx.publish("A", "1").is_ok() {
        assert!(Instant::now() < deadline, "the router is gone but takes messages");
        std::thread::yield_now();
    }
    assert!(router("late").is_err());
}
