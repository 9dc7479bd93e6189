//! `gatepost sub`.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use jiff::Zoned;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::format::Format;
use super::options::{ConnectArgs, Options};
use super::{Screen, report};
use crate::cli::exit;
use crate::cli::output::{self, complain};
use crate::mqtt_client::{Client, ClientError, Event, Message};
use crate::topic::TopicFilter;

/// As mosquitto_sub, between attempts to get a lost connection back.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Exit code of `-W`: libmosquitto's MOSQ_ERR_TIMEOUT.
const TIMED_OUT: u8 = 27;

/// Subscribe and print messages, as mosquitto_sub does.
#[derive(clap::Args)]
#[command(disable_help_flag = true, args_override_self = true, after_help = EXAMPLES)]
pub struct SubArgs {
    /// Topic filter to subscribe to; may be repeated
    #[arg(short, long = "topic", value_name = "FILTER", allow_hyphen_values = true)]
    topics: Vec<String>,
    /// Do not print topics that match this filter; may be repeated
    #[arg(short = 'T', long, value_name = "FILTER", allow_hyphen_values = true)]
    filter_out: Vec<String>,
    /// Print "topic payload"
    #[arg(short, long)]
    verbose: bool,
    /// Print in this format: %t topic, %p payload, %j JSON, %I time, @H:@M:@S …, as in `man mosquitto_sub`
    #[arg(short = 'F', value_name = "FORMAT", allow_hyphen_values = true)]
    format: Option<String>,
    /// Print no line end after a message
    #[arg(short = 'N')]
    no_line_end: bool,
    /// Print no retained messages
    #[arg(short = 'R', conflicts_with = "retained_only")]
    no_retained: bool,
    /// Print only retained messages, and end at the first other one
    #[arg(long)]
    retained_only: bool,
    /// End after so many messages
    #[arg(short = 'C', value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End after so many seconds
    #[arg(short = 'W', value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    timeout: Option<u64>,
    /// End as soon as the broker has acknowledged the subscriptions
    #[arg(short = 'E')]
    exit_after_subscribe: bool,
    #[command(flatten)]
    pub(super) connect: ConnectArgs,
}

const EXAMPLES: &str = "\
Examples:
  Everything on this machine's broker, with topics
      gatepost sub -t '#' -v
  One reading from another host, as a number for a script
      temperature=$(gatepost sub -h 192.168.1.20 -t greenhouse/temperature -C 1 -W 10)
  A log with local time
      gatepost sub -t 'greenhouse/#' -F '@Y-@m-@d @H:@M:@S %t %p'

Flags and output are those of mosquitto_sub 2.0. On a terminal, control characters in what others have published are
shown as \\xHH, but for line ends and tabs; a file or a pipe gets every byte as it came. A connection that is lost is
made again each second.

Exit codes: 0 ended by -C, -E, --retained-only or Ctrl-C; 27 by -W; the broker's code if it refuses the
connection (e.g. 5, or 135 with MQTT 5: not authorised); 1 if there is no connection; 2 wrong arguments.";

/// Runs the command to its exit code.
pub async fn run(args: SubArgs) -> anyhow::Result<u8> {
    let mut options = args.connect.check()?;
    let mut filters = args.topics;
    filters.extend(options.topic.take());
    ensure!(!filters.is_empty(), "no topic to subscribe to\nhint: give one with -t, e.g. -t '#' for all");
    for filter in &filters {
        let subject = filter.strip_prefix("$share/").and_then(|rest| rest.split_once('/')).map_or(&**filter, |s| s.1);
        TopicFilter::new(subject).with_context(|| format!("-t '{filter}'"))?;
    }
    let filter_out = args
        .filter_out
        .iter()
        .map(|filter| TopicFilter::new(filter.as_str()).with_context(|| format!("-T '{filter}'")));
    let style = match args.format.as_deref().map(Format::parse).transpose().context("-F")? {
        Some(format) => Style::Format(format),
        None if args.verbose => Style::Verbose,
        None => Style::Payload,
    };
    let stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let is_terminal = stdout.is_terminal();
    let mut subscriber = Subscriber {
        filters,
        filter_out: filter_out.collect::<anyhow::Result<_>>()?,
        style,
        line_end: !args.no_line_end,
        retained: match (args.no_retained, args.retained_only) {
            (true, _) => Retained::Skip,
            (_, true) => Retained::Only,
            _ => Retained::Print,
        },
        left: args.count,
        exit_after_subscribe: args.exit_after_subscribe,
        unreceived: VecDeque::new(),
        unreleased: HashMap::new(),
        options,
        out: Screen::new(BufWriter::with_capacity(64 * 1024, stdout), is_terminal),
    };
    let mut stop = Stop { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? };
    tokio::select! {
        code = subscriber.run(&mut stop) => code,
        () = passed(args.timeout) => {
            if !subscriber.options.quiet {
                complain("Timed out");
            }
            Ok(TIMED_OUT)
        }
    }
}

/// Waits for so many seconds; without them for ever.
async fn passed(seconds: Option<u64>) {
    match seconds {
        Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
        None => std::future::pending().await,
    }
}

struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    async fn requested(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

enum Style {
    Payload,
    Verbose,
    Format(Format),
}

#[derive(PartialEq)]
enum Retained {
    Print,
    Skip,
    Only,
}

/// Why a connection is no longer read.
enum End {
    /// The work is done.
    Done,
    /// The reader of stdout is gone: nobody is left to tell anything.
    ReaderGone,
    /// No subscription was granted.
    Denied,
    Lost(ClientError),
}

struct Subscriber {
    filters: Vec<String>,
    filter_out: Vec<TopicFilter>,
    style: Style,
    line_end: bool,
    retained: Retained,
    /// Messages until `-C` is reached.
    left: Option<u64>,
    exit_after_subscribe: bool,
    /// QoS 2 messages of a kept session that wait for our PUBREC: with `-C` no more are taken than will be printed.
    unreceived: VecDeque<Message>,
    /// QoS 2 messages that wait for the broker's PUBREL, by packet id. The broker bounds them (receive maximum).
    unreleased: HashMap<u16, Message>,
    options: Options,
    /// Written to without the runtime's help: a reader that is slow is meant to slow the broker down.
    out: Screen<BufWriter<File>>,
}

impl Subscriber {
    /// Reads, and connects again when the connection is lost, until there is an end.
    async fn run(&mut self, stop: &mut Stop) -> anyhow::Result<u8> {
        let mut client = Client::connect(&self.options.connect).await?;
        loop {
            let end = tokio::select! {
                end = self.read(&mut client) => end?,
                () = stop.requested() => End::Done,
            };
            let lost = match end {
                End::Lost(error) => error,
                End::Done | End::ReaderGone => {
                    client.disconnect().await;
                    return Ok(exit::OK);
                }
                End::Denied => {
                    client.disconnect().await;
                    bail!("the broker denied all subscriptions\nhint: check what it allows this user to read");
                }
            };
            report(&self.options, &format!("{lost}; trying again each second"));
            client = tokio::select! {
                client = self.reconnect() => client?,
                () = stop.requested() => return Ok(exit::OK),
            };
            report(&self.options, "connected again");
        }
    }

    /// A broker that refuses ends the command; one that is away is waited for.
    async fn reconnect(&mut self) -> anyhow::Result<Client> {
        self.unreceived.clear();
        if self.options.connect.clean {
            self.unreleased.clear();
        }
        loop {
            tokio::time::sleep(RETRY_DELAY).await;
            match Client::connect(&self.options.connect).await {
                Ok(client) => return Ok(client),
                Err(refused @ ClientError::Refused { .. }) => return Err(refused.into()),
                Err(_) => {}
            }
        }
    }

    async fn read(&mut self, client: &mut Client) -> anyhow::Result<End> {
        client.subscribe(&self.filters, self.options.qos);
        loop {
            let event = match client.next().await {
                Ok(event) => event,
                Err(error) => return Ok(End::Lost(error)),
            };
            let handled = self.handle(client, event).and_then(|end| match end {
                Some(end) => self.out.flush().map(|()| Some(end)),
                None => Ok(None),
            });
            match handled {
                Ok(None) => {}
                Ok(Some(end)) => return Ok(end),
                Err(error) => return Ok(output::settle(Err(error)).map(|()| End::ReaderGone)?),
            }
        }
    }

    fn handle(&mut self, client: &mut Client, event: Event) -> io::Result<Option<End>> {
        let end = match event {
            Event::Message(message) if message.qos < 2 => {
                let end = self.take(&message)?;
                client.acknowledge(&message);
                end
            }
            Event::Message(message) => {
                self.unreceived.push_back(message);
                self.receive(client);
                None
            }
            Event::Released(id) => match self.unreleased.remove(&id) {
                None => None,
                Some(message) => {
                    let end = self.take(&message)?;
                    self.receive(client);
                    end
                }
            },
            Event::Subscribed(_, codes) if codes.iter().all(|code| *code >= 128) => Some(End::Denied),
            Event::Subscribed(..) if self.exit_after_subscribe => Some(End::Done),
            _ => None,
        };
        if end.is_none() && (self.options.connect.packet_log.is_some() || !client.has_more()) {
            self.out.flush()?;
        }
        Ok(end)
    }

    /// Answers PUBREC for as many QoS 2 messages as will still be printed.
    fn receive(&mut self, client: &mut Client) {
        let most = match self.left {
            Some(left) if !self.options.connect.clean => usize::try_from(left).unwrap_or(usize::MAX),
            _ => usize::MAX,
        };
        while self.unreleased.len() < most {
            let Some(message) = self.unreceived.pop_front() else { break };
            client.acknowledge(&message);
            self.unreleased.insert(message.packet_id, message);
        }
    }

    /// Prints the message unless it is filtered out, and counts it.
    fn take(&mut self, message: &Message) -> io::Result<Option<End>> {
        match self.retained {
            Retained::Only if !message.retain => return Ok(Some(End::Done)),
            Retained::Skip if message.retain => return Ok(None),
            _ => {}
        }
        if !self.filter_out.is_empty() {
            let topic = String::from_utf8_lossy(&message.topic);
            if self.filter_out.iter().any(|filter| filter.matches(&topic)) {
                return Ok(None);
            }
        }
        self.print(message)?;
        if let Some(left) = &mut self.left {
            *left -= 1;
            if *left == 0 {
                return Ok(Some(End::Done));
            }
        }
        Ok(None)
    }

    /// mosquitto_sub prints nothing at all for an empty payload, and `(null)` with `-v`.
    fn print(&mut self, message: &Message) -> io::Result<()> {
        let empty = message.payload.is_empty();
        match &self.style {
            Style::Payload if empty => return Ok(()),
            Style::Verbose if empty && !self.line_end => return Ok(()),
            Style::Payload => self.out.write_all(&message.payload)?,
            Style::Verbose => {
                self.out.write_all(&message.topic)?;
                self.out.write_all(b" ")?;
                self.out.write_all(if empty { b"(null)" } else { &message.payload })?;
            }
            Style::Format(format) => format.render(message, Zoned::now, &mut self.out)?,
        }
        if self.line_end { self.out.write_all(b"\n") } else { Ok(()) }
    }
}
