//! Authorities that a test has for itself, and a peer that speaks TLS with what they issue.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use mq_testkit::Check;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose as Usage, IsCa, Issuer,
    KeyPair, date_time_ymd,
};
use tokio::{
    io::AsyncReadExt,
    net::TcpListener,
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig, SupportedProtocolVersion,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
        server::WebPkiClientVerifier,
    },
};

/// Signs certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
}

/// A certificate and its private key, in PEM.
pub struct Issued {
    pub chain: String,
    pub key: String,
}

/// When a certificate is valid.
#[derive(Debug, Clone, Copy)]
pub enum Dates {
    Now,
    /// Until the year 2001.
    Past,
    /// From the year 2200 on.
    Future,
}

impl Authority {
    pub fn new(name: &str) -> Check<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key)?.pem();
        let issuer = Issuer::new(params, key);
        Ok(Self { issuer, pem })
    }

    /// For a broker that is reached by this name.
    pub fn server(&self, host: &str, dates: Dates) -> Check<Issued> {
        self.issue(host, dates, Usage::ServerAuth)
    }

    /// For a client.
    pub fn client(&self, dates: Dates) -> Check<Issued> {
        self.issue("client", dates, Usage::ClientAuth)
    }

    pub fn issue(&self, host: &str, dates: Dates, usage: Usage) -> Check<Issued> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec![host.to_owned()])?;
        params.extended_key_usages = vec![usage];
        let (from, to) = match dates {
            Dates::Now => (2000, 2200),
            Dates::Past => (2000, 2001),
            Dates::Future => (2200, 2201),
        };
        (params.not_before, params.not_after) =
            (date_time_ymd(from, 1, 1), date_time_ymd(to, 1, 1));
        Ok(Issued {
            chain: params.signed_by(&key, &self.issuer)?.pem(),
            key: key.serialize_pem(),
        })
    }
}

/// A peer that speaks TLS, reads what comes, and answers nothing.
pub struct Peer {
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Peer {
    /// With this certificate. With an authority it asks each client for a certificate of it.
    pub async fn start(
        issued: &Issued,
        clients: Option<&Authority>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Check<Self> {
        let certificates = |pem: &str| {
            CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>()
        };
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)?;
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add_parsable_certificates(certificates(&authority.pem)?);
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build()?)
            }
        };
        let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes())?;
        let config = builder.with_single_cert(certificates(&issued.chain)?, key)?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let task = tokio::spawn(async move {
            let mut peers = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                peers.spawn(async move {
                    match acceptor.accept(stream).into_fallible().await {
                        Ok(mut stream) => {
                            // Whoever got so far is to end by its own deadline.
                            let read = stream.read(&mut [0; 8]).await;
                            tokio::time::sleep(Duration::from_secs(30)).await;
                            read.map(drop)
                        }
                        // As a server does: it closes when the client has read why. Else the kernel
                        // may reset the connection before that.
                        Err((_, mut stream)) => {
                            tokio::io::copy(&mut stream, &mut tokio::io::sink())
                                .await
                                .map(drop)
                        }
                    }
                });
            }
        });
        Ok(Self { address, task })
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.task.abort();
    }
}
