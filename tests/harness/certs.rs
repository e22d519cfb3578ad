//! Certificates made for one test: an authority, and what it signs, good and bad.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

/// A certificate (with its chain, if it has one) and its key, as PEM.
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

/// A certificate authority, trusted by whoever is given its PEM.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl Authority {
    pub fn new() -> Self {
        let issuer = CertifiedIssuer::self_signed(authority("bongsu test CA"), key());
        Self { issuer: issuer.expect("a proper authority") }
    }

    /// Its certificate.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// Its key, for another program to sign with.
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// A server's certificate for these names, valid from and to so many days from now.
    pub fn server(&self, names: &[&str], from_days: i64, to_days: i64) -> Pair {
        self.sign(leaf(names, from_days, to_days, ExtendedKeyUsagePurpose::ServerAuth))
    }

    /// A client's certificate.
    pub fn client(&self, names: &[&str]) -> Pair {
        self.sign(leaf(names, -1, 90, ExtendedKeyUsagePurpose::ClientAuth))
    }

    /// A server's certificate below an intermediate authority that ends in so many days; with the chain.
    pub fn server_below(&self, names: &[&str], to_days: i64) -> Pair {
        let mut params = authority("bongsu test intermediate");
        params.not_after = date_time_ymd(1970, 1, 1) + epoch_to(to_days);
        let between = CertifiedIssuer::signed_by(params, key(), &self.issuer).expect("a proper authority");
        let own = key();
        let leaf = leaf(names, -1, 90, ExtendedKeyUsagePurpose::ServerAuth);
        let leaf = leaf.signed_by(&own, &between).expect("a proper certificate");
        Pair { certificate: format!("{}{}", leaf.pem(), between.pem()), key: own.serialize_pem() }
    }

    fn sign(&self, params: CertificateParams) -> Pair {
        let own = key();
        let certificate = params.signed_by(&own, &self.issuer).expect("a proper certificate");
        Pair { certificate: certificate.pem(), key: own.serialize_pem() }
    }
}

/// A certificate signed by its own key; `ca` as `openssl req -x509` makes it.
pub fn self_signed(names: &[&str], ca: bool) -> Pair {
    let own = key();
    let mut params = leaf(names, -1, 90, ExtendedKeyUsagePurpose::ServerAuth);
    if ca {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }
    Pair { certificate: params.self_signed(&own).expect("a proper certificate").pem(), key: own.serialize_pem() }
}

fn key() -> KeyPair {
    KeyPair::generate().expect("the system has randomness")
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    params
}

fn leaf(names: &[&str], from_days: i64, to_days: i64, purpose: ExtendedKeyUsagePurpose) -> CertificateParams {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(names.clone()).expect("proper names");
    params.distinguished_name.push(DnType::CommonName, names.first().map_or("nobody", String::as_str));
    params.not_before = date_time_ymd(1970, 1, 1) + epoch_to(from_days);
    params.not_after = date_time_ymd(1970, 1, 1) + epoch_to(to_days);
    params.extended_key_usages = vec![purpose];
    params.use_authority_key_identifier_extension = true;
    params
}

/// From the epoch to so many days from now, and an hour more, so that no whole day is lost to the time a test takes.
fn epoch_to(days: i64) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs();
    let seconds = i64::try_from(now).expect("a clock before the year 292 billion") + days * 86_400 + 3_600;
    Duration::from_secs(u64::try_from(seconds).expect("a day after 1970"))
}
