//! The peers of a TCP server device.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use tokio::net::TcpStream;

use super::far_end::{Deeds, End, Heard, Wire};
use super::stage::{Stage, pause};

/// Connects, talks and goes, until the round is over. `name` is its own in all rounds.
pub async fn peer(stage: Stage, mut rng: Rng, port: u16, name: String) -> Deeds {
    let mut deeds = Deeds::default();
    for number in 0.. {
        if !stage.goes_on() {
            break;
        }
        let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let heard = Arc::new(Mutex::new(Heard::default()));
        let mut wire = Wire::new(stream, format!("{name}-{number}"), heard);
        let count = rng.u64(1..100);
        assert!(wire.talk(&mut rng, count).await, "{name}: the gateway has closed");
        let end = *rng.choice(&[End::Close, End::Close, End::Reset, End::Panic]).unwrap();
        assert!(wire.end(end, &stage, &mut deeds).await, "{name}: the gateway has closed");
        pause(&mut rng, Duration::from_millis(50)).await;
    }
    deeds
}
