//! `tls = {…}`: checked, and refused in this version.

use super::error::Fault;
use super::raw::Kind;
use super::reader::Value;

/// `tls = {…}` of what others connect to.
pub(super) fn server(value: &Value<'_>) {
    let Some(mut table) = value.table() else { return };
    table.require("cert").and_then(|v| v.path());
    table.require("key").and_then(|v| key(&v));
    table.get("client_ca").and_then(|v| v.path());
    table.get("identity").and_then(|v| v.choice(&[("cn", ())]));
    table.finish();
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
fn key(value: &Value<'_>) -> Option<()> {
    match value.raw.kind {
        Kind::String(_) => value.path().map(drop),
        _ => value.secret().map(drop),
    }
}
