//! `gatepost demo`: the real gateway between a simulated serial board, a simulated TCP light and whoever looks on.

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{Instant, interval_at, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::exit;
use super::output::{self, OutputError};
use crate::broker::{self, local::Publish, local::Subscriber};
use crate::config::{self, Config};
use crate::gateway::signals::{Request, Signals};
use crate::gateway::{Gateway, StartError};
use crate::qos::Qos;
use crate::topic::{TopicFilter, TopicName};
use board::Board;
use light::Light;
use screen::{Screen, Sighting};

mod board;
mod light;
mod screen;

/// The port everybody knows; another one is taken when it is not free.
const PORT: u16 = 1883;
/// The light is switched for the first time so long after the start, and then each [`SWITCH_INTERVAL`].
const FIRST_SWITCH: Duration = Duration::from_millis(1500);
/// Slow enough to type a command of one's own in between.
const SWITCH_INTERVAL: Duration = Duration::from_secs(10);
/// Both devices are on this machine; longer means that something is wrong.
const START_TIME: Duration = Duration::from_secs(10);
/// How long the end waits for the board's last line.
const LAST_LINE_TIME: Duration = Duration::from_secs(1);
/// Sightings that wait to be printed; a simulation that is ahead waits.
const BACKLOG: usize = 64;

const LIGHT: &str = "smarthome/lights/office";

/// Show a simulated board and light on MQTT
///
/// A weather board on a serial port and a light on TCP, both simulated, on the real gateway with its broker. Prints
/// what goes which way, and what to type in a second terminal. Reads no configuration and leaves nothing behind.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  gatepost demo                  until Ctrl-C, on port 1883 or, if that is taken, another one
  gatepost demo --seconds 10     ends by itself
  gatepost demo --port 1884      on this port or not at all

Exit codes: 0 shown; 71 the port of --port is taken.")]
pub struct Args {
    /// End after so many seconds [default: at Ctrl-C]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    seconds: Option<u64>,
    /// Port of the broker [default: 1883, or any free one]
    #[arg(long)]
    port: Option<u16>,
}

/// Runs the command.
pub fn run(args: Args) -> ExitCode {
    let outcome = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(show(args)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A start error tells its own cause.
            let (text, code) = match error.downcast_ref() {
                Some(start @ StartError::Broker(_)) => (start.to_string(), exit::OS_ERROR),
                _ if error.is::<OutputError>() => (error.to_string(), exit::IO_ERROR),
                _ => (format!("{error:#}"), exit::FAILURE),
            };
            output::complain(format_args!("Error: {text}"));
            code.into()
        }
    }
}

async fn show(args: Args) -> anyhow::Result<()> {
    let mut signals = Signals::new().context("cannot take over signals")?;
    let (sightings, seen) = mpsc::channel(BACKLOG);
    let board = Board::new(sightings.clone()).context("cannot make a pseudo terminal for the board")?;
    let light = Light::bind(sightings).await.context("cannot listen on 127.0.0.1 for the light")?;
    let config = |port: u16| configuration(port, board.path(), light.port());
    let _log = crate::log::init(&config(0)?.log)?;
    let gateway = start(args.port, config).await?;
    let port = gateway.broker_addrs().first().context("the broker has no listener")?.port();
    let filters = ["#"].map(TopicFilter::new).into_iter().collect::<Result<Vec<_>, _>>()?;
    let subscriptions = filters.into_iter().map(|filter| (filter, Qos::AtLeastOnce)).collect();
    let mut messages = gateway.client().subscribe(subscriptions).await?;
    timeout(START_TIME, both_online(&mut messages)).await.context("the simulated devices did not come online")?;

    let (silence, dark) = (CancellationToken::new(), CancellationToken::new());
    let board = tokio::spawn(board.run(silence.clone()));
    let light = tokio::spawn(light.run(dark.clone()));
    let mut stage = Stage { screen: Screen::on_stdout(), gateway, messages, seen };
    let shown = stage.play(port, args.seconds, &mut signals).await;
    // The board falls silent between two lines, so that none is cut in the middle; the wires stay up to the end, so
    // that the gateway sees no device go.
    silence.cancel();
    stage.seen.close();
    let board = board.await?;
    let ended = stage.end(shown.is_ok(), board.said()).await;
    drop(board);
    dark.cancel();
    light.await?;
    match shown.and(ended) {
        // Not of the screen.
        Err(error) if error.kind() == io::ErrorKind::Other => Err(error.into()),
        written => Ok(output::settle(written)?),
    }
}

/// The text is what a user would write; it goes through the parser that reads the user's.
fn configuration(port: u16, board: &str, light: u16) -> anyhow::Result<Config> {
    let text = format!(
        r#"
[gateway]
name = "demo"

[log]
level = "warn"

[broker]
persistence = false
[[broker.listener]]
address = "127.0.0.1:{port}"
allow_anonymous = true

[device.board]
serial = {{ port = "{board}", baud = 9600 }}
subscribe = "demo/board/set"
[[device.board.publish]]
match = '^T=(?<temperature>[-0-9.]+) H=(?<humidity>[0-9]+)$'
topic = "demo/weather"
payload = "fields"
[[device.board.publish]]
topic = "demo/board"

[device.light]
tcp = {{ connect = "127.0.0.1:{light}" }}
publish = "{LIGHT}/state"
subscribe = "{LIGHT}"
"#
    );
    Ok(config::parse(&text, "demo.toml", Path::new("/"))?.config)
}

/// On `port`; without one on [`PORT`], or on any that is free.
async fn start(port: Option<u16>, config: impl Fn(u16) -> anyhow::Result<Config>) -> anyhow::Result<Arc<Gateway>> {
    match Gateway::start(config(port.unwrap_or(PORT))?, None).await {
        Err(StartError::Broker(broker::StartError::InUse { .. })) if port.is_none() => {
            Ok(Gateway::start(config(0)?, None).await?)
        }
        started => Ok(started?),
    }
}

async fn both_online(messages: &mut Subscriber) {
    let mut missing = vec!["gatepost/demo/device/board/status", "gatepost/demo/device/light/status"];
    while !missing.is_empty() {
        let Some(message) = messages.recv().await else { return };
        if message.payload == "online" {
            missing.retain(|topic| *topic != message.topic.as_str());
        }
    }
}

struct Stage {
    screen: Screen,
    gateway: Arc<Gateway>,
    messages: Subscriber,
    seen: mpsc::Receiver<Sighting>,
}

impl Stage {
    /// Prints what happens until the time is up, a signal comes or the reader is gone.
    async fn play(&mut self, port: u16, seconds: Option<u64>, signals: &mut Signals) -> io::Result<()> {
        self.screen.introduce(port, LIGHT)?;
        let end = async {
            match seconds {
                Some(seconds) => sleep_until(Instant::now() + Duration::from_secs(seconds)).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(end);
        let mut switch = interval_at(Instant::now() + FIRST_SWITCH, SWITCH_INTERVAL);
        let client = self.gateway.client();
        let mut on = false;
        loop {
            tokio::select! {
                () = &mut end => return Ok(()),
                request = signals.next() => if request == Request::Stop { return Ok(()) },
                () = self.gateway.failed() => return Err(io::Error::other("the broker's router has died")),
                Some(sighting) = self.seen.recv() => self.screen.wire(&sighting)?,
                Some(message) = self.messages.recv() => {
                    self.screen.message(message.topic.as_str(), &message.payload)?;
                }
                _ = switch.tick() => {
                    on = !on;
                    let payload = Bytes::from_static(if on { b"ON" } else { b"OFF" });
                    let topic = TopicName::new(LIGHT).map_err(io::Error::other)?;
                    let message = Publish { topic, payload, qos: Qos::AtLeastOnce, retain: false };
                    client.publish(message).await.map_err(io::Error::other)?;
                }
            }
        }
    }

    /// Prints what is still on its way, stops the gateway and sums up. When nobody looks on, only stops.
    async fn end(mut self, looked_at: bool, said: u64) -> io::Result<()> {
        let devices = self.gateway.devices();
        let published = || devices.iter().find(|device| device.name() == "board").map(|board| board.stats_json());
        let mut printed = Ok(());
        while let Some(sighting) = self.seen.recv().await.filter(|_| looked_at) {
            printed = printed.and_then(|()| self.screen.wire(&sighting));
        }
        // The board's last line may still be on the wire.
        let last_line = async {
            while published().is_some_and(|stats| stats["published"].as_u64() < Some(said)) {
                let Some(message) = self.messages.recv().await else { return };
                if looked_at && printed.is_ok() {
                    printed = self.screen.message(message.topic.as_str(), &message.payload);
                }
            }
        };
        let _ = timeout(LAST_LINE_TIME, last_line).await;
        let stop = self.gateway.stop();
        tokio::pin!(stop);
        loop {
            // Publishers wait for their readers, so the messages are taken in any case.
            tokio::select! {
                biased;
                Some(message) = self.messages.recv() => if looked_at {
                    printed = printed.and_then(|()| self.screen.message(message.topic.as_str(), &message.payload));
                },
                () = &mut stop => break,
            }
        }
        let stats: Vec<_> = devices.iter().map(|device| device.stats_json()).collect();
        if looked_at { printed.and_then(|()| self.screen.sum_up(&stats)) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_right() {
        let config = configuration(1883, "/dev/pts/7", 4000).unwrap();
        assert_eq!(config.devices.keys().collect::<Vec<_>>(), ["board", "light"]);
        assert_eq!(config.broker.listeners.len(), 1);
    }
}
