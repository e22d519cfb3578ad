//! Who vouches for a certificate: the platform's roots, certificates of one's own, nobody, or anybody; and the
//! recorder that keeps the chain whatever the verdict.

use std::{
    fmt,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};
use x509_parser::{
    prelude::{FromDer, X509Certificate},
    public_key::PublicKey,
};

/// Most certificates of a chain that are kept; longer chains are a mistake or an attack.
const CHAIN_MAX: usize = 10;

/// The one provider of cryptography.
pub(super) fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(rustls::crypto::ring::default_provider()))
}

/// Reads the platform's roots.
pub(super) fn platform() -> Result<Arc<dyn ServerCertVerifier>, String> {
    match rustls_platform_verifier::Verifier::new(provider().clone()) {
        Ok(verifier) => Ok(Arc::new(verifier)),
        Err(error) => {
            Err(format!("the platform's trusted certificates cannot be read: {error}; install ca-certificates"))
        }
    }
}

/// The chain a server showed.
#[derive(Debug, Default)]
pub struct Seen(Mutex<Vec<CertificateDer<'static>>>);

impl Seen {
    /// The chain, the server's own certificate first; empty if none was shown.
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, leaf: &CertificateDer<'_>, rest: &[CertificateDer<'_>]) {
        let chain = std::iter::once(leaf).chain(rest).take(CHAIN_MAX);
        let chain = chain.map(|c| c.clone().into_owned()).collect();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = chain;
    }
}

/// Notes the chain, then leaves the verdict to another verifier.
#[derive(Debug)]
pub(super) struct Recorder {
    pub inner: Arc<dyn ServerCertVerifier>,
    pub seen: Arc<Seen>,
}

/// Accepts any certificate; the handshake's own signature must still be right.
#[derive(Debug)]
pub(super) struct Anything;

/// Accepts no certificate, because the platform has no roots to judge it by.
#[derive(Debug)]
pub(super) struct Nothing(pub NoRoots);

/// The platform's trusted certificates cannot be read: the agent's own trouble.
#[derive(Clone, Debug)]
pub(super) struct NoRoots(pub String);

impl fmt::Display for NoRoots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NoRoots {}

/// Fewest bits of an RSA key that is accepted (NIST SP 800-57).
const RSA_BITS_MIN: usize = 2_048;

/// The server's key is too short to prove anything: the library calls its signatures wrong.
#[derive(Clone, Copy, Debug)]
struct WeakKey {
    bits: usize,
}

impl fmt::Display for WeakKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "its key is too weak, RSA of {} bits; at least {RSA_BITS_MIN} are wanted", self.bits)
    }
}

impl std::error::Error for WeakKey {}

/// Why the handshake's own signature is not accepted.
fn told_if_weak(leaf: &CertificateDer<'_>, error: Error) -> Error {
    let Ok((_, parsed)) = X509Certificate::from_der(leaf) else { return error };
    match parsed.public_key().parsed() {
        Ok(PublicKey::RSA(key)) if key.key_size() < RSA_BITS_MIN => {
            let weak = WeakKey { bits: key.key_size() };
            Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(weak))))
        }
        _ => error,
    }
}

/// Trusts certificates of one's own first, then the platform's.
#[derive(Debug)]
pub(super) struct Private {
    own: Vec<CertificateDer<'static>>,
    issued: Arc<WebPkiServerVerifier>,
    platform: Option<Arc<dyn ServerCertVerifier>>,
}

impl Private {
    pub fn new(own: &[CertificateDer<'static>], platform: Option<Arc<dyn ServerCertVerifier>>) -> Result<Self, String> {
        let mut store = RootCertStore::empty();
        for certificate in own {
            store.add(certificate.clone()).map_err(|e| format!("a certificate to trust cannot be used: {e}"))?;
        }
        let issued = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider().clone())
            .build()
            .map_err(|e| format!("the certificates to trust cannot be used: {e}"))?;
        Ok(Self { own: own.to_vec(), issued, platform })
    }
}

/// A certificate that is itself trusted (self-signed, as small servers have it) needs no issuer, but it must be valid
/// and carry the name.
fn verify_pinned(leaf: &CertificateDer<'_>, name: &ServerName<'_>, now: UnixTime) -> Result<ServerCertVerified, Error> {
    let encoding = || Error::InvalidCertificate(CertificateError::BadEncoding);
    let (_, parsed) = X509Certificate::from_der(leaf).map_err(|_| encoding())?;
    let unix =
        |seconds: i64| UnixTime::since_unix_epoch(std::time::Duration::from_secs(u64::try_from(seconds).unwrap_or(0)));
    let not_before = unix(parsed.validity().not_before.timestamp());
    let not_after = unix(parsed.validity().not_after.timestamp());
    if now.as_secs() > not_after.as_secs() {
        return Err(Error::InvalidCertificate(CertificateError::ExpiredContext { time: now, not_after }));
    }
    if now.as_secs() < not_before.as_secs() {
        return Err(Error::InvalidCertificate(CertificateError::NotValidYetContext { time: now, not_before }));
    }
    verify_server_name(&ParsedCertificate::try_from(leaf)?, name)?;
    Ok(ServerCertVerified::assertion())
}

impl ServerCertVerifier for Private {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.own.iter().any(|own| own == leaf) {
            return verify_pinned(leaf, name, now);
        }
        match (self.issued.verify_server_cert(leaf, rest, name, ocsp, now), &self.platform) {
            (Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)), Some(platform)) => {
                platform.verify_server_cert(leaf, rest, name, ocsp, now)
            }
            (verdict, _) => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.issued.verify_tls12_signature(message, leaf, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.issued.verify_tls13_signature(message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.issued.supported_verify_schemes()
    }
}

impl ServerCertVerifier for Recorder {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.seen.set(leaf, rest);
        self.inner.verify_server_cert(leaf, rest, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, leaf, signature).map_err(|error| told_if_weak(leaf, error))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, leaf, signature).map_err(|error| told_if_weak(leaf, error))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

impl ServerCertVerifier for Nothing {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Err(Error::Other(OtherError(Arc::new(self.0.clone()))))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Anything.verify_tls12_signature(message, leaf, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Anything.verify_tls13_signature(message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        Anything.supported_verify_schemes()
    }
}

impl ServerCertVerifier for Anything {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, leaf, signature, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signature, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
