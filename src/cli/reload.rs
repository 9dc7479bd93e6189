//! `gatepost reload`.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;

use super::client::Socket;
use crate::control::protocol::Request;

/// Devices that are stopped are waited for, one reload after the other.
const RELOAD_TIME: Duration = Duration::from_secs(60);

/// Let the gateway apply its configuration as it is now
#[derive(Debug, clap::Args)]
#[command(after_help = "\
As SIGHUP, but with the answer: only what has changed is restarted, and a wrong configuration changes nothing.

Examples:
  gatepost reload
  gatepost check -c gatepost.toml && gatepost reload --socket ./control.sock

Exit codes: 0; 1 it could not be applied; 69 no gateway runs; 78 the configuration is wrong.")]
pub struct Args {
    #[command(flatten)]
    socket: Socket,
}

/// What the gateway says, or that there was nothing to say. It cannot tell whether files have changed.
fn said(answer: &Value) -> &str {
    let is_empty = |list: &str| answer[list].as_array().is_some_and(Vec::is_empty);
    if is_empty("changes") && is_empty("needs_restart") {
        return "nothing has changed in the configuration; the files that it names (users, rights, certificates) were \
                read again";
    }
    answer["summary"].as_str().unwrap_or_default()
}

/// Runs the command.
pub fn run(args: Args) -> ExitCode {
    match args.socket.ask(&Request::Reload, RELOAD_TIME) {
        Ok(answer) => {
            for warning in answer["warnings"].as_array().into_iter().flatten() {
                eprintln!("{}", warning.as_str().unwrap_or_default());
            }
            // Who closed the pipe still learns from the exit code that it was done.
            let _ = writeln!(std::io::stdout(), "{}", said(&answer));
            ExitCode::SUCCESS
        }
        Err(failure) => failure.report(),
    }
}
