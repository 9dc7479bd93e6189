//! `gatepost pub` and `gatepost sub`.

use std::process::ExitCode;

/// Publish messages, as mosquitto_pub does.
#[derive(Debug, clap::Args)]
pub struct PubArgs {}

/// Subscribe and print messages, as mosquitto_sub does.
#[derive(Debug, clap::Args)]
pub struct SubArgs {}

/// Runs `gatepost pub`.
pub fn run_pub(_args: PubArgs) -> ExitCode {
    ExitCode::SUCCESS
}

/// Runs `gatepost sub`.
pub fn run_sub(_args: SubArgs) -> ExitCode {
    ExitCode::SUCCESS
}
