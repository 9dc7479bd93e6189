//! A serial device that is pulled out and plugged in again.

use std::io::Read;
use std::time::Duration;

use fastrand::Rng;
use tokio::runtime::Handle;

use super::far_end::Heard;
use super::stage::{Stage, pause};
use crate::common::Port;

/// The device `plug`. Its methods block.
pub struct Plug {
    port: Port,
    plugs: u64,
    sent: u64,
    pub unplugs: u64,
    pub heard: Heard,
}

impl Plug {
    /// Plugged in.
    pub fn new(port: Port) -> Plug {
        Plug { port, plugs: 0, sent: 0, unplugs: 0, heard: Heard::default() }
    }

    fn source(&self) -> String {
        format!("plug-{}", self.plugs)
    }

    /// Talks and is pulled out until the round is over.
    pub fn round(mut self, stage: &Stage, mut rng: Rng) -> Plug {
        let runtime = Handle::current();
        while stage.goes_on() {
            for _ in 0..rng.u64(1..200) {
                self.line();
                self.listen();
                if rng.u8(0..16) == 0 {
                    runtime.block_on(pause(&mut rng, Duration::from_millis(30)));
                }
            }
            if rng.bool() {
                runtime.block_on(stage.until_seen(&self.source(), self.sent));
                self.port.write("unfinished");
            }
            self.replug(stage);
        }
        self
    }

    /// All its lines have come out as messages.
    pub fn settle(mut self, stage: &Stage) -> Plug {
        self.line();
        Handle::current().block_on(stage.until_seen(&self.source(), self.sent));
        self.listen();
        self
    }

    /// Takes the commands that have come.
    pub fn listen(&mut self) {
        while self.port.readable_within(Duration::ZERO) {
            let mut bytes = [0; 4096];
            let count = self.port.device_end().read(&mut bytes).unwrap();
            self.heard.take(&bytes[..count]);
        }
    }

    fn line(&mut self) {
        self.port.write(format!("{} {}\n", self.source(), self.sent));
        self.sent += 1;
    }

    fn replug(&mut self, stage: &Stage) {
        let runtime = Handle::current();
        self.port.unplug();
        self.unplugs += 1;
        self.heard.broken();
        runtime.block_on(stage.until("plug to be offline", |seen| !seen.is_online("plug")));
        self.port.plug();
        (self.plugs, self.sent) = (self.plugs + 1, 0);
        runtime.block_on(stage.until("plug to be online", |seen| seen.is_online("plug")));
    }
}
