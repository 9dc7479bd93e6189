//! Clients that make trouble. None of them may be noticed by the others.

use std::time::Duration;

use bytes::BytesMut;
use fastrand::Rng;
use tokio::time::{sleep, timeout};

use super::Chaos;
use crate::common::peer::Link;
use crate::common::wire::{self, Connect, Will};

fn connect(rng: &mut Rng, id: String) -> Connect {
    Connect { v5: rng.bool(), id, clean: true, expiry: 0, will: None }
}

/// Bytes that are not MQTT, or were.
pub async fn garbage(chaos: Chaos, mut rng: Rng) {
    while chaos.goes_on() {
        if let Ok(mut link) = Link::open(&chaos.port).await {
            let mut bytes = BytesMut::new();
            wire::connect(&mut bytes, &connect(&mut rng, "garbage".to_owned()));
            wire::subscribe(&mut bytes, false, 1, &[("chaos/#", 2), ("#", 1)]);
            match rng.u8(0..3) {
                0 => bytes = (0..rng.usize(0..200)).map(|_| rng.u8(..)).collect::<Vec<u8>>()[..].into(),
                1 => bytes.truncate(rng.usize(0..bytes.len())),
                _ => (0..3).for_each(|_| {
                    let at = rng.usize(0..bytes.len());
                    bytes[at] = rng.u8(..);
                }),
            }
            let _ = link.send(&bytes).await;
            // The broker may well wait for more.
            let _ = timeout(Duration::from_millis(rng.u64(0..50)), link.next()).await;
        }
        sleep(Duration::from_millis(rng.u64(0..20))).await;
    }
}

/// Sessions that end with their connections, subscribed to much and reading little of it.
pub async fn transient(chaos: Chaos, mut rng: Rng) {
    while chaos.goes_on() {
        let id = format!("transient-{:x}", rng.u64(..));
        let connect = connect(&mut rng, id);
        if let Ok((mut link, present)) = Link::connect(&chaos.port, &connect).await {
            assert!(!present, "a new client id has a session");
            let filter = match rng.u8(0..4) {
                0 => "#".to_owned(),
                1 => format!("chaos/w{}/+", rng.u8(0..10)),
                2 => format!("$share/{}/chaos/#", rng.u8(..)),
                _ => format!("some/{:x}/topic", rng.u32(..)),
            };
            let mut bytes = BytesMut::new();
            wire::subscribe(&mut bytes, connect.v5, 1, &[(&filter, rng.u8(0..3))]);
            if rng.bool() {
                wire::unsubscribe(&mut bytes, connect.v5, 2, &filter);
            }
            let _ = link.send(&bytes).await;
            for _ in 0..rng.u8(0..20) {
                let _ = timeout(Duration::from_millis(5), link.next()).await;
            }
            if rng.bool() {
                link.abort();
            }
        }
        sleep(Duration::from_millis(rng.u64(0..50))).await;
    }
}

/// Connections that take each other's session over.
pub async fn twin(chaos: Chaos, mut rng: Rng) {
    while chaos.goes_on() {
        let id = format!("twin-{}", rng.u8(0..3));
        let connect = Connect { clean: rng.bool(), expiry: rng.u32(0..2), ..connect(&mut rng, id) };
        if let Ok((mut link, _)) = Link::connect(&chaos.port, &connect).await {
            let mut bytes = BytesMut::new();
            wire::subscribe(&mut bytes, connect.v5, 1, &[("chaos/+/q2", 2)]);
            let _ = link.send(&bytes).await;
            let until = tokio::time::Instant::now() + Duration::from_millis(rng.u64(0..200));
            while let Ok(Ok((first, body))) = tokio::time::timeout_at(until, link.next()).await {
                if first == 0xe0 {
                    assert!([0x8e, 0x8b].contains(&body[0]), "DISCONNECT {body:?}");
                }
            }
        }
    }
    // Their kept sessions end.
    for n in 0..3 {
        let connect = Connect { v5: true, id: format!("twin-{n}"), clean: true, expiry: 0, will: None };
        if let Ok((mut link, _)) = Link::connect(&chaos.port, &connect).await {
            let _ = link.send(&[0xe0, 0]).await;
            link.until_closed().await;
        }
    }
}

/// Clients with a will. Returns the numbers of those whose will must be published: all that did not say goodbye.
pub async fn mortal(chaos: Chaos, mut rng: Rng, first: u64) -> Vec<u64> {
    let mut dead = Vec::new();
    for number in first.. {
        if !chaos.goes_on() {
            break;
        }
        let will = Will {
            topic: format!("will/{number}"),
            payload: number.to_string().into(),
            qos: rng.u8(0..3),
            retain: false,
        };
        let mut connect = connect(&mut rng, format!("mortal-{number}"));
        connect.will = Some(will);
        if let Ok((mut link, _)) = Link::connect(&chaos.port, &connect).await {
            sleep(Duration::from_millis(rng.u64(0..100))).await;
            match rng.u8(0..4) {
                0 => {
                    // Unless the broker was killed before it read this, there is no will.
                    link.send(&[0xe0, 0]).await.ok();
                    link.until_closed().await;
                    continue;
                }
                1 if connect.v5 => {
                    link.send(&[0xe0, 1, 4]).await.ok();
                    link.until_closed().await;
                }
                2 => link.abort(),
                _ => drop(link),
            }
            dead.push(number);
        }
    }
    dead
}
