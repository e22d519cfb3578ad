//! What a certificate says of itself.

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{observation::TlsFacts, value::Timestamp};

/// Most names of a certificate that a reason lists; large providers put a hundred into one.
pub(super) const NAMES_MAX: usize = 5;

/// What a chain's first certificate says; its version, cipher and ALPN are left empty.
pub fn certificate_facts(chain: &[CertificateDer<'_>], at: Timestamp) -> TlsFacts {
    let mut facts = TlsFacts {
        version: String::new(),
        cipher: None,
        alpn: None,
        subject: None,
        issuer: None,
        not_after: None,
        days_left: None,
    };
    if let Some((_, leaf)) = chain.first().and_then(|leaf| X509Certificate::from_der(leaf).ok()) {
        let not_after = expiry(&leaf);
        facts.subject = Some(name_text(&leaf));
        facts.issuer = Some(leaf.issuer().to_string());
        facts.not_after = Some(not_after);
        facts.days_left = Some(days_between(at, not_after));
    }
    facts
}

/// When a certificate ends.
pub fn expiry(certificate: &X509Certificate<'_>) -> Timestamp {
    Timestamp::from_millis(certificate.validity().not_after.timestamp().saturating_mul(1_000))
}

/// Whole days from one instant to another, negative when it is past.
pub fn days_between(from: Timestamp, to: Timestamp) -> i64 {
    to.as_millis().saturating_sub(from.as_millis()).div_euclid(86_400_000)
}

/// The subject; certificates without one (their names are in the extension) are told by their first names.
fn name_text(certificate: &X509Certificate<'_>) -> String {
    let subject = certificate.subject().to_string();
    if !subject.is_empty() {
        return subject;
    }
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.map(|names| names.value.general_names.iter().take(NAMES_MAX).map(ToString::to_string).collect());
    names.map_or(String::new(), |names: Vec<String>| names.join(", "))
}
