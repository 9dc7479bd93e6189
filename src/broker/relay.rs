//! The thread that hands what comes from the router to the readers.

use std::io;
use std::sync::Arc;
use std::thread;

use super::bus::Shared;
use super::lane::LANES;
use super::message::Message;
use super::router::{Arrival, Receiver, Stopped};

/// Starts it. It ends with the router, and says so to everybody.
pub(super) fn start(shared: Arc<Shared>, receiver: Receiver) -> io::Result<()> {
    thread::Builder::new().name("relay".to_owned()).spawn(move || {
        let Stopped = run(&shared, receiver);
        shared.stopped.cancel();
        shared.flow.wake_readers();
    })?;
    Ok(())
}

fn run(shared: &Shared, mut receiver: Receiver) -> Stopped {
    let mut expected = [0; LANES];
    loop {
        let arrival = match receiver.next() {
            Ok(arrival) => arrival,
            Err(stopped) => return stopped,
        };
        let is_probe = arrival.is_probe();
        let Arrival { lane, index, envelope } = arrival;
        let next = &mut expected[lane.index()];
        let lost = index.saturating_sub(*next);
        *next = index + 1;
        if lost > 0 {
            tracing::error!(lost, "messages were lost inside the broker: please report this");
            shared.stats.lost.add(lost);
        }
        if is_probe {
            shared.probe.notify_waiters();
            continue;
        }
        match Message::decode(envelope.clone()) {
            Ok(message) => shared.flow.relay(lane, message.position(), &envelope),
            Err(error) => {
                tracing::error!(%error, "a message was lost inside the broker: please report this");
                shared.stats.lost.increment();
            }
        }
    }
}
