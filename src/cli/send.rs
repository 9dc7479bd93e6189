//! `gatepost send`.

use std::process::ExitCode;
use std::time::Duration;

use super::client::{Failure, Socket};
use super::{escape, exit, output};
use crate::control::protocol::{Data, Request};

/// Write one frame to a device of the running gateway
#[derive(Debug, clap::Args)]
#[command(after_help = "\
TEXT goes the way of every command: through the device's queue and its framing, which adds the terminator, length or
checksum. Escapes in it: \\n \\r \\t \\0 \\\\ and \\xHH for any byte; any other backslash stands for itself.
Returns when the frame is written, or says why it was not.

Examples:
  gatepost send arduino 'LED ON'
  gatepost send meter '\\x02\\x10\\xff'
  gatepost send scanners --peer 192.168.1.7_51234 BEEP

Exit codes: 0 written; 1 not written, or no such device; 69 no gateway runs.")]
pub struct Args {
    /// The device, by its name in the configuration
    device: String,
    /// The frame, without its terminator
    #[arg(allow_hyphen_values = true)]
    text: String,
    /// Of a tcp_server: only to this connection, by its {peer} [default: to all]
    #[arg(long)]
    peer: Option<String>,
    /// How long to wait; the frame stays in the queue
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration)]
    timeout: Duration,
    #[command(flatten)]
    socket: Socket,
}

/// Runs the command.
pub fn run(args: Args) -> ExitCode {
    let frame = Data::new(&escape::decode(&args.text));
    let request = Request::Send { device: args.device.clone(), peer: args.peer, frame };
    // The kernel takes no time-out of 0.
    let limit = args.timeout.max(Duration::from_millis(1));
    let answer = args.socket.connect().and_then(|mut client| {
        client.ask(&request, limit).map_err(|failure| match failure.is_late {
            true => Failure {
                exit: exit::FAILURE,
                message: format!(
                    "{} has not taken the frame within {}; it waits in the queue",
                    args.device,
                    humantime::format_duration(args.timeout)
                ),
                ..failure
            },
            false => failure,
        })
    });
    match answer {
        Ok(answer) => {
            for (reason, count) in answer["dropped"].as_object().into_iter().flatten() {
                output::complain(format_args!("warning: not written to {count} of the connections: {reason}"));
            }
            ExitCode::SUCCESS
        }
        Err(failure) => failure.report(),
    }
}
