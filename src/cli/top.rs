//! `gatepost top`: the state of the gateway on the whole terminal, each second anew.

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use serde_json::Value;

use super::client::{Client, Failure, Socket};
use super::status::snapshot::Snapshot;
use super::{exit, output};
use crate::control::protocol::Request;
use crate::gateway::signals;
use rates::Sample;
use view::{Order, View};

mod rates;
mod view;

/// From one look to the next.
const REFRESH: Duration = Duration::from_secs(1);
/// How long the gateway may take for an answer before the screen says so.
const ANSWER_TIME: Duration = Duration::from_secs(2);

/// Watch the running gateway: devices, rates, clients and queues, on the whole terminal
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Keys: n i o d u sort by name, frames in, frames out, drops, queue; r the other way round; arrows, PgUp, PgDn, Home
and End move; q or Esc ends.

Examples:
  gatepost top
  gatepost top --socket ./control.sock

Exit codes: 0; 1 no terminal, or one that cannot move its cursor (TERM=dumb); 69 no gateway runs.")]
pub struct Args {
    #[command(flatten)]
    socket: Socket,
}

/// What the terminal or a signal asks for.
enum Input {
    Key(KeyEvent),
    /// The size has changed.
    Redraw,
    Quit,
}

/// Runs the command.
pub fn run(args: Args) -> ExitCode {
    if !(io::stdin().is_terminal() && io::stdout().is_terminal()) {
        output::complain("error: this needs a terminal\nhint: `gatepost status` prints the same once");
        return ExitCode::from(exit::FAILURE);
    }
    if std::env::var_os("TERM").is_some_and(|kind| kind == "dumb") {
        output::complain(
            "error: this terminal cannot move its cursor (TERM=dumb)\nhint: `gatepost status` prints the same once",
        );
        return ExitCode::from(exit::FAILURE);
    }
    let mut link = Link { socket: args.socket, client: None };
    // Without a gateway the terminal stays as it is.
    let first = match link.look() {
        Ok(first) => first,
        Err(failure) => return failure.report(),
    };
    let mut terminal = match ratatui::try_init() {
        Ok(terminal) => terminal,
        Err(error) => {
            ratatui::restore();
            output::complain(format_args!("error: the terminal cannot be used: {error}"));
            return ExitCode::from(exit::FAILURE);
        }
    };
    let shown = show(&mut terminal, &mut link, &first);
    ratatui::restore();
    match shown {
        Ok(()) => ExitCode::SUCCESS,
        // The terminal is gone, and with it who looked at it.
        Err(_) => ExitCode::from(exit::FAILURE),
    }
}

fn show(terminal: &mut DefaultTerminal, link: &mut Link, first: &Value) -> io::Result<()> {
    let inputs = listen()?;
    let mut view = View::new(Sample::new(Snapshot::new(first), Instant::now()));
    let mut next = Instant::now() + REFRESH;
    loop {
        terminal.draw(|frame| view.draw(frame))?;
        match inputs.recv_timeout(next.saturating_duration_since(Instant::now())) {
            Ok(Input::Quit) | Err(RecvTimeoutError::Disconnected) => return Ok(()),
            Ok(Input::Key(key)) if is_quit(key) => return Ok(()),
            Ok(Input::Key(key)) => press(&mut view, key.code),
            Ok(Input::Redraw) => {}
            Err(RecvTimeoutError::Timeout) => {
                match link.look() {
                    Ok(status) => view.update(Sample::new(Snapshot::new(&status), Instant::now())),
                    Err(failure) => view.complain(failure.message),
                }
                next = Instant::now() + REFRESH;
            }
        }
    }
}

fn is_quit(key: KeyEvent) -> bool {
    let interrupt = key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c');
    interrupt || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc)
}

fn press(view: &mut View, key: KeyCode) {
    match key {
        KeyCode::Char('n') => view.sort(Order::Name),
        KeyCode::Char('i') => view.sort(Order::In),
        KeyCode::Char('o') => view.sort(Order::Out),
        KeyCode::Char('d') => view.sort(Order::Dropped),
        KeyCode::Char('u') => view.sort(Order::Queued),
        KeyCode::Char('r') => view.reverse(),
        KeyCode::Down => view.scroll(1),
        KeyCode::Up => view.scroll(-1),
        KeyCode::PageDown => view.turn(1),
        KeyCode::PageUp => view.turn(-1),
        KeyCode::Home => view.scroll(isize::MIN),
        KeyCode::End => view.scroll(isize::MAX),
        _ => {}
    }
}

/// Asks again on the same connection, and makes a new one when that was lost.
struct Link {
    socket: Socket,
    client: Option<Client>,
}

impl Link {
    fn look(&mut self) -> Result<Value, Failure> {
        let mut client = match self.client.take() {
            Some(client) => client,
            None => self.socket.connect()?,
        };
        let status = client.ask(&Request::Status, ANSWER_TIME)?;
        self.client = Some(client);
        Ok(status)
    }
}

/// Keys and signals. Their threads end with the process: a read of the terminal cannot be called off.
fn listen() -> io::Result<Receiver<Input>> {
    let (sender, inputs) = channel();
    let of_signals = sender.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    // Taken over before the first draw, so that no signal leaves the terminal as it is then.
    let mut signals = {
        let _context = runtime.enter();
        signals::Signals::new()?
    };
    std::thread::spawn(move || {
        let ends = |request| matches!(request, signals::Request::Stop | signals::Request::Reload);
        runtime.block_on(async { while !ends(signals.next().await) {} });
        let _ = of_signals.send(Input::Quit);
    });
    std::thread::spawn(move || forward_keys(&sender));
    Ok(inputs)
}

fn forward_keys(sender: &Sender<Input>) {
    loop {
        let input = match event::read() {
            Ok(Event::Key(key)) if key.kind != KeyEventKind::Release => Input::Key(key),
            Ok(Event::Resize(..)) => Input::Redraw,
            Ok(_) => continue,
            Err(_) => Input::Quit,
        };
        let is_end = matches!(input, Input::Quit);
        if sender.send(input).is_err() || is_end {
            return;
        }
    }
}
