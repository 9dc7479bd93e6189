//! `gatepost release` and `gatepost acquire`: hand a device over and take it back.

use std::process::ExitCode;
use std::time::Duration;

use super::client::{ANSWER_TIME, Socket};
use super::{exit, output};
use crate::control::protocol::Request;

/// A device that is stuck in its driver takes longer to close.
const RELEASE_TIME: Duration = Duration::from_secs(15);

/// Close a device and leave it alone, so that another program can have it, for flashing
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The device is offline until `gatepost acquire`, until the time of --for is over, or until the gateway starts anew.
Returns when it is closed.

Examples:
  gatepost release arduino
  gatepost release arduino --for 5m && avrdude -P /dev/ttyUSB0 … && gatepost acquire arduino

Exit codes: 0; 1 no such device, or it does not close; 69 no gateway runs.")]
pub struct ReleaseArgs {
    /// The device, by its name in the configuration
    device: String,
    /// Take it back after so long
    #[arg(long = "for", value_name = "DURATION", value_parser = span)]
    span: Option<Duration>,
    #[command(flatten)]
    socket: Socket,
}

/// Take a device back that was released
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  gatepost acquire arduino
  gatepost acquire --socket ./control.sock arduino

Exit codes: 0, also if it was not released; 1 no such device; 69 no gateway runs.")]
pub struct AcquireArgs {
    /// The device, by its name in the configuration
    device: String,
    #[command(flatten)]
    socket: Socket,
}

/// A time for `--for`: what is shorter than the protocol can say is none.
fn span(text: &str) -> Result<Duration, String> {
    let span = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if span < Duration::from_millis(1) { Err("at least 1ms".to_owned()) } else { Ok(span) }
}

/// Runs `release`.
pub fn release(args: ReleaseArgs) -> ExitCode {
    let for_ms = args.span.map(|span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX));
    let request = Request::Release { device: args.device.clone(), for_ms };
    match args.socket.ask(&request, RELEASE_TIME) {
        Ok(_) => {
            let span = args.span.map(|span| format!("for {}, or ", humantime::format_duration(span)));
            say(&format!("{} is released {}until `gatepost acquire`", args.device, span.unwrap_or_default()))
        }
        Err(failure) => failure.report(),
    }
}

/// Runs `acquire`.
pub fn acquire(args: AcquireArgs) -> ExitCode {
    match args.socket.ask(&Request::Acquire { device: args.device.clone() }, ANSWER_TIME) {
        Ok(answer) if answer["acquired"] == true => say(&format!("{} is taken back", args.device)),
        Ok(_) => say(&format!("{} was not released", args.device)),
        Err(failure) => failure.report(),
    }
}

/// It was done, and this is what.
fn say(text: &str) -> ExitCode {
    output::print(&format!("{text}\n"), exit::OK)
}
