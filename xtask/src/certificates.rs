//! Certificates for the TLS listeners of `compose/`, made when they are needed: nothing secret is in the repository, and
//! nothing in it expires.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

use crate::Result;
use crate::workspace::Workspace;

/// Tells `compose/` and the tests the folder.
pub(crate) const VARIABLE: &str = "MQ_TLS_DIR";

/// The folder with `ca.pem`, and with certificate and key (`.pem`, `.key`) of `broker` and `client`. The same one for
/// some days, since brokers may run that have it.
pub(crate) fn provide(workspace: &Workspace) -> Result<PathBuf> {
    let folder = workspace.target.join("tls");
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    fs::create_dir_all(&folder)?;
    for entry in fs::read_dir(&folder)? {
        let entry = entry?;
        let name = entry.file_name();
        // The name is the time when it was made. A new folder makes Compose start the broker anew.
        if let Some(made) = name.to_str().and_then(|name| name.parse().ok())
            && now.saturating_sub(Duration::from_secs(made)) < KEPT
        {
            return Ok(entry.path());
        }
    }
    let (done, begun) = (
        folder.join(now.as_secs().to_string()),
        folder.join(format!("begun-{}", std::process::id())),
    );
    fs::create_dir_all(&begun)?;
    make(&begun, now)?;
    fs::rename(begun, &done)?;
    Ok(done)
}

fn make(folder: &Path, now: Duration) -> Result {
    let write = |name: &str, text: &str| fs::write(folder.join(name), text);
    let key = KeyPair::generate()?;
    let mut authority = params("mq test authority", &[], now)?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    write("ca.pem", &authority.self_signed(&key)?.pem())?;
    let issuer = Issuer::new(authority, key);
    for (name, hosts, usage) in [
        ("broker", HOSTS, ExtendedKeyUsagePurpose::ServerAuth),
        ("client", &[], ExtendedKeyUsagePurpose::ClientAuth),
    ] {
        let key = KeyPair::generate()?;
        let mut params = params(name, hosts, now)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        let (certificate, key) = (params.signed_by(&key, &issuer)?.pem(), key.serialize_pem());
        write(&format!("{name}.pem"), &certificate)?;
        write(&format!("{name}.key"), &key)?;
        // Kafka wants both in one file.
        write(&format!("{name}-both.pem"), &(key + &certificate))?;
    }
    Ok(())
}

fn params(name: &str, hosts: &[&str], now: Duration) -> Result<CertificateParams> {
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let mut params = CertificateParams::new(hosts)?;
    params.distinguished_name.push(DnType::CommonName, name);
    let now = date_time_ymd(1970, 1, 1) + now;
    // A container's clock may be a little behind.
    params.not_before = now - Duration::from_secs(3600);
    params.not_after = now + VALID;
    Ok(params)
}

/// Names of the brokers. `mutual.test` is where RabbitMQ insists on a client certificate. No address is among them, so
/// that 127.0.0.1 is a wrong name.
const HOSTS: &[&str] = &["localhost", "mutual.test"];
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
const VALID: Duration = Duration::from_secs(30 * 24 * 3600);
