//! TLS as a listener speaks it, and who the certificates of its clients say they are.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use rustls::{AlertDescription, CertificateError, ServerConfig, ServerConnection};
use rustls_pki_types::CertificateDer;
use tokio_rustls::TlsAcceptor;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::config::{ServerTls, TlsError};
use crate::net::stream::Stream;

/// Bytes that one connection may hold before they are encrypted and written.
const BUFFER: usize = 16 * 1024;

/// TLS as one listener speaks it with connections from now on.
#[derive(Debug)]
pub struct Tls(Mutex<Terms>);

#[derive(Clone, Debug)]
struct Terms {
    config: Arc<ServerConfig>,
    /// Whether the common name of the client's certificate is its user name.
    names_users: bool,
}

/// Why there is no TLS connection.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A listener that asks for certificates got none.
    #[error("the client shows no certificate, and client_ca requires one; hint: give the client --cert and --key")]
    NoCertificate,
    /// The client's certificate is not trusted.
    #[error("the client's certificate is refused: {0}{hint}", hint = hint(.0))]
    Certificate(rustls::Error),
    /// The client's certificate has no usable common name.
    #[error("the client's certificate has no common name that can be a user name, and identity is \"cn\"")]
    NoName,
    /// The client does not trust the certificate of the listener.
    #[error(
        "the client refuses the listener's certificate: {0}; hint: it needs the authority that signed it (--cafile)"
    )]
    Refused(rustls::Error),
    /// Anything else that is not TLS as it should be.
    #[error("the TLS handshake failed: {0}{hint}", hint = hint(.0))]
    Tls(rustls::Error),
    /// The client closed, or the connection failed.
    #[error("the connection ended in the TLS handshake: {0}")]
    Io(io::Error),
}

/// A failed handshake, and the connection that is to be closed.
#[derive(Debug)]
pub struct Failed {
    /// Why it failed.
    pub failure: Failure,
    /// What is left of the connection.
    pub stream: Stream,
}

fn hint(error: &rustls::Error) -> &'static str {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "; hint: client_ca is the certificate of the authority that signed it"
        }
        rustls::Error::InvalidCertificate(CertificateError::Other(_)) => {
            "; hint: rustls wants X.509 version 3, which `openssl x509 -req` writes only with -extfile or -copy_extensions"
        }
        rustls::Error::InvalidMessage(_) => "; hint: does the client speak TLS at all?",
        _ => "",
    }
}

impl Tls {
    /// Reads the files. Blocks.
    ///
    /// # Errors
    /// As [`ServerTls::server_config`].
    pub fn new(settings: &ServerTls) -> Result<Tls, TlsError> {
        Ok(Tls(Mutex::new(Terms { config: settings.server_config()?, names_users: settings.identity.is_some() })))
    }

    /// Becomes `other`; connections that are there go on.
    pub fn replace(&self, other: Tls) {
        *self.0.lock() = other.0.into_inner();
    }

    /// The handshake; bounded in size by rustls, not in time. Also returns the user that the client proved to be.
    ///
    /// # Errors
    /// Why there is no TLS, and the connection.
    pub async fn accept(&self, stream: Stream) -> Result<(Stream, Option<String>), Failed> {
        let Terms { config, names_users } = self.0.lock().clone();
        let limit = |connection: &mut ServerConnection| connection.set_buffer_limit(Some(BUFFER));
        let stream = match TlsAcceptor::from(config).accept_with(stream, limit).into_fallible().await {
            Ok(stream) => stream,
            Err((error, stream)) => return Err(Failed { failure: Failure::of(error), stream }),
        };
        let user = if names_users {
            let name = stream.get_ref().1.peer_certificates().and_then(|chain| common_name(chain.first()?));
            match name {
                Some(name) => Some(name),
                None => return Err(Failed { failure: Failure::NoName, stream: Stream::Tls(Box::new(stream)) }),
            }
        } else {
            None
        };
        Ok((Stream::Tls(Box::new(stream)), user))
    }
}

impl Failure {
    fn of(error: io::Error) -> Failure {
        use rustls::Error::{AlertReceived, InvalidCertificate, NoCertificatesPresented};
        let cause = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()).cloned();
        match cause {
            None => Failure::Io(error),
            Some(NoCertificatesPresented) => Failure::NoCertificate,
            Some(error @ InvalidCertificate(_)) => Failure::Certificate(error),
            Some(
                error @ AlertReceived(
                    AlertDescription::UnknownCA
                    | AlertDescription::BadCertificate
                    | AlertDescription::CertificateExpired
                    | AlertDescription::CertificateUnknown,
                ),
            ) => Failure::Refused(error),
            Some(error) => Failure::Tls(error),
        }
    }
}

/// The common name of the subject, the last if there are several (RFC 4514: the most specific). `None` also for what
/// no user name may hold [MQTT-1.5.4-2].
fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let name = certificate.subject().iter_common_name().last()?.as_str().ok()?;
    let usable = !name.is_empty() && !name.chars().any(char::is_control);
    usable.then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use rustls_pki_types::pem::PemObject;

    use super::*;

    #[test]
    fn the_common_name_is_found() {
        let pem = include_bytes!("../../../tests/tls/client.pem");
        let certificate = CertificateDer::from_pem_slice(pem).unwrap();
        assert_eq!(common_name(&certificate).as_deref(), Some("gatepost-client"));
        assert_eq!(common_name(&CertificateDer::from_slice(b"noise")), None);
    }
}
