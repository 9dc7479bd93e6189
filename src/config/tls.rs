//! `tls = {…}`.

use std::path::{Path, PathBuf};

use super::certificates::{Part, TlsError};
use super::error::Fault;
use super::raw::Kind;
use super::reader::Value;
use super::secret::Secret;

/// `tls = {…}` of what others connect to; [`ServerTls::server_config`] reads the files.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerTls {
    /// PEM file: the server's certificate, then those between it and an authority.
    pub cert: PathBuf,
    /// The key of the first of them.
    pub key: PrivateKey,
    /// PEM file: the authorities that sign client certificates, which are required then.
    pub client_ca: Option<PathBuf>,
    /// What of a client's certificate is its user name; only with `client_ca`.
    pub identity: Option<Identity>,
}

/// A private key in PEM.
#[derive(Clone, Debug, PartialEq)]
pub enum PrivateKey {
    /// In a file.
    File(PathBuf),
    /// From elsewhere.
    Secret(Secret),
}

/// `identity`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// The common name of the subject.
    CommonName,
}

/// `identity`, by word.
pub(super) const IDENTITIES: &[(&str, Identity)] = &[("cn", Identity::CommonName)];

impl ServerTls {
    /// Reads the table and checks the files that it names.
    pub(super) fn read(value: &Value<'_>) -> Option<ServerTls> {
        let mut table = value.table()?;
        let (cert_value, key_value) = (table.require("cert"), table.require("key"));
        let ca_value = table.get("client_ca");
        let cert = cert_value.as_ref().and_then(Value::path);
        let private = key_value.as_ref().and_then(key);
        let client_ca = ca_value.as_ref().and_then(Value::path);
        let identity_value = table.get("identity");
        let identity = identity_value.as_ref().and_then(|v| v.choice(IDENTITIES));
        if let (Some(identity), None) = (&identity_value, &ca_value) {
            let fault = Fault::new("without `client_ca` clients have no certificates that a user name could come from");
            identity
                .fail::<()>(fault.hint("add client_ca = \"ca.pem\", the certificate that signed those of the clients"));
        }
        table.finish();
        let tls = ServerTls { cert: cert?, key: private?, client_ca, identity };
        let is_kept = |path: &Path| value.context.environment.is_kept_from(path);
        for (named, path) in
            [(&cert_value, Some(&tls.cert)), (&key_value, tls.key.file()), (&ca_value, tls.client_ca.as_ref())]
        {
            named.iter().for_each(|named| named.note_if(path.is_some_and(|path| is_kept(path)), "this file"));
        }
        if let Err(TlsError { part, what, hint }) = tls.check(is_kept) {
            let at = match part {
                Part::Cert => cert_value,
                Part::Key => key_value,
                Part::ClientCa => ca_value,
            };
            let fault = Fault::new(what);
            at?.fail::<()>(if let Some(hint) = hint { fault.hint(hint) } else { fault });
            return None;
        }
        Some(tls)
    }
}

impl PrivateKey {
    /// Its file, if it is in one.
    pub(super) fn file(&self) -> Option<&PathBuf> {
        match self {
            PrivateKey::File(path) => Some(path),
            PrivateKey::Secret(_) => None,
        }
    }
}

/// `tls = {…}` of a device that connects: only checked.
pub(super) fn server(value: &Value<'_>) {
    ServerTls::read(value);
    value.refuse();
}

/// `tls = {…}` of what connects to others.
pub(super) fn client(value: &Value<'_>) {
    read_client(value);
    value.refuse();
}

/// Reads the table of [`client`], and leaves it to the caller to refuse what it is part of.
pub(super) fn read_client(value: &Value<'_>) {
    let Some(mut table) = value.table() else { return };
    table.get("ca").and_then(|v| v.path());
    let (cert, private) = (table.get("cert"), table.get("key"));
    cert.as_ref().and_then(Value::path);
    private.as_ref().and_then(key);
    if cert.is_some() != private.is_some() {
        value.fail::<()>(Fault::new("`cert` and `key` go together"));
    }
    table.get("server_name").and_then(|v| v.string());
    table.get("insecure").and_then(|v| v.boolean());
    table.finish();
}

/// A private key: the path of its file, or a secret.
fn key(value: &Value<'_>) -> Option<PrivateKey> {
    match value.raw.kind {
        Kind::String(_) => value.path().map(PrivateKey::File),
        _ => value.secret().map(PrivateKey::Secret),
    }
}
