//! Reloads, good and bad, by SIGHUP and by the control socket.

use std::time::Duration;

use fastrand::Rng;
use tokio::runtime::Handle;

use super::stage::{Stage, pause};
use crate::common::{Gateway, QUIET_LOG};

/// The configuration, which has many versions. A device restarts, the rules of another change, a third comes and goes, and so
/// does a listener.
pub struct Config {
    /// The serial port.
    pub plug: String,
    /// The TCP far ends, each with a device of its own.
    pub ports: Vec<(&'static str, u16)>,
}

const BROKER: &str = r#"
[broker]
max_queued = 1000
sys_interval = "1s"

[[broker.listener]]
address = "127.0.0.1:0"
allow_anonymous = true
"#;

const SOON: &str = "reconnect = { min = \"1ms\", max = \"20ms\" }";

impl Config {
    /// The names of the devices that are always there.
    pub fn devices(&self) -> impl Iterator<Item = &'static str> {
        ["plug", "hall"].into_iter().chain(self.ports.iter().map(|(name, _)| *name))
    }

    pub fn version(&self, version: u64) -> String {
        let mut text = [QUIET_LOG, BROKER].concat();
        if version % 3 == 1 {
            text += "[[broker.listener]]\naddress = \"unix:other.sock\"\n";
        }
        text += &format!(
            "[device.plug]\nserial = {{ port = \"{}\", baud = 115200 }}\n{SOON}\npublish = \"soak/up/plug\"\n\
             subscribe = \"soak/down/plug\"\nqueue = {{ max = 50, while_offline = \"keep\" }}\n\
             [device.hall]\ntcp_server = {{ listen = \"127.0.0.1:0\" }}\npublish = \"soak/up/hall/{{peer}}\"\n\
             subscribe = \"soak/down/hall/{{peer}}\"\n",
            self.plug
        );
        for (name, port) in &self.ports {
            let keys = match *name {
                "ruled" => format!(
                    "[[device.ruled.publish]]\ntopic = \"soak/up/ruled\"\nqos = {}\n[[device.ruled.subscribe]]\n\
                     topic = \"soak/down/ruled\"\nwrite = \"version {} {{payload}}\"\n",
                    version % 2,
                    version % 2
                ),
                "moved" => format!(
                    "publish = \"soak/up/moved\"\nsubscribe = \"soak/down/moved\"\nwrite_gap = \"{}ms\"\n",
                    version % 7
                ),
                _ => format!("publish = \"soak/up/{name}\"\nsubscribe = \"soak/down/{name}\"\n"),
            };
            text += &format!("[device.{name}]\ntcp = {{ connect = \"127.0.0.1:{port}\" }}\n{SOON}\n{keys}");
        }
        if version % 4 == 1 {
            text += "[device.guest]\ntcp = { connect = \"127.0.0.1:1\" }\npublish = \"soak/up/guest\"\n";
        }
        text
    }

    fn wrong(&self, version: u64) -> String {
        let text = self.version(version);
        match version % 3 {
            0 => text + "[[[",
            1 => text.replace("baud", "bawd"),
            _ => format!("[[broker.listener]]\naddress = \"256.256.256.256:1\"\n{text}"),
        }
    }
}

/// Reloads that were done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reloads {
    pub good: u64,
    pub bad: u64,
}

impl std::ops::AddAssign for Reloads {
    fn add_assign(&mut self, other: Reloads) {
        self.good += other.good;
        self.bad += other.bad;
    }
}

/// Reloads until the round is over, and goes back to the first version. Blocks.
pub fn round(mut gateway: Gateway, config: &Config, stage: &Stage, mut rng: Rng) -> (Gateway, Reloads) {
    let mut done = Reloads::default();
    while stage.goes_on() {
        Handle::current().block_on(pause(&mut rng, Duration::from_secs(1)));
        let version = rng.u64(..1000);
        let is_good = rng.u8(0..3) > 0;
        gateway.write_with(&if is_good { config.version(version) } else { config.wrong(version) });
        reload(&mut gateway, is_good, rng.bool());
        *if is_good { &mut done.good } else { &mut done.bad } += 1;
    }
    gateway.write_with(&config.version(0));
    reload(&mut gateway, true, true);
    (gateway, done)
}

fn reload(gateway: &mut Gateway, is_good: bool, by_signal: bool) {
    let said = if by_signal {
        gateway.reload()
    } else {
        let status = gateway.command("reload", &[]).output().unwrap().status;
        assert_eq!(status.code(), Some(if is_good { 0 } else { 78 }));
        gateway.process().expect("reloaded:")
    };
    assert_eq!(said.contains("configuration reloaded"), is_good, "{said}");
}
