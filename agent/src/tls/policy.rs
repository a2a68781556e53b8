//! Versions and cipher suites that the configuration allows.

use rustls::crypto::CryptoProvider;
use rustls::{SupportedCipherSuite, SupportedProtocolVersion, version};

use super::{Settings, TlsError};

/// The library's suites, those of TLS 1.2 reduced to `tlsCipherSuites`. Those of TLS 1.3 are not
/// configurable, as in the kubelet.
pub fn provider(settings: &Settings) -> CryptoProvider {
    let mut provider = super::ring_provider();
    let listed = &settings.cipher_suites;
    if listed.is_empty() {
        return provider;
    }
    let has = |suite: &SupportedCipherSuite| listed.contains(&name(suite));
    for wanted in listed {
        let known = provider.cipher_suites.iter().any(|suite| name(suite) == *wanted);
        if !known && !wanted.starts_with("TLS_AES_") && !wanted.starts_with("TLS_CHACHA20_") {
            tracing::warn!(
                suite = %wanted,
                "tlsCipherSuites names a suite that is not served: only ECDHE suites with GCM or ChaCha20 are"
            );
        }
    }
    provider.cipher_suites.retain(|suite| suite.tls13().is_some() || has(suite));
    if provider.cipher_suites.iter().all(|suite| suite.tls13().is_some()) {
        tracing::warn!("tlsCipherSuites leaves nothing for TLS 1.2: only TLS 1.3 is served");
    }
    provider
}

/// IANA's name.
fn name(suite: &SupportedCipherSuite) -> String {
    format!("{:?}", suite.suite())
}

/// # Errors
/// Not a version that is served.
pub fn versions(min: &str) -> Result<&'static [&'static SupportedProtocolVersion], TlsError> {
    static BOTH: [&SupportedProtocolVersion; 2] = [&version::TLS13, &version::TLS12];
    static NEWEST: [&SupportedProtocolVersion; 1] = [&version::TLS13];
    match min {
        "" | "VersionTLS12" => Ok(&BOTH),
        "VersionTLS13" => Ok(&NEWEST),
        // Older ones are not served at all: what is asked for as a minimum is more than kept.
        "VersionTLS10" | "VersionTLS11" => Ok(&BOTH),
        other => Err(TlsError::Version(other.to_owned())),
    }
}
