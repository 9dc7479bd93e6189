//! `gatepost route`.

use std::process::ExitCode;

/// Show what a rule does, without a port.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(_args: Args) -> ExitCode {
    ExitCode::SUCCESS
}
