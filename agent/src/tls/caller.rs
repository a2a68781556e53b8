//! Who a certificate says its holder is.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// User and groups of a certificate: its common name and its organizations (A179).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Subject {
    pub user: String,
    pub groups: Vec<String>,
}

/// Asks for a certificate and has its possession proved, but refuses nobody: an unknown one is an
/// answer of HTTP, and never an identity.
#[derive(Debug)]
pub struct AskOnly(pub Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for AskOnly {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// One certificate of the client CA file. The library takes what it is given as a root for good
/// and for ever, so its time is kept beside it.
pub struct Ca {
    verifier: Arc<dyn ClientCertVerifier>,
    /// Unix seconds.
    good: RangeInclusive<i64>,
}

impl Ca {
    /// # Errors
    /// It is no certificate.
    pub fn new(
        verifier: Arc<dyn ClientCertVerifier>,
        der: &CertificateDer<'_>,
    ) -> Result<Self, String> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|error| error.to_string())?;
        let time = certificate.validity();
        let good = time.not_before.timestamp()..=time.not_after.timestamp();
        Ok(Self { verifier, good })
    }
}

/// `None`: the certificate is good but names nobody.
///
/// # Errors
/// The chain does not lead to a client CA that is good now, or is not for clients, or not for now.
pub fn identify(
    all: &[Ca],
    own: &CertificateDer<'_>,
    more: &[CertificateDer<'_>],
    now_s: i64,
) -> Result<Option<Subject>, Error> {
    let now = UnixTime::since_unix_epoch(Duration::from_secs(now_s.max(0).unsigned_abs()));
    // What every CA says that is not good now.
    let mut error = Error::InvalidCertificate(CertificateError::Expired);
    for ca in all.iter().filter(|ca| ca.good.contains(&now_s)) {
        match ca.verifier.verify_client_cert(own, more, now) {
            Ok(_) => return Ok(subject(own)),
            Err(why) => error = why,
        }
    }
    Err(error)
}

/// As Go's x509 reads it: the last common name, every organization.
fn subject(der: &CertificateDer<'_>) -> Option<Subject> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let name = certificate.subject();
    let user = name.iter_common_name().last()?.as_str().ok()?.to_owned();
    let groups: Result<Vec<String>, _> =
        name.iter_organization().map(|one| one.as_str().map(str::to_owned)).collect();
    // A group that cannot be read may be the one that a rule denies by its absence: nobody, then.
    let groups = groups.ok()?;
    (!user.is_empty()).then_some(Subject { user, groups })
}
