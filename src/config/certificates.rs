//! From the files of `tls = {…}` to what rustls wants.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{CertificateError, InconsistentKeys, RootCertStore, ServerConfig};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::source::read_bounded;
use super::tls::{PrivateKey, ServerTls};

/// Most bytes of a PEM file; a bundle of all public authorities has a quarter of that.
const MAX_FILE: u64 = 1 << 20;

/// Why certificates and keys cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsError {
    /// Which of them.
    pub part: Part,
    /// What is wrong with it.
    pub what: String,
    /// What to do.
    pub hint: Option<&'static str>,
}

/// A key of `tls = {…}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// `cert`
    Cert,
    /// `key`
    Key,
    /// `client_ca`
    ClientCa,
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        self.hint.map_or(Ok(()), |hint| write!(f, "; hint: {hint}"))
    }
}

impl std::error::Error for TlsError {}

impl ServerTls {
    /// Reads the files as they are now: TLS 1.2 and 1.3, with ring.
    ///
    /// # Errors
    /// A file that cannot be read or has nothing usable in it, and a key that is not that of the certificate.
    pub fn server_config(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let cert = read(&self.cert, Part::Cert)?;
        let chain = certificates(&cert, &self.cert, Part::Cert)?;
        let key = self.read_key()?;
        let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| unusable(Part::Cert, &self.cert, &error))?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(file) => builder.with_client_cert_verifier(client_verifier(file)?),
        };
        let config = builder.with_single_cert(chain, key).map_err(|error| self.rejected(&error))?;
        Ok(Arc::new(config))
    }

    /// As [`ServerTls::server_config`], as far as it can be known where some files are `withheld`.
    pub(super) fn check(&self, withheld: impl Fn(&Path) -> bool) -> Result<(), TlsError> {
        let no_cert = withheld(&self.cert);
        let no_key = match &self.key {
            PrivateKey::File(file) => withheld(file),
            PrivateKey::Secret(secret) => secret.is_withheld(),
        };
        let no_ca = self.client_ca.as_deref().is_some_and(withheld);
        if !(no_cert || no_key || no_ca) {
            return self.server_config().map(drop);
        }
        if !no_cert {
            certificates(&read(&self.cert, Part::Cert)?, &self.cert, Part::Cert)?;
        }
        if !no_key {
            self.read_key()?;
        }
        match self.client_ca.as_deref().filter(|_| !no_ca) {
            Some(file) => client_verifier(file).map(drop),
            None => Ok(()),
        }
    }

    fn read_key(&self) -> Result<PrivateKeyDer<'static>, TlsError> {
        let bytes;
        let (pem, place) = match &self.key {
            PrivateKey::File(file) => {
                bytes = read(file, Part::Key)?;
                (&bytes[..], file.display().to_string())
            }
            PrivateKey::Secret(secret) => (secret.reveal().as_bytes(), "the secret".to_owned()),
        };
        PrivateKeyDer::from_pem_slice(pem).map_err(|error| {
            let is_encrypted = find(pem, b"BEGIN ENCRYPTED PRIVATE KEY") || find(pem, b"Proc-Type: 4,ENCRYPTED");
            let (what, hint) = match error {
                _ if is_encrypted => (
                    format!("the private key in {place} is encrypted"),
                    Some("`openssl pkey -in KEY -out PLAIN` takes the passphrase off; keep that file to the gateway's user"),
                ),
                pem::Error::NoItemsFound => (format!("there is no private key in PEM in {place}"), None),
                error => (format!("{place} is not PEM: {error}"), None),
            };
            TlsError { part: Part::Key, what, hint }
        })
    }

    /// Why rustls does not take certificate and key.
    fn rejected(&self, error: &rustls::Error) -> TlsError {
        let cert = self.cert.display();
        match error {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => TlsError {
                part: Part::Key,
                what: format!("this is not the key of the certificate in {cert}"),
                hint: Some("the server's own certificate comes first in its file"),
            },
            rustls::Error::InvalidCertificate(_) => unusable(Part::Cert, &self.cert, error),
            _ => TlsError { part: Part::Key, what: format!("the key cannot be used: {error}"), hint: None },
        }
    }
}

fn client_verifier(file: &Path) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let pem = read(file, Part::ClientCa)?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&pem, file, Part::ClientCa)? {
        roots.add(certificate).map_err(|error| unusable(Part::ClientCa, file, &error))?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(ring::default_provider()))
        .build()
        .map_err(|error| TlsError { part: Part::ClientCa, what: format!("{}: {error}", file.display()), hint: None })
}

fn certificates(pem: &[u8], file: &Path, part: Part) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let fail = |what| TlsError { part, what, hint: None };
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|error| fail(format!("{} is not PEM: {error}", file.display())))?;
    if found.is_empty() {
        return Err(fail(format!("there is no certificate in PEM in {}", file.display())));
    }
    Ok(found)
}

fn unusable(part: Part, file: &Path, error: &rustls::Error) -> TlsError {
    let hint = match error {
        rustls::Error::InvalidCertificate(CertificateError::Other(_)) => Some(
            "rustls wants X.509 version 3, which `openssl x509 -req` writes only with -extfile or -copy_extensions",
        ),
        _ => None,
    };
    TlsError { part, what: format!("a certificate in {} cannot be used: {error}", file.display()), hint }
}

fn read(file: &Path, part: Part) -> Result<Vec<u8>, TlsError> {
    read_bounded(file, MAX_FILE).map_err(|error| TlsError {
        part,
        what: format!("cannot read {}: {error}", file.display()),
        hint: match error.kind() {
            io::ErrorKind::PermissionDenied => Some(
                "the gateway's user must be able to read it; to check with its rights, run `gatepost check` as that user",
            ),
            _ => None,
        },
    })
}

fn find(text: &[u8], part: &[u8]) -> bool {
    memchr::memmem::find(text, part).is_some()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::secret::Secret;
    use super::*;

    fn file(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls").join(name)
    }

    fn right() -> ServerTls {
        ServerTls {
            cert: file("localhost.pem"),
            key: PrivateKey::File(file("localhost.key")),
            client_ca: Some(file("ca.pem")),
            identity: None,
        }
    }

    #[test]
    fn right_files_are_taken() {
        right().server_config().unwrap();
        let text = std::fs::read_to_string(file("localhost.key")).unwrap();
        ServerTls { key: PrivateKey::Secret(Secret::new(text.trim_end())), ..right() }.server_config().unwrap();
    }

    #[test]
    fn each_wrong_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let empty = folder.path().join("empty.pem");
        std::fs::write(&empty, "").unwrap();
        let encrypted = folder.path().join("encrypted.key");
        std::fs::write(
            &encrypted,
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
        )
        .unwrap();
        let missing = file("no-such.pem");
        let table = [
            (ServerTls { cert: missing.clone(), ..right() }, Part::Cert, "cannot read"),
            (ServerTls { cert: empty.clone(), ..right() }, Part::Cert, "there is no certificate"),
            (ServerTls { cert: file("localhost.key"), ..right() }, Part::Cert, "there is no certificate"),
            (ServerTls { key: PrivateKey::File(missing.clone()), ..right() }, Part::Key, "cannot read"),
            (ServerTls { key: PrivateKey::File(file("ca.pem")), ..right() }, Part::Key, "there is no private key"),
            (ServerTls { key: PrivateKey::File(file("client.key")), ..right() }, Part::Key, "this is not the key of"),
            (ServerTls { key: PrivateKey::File(encrypted), ..right() }, Part::Key, "encrypted"),
            (ServerTls { client_ca: Some(missing), ..right() }, Part::ClientCa, "cannot read"),
            (ServerTls { client_ca: Some(empty), ..right() }, Part::ClientCa, "there is no certificate"),
        ];
        for (tls, part, what) in table {
            let error = tls.server_config().unwrap_err();
            assert_eq!(error.part, part, "{error}");
            assert!(error.what.contains(what), "{error}");
        }
    }
}
