//! TLS as a client speaks it, and whom it trusts.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, anyhow, ensure};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

/// Where Debian and its relatives keep the certificates of public authorities.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// How a client speaks TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientTls {
    /// PEM file with the certificates to trust; `None`: those of the system.
    pub ca: Option<PathBuf>,
    /// PEM files with the client's certificate and its key.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// Whether the server's certificate may be for another host. Its chain is checked all the same.
    pub any_name: bool,
}

impl ClientTls {
    /// Reads the files.
    pub fn client_config(&self) -> anyhow::Result<Arc<ClientConfig>> {
        let provider = Arc::new(ring::default_provider());
        let roots = roots(self.ca.as_deref().unwrap_or(Path::new(SYSTEM_ROOTS)))?;
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider.clone()).build()?;
        let config = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
        let config = if self.any_name {
            config.dangerous().with_custom_certificate_verifier(Arc::new(AnyName { verifier, provider }))
        } else {
            config.with_webpki_verifier(verifier)
        };
        let config = match &self.certificate {
            Some((cert, key)) => {
                let key = PrivateKeyDer::from_pem_file(key).map_err(|e| unreadable(key, e))?;
                let rejected = || format!("{} and its key do not fit together", cert.display());
                config.with_client_auth_cert(certificates(cert)?, key).with_context(rejected)?
            }
            None => config.with_no_client_auth(),
        };
        Ok(Arc::new(config))
    }
}

fn roots(file: &Path) -> anyhow::Result<Arc<RootCertStore>> {
    let mut roots = RootCertStore::empty();
    // A bundle of public authorities may hold some that rustls cannot use; the others still count.
    let (added, _) = roots.add_parsable_certificates(certificates(file)?);
    ensure!(added > 0, "{}: no usable certificate in it", file.display());
    Ok(Arc::new(roots))
}

fn certificates(file: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = read.map_err(|e| unreadable(file, e))?;
    ensure!(!found.is_empty(), "{}: no PEM certificate in it", file.display());
    Ok(found)
}

fn unreadable(file: &Path, error: rustls_pki_types::pem::Error) -> anyhow::Error {
    match error {
        rustls_pki_types::pem::Error::Io(error) => anyhow!("cannot read {}: {error}", file.display()),
        rustls_pki_types::pem::Error::NoItemsFound => anyhow!("{}: nothing PEM in it that fits", file.display()),
        other => anyhow!("{}: {other}", file.display()),
    }
}

/// As mosquitto's clients mean `--insecure`: the chain is checked, the name is not.
#[derive(Debug)]
struct AnyName {
    verifier: Arc<WebPkiServerVerifier>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        // The name is checked last, so this error says that all the rest was right.
        match self.verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
