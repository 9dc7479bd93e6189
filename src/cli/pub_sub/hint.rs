//! What to do about a connection that there is not, in terms of the flags of `pub` and `sub`.

use std::io;

use crate::mqtt_client::ClientError;

/// What to do about `error`, if there is something.
pub fn hint(error: &ClientError) -> Option<&'static str> {
    match error {
        ClientError::Refused { code, .. } => Some(refused(*code)),
        ClientError::Unreachable { cause, .. } => Some(unreachable(cause)),
        ClientError::NoAnswer(_) => Some("is it an MQTT broker, and is -p right?"),
        ClientError::Closed(_) => Some("the port may speak TLS (--cafile) or another MQTT version (-V)"),
        ClientError::NotMqtt(_) => Some("the port may speak TLS (--cafile) or another protocol; check -p"),
        ClientError::TlsFiles(_) | ClientError::Lost { .. } => None,
    }
}

fn refused(code: u8) -> &'static str {
    match code {
        1 | 132 => "try another version with -V",
        2 | 133 => "give another client id with -i",
        4 | 5 | 134 | 135 => "check -u and -P, and what the broker allows this user",
        144 | 154 | 155 => "check the --will options",
        _ => "the broker's log says more",
    }
}

fn unreachable(error: &io::Error) -> &'static str {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match (tls, error.kind()) {
        (Some(rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer)), _) => {
            "name the certificate of the authority that signed the broker's with --cafile"
        }
        (Some(rustls::Error::InvalidCertificate(_)), _) => {
            "check the broker's certificate; --insecure only ignores the host name in it"
        }
        (Some(_), _) => "is it a TLS port, and does the broker want a certificate (--cert, --key)?",
        (None, io::ErrorKind::ConnectionRefused) => {
            "no broker listens there; check -h and -p (`gatepost run` starts one)"
        }
        (None, _) => "check -h and -p and the network",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_person_can_act_on_has_a_hint() {
        let address = || "h:1".to_owned();
        let refused = ClientError::Refused { address: address(), code: 5 };
        assert_eq!(hint(&refused), Some("check -u and -P, and what the broker allows this user"));
        let closed_port = io::ErrorKind::ConnectionRefused.into();
        let unreachable = ClientError::Unreachable { address: address(), cause: closed_port };
        assert!(hint(&unreachable).unwrap().contains("no broker listens there"));
        assert_eq!(hint(&ClientError::Lost { address: address(), cause: "reset".into() }), None);
    }
}
