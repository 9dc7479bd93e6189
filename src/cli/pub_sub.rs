//! `gatepost pub` and `gatepost sub`: mosquitto_pub and mosquitto_sub over [`mqtt_client`](crate::mqtt_client).

use std::process::ExitCode;

use crate::cli::exit;
use crate::cli::output::{OutputError, complain};
use crate::mqtt_client::ClientError;

mod format;
mod hint;
mod json;
mod options;
mod publish;
mod screen;
mod subscribe;
mod tls_flags;

pub use publish::PubArgs;
pub use subscribe::SubArgs;

use hint::hint;
use options::Options;
use screen::Screen;

/// Runs `gatepost pub`.
pub fn run_pub(args: PubArgs) -> ExitCode {
    let quiet = args.connect.quiet;
    block_on(publish::run(args), quiet)
}

/// Runs `gatepost sub`.
pub fn run_sub(args: SubArgs) -> ExitCode {
    let quiet = args.connect.quiet;
    block_on(subscribe::run(args), quiet)
}

/// `quiet` keeps what the connection did to itself, not what is wrong with the arguments.
fn block_on(command: impl Future<Output = anyhow::Result<u8>>, quiet: bool) -> ExitCode {
    let outcome = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(command));
    match outcome {
        Ok(code) => code.into(),
        Err(error) => {
            let of_the_connection = error.downcast_ref();
            if !(quiet && of_the_connection.is_some()) {
                let hint = of_the_connection.and_then(hint).map(|hint| format!("\nhint: {hint}"));
                complain(format_args!("Error: {error:#}{}", hint.unwrap_or_default()));
            }
            match of_the_connection {
                Some(ClientError::Refused { code, .. }) => (*code).into(),
                _ if error.is::<OutputError>() => exit::IO_ERROR.into(),
                _ => exit::FAILURE.into(),
            }
        }
    }
}

/// A line on stderr, unless `--quiet`.
fn report(options: &Options, line: &str) {
    if !options.quiet {
        complain(format_args!("Warning: {line}"));
    }
}
