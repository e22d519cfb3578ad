//! TLS for every protocol: whom to trust, what the certificate says, and what exactly is wrong with it.
//!
//! The configuration is built once for all checks that connect in the same way; an attempt adds only a recorder of the
//! chain, so that the certificate is told even when it is refused. Sessions are never resumed: each attempt makes the
//! full handshake, because what is watched is whether a newcomer gets in.

use std::{
    borrow::Cow,
    fmt,
    io::{self, ErrorKind},
    path::Path,
    sync::{Arc, Mutex, OnceLock, PoisonError, Weak},
};

use rustls::{
    CertificateError, ClientConfig, Error, OtherError, RootCertStore,
    client::{Resumption, danger::ServerCertVerifier},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use tokio_rustls::TlsConnector;

use super::{
    Attempt, Net, Stream,
    facts::{NAMES_MAX, certificate_facts, days_between},
    io_kind, io_text,
    verify::{Anything, NoRoots, Nothing, Private, Recorder, Seen, provider},
};
use crate::{
    files,
    observation::{Kind, Phase, Reason, TlsFacts},
    options::Options,
    value::Timestamp,
};

/// Longest file of certificates or of a key. The list of a whole platform is a quarter of a megabyte.
pub const PEM_BYTES_MAX: usize = 4 << 20;

/// How TLS connections are made, and whom they trust.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TlsOptions {
    /// PEM file with certificates to trust beside those of the platform: a private CA, or the server's own.
    pub ca: Option<String>,
    /// Accept any certificate. It is still reported.
    pub insecure: bool,
    /// The name the certificate must carry and that is asked for (SNI), if it is not the host's.
    pub server_name: Option<String>,
    /// The oldest version accepted: `1.2` (default) or `1.3`.
    pub min_version: TlsVersion,
    /// PEM file with a client certificate and its chain.
    pub certificate: Option<String>,
    /// PEM file with the key of the client certificate.
    pub key: Option<String>,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246).
    #[default]
    V12,
    /// TLS 1.3 (RFC 8446).
    V13,
}

// YAML reads `1.2` as a number; as a text, both spellings are taken.
impl TryFrom<String> for TlsVersion {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "1.2" => Ok(Self::V12),
            "1.3" => Ok(Self::V13),
            _ => Err(format!("`{text}` is no version of TLS that can be asked for; write 1.2 or 1.3")),
        }
    }
}

impl JsonSchema for TlsVersion {
    fn schema_name() -> Cow<'static, str> {
        "TlsVersion".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "description": "A version of TLS", "enum": ["1.2", "1.3", 1.2, 1.3] })
    }
}

impl TlsOptions {
    /// Reads the files and checks the options; `options` is the block they stand in, where mistakes are recorded.
    pub fn client(&self, options: &mut Options<'_>, alpn: &[&str]) -> Option<TlsClient> {
        let mut good = true;
        let mut wrong = |options: &mut Options<'_>, key: &str, text: String, hint: &str| {
            options.problem(key, text, Some(hint));
            good = false;
        };
        let mut roots = Vec::new();
        if let Some(file) = &self.ca {
            match certificates(&options.file(file)) {
                Ok(list) => roots = list,
                Err(text) => wrong(options, "ca", text, "name a file with certificates in PEM form"),
            }
        }
        let name = self.server_name.as_ref().and_then(|name| match ServerName::try_from(name.clone()) {
            Ok(name) => Some(name),
            Err(_) => {
                wrong(options, "server_name", format!("`{name}` is no host name"), "write it as mx.example.com");
                None
            }
        });
        let identity = match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => match identity(&options.file(certificate), &options.file(key)) {
                Ok(identity) => Some(identity),
                Err((at, text)) => {
                    wrong(options, at, text, "name a file in PEM form");
                    None
                }
            },
            (None, None) => None,
            (Some(_), None) => {
                wrong(options, "certificate", "a client certificate needs its key".into(), "add `key: file.pem`");
                None
            }
            (None, Some(_)) => {
                wrong(options, "key", "a key needs its certificate".into(), "add `certificate: file.pem`");
                None
            }
        };
        good.then(|| {
            TlsClient::of(MadeFrom {
                roots,
                insecure: self.insecure,
                name,
                min_version: self.min_version,
                identity,
                alpn: alpn.iter().map(|p| p.as_bytes().to_vec()).collect(),
            })
        })
    }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let bytes = files::read(file, PEM_BYTES_MAX).map_err(|e| format!("{} cannot be read: {e}", file.display()))?;
    let list = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
    let list = list.map_err(|e| format!("{} cannot be read: {e}", file.display()))?;
    if list.is_empty() {
        return Err(format!("{} holds no certificate", file.display()));
    }
    let mut store = RootCertStore::empty();
    for (n, certificate) in list.iter().enumerate() {
        store.add(certificate.clone()).map_err(|e| format!("certificate {} in {}: {e}", n + 1, file.display()))?;
    }
    Ok(list)
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn identity(certificate: &Path, key: &Path) -> Result<Identity, (&'static str, String)> {
    let chain = certificates(certificate).map_err(|text| ("certificate", text))?;
    let unreadable = |e: &dyn fmt::Display| ("key", format!("{} cannot be read: {e}", key.display()));
    let bytes = files::read(key, PEM_BYTES_MAX).map_err(|e| unreadable(&e))?;
    let key_der = PrivateKeyDer::from_pem_slice(&bytes).map_err(|e| unreadable(&e))?;
    provider()
        .key_provider
        .load_private_key(key_der.clone_key())
        .map_err(|e| ("key", format!("{} cannot be used: {e}", key.display())))?;
    Ok((chain, key_der))
}

/// How a check connects by TLS. Cheap to clone; the configuration is built at its first use, once for all checks that
/// connect in the same way.
#[derive(Clone)]
pub struct TlsClient(Arc<Connecting>);

struct Connecting {
    made_from: MadeFrom,
    built: OnceLock<Result<Arc<Built>, String>>,
}

#[derive(PartialEq)]
struct MadeFrom {
    roots: Vec<CertificateDer<'static>>,
    insecure: bool,
    name: Option<ServerName<'static>>,
    min_version: TlsVersion,
    identity: Option<Identity>,
    alpn: Vec<Vec<u8>>,
}

struct Built {
    config: ClientConfig,
    verifier: Arc<dyn ServerCertVerifier>,
}

impl fmt::Debug for TlsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsClient").field("insecure", &self.0.made_from.insecure).finish_non_exhaustive()
    }
}

impl TlsClient {
    /// The one that is made from this already, or a new one.
    fn of(made_from: MadeFrom) -> Self {
        static ALL: Mutex<Vec<Weak<Connecting>>> = Mutex::new(Vec::new());
        let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(same) = all.iter().filter_map(Weak::upgrade).find(|other| other.made_from == made_from) {
            return Self(same);
        }
        all.retain(|other| other.strong_count() > 0);
        let new = Arc::new(Connecting { made_from, built: OnceLock::new() });
        all.push(Arc::downgrade(&new));
        Self(new)
    }

    /// A configuration whose verifier records the chain into `seen`.
    ///
    /// # Errors
    /// When the options fit no configuration.
    pub fn config(&self, net: &Net, seen: Arc<Seen>) -> Result<ClientConfig, String> {
        let built = self.0.built.get_or_init(|| self.0.made_from.build(net).map(Arc::new)).clone()?;
        let mut config = built.config.clone();
        config.dangerous().set_certificate_verifier(Arc::new(Recorder { inner: built.verifier.clone(), seen }));
        Ok(config)
    }

    /// The name asked for and verified: the option's, or the host's.
    ///
    /// # Errors
    /// When the host can be no name of a certificate.
    pub fn server_name(&self, host: &str) -> Result<ServerName<'static>, String> {
        match &self.0.made_from.name {
            Some(name) => Ok(name.clone()),
            None => ServerName::try_from(host.strip_suffix('.').unwrap_or(host).to_owned())
                .map_err(|_| format!("`{host}` can be no name of a certificate; set tls.server_name")),
        }
    }

    /// Whether any certificate is accepted.
    pub fn insecure(&self) -> bool {
        self.0.made_from.insecure
    }
}

impl MadeFrom {
    fn build(&self, net: &Net) -> Result<Built, String> {
        let verifier: Arc<dyn ServerCertVerifier> = if self.insecure {
            Arc::new(Anything)
        } else if self.roots.is_empty() {
            // Without roots the connection fails only if it really comes to a handshake, and says why.
            net.platform().unwrap_or_else(|why| Arc::new(Nothing(NoRoots(why))))
        } else {
            Arc::new(Private::new(&self.roots, net.platform().ok())?)
        };
        let versions: &[&rustls::SupportedProtocolVersion] = match self.min_version {
            TlsVersion::V12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
            TlsVersion::V13 => &[&rustls::version::TLS13],
        };
        let builder = ClientConfig::builder_with_provider(provider().clone())
            .with_protocol_versions(versions)
            .map_err(|e| format!("TLS cannot be set up: {e}"))?
            .dangerous()
            .with_custom_certificate_verifier(verifier.clone());
        let mut config = match &self.identity {
            Some((chain, key)) => builder
                .with_client_auth_cert(chain.clone(), key.clone_key())
                .map_err(|e| format!("the client certificate cannot be used: {e}"))?,
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols.clone_from(&self.alpn);
        config.resumption = Resumption::disabled();
        Ok(Built { config, verifier })
    }
}

// ---------------------------------------------------------------------------------------------------------------
// The handshake

impl Attempt {
    /// Makes the TLS handshake over a stream; phase `tls`. What the certificate says is noted even when it is refused.
    ///
    /// # Errors
    /// When the certificate is not acceptable (told exactly), or the handshake fails.
    pub async fn tls(&mut self, stream: Stream, tls: &TlsClient, host: &str) -> Result<Stream, Reason> {
        self.phase(Phase::Tls);
        let name = tls.server_name(host).map_err(|text| self.fail(Kind::Handshake, text))?;
        let seen = Arc::new(Seen::default());
        self.chain = seen.clone();
        let config = tls.config(self.net(), seen.clone()).map_err(|text| self.fail(Kind::Own, text))?;
        match TlsConnector::from(Arc::new(config)).connect(name, stream).await {
            Ok(stream) => {
                self.end_phase();
                let (_, connection) = stream.get_ref();
                let mut facts = certificate_facts(&seen.chain(), self.at());
                facts.version = connection.protocol_version().map_or(String::new(), version_text);
                facts.cipher = connection.negotiated_cipher_suite().map(|suite| suite_text(suite.suite()));
                facts.alpn = connection.alpn_protocol().map(|p| String::from_utf8_lossy(p).into_owned());
                self.note_tls(facts);
                Ok(Box::new(stream))
            }
            Err(error) => {
                let chain = seen.chain();
                if !chain.is_empty() {
                    self.note_tls(certificate_facts(&chain, self.at()));
                }
                let (kind, text) = handshake_failure(&error, self.tls_facts(), self.at());
                Err(self.fail(kind, text))
            }
        }
    }

    fn note_tls(&mut self, facts: TlsFacts) {
        if self.explains() {
            let subject = facts.subject.as_deref().unwrap_or("no certificate");
            let until = facts.not_after.map_or(String::new(), |t| format!(", valid until {}", t.to_seconds_text()));
            let agreed = match (&facts.version[..], &facts.cipher) {
                ("", _) => String::new(),
                (version, cipher) => format!("TLS {version} {}, ", cipher.as_deref().unwrap_or_default()),
            };
            self.note(format!("{agreed}certificate {subject}{until}"));
        }
        self.set_tls_facts(facts);
    }
}

fn version_text(version: rustls::ProtocolVersion) -> String {
    match version {
        rustls::ProtocolVersion::TLSv1_2 => "1.2".into(),
        rustls::ProtocolVersion::TLSv1_3 => "1.3".into(),
        other => format!("{other:?}"),
    }
}

/// IANA's name; rustls writes those of TLS 1.3 as `TLS13_…`.
fn suite_text(suite: rustls::CipherSuite) -> String {
    format!("{suite:?}").replacen("TLS13_", "TLS_", 1)
}

/// The TLS error that caused an error, however deep it lies.
pub fn tls_error_within<'e>(error: &'e (dyn std::error::Error + 'static)) -> Option<&'e Error> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        cause = below(error);
    }
    None
}

/// What lies below an error: an error of I/O hides what it wraps from `source`.
pub fn below<'e>(error: &'e (dyn std::error::Error + 'static)) -> Option<&'e (dyn std::error::Error + 'static)> {
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(inner) => Some(inner),
        None => error.source(),
    }
}

fn handshake_failure(error: &io::Error, facts: Option<&TlsFacts>, at: Timestamp) -> (Kind, String) {
    if let Some(inner) = tls_error_within(error) {
        return tls_failure(inner, facts, at);
    }
    let text = match error.kind() {
        ErrorKind::UnexpectedEof => "the peer closed the connection during the TLS handshake".into(),
        ErrorKind::ConnectionReset => "the peer reset the connection during the TLS handshake".into(),
        _ => io_text(error),
    };
    (io_kind(error), text)
}

/// What a TLS error means, with what is known of the certificate.
pub fn tls_failure(error: &Error, facts: Option<&TlsFacts>, at: Timestamp) -> (Kind, String) {
    match error {
        Error::InvalidCertificate(why) => (Kind::Certificate, certificate_failure(why, facts, at)),
        Error::NoCertificatesPresented => (Kind::Certificate, "the server showed no certificate".into()),
        Error::AlertReceived(alert) => (Kind::Handshake, format!("the peer ended TLS with the alert {alert:?}")),
        Error::InvalidMessage(_) => (Kind::Handshake, format!("the peer does not speak TLS here ({error})")),
        Error::PeerIncompatible(why) => (Kind::Handshake, format!("no common TLS version or cipher ({why:?})")),
        Error::NoApplicationProtocol => (Kind::Handshake, "the peer agrees to none of the ALPN protocols".into()),
        Error::Other(OtherError(why)) if why.is::<NoRoots>() => (Kind::Own, why.to_string()),
        Error::FailedToGetCurrentTime | Error::FailedToGetRandomBytes => (Kind::Own, error.to_string()),
        other => (Kind::Handshake, other.to_string()),
    }
}

fn certificate_failure(error: &CertificateError, facts: Option<&TlsFacts>, at: Timestamp) -> String {
    use CertificateError as E;
    let day = |time: &UnixTime| {
        let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        Timestamp::from_millis(seconds.saturating_mul(1_000))
    };
    let issuer = facts.and_then(|f| f.issuer.as_deref()).unwrap_or("an unnamed issuer");
    let self_signed = facts.is_some_and(|f| f.subject.is_some() && f.subject == f.issuer);
    match error {
        E::ExpiredContext { not_after, .. } => {
            let ended = day(not_after);
            let days = days_between(ended, at);
            format!("the certificate expired {days} days ago, on {}", ended.to_seconds_text())
        }
        E::Expired => "the certificate has expired".into(),
        E::NotValidYetContext { not_before, .. } => {
            format!("the certificate is not valid before {}", day(not_before).to_seconds_text())
        }
        E::NotValidYet => "the certificate is not valid yet".into(),
        // A root that happens to have the same name makes it a wrong signature rather than an unknown issuer.
        E::UnknownIssuer
        | E::BadSignature
        | E::UnsupportedSignatureAlgorithmContext { .. }
        | E::UnsupportedSignatureAlgorithmForPublicKeyContext { .. }
            if self_signed =>
        {
            "the certificate is self-signed and not trusted here".into()
        }
        E::UnknownIssuer => {
            format!("the certificate's issuer is not trusted here, or its chain is incomplete: {issuer}")
        }
        E::NotValidForNameContext { expected, presented } => {
            let more = presented.len().saturating_sub(NAMES_MAX);
            let mut names: Vec<String> = presented.iter().take(NAMES_MAX).map(|name| plain_name(name)).collect();
            if more > 0 {
                names.push(format!("{more} more"));
            }
            let names = if names.is_empty() { "no name at all".into() } else { names.join(", ") };
            format!("the certificate is for {names}, not for {}", expected.to_str())
        }
        E::NotValidForName => "the certificate is for another name".into(),
        E::InvalidPurpose | E::InvalidPurposeContext { .. } => "the certificate is not for use by a server".into(),
        E::Revoked => "the certificate has been revoked".into(),
        E::BadSignature => format!("the certificate is not signed by its issuer {issuer}"),
        E::UnsupportedSignatureAlgorithmContext { .. } | E::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            format!("the certificate's signature by {issuer} cannot be checked: its algorithm does not fit")
        }
        E::BadEncoding => "the certificate cannot be read".into(),
        E::Other(other) => {
            let text = format!("{other:?}");
            if text.contains("CaUsedAsEndEntity") && self_signed {
                "the certificate is self-signed (a CA's own) and not trusted here".into()
            } else if text.contains("CaUsedAsEndEntity") {
                "the certificate is a CA's own and not for use by a server".into()
            } else if text.contains("EkuError") {
                "the certificate is not for use by a server".into()
            } else {
                format!("the certificate is not acceptable: {other}")
            }
        }
        other => format!("the certificate is not acceptable: {other}"),
    }
}

/// A name without the wrapping in which the verifier hands it over: `DnsName("a.example")` is `a.example`.
fn plain_name(name: &str) -> String {
    let inner = name.split_once('(').map_or(name, |(_, rest)| rest.trim_end_matches(')'));
    inner.trim_matches('"').to_owned()
}
