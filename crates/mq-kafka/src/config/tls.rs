//! TLS settings, checked before the client library reads them.

use std::fmt;

use krafka::auth::TlsConfig;
use mq_core::{Error, ErrorKind, Result};
use rustls::{
    RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    sign::CertifiedKey,
};

/// TLS settings: which authorities are trusted, and what this client shows of itself.
///
/// A broker's certificate, its dates and its name are always checked; nothing turns that off. TLS
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
    chain: Vec<u8>,
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

    /// Shows this certificate to a broker that asks for one (mutual TLS, `ssl.client.auth`).
    ///
    /// `chain` is PEM: the certificate first, then those between it and the authority that the
    /// broker trusts, if there are any. `key` is its private key, PEM in PKCS#8, PKCS#1 or SEC1, not
    /// encrypted. It is never printed.
    #[must_use]
    pub fn identity(mut self, chain: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        self.identity = Some(Identity {
            chain: chain.into(),
            key: key.into(),
        });
        self
    }

    /// The name that each broker's certificate has to be for, and that it is asked for (SNI).
    /// Default: the host that the broker is reached by, which after the first connection is the one
    /// that it advertises.
    ///
    /// For brokers that are reached by another name than their own, as through a tunnel.
    #[must_use]
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// Refuses what cannot be read.
    ///
    /// # Errors
    /// Each names the setting, and holds nothing of what was given there: the parser's own errors,
    /// which the client would pass on, repeat a line that they cannot read. That is the key where
    /// its line breaks were lost.
    pub(super) fn check(&self) -> Result<()> {
        if let Some(name) = &self.server_name
            && ServerName::try_from(name.as_str()).is_err()
        {
            let error = wrong("server_name", "this is no host name and no address");
            return Err(error.with("name", name.escape_debug()));
        }
        if let Some(pem) = &self.ca {
            let mut store = RootCertStore::empty();
            for (index, authority) in certificates("ca", pem)?.into_iter().enumerate() {
                store.add(authority).map_err(|error| {
                    wrong("ca", "a certificate in it cannot be read")
                        .with("number", index + 1)
                        .caused_by(error)
                })?;
            }
        }
        let Some(Identity { chain, key }) = &self.identity else {
            return Ok(());
        };
        let chain = certificates("identity", chain)?;
        let Ok(key) = PrivateKeyDer::from_pem_slice(key) else {
            return Err(unreadable_key(key));
        };
        match CertifiedKey::from_der(chain, key, &ring::default_provider()) {
            Ok(_) => Ok(()),
            Err(error) => {
                let text = match error {
                    rustls::Error::InconsistentKeys(_) => {
                        "the private key is not that of the certificate"
                    }
                    _ => "the certificate and its private key cannot be used",
                };
                Err(wrong("identity", text).caused_by(error))
            }
        }
    }

    /// As the client library takes them.
    pub(super) fn config(&self) -> TlsConfig {
        let mut config = TlsConfig::new();
        if let Some(ca) = &self.ca {
            config = config.with_ca_cert_pem(ca.as_slice());
        }
        if let Some(Identity { chain, key }) = &self.identity {
            config = config.with_client_cert_pem(chain.as_slice(), key.clone());
        }
        match &self.server_name {
            Some(name) => config.with_sni_hostname(name),
            None => config,
        }
    }
}

/// All certificates of a PEM text, at least one.
fn certificates(setting: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
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

fn wrong(setting: &'static str, text: &'static str) -> Error {
    Error::new(ErrorKind::Config, "connect", text).with("setting", format_args!("Tls::{setting}"))
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
mod tests;
