//! `gatepost demo`.

use std::process::ExitCode;

/// Show a simulated board and light on MQTT.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(_args: Args) -> ExitCode {
    ExitCode::SUCCESS
}
