//! TLS as a client speaks it, and whom it trusts.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{VerifierBuilderError, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::{self, PemObject};
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

/// Why certificates or keys of a client cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ClientTlsError {
    /// A file cannot be read.
    #[error("cannot read {}: {cause}", file.display())]
    Read {
        /// As given.
        file: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// A file has no key in it.
    #[error("{}: nothing PEM in it that fits", .0.display())]
    NoKey(PathBuf),
    /// A file is not PEM.
    #[error("{}: {cause}", file.display())]
    Pem {
        /// As given.
        file: PathBuf,
        /// What is wrong with it.
        cause: pem::Error,
    },
    /// A file has no certificate in it.
    #[error("{}: no PEM certificate in it", .0.display())]
    NoCertificate(PathBuf),
    /// None of the certificates to trust is one that rustls can use.
    #[error("{}: no usable certificate in it", .0.display())]
    NoAuthority(PathBuf),
    /// The key is not that of the certificate.
    #[error("{} and its key do not fit together: {cause}", file.display())]
    Mismatch {
        /// The file of the certificate.
        file: PathBuf,
        /// What rustls says.
        cause: rustls::Error,
    },
    /// rustls cannot check servers with these authorities.
    #[error(transparent)]
    Verifier(#[from] VerifierBuilderError),
    /// rustls cannot be set up.
    #[error(transparent)]
    Provider(#[from] rustls::Error),
}

impl ClientTls {
    /// Reads the files as they are now: TLS 1.2 and 1.3, with ring. Blocks.
    ///
    /// # Errors
    /// A file that cannot be read or has nothing usable in it, and a key that is not that of the certificate.
    pub fn client_config(&self) -> Result<Arc<ClientConfig>, ClientTlsError> {
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
                let key = PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable(key, error))?;
                let mismatch = |cause| ClientTlsError::Mismatch { file: cert.clone(), cause };
                config.with_client_auth_cert(certificates(cert)?, key).map_err(mismatch)?
            }
            None => config.with_no_client_auth(),
        };
        Ok(Arc::new(config))
    }
}

fn roots(file: &Path) -> Result<Arc<RootCertStore>, ClientTlsError> {
    let mut roots = RootCertStore::empty();
    // A bundle of public authorities may hold some that rustls cannot use; the others still count.
    let (added, _) = roots.add_parsable_certificates(certificates(file)?);
    if added == 0 {
        return Err(ClientTlsError::NoAuthority(file.to_owned()));
    }
    Ok(Arc::new(roots))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, ClientTlsError> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = read.map_err(|error| unreadable(file, error))?;
    if found.is_empty() {
        return Err(ClientTlsError::NoCertificate(file.to_owned()));
    }
    Ok(found)
}

fn unreadable(file: &Path, error: pem::Error) -> ClientTlsError {
    let file = file.to_owned();
    match error {
        pem::Error::Io(cause) => ClientTlsError::Read { file, cause },
        pem::Error::NoItemsFound => ClientTlsError::NoKey(file),
        cause => ClientTlsError::Pem { file, cause },
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
