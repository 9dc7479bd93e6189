//! `password_file`, `acl_file`, and what is noticed about who gets in.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::broker::{Broker, Listener};
use super::error::Fault;
use super::reader::Value;
use super::tls::{Identity, ServerTls};

/// `password_file`: as [`file`], and a warning if everybody may read it.
pub(super) fn password_file(value: &Value<'_>) -> Option<PathBuf> {
    let path = file(value)?;
    let mode = path.metadata().map_or(0, |metadata| metadata.permissions().mode());
    if mode & 0o007 != 0 {
        let message = format!("every user of this machine can reach the password hashes in {}", path.display());
        let hint = format!("chmod 0600 {}, owned by the user that gatepost runs as", path.display());
        value.context.push(value.error(message).hint(hint).warning());
    }
    Some(path)
}

/// The path of a file that can be opened. What stands in it is not looked at here.
pub(super) fn file(value: &Value<'_>) -> Option<PathBuf> {
    let path = value.path()?;
    if value.context.environment.is_kept_from(&path) {
        value.note_if(true, "this file");
        return Some(path);
    }
    // To open a pipe might wait for ever.
    let opened =
        path.metadata().and_then(|found| if found.is_file() { File::open(&path)?.metadata() } else { Ok(found) });
    let (problem, hint) = match opened {
        Ok(found) if found.is_dir() => ("it is a directory".to_owned(), "name a file in it"),
        Ok(_) => return Some(path),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            (error.to_string(), "`gatepost passwd FILE USER` makes a password file; an ACL file is written by hand")
        }
        Err(error) => (error.to_string(), "the user that gatepost runs as must be allowed to read it"),
    };
    value.fail(Fault::new(format!("cannot read {}: {problem}", path.display())).hint(hint))
}

/// An `acl_file` without a `password_file`, where clients need not be known.
pub(super) fn warn_of_claims(acl_file: &Value<'_>, listeners: &[Listener]) {
    if listeners.iter().any(|listener| listener.allow_anonymous) {
        let message =
            "no user name is proved: a client may call itself any user of this file and has that user's rights";
        acl_file.context.push(acl_file.error(message).hint("set password_file").warning());
    }
}

/// A listener that other machines reach lets in everybody, or one lets in nobody.
pub(super) fn warn_of_listener(
    address: &Value<'_>,
    broker: &Broker,
    allow_anonymous: bool,
    is_local: bool,
    tls: Option<&ServerTls>,
) {
    let asks_for_certificates = tls.is_some_and(|tls| tls.client_ca.is_some());
    let names_users = tls.is_some_and(|tls| tls.identity == Some(Identity::CommonName));
    let report = if allow_anonymous {
        if is_local || asks_for_certificates || broker.acl_file.is_some() {
            return;
        }
        address
            .error("everybody who reaches this address may publish and subscribe")
            .hint("listen on 127.0.0.1, let a firewall decide who reaches it, or use password_file or acl_file")
    } else {
        if names_users || broker.password_file.is_some() {
            return;
        }
        let report =
            address.error("no client can log in here: anonymous ones are refused, and there is no password file");
        if asks_for_certificates {
            report.hint(
                "identity = \"cn\" in `tls` makes the common name of a certificate the user name; or set password_file",
            )
        } else {
            report.hint(
                "set password_file in [broker]; allow_anonymous = true lets everybody in who reaches this address",
            )
        }
    };
    address.context.push(report.warning());
}
