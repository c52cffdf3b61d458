//! What the settings say, and what is refused before anything is sent.

use super::*;

#[test]
fn what_is_no_certificate_is_named() {
    let good = authority();
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let cases = [
        (Tls::new().ca(""), "Tls::ca", "no certificate"),
        (Tls::new().ca("ca.pem"), "Tls::ca", "no certificate"),
        (Tls::new().ca(good.replace('\n', " ")), "Tls::ca", "no PEM"),
        (Tls::new().ca(good.clone() + broken), "Tls::ca", "number=2"),
        (
            Tls::new().identity("", "x"),
            "Tls::identity",
            "no certificate",
        ),
        (
            Tls::new().identity(good, "x"),
            "Tls::identity",
            "no private key",
        ),
        (
            Tls::new().server_name("not a name"),
            "Tls::server_name",
            "not a name",
        ),
    ];
    for (tls, setting, words) in cases {
        let error = tls.check().expect_err(words);
        assert_eq!(error.kind(), ErrorKind::Config);
        assert_eq!(error.context("setting"), Some(setting), "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
}

fn authority() -> String {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.self_signed(&key).expect("a certificate").pem()
}
