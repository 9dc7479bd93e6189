//! `gatepost check`.

use std::path::PathBuf;
use std::process::ExitCode;

use super::{exit, output};
use crate::config::{self, Loaded};

/// Check a configuration: nothing is opened, nothing is started.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gatepost check                      check /etc/gatepost/gatepost.toml and conf.d/*.toml beside it
  gatepost check -c gatepost.toml     check this file
  gatepost check --print              show what is in effect, defaults included

Credentials that only a service is given (LoadCredential=) are named as not checked here.

Exit codes: 0; 78 the configuration is wrong, and every error is shown.")]
pub struct Args {
    /// The configuration [default: /etc/gatepost/gatepost.toml; without that file a local-only broker]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the whole effective configuration as TOML, secrets masked
    #[arg(long)]
    print: bool,
}

/// Runs the command.
pub fn run(args: Args) -> ExitCode {
    let loaded = match super::inspect_config(args.config.as_deref()) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    let mut errors = super::access_errors(&loaded.config.broker).peekable();
    if errors.peek().is_some() {
        errors.for_each(|error| output::complain(format_args!("error: {error}")));
        return ExitCode::from(exit::CONFIG);
    }
    let summary = summary(&loaded);
    let text = if args.print { format!("# {summary}\n{}", loaded.config.to_toml()) } else { format!("{summary}\n") };
    output::print(&text, exit::OK)
}

/// `ok: 2 devices (1 disabled), 2 listeners in gatepost.toml, conf.d/10.toml`
fn summary(loaded: &Loaded) -> String {
    let count = |number: usize, what: &str| format!("{number} {what}{}", if number == 1 { "" } else { "s" });
    let mut summary = format!("ok: {}", count(loaded.config.devices.len(), "device"));
    if !loaded.disabled.is_empty() {
        summary.push_str(&format!(" ({} disabled)", loaded.disabled.len()));
    }
    summary.push_str(&format!(", {}", count(loaded.config.broker.listeners.len(), "listener")));
    let files: Vec<String> = loaded.files.iter().map(|file| file.display().to_string()).collect();
    if files.is_empty() {
        summary.push_str(&format!("; the defaults, since there is no {}", config::DEFAULT_PATH));
    } else {
        summary.push_str(&format!(" in {}", files.join(", ")));
    }
    summary
}
