//! `gatepost check`.

use std::process::ExitCode;

/// Check a configuration.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(_args: Args) -> ExitCode {
    ExitCode::SUCCESS
}
