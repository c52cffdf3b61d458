//! What a failed TLS handshake means, and what to do about it. All of it fails again with the same
//! settings.

use std::{io, sync::Arc};

use mq_core::{Error, ErrorKind, RetryAdvice};
use rustls::{AlertDescription as Alert, CertificateError as Certificate, Error as Tls};

/// What TLS itself said, wherever in the chain of causes it is.
pub(super) fn cause(error: &krafka::KrafkaError) -> Option<&Tls> {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        // An I/O error does not name what it was made of as its cause.
        let inner = match error.downcast_ref::<Arc<io::Error>>() {
            Some(shared) => shared.get_ref(),
            None => error
                .downcast_ref::<io::Error>()
                .and_then(io::Error::get_ref),
        };
        if let Some(found) = inner.and_then(|inner| inner.downcast_ref()) {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// The error of a handshake that failed for what TLS itself said.
pub(super) fn handshake(operation: &'static str, error: &Tls) -> Error {
    let connect = |text: String| Error::new(ErrorKind::Connect, operation, text);
    let mapped = match error {
        Tls::InvalidCertificate(why) => certificate(operation, why),
        Tls::AlertReceived(alert) => refusal(operation, *alert),
        Tls::InvalidMessage(_) | Tls::InappropriateMessage { .. } => {
            connect("the peer does not speak TLS".to_owned())
                .help("check the port: a listener without TLS has another one")
        }
        Tls::PeerIncompatible(why) => connect(format!(
            "the broker and this client share no TLS: {why:?}"
        ))
        .help("let the broker speak TLS 1.2 or 1.3, with a cipher suite that is not outdated"),
        _ => connect(format!("TLS failed: {error}")).help("check the port and the settings of TLS"),
    };
    mapped.advise(RetryAdvice::Never)
}

/// The broker's certificate does not pass.
fn certificate(operation: &'static str, why: &Certificate) -> Error {
    let refused = |text: &'static str| Error::new(ErrorKind::Connect, operation, text);
    match why {
        Certificate::Expired | Certificate::ExpiredContext { .. } => {
            refused("the broker's certificate has expired")
                .help("renew it at the broker, or set the clock of this machine")
        }
        Certificate::NotValidYet | Certificate::NotValidYetContext { .. } => {
            refused("the broker's certificate is not valid yet")
                .help("set the clock of this machine, or that of the one which made it")
        }
        // Signed by another key than that of the authority with this name.
        Certificate::UnknownIssuer | Certificate::BadSignature => {
            refused("the broker's certificate is from an authority that is not trusted")
                .help("give the certificate of that authority to `Tls::ca`")
        }
        Certificate::NotValidForName | Certificate::NotValidForNameContext { .. } => {
            let error = refused("the broker's certificate is for another name").help(
                "connect by a name that is in the certificate, or say that name by `Tls::server_name`",
            );
            match why {
                Certificate::NotValidForNameContext { presented, .. } => {
                    error.with("names", presented.join(" "))
                }
                _ => error,
            }
        }
        _ => Error::new(
            ErrorKind::Connect,
            operation,
            format!("the broker's certificate is refused: {why:?}"),
        )
        .help("give the broker a certificate that is for servers and not revoked"),
    }
}

/// The broker ended the handshake, by the alerts of RFC 8446, section 6.2.
fn refusal(operation: &'static str, alert: Alert) -> Error {
    match alert {
        Alert::CertificateRequired => Error::new(
            ErrorKind::Auth,
            operation,
            "the broker asks for a client certificate",
        )
        .help("give one by `Tls::identity`"),
        Alert::BadCertificate
        | Alert::UnsupportedCertificate
        | Alert::CertificateRevoked
        | Alert::CertificateExpired
        | Alert::CertificateUnknown
        | Alert::UnknownCA
        | Alert::AccessDenied
        | Alert::DecryptError => Error::new(
            ErrorKind::Auth,
            operation,
            format!("the broker does not accept the client certificate: {alert:?}"),
        )
        .help("give one by `Tls::identity` that the broker trusts and that is not expired"),
        // Under TLS 1.2 also what a missing client certificate is answered with.
        _ => Error::new(
            ErrorKind::Connect,
            operation,
            format!("the broker ended the TLS handshake: {alert:?}"),
        )
        .help("see the broker's log: it may ask for a client certificate, or not take the version or name"),
    }
}
