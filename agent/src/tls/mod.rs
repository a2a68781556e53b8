//! Certificates of the node: the serving certificate and who may call (A22, A179).
//!
//! A caller's certificate is asked for, its possession is proved in the handshake, and whether it
//! is *accepted* is decided for each request by [`Serving::identify`]: a caller with an unknown
//! certificate gets an HTTP answer that says so, and a new CA file counts at once. Deliberately
//! absent: certificates that the control plane signs (rotation), revocation lists, session
//! resumption.

mod caller;
mod policy;
mod selfmade;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};

pub use caller::Subject;

/// What cannot be served with, and what to change.
#[derive(thiserror::Error, Debug)]
pub enum TlsError {
    #[error("cannot read {what} {path}: {error}")]
    Unreadable { what: &'static str, path: PathBuf, error: std::io::Error },
    #[error("{what} {path}: {reason}")]
    Unusable { what: &'static str, path: PathBuf, reason: String },
    #[error("tlsCertFile and tlsPrivateKeyFile belong together: set both, or none")]
    HalfPair,
    #[error("cannot keep the serving certificate at {path}: {error}")]
    Unwritable { path: PathBuf, error: std::io::Error },
    #[error("cannot make a serving certificate: {0}")]
    Unmakeable(#[from] rcgen::Error),
    #[error("tlsMinVersion {0:?} is not VersionTLS12 or VersionTLS13")]
    Version(String),
    #[error("TLS cannot be set up: {0}")]
    Library(#[from] rustls::Error),
}

/// What the configuration says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Settings {
    /// `tlsCertFile` and `tlsPrivateKeyFile`; neither: a self-signed certificate below `pki_dir`.
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    /// `authentication.x509.clientCAFile`; `None`: certificates of callers are not asked for.
    pub client_ca_file: Option<PathBuf>,
    /// `<root-dir>/pki`.
    pub pki_dir: PathBuf,
    /// `tlsMinVersion`; empty is VersionTLS12.
    pub min_version: String,
    /// `tlsCipherSuites`, for TLS 1.2; empty: all that the library has.
    pub cipher_suites: Vec<String>,
    /// Names that a self-signed certificate is for.
    pub node_name: String,
    pub ips: Vec<IpAddr>,
}

/// The files as they were read.
#[derive(PartialEq, Eq)]
struct Material {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

struct Current {
    material: Material,
    config: Arc<ServerConfig>,
    /// Each certificate of the client CA file.
    callers: Vec<caller::Ca>,
}

/// The node port's TLS; follows its files.
pub struct Serving {
    settings: Settings,
    provider: Arc<CryptoProvider>,
    current: RwLock<Current>,
}

impl Serving {
    /// Reads the files of the configuration, or makes a self-signed certificate for a year and
    /// keeps it. Times are Unix seconds.
    ///
    /// # Errors
    /// A file is missing or unusable, a certificate and key do not fit, or `pki_dir` cannot be
    /// written.
    pub fn load_or_make(settings: Settings, now_s: i64) -> Result<Self, TlsError> {
        let provider = Arc::new(policy::provider(&settings));
        let material = read(&settings, now_s)?;
        let current = build(&settings, &provider, material)?;
        Ok(Self { settings, provider, current: RwLock::new(current) })
    }

    /// For the next connection.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).config.clone()
    }

    /// Takes changed files over; `true`: something changed.
    ///
    /// # Errors
    /// The new files cannot be used: the old ones stay in force.
    pub fn reload(&self, now_s: i64) -> Result<bool, TlsError> {
        let material = read(&self.settings, now_s)?;
        if self.current.read().unwrap_or_else(PoisonError::into_inner).material == material {
            return Ok(false);
        }
        let current = build(&self.settings, &self.provider, material)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = current;
        Ok(true)
    }

    /// Who a chain of certificates is, by the client CA of this moment (A179). `None`: there is no
    /// certificate, no client CA, or a subject without a name.
    ///
    /// # Errors
    /// The client CA did not issue it, or not for clients, or not for now.
    pub fn identify(
        &self,
        chain: &[CertificateDer<'_>],
        now_s: i64,
    ) -> Result<Option<Subject>, rustls::Error> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        match chain.split_first() {
            Some((own, more)) if !current.callers.is_empty() => {
                caller::identify(&current.callers, own, more, now_s)
            }
            _ => Ok(None),
        }
    }
}

fn read_file(what: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|error| TlsError::Unreadable { what, path: path.to_owned(), error })
}

fn read(settings: &Settings, now_s: i64) -> Result<Material, TlsError> {
    let (cert, key) = match (&settings.cert_file, &settings.key_file) {
        (Some(cert), Some(key)) => {
            (read_file("tlsCertFile", cert)?, read_file("tlsPrivateKeyFile", key)?)
        }
        (None, None) => {
            let both = selfmade::load_or_make(settings, now_s)?;
            (both.clone(), both)
        }
        _ => return Err(TlsError::HalfPair),
    };
    let client_ca = settings.client_ca_file.as_deref();
    let client_ca = client_ca.map(|path| read_file("clientCAFile", path)).transpose()?;
    Ok(Material { cert, key, client_ca })
}

fn build(
    settings: &Settings,
    provider: &Arc<CryptoProvider>,
    material: Material,
) -> Result<Current, TlsError> {
    let made = settings.pki_dir.join(selfmade::FILE);
    let unusable = |what, path: &Option<PathBuf>, reason: String| TlsError::Unusable {
        what,
        path: path.clone().unwrap_or_else(|| made.clone()),
        reason,
    };
    let chain = certificates(&material.cert)
        .map_err(|reason| unusable("tlsCertFile", &settings.cert_file, reason))?;
    let key = PrivateKeyDer::from_pem_slice(&material.key).map_err(|error| {
        unusable("tlsPrivateKeyFile", &settings.key_file, format!("no private key: {error}"))
    })?;
    let no_ca = |reason| unusable("clientCAFile", &settings.client_ca_file, reason);
    let (verifier, callers) = match &material.client_ca {
        Some(pem) => {
            let all = certificates(pem).map_err(no_ca)?;
            let verifier = client_verifier(provider, &all).map_err(no_ca)?;
            let of = |one: &CertificateDer<'static>| {
                let own = client_verifier(provider, std::slice::from_ref(one))?;
                caller::Ca::new(own, one)
            };
            let callers = all.iter().map(of).collect::<Result<Vec<_>, _>>().map_err(no_ca)?;
            (Some(verifier), callers)
        }
        None => (None, Vec::new()),
    };
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(policy::versions(&settings.min_version)?)?;
    let builder = match &verifier {
        Some(verifier) => {
            builder.with_client_cert_verifier(Arc::new(caller::AskOnly(verifier.clone())))
        }
        None => builder.with_no_client_auth(),
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|error| unusable("tlsCertFile", &settings.cert_file, error.to_string()))?;
    // What a certificate proved is not carried over to another connection.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Current { material, config: Arc::new(config), callers })
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match all {
        Ok(all) if all.is_empty() => Err("there is no certificate in it".to_owned()),
        Ok(all) => Ok(all),
        Err(error) => Err(error.to_string()),
    }
}

fn client_verifier(
    provider: &Arc<CryptoProvider>,
    all: &[CertificateDer<'static>],
) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let mut roots = RootCertStore::empty();
    for certificate in all {
        roots.add(certificate.clone()).map_err(|error| error.to_string())?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|error| error.to_string())
}

/// The library's cryptography, for whoever else needs it.
fn ring_provider() -> CryptoProvider {
    ring::default_provider()
}
