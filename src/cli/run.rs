//! `gatepost run`: the daemon.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;

use super::exit;
use crate::broker;
use crate::config::Config;
use crate::gateway::signals::{Request, Signals};
use crate::gateway::{Gateway, StartError};

/// Run the gateway until SIGTERM or SIGINT.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  gatepost run                          with /etc/gatepost/gatepost.toml, or a local-only broker without it
  gatepost run -c gatepost.toml
  GATEPOST_LOG=debug gatepost run -c gatepost.toml

Signals: SIGTERM and SIGINT stop it in order, SIGHUP makes it read password_file and acl_file again, SIGUSR1 writes the
counters to the log.
Exit codes: 0 stopped, 70 internal failure, 71 a listener cannot bind, 78 the configuration is wrong.")]
pub struct Args {
    /// The configuration file [default: /etc/gatepost/gatepost.toml if it exists]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Runs the command.
pub fn run(args: Args) -> ExitCode {
    let config = match super::load_config(args.config.as_deref()) {
        Ok(loaded) => loaded.config,
        Err(code) => return code,
    };
    if let Err(error) = crate::log::init(&config.log) {
        eprintln!("error: the log could not be opened: {error}");
        return ExitCode::from(exit::SOFTWARE);
    }
    // One thread: a gateway is seldom busy, and a message that changes threads on its way waits for each to wake.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "the runtime could not be started");
            return ExitCode::from(exit::SOFTWARE);
        }
    };
    let code = match runtime.block_on(serve(config)) {
        Ok(code) => code,
        Err(error) => {
            tracing::error!("{error:#}");
            exit::SOFTWARE
        }
    };
    // A thread that hangs in a driver must not keep the process.
    runtime.shutdown_background();
    ExitCode::from(code)
}

async fn serve(config: Config) -> anyhow::Result<u8> {
    let mut signals = Signals::new().context("signals could not be taken over")?;
    let gateway = match Gateway::start(config).await {
        Ok(gateway) => gateway,
        Err(error @ (StartError::Topic(_) | StartError::Broker(broker::StartError::Access(_)))) => {
            tracing::error!("{error}");
            return Ok(exit::CONFIG);
        }
        Err(StartError::Broker(error @ broker::StartError::Tls { .. })) => {
            tracing::error!("{error}");
            return Ok(exit::CONFIG);
        }
        Err(StartError::Broker(error)) => {
            tracing::error!("{error}");
            return Ok(exit::OS_ERROR);
        }
    };
    tracing::info!(devices = gateway.devices().len(), version = env!("CARGO_PKG_VERSION"), "gatepost is ready");
    loop {
        tokio::select! {
            request = signals.next() => match request {
                Request::Stop => break,
                Request::Reload => gateway.reload().await,
                Request::LogStats => gateway.log_stats(),
            },
            () = gateway.failed() => {
                tracing::error!("the broker's router has died; ending so that the service manager starts afresh");
                return Ok(exit::SOFTWARE);
            }
        }
    }
    tracing::info!("stopping");
    gateway.stop().await;
    tracing::info!("stopped");
    Ok(exit::OK)
}
