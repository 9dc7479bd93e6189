//! The command line: one file a command.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub mod check;
pub mod demo;
pub mod exit;
pub mod ports;
pub mod pub_sub;
pub mod route;
pub mod run;

/// Puts serial ports and TCP devices on MQTT, with its own broker.
#[derive(Debug, Parser)]
#[command(name = "gatepost", version, arg_required_else_help = true, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Args),
    Check(check::Args),
    Demo(demo::Args),
    Ports(ports::Args),
    Pub(pub_sub::PubArgs),
    Sub(pub_sub::SubArgs),
    Route(route::Args),
}

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Run(args) => run::run(args),
        Command::Check(args) => check::run(args),
        Command::Demo(args) => demo::run(args),
        Command::Ports(args) => ports::run(args),
        Command::Pub(args) => pub_sub::run_pub(args),
        Command::Sub(args) => pub_sub::run_sub(args),
        Command::Route(args) => route::run(args),
    }
}
