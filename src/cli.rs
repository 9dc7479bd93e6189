//! The command line: one file a command. What they print goes by way of `output`.
#![warn(clippy::print_stdout, clippy::print_stderr)]

use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::broker::{self, auth::FileError};
use crate::config::{self, ConfigErrors, Loaded};

pub mod check;
mod client;
pub mod demo;
pub mod doctor;
mod escape;
pub mod exit;
pub mod hold;
pub mod monitor;
mod output;
pub mod passwd;
pub mod ports;
pub mod pub_sub;
pub mod reload;
pub mod route;
pub mod run;
pub mod send;
pub mod status;
pub mod top;

/// Puts serial ports and TCP devices on MQTT, with its own broker.
#[derive(Parser)]
#[command(
    name = "gatepost",
    version,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    after_help = "\
Examples:
  gatepost demo                          see it work without any hardware
  gatepost ports                         find the serial port to put into gatepost.toml
  gatepost run -c gatepost.toml          run the gateway
  gatepost status                        what it does, when it runs

Each command has its own --help with examples."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Run(run::Args),
    Check(check::Args),
    Demo(demo::Args),
    Doctor(doctor::Args),
    Ports(ports::Args),
    Pub(pub_sub::PubArgs),
    Sub(pub_sub::SubArgs),
    Passwd(passwd::Args),
    Route(route::Args),
    Status(status::Args),
    Top(top::Args),
    Monitor(monitor::Args),
    Send(send::Args),
    Release(hold::ReleaseArgs),
    Acquire(hold::AcquireArgs),
    Reload(reload::Args),
}

/// Loads the configuration to run with it, or tells on stderr what is wrong with it; warnings go there too.
fn load_config(path: Option<&Path>) -> Result<Loaded, ExitCode> {
    told(config::load_or_default(path))
}

/// Loads the configuration to look at it, which may be that of a service with credentials of its own.
fn inspect_config(path: Option<&Path>) -> Result<Loaded, ExitCode> {
    told(config::inspect(path))
}

fn told(loaded: Result<Loaded, ConfigErrors>) -> Result<Loaded, ExitCode> {
    let loaded = loaded.map_err(|errors| {
        output::complain(errors);
        ExitCode::from(exit::CONFIG)
    })?;
    for warning in &loaded.warnings {
        output::complain(warning);
    }
    Ok(loaded)
}

/// What is wrong with the password and ACL files, but for one that only the service is given.
fn access_errors(settings: &config::Broker) -> impl Iterator<Item = FileError> + use<> {
    broker::access_errors(settings).filter(|error| !config::is_credential_of_service(error.path()))
}

/// The commands and their options, for man pages and completions.
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Run(args) => run::run(args),
        Command::Check(args) => check::run(args),
        Command::Demo(args) => demo::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Ports(args) => ports::run(args),
        Command::Pub(args) => pub_sub::run_pub(args),
        Command::Sub(args) => pub_sub::run_sub(args),
        Command::Passwd(args) => passwd::run(args),
        Command::Route(args) => route::run(args),
        Command::Status(args) => status::run(args),
        Command::Top(args) => top::run(args),
        Command::Monitor(args) => monitor::run(args),
        Command::Send(args) => send::run(args),
        Command::Release(args) => hold::release(args),
        Command::Acquire(args) => hold::acquire(args),
        Command::Reload(args) => reload::run(args),
    }
}
