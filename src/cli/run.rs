//! `gatepost run`: the daemon.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use tokio::task::JoinSet;

use super::{exit, output};
use crate::config::Config;
use crate::control::Control;
use crate::gateway::signals::{Request, Signals};
use crate::gateway::{Gateway, panics};

/// Run the gateway until SIGTERM or SIGINT.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  gatepost run                          with /etc/gatepost/gatepost.toml, or a local-only broker without it
  gatepost run -c gatepost.toml
  GATEPOST_LOG=debug gatepost run -c gatepost.toml

Signals: SIGTERM and SIGINT stop it in order, SIGHUP applies the configuration as it is now (a wrong
one changes nothing), SIGUSR1 writes the counters to the log.

Exit codes: 0 stopped, also before it was ready; 70 internal failure; 71 a listener cannot bind; 78 the configuration is wrong.")]
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
    let _log = match crate::log::init(&config.log) {
        Ok(guard) => guard,
        Err(error) => {
            output::complain(format_args!("error: the log could not be opened: {error}"));
            return ExitCode::from(exit::SOFTWARE);
        }
    };
    panics::install();
    // One thread: a gateway is seldom busy, and a message that changes threads on its way waits for each to wake.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "the runtime could not be started");
            return ExitCode::from(exit::SOFTWARE);
        }
    };
    let code = match runtime.block_on(serve(config, args.config)) {
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

async fn serve(config: Config, file: Option<PathBuf>) -> anyhow::Result<u8> {
    let mut signals = Signals::new().context("signals could not be taken over")?;
    let socket = config.gateway.control.clone();
    let gateway = match start(config, file, &mut signals).await {
        Ok(gateway) => gateway,
        Err(code) => return Ok(code),
    };
    let control = control(&gateway, socket.as_deref());
    tracing::info!(devices = gateway.devices().len(), version = env!("CARGO_PKG_VERSION"), "gatepost is ready");
    let mut reloads = JoinSet::new();
    loop {
        tokio::select! {
            request = signals.next() => match request {
                Request::Stop => break,
                // One that waits will read the file as it is then.
                Request::Reload if reloads.len() > 1 => {}
                Request::Reload => {
                    let gateway = gateway.clone();
                    reloads.spawn(async move { drop(gateway.reload().await) });
                }
                Request::LogStats => gateway.log_stats(),
            },
            Some(_) = reloads.join_next() => {}
            () = gateway.failed() => {
                tracing::error!("the broker's router has died; ending so that the service manager starts afresh");
                return Ok(exit::SOFTWARE);
            }
        }
    }
    tracing::info!("stopping");
    if let Some(control) = control {
        control.stop().await;
    }
    gateway.stop().await;
    tracing::info!("stopped");
    Ok(exit::OK)
}

/// The gateway, or the exit code without one.
async fn start(config: Config, file: Option<PathBuf>, signals: &mut Signals) -> Result<Arc<Gateway>, u8> {
    tokio::select! {
        started = Gateway::start(config, file) => started.map_err(|error| {
            tracing::error!("{error}");
            if error.is_config() { exit::CONFIG } else { exit::OS_ERROR }
        }),
        // It may wait for a disk or a name server.
        () = signals.stop() => {
            tracing::warn!("stopped before it was ready");
            Err(exit::OK)
        }
    }
}

/// The control socket; a gateway works without it, too.
fn control(gateway: &Arc<Gateway>, path: Option<&Path>) -> Option<Control> {
    let Some(path) = path else {
        tracing::info!("no control socket: [gateway] control names none, and $XDG_RUNTIME_DIR is not set");
        return None;
    };
    Control::start(path, gateway.clone()).inspect_err(|error| tracing::error!("{error}")).ok()
}
