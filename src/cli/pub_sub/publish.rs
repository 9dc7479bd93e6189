//! `gatepost pub`.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{self, BufRead, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::options::{ConnectArgs, Options};
use super::report;
use crate::cli::exit;
use crate::mqtt_client::{Client, ClientError, Event, MAX_INFLIGHT, Outbound, Outgoing};
use crate::topic::TopicName;

/// As mosquitto_pub -l, between attempts to get a lost connection back.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// What MQTT allows a packet after its first five bytes; the topic and its length count too.
const MAX_REMAINING_BYTES: usize = 268_435_455;

/// Publish messages, as mosquitto_pub does.
#[derive(clap::Args)]
#[command(disable_help_flag = true, args_override_self = true, after_help = EXAMPLES)]
pub struct PubArgs {
    /// Topic to publish to
    #[arg(short, long, allow_hyphen_values = true)]
    topic: Option<String>,
    #[command(flatten)]
    payload: PayloadArgs,
    /// The broker keeps the message for those who subscribe later
    #[arg(short, long)]
    retain: bool,
    /// Publish the message so many times
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    repeat: u64,
    /// With --repeat, seconds between delivery of one and sending the next; 0.5 is fine
    #[arg(long, value_name = "SECONDS", default_value = "0", value_parser = seconds)]
    repeat_delay: Duration,
    #[command(flatten)]
    pub(super) connect: ConnectArgs,
}

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct PayloadArgs {
    /// The payload
    #[arg(short, long, allow_hyphen_values = true)]
    message: Option<OsString>,
    /// The payload is the content of this file
    #[arg(short, long, allow_hyphen_values = true)]
    file: Option<PathBuf>,
    /// Each line of standard input is a message
    #[arg(short = 'l', long)]
    stdin_line: bool,
    /// All of standard input is one message
    #[arg(short, long)]
    stdin_file: bool,
    /// The payload is empty; with -r it clears the retained message
    #[arg(short, long)]
    null_message: bool,
}

const EXAMPLES: &str = "\
Examples:
  Switch a light
      gatepost pub -t smarthome/lights/office -m ON
  Leave a value for those who come later, and be sure the broker has it
      gatepost pub -h 192.168.1.20 -t greenhouse/setpoint -m 21.5 -q 1 -r
  Each line of a program's output as a message
      rtl_433 -F json | gatepost pub -t radio/433 -l

Flags are those of mosquitto_pub 2.0. Ends when the broker has what the quality of service promises.

Exit codes: 0 published; the broker's code if it refuses the connection (e.g. 5, or 135 with MQTT 5: not
authorised); 1 if there is no connection or a message is refused; 2 wrong arguments.";

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|e| e.to_string())
}

/// Runs the command to its exit code.
pub async fn run(args: PubArgs) -> anyhow::Result<u8> {
    let mut options = args.connect.check()?;
    let topic = args.topic.or_else(|| options.topic.take());
    let topic = topic.context("no topic to publish to\nhint: give one with -t")?;
    TopicName::new(topic.as_str()).with_context(|| format!("-t '{topic}'"))?;
    let template = Outbound { topic, payload: Bytes::new(), qos: options.qos, retain: args.retain };
    let source = match args.payload {
        PayloadArgs { stdin_line: true, .. } => Source::Lines(stdin_lines()),
        payload => {
            let payload = payload.read()?;
            ensure!(
                payload.len() + template.topic.len() + 16 <= MAX_REMAINING_BYTES,
                "the message is too large: MQTT ends at 256 MiB"
            );
            Source::Repeat { payload, left: args.repeat, delay: args.repeat_delay, not_before: Instant::now() }
        }
    };
    Publication { options, template, source, queued: VecDeque::new(), sent: VecDeque::new(), count: 0, refused: 0 }
        .run()
        .await
}

impl PayloadArgs {
    /// Everything but `-l`.
    fn read(self) -> anyhow::Result<Bytes> {
        match self {
            PayloadArgs { message: Some(message), .. } => Ok(message.into_vec().into()),
            PayloadArgs { file: Some(path), .. } => read_file(&path),
            PayloadArgs { stdin_file: true, .. } => {
                let mut payload = Vec::new();
                io::stdin().lock().read_to_end(&mut payload).context("cannot read standard input")?;
                ensure!(!payload.is_empty(), "standard input is empty\nhint: -n sends an empty message");
                Ok(payload.into())
            }
            _ => Ok(Bytes::new()),
        }
    }
}

fn read_file(path: &Path) -> anyhow::Result<Bytes> {
    let size = std::fs::metadata(path).map(|meta| meta.len()).unwrap_or(0);
    ensure!(size <= MAX_REMAINING_BYTES as u64, "{} is too large: MQTT ends at 256 MiB", path.display());
    Ok(std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?.into())
}

/// Lines of standard input, without their line feed. A read cannot be cancelled, so the thread is left to itself;
/// it ends with the process. At most 64 lines wait.
fn stdin_lines() -> mpsc::Receiver<io::Result<Bytes>> {
    let (lines, receiver) = mpsc::channel(64);
    std::thread::spawn(move || {
        let mut stdin = io::stdin().lock();
        loop {
            let mut line = Vec::new();
            let item = match stdin.by_ref().take(MAX_REMAINING_BYTES as u64).read_until(b'\n', &mut line) {
                Ok(0) => return,
                Ok(_) => {
                    if line.last() == Some(&b'\n') {
                        line.pop();
                    }
                    Ok(line.into())
                }
                Err(error) => Err(error),
            };
            let failed = item.is_err();
            if lines.blocking_send(item).is_err() || failed {
                return;
            }
        }
    });
    receiver
}

/// Where payloads come from.
enum Source {
    /// The same one again and again, each when the one before is delivered.
    Repeat { payload: Bytes, left: u64, delay: Duration, not_before: Instant },
    /// `-l`
    Lines(mpsc::Receiver<io::Result<Bytes>>),
}

impl Source {
    /// The next payload; `None` at the end. May be dropped while it waits.
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        match self {
            Source::Repeat { left: 0, .. } => Ok(None),
            Source::Repeat { payload, left, not_before, .. } => {
                tokio::time::sleep_until(*not_before).await;
                *left -= 1;
                Ok(Some(payload.clone()))
            }
            Source::Lines(lines) => lines.recv().await.transpose(),
        }
    }

    fn most_under_way(&self) -> usize {
        match self {
            Source::Repeat { .. } => 1,
            Source::Lines(_) => MAX_INFLIGHT.into(),
        }
    }
}

struct Publication {
    options: Options,
    template: Outbound,
    source: Source,
    /// Handed to the client, not yet on the wire.
    queued: VecDeque<Outbound>,
    /// QoS 1 and 2: on the wire, not yet acknowledged. Oldest first.
    sent: VecDeque<(u16, Outbound)>,
    /// Messages on the wire so far.
    count: u64,
    /// Messages the broker refused.
    refused: u64,
}

/// Why a connection is no longer used.
enum End {
    Done,
    Lost(ClientError),
    /// rumqttc never gives back the place of a QoS 2 message that was refused; a new connection has them all.
    Renew,
}

impl Publication {
    async fn run(mut self) -> anyhow::Result<u8> {
        let mut client = Client::connect(&self.options.connect).await?;
        loop {
            match self.publish(&mut client).await? {
                End::Done => break,
                End::Renew => client.disconnect().await,
                End::Lost(error) if matches!(self.source, Source::Repeat { .. }) => return Err(error.into()),
                End::Lost(error) => report(&self.options, &format!("{error}; trying again each second")),
            }
            client = self.reconnect().await?;
        }
        client.disconnect().await;
        Ok(if self.refused == 0 { exit::OK } else { exit::FAILURE })
    }

    async fn reconnect(&self) -> anyhow::Result<Client> {
        loop {
            match Client::connect(&self.options.connect).await {
                Ok(client) => return Ok(client),
                Err(refused @ ClientError::Refused { .. }) => return Err(refused.into()),
                Err(_) => tokio::time::sleep(RETRY_DELAY).await,
            }
        }
    }

    /// Publishes until the source is at its end and all is delivered; what an earlier connection left goes first.
    async fn publish(&mut self, client: &mut Client) -> anyhow::Result<End> {
        let publisher = client.publisher();
        let left_over = self.sent.drain(..).map(|(_, message)| message).chain(self.queued.drain(..));
        self.queued = left_over.collect();
        for message in &self.queued {
            publisher.publish(message.clone()).await;
        }
        let mut at_end = false;
        loop {
            if at_end && self.under_way() == 0 {
                return Ok(End::Done);
            }
            let event = {
                let mut next = pin!(client.next());
                loop {
                    let room = !at_end && self.under_way() < self.source.most_under_way();
                    tokio::select! {
                        event = &mut next => break event,
                        payload = self.source.next(), if room => match payload.context("cannot read standard input")? {
                            None if self.under_way() == 0 => return Ok(End::Done),
                            None => at_end = true,
                            Some(payload) => {
                                let message = Outbound { payload, ..self.template.clone() };
                                self.queued.push_back(message.clone());
                                publisher.publish(message).await;
                            }
                        },
                    }
                }
            };
            match event {
                Ok(event) => {
                    if let Some(end) = self.handle(client, &event)? {
                        return Ok(end);
                    }
                }
                Err(error) => return Ok(End::Lost(error)),
            }
        }
    }

    fn under_way(&self) -> usize {
        self.queued.len() + self.sent.len()
    }

    fn handle(&mut self, client: &Client, event: &Event) -> anyhow::Result<Option<End>> {
        let code = match *event {
            Event::Sent(Outgoing::Publish(id)) => {
                if let Some(message) = self.queued.pop_front() {
                    self.count += 1;
                    // mosquitto's clients number QoS 0 messages too.
                    client.log_publish(if id == 0 { self.count } else { id.into() }, &message);
                    if message.qos > 0 {
                        self.sent.push_back((id, message));
                        return Ok(None);
                    }
                }
                0
            }
            Event::Acknowledged(id, code) => self.settle(id, code),
            Event::Received(id, code) if code >= 128 => self.settle(id, code),
            Event::Completed(id) => self.settle(id, 0),
            _ => return Ok(None),
        };
        if let Source::Repeat { delay, not_before, .. } = &mut self.source {
            *not_before = Instant::now() + *delay;
        }
        if code < 128 {
            return Ok(None);
        }
        self.refused += 1;
        match self.source {
            Source::Repeat { .. } => bail!("the broker refused the message (code {code})"),
            Source::Lines(_) => report(&self.options, &format!("the broker refused a message (code {code})")),
        }
        Ok(matches!(event, Event::Received(..)).then_some(End::Renew))
    }

    fn settle(&mut self, id: u16, code: u8) -> u8 {
        if let Some(index) = self.sent.iter().position(|(sent, _)| *sent == id) {
            self.sent.remove(index);
        }
        code
    }
}
