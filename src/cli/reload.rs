//! `gatepost reload`.

use std::process::ExitCode;
use std::time::Duration;

use super::client::Socket;
use super::{exit, output};
use crate::control::protocol::Request;

/// Devices that are stopped are waited for, one reload after the other.
const RELOAD_TIME: Duration = Duration::from_secs(60);

/// Let the gateway apply its configuration as it is now
#[derive(Debug, clap::Args)]
#[command(after_help = "\
As SIGHUP, but with the answer: only what has changed is restarted, and a wrong configuration changes nothing.
Users, rights and certificates are read again each time, changed or not; the log says how many users and rights there
are then.

Examples:
  gatepost reload
  gatepost check -c gatepost.toml && gatepost reload --socket ./control.sock

Exit codes: 0; 1 it could not be applied; 69 no gateway runs, or an earlier
reload still waits for a file; 78 the configuration is wrong.")]
pub struct Args {
    #[command(flatten)]
    socket: Socket,
}

/// Runs the command.
pub fn run(args: Args) -> ExitCode {
    match args.socket.ask(&Request::Reload, RELOAD_TIME) {
        Ok(answer) => {
            for warning in answer["warnings"].as_array().into_iter().flatten() {
                output::complain(warning.as_str().unwrap_or_default());
            }
            output::print(&format!("{}\n", answer["summary"].as_str().unwrap_or_default()), exit::OK)
        }
        Err(failure) => failure.report(),
    }
}
