//! The self-signed serving certificate (A22): made once, kept for a year, made anew in time.
//!
//! Certificate and key are one file, so that a kill between two writes cannot part them.

use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::Duration;

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{Settings, TlsError};

/// Below `pki_dir`.
pub const FILE: &str = "longshore-serving.pem";

const DAY_S: i64 = 86_400;
const LIFE_S: i64 = 365 * DAY_S;
/// A new one is made when less than this is left.
const LEFT_S: i64 = 30 * DAY_S;

/// The PEM text of certificate and key.
///
/// # Errors
/// The file cannot be read or written.
pub fn load_or_make(settings: &Settings, now_s: i64) -> Result<Vec<u8>, TlsError> {
    let path = settings.pki_dir.join(FILE);
    match std::fs::read(&path) {
        Ok(pem) => match problem(settings, &pem, now_s) {
            None => return Ok(pem),
            Some(why) => {
                tracing::warn!(path = %path.display(), why, "Making a new serving certificate");
            }
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => {
            return Err(TlsError::Unreadable { what: "the serving certificate", path, error });
        }
    }
    let pem = make(settings, now_s)?;
    keep(&path, pem.as_bytes()).map_err(|error| TlsError::Unwritable { path, error })?;
    Ok(pem.into_bytes())
}

/// Why the kept certificate cannot go on; `None`: it can.
fn problem(settings: &Settings, pem: &[u8], now_s: i64) -> Option<&'static str> {
    let Ok(der) = CertificateDer::from_pem_slice(pem) else { return Some("it is damaged") };
    let Ok((_, certificate)) = X509Certificate::from_der(&der) else {
        return Some("it is damaged");
    };
    let Ok(key) = PrivateKeyDer::from_pem_slice(pem) else { return Some("its key is damaged") };
    if rustls::sign::CertifiedKey::from_der(vec![der.clone()], key, &super::ring_provider())
        .is_err()
    {
        return Some("its key is not the certificate's");
    }
    let validity = certificate.validity();
    if validity.not_before.timestamp() > now_s
        || validity.not_after.timestamp().saturating_sub(now_s) < LEFT_S
    {
        return Some("it is about to expire, or the clock moved");
    }
    let names: Vec<String> = match certificate.subject_alternative_name() {
        Ok(Some(names)) => names.value.general_names.iter().filter_map(text).collect(),
        _ => Vec::new(),
    };
    let wanted = std::iter::once(settings.node_name.clone())
        .chain(settings.ips.iter().map(ToString::to_string));
    let mut missing = wanted.filter(|name| !names.contains(name));
    missing.next().map(|_| "the node has other names or addresses now")
}

fn text(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match <[u8; 4]>::try_from(*bytes) {
            Ok(v4) => Some(std::net::Ipv4Addr::from(v4).to_string()),
            Err(_) => {
                <[u8; 16]>::try_from(*bytes).ok().map(|v6| std::net::Ipv6Addr::from(v6).to_string())
            }
        },
        _ => None,
    }
}

fn make(settings: &Settings, now_s: i64) -> Result<String, TlsError> {
    let mut params = CertificateParams::new(vec![settings.node_name.clone()])?;
    params.subject_alt_names.extend(settings.ips.iter().map(|ip| SanType::IpAddress(*ip)));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    params
        .distinguished_name
        .push(DnType::CommonName, format!("system:node:{}", settings.node_name));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let at = |s: i64| date_time_ymd(1970, 1, 1) + Duration::from_secs(s.max(0).unsigned_abs());
    // An hour back: the other side's clock may be behind.
    params.not_before = at(now_s.saturating_sub(3600));
    params.not_after = at(now_s.saturating_add(LIFE_S));
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    Ok(format!("{}{}", certificate.pem(), key.serialize_pem()))
}

/// Whole or not at all, readable for root only.
fn keep(path: &Path, pem: &[u8]) -> std::io::Result<()> {
    if let Some(directory) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    let new = path.with_extension("new");
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(pem)?;
    file.sync_all()?;
    std::fs::rename(&new, path)
}
