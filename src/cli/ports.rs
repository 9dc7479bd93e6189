//! `gatepost ports`.

use std::process::ExitCode;

/// List serial ports.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(_args: Args) -> ExitCode {
    ExitCode::SUCCESS
}
