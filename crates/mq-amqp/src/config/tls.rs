//! TLS settings, and what the client library needs of them.

use std::fmt;

#[cfg(feature = "tls")]
pub(crate) use lapin::tcp::RustlsConnector as Connector;
use mq_core::{Error, ErrorKind, Result};

use crate::error::CONNECT;

/// Without the feature `tls` there is none.
#[cfg(not(feature = "tls"))]
pub(crate) enum Connector {}

/// TLS settings: which authorities are trusted, and what this client shows of itself.
///
/// The broker's certificate, its dates and its name are always checked; nothing turns that off. TLS
/// 1.3 and 1.2 are spoken.
///
/// `Debug` shows no key and no certificate.
#[derive(Clone, Default)]
pub struct Tls {
    ca: Option<Vec<u8>>,
    identity: Option<Identity>,
    server_name: Option<String>,
}

/// A certificate chain and its private key, in PEM.
#[derive(Clone)]
struct Identity {
    #[cfg_attr(not(feature = "tls"), expect(dead_code, reason = "nothing shows it"))]
    chain: Vec<u8>,
    #[cfg_attr(not(feature = "tls"), expect(dead_code, reason = "nothing shows it"))]
    key: Vec<u8>,
}

impl Tls {
    /// Trusts the public authorities of Mozilla's list, and shows no certificate.
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts the authorities in this PEM text, such as a company's own, and no others: a broker
    /// whose certificate is from a public authority is then refused.
    ///
    /// The text may hold several certificates, as it has to while an authority is replaced.
    #[must_use]
    pub fn ca(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.ca = Some(pem.into());
        self
    }

    /// Shows this certificate to a broker that asks for one (mutual TLS).
    ///
    /// `chain` is PEM: the certificate first, then those between it and the authority that the
    /// broker trusts, if there are any. `key` is its private key, PEM in PKCS#8, PKCS#1 or SEC1, not
    /// encrypted. It is never printed. The login is still by user and password.
    #[must_use]
    pub fn identity(mut self, chain: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        self.identity = Some(Identity {
            chain: chain.into(),
            key: key.into(),
        });
        self
    }

    /// The name that the broker's certificate has to be for, and that it is asked for (SNI). Default:
    /// the host that is connected to.
    ///
    /// For a broker that is reached by another name than its own, as through a tunnel.
    #[must_use]
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// The name to look for in the broker's certificate.
    pub(crate) fn name<'a>(&'a self, host: &'a str) -> &'a str {
        self.server_name.as_deref().unwrap_or(host)
    }

    /// What makes TLS of a TCP connection.
    #[cfg(not(feature = "tls"))]
    pub(crate) fn connector(&self) -> Result<Connector> {
        // The client would speak plain text to the TLS port.
        Err(
            Error::new(ErrorKind::Unsupported, CONNECT, "this build has no TLS")
                .help("turn on the feature `tls` of mq-amqp"),
        )
    }

    /// What makes TLS of a TCP connection.
    ///
    /// # Errors
    /// Each names the setting, and holds nothing of what was given there: the parser's own errors
    /// repeat a line that they cannot read, which is the key where its line breaks were lost.
    #[cfg(feature = "tls")]
    pub(crate) fn connector(&self) -> Result<Connector> {
        use rustls::pki_types::{PrivateKeyDer, ServerName, pem::PemObject};

        if let Some(name) = &self.server_name
            && ServerName::try_from(name.as_str()).is_err()
        {
            let error = wrong("server_name", "this is no host name and no address");
            return Err(error.with("name", name.escape_debug()));
        }
        let config = self.trusted()?;
        let connector = match &self.identity {
            None => config.connector_with_no_client_auth(),
            Some(Identity { chain, key }) => {
                let chain = certificates("identity", chain)?;
                let Ok(key) = PrivateKeyDer::from_pem_slice(key) else {
                    return Err(unreadable_key(key));
                };
                config.connector_with_single_cert(chain, key)
            }
        };
        connector.map_err(|error| {
            let text = match rustls_error(&error) {
                Some(rustls::Error::InconsistentKeys(_)) => {
                    "the private key is not that of the certificate"
                }
                Some(_) => "the certificate and its private key cannot be used",
                None => "TLS cannot be set up",
            };
            wrong("identity", text).caused_by(error)
        })
    }

    /// The authorities that are trusted.
    #[cfg(feature = "tls")]
    fn trusted(&self) -> Result<lapin::tcp::RustlsConnectorConfig> {
        use lapin::tcp::RustlsConnectorConfig;

        let Some(pem) = &self.ca else {
            return Ok(RustlsConnectorConfig::new_with_webpki_root_certs());
        };
        let authorities = certificates("ca", pem)?;
        // The client would leave out those that it cannot read, without a word.
        let mut store = rustls::RootCertStore::empty();
        for (index, authority) in authorities.iter().enumerate() {
            store.add(authority.clone()).map_err(|error| {
                wrong("ca", "a certificate in it cannot be read")
                    .with("number", index + 1)
                    .caused_by(error)
            })?;
        }
        Ok(RustlsConnectorConfig::default().with_parsable_certificates(authorities))
    }
}

/// All certificates of a PEM text, at least one.
#[cfg(feature = "tls")]
fn certificates(
    setting: &'static str,
    pem: &[u8],
) -> Result<Vec<rustls::pki_types::CertificateDer<'static>>> {
    use rustls::pki_types::{CertificateDer, pem::PemObject};

    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(wrong(setting, "there is no certificate in it")),
        Err(_) => Err(wrong(setting, "this is no PEM")),
    }
    .map_err(|error| {
        error.help(
            "give the content of a PEM file, with its line breaks: it begins with -----BEGIN CERTIFICATE-----",
        )
    })
}

#[cfg(feature = "tls")]
fn unreadable_key(pem: &[u8]) -> Error {
    let mark = b"ENCRYPTED";
    if pem.windows(mark.len()).any(|word| word == mark) {
        return wrong("identity", "the private key is encrypted")
            .help("decrypt it where it is read: `openssl pkcs8 -in key.pem -out plain.pem`");
    }
    wrong("identity", "there is no private key in it, or this is no PEM").help(
        "give the content of a PEM file, with its line breaks: it begins with -----BEGIN PRIVATE KEY-----",
    )
}

/// What TLS itself said, inside an error of a socket.
#[cfg(feature = "tls")]
pub(crate) fn rustls_error(error: &std::io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

#[cfg(feature = "tls")]
fn wrong(setting: &'static str, text: &'static str) -> Error {
    Error::new(ErrorKind::Config, CONNECT, text).with("setting", format_args!("Tls::{setting}"))
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("ca", &self.ca.is_some())
            .field("identity", &self.identity.is_some())
            .field("server_name", &self.server_name)
            .finish()
    }
}

#[cfg(test)]
#[cfg(feature = "tls")]
mod tests;
