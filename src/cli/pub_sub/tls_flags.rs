//! The TLS flags of `pub` and `sub`.

use std::path::PathBuf;

use anyhow::ensure;

use crate::net::tls::client::ClientTls;

/// The TLS flags.
#[derive(clap::Args)]
pub struct TlsFlags {
    /// PEM file with the certificates to trust [default: those of the system]
    #[arg(long, value_name = "FILE")]
    cafile: Option<PathBuf>,
    /// PEM file with this client's certificate
    #[arg(long, value_name = "FILE")]
    cert: Option<PathBuf>,
    /// PEM file with its key
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Do not check that the certificate is for this host
    #[arg(long)]
    insecure: bool,
}

impl TlsFlags {
    /// Whether the flags alone ask for TLS.
    pub fn asked_for(&self) -> bool {
        self.cafile.is_some() || self.cert.is_some()
    }

    /// A certificate goes with its key.
    pub fn check(&self) -> anyhow::Result<()> {
        ensure!(self.cert.is_some() == self.key.is_some(), "--cert and --key belong together");
        Ok(())
    }

    /// What they come to. The files have not been read.
    pub fn client_tls(self) -> ClientTls {
        ClientTls { ca: self.cafile, certificate: self.cert.zip(self.key), any_name: self.insecure }
    }
}
