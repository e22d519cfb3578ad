//! TLS in bad hands: broken handshakes, and certificates that are not acceptable, for every scheme that begins TLS.

use std::{process::Command, sync::Arc, time::Duration};

use bongsu::observation::{Kind, Outcome, Phase};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use serde_yaml::{Mapping, Value};
use tempfile::TempDir;

use super::{Case, Ended, TIMEOUT_ALONE, TURNS_MAX, check, played, run_all, settled};
use crate::harness::{
    Server,
    certs::{Authority, Pair, self_signed},
    free_port,
    hostile::Act,
    probing::probe,
    roles::{self, Role},
    scratch, write,
};

fn config(pair: &Pair) -> Arc<ServerConfig> {
    let chain = CertificateDer::pem_slice_iter(pair.certificate.as_bytes()).collect::<Result<Vec<_>, _>>();
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("a key");
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth();
    // Not `with_single_cert`, which would look at what it is given.
    let key = rustls::crypto::ring::sign::any_supported_type(&key).expect("a key that can sign");
    let certified = rustls::sign::CertifiedKey::new(chain.expect("certificates"), key);
    Arc::new(config.with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified))))
}

/// The deadline of a handshake that comes to nothing.
const TIMEOUT_BROKEN: Duration = Duration::from_millis(1_500);

/// Least number of schemes that begin TLS, of all protocols together.
const SCHEMES_MIN: usize = 11;

/// An authority whose certificate is in a file, and the options by which it is trusted.
fn trusted() -> (Authority, TempDir, Mapping) {
    let (authority, dir) = (Authority::new(), scratch());
    let file = write(dir.path(), "ca.pem", &authority.pem()).display().to_string();
    let ca = Mapping::from_iter([(Value::from("ca"), Value::from(file))]);
    (authority, dir, Mapping::from_iter([(Value::from("tls"), Value::Mapping(ca))]))
}

/// Every scheme of the registry that begins TLS, in the role of a probe: found by looking whether it does.
fn secured(good: &Arc<ServerConfig>, with: &Mapping) -> Vec<Case> {
    let mut cases = Vec::new();
    for (protocol, role) in played().filter(|(_, role)| *role == Role::Probe) {
        for scheme in protocol.schemes {
            let mut case = Case::new(protocol, role, TURNS_MAX, Act::Good);
            case.scheme = scheme;
            case.plan.by_command = scheme.contains('+');
            case.plan.tls = Some(good.clone());
            case.with = with.clone();
            // What is waited for comes, if slowly: code that is not optimised makes handshakes.
            case.timeout = TIMEOUT_ALONE;
            // Where there is no TLS, its options are mistakes.
            let mut options = roles::options(protocol, role, scheme, "localhost:9", super::SECRET);
            if let Some(options) = options.as_mapping_mut() {
                options.extend(with.clone());
            }
            if roles::build(protocol, role, &options).is_ok() {
                cases.push(case);
            }
        }
    }
    let found: Vec<Case> = run_all(cases)
        .into_iter()
        .filter(|(_, ended)| ended.secured)
        .map(|(case, ended)| {
            assert_eq!(ended.observation().outcome, Outcome::Ok, "{}: {}", case.name(), ended.rendered());
            case
        })
        .collect();
    assert!(found.len() >= SCHEMES_MIN, "{:?}", found.iter().map(|c| c.scheme).collect::<Vec<_>>());
    found
}

#[test]
fn bad_certificates_are_told_exactly_by_every_scheme() {
    let (authority, dir, with) = trusted();
    let names = &["localhost"];
    let good = config(&authority.server(names, -1, 40));
    let table = [
        ("expired", authority.server(names, -30, -3), "the certificate expired 2 days ago, on "),
        ("not yet valid", authority.server(names, 3, 40), "the certificate is not valid before "),
        ("self-signed", self_signed(names, false), "the certificate is self-signed"),
        ("self-signed authority", self_signed(names, true), "the certificate is self-signed"),
        (
            "another authority's, of the same name",
            Authority::new().server(names, -1, 40),
            "the certificate is not signed by its issuer CN=bongsu test CA",
        ),
        (
            "for another name",
            authority.server(&["mx.example.com"], -1, 40),
            "the certificate is for mx.example.com, not for localhost",
        ),
        ("for clients", authority.client(names), "the certificate is not for use by a server"),
        (
            "weakly signed",
            by_openssl(&authority, &dir, "ec", "-sha1"),
            "the certificate's signature by CN=bongsu test CA cannot be checked: its algorithm does not fit",
        ),
    ];
    let mut cases = Vec::new();
    let mut expected = Vec::new();
    for (what, pair, text) in &table {
        for mut case in secured_by(&good, &with) {
            case.plan.tls = Some(config(pair));
            cases.push(case);
            expected.push((*what, *text));
        }
    }
    let count = cases.len();
    for ((case, ended), (what, text)) in run_all(cases).into_iter().zip(expected) {
        let name = format!("{} {what}", case.name());
        check(&case, &ended);
        let o = ended.observation();
        assert_eq!(o.outcome, Outcome::Failed, "{name}: {o:?}");
        let reason = o.reason.as_ref().expect("a failure has a reason");
        assert_eq!((reason.phase, reason.kind), (Phase::Tls, Kind::Certificate), "{name}: {reason:?}");
        assert!(reason.text.contains(text), "{name}: {reason:?}");
    }
    println!("{count} handshakes with bad certificates");
}

/// The cases are found once.
fn secured_by(good: &Arc<ServerConfig>, with: &Mapping) -> Vec<Case> {
    thread_local! { static FOUND: std::cell::OnceCell<Vec<Case>> = const { std::cell::OnceCell::new() }; }
    FOUND.with(|found| found.get_or_init(|| secured(good, with)).clone())
}

fn openssl(args: &[&str]) {
    let done = Command::new("openssl").args(args).output();
    let done = done.expect("openssl is installed; it is Debian's package openssl");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// What no certificate library of today makes: a certificate of this authority with such a key and digest.
fn by_openssl(authority: &Authority, dir: &TempDir, key: &str, digest: &str) -> Pair {
    let path = |name: &str| dir.path().join(name).display().to_string();
    write(dir.path(), "ca.pem", &authority.pem());
    write(dir.path(), "ca.key", &authority.key_pem());
    write(dir.path(), "san", "subjectAltName=DNS:localhost\nextendedKeyUsage=serverAuth\n");
    let (private, request, certificate) = (path("own.key"), path("own.csr"), path("own.pem"));
    let kind: &[&str] = if key == "ec" { &["-pkeyopt", "ec_paramgen_curve:P-256"] } else { &[] };
    let asked =
        ["req", "-new", "-newkey", key, "-nodes", "-subj", "/CN=localhost", "-keyout", &private, "-out", &request];
    openssl(&[&asked[..], kind].concat());
    openssl(&[
        "x509",
        "-req",
        "-in",
        &request,
        "-CA",
        &path("ca.pem"),
        "-CAkey",
        &path("ca.key"),
        digest,
        "-days",
        "30",
        "-extfile",
        &path("san"),
        "-out",
        &certificate,
    ]);
    let read = |file: &str| std::fs::read_to_string(file).expect("openssl has written it");
    Pair { certificate: read(&certificate), key: read(&private) }
}

#[test]
fn a_weak_key_is_told() {
    let (authority, dir, _) = trusted();
    // No server of ours would sign with it; OpenSSL's does.
    by_openssl(&authority, &dir, "rsa:1024", "-sha256");
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (ca, certificate, key) = (path("ca.pem"), path("own.pem"), path("own.key"));
    let port = free_port();
    let listen = format!("127.0.0.1:{port}");
    let args = [
        "s_server",
        "-accept",
        &listen,
        "-cert",
        &certificate,
        "-key",
        &key,
        "-cipher",
        "DEFAULT@SECLEVEL=0",
        "-quiet",
    ];
    let _server = Server::start("openssl", "openssl", &args, dir, ([127, 0, 0, 1], port).into());
    let seen = probe("tls", &format!("{{ url: \"tls://localhost:{port}\", tls: {{ ca: {ca} }} }}"));
    let reason = seen.reason();
    assert_eq!((reason.phase, reason.kind), (Phase::Tls, Kind::Certificate), "{seen:?}");
    assert!(reason.text.contains("its key is too weak, RSA of 1024 bits"), "{reason:?}");
}

#[test]
fn broken_handshakes_are_told_by_every_scheme() {
    let (authority, _dir, with) = trusted();
    let good = config(&authority.server(&["localhost"], -1, 40));
    let acts = [
        (Act::Silence, &[Kind::Timeout][..]),
        (Act::Drip, &[Kind::Handshake, Kind::Timeout]),
        (Act::Close, &[Kind::Closed]),
        (Act::Reset, &[Kind::Reset]),
        (Act::Garbage, &[Kind::Handshake]),
        (Act::EndlessGarbage, &[Kind::Handshake]),
        (Act::EndlessLine, &[Kind::Handshake]),
        (Act::TlsAlert, &[Kind::Handshake]),
        (Act::PlainText, &[Kind::Handshake]),
    ];
    let mut cases = Vec::new();
    for case in secured(&good, &with) {
        for (act, _) in acts {
            let mut case = case.clone();
            (case.plan.turn, case.plan.act, case.timeout) = (0, act, TIMEOUT_BROKEN);
            cases.push(case);
        }
    }
    let mut count = 0;
    for (case, ended) in run_all(cases) {
        let (_, kinds) = acts.iter().find(|(act, _)| *act == case.plan.act).expect("one of them");
        let fits = |ended: &Ended| case.plan.by_command || ended.kind().is_some_and(|kind| kinds.contains(&kind));
        let ended = settled(&case, ended, fits);
        check(&case, &ended);
        let (name, o) = (case.name(), ended.observation());
        assert_eq!(o.outcome, Outcome::Failed, "{name}: {o:?}");
        let reason = o.reason.as_ref().expect("a failure has a reason");
        // Those that begin TLS by a command turn at their greeting.
        if !case.plan.by_command {
            assert!(reason.phase == Phase::Tls || case.plan.act == Act::Reset, "{name}: {reason:?}");
            assert!(fits(&ended), "{name}: {reason:?}");
            count += 1;
        }
    }
    println!("{count} broken handshakes");
}
